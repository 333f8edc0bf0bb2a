//! Snapshots: what evaluation says the box runs with, kept as files.
//!
//! Below `nixos/tests/snapshots/<configuration>`:
//!
//! - `index.json`: where each file is on the machine, and the store path it comes from; what starts the
//!   units; users and tmpfiles' lines; the packages that the texts name;
//! - `store/`: every text that follows from those, under its path in the store;
//! - `ORIGIN`: the trees it was rendered with.
//!
//! Hashes in store paths depend on every byte of every input, compilers included. Here a text's hash is
//! that of its own (rewritten) content and a package's is zeros: the same configuration gives the same
//! snapshot with any commit of this repository, and the files are still verbatim but for these names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Outcome;

const STORE: &str = "/nix/store/";
const HASH: usize = 32;
/// The alphabet of Nix's base 32.
const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// One text derivation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Text {
    pub(crate) content: String,
    /// Where in the output it is; empty: the output itself.
    pub(crate) destination: String,
    pub(crate) executable: bool,
}

/// A whole snapshot in memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Snapshot {
    /// Place on the machine, to path in the store.
    pub(crate) files: BTreeMap<String, String>,
    /// Path in the store, to text.
    pub(crate) texts: BTreeMap<String, Text>,
    pub(crate) packages: BTreeSet<String>,
    /// Unit, to `wantedBy` and `requiredBy`.
    pub(crate) starts: Value,
    pub(crate) users: Value,
    pub(crate) tmpfiles: Value,
}

/// The store paths in a text: `/nix/store/<hash>-<name>`.
pub(crate) fn references(text: &str) -> BTreeSet<String> {
    text.match_indices(STORE)
        .filter_map(|(start, _)| {
            let rest = text.get(start + STORE.len()..)?;
            let hash = rest
                .get(..HASH)
                .filter(|hash| hash.bytes().all(|byte| DIGITS.contains(&byte)))?;
            let name = rest.get(HASH..)?;
            let end = name
                .find(|c: char| !(c.is_ascii_alphanumeric() || "+-._?=".contains(c)))
                .unwrap_or(name.len());
            let name = name
                .get(..end)
                .filter(|name| name.starts_with('-') && name.len() > 1)?;
            Some(format!("{STORE}{hash}{name}"))
        })
        .collect()
}

/// What stands for the hash of a text's store path.
pub(crate) fn hash(content: &str) -> String {
    Sha256::digest(content)
        .iter()
        .filter_map(|byte| DIGITS.get(usize::from(byte % 32)).copied().map(char::from))
        .collect()
}

fn name_of(path: &str) -> &str {
    path.get(STORE.len() + HASH + 1..).unwrap_or(path)
}

impl Snapshot {
    /// From what `rendered.<configuration>` evaluates to, and `nix derivation show -r`.
    pub(crate) fn gather(rendered: &Value, derivations: &Value) -> Outcome<Self> {
        let known = outputs(derivations);
        let mut gathering = Gathering {
            known: &known,
            renamed: BTreeMap::new(),
            snapshot: Self::default(),
        };
        let files = rendered["files"]
            .as_object()
            .ok_or("rendered has no files")?;
        let mut places = BTreeMap::new();
        for (place, source) in files {
            let source = source
                .as_str()
                .ok_or_else(|| format!("{place} has no source"))?;
            let base = references(source)
                .into_iter()
                .next()
                .ok_or_else(|| format!("{source} is no store path"))?;
            if !known.contains_key(&base) {
                return Err(format!(
                    "{place} ({source}) is not a text: it cannot be shown without building it"
                ));
            }
            let renamed = gathering.rename(&base, &mut Vec::new())?;
            places.insert(place.clone(), source.replace(&base, &renamed));
        }
        let mut snapshot = gathering.snapshot;
        snapshot.files = places;
        snapshot.starts = rendered["starts"].clone();
        snapshot.users = rendered["users"].clone();
        snapshot.tmpfiles = rendered["tmpfiles"].clone();
        Ok(snapshot)
    }

