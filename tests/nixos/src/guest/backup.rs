//! The encrypted backup: made by its unit, in its sandbox, and good for another box.

use std::{fs, path::Path, process::Command};

use super::story::{ensure, tidegate};
use crate::{Outcome, shell::read};

/// Where the unit expects the stick.
const STICK: &str = "/media/backup";
/// What is not yet encrypted is here, and nothing afterwards.
const WORK: &str = "/var/lib/tidegate-backup";
/// The private half of the recipient in nixos/tests/box.nix. It opens backups of tests.
const KEY: &str = "AGE-SECRET-KEY-1KVDU6J7JHDPV53ZTRLQYFZJVY2CURH8NH65WWJG0RSYE27LVG48Q86M3RP";

pub(super) fn backup() -> Outcome<String> {
    fs::create_dir_all(STICK).map_err(|error| format!("{STICK}: {error}"))?;
    read(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "stick", STICK]))?;
    let outcome = through_the_stick();
    read(Command::new("umount").arg(STICK))?;
    outcome
}

fn through_the_stick() -> Outcome<String> {
    let unit = "tidegate-backup.service";
    read(Command::new("systemctl").args(["start", unit])).map_err(|why| {
        let log = read(Command::new("journalctl").args(["--no-pager", "-n", "20", "-u", unit]));
        format!("{why}\n{}", log.unwrap_or_default())
    })?;
    let files = names(STICK)?;
    let [name] = files.as_slice() else {
        return Err(format!("on the stick: {files:?}"));
    };
    let left = names(WORK)?;
    ensure(left.is_empty(), || format!("left in {WORK}: {left:?}"))?;
    let encrypted = Path::new(STICK).join(name);
    let content = fs::read(&encrypted).map_err(|error| error.to_string())?;
    ensure(content.starts_with(b"age-encryption.org/v1\n"), || {
        format!("{name} is not encrypted")
    })?;

    // Another box: a folder of the gateway's user, with nothing in it.
    let fresh = Path::new("/var/lib/tidegate-fresh");
    read(
        Command::new("install")
            .args(["-d", "-o", "tidegate", "-m", "0700"])
            .arg(fresh),
    )?;
    let (key, plain) = (Path::new("/tmp/backup-key"), fresh.join("state.tar"));
    fs::write(key, KEY).map_err(|error| error.to_string())?;
    read(
        Command::new("age")
            .args(["--decrypt", "--identity"])
            .arg(key)
            .arg("--output")
            .arg(&plain)
            .arg(&encrypted),
    )?;
    read(Command::new("chown").arg("tidegate").arg(&plain))?;
    let state = fresh.join("state");
    let set = format!("state_dir={}", state.display());
    tidegate(&["--set", &set, "restore", &plain.to_string_lossy()])?;
    let root = |state: &Path| {
        let file = state.join("pki/root.crt");
        fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    ensure(
        root(&state)? == root(Path::new("/var/lib/tidegate"))?,
        || "another root certificate came back".to_owned(),
    )?;
    fs::remove_dir_all(fresh).map_err(|error| error.to_string())?;
    Ok(format!("{} KiB", content.len() / 1024))
}

fn names(folder: &str) -> Outcome<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}
