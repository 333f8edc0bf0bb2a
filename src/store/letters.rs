//! Messages that were copied out of the log: parked ones, which are owed, and dead letters.

use rusqlite::{Connection, Row, params, types::Type};
use tidegate_wire::MessageId;

use super::{
    DeadFilter, DeadLetter, DeviceKey, Message, Outcome, ParkedDevice, Seq, UpstreamKey, db,
    segment::{self, Record},
    un,
};
use crate::clock::UnixMillis;

/// Only for people to read, so the database's own clock will do.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

const COLUMNS: &str = "seq, device, kind, message_id, timestamp, received_at, payload";

/// Copies a message out of the log, to be parked or dead.
pub(super) fn keep(
    conn: &Connection,
    upstream: UpstreamKey,
    seq: Seq,
    record: &Record<'_>,
    outcome: &Outcome,
) -> rusqlite::Result<()> {
    if let Outcome::Dead { status, reason } = outcome {
        conn.prepare_cached(&format!(
            "INSERT INTO dead (upstream, {COLUMNS}, status, reason, died_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, {NOW})"
        ))?
        .execute(params![
            upstream.0,
            db(seq.0),
            record.device.0,
            segment::kind_number(record.kind),
            record.message_id.as_bytes(),
            db(record.timestamp),
            db(record.received_at.0),
            record.payload,
            status,
            reason,
        ])?;
    } else {
        conn.prepare_cached(&format!(
            "INSERT INTO parked (upstream, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
        ))?
        .execute(params![
            upstream.0,
            db(seq.0),
            record.device.0,
            segment::kind_number(record.kind),
            record.message_id.as_bytes(),
            db(record.timestamp),
            db(record.received_at.0),
            record.payload,
        ])?;
    }
    Ok(())
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let unreadable = |column, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.to_owned().into())
    };
    Ok(Message {
        seq: Seq(un(row.get(0)?)),
        device: DeviceKey(row.get(1)?),
        kind: segment::kind_of(row.get(2)?).ok_or_else(|| unreadable(2, "unknown kind"))?,
        message_id: MessageId::from_bytes(row.get(3)?),
        timestamp: un(row.get(4)?),
        received_at: UnixMillis(un(row.get(5)?)),
        payload: bytes::Bytes::copy_from_slice(
            row.get_ref(6)?
                .as_blob()
                .map_err(|_| unreadable(6, "no payload"))?,
        ),
    })
}

pub(super) fn parked(
    conn: &Connection,
    upstream: UpstreamKey,
    device: DeviceKey,
    limit: u32,
) -> rusqlite::Result<Vec<Message>> {
    conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM parked WHERE upstream = ?1 AND device = ?2 ORDER BY seq LIMIT ?3"
    ))?
    .query_map(params![upstream.0, device.0, limit], message)?
    .collect()
}

pub(super) fn parked_devices(
    conn: &Connection,
    upstream: UpstreamKey,
) -> rusqlite::Result<Vec<ParkedDevice>> {
    conn.prepare_cached(
        "SELECT device, count(*), min(seq) FROM parked WHERE upstream = ?1 GROUP BY device",
    )?
    .query_map([upstream.0], |row| {
        Ok(ParkedDevice {
            device: DeviceKey(row.get(0)?),
            messages: un(row.get(1)?),
            oldest: Seq(un(row.get(2)?)),
        })
    })?
    .collect()
}

pub(super) fn remove_parked(
    conn: &Connection,
    upstream: UpstreamKey,
    device: DeviceKey,
    seq: Seq,
) -> rusqlite::Result<bool> {
    conn.prepare_cached("DELETE FROM parked WHERE upstream = ?1 AND device = ?2 AND seq = ?3")?
        .execute(params![upstream.0, device.0, db(seq.0)])
        .map(|rows| rows > 0)
}

/// A parked message is refused for good.
pub(super) fn bury_parked(
    conn: &Connection,
    upstream: UpstreamKey,
    device: DeviceKey,
    seq: Seq,
    status: Option<u16>,
    reason: &str,
) -> rusqlite::Result<bool> {
    conn.prepare_cached(&format!(
        "INSERT INTO dead (upstream, {COLUMNS}, status, reason, died_at)
         SELECT upstream, {COLUMNS}, ?4, ?5, {NOW} FROM parked
         WHERE upstream = ?1 AND device = ?2 AND seq = ?3"
    ))?
    .execute(params![upstream.0, device.0, db(seq.0), status, reason])?;
    remove_parked(conn, upstream, device, seq)
}

