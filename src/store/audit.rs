//! Rows of the table `audit`: appended, read, and forgotten when they are old; never changed.

use rusqlite::{Connection, params};

use super::devices::{from_sql, to_sql};
use crate::clock::UnixMillis;

/// Who did what to what, from where, and what came of it. Holds no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub at: UnixMillis,
    /// Such as `key:1f2e3d4c`, `operator:alice`, `local:root`; `anonymous` when nobody was proved.
    pub actor: String,
    /// The address it came from.
    pub peer: Option<String>,
    /// Such as `command.send`.
    pub action: String,
    /// Such as a device id.
    pub target: Option<String>,
    /// `ok`, or why not; an HTTP status from the API.
    pub result: String,
    pub detail: Option<String>,
}

/// Entries kept: about 60 MB of them.
pub const MAX_ROWS: u32 = 500_000;
/// How long entries are kept.
pub const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(400 * 24 * 3600);
/// Old entries forgotten with each write, so that no single one takes long.
const PRUNE: u32 = 1_000;

/// Appends entries and forgets what is too old or too much.
///
/// # Errors
/// Any of SQLite's.
pub fn append(conn: &Connection, entries: &[Entry], now: UnixMillis) -> rusqlite::Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO audit (at, actor, peer, action, target, result, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for entry in entries {
        insert.execute(params![
            to_sql(entry.at),
            entry.actor,
            entry.peer,
            entry.action,
            entry.target,
            entry.result,
            entry.detail
        ])?;
    }
    prune(conn, now, MAX_ROWS)
}

/// Entries are numbered without gaps but at the old end, so the numbers count them.
fn prune(conn: &Connection, now: UnixMillis, keep: u32) -> rusqlite::Result<()> {
    let oldest = to_sql(now).saturating_sub(i64::try_from(MAX_AGE.as_millis()).unwrap_or(i64::MAX));
    conn.prepare_cached(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit ORDER BY seq LIMIT ?1) \
         AND (at < ?2 OR seq <= (SELECT max(seq) FROM audit) - ?3)",
    )?
    .execute(params![PRUNE, oldest, keep])?;
    Ok(())
}

/// The newest entries before `before` (a number from an earlier call), newest first, each with its
/// number.
///
/// # Errors
/// Any of SQLite's.
pub fn recent(
    conn: &Connection,
    before: Option<i64>,
    most: u32,
) -> rusqlite::Result<Vec<(i64, Entry)>> {
    conn.prepare_cached(
        "SELECT seq, at, actor, peer, action, target, result, detail FROM audit \
         WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    )?
    .query_map(params![before.unwrap_or(i64::MAX), most], |row| {
        Ok((
            row.get(0)?,
            Entry {
                at: from_sql(row.get(1)?),
                actor: row.get(2)?,
                peer: row.get(3)?,
                action: row.get(4)?,
                target: row.get(5)?,
                result: row.get(6)?,
                detail: row.get(7)?,
            },
        ))
    })?
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> Entry {
        Entry {
            at: UnixMillis(at),
            actor: "key:a".to_owned(),
            peer: Some("127.0.0.1".to_owned()),
            action: "command.send".to_owned(),
            target: None,
            result: "202".to_owned(),
            detail: None,
        }
    }

    #[test]
    fn what_is_too_old_or_too_much_is_forgotten() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(include_str!("migrations/0002_registry.sql"))
            .unwrap();
        let year = 400 * 24 * 3600 * 1000;
        append(&conn, &[entry(1), entry(2), entry(year)], UnixMillis(year)).unwrap();
        assert_eq!(recent(&conn, None, 10).unwrap().len(), 3);
        append(&conn, &[entry(year + 2)], UnixMillis(year + 2)).unwrap();
        let kept = recent(&conn, None, 10).unwrap();
        assert_eq!(
            kept.iter().map(|(_, e)| e.at.0).collect::<Vec<_>>(),
            [year + 2, year, 2]
        );
        prune(&conn, UnixMillis(0), 2).unwrap();
        let kept = recent(&conn, None, 10).unwrap();
        assert_eq!(
            kept.iter().map(|(_, e)| e.at.0).collect::<Vec<_>>(),
            [year + 2, year]
        );
        assert_eq!(recent(&conn, Some(kept[0].0), 10).unwrap(), kept[1..]);
    }
}
