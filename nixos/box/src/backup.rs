//! An encrypted backup: the gateway writes everything it knows into one file, age encrypts it, and only
//! that leaves the box.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::program::{ProgramError, read, run as program};

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder only root reads, for what is not yet encrypted
    #[arg(long)]
    work: PathBuf,
    /// File with public keys of those who can read it
    #[arg(long)]
    recipients: PathBuf,
    /// Write it here …
    #[arg(long, conflicts_with = "ssh", required_unless_present = "ssh")]
    folder: Option<PathBuf>,
    /// … and keep this many
    #[arg(long, default_value_t = 14)]
    keep: usize,
    /// Or send it there
    #[arg(long, requires_all = ["ssh_key", "known_hosts"])]
    ssh: Option<String>,
    #[arg(long)]
    ssh_key: Option<PathBuf>,
    #[arg(long)]
    known_hosts: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is no mounted file system: is the stick plugged in, and labelled as configured?"
    )]
    NotMounted { path: PathBuf },
}

const PREFIX: &str = "tidegate-";
const SUFFIX: &str = ".tar.age";
/// The gateway's user writes into a folder of its own; root's alone is `work`.
const GATEWAY_USER: &str = "tidegate";

pub(crate) fn run(args: &Args) -> Result<(), BackupError> {
    let stamp = read(Command::new("date").args(["--utc", "+%Y%m%dT%H%M%SZ"]))?;
    let name = format!("{PREFIX}{}{SUFFIX}", stamp.trim());
    let encrypted = args.work.join(&name);
    let made = encrypt(args, &encrypted);
    let delivered = made.and_then(|()| match (&args.folder, &args.ssh) {
        (Some(folder), _) => to_folder(&encrypted, folder, &name, args.keep),
        (None, Some(target)) => to_ssh(args, &encrypted, target, &name),
        (None, None) => Ok(()),
    });
    let _ = fs::remove_file(&encrypted);
    delivered
}

fn encrypt(args: &Args, encrypted: &Path) -> Result<(), BackupError> {
    let plain = args.work.join("plain");
    let _ = fs::remove_dir_all(&plain);
    fs::create_dir(&plain).map_err(at(&plain))?;
    program(Command::new("chown").arg(GATEWAY_USER).arg(&plain))?;
    program(Command::new("chmod").arg("0711").arg(&args.work))?;
    let archive = plain.join("state.tar");
    let done = program(Command::new("tidegate").arg("backup").arg(&archive)).and_then(|()| {
        program(
            Command::new("age")
                .arg("--encrypt")
                .arg("--recipients-file")
                .arg(&args.recipients)
                .arg("--output")
                .arg(encrypted)
                .arg(&archive),
        )
    });
    fs::remove_dir_all(&plain).map_err(at(&plain))?;
    Ok(done?)
}

/// Copies it under another name first: a stick that is pulled out leaves no half a backup that looks like
/// a whole one.
fn to_folder(encrypted: &Path, folder: &Path, name: &str, keep: usize) -> Result<(), BackupError> {
    // Looking into it mounts it.
    let _ = fs::read_dir(folder).map_err(at(folder))?;
    program(Command::new("mountpoint").arg("-q").arg(folder)).map_err(|_| {
        BackupError::NotMounted {
            path: folder.to_owned(),
        }
    })?;
    let beside = folder.join(format!(".{name}.part"));
    fs::copy(encrypted, &beside)
        .and_then(|_| File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, folder.join(name)))
        .map_err(at(folder))?;
    for old in surplus(folder, keep).map_err(at(folder))? {
        fs::remove_file(&old).map_err(at(&old))?;
    }
    println!("{} written to {}", name, folder.display());
    Ok(())
}

/// The oldest of our backups beyond `keep`, by name, which is by date.
fn surplus(folder: &Path, keep: usize) -> io::Result<Vec<PathBuf>> {
    let mut ours = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            ours.push(path);
        }
    }
    ours.sort();
    ours.truncate(ours.len().saturating_sub(keep));
    Ok(ours)
}

fn to_ssh(args: &Args, encrypted: &Path, target: &str, name: &str) -> Result<(), BackupError> {
    let file = File::open(encrypted).map_err(at(encrypted))?;
    let mut ssh = Command::new("ssh");
    ssh.args([
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "ConnectTimeout=20",
        "-F",
        "none",
    ]);
    if let (Some(key), Some(hosts)) = (&args.ssh_key, &args.known_hosts) {
        ssh.arg("-i")
            .arg(key)
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", hosts.display()));
    }
    // The name is ours and has nothing a shell would take for its own.
    ssh.arg(target)
        .arg(format!("cat > {name}.part && mv {name}.part {name}"))
        .stdin(Stdio::from(file));
    let started = SystemTime::now();
    program(&mut ssh)?;
    println!(
        "{name} sent to {target} in {} s",
        started.elapsed().unwrap_or_default().as_secs()
    );
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_oldest_of_our_own_backups_go() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            "tidegate-20260101T000000Z.tar.age",
            "tidegate-20260102T000000Z.tar.age",
            "tidegate-20260103T000000Z.tar.age",
            "holiday.jpg",
            "tidegate-20250101.txt",
        ];
        for name in all {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(
            surplus(folder.path(), 2).unwrap(),
            [folder.path().join(all[0])]
        );
        assert!(surplus(folder.path(), 3).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_is_no_stick_gets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        fs::write(&file, "x").unwrap();
        let refused = to_folder(&file, folder.path(), "tidegate-x.tar.age", 1);
        assert!(matches!(refused, Err(BackupError::NotMounted { .. })));
    }
}
