//! The box: what `tests/nixos` checks of it, see `nixos/README.md`.

use crate::{Failure, sh};

/// Form of the Nix files, flake.lock, workflows, snapshots; with `NIXPKGS`, everything evaluated.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn files() -> Result<(), Failure> {
    checks("lint")?;
    checks("evaluate")
}

/// The rendered files in the hands of the programs that read them, and then of a Debian machine in QEMU.
///
/// # Errors
/// The stories that do not hold there.
pub(crate) fn appliance() -> Result<(), Failure> {
    checks("programs")?;
    checks("vm")
}

/// The daemon built for the Pi, and a message through it.
///
/// # Errors
/// When it cannot be built, or does not do as the other one does.
pub(crate) fn aarch64() -> Result<(), Failure> {
    checks("cross")
}

fn checks(command: &str) -> Result<(), Failure> {
    sh(
        "cargo",
        &["run", "--quiet", "--package", "nixos-checks", "--", command],
    )
}
