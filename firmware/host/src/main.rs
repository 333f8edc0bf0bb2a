//! The device on the host: one to play with, or thousands as load.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidegate_app::credentials::{Wifi, image};
use tidegate_host::load::{self, Mode, Options};
use tidegate_host::simulate::BUFFER;
use tidegate_host::virt_image::virt_image;
use tidegate_host::{Behaviour, Bundle, Firmware, Kind, Simulation, Watcher};

/// Tidegate devices on this machine.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    live: Option<Live>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Thousands of lean devices
    Load(Load),
    /// The image of a device's credentials partition, to be flashed
    Image(Image),
    /// A firmware image for simulated devices, or for QEMU's board, to try updates with
    Firmware(FirmwareImage),
}

/// One device, live.
#[derive(Debug, Args)]
struct Live {
    /// The device's bundle, a folder or a file, as `tidegate pki` issues it
    #[arg(long, value_name = "BUNDLE")]
    device: PathBuf,
    /// What is wired to it
    #[arg(long, value_enum, default_value = "dashboard")]
    profile: Kind,
    /// Folder for its flash, so that it outlasts this program; in memory without
    #[arg(long, value_name = "DIR")]
    flash: Option<PathBuf>,
    /// Seconds between readings, if not the profile's
    #[arg(long, value_name = "S")]
    interval: Option<u64>,
    /// Address of the gateway, if its name is in no DNS
    #[arg(long, value_name = "IP")]
    gateway: Option<IpAddr>,
    /// Log everything
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Args)]
struct Load {
    /// Folder with a bundle for each device
    #[arg(long, value_name = "DIR")]
    bundles: PathBuf,
    /// How many devices [default: one for each bundle]
    #[arg(long)]
    devices: Option<usize>,
    /// Messages in flight for each device
    #[arg(long, default_value_t = 64)]
    window: u16,
    /// Bytes of a payload
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// 0 or 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Messages a second in all, at a fixed rate [default: as many as the window allows]
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    duration: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Where messages go; {id} is the device's
    #[arg(long, default_value = "device/{id}/data")]
    topic: String,
    /// How messages are signed: v2, or v1 as the oldest devices do
    #[arg(long, default_value = "v2", value_parser = ["v1", "v2"])]
    signature: String,
    /// Seconds before and after now that timestamps are spread over
    #[arg(long, default_value_t = 0, value_name = "S")]
    spread: u64,
    /// A message is done with the backend's reply: an object with the message's `n`
    #[arg(long)]
    responses: bool,
    /// End when each device has sent this many
    #[arg(long, value_name = "COUNT")]
    messages: Option<u64>,
    /// Where to connect to [default: what the bundles say]
    #[arg(long, value_name = "ADDRESS")]
    target: Option<SocketAddr>,
    /// Without TLS
    #[arg(long)]
    plain: bool,
    /// Connect and stay, to measure memory
    #[arg(long, conflicts_with_all = ["rate", "handshakes"])]
    connections_only: bool,
    /// Connect and disconnect over and over
    #[arg(long, value_enum, conflicts_with = "rate")]
    handshakes: Option<Handshakes>,
    /// Write the report as JSON here as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Handshakes {
    Full,
    Resumed,
}

