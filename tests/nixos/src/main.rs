//! Checks of the NixOS side.
//!
//! `lint` and `snapshots` need nothing; `evaluate` and `render` need a nixpkgs tree, in `NIXPKGS`; `vm`
//! boots a Debian guest that runs the rendered files, and `guest` is its other half, inside. `cross`
//! builds for the Pi and runs the result under qemu-user.

mod cross;
mod debian;
mod evaluate;
mod guest;
mod lint;
mod mapping;
mod nix;
mod options;
mod programs;
mod render;
mod shell;
mod snapshot;
mod vm;

use std::{
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::{Command, ExitCode},
};

use clap::{Parser, Subcommand};

/// What can go wrong, in words.
pub(crate) type Outcome<T = ()> = Result<T, String>;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    check: Check,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Parse every Nix file, look at their form (nixfmt, statix, deadnix), at flake.lock and at the
    /// workflows (actionlint)
    Lint,
    /// Evaluate everything with the nixpkgs tree in NIXPKGS, and compare with the snapshots
    Evaluate,
    /// Write the snapshots and the list of options anew, with the nixpkgs tree in NIXPKGS
    Render,
    /// Have systemd, nft, nginx and chronyd check the snapshots
    Programs,
    /// Boot a Debian guest with the snapshots and the real daemon, and run the whole flow in it
    Vm(vm::VmArgs),
    /// Build for aarch64 and run a short flow under qemu-user
    Cross,
    /// The other half of `vm`, inside the guest
    #[command(hide = true, subcommand)]
    Guest(guest::GuestCommand),
}

/// Says that this process has mounts of its own.
const OWN_MOUNTS: &str = "NIXOS_CHECKS_OWN_MOUNTS";

/// Starts this program again with mounts of its own, which end when it ends, however it ends. One left
/// behind would lead whoever deletes this repository into the folders that were shown to a tree in it.
fn with_own_mounts() -> Outcome {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    // Who is not root mounts nothing.
    if !root || std::env::var_os(OWN_MOUNTS).is_some() {
        return Ok(());
    }
    shell::need(&["unshare"], &["util-linux"])?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(OWN_MOUNTS, "1")
        .exec();
    Err(format!("unshare: {error}"))
}

fn main() -> ExitCode {
    let check = Cli::parse().check;
    let alone = match check {
        Check::Lint | Check::Guest(_) => Ok(()),
        _ => with_own_mounts(),
    };
    let done = alone.and_then(|()| match check {
        Check::Lint => lint::run(),
        Check::Evaluate => evaluate::run(),
        Check::Render => render::run(),
        Check::Programs => programs::run(),
        Check::Vm(args) => vm::run(&args),
        Check::Cross => cross::run(),
        Check::Guest(command) => guest::run(command),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("nixos-checks: {why}");
            ExitCode::FAILURE
        }
    }
}
