//! A board, from nothing to a device that talks: firmware built, credentials issued and written, monitor.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::{ProgramError, read, run as program};

/// Arguments of `flash-esp32`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device's id
    device: String,
    /// Its credentials, as `tidegate pki issue device ID --bundle-file` wrote them [default: issued
    /// now, by the gateway on this machine or by --gateway]
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Issue the credentials there, over ssh
    #[arg(long, value_name = "USER@HOST")]
    gateway: Option<String>,
    /// esp32, esp32c3, esp32c6 or esp32s3 [default: what the board says]
    #[arg(long)]
    chip: Option<String>,
    /// The serial port [default: the only one there is]
    #[arg(long)]
    port: Option<PathBuf>,
    /// The firmware, built already [default: built by Nix]
    #[arg(long)]
    firmware: Option<PathBuf>,
    /// The flake with the firmware
    #[arg(long, default_value = ".")]
    flake: String,
    /// The flash partition the credentials go to
    #[arg(long, default_value = "credentials")]
    partition: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not stay and show what the board says
    #[arg(long)]
    no_monitor: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FlashError {
    #[error("no serial port was found: plug the board in with a cable that carries data")]
    NoPort,
    #[error("there is more than one serial port: {0}. Name the board's with --port")]
    Ports(String),
    #[error("the firmware is not built for {0:?}; it is for {1}")]
    Chip(String, String),
    #[error("the board did not say which chip it has; name it with --chip")]
    UnknownChip,
    #[error("{0:?} is no device id: 1 to 64 of A-Z a-z 0-9 _ -")]
    Device(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Program(#[from] ProgramError),
}

const CHIPS: [&str; 4] = ["esp32", "esp32c3", "esp32c6", "esp32s3"];

pub(crate) fn run(args: &Args) -> Result<(), FlashError> {
    if !is_device_id(&args.device) {
        return Err(FlashError::Device(args.device.clone()));
    }
    let port = match &args.port {
        Some(port) => port.clone(),
        None => only_port(&ports(Path::new("/dev"))?)?,
    };
    let chip = match &args.chip {
        Some(chip) => chip.clone(),
        None if args.dry_run => "(what the board says)".to_owned(),
        None => chip_of(&read(
            Command::new("espflash")
                .args(["board-info", "--port"])
                .arg(&port),
        )?)?,
    };
    if !args.dry_run && !CHIPS.contains(&chip.as_str()) {
        return Err(FlashError::Chip(chip, CHIPS.join(", ")));
    }
    let firmware = args.firmware.clone();
    let plan = plan(args, &port, &chip);
    if args.dry_run {
        for step in &plan {
            println!("{step}");
        }
        return Ok(());
    }
    let elf = match firmware {
        Some(firmware) => firmware,
        None => {
            let attribute = format!("{}#firmware-{chip}", args.flake);
            let out = read(Command::new("nix").args([
                "build",
                "--no-link",
                "--print-out-paths",
                &attribute,
            ]))?;
            PathBuf::from(out.trim()).join(format!("tidegate-{chip}.elf"))
        }
    };
    let (bundle, issued) = credentials(args)?;
    let flashed = program(
        Command::new("espflash")
            .args(["flash", "--chip", &chip, "--port"])
            .arg(&port)
            .arg(&elf),
    )
    .and_then(|()| {
        program(
            Command::new("espflash")
                .args(["write-bin", "--chip", &chip, "--port"])
                .arg(&port)
                .arg(&args.partition)
                .arg(&bundle),
        )
    });
    if issued {
        // The device has them now, and nobody else should.
        fs::remove_file(&bundle).map_err(|source| FlashError::Io {
            path: bundle.clone(),
            source,
        })?;
    }
    flashed?;
    println!("{} is flashed on {}", args.device, port.display());
    if args.no_monitor {
        return Ok(());
    }
    Ok(program(
        Command::new("espflash")
            .args(["monitor", "--chip", &chip, "--port"])
            .arg(&port)
            .arg("--elf")
            .arg(&elf),
    )?)
}

/// What will be done, in words.
fn plan(args: &Args, port: &Path, chip: &str) -> Vec<String> {
    let firmware = args.firmware.as_ref().map_or_else(
        || format!("build {}#firmware-{chip}", args.flake),
        |path| format!("take the firmware {}", path.display()),
    );
    let credentials = match (&args.bundle, &args.gateway) {
        (Some(bundle), _) => format!("take the credentials {}", bundle.display()),
        (None, Some(gateway)) => format!("issue credentials for {} on {gateway}", args.device),
        (None, None) => format!("issue credentials for {} here", args.device),
    };
    let mut steps = vec![
        firmware,
        credentials,
        format!("flash {} ({chip}) with the firmware", port.display()),
        format!(
            "write the credentials to its partition \"{}\"",
            args.partition
        ),
    ];
    if !args.no_monitor {
        steps.push("show what it says".to_owned());
    }
    steps
}

/// The bundle as one file, and whether it was made here and now.
fn credentials(args: &Args) -> Result<(PathBuf, bool), FlashError> {
    if let Some(bundle) = &args.bundle {
        return Ok((bundle.clone(), false));
    }
    let file = PathBuf::from(format!("{}.tidegate.json", args.device));
    match &args.gateway {
        None => program(
            Command::new("tidegate")
                .args(["pki", "issue", "device", &args.device, "--bundle-file"])
                .arg(&file),
        )?,
        Some(gateway) => {
            // The id has nothing a shell would take for its own. On the gateway the file is the
            // service's, and is gone before the connection ends.
            let remote = format!(
                "set -e; umask 077; d=$(mktemp -d); chmod 0711 \"$d\"; run0 install -d -o tidegate \"$d/x\"; run0 tidegate pki issue device {0} --bundle-file \"$d/x/b\" >&2; run0 cat \"$d/x/b\"; run0 rm -r \"$d/x\"; rmdir \"$d\"",
                args.device
            );
            let bundle = read(Command::new("ssh").arg(gateway).arg(remote))?;
            write_private(&file, &bundle).map_err(|source| FlashError::Io {
                path: file.clone(),
                source,
            })?;
        }
    }
    Ok((file, true))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

fn is_device_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The serial ports boards show up as.
fn ports(dev: &Path) -> Result<Vec<PathBuf>, FlashError> {
    let entries = fs::read_dir(dev).map_err(|source| FlashError::Io {
        path: dev.to_owned(),
        source,
    })?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.starts_with("ttyACM") || name.starts_with("ttyUSB")
        })
        .collect();
    found.sort();
    Ok(found)
}

fn only_port(ports: &[PathBuf]) -> Result<PathBuf, FlashError> {
    match ports {
        [] => Err(FlashError::NoPort),
        [port] => Ok(port.clone()),
        ports => Err(FlashError::Ports(
            ports
                .iter()
                .map(|port| port.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        )),
    }
}

/// What `espflash board-info` calls the chip, in our spelling.
fn chip_of(info: &str) -> Result<String, FlashError> {
    info.lines()
        .find_map(|line| line.trim().strip_prefix("Chip type:"))
        .and_then(|rest| rest.split_whitespace().next())
        .map(|chip| chip.to_ascii_lowercase().replace('-', ""))
        .ok_or(FlashError::UnknownChip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_port_is_found_and_two_are_not_guessed_between() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            only_port(&ports(folder.path()).unwrap()),
            Err(FlashError::NoPort)
        ));
        for name in ["ttyS0", "ttyACM0", "null"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(
            only_port(&ports(folder.path()).unwrap()).unwrap(),
            folder.path().join("ttyACM0")
        );
        fs::write(folder.path().join("ttyUSB3"), "").unwrap();
        assert!(matches!(
            only_port(&ports(folder.path()).unwrap()),
            Err(FlashError::Ports(_))
        ));
    }

    #[test]
    fn the_board_says_which_chip_it_has() {
        assert_eq!(
            chip_of("Chip type:         esp32c3 (revision v0.4)\nFlash size: 4MB").unwrap(),
            "esp32c3"
        );
        assert_eq!(
            chip_of("Chip type: ESP32-S3 (revision v0.2)").unwrap(),
            "esp32s3"
        );
        assert!(matches!(chip_of("hello"), Err(FlashError::UnknownChip)));
    }

    #[test]
    fn ids_that_a_shell_would_take_apart_are_refused() {
        assert!(is_device_id("sensor_001"));
        for id in ["", "a b", "x;reboot", "$(x)", &"a".repeat(65)] {
            assert!(!is_device_id(id), "{id:?}");
        }
    }
}
