//! Noticing that the authority's files changed, so that a running gateway takes up new
//! credentials and revocations without a restart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::credentials::{self, Credentials, CredentialsError};
use super::files::PkiDir;

/// What the files looked like. Two that are equal mean nothing was changed in between: every
/// write here makes a new file, and so a new inode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint {
    files: Vec<(PathBuf, u64, u64, i64, i64)>,
}

/// Looks at the files that [`credentials::load`] reads, without reading them: cheap enough to
/// do twice a second. A file that cannot be seen is as good as absent.
#[must_use]
pub fn fingerprint(dir: &PkiDir) -> Fingerprint {
    let mut paths: Vec<PathBuf> = ["root", "gateway-ca", "device-ca", "server"]
        .iter()
        .map(|stem| dir.certificate(stem))
        .collect();
    paths.extend(dir.key_candidates("server"));
    paths.extend([dir.crl(), dir.revoked()]);
    for folder in ["imported", "retired"] {
        for stem in dir.stems_in(folder).unwrap_or_default() {
            paths.push(dir.certificate(&stem));
        }
    }
    let files = paths.into_iter().filter_map(|path| {
        let (inode, size, seconds, nanos) = look(&path)?;
        Some((path, inode, size, seconds, nanos))
    });
    Fingerprint {
        files: files.collect(),
    }
}

fn look(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

/// What a look at the files came to.
#[derive(Debug)]
pub enum Reload {
    Unchanged,
    /// Put these in force; their tickets and those of the former ones do not mix.
    Changed(Box<Credentials>),
    /// Keep the former credentials and say why. `seen` is to be passed as `last` next time, so
    /// that the same failure is reported once.
    Failed {
        error: CredentialsError,
        seen: Fingerprint,
    },
}

/// Loads the credentials again if the files changed since `last` was taken.
#[must_use]
pub fn reload(dir: &PkiDir, last: &Fingerprint, now: OffsetDateTime) -> Reload {
    let seen = fingerprint(dir);
    if seen == *last {
        return Reload::Unchanged;
    }
    match credentials::load(dir, now) {
        Ok(credentials) => Reload::Changed(Box::new(credentials)),
        Err(error) => Reload::Failed { error, seen },
    }
}
