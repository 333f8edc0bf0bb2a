//! Where the authority's files are, and writing them so that a power cut leaves either the
//! old content or the new, never half of it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::error::PkiError;
use crate::config::Config;

/// Private keys, secrets: the owner alone.
pub(super) const SECRET: u32 = 0o600;
/// Certificates and revocation lists: no secrets in them.
pub(super) const PUBLIC: u32 = 0o644;

/// Suffix of a private key that is written but whose certificate is not yet in place.
const PENDING: &str = ".key.pending";

/// How long a command waits for another; each takes far less than a second.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The certificate authority's directory: `pki.dir`, or `<state>/pki`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PkiDir {
    path: PathBuf,
}

impl PkiDir {
    /// The directory below the daemon's state directory. Nothing is read or created.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("pki"),
        }
    }

    /// The directory that the configuration names: the same for the daemon and every subcommand.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        match &config.pki.dir {
            Some(dir) => Self::at(dir.clone()),
            None => Self::new(&config.state_dir),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an authority has been created or imported.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.certificate("root").exists()
    }

    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// `stem` is `root`, `gateway-ca`, `device-ca`, `server`, `imported/<n>` or `retired/<n>`.
    pub(super) fn certificate(&self, stem: &str) -> PathBuf {
        self.path.join(format!("{stem}.crt"))
    }

    pub(super) fn key(&self, stem: &str) -> PathBuf {
        self.path.join(format!("{stem}.key"))
    }

    fn pending_key(&self, stem: &str) -> PathBuf {
        self.path.join(format!("{stem}{PENDING}"))
    }

    /// Every place the private key of `stem` can be after an interrupted write, likeliest first.
    pub(super) fn key_candidates(&self, stem: &str) -> [PathBuf; 2] {
        [self.key(stem), self.pending_key(stem)]
    }

    pub(super) fn crl(&self) -> PathBuf {
        self.path.join("crl.pem")
    }

    /// Derived from the authorities, for other servers on this machine.
    pub(super) fn clients(&self) -> PathBuf {
        self.path.join("clients.pem")
    }

    pub(super) fn revoked(&self) -> PathBuf {
        self.path.join("revoked.json")
    }

    pub(super) fn issued(&self) -> PathBuf {
        self.path.join("issued")
    }

    /// The stems of the certificates in a subdirectory (`imported`, `retired`), sorted.
    pub(super) fn stems_in(&self, folder: &str) -> Result<Vec<String>, PkiError> {
        let mut stems: Vec<String> = list(&self.path.join(folder))?
            .into_iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_suffix(".crt")?.to_owned();
                (!name.starts_with('.')).then(|| format!("{folder}/{name}"))
            })
            .collect();
        stems.sort();
        Ok(stems)
    }

    pub(super) fn require(&self) -> Result<(), PkiError> {
        if self.is_initialised() {
            Ok(())
        } else {
            Err(PkiError::NotInitialised(self.path.clone()))
        }
    }

    /// Excludes every other writer until the guard is dropped, then finishes what an
    /// interrupted one left behind. The lock is beside the directory, because `init`
    /// replaces the directory as a whole.
    pub(super) fn lock(&self) -> Result<Lock, PkiError> {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        create_dir(parent)?;
        let path = parent.join("pki.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(SECRET)
            .open(&path)
            .map_err(PkiError::io("open", &path))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(PkiError::Locked(self.path.clone())),
                Err(TryLockError::Error(source)) => {
                    return Err(PkiError::io("lock", &path)(source));
                }
            }
        }
        let lock = Lock { file };
        for leftover in list(parent)? {
            if leftover
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("pki.new-"))
            {
                fs::remove_dir_all(&leftover).map_err(PkiError::io("remove", &leftover))?;
            }
        }
        Ok(lock)
    }

    /// Replaces a certificate and its private key. Two files cannot change in one step, so
    /// the key is first written as `<stem>.key.pending`: whoever reads takes whichever of the
    /// two keys matches the certificate, and so always finds a pair.
    pub(super) fn write_pair(
        &self,
        stem: &str,
        certificate: &str,
        key: &str,
    ) -> Result<(), PkiError> {
        let pending = self.pending_key(stem);
        write(&pending, key.as_bytes(), SECRET)?;
        write(&self.certificate(stem), certificate.as_bytes(), PUBLIC)?;
        self.promote_key(stem)
    }

    /// Gives a pending key its final name, once it is known to be the one in force.
    pub(super) fn promote_key(&self, stem: &str) -> Result<(), PkiError> {
        let (from, to) = (self.pending_key(stem), self.key(stem));
        fs::rename(&from, &to).map_err(PkiError::io("rename", &from))?;
        sync_parent(&to)
    }
}

/// Held while the authority's files change.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process forked meanwhile holds a copy until it
        // executes something else. If this fails, the lock goes with the last copy.
        let _ = self.file.unlock();
    }
}

/// Creates a directory and its parents, the directory itself for the owner alone.
pub(super) fn create_dir(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(PkiError::io("create", path))
}

/// The entries of a directory; none if it does not exist.
pub(super) fn list(path: &Path) -> Result<Vec<PathBuf>, PkiError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(PkiError::io("read", path)(error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(PkiError::io("read", path))
}

/// The largest certificate, key or list that is read: far beyond any real one, small enough
/// for a file given by mistake not to exhaust a small machine's memory.
const MAX_FILE: u64 = 16 * 1024 * 1024;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let size = fs::metadata(path)
        .map_err(PkiError::io("read", path))?
        .len();
    if size > MAX_FILE {
        return Err(PkiError::bad_file(path, "content", "it is too large"));
    }
    fs::read(path).map_err(PkiError::io("read", path))
}

/// Like [`read`], with a missing file as `None`.
pub(super) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(PkiError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file's content in one step: a temporary file beside it is written, flushed to
/// the disk and renamed over it. `mode` is set before the first byte is written.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new-{}", std::process::id()));
    let result = write_through(&temporary, content, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(PkiError::io("rename", &temporary)));
    if result.is_err() {
        // The first error is the one to report; a leftover temporary file is harmless.
        let _ = fs::remove_file(&temporary);
    }
    result.and_then(|()| sync_parent(path))
}

fn write_through(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    // Left by a process of the same number that died: never written through, always anew.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(PkiError::io("remove", path)(error));
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(PkiError::io("create", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(PkiError::io("write", path))
}

/// Makes a rename or a new file in the directory survive a power cut.
pub(super) fn sync_parent(path: &Path) -> Result<(), PkiError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(PkiError::io("flush", parent))
}

/// Refuses to go on if any of the files exists.
pub(super) fn refuse_existing<'a>(
    paths: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), PkiError> {
    for path in paths {
        if fs::symlink_metadata(path).is_ok() {
            return Err(PkiError::Exists(path.clone()));
        }
    }
    Ok(())
}

/// Whether others than the owner can read a file that holds a secret.
pub(super) fn is_exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}
