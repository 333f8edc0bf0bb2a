//! What a Tidegate box does for itself (`first-boot`, `welcome`, `health`, `backup`, `factory-reset`), and
//! what writes cards and boards (`flash-sd`, `flash-esp32`).

mod backup;
mod factory_reset;
mod first_boot;
mod flash_esp32;
mod flash_sd;
mod health;
mod program;
mod welcome;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "tidegate-box", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what this box alone knows, if it is not there yet
    FirstBoot(first_boot::Args),
    /// Say on the screen how to reach the gateway
    Welcome(welcome::Args),
    /// Keep this system if the gateway is healthy, else return to the last that was
    Health(health::Args),
    /// Write an encrypted backup to a folder or over ssh
    Backup(backup::Args),
    /// Forget everything
    FactoryReset(factory_reset::Args),
    /// Write the gateway's image to an SD card
    FlashSd(flash_sd::Args),
    /// Build the firmware, provision a device's credentials, flash and monitor a board
    FlashEsp32(flash_esp32::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::FirstBoot(args) => first_boot::run(&args).map_err(|error| error.to_string()),
        Command::Welcome(args) => welcome::run(&args).map_err(|error| error.to_string()),
        Command::Health(args) => health::run(&args).map_err(|error| error.to_string()),
        Command::Backup(args) => backup::run(&args).map_err(|error| error.to_string()),
        Command::FactoryReset(args) => factory_reset::run(&args).map_err(|error| error.to_string()),
        Command::FlashSd(args) => flash_sd::run(&args).map_err(|error| error.to_string()),
        Command::FlashEsp32(args) => flash_esp32::run(&args).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("tidegate-box: {why}");
            ExitCode::FAILURE
        }
    }
}
