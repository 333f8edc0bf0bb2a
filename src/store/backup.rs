//! Copies of the database: made while the gateway runs, verified, put back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{
    log,
    open::wal_of,
    updates::{self, ReleaseRow},
};
use crate::{clock::UnixMillis, ota::Standing};

/// Pages copied at a time: 4 MiB. The copy reads one snapshot, so what is written meanwhile neither
/// disturbs it nor makes it start over.
const STEP_PAGES: i32 = 1_024;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{path}: {source}; check that the folder exists, is writable and has space")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Sql {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("{path} exists; choose another name, or remove it first")]
    Exists { path: PathBuf },
    #[error(
        "{path} already holds a database; move it away first, or say that it is to be replaced"
    )]
    NotEmpty { path: PathBuf },
    #[error("{path} is in use by a running tidegate; stop it first")]
    InUse { path: PathBuf },
    #[error("{path} is damaged ({detail}); use another copy")]
    Damaged { path: PathBuf, detail: String },
}

/// What a verified copy holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Contents {
    pub bytes: u64,
    /// Messages in the log.
    pub messages: u64,
}

/// Copies the database at `from`, in use or not, to the new file `to`, which appears only when it is
/// complete and on disk. `progress` is told pages done and pages in all.
///
/// # Errors
/// [`BackupError`]; then there is no file `to`.
pub fn backup(
    from: &Path,
    to: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Contents, BackupError> {
    if to.exists() {
        return Err(BackupError::Exists {
            path: to.to_owned(),
        });
    }
    let partial = with_suffix(to, ".partial");
    remove(&partial)?;
    let result = copy(from, &partial, &mut progress).and_then(|()| verify(&partial));
    match result {
        Ok(contents) => {
            persist(&partial, to)?;
            Ok(contents)
        }
        Err(error) => {
            // The reason matters more than what is left of the attempt.
            let _ = remove(&partial);
            Err(error)
        }
    }
}

/// Reads all of a copy: SQLite's own check, and the checksum of every segment.
///
/// # Errors
/// [`BackupError::Damaged`] with the first thing that is wrong.
pub fn verify(path: &Path) -> Result<Contents, BackupError> {
    let sql = |source| BackupError::Sql {
        path: path.to_owned(),
        source,
    };
    let damaged = |detail| BackupError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(path, flags).map_err(sql)?;
    let said: String = conn
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|error| damaged(error.to_string()))?;
    if said != "ok" {
        return Err(damaged(said));
    }
    let mut messages = 0;
    log::each_after(&conn, super::Seq(0), |_, _| messages += 1)
        .map_err(|error| damaged(error.to_string()))?;
    let bytes = fs::metadata(path)
        .map_err(|source| BackupError::Io {
            path: path.to_owned(),
            source,
        })?
        .len();
    Ok(Contents { bytes, messages })
}

/// Puts the copy `from` in the place of the database `to`, after verifying it. `replace` allows what is
/// there to be overwritten. No gateway may be running on it.
///
/// What was accepted after the copy was made is lost, and what was settled since is delivered again.
/// Which message ids were accepted since cannot be known any more, so messages signed before `now` are
/// refused as stale from then on; devices sign anew when they send again.
///
/// # Errors
/// [`BackupError`]; then `to` is as it was.
pub fn restore(
    from: &Path,
    to: &Path,
    replace: bool,
    now: UnixMillis,
) -> Result<Contents, BackupError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { path, source }
    };
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io(folder))?;
    let lock_path = folder.join("tidegate.lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io(&lock_path))?;
    lock.try_lock().map_err(|_| BackupError::InUse {
        path: to.to_owned(),
    })?;
    if to.exists() && !replace {
        return Err(BackupError::NotEmpty {
            path: to.to_owned(),
        });
    }
    let partial = with_suffix(to, ".partial");
    remove(&partial)?;
    copy(from, &partial, &mut |_, _| {})?;
    verify(&partial)?;
    forget_all_before(&partial, now)?;
    let contents = verify(&partial)?;
    // The old WAL belongs to the old database: it must not meet the new one.
    remove(&wal_of(to))?;
    remove(&with_suffix(to, "-shm"))?;
    persist(&partial, to)?;
    Ok(contents)
}

/// The releases that are published in the database at `path`, in use or not, oldest first; none in one
/// that is older than releases are.
///
/// # Errors
/// [`BackupError::Sql`]
pub fn published(path: &Path) -> Result<Vec<ReleaseRow>, BackupError> {
    let read = || {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        let named = "SELECT count(*) FROM sqlite_schema WHERE name = 'release'";
        if conn.query_row(named, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(Vec::new());
        }
        let mut releases = updates::releases(&conn)?;
        releases.retain(|release| release.standing == Standing::Published);
        Ok(releases)
    };
    read().map_err(|source| BackupError::Sql {
        path: path.to_owned(),
        source,
    })
}

fn forget_all_before(path: &Path, now: UnixMillis) -> Result<(), BackupError> {
    let sql = |source| BackupError::Sql {
        path: path.to_owned(),
        source,
    };
    let conn = Connection::open(path).map_err(sql)?;
    conn.execute(
        "UPDATE replay_state SET forgotten_through = max(forgotten_through, ?1)",
        [super::db(now.seconds())],
    )
    .map_err(sql)?;
    conn.close().map_err(|(_, source)| sql(source))
}

fn copy(from: &Path, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), BackupError> {
    let sql = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Sql { path, source }
    };
    let mut source =
        Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sql(from))?;
    source
        .busy_timeout(Duration::from_secs(10))
        .map_err(sql(from))?;
    // One read transaction for the whole copy: otherwise every commit meanwhile starts it over.
    let snapshot = source.transaction().map_err(sql(from))?;
    snapshot
        .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        .map_err(sql(from))?;
    let mut target = Connection::open(to).map_err(sql(to))?;
    {
        let backup = Backup::new(&snapshot, &mut target).map_err(sql(to))?;
        loop {
            let step = backup.step(STEP_PAGES).map_err(sql(to))?;
            let told = backup.progress();
            let number = |pages: i32| u64::try_from(pages).unwrap_or(0);
            progress(
                number(told.pagecount - told.remaining),
                number(told.pagecount),
            );
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    // A copy is one file: no WAL beside it until it is opened for use.
    target
        .pragma_update(None, "journal_mode", "DELETE")
        .map_err(sql(to))?;
    target.close().map_err(|(_, source)| BackupError::Sql {
        path: to.to_owned(),
        source,
    })
}

/// Gives a finished file its name, durably.
fn persist(partial: &Path, to: &Path) -> Result<(), BackupError> {
    let io = |source| BackupError::Io {
        path: to.to_owned(),
        source,
    };
    fs::File::open(partial)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    fs::rename(partial, to).map_err(io)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(io)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BackupError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
