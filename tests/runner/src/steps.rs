//! The steps, in the order in which they run: cheap ones first.

use crate::{Failure, firmware, fuzz, install, nix, sh, sh_env};

/// How tests are run: quietly, what failed shown last; what fails on a busy machine is tried once more
/// and named in the closing lines.
pub(crate) const NEXTEST: [&str; 6] = [
    "--config-file=tests/nextest.toml",
    "--no-fail-fast",
    "--retries=1",
    "--cargo-quiet",
    "--status-level=slow",
    "--failure-output=final",
];

/// One thing that is checked.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn() -> Result<(), Failure>,
}

pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "install",
        what: "what the other steps need",
        run: install::everything,
    },
    Step {
        name: "fmt",
        what: "every file is formatted",
        run: || sh("cargo", &["fmt", "--all", "--check"]),
    },
    Step {
        name: "deny",
        what: "licences and sources of dependencies",
        run: || {
            sh(
                "cargo",
                &[
                    "deny",
                    "--log-level",
                    "error",
                    "check",
                    "bans",
                    "licenses",
                    "sources",
                ],
            )
        },
    },
    Step {
        name: "clippy",
        what: "no warnings",
        run: || {
            sh(
                "cargo",
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        },
    },
    Step {
        name: "no-std",
        what: "the wire crate builds for a chip without an operating system",
        run: || {
            sh("rustup", &["target", "add", "riscv32imc-unknown-none-elf"])?;
            sh(
                "cargo",
                &[
                    "check",
                    "-p",
                    "tidegate-wire",
                    "--target",
                    "riscv32imc-unknown-none-elf",
                ],
            )
        },
    },
    Step {
        name: "tests",
        what: "unit and property tests, and every user story against the real daemon",
        run: || {
            let python = std::path::absolute(install::python_path()).map_err(|e| e.to_string())?;
            let mut arguments = vec!["nextest", "run", "--workspace", "--all-features"];
            arguments.extend(NEXTEST);
            sh_env(
                "cargo",
                &arguments,
                &[("TIDEGATE_TEST_PYTHON", &python.to_string_lossy())],
            )
        },
    },
    Step {
        name: "fuzz",
        what: "the fuzz targets: their corpora, and some seconds of looking for more",
        run: fuzz::short,
    },
    Step {
        name: "firmware",
        what: "the device's application and the simulated device: licences, no warnings, tests",
        run: firmware::software,
    },
    Step {
        name: "boards",
        what: "the images for ESP32-C3, ESP32-C6 and QEMU: no warnings, and they fit",
        run: firmware::boards,
    },
    Step {
        name: "virt",
        what: "the device's image in QEMU against the real gateway",
        run: firmware::virt,
    },
    Step {
        name: "nix",
        what: "the box's Nix files, its lock, workflows and snapshots; with NIXPKGS, evaluated",
        run: nix::files,
    },
    Step {
        name: "appliance",
        what: "the box's rendered files and the real daemon in a Debian machine: every story, and a power cut",
        run: nix::appliance,
    },
    Step {
        name: "aarch64",
        what: "the daemon for the Pi: cross-built, and a message through it under qemu-user",
        run: nix::aarch64,
    },
    Step {
        name: "doc",
        what: "documentation builds without a broken link, and its examples run",
        run: || {
            sh_env(
                "cargo",
                &[
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                    "--quiet",
                ],
                &[("RUSTDOCFLAGS", "-D warnings")],
            )?;
            sh("cargo", &["test", "--workspace", "--doc", "--quiet"])
        },
    },
    Step {
        name: "demo",
        what: "the README's first command, with an outage, attacks and an update, ends as it should",
        run: || {
            sh(
                "cargo",
                &[
                    "run",
                    "--release",
                    "--",
                    "demo",
                    "--for",
                    "40s",
                    "--offline",
                    "8s",
                    "--attack",
                    "--update",
                ],
            )
        },
    },
];
