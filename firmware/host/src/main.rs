//! The device on the host: one to play with, or thousands as load.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_host::{Bundle, Kind, Simulation};

/// A Tidegate device on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The device's bundle, a folder or a file, as `tidegate pki` issues it.
    #[arg(long, value_name = "BUNDLE")]
    device: PathBuf,
    /// What is wired to it.
    #[arg(long, value_enum, default_value = "dashboard")]
    profile: Kind,
    /// Folder for its flash, so that it outlasts this program; in memory without.
    #[arg(long, value_name = "DIR")]
    flash: Option<PathBuf>,
    /// Seconds between readings, if not the profile's.
    #[arg(long, value_name = "S")]
    interval: Option<u64>,
    /// Address of the gateway, if its name is in no DNS.
    #[arg(long, value_name = "IP")]
    gateway: Option<IpAddr>,
    /// Log everything.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.verbose { log::Level::Trace } else { log::Level::Info };
    tidegate_host::log::Terminal::install(level);
    match live(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn live(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let simulation = Simulation {
        bundle: Bundle::read(&arguments.device)?,
        kind: arguments.profile,
        flash: arguments.flash,
        interval: arguments.interval.map(Duration::from_secs),
        gateway: arguments.gateway,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(tidegate_host::live::play(&simulation))?)
}