pub(super) fn oldest_parked(
    conn: &Connection,
    upstream: UpstreamKey,
) -> rusqlite::Result<Option<Seq>> {
    let oldest: Option<i64> = conn
        .prepare_cached("SELECT min(seq) FROM parked WHERE upstream = ?1")?
        .query_row([upstream.0], |row| row.get(0))?;
    Ok(oldest.map(|seq| Seq(un(seq))))
}

/// Deletes the oldest parked messages; returns how many.
pub(super) fn discard_parked(
    conn: &Connection,
    upstream: UpstreamKey,
    most: u32,
) -> rusqlite::Result<u64> {
    conn.prepare_cached(
        "DELETE FROM parked WHERE id IN
         (SELECT id FROM parked WHERE upstream = ?1 ORDER BY seq LIMIT ?2)",
    )?
    .execute([upstream.0, most])
    .map(|rows| rows as u64)
}

/// Deletes parked messages received before `cutoff`; returns how many.
pub(super) fn expire_parked(
    conn: &Connection,
    upstream: UpstreamKey,
    cutoff: UnixMillis,
) -> rusqlite::Result<u64> {
    conn.prepare_cached("DELETE FROM parked WHERE upstream = ?1 AND received_at < ?2")?
        .execute(params![upstream.0, db(cutoff.0)])
        .map(|rows| rows as u64)
}

/// Parameters 2 to 5 of a statement about dead letters.
const CHOSEN: &str = "upstream = ?1 AND (?2 IS NULL OR device = ?2) AND (?3 IS NULL OR seq = ?3)
    AND seq > ?4 ORDER BY seq LIMIT ?5";

type Chosen = (u32, Option<u32>, Option<i64>, i64, i64);

fn chosen(upstream: UpstreamKey, filter: DeadFilter) -> Chosen {
    (
        upstream.0,
        filter.device.map(|device| device.0),
        filter.seq.map(|seq| db(seq.0)),
        db(filter.after.unwrap_or_default().0),
        // SQLite: a negative limit is none.
        if filter.limit == 0 {
            -1
        } else {
            i64::from(filter.limit)
        },
    )
}

pub(super) fn dead(
    conn: &Connection,
    upstream: UpstreamKey,
    filter: DeadFilter,
) -> rusqlite::Result<Vec<DeadLetter>> {
    conn.prepare_cached(&format!(
        "SELECT {COLUMNS}, status, reason, died_at FROM dead WHERE {CHOSEN}"
    ))?
    .query_map(chosen(upstream, filter), |row| {
        Ok(DeadLetter {
            message: message(row)?,
            status: row.get(7)?,
            reason: row.get(8)?,
            died_at: UnixMillis(un(row.get(9)?)),
        })
    })?
    .collect()
}

/// Parks dead letters, so that they are owed again; returns how many.
pub(super) fn revive(
    conn: &Connection,
    upstream: UpstreamKey,
    filter: DeadFilter,
) -> rusqlite::Result<u64> {
    conn.prepare_cached(&format!(
        "INSERT INTO parked (upstream, {COLUMNS}) SELECT upstream, {COLUMNS} FROM dead WHERE {CHOSEN}"
    ))?
    .execute(chosen(upstream, filter))?;
    drop_dead(conn, upstream, filter)
}

/// Deletes dead letters; returns how many.
pub(super) fn drop_dead(
    conn: &Connection,
    upstream: UpstreamKey,
    filter: DeadFilter,
) -> rusqlite::Result<u64> {
    conn.prepare_cached(&format!(
        "DELETE FROM dead WHERE id IN (SELECT id FROM dead WHERE {CHOSEN})"
    ))?
    .execute(chosen(upstream, filter))
    .map(|rows| rows as u64)
}

/// Deletes all of an upstream's.
pub(super) fn remove_all(conn: &Connection, upstream: UpstreamKey) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM parked WHERE upstream = ?1", [upstream.0])?;
    conn.execute("DELETE FROM dead WHERE upstream = ?1", [upstream.0])?;
    Ok(())
}