    /// Reads one from its folder.
    pub(crate) fn load(folder: &Path) -> Outcome<Self> {
        let at =
            |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let index = folder.join("index.json");
        let text = fs::read_to_string(&index).map_err(|error| at(&index, &error))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| at(&index, &error))?;
        let mut snapshot = Self {
            starts: value["starts"].clone(),
            users: value["users"].clone(),
            tmpfiles: value["tmpfiles"].clone(),
            ..Self::default()
        };
        for (place, source) in value["files"].as_object().into_iter().flatten() {
            snapshot.files.insert(
                place.clone(),
                source.as_str().unwrap_or_default().to_owned(),
            );
        }
        for package in value["packages"].as_array().into_iter().flatten() {
            snapshot
                .packages
                .insert(package.as_str().unwrap_or_default().to_owned());
        }
        for path in walk(&folder.join("store"))? {
            let relative = path
                .strip_prefix(folder.join("store"))
                .map_err(|error| at(&path, &error))?;
            let mut parts = relative.to_string_lossy().into_owned();
            let destination = parts
                .find('/')
                .map(|slash| parts.split_off(slash))
                .unwrap_or_default();
            let content = fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
            let executable = fs::metadata(&path)
                .map_err(|error| at(&path, &error))?
                .permissions()
                .mode()
                & 0o111
                != 0;
            snapshot.texts.insert(
                format!("{STORE}{parts}"),
                Text {
                    content,
                    destination,
                    executable,
                },
            );
        }
        Ok(snapshot)
    }

    /// Writes it to its folder, replacing what was there.
    pub(crate) fn store(&self, folder: &Path, origin: &str) -> Outcome {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| format!("{}: {error}", path.display())
        };
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(at(folder))?;
        }
        for (path, text) in &self.texts {
            let target = folder
                .join("store")
                .join(path.trim_start_matches(STORE).to_owned() + &text.destination);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            fs::write(&target, &text.content).map_err(at(&target))?;
            let mode = if text.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(at(&target))?;
        }
        let index = json!({
            "files": self.files, "packages": self.packages, "starts": self.starts,
            "tmpfiles": self.tmpfiles, "users": self.users,
        });
        let text = serde_json::to_string_pretty(&index).map_err(|error| error.to_string())? + "\n";
        fs::write(folder.join("index.json"), text).map_err(at(folder))?;
        fs::write(folder.join("ORIGIN"), origin).map_err(at(folder))
    }

    /// What differs from another, for people: `self` is what is kept, `other` what is now.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for place in self
            .files
            .keys()
            .chain(other.files.keys())
            .collect::<BTreeSet<_>>()
        {
            let (before, now) = (self.content(place), other.content(place));
            if before != now || self.files.get(place) != other.files.get(place) {
                found.push(format!("/{place}{}", first_difference(before, now)));
            }
        }
        if (&self.starts, &self.users, &self.tmpfiles)
            != (&other.starts, &other.users, &other.tmpfiles)
        {
            found.push("what starts units, users or tmpfiles' lines".to_owned());
        }
        for package in self.packages.symmetric_difference(&other.packages) {
            found.push(format!("package {}", name_of(package)));
        }
        found
    }

    /// The content of the file at a place on the machine.
    pub(crate) fn content(&self, place: &str) -> Option<&str> {
        let source = self.files.get(place)?;
        let base = references(source).into_iter().next()?;
        self.texts.get(&base).map(|text| text.content.as_str())
    }
}

fn first_difference(before: Option<&str>, now: Option<&str>) -> String {
    match (before, now) {
        (None, _) => " is new".to_owned(),
        (_, None) => " is gone".to_owned(),
        (Some(before), Some(now)) => before
            .lines()
            .zip(now.lines())
            .find(|(before, now)| before != now)
            .map_or_else(
                || " (what it refers to)".to_owned(),
                |(before, now)| format!("\n    - {before}\n    + {now}"),
            ),
    }
}

/// Store path of every output that is a text, with it; and every other output with nothing.
fn outputs(derivations: &Value) -> BTreeMap<String, Text> {
    let all = derivations.get("derivations").unwrap_or(derivations);
    let mut texts = BTreeMap::new();
    for derivation in all.as_object().into_iter().flat_map(|all| all.values()) {
        let environment = if derivation["structuredAttrs"].is_object() {
            &derivation["structuredAttrs"]
        } else {
            &derivation["env"]
        };
        let Some(content) = environment["text"].as_str() else {
            continue;
        };
        let Some(out) = derivation["outputs"]["out"]["path"]
            .as_str()
            .or(derivation["env"]["out"].as_str())
        else {
            continue;
        };
        let out = if out.starts_with('/') {
            out.to_owned()
        } else {
            format!("{STORE}{out}")
        };
        let unit = environment["name"]
            .as_str()
            .filter(|_| out.contains("-unit-"))
            .map(|name| {
                // systemd's units: a folder with the unit in it.
                format!("/{}", name.trim_start_matches("unit-"))
            });
        let destination = environment["destination"]
            .as_str()
            .filter(|to| !to.is_empty())
            .map(str::to_owned);
        texts.insert(
            out,
            Text {
                content: content.to_owned(),
                destination: destination.or(unit).unwrap_or_default(),
                executable: matches!(&environment["executable"], Value::Bool(true))
                    || environment["executable"]
                        .as_str()
                        .is_some_and(|flag| !flag.is_empty()),
            },
        );
    }
    texts
}

