//! What can go wrong in the store, and what to do about it.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use super::DATABASE;

/// Why a batch is not on disk. None of its messages may be acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IngestError {
    #[error("the disk budget is used up; raise storage.disk_budget or let an upstream catch up")]
    Full,
    #[error("the database could not be written; the log says why")]
    Failed,
    #[error("the gateway is stopping")]
    Stopping,
}

/// A failed write or read outside the hot path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Sql(rusqlite::Error),
    #[error(
        "{DATABASE} is damaged ({0}); it is kept as it is: restore a backup, or move it away to start empty"
    )]
    Malformed(rusqlite::Error),
    #[error("the disk is full; free some space, or let an upstream catch up")]
    Full,
    #[error(
        "{DATABASE} is damaged at position {seq} of the log ({detail}); it is kept as it is: restore a backup, or move it away to start empty"
    )]
    Damaged { seq: u64, detail: String },
    #[error("no such upstream; see `tidegate status` for those there are")]
    NoSuchUpstream,
    #[error("the gateway is stopping")]
    Stopping,
}

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another tidegate; stop it first, or choose another state_dir")]
    InUse { path: PathBuf },
    #[error(
        "{path} was written by a newer tidegate (schema {found}, this one knows {known}); install that version or restore a backup"
    )]
    FromTheFuture {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "{path} is damaged ({detail}); it is kept as it is: restore a backup, or move it away to start empty"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{path} is a database of another program; choose another state_dir")]
    Foreign { path: PathBuf },
    #[error("{path}: {source}; check that the folder exists, is writable and has space")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}; check that the disk is sound, writable and has space")]
    Sql {
        path: PathBuf,
        source: rusqlite::Error,
    },
}

/// Why a group did not reach the disk; the same for every waiter of the group.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No space: comes back when there is some.
    Full,
    /// Not to be repaired from here: the process ends.
    Damaged(String),
    /// Anything else: tried again with the next group.
    Sql(rusqlite::ffi::Error, Option<String>),
    Stopping,
}

/// Whether there is no room on the disk: for pages, or for the index of the WAL (`-shm`), which SQLite
/// reports as an error of the disk.
fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Malformed(error),
            _ => Self::Sql(error),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            _ if is_full(&error) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => match error {
                rusqlite::Error::SqliteFailure(code, text) => Self::Sql(code, text),
                other => Self::Sql(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
                    Some(other.to_string()),
                ),
            },
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sql(error) | StoreError::Malformed(error) => error.into(),
            StoreError::Full => Self::Full,
            StoreError::Stopping => Self::Stopping,
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<&Failure> for IngestError {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Full => Self::Full,
            Failure::Stopping => Self::Stopping,
            Failure::Damaged(_) | Failure::Sql(..) => Self::Failed,
        }
    }
}

impl From<&Failure> for StoreError {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Full => Self::Full,
            Failure::Stopping => Self::Stopping,
            Failure::Damaged(detail) => Self::Malformed(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                Some(detail.clone()),
            )),
            Failure::Sql(code, text) => {
                Self::Sql(rusqlite::Error::SqliteFailure(*code, text.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi::{self, Error};

    use super::*;

    #[test]
    fn no_room_for_the_index_of_the_wal_is_a_full_disk() {
        let failure = |code| Failure::from(rusqlite::Error::SqliteFailure(Error::new(code), None));
        assert!(matches!(failure(ffi::SQLITE_FULL), Failure::Full));
        assert!(matches!(failure(ffi::SQLITE_IOERR_SHMSIZE), Failure::Full));
        assert!(matches!(failure(ffi::SQLITE_IOERR_WRITE), Failure::Sql(..)));
    }
}
