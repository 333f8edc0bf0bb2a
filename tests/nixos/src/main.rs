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

use std::process::ExitCode;

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

fn main() -> ExitCode {
    let done = match Cli::parse().check {
        Check::Lint => lint::run(),
        Check::Evaluate => evaluate::run(),
        Check::Render => render::run(),
        Check::Programs => programs::run(),
        Check::Vm(args) => vm::run(&args),
        Check::Cross => cross::run(),
        Check::Guest(command) => guest::run(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("nixos-checks: {why}");
            ExitCode::FAILURE
        }
    }
}
