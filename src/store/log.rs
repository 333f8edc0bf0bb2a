//! The rows of the log.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Seq, StoreError, db,
    segment::{Builder, Record, Segment},
    un,
};
use crate::clock::UnixMillis;

/// Where the log ends, and how many messages of each kind it ever took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct LogEnd {
    pub(super) end: Seq,
    pub(super) data: u64,
    pub(super) events: u64,
}

pub(super) fn end(conn: &Connection) -> rusqlite::Result<LogEnd> {
    let end = conn
        .query_row(
            "SELECT first_seq + count - 1, data_total, event_total FROM segment
             ORDER BY first_seq DESC LIMIT 1",
            [],
            |row| {
                Ok(LogEnd {
                    end: Seq(un(row.get(0)?)),
                    data: un(row.get(1)?),
                    events: un(row.get(2)?),
                })
            },
        )
        .optional()?;
    Ok(end.unwrap_or_default())
}

/// Writes a finished segment; `end` is the log's end including it.
pub(super) fn append(
    conn: &Connection,
    builder: &mut Builder,
    end: &LogEnd,
) -> rusqlite::Result<()> {
    let count = u64::from(builder.count());
    let first = end.end.0 + 1 - count;
    let newest = builder.newest_received();
    conn.prepare_cached(
        "INSERT INTO segment (first_seq, count, data_total, event_total, newest_received, records)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        db(first),
        db(count),
        db(end.data),
        db(end.events),
        db(newest.0),
        builder.finish()
    ])?;
    Ok(())
}

/// The first segment that holds something after `seq`.
pub(super) fn after(conn: &Connection, seq: Seq) -> Result<Option<Segment>, StoreError> {
    // The row that starts at or before the position may reach beyond it; else it is the next one.
    let from = conn
        .prepare_cached(
            "SELECT first_seq FROM segment WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1",
        )?
        .query_row([db(seq.0 + 1)], |row| row.get::<_, i64>(0))
        .optional()?;
    let mut statement = conn.prepare_cached(
        "SELECT first_seq, records FROM segment
         WHERE first_seq >= ?1 AND first_seq + count - 1 > ?2 ORDER BY first_seq LIMIT 1",
    )?;
    let mut rows = statement.query([from.unwrap_or(0), db(seq.0)])?;
    match rows.next()? {
        Some(row) => parse(un(row.get(0)?), row.get(1)?).map(Some),
        None => Ok(None),
    }
}

/// The segment that holds `seq`.
pub(super) fn holding(conn: &Connection, seq: Seq) -> Result<Option<Segment>, StoreError> {
    let segment = after(conn, Seq(seq.0.saturating_sub(1)))?;
    Ok(segment.filter(|segment| segment.first <= seq))
}

/// Positions have no gaps: what is not there between two segments was lost with its row.
pub(super) fn gap(reached: Seq, next: Seq) -> StoreError {
    StoreError::Damaged {
        seq: reached.0 + 1,
        detail: format!(
            "what should come before position {next} is gone",
            next = next.0
        ),
    }
}

/// Calls `each` for every record after `seq`, in order.
pub(super) fn each_after(
    conn: &Connection,
    seq: Seq,
    mut each: impl FnMut(Seq, Record<'_>),
) -> Result<(), StoreError> {
    let mut at = seq;
    while let Some(segment) = after(conn, at)? {
        // The first one may begin later: what was before it is pruned.
        if at > seq && segment.first.0 > at.0 + 1 {
            return Err(gap(at, segment.first));
        }
        let mut reached = at;
        for (seq, record) in segment.records().filter(|(seq, _)| *seq > at) {
            each(seq, record);
            reached = seq;
        }
        if reached != segment.last() {
            return Err(StoreError::Damaged {
                seq: reached.0 + 1,
                detail: "a record cannot be read".to_owned(),
            });
        }
        at = reached;
    }
    Ok(())
}

/// When the newest message of the first segment after `seq` came, and where that segment ends.
pub(super) fn age_after(
    conn: &Connection,
    seq: Seq,
) -> rusqlite::Result<Option<(Seq, UnixMillis)>> {
    let from = conn
        .prepare_cached(
            "SELECT first_seq FROM segment WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1",
        )?
        .query_row([db(seq.0 + 1)], |row| row.get::<_, i64>(0))
        .optional()?;
    conn.prepare_cached(
        "SELECT first_seq + count - 1, newest_received FROM segment
         WHERE first_seq >= ?1 AND first_seq + count - 1 > ?2 ORDER BY first_seq LIMIT 1",
    )?
    .query_row([from.unwrap_or(0), db(seq.0)], |row| {
        Ok((Seq(un(row.get(0)?)), UnixMillis(un(row.get(1)?))))
    })
    .optional()
}

/// Rows deleted at once at most, and bytes: more than a group adds, so that pruning keeps up.
const PRUNE_ROWS: i64 = 2_048;
const PRUNE_BYTES: u64 = 8 << 20;

/// Deletes segments that end at or before `floor`, a bounded number of the oldest, and never the
/// newest one. Returns how many.
pub(super) fn prune(conn: &Connection, floor: Seq) -> rusqlite::Result<u64> {
    let mut statement = conn.prepare_cached(
        "SELECT first_seq, count, length(records) FROM segment
         WHERE first_seq <= ?1 AND first_seq < (SELECT max(first_seq) FROM segment)
         ORDER BY first_seq LIMIT ?2",
    )?;
    let mut rows = statement.query(params![db(floor.0), PRUNE_ROWS])?;
    let (mut bytes, mut below, mut count) = (0, None, 0);
    while let Some(row) = rows.next()? {
        let end = un(row.get(0)?) + un(row.get(1)?) - 1;
        bytes += un(row.get(2)?);
        if end > floor.0 || (bytes > PRUNE_BYTES && count > 0) {
            break;
        }
        below = Some(end);
        count += 1;
    }
    drop(rows);
    if let Some(below) = below {
        conn.prepare_cached("DELETE FROM segment WHERE first_seq <= ?1")?
            .execute([db(below)])?;
    }
    Ok(count)
}

fn parse(first: u64, records: Vec<u8>) -> Result<Segment, StoreError> {
    Segment::parse(Seq(first), records).map_err(|error| StoreError::Damaged {
        seq: first,
        detail: error.to_string(),
    })
}
