//! Nix itself: the one on the path, or Debian sid's in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Outcome, debian,
    shell::{cache, have, read, repository},
};

const SETTINGS: &str = "experimental-features = nix-command flakes
sandbox = false
build-users-group =
substitute = false
allow-import-from-derivation = false
warn-dirty = false";

/// The copy of this repository that Nix reads.
const SOURCE: &str = "flake-source";

/// A Nix that evaluates this flake with given trees in place of the pinned inputs, and builds nothing.
pub(crate) struct Nix {
    /// The folder Nix runs in, if it is not this machine's own.
    root: Option<PathBuf>,
    overrides: Vec<String>,
}

impl Nix {
    /// With the trees that `NIXPKGS` and `RUST_OVERLAY` name. `None` without `NIXPKGS`.
    pub(crate) fn from_environment() -> Outcome<Option<Self>> {
        let Some(nixpkgs) = std::env::var_os("NIXPKGS").map(PathBuf::from) else {
            return Ok(None);
        };
        if !nixpkgs.join("nixos/lib/eval-config.nix").is_file() {
            return Err(format!(
                "NIXPKGS={}: there is no nixpkgs tree",
                nixpkgs.display()
            ));
        }
        let root = if have("nix") {
            None
        } else {
            Some(
                debian::with_nix()?
                    .canonicalize()
                    .map_err(|error| error.to_string())?,
            )
        };
        let mut nix = Self {
            root,
            overrides: Vec::new(),
        };
        for (input, tree) in [
            ("nixpkgs", Some(nixpkgs)),
            (
                "rust-overlay",
                std::env::var_os("RUST_OVERLAY").map(PathBuf::from),
            ),
        ] {
            let Some(tree) = tree else { continue };
            if let Some(stored) = nix.stored(&tree) {
                nix.overrides.extend([
                    "--override-input".to_owned(),
                    input.to_owned(),
                    format!("path:{stored}"),
                ]);
                continue;
            }
            let seen = nix.show(&tree, input)?;
            // Copied into the store once; from there each evaluation takes seconds.
            let copied = nix
                .command(&["eval", "--raw", "--impure", "--expr"])
                .arg(format!(
                    "(builtins.fetchTree {{ type = \"path\"; path = \"{}\"; }}).outPath",
                    seen.display()
                ))
                .output()
                .map_err(|error| format!("nix: {error}"))?;
            if !copied.status.success() {
                return Err(String::from_utf8_lossy(&copied.stderr).into_owned());
            }
            let path = String::from_utf8_lossy(&copied.stdout).into_owned();
            nix.overrides.extend([
                "--override-input".to_owned(),
                input.to_owned(),
                format!("path:{path}"),
            ]);
        }
        nix.source()?;
        Ok(Some(nix))
    }

    /// The path in Nix's own store of a tree that is there already.
    fn stored(&self, tree: &Path) -> Option<String> {
        let below = tree
            .strip_prefix(self.root.as_deref().unwrap_or(Path::new("/")))
            .ok()?;
        below
            .starts_with("nix/store")
            .then(|| format!("/{}", below.display()))
    }

    /// Makes a folder visible where Nix runs, and says where.
    fn show(&self, folder: &Path, name: &str) -> Outcome<PathBuf> {
        let folder = folder
            .canonicalize()
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        match &self.root {
            None => Ok(folder),
            Some(root) => {
                debian::bind(&folder, &root.join(name))?;
                Ok(Path::new("/").join(name))
            }
        }
    }

    /// Copies what Git knows of (and would take) to where Nix reads it, without build results.
    fn source(&self) -> Outcome {
        let folder = self.root.clone().unwrap_or_else(cache).join(SOURCE);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let files = read(
            Command::new("git")
                .args(["ls-files", "--cached", "--others", "--exclude-standard"])
                .current_dir(repository()),
        )?;
        for file in files.lines() {
            let (from, to) = (repository().join(file), folder.join(file));
            // Deleted, and not yet committed so.
            if !from.is_file() {
                continue;
            }
            let parent = to.parent().unwrap_or(&folder);
            fs::create_dir_all(parent)
                .and_then(|()| fs::copy(&from, &to))
                .map_err(|error| format!("{}: {error}", to.display()))?;
        }
        Ok(())
    }

    fn flake(&self) -> String {
        match &self.root {
            None => format!("path:{}", cache().join(SOURCE).display()),
            Some(_) => format!("path:/{SOURCE}"),
        }
    }

    /// `nix` with arguments, set up to evaluate only.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.root {
            None => Command::new("nix"),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).args(["env", "NIX_REMOTE=", "nix"]);
                command
            }
        };
        command.env("NIX_CONFIG", SETTINGS).args(arguments);
        command
    }

    /// `nix` on an attribute of this flake.
    pub(crate) fn on_flake(&self, arguments: &[&str], attribute: &str, rest: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command
            .arg(format!("{}#{attribute}", self.flake()))
            .args(rest);
        command.arg("--no-write-lock-file").args(&self.overrides);
        command
    }

    /// An attribute as JSON, through a function in Nix.
    pub(crate) fn json(&self, attribute: &str, apply: &str) -> Outcome<Value> {
        let text = read(&mut self.on_flake(&["eval", "--json"], attribute, &["--apply", apply]))?;
        serde_json::from_str(&text).map_err(|error| format!("{attribute}: {error}"))
    }

    /// Every derivation that one needs, by its name in the store.
    pub(crate) fn derivations(&self, of: &str) -> Outcome<Value> {
        let text = read(self.command(&["derivation", "show", "-r"]).arg(of))?;
        serde_json::from_str(&text).map_err(|error| format!("{of}: {error}"))
    }

    /// `nix flake check --no-build` on everything for this machine's architecture.
    pub(crate) fn check(&self) -> Command {
        let mut command = self.command(&["flake", "check", "--no-build", "--no-write-lock-file"]);
        command.arg(self.flake()).args(&self.overrides);
        command
    }
}
