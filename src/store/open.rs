//! Opening the database: one process at a time, the right file, the right version, not damaged; then
//! what is kept in memory is read.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{
    Checkpointer, OpenError, Store, StoreError, StoreMetrics, Writer, api, checkpoint, db, outbox,
    schema, seen, un,
    wal::{self, Wal},
    writer,
};
use crate::{clock::UnixMillis, config::Config, envelope::DigestKey, replay::HashKey};

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; its WAL and lock live beside it.
    pub path: PathBuf,
    pub disk_budget_bytes: u64,
    pub when_full: crate::config::WhenFull,
    /// Time to gather more requests before a commit, on top of what [`super::gather`] decides.
    pub commit_delay: Duration,
    pub freshness: Duration,
    pub max_age: Option<Duration>,
}

impl Options {
    /// What the configuration says, for the database at `path`.
    #[must_use]
    pub fn new(config: &Config, path: PathBuf) -> Self {
        Self {
            path,
            disk_budget_bytes: config.storage.disk_budget.as_u64(),
            when_full: config.storage.when_full,
            commit_delay: config.storage.commit_delay,
            freshness: config.verification.freshness,
            max_age: config.storage.max_age,
        }
    }
}

/// An open store and the bodies of its two threads.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub writer: Writer,
    pub checkpointer: Checkpointer,
}

/// Says in the file's header that it is one of ours: "TIDE".
const APPLICATION_ID: i32 = 0x5449_4445;

/// Page cache of the writer, KiB (negative to SQLite): inner pages, and what one group dirties.
const WRITER_CACHE_KIB: i64 = -4_096;

/// The log that only unsealed replay state holds back, as a share of the disk budget, at most this.
const UNSEALED_MAX: u64 = 8 << 20;
const UNSEALED_SHARE: u64 = 32;

/// What only the store's own parts need to know of how it was opened.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) options: Options,
    /// Bytes of WAL at which a checkpoint is to finish it; the hard limit is four times as much.
    pub(super) wal_target: u64,
}

impl Store {
    /// Opens or creates the database, migrates it, and starts nothing: [`Writer::run`] and
    /// [`Checkpointer::run`] are thread bodies. Nothing is stored before the writer runs.
    ///
    /// # Errors
    /// [`OpenError`]: in use, of a newer version, damaged, another program's, or the system's reasons.
    pub fn open(
        options: &Options,
        metrics: Arc<StoreMetrics>,
        now: UnixMillis,
    ) -> Result<Opened, OpenError> {
        let path = &options.path;
        let sql = |source| sql_error(path, source);
        let mut lock = lock(path)?;
        inspect(path, &lock)?;
        let mut conn = connect(path).map_err(sql)?;
        let found: i64 = conn
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(sql)?;
        if found > schema::newest() {
            return Err(OpenError::FromTheFuture {
                path: path.clone(),
                found,
                known: schema::newest(),
            });
        }
        schema::migrate(&mut conn, found).map_err(sql)?;
        let meta = Meta::load(&mut conn, now).map_err(sql)?;
        mark(path, &mut lock)?;

        let store = |error| store_error(path, error);
        let unsealed_max =
            (options.disk_budget_bytes / UNSEALED_SHARE).clamp(1 << 16, UNSEALED_MAX);
        let (memory, unsealed_bytes) = seen::load(
            &conn,
            meta.replay_key,
            options.freshness.as_secs(),
            unsealed_max,
        )
        .map_err(store)?;
        let upstreams = outbox::Upstreams::load(&conn).map_err(store)?;

        let settings = Settings {
            options: options.clone(),
            wal_target: (options.disk_budget_bytes / 16).clamp(1 << 20, 32 << 20),
        };
        metrics.disk_budget_bytes.set(options.disk_budget_bytes);
        let (inner, requests) = api::Inner::new(
            &settings,
            &meta,
            upstreams.clone(),
            Arc::clone(&metrics),
            lock,
        );
        let signal = checkpoint::signal();
        let checkpointer =
            Checkpointer::new(path.clone(), &settings, signal.1, Arc::clone(&metrics));
        let finish = checkpointer.finish();
        let wal = Wal::watch(&mut conn, wal_of(path), settings.wal_target).map_err(sql)?;
        let writer = Writer::new(writer::Parts {
            conn,
            wal,
            settings,
            requests,
            inner: Arc::clone(&inner),
            memory,
            upstreams,
            unsealed_bytes,
            highest_time: meta.highest_time,
            metrics,
            checkpoints: signal.0,
            finish,
        });
        Ok(Opened {
            store: Store::from(inner),
            writer,
            checkpointer,
        })
    }
}

/// What the `meta` table holds.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) id: [u8; 16],
    pub(super) digest_key: DigestKey,
    replay_key: HashKey,
    pub(super) highest_time: UnixMillis,
}