struct Gathering<'a> {
    known: &'a BTreeMap<String, Text>,
    renamed: BTreeMap<String, String>,
    snapshot: Snapshot,
}

impl Gathering<'_> {
    /// The path's name in the snapshot; its text, and what that refers to, are taken in on the way.
    fn rename(&mut self, path: &str, under_way: &mut Vec<String>) -> Outcome<String> {
        if let Some(renamed) = self.renamed.get(path) {
            return Ok(renamed.clone());
        }
        if under_way.iter().any(|other| other == path) {
            return Err(format!("{path} refers to itself"));
        }
        let renamed = match self.known.get(path) {
            None => {
                let renamed = format!("{STORE}{}-{}", "0".repeat(HASH), name_of(path));
                self.snapshot.packages.insert(renamed.clone());
                renamed
            }
            Some(text) => {
                under_way.push(path.to_owned());
                let mut text = text.clone();
                for reference in references(&text.content) {
                    let renamed = self.rename(&reference, under_way)?;
                    text.content = text.content.replace(&reference, &renamed);
                }
                under_way.pop();
                let renamed = format!("{STORE}{}-{}", hash(&text.content), name_of(path));
                self.snapshot.texts.insert(renamed.clone(), text);
                renamed
            }
        };
        self.renamed.insert(path.to_owned(), renamed.clone());
        Ok(renamed)
    }
}

/// Every file below a folder.
pub(crate) fn walk(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() && !path.is_symlink() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-bash-5.3";
    const B: &str = "/nix/store/1123456789abcdfghijklmnpqrsvwxyz-run";

    #[test]
    fn references_end_where_names_end() {
        let text = format!("#!{A}/bin/sh\nexec \"{B}\"; /nix/store/ /nix/store/short-x");
        assert_eq!(
            references(&text),
            BTreeSet::from([A.to_owned(), B.to_owned()])
        );
    }

    fn derivations(script: &str) -> Value {
        json!({ "derivations": { "x.drv": { "env": {
            "out": B, "name": "run", "text": script, "executable": "1", "destination": "/bin/run"
        } } } })
    }

    #[test]
    fn a_text_is_taken_in_with_what_it_refers_to_and_survives_a_round_trip() {
        let rendered = json!({ "files": { "etc/run": B }, "users": {}, "tmpfiles": [] });
        let snapshot =
            Snapshot::gather(&rendered, &derivations(&format!("#!{A}/bin/sh\n"))).unwrap();
        let zeros = format!("{STORE}{}-bash-5.3", "0".repeat(32));
        assert_eq!(
            snapshot.content("etc/run"),
            Some(format!("#!{zeros}/bin/sh\n").as_str())
        );
        assert_eq!(snapshot.packages, BTreeSet::from([zeros]));
        let folder = tempfile::tempdir().unwrap();
        snapshot
            .store(&folder.path().join("box"), "here\n")
            .unwrap();
        let again = Snapshot::load(&folder.path().join("box")).unwrap();
        assert_eq!(again, snapshot);
        assert!(snapshot.differences(&again).is_empty());
    }

    #[test]
    fn other_hashes_of_packages_make_no_difference_and_other_words_do() {
        let rendered = json!({ "files": { "etc/run": B }, "users": {}, "tmpfiles": [] });
        let one = Snapshot::gather(&rendered, &derivations(&format!("#!{A}/bin/sh\n"))).unwrap();
        let rebuilt = A.replace("/0123", "/9123");
        let two =
            Snapshot::gather(&rendered, &derivations(&format!("#!{rebuilt}/bin/sh\n"))).unwrap();
        assert_eq!(one, two);
        let three =
            Snapshot::gather(&rendered, &derivations(&format!("#!{A}/bin/sh\ntrue\n"))).unwrap();
        assert_eq!(one.differences(&three).len(), 1);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let rendered = json!({ "files": { "etc/run": A }, "users": {}, "tmpfiles": [] });
        assert!(
            Snapshot::gather(&rendered, &derivations(""))
                .unwrap_err()
                .contains("not a text")
        );
    }
}
