//! Where what is remembered against replay is kept: [`crate::replay`] on SQLite.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use super::{StoreError, db, log, un};
use crate::replay::{
    Entry, Filter, FilterError, HashKey, Key, Memory, Pages, RunId, RunRecord, RunState, State,
};

/// The runs' tables, within the connection's transaction.
#[derive(Debug)]
pub(super) struct Tables<'c>(pub(super) &'c Connection);

/// Pages and filters are numbered within their run.
const NUMBER_BITS: u32 = 24;

fn row(run: RunId, number: u32) -> i64 {
    db(run.0 << NUMBER_BITS | u64::from(number))
}

fn damaged(_: FilterError) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some("a page of remembered message ids is damaged".to_owned()),
    )
}

impl Pages for Tables<'_> {
    type Error = rusqlite::Error;

    fn scan(
        &self,
        run: RunId,
        pages: Range<u32>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), FilterError>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.0.prepare_cached(
            "SELECT entries FROM replay_page WHERE id >= ?1 AND id < ?2 ORDER BY id",
        )?;
        let mut rows = statement.query([row(run, pages.start), row(run, pages.end)])?;
        while let Some(found) = rows.next()? {
            each(found.get_ref(0)?.as_blob()?).map_err(damaged)?;
        }
        Ok(())
    }

    fn put_page(&mut self, run: RunId, page: u32, bytes: &[u8]) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO replay_page (id, entries) VALUES (?1, ?2)")?
            .execute(params![row(run, page), bytes])?;
        Ok(())
    }

    fn put_filter(&mut self, run: RunId, piece: u32, bytes: &[u8]) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("INSERT OR REPLACE INTO replay_filter (id, bytes) VALUES (?1, ?2)")?
            .execute(params![row(run, piece), bytes])?;
        Ok(())
    }

    fn remove_pages(&mut self, run: RunId, pages: Range<u32>) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM replay_page WHERE id >= ?1 AND id < ?2")?
            .execute([row(run, pages.start), row(run, pages.end)])?;
        Ok(())
    }

    fn put_run(&mut self, run: &RunRecord) -> rusqlite::Result<()> {
        let state = match run.state {
            RunState::Building => 0,
            RunState::Live => 1,
            RunState::Dropping => 2,
        };
        self.0
            .prepare_cached(
                "INSERT OR REPLACE INTO replay_run (id, state, level, entries, pages,
                 newest_timestamp, first_received, last_received)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                db(run.id.0),
                state,
                run.level,
                db(run.entries),
                run.pages,
                db(run.newest_timestamp),
                db(run.first_received),
                db(run.last_received),
            ])?;
        Ok(())
    }

    fn remove_run(&mut self, run: RunId) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM replay_filter WHERE id >= ?1 AND id < ?2")?
            .execute([row(run, 0), row(RunId(run.0 + 1), 0)])?;
        self.0
            .prepare_cached("DELETE FROM replay_run WHERE id = ?1")?
            .execute([db(run.0)])?;
        Ok(())
    }

    fn put_state(&mut self, state: State) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE replay_state SET sealed_through = ?1, forgotten_through = ?2 WHERE id = 1",
            )?
            .execute([db(state.sealed_through), db(state.forgotten_through)])?;
        Ok(())
    }
}

/// Reads what is remembered: the filters of the runs, and from the log what is not sealed yet.
pub(super) fn load(
    conn: &Connection,
    key: HashKey,
    window_s: u64,
    max_unsealed_bytes: u64,
) -> Result<(Memory, u64), StoreError> {
    let state = conn.query_row(
        "SELECT sealed_through, forgotten_through FROM replay_state WHERE id = 1",
        [],
        |row| {
            Ok(State {
                sealed_through: un(row.get(0)?),
                forgotten_through: un(row.get(1)?),
            })
        },
    )?;
    let records = runs(conn)?
        .into_iter()
        .map(|record| Ok((record, filters(conn, &record)?)))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut memory = Memory::new(key, window_s, max_unsealed_bytes, state, records);
    let mut unsealed_bytes = 0;
    let sealed = super::Seq(state.sealed_through);
    let mut first = None;
    log::each_after(conn, sealed, |seq, record| {
        first = first.or(Some(seq));
        unsealed_bytes += record.payload.len() as u64;
        if record.remembered {
            let key = Key {
                device: record.device,
                message_id: record.message_id,
            };
            let entry = Entry {
                key,
                digest: record.digest,
            };
            memory.restore(entry, record.timestamp, record.received_at.seconds());
        }
    })?;
    // What is not sealed is never pruned.
    if let Some(first) = first.filter(|first| first.0 > sealed.0 + 1) {
        return Err(log::gap(sealed, first));
    }
    Ok((memory, unsealed_bytes))
}

fn runs(conn: &Connection) -> rusqlite::Result<Vec<RunRecord>> {
    conn.prepare(
        "SELECT id, state, level, entries, pages, newest_timestamp, first_received, last_received
         FROM replay_run ORDER BY id",
    )?
    .query_map([], |row| {
        Ok(RunRecord {
            id: RunId(un(row.get(0)?)),
            state: match row.get(1)? {
                1 => RunState::Live,
                0 => RunState::Building,
                _ => RunState::Dropping,
            },
            level: row.get(2)?,
            entries: un(row.get(3)?),
            pages: row.get(4)?,
            newest_timestamp: un(row.get(5)?),
            first_received: un(row.get(6)?),
            last_received: un(row.get(7)?),
        })
    })?
    .collect()
}

fn filters(conn: &Connection, run: &RunRecord) -> rusqlite::Result<Vec<Filter>> {
    if run.state != RunState::Live {
        return Ok(Vec::new());
    }
    let pieces = crate::replay::pieces(run);
    let mut statement = conn.prepare_cached("SELECT bytes FROM replay_filter WHERE id = ?1")?;
    (0..pieces)
        .map(|piece| {
            let bytes: Option<Vec<u8>> = statement
                .query_row([row(run.id, piece)], |row| row.get(0))
                .optional()?;
            Filter::decode(&bytes.unwrap_or_default()).map_err(damaged)
        })
        .collect()
}
