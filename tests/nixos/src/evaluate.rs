//! Everything that evaluation can tell, with a nixpkgs tree.

use std::time::Instant;

use serde_json::Value;

use crate::{
    Outcome,
    nix::Nix,
    options,
    render::{self, CONFIGURATIONS, folder},
    shell::{output, run as shell},
    snapshot::Snapshot,
};

/// Derivations beside those `flake check` looks at, that must evaluate.
const ALSO: &[&str] = &[
    "packages.x86_64-linux.sd-image",
    "packages.x86_64-linux.tidegate-aarch64",
    "packages.x86_64-linux.firmware-esp32",
    "packages.x86_64-linux.firmware-esp32s3",
    "packages.x86_64-linux.sbom",
    "nixosConfigurations.gateway.config.system.build.toplevel",
    "nixosConfigurations.gateway-vm.config.system.build.vm",
    "devShells.x86_64-linux.default",
];

/// What `flake check --all-systems` would look at as well: each set by a process of its own, as one
/// process for everything takes more memory than many machines have.
const OTHER_SYSTEM: &[&str] = &["checks.aarch64-linux", "packages.aarch64-linux"];

/// Everything, with a given Nix.
fn run_with(nix: &Nix) -> Outcome {
    let mut failed = Vec::new();
    let mut timed = |what: &str, done: &mut dyn FnMut() -> Outcome| {
        let started = Instant::now();
        let outcome = done();
        println!("{:>6.1} s  {what}", started.elapsed().as_secs_f64());
        if let Err(why) = outcome {
            println!("{why}");
            failed.push(what.to_owned());
        }
    };
    timed("flake check --no-build", &mut || shell(&mut nix.check()));
    for set in OTHER_SYSTEM {
        timed(set, &mut || {
            let found = nix.json(set, "builtins.mapAttrs (_: each: each.drvPath)")?;
            match found.as_object().map_or(0, serde_json::Map::len) {
                0 => Err("is empty".to_owned()),
                count => {
                    println!("{count} derivations");
                    Ok(())
                }
            }
        });
    }
    for attribute in ALSO {
        timed(attribute, &mut || {
            let mut command =
                nix.on_flake(&["eval", "--raw"], &format!("{attribute}.drvPath"), &[]);
            let output = output(&mut command)?;
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }
    timed("options", &mut || options::compare(nix));
    timed("mistakes", &mut || mistakes(nix));
    for configuration in CONFIGURATIONS {
        timed(&format!("snapshot of {configuration}"), &mut || {
            compare(nix, configuration)
        });
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

/// The command `evaluate`, or a plain word that it could not run.
pub(crate) fn run() -> Outcome {
    let Some(nix) = Nix::from_environment()? else {
        println!(
            "!!! NOT RUN: evaluation and what must be refused, because NIXPKGS is not set. Set it to a nixpkgs tree (and RUST_OVERLAY to one of rust-overlay)."
        );
        return Ok(());
    };
    run_with(&nix)
}

/// Every configuration of `nixos/tests/mistakes.nix` is refused, in the words it names.
fn mistakes(nix: &Nix) -> Outcome {
    let all = nix.json("mistakes", "builtins.mapAttrs (_: m: { inherit (m) kind says outcome; messages = m.messages or [ ]; })")?;
    let mut wrong = Vec::new();
    for (name, mistake) in all.as_object().into_iter().flatten() {
        let says: Vec<&str> = mistake["says"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let message = if mistake["kind"] == "throws" {
            let output = output(&mut nix.on_flake(
                &["eval", "--raw"],
                &format!("mistakes.{name}.throws"),
                &[],
            ))?;
            if output.status.success() {
                wrong.push(format!("{name} is accepted"));
                continue;
            }
            String::from_utf8_lossy(&output.stderr).into_owned()
        } else {
            mistake["messages"].to_string()
        };
        if mistake["outcome"] != "refused" {
            wrong.push(format!("{name}: {} ({message})", mistake["outcome"]));
        }
        wrong.extend(
            says.iter()
                .filter(|word| !message.contains(**word))
                .map(|word| format!("{name}: the message does not say {word:?}:\n{message}")),
        );
    }
    println!(
        "{} mistakes",
        all.as_object().map_or(0, serde_json::Map::len)
    );
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

fn compare(nix: &Nix, configuration: &str) -> Outcome {
    let kept = Snapshot::load(&folder(configuration))?;
    let differences = kept.differences(&render::evaluate(nix, configuration)?);
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the snapshot of {configuration} is not what evaluation says now; `cargo run -p nixos-checks -- render` writes it anew, to be looked at and committed:\n  {}",
        differences.join("\n  ")
    ))
}