impl Meta {
    fn load(conn: &mut Connection, now: UnixMillis) -> rusqlite::Result<Self> {
        let transaction = conn.transaction()?;
        let meta = Self {
            id: key(&transaction, "id")?,
            digest_key: DigestKey(key(&transaction, "digest_key")?),
            replay_key: HashKey(key(&transaction, "replay_key")?),
            highest_time: highest_time(&transaction)?,
        };
        if meta.highest_time == UnixMillis::default() {
            // A new database believes the time it is made at as little as any other: no floor yet.
            tracing::info!(now = now.0, "new database");
        }
        transaction.commit()?;
        Ok(meta)
    }
}

/// A random value that is made once and stays.
fn key(conn: &Connection, name: &str) -> rusqlite::Result<[u8; 16]> {
    conn.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES (?1, randomblob(16))",
        [name],
    )?;
    conn.query_row("SELECT value FROM meta WHERE key = ?1", [name], |row| {
        row.get(0)
    })
}

fn highest_time(conn: &Connection) -> rusqlite::Result<UnixMillis> {
    let time: Option<i64> = conn
        .query_row(
            "SELECT value FROM meta WHERE key = 'highest_time'",
            [],
            |row| row.get(0),
        )
        .optional()?;
    Ok(UnixMillis(un(time.unwrap_or(0))))
}

pub(super) fn save_highest_time(conn: &Connection, time: UnixMillis) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('highest_time', ?1)")?
        .execute(params![db(time.0)])?;
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(64);
    let empty = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })? == 0;
    if empty {
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // Power cuts: every commit is synced. Checkpoints are the checkpointer's.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    Ok(conn)
}

/// Takes the lock that keeps a second gateway from opening the same state; held until the file is
/// closed, which the system does when a process dies.
fn lock(path: &Path) -> Result<File, OpenError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let io = |source| OpenError::Io {
        path: folder.to_owned(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("tidegate.lock"))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// Says in the lock that there is a database now: one that is empty later was not always so.
fn mark(path: &Path, lock: &mut File) -> Result<(), OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    if lock.metadata().map_err(io)?.len() == 0 {
        lock.write_all(b"a database was made here\n")
            .and_then(|()| lock.sync_all())
            .map_err(io)?;
    }
    Ok(())
}

/// Cheap checks of the files themselves; everything deeper is checked when it is read (segments and
/// pages carry checksums) or by [`super::backup::verify`], which reads all of it.
fn inspect(path: &Path, lock: &File) -> Result<(), OpenError> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let damaged = |detail: &str| OpenError::Damaged {
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let wal_path = wal_of(path);
    let wal = wal::inspect(&wal_path)
        .map_err(io)?
        .map_err(|detail| OpenError::Damaged {
            path: wal_path,
            detail,
        })?;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Moved away to start empty; but SQLite would throw away what the WAL has.
            return match wal.pages {
                Some(_) => Err(damaged("it is gone, and its -wal file is still there")),
                None => Ok(()),
            };
        }
        Err(error) => return Err(io(error)),
    };
    let length = file.metadata().map_err(io)?.len();
    if length == 0 {
        // A process may have died before it wrote the first page; then nothing else was written.
        if wal.pages.is_none() && lock.metadata().map_err(io)?.len() == 0 {
            return Ok(());
        }
        return Err(damaged("it is empty"));
    }
    let mut header = [0; 100];
    if file.read_exact(&mut header).is_err() {
        return Err(damaged("it is shorter than a database's header"));
    }
    let number = |from: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[from..from + 4]);
        u32::from_be_bytes(bytes)
    };
    if !header.starts_with(MAGIC) {
        return Err(damaged("it does not begin as a database does"));
    }
    // A process that died while it made the file may have left everything in the WAL.
    if number(68) != APPLICATION_ID.cast_unsigned() && wal.pages.is_none() {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    let page = match u64::from(number(16) >> 16) {
        1 => 65_536,
        size => size,
    };
    // What the last commit says it has is in the file or in the WAL.
    let pages = wal.pages.unwrap_or_else(|| number(28));
    let present = u32::try_from(length / page.max(1)).unwrap_or(u32::MAX);
    if let Some(missing) = (present..pages).find(|before| !wal.holds.contains(&(before + 1))) {
        let (missing, expected) = (missing + 1, u64::from(pages) * page);
        return Err(damaged(&format!(
            "it has {length} of {expected} bytes, and page {missing} is nowhere else"
        )));
    }
    Ok(())
}

pub(super) fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn sql_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Damaged {
            path: path.to_owned(),
            detail: source.to_string(),
        },
        _ => OpenError::Sql {
            path: path.to_owned(),
            source,
        },
    }
}

fn store_error(path: &Path, error: StoreError) -> OpenError {
    match error {
        StoreError::Sql(source) | StoreError::Malformed(source) => sql_error(path, source),
        StoreError::Damaged { seq, detail } => OpenError::Damaged {
            path: path.to_owned(),
            detail: format!("at position {seq} of the log: {detail}"),
        },
        other => OpenError::Damaged {
            path: path.to_owned(),
            detail: other.to_string(),
        },
    }
}
