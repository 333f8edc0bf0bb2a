//! Rows of the table `api_key`. What a key may do is decided in [`crate::api`].

use rusqlite::{Connection, params};

use super::devices::{from_sql, to_sql};
use crate::clock::UnixMillis;

/// One API key as it lies in the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyRow {
    pub id: String,
    pub name: String,
    /// SHA-256 of the token's random part. A slow hash would add nothing: there are 256 random bits to
    /// guess, not a password, and every request would pay for it.
    pub digest: [u8; 32],
    /// JSON.
    pub scopes: String,
    /// JSON; none: all devices.
    pub devices: Option<String>,
    pub created_at: UnixMillis,
    pub created_by: String,
    pub expires_at: Option<UnixMillis>,
    pub last_used_at: Option<UnixMillis>,
    pub revoked_at: Option<UnixMillis>,
}

/// Every key there ever was, oldest first.
///
/// # Errors
/// Any of SQLite's.
pub fn all(conn: &Connection) -> rusqlite::Result<Vec<KeyRow>> {
    conn.prepare(
        "SELECT id, name, digest, scopes, devices, created_at, created_by, expires_at, last_used_at, revoked_at \
         FROM api_key ORDER BY created_at, id",
    )?
    .query_map([], |row| {
        Ok(KeyRow {
            id: row.get(0)?,
            name: row.get(1)?,
            digest: row.get(2)?,
            scopes: row.get(3)?,
            devices: row.get(4)?,
            created_at: from_sql(row.get(5)?),
            created_by: row.get(6)?,
            expires_at: row.get::<_, Option<i64>>(7)?.map(from_sql),
            last_used_at: row.get::<_, Option<i64>>(8)?.map(from_sql),
            revoked_at: row.get::<_, Option<i64>>(9)?.map(from_sql),
        })
    })?
    .collect()
}

/// Stores a key.
///
/// # Errors
/// Any of SQLite's; one is that the id exists.
pub fn insert(conn: &Connection, row: &KeyRow) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO api_key (id, name, digest, scopes, devices, created_at, created_by, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.id,
            row.name,
            row.digest,
            row.scopes,
            row.devices,
            to_sql(row.created_at),
            row.created_by,
            row.expires_at.map(to_sql),
        ],
    )?;
    Ok(())
}

/// Revokes a key; one that is revoked keeps its time.
///
/// # Errors
/// Any of SQLite's.
pub fn revoke(conn: &Connection, id: &str, now: UnixMillis) -> rusqlite::Result<()> {
    conn.execute(
        "UPDATE api_key SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1",
        params![id, to_sql(now)],
    )?;
    Ok(())
}

/// Keeps when keys were last used.
///
/// # Errors
/// Any of SQLite's.
pub fn record_used(conn: &Connection, used: &[(String, UnixMillis)]) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached("UPDATE api_key SET last_used_at = ?2 WHERE id = ?1")?;
    for (id, at) in used {
        update.execute(params![id, to_sql(*at)])?;
    }
    Ok(())
}
