//! The command line: one file per subcommand.
//!
//! A subcommand that concerns the gateway's state asks the running gateway over its control socket
//! ([`crate::control`]); when none runs it opens the state itself, under the same lock, and carries
//! out the same operations ([`state`]).

mod backup;
mod check;
mod command;
mod completions;
mod config;
pub mod demo;
mod device;
pub mod exit;
mod firmware;
mod images;
mod key;
mod outbox;
pub mod output;
pub mod pki;
mod pki_command;
mod reload;
mod restore;
mod run;
mod secret;
mod state;
mod status;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{ConfigError, Loaded, Sources, load},
    control::{Code, Problem},
};
use exit::Exit;
use output::{Output, print};

/// What a bare `tidegate` says.
const WELCOME: &str = "Tidegate: a secure gateway between MQTT devices and HTTP backends.

  tidegate demo   see it work: a gateway, a backend and devices, nothing to configure
  tidegate run    start the gateway with /etc/tidegate/tidegate.toml

tidegate --help lists everything.
";

/// A secure IoT gateway: MQTT over mutual TLS in, verified and durable, HTTP out
///
/// Devices connect with client certificates and sign every message. What is accepted is on disk
/// before it is acknowledged and reaches the backend however long the way there is cut. Commands go
/// the other way, signed.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = exit::HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Configuration file [default: $TIDEGATE_CONFIG, else /etc/tidegate/tidegate.toml if it exists]
    ///
    /// Settings are taken from the defaults, then this file, then variables such as
    /// TIDEGATE_LIMITS__CONNECTIONS, then --set, each going before the one named earlier.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the gateway keeps its state [default: /var/lib/tidegate]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Change one setting, such as limits.connections=500 (repeatable)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print JSON, for programs; problems too, on standard error
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the gateway
    ///
    /// Makes its state folder, keys and certificates at the first start. SIGTERM stops it gracefully,
    /// a second one at once; SIGHUP reads the configuration again. Under systemd use Type=notify-reload.
    Run,
    /// See it work: a gateway, a backend and devices in one process, nothing to configure
    ///
    /// Its state is in ~/.local/state/tidegate/demo, or where --state-dir says; the next start goes on
    /// with it. Remove the folder to begin anew. Ctrl-C ends it with the ledger, a second one at once.
    Demo(demo::DemoArgs),
    /// Check the configuration
    Check(check::CheckArgs),
    /// Show how the gateway is: upstreams and what they are owed, devices, listeners
    Status(status::StatusArgs),
    /// Devices: who may speak
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Certificates: who may speak as a device, and who is the gateway
    Pki(pki::PkiArgs),
    /// Commands for devices
    #[command(subcommand)]
    Command(command::CommandCommand),
    /// Firmware: releases, who is to have them, and how far devices are
    #[command(subcommand)]
    Firmware(firmware::FirmwareCommand),
    /// API keys of backends
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Messages on their way to upstreams: those refused for good, and those that wait
    #[command(subcommand)]
    Outbox(outbox::OutboxCommand),
    /// Write everything the gateway knows to one file, also while it runs
    ///
    /// Database, keys, certificates and the images of published firmware releases.
    Backup(backup::BackupArgs),
    /// Start from a backup; the gateway must not run and its state folder must be empty
    Restore(restore::RestoreArgs),
    /// Have the running gateway read its configuration again
    Reload,
    /// Show settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// What every subcommand gets.
#[derive(Debug)]
struct Context {
    sources: Sources,
    output: Output,
}

impl Context {
    /// The configuration as all sources together say it.
    fn load(&self) -> Result<Loaded, Failed> {
        load(&self.sources).map_err(Failed::Configuration)
    }
}

/// Why a subcommand did not do what it should.
#[derive(Debug)]
enum Failed {
    Configuration(ConfigError),
    Problem(Problem),
    /// Everything has been said already.
    Said(Exit),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

type Ended = Result<(), Failed>;

/// Runs the program with its own arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os(), Sources::from_environment()).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>, mut sources: Sources) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
        }
    };
    let Global {
        config,
        state_dir,
        set,
        json,
    } = cli.global;
    sources.file = config;
    sources.state_dir = state_dir;
    sources.set = set;
    let context = Context {
        sources,
        output: Output { json },
    };
    let ended = match cli.command {
        None => print(WELCOME).map_err(Failed::from),
        Some(Action::Run) => run::run(&context),
        Some(Action::Demo(args)) => run::demo(&context, &args),
        Some(Action::Check(args)) => check::run(&context, &args),
        Some(Action::Status(args)) => status::run(&context, &args),
        Some(Action::Device(command)) => device::run(&context, command),
        Some(Action::Pki(args)) => pki_command::run(&context, args),
        Some(Action::Command(command)) => command::run(&context, command),
        Some(Action::Firmware(command)) => firmware::run(&context, command),
        Some(Action::Key(command)) => key::run(&context, command),
        Some(Action::Outbox(command)) => outbox::run(&context, command),
        Some(Action::Backup(args)) => backup::run(&context, &args),
        Some(Action::Restore(args)) => restore::run(&context, &args),
        Some(Action::Reload) => reload::run(&context),
        Some(Action::Config(command)) => config::run(&context, &command),
        Some(Action::Completions(args)) => completions::run(&args, Cli::command()),
    };
    match ended {
        Ok(()) => Exit::Ok,
        Err(Failed::Said(exit)) => exit,
        Err(Failed::Problem(problem)) => context.output.problem(&problem),
        Err(Failed::Configuration(error)) => configuration(&context, &error),
    }
}

fn configuration(context: &Context, error: &ConfigError) -> Exit {
    if context.output.json {
        let json = serde_json::json!({
            "problem": { "code": Code::Config, "message": error.to_string(), "remedy": "" },
            "settings": error.problems,
        });
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{json}\n").as_bytes());
        return Exit::Config;
    }
    context
        .output
        .problem(&Problem::new(Code::Config, error.to_string(), ""))
}

#[cfg(test)]
mod tests;
