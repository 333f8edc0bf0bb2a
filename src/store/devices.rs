//! Rows of the table `device`, and the proof that the master key is the right one.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::DeviceKey;
use crate::clock::UnixMillis;

/// One device as it lies in the database; texts are not yet parsed, the secret is sealed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceRow {
    pub key: DeviceKey,
    pub id: String,
    /// As declared, or as it was added.
    pub enabled: bool,
    pub declared: bool,
    /// Why an administrator blocked it.
    pub blocked_reason: Option<String>,
    pub removed_at: Option<UnixMillis>,
    /// `any`, `v2` or `none`.
    pub signing: String,
    pub secret: Option<Vec<u8>>,
    /// argon2id in PHC string form.
    pub password: Option<String>,
    pub password_source: Option<Vec<u8>>,
    pub per_second: Option<u32>,
    /// JSON.
    pub topics: String,
    /// JSON.
    pub groups: String,
    pub last_version: Option<u8>,
    pub last_seen: Option<UnixMillis>,
    pub created_at: UnixMillis,
    pub updated_at: UnixMillis,
}

/// What a device was last seen doing, to be kept across restarts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeenRow {
    pub key: DeviceKey,
    pub last_version: Option<u8>,
    pub last_seen: Option<UnixMillis>,
}

const COLUMNS: &str = "key, id, enabled, declared, blocked_reason, removed_at, signing, secret, password, \
     password_source, per_second, topics, groups, last_version, last_seen, created_at, updated_at";

/// Gives every device that ever existed to `take`, until that fails; the outer error is SQLite's.
///
/// # Errors
/// Any of SQLite's.
pub fn each<E>(
    conn: &Connection,
    mut take: impl FnMut(DeviceRow) -> Result<(), E>,
) -> rusqlite::Result<Result<(), E>> {
    let mut statement = conn.prepare(&format!("SELECT {COLUMNS} FROM device ORDER BY key"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Err(error) = take(from_row(row)?) {
            return Ok(Err(error));
        }
    }
    drop(rows);
    // Of a table that was read whole nothing is read again soon: its pages need not be kept.
    conn.execute_batch("PRAGMA shrink_memory")?;
    Ok(Ok(()))
}

/// Inserts a device, ignoring the key in `row`, and returns the key it got.
///
/// # Errors
/// Any of SQLite's; one is that the id exists.
pub fn insert(conn: &Connection, row: &DeviceRow) -> rusqlite::Result<DeviceKey> {
    conn.prepare_cached(
        "INSERT INTO device (id, enabled, declared, blocked_reason, removed_at, signing, secret, password, \
         password_source, per_second, topics, groups, last_version, last_seen, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) RETURNING key",
    )?
    .query_row(
        params![
            row.id,
            row.enabled,
            row.declared,
            row.blocked_reason,
            row.removed_at.map(to_sql),
            row.signing,
            row.secret,
            row.password,
            row.password_source,
            row.per_second,
            row.topics,
            row.groups,
            row.last_version,
            row.last_seen.map(to_sql),
            to_sql(row.created_at),
            to_sql(row.updated_at),
        ],
        |row| row.get(0).map(DeviceKey),
    )
}

/// Replaces everything an administrator or the configuration decides about a device: not its id, nor
/// what it was last seen doing.
///
/// # Errors
/// Any of SQLite's.
pub fn update(conn: &Connection, row: &DeviceRow) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE device SET enabled = ?2, declared = ?3, blocked_reason = ?4, removed_at = ?5, signing = ?6, \
         secret = ?7, password = ?8, password_source = ?9, per_second = ?10, topics = ?11, groups = ?12, \
         updated_at = ?13 WHERE key = ?1",
    )?
    .execute(params![
        row.key.0,
        row.enabled,
        row.declared,
        row.blocked_reason,
        row.removed_at.map(to_sql),
        row.signing,
        row.secret,
        row.password,
        row.password_source,
        row.per_second,
        row.topics,
        row.groups,
        to_sql(row.updated_at),
    ])?;
    Ok(())
}

/// Keeps what devices were last seen doing.
///
/// # Errors
/// Any of SQLite's.
pub fn record_seen(conn: &Connection, seen: &[SeenRow]) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached(
        "UPDATE device SET last_version = coalesce(?2, last_version), last_seen = coalesce(?3, last_seen) \
         WHERE key = ?1",
    )?;
    for row in seen {
        update.execute(params![
            row.key.0,
            row.last_version,
            row.last_seen.map(to_sql)
        ])?;
    }
    Ok(())
}

/// Whether anything is sealed under a master key.
///
/// # Errors
/// Any of SQLite's.
pub fn holds_sealed(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM device WHERE secret IS NOT NULL) OR EXISTS (SELECT 1 FROM seal_check)",
        [],
        |row| row.get(0),
    )
}

/// The sealed value that proves the master key, if there is one yet.
///
/// # Errors
/// Any of SQLite's.
pub fn seal_check(conn: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    conn.query_row("SELECT sealed FROM seal_check", [], |row| row.get(0))
        .optional()
}

/// Stores the value that proves the master key.
///
/// # Errors
/// Any of SQLite's.
pub fn set_seal_check(conn: &Connection, sealed: &[u8]) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR REPLACE INTO seal_check (id, sealed) VALUES (1, ?1)",
        [sealed],
    )?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<DeviceRow> {
    Ok(DeviceRow {
        key: DeviceKey(row.get(0)?),
        id: row.get(1)?,
        enabled: row.get(2)?,
        declared: row.get(3)?,
        blocked_reason: row.get(4)?,
        removed_at: row.get::<_, Option<i64>>(5)?.map(from_sql),
        signing: row.get(6)?,
        secret: row.get(7)?,
        password: row.get(8)?,
        password_source: row.get(9)?,
        per_second: row.get(10)?,
        topics: row.get(11)?,
        groups: row.get(12)?,
        last_version: row.get(13)?,
        last_seen: row.get::<_, Option<i64>>(14)?.map(from_sql),
        created_at: from_sql(row.get(15)?),
        updated_at: from_sql(row.get(16)?),
    })
}

/// A time as SQLite keeps it; SQLite's integers are signed.
pub(super) fn to_sql(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(time: i64) -> UnixMillis {
    UnixMillis(u64::try_from(time).unwrap_or(0))
}

/// The device of this id, also if it was removed.
///
/// # Errors
/// Any of SQLite's.
pub fn by_id(conn: &Connection, id: &str) -> rusqlite::Result<Option<DeviceRow>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM device WHERE id = ?1"))?
        .query_row([id], from_row)
        .optional()
}
