//! Writes the snapshots, from a nixpkgs tree.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

use crate::{
    Outcome,
    nix::Nix,
    options,
    shell::{read, repository},
    snapshot::Snapshot,
};

/// The configurations of `nixos/tests/rendered.nix`.
pub(crate) const CONFIGURATIONS: [&str; 3] = ["box", "full", "gateway"];

/// Where a configuration's snapshot is kept.
pub(crate) fn folder(configuration: &str) -> PathBuf {
    repository()
        .join("nixos/tests/snapshots")
        .join(configuration)
}

/// What evaluation says now.
pub(crate) fn evaluate(nix: &Nix, configuration: &str) -> Outcome<Snapshot> {
    let rendered = nix.json(&format!("rendered.{configuration}"), "rendered: rendered")?;
    let toplevel = rendered["toplevel"]
        .as_str()
        .ok_or("rendered has no toplevel")?
        .to_owned();
    Snapshot::gather(&rendered, &nix.derivations(&toplevel)?)
}

/// The command `render`.
pub(crate) fn run() -> Outcome {
    let nix = Nix::from_environment()?.ok_or("set NIXPKGS to a nixpkgs tree to render with")?;
    options::render(&nix)?;
    let origin = origin()?;
    for configuration in CONFIGURATIONS {
        let snapshot = evaluate(&nix, configuration)?;
        snapshot.store(&folder(configuration), &origin)?;
        println!(
            "{configuration}: {} files, {} texts, {} packages",
            snapshot.files.len(),
            snapshot.texts.len(),
            snapshot.packages.len()
        );
    }
    Ok(())
}

/// One line on where the snapshots come from: the tree at hand and the lock it stands in for.
fn origin() -> Outcome<String> {
    let tree = std::env::var("NIXPKGS").unwrap_or_default();
    let version =
        std::fs::read_to_string(PathBuf::from(&tree).join("lib/.version")).unwrap_or_default();
    let commit =
        read(Command::new("git").args(["-C", &tree, "rev-parse", "HEAD"])).unwrap_or_default();
    let lock = std::fs::read_to_string(repository().join("flake.lock"))
        .map_err(|error| format!("flake.lock: {error}"))?;
    let lock: Value =
        serde_json::from_str(&lock).map_err(|error| format!("flake.lock: {error}"))?;
    let locked = lock["nodes"]["nixpkgs"]["locked"]["rev"]
        .as_str()
        .unwrap_or("?");
    let commit = match commit.trim() {
        "" => "a tree without history".to_owned(),
        commit => format!("commit {commit}"),
    };
    Ok(format!(
        "Rendered by `cargo run -p nixos-checks -- render`, never by hand, with nixpkgs {} ({commit}) in place of the locked {locked}.\n",
        version.trim()
    ))
}
