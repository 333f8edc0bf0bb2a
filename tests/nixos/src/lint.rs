//! What can be said of the Nix files and workflows without a nixpkgs tree.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    Outcome,
    render::{CONFIGURATIONS, folder},
    shell,
    shell::{have, repository},
    snapshot::{Snapshot, hash, references, walk},
};

/// The command `lint`.
pub(crate) fn run() -> Outcome {
    for tool in ["nixfmt", "statix", "deadnix", "actionlint"] {
        if !have(tool) {
            return Err(format!("{tool} is not installed"));
        }
    }
    let mut files = vec![repository().join("flake.nix")];
    files.extend(
        walk(&repository().join("nixos"))?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "nix")),
    );
    let mut failed = Vec::new();
    let mut check = |command: &mut Command| {
        if let Err(why) = shell::run(command.current_dir(repository())) {
            failed.push(why);
        }
    };
    // nixfmt parses before it formats: a file it passes is a file Nix can read.
    check(Command::new("nixfmt").arg("--check").args(&files));
    check(Command::new("statix").args(["check", "flake.nix"]));
    check(Command::new("statix").args(["check", "nixos"]));
    check(Command::new("deadnix").arg("--fail").args(&files));
    check(Command::new("actionlint").args(["-no-color"]));
    failed.extend(lock(&repository().join("flake.lock")));
    failed.extend(snapshots());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

/// Every input is pinned by content, is one of those we know, and follows where it should.
fn lock(path: &Path) -> Option<String> {
    let problem = |why: &str| Some(format!("flake.lock: {why}"));
    let Ok(text) = std::fs::read_to_string(path) else {
        return problem("cannot be read");
    };
    let Ok(lock) = serde_json::from_str::<Value>(&text) else {
        return problem("is not JSON");
    };
    if lock["version"] != 7 {
        return problem("is not of version 7");
    }
    let nodes = lock["nodes"].as_object()?;
    for (name, node) in nodes.iter().filter(|(name, _)| *name != "root") {
        let locked = &node["locked"];
        let revision = locked["rev"].as_str().unwrap_or_default();
        if revision.len() != 40 || !revision.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return problem(&format!("{name} is not pinned to a revision"));
        }
        if !locked["narHash"]
            .as_str()
            .is_some_and(|hash| hash.starts_with("sha256-") && hash.len() == 51)
        {
            return problem(&format!("{name} is not pinned by its content"));
        }
        if !locked["lastModified"].is_u64() {
            return problem(&format!("{name} has no date"));
        }
    }
    if nodes.len() != 3 || lock["nodes"]["rust-overlay"]["inputs"]["nixpkgs"][0] != "nixpkgs" {
        return problem("there should be nixpkgs, and rust-overlay following it, and nothing else");
    }
    None
}

/// The snapshots are whole: every path that a text names is a text or a package that is listed.
fn snapshots() -> Vec<String> {
    let mut problems = Vec::new();
    for configuration in CONFIGURATIONS {
        match Snapshot::load(&folder(configuration)) {
            Err(why) => problems.push(why),
            Ok(snapshot) => {
                for (path, text) in &snapshot.texts {
                    for reference in references(&text.content) {
                        if !snapshot.texts.contains_key(&reference)
                            && !snapshot.packages.contains(&reference)
                        {
                            problems.push(format!(
                                "{configuration}: {path} names {reference}, which is not there"
                            ));
                        }
                    }
                }
                problems.extend(altered(configuration, &snapshot));
            }
        }
    }
    problems
}

/// Texts whose names are not those of their content: somebody edited them.
fn altered(configuration: &str, snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .texts
        .iter()
        .filter(|(path, text)| !path.contains(&hash(&text.content)))
        .map(|(path, _)| format!("{configuration}: {path} was changed by hand; render it anew"))
        .collect()
}