#[derive(Debug, Args)]
struct Image {
    /// The device's bundle
    #[arg(long, value_name = "BUNDLE")]
    device: PathBuf,
    /// Name of the Wi-Fi network
    #[arg(long)]
    ssid: Option<String>,
    /// File with the network's passphrase, which has no place in a shell's history
    #[arg(long, value_name = "FILE", requires = "ssid")]
    passphrase_file: Option<PathBuf>,
    /// Port of the gateway's NTP server
    #[arg(long)]
    ntp_port: Option<u16>,
    /// Port of the gateway's update server
    #[arg(long, value_name = "PORT")]
    update_port: Option<u16>,
    /// Size of the partition in bytes
    #[arg(long, default_value_t = 16 * 1024)]
    size: usize,
    /// Where to write it; only its owner may read it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct FirmwareImage {
    /// Its version, such as 1.1.0
    #[arg(long, required_unless_present = "elf")]
    version: Option<String>,
    /// Of QEMU's board: the program, as it was linked, which knows its version itself
    #[arg(long, value_name = "FILE", conflicts_with = "version")]
    elf: Option<PathBuf>,
    /// Its security version
    #[arg(long, default_value_t = 0)]
    security_version: u32,
    /// What it does once it runs
    #[arg(long, value_enum, default_value = "healthy")]
    behaviour: Behaviour,
    /// Bytes of it
    #[arg(long, default_value_t = 64 * 1024)]
    size: usize,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (arguments.command, arguments.live) {
        (Some(Command::Load(load)), _) => generate(load),
        (Some(Command::Image(image)), _) => provision(&image),
        (Some(Command::Firmware(firmware)), _) => write_firmware(firmware),
        (None, Some(device)) => live(device),
        (None, None) => Err("give --device <BUNDLE>, or a command: see --help".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn live(arguments: Live) -> Result<(), Failure> {
    let level = if arguments.verbose {
        log::Level::Trace
    } else {
        log::Level::Info
    };
    tidegate_host::log::Terminal::install(level);
    let simulation = Simulation {
        bundle: Bundle::read(&arguments.device)?,
        kind: arguments.profile,
        flash: arguments.flash,
        buffer_pages: BUFFER,
        interval: arguments.interval.map(Duration::from_secs),
        gateway: arguments.gateway,
        watcher: Watcher::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(tidegate_host::live::play(&simulation))?)
}

fn generate(arguments: Load) -> Result<(), Failure> {
    let bundles = load::bundles(&arguments.bundles)?;
    let options = Options {
        mode: match (
            arguments.rate,
            arguments.connections_only,
            arguments.handshakes,
        ) {
            (_, true, _) => Mode::Idle,
            (_, _, Some(Handshakes::Full)) => Mode::Handshakes { resume: false },
            (_, _, Some(Handshakes::Resumed)) => Mode::Handshakes { resume: true },
            (Some(rate), ..) => Mode::Rate(rate),
            (None, ..) => Mode::Max,
        },
        devices: arguments.devices.unwrap_or(bundles.len()),
        bundles,
        target: arguments.target,
        plain: arguments.plain,
        window: arguments.window,
        size: arguments.size,
        qos: arguments.qos,
        topic: arguments.topic,
        signature: match arguments.signature.as_str() {
            "v1" => tidegate_wire::Version::V1,
            _ => tidegate_wire::Version::V2,
        },
        spread: Duration::from_secs(arguments.spread),
        responses: arguments.responses,
        messages: arguments.messages,
        duration: Duration::from_secs(arguments.duration),
        warmup: Duration::from_secs(arguments.warmup),
        threads: arguments.threads,
    };
    let report = load::run(&options)?;
    print!("{report}");
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

fn provision(arguments: &Image) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let passphrase = match &arguments.passphrase_file {
        Some(path) => std::fs::read_to_string(path)?
            .trim_end_matches('\n')
            .to_owned(),
        None => String::new(),
    };
    let wifi = arguments.ssid.as_ref().map(|ssid| Wifi {
        ssid: ssid.clone(),
        passphrase: passphrase.into(),
    });
    let mut credentials = Bundle::read(&arguments.device)?.credentials(wifi)?;
    if let Some(port) = arguments.ntp_port {
        credentials.gateway.ntp_port = port;
    }
    if let Some(port) = arguments.update_port {
        credentials.gateway.update_port = port;
    }
    let mut bytes = image(&credentials, arguments.size)?;
    // The whole partition: what an earlier device left there goes.
    bytes.resize(arguments.size, 0xff);
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&arguments.out)?
        .write_all(&bytes)?;
    Ok(())
}

fn write_firmware(arguments: FirmwareImage) -> Result<(), Failure> {
    let image = match (arguments.elf, arguments.version) {
        (Some(elf), _) => {
            let crashes = match arguments.behaviour {
                Behaviour::Healthy => false,
                Behaviour::CrashesAtStart => true,
                _ => return Err("a program can be healthy or crashes-at-start".into()),
            };
            virt_image(&std::fs::read(elf)?, crashes)?
        }
        (None, version) => Firmware {
            version: version.unwrap_or_default(),
            security_version: arguments.security_version,
            behaviour: arguments.behaviour,
            only_on: None,
        }
        .image(arguments.size),
    };
    Ok(std::fs::write(arguments.out, image)?)
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "must be a number above 0".into())
}
