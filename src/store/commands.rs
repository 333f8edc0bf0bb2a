//! Rows of the table `command`. What may follow what is decided in [`crate::command`].

use rusqlite::{Connection, OptionalExtension, Row, params};
use tidegate_wire::{MessageId, Payload, command::Ack, limits::slots_for};

use super::{
    DeviceKey,
    devices::{from_sql, to_sql},
};
use crate::{
    clock::UnixMillis,
    command::{CommandStatus, Event, Pending, State},
};

/// A command about to be stored.
#[derive(Clone, Debug)]
pub struct NewCommand {
    pub id: MessageId,
    pub device: DeviceKey,
    pub payload: Vec<u8>,
    pub by: String,
    pub idempotency_key: Option<String>,
    /// SHA-256 over what was asked for.
    pub request_digest: [u8; 32],
    pub queued_at: UnixMillis,
    pub expires_at: UnixMillis,
}

/// What became of an attempt to store one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    New,
    /// The same was asked for under this idempotency key before; this is the command it became.
    Before(MessageId),
    /// Something else was asked for under this idempotency key before.
    Conflict,
    /// The device already has as many commands waiting as it may.
    QueueFull,
    /// The device may not be sent commands.
    Refused,
}

/// What became of an outcome a device reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recorded {
    /// The command is now done or failed.
    Settled(MessageId, State),
    /// The command had an outcome already; the first one stands.
    Repeated(MessageId),
    /// No such command of this device: forgotten long ago, or never ours.
    Unknown(MessageId),
    /// The payload is not an outcome.
    NotAnOutcome,
}

/// Stores a command, unless it was stored before under its idempotency key, or `accepting` is
/// false, or `most` are waiting for the device already.
///
/// # Errors
/// Any of SQLite's.
pub fn insert(
    conn: &Connection,
    new: &NewCommand,
    accepting: bool,
    most: u32,
) -> rusqlite::Result<Inserted> {
    if let Some(key) = &new.idempotency_key {
        let before = conn
            .prepare_cached(
                "SELECT id, request_digest FROM command \
                 WHERE queued_by = ?1 AND device = ?2 AND idempotency_key = ?3",
            )?
            .query_row(params![new.by, new.device.0, key], |row| {
                Ok((message_id(row, 0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .optional()?;
        match before {
            Some((id, digest)) if digest == new.request_digest => return Ok(Inserted::Before(id)),
            Some(_) => return Ok(Inserted::Conflict),
            None => {}
        }
    }
    if !accepting {
        return Ok(Inserted::Refused);
    }
    if waiting(conn, new.device)? >= most {
        return Ok(Inserted::QueueFull);
    }
    conn.prepare_cached(
        "INSERT INTO command (id, device, state, payload, queued_by, idempotency_key, request_digest, \
         queued_at, expires_at) VALUES (?1, ?2, 'queued', ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        new.id.as_bytes(),
        new.device.0,
        new.payload,
        new.by,
        new.idempotency_key,
        new.request_digest,
        to_sql(new.queued_at),
        to_sql(new.expires_at),
    ])?;
    Ok(Inserted::New)
}

/// How many commands of a device are neither delivered nor given up.
///
/// # Errors
/// Any of SQLite's.
pub fn waiting(conn: &Connection, device: DeviceKey) -> rusqlite::Result<u32> {
    conn.prepare_cached(
        "SELECT count(*) FROM command WHERE device = ?1 AND state IN ('queued', 'sent')",
    )?
    .query_row([device.0], |row| row.get(0))
}

/// Devices with commands neither delivered nor given up.
///
/// # Errors
/// Any of SQLite's.
pub fn devices_waiting(conn: &Connection) -> rusqlite::Result<Vec<DeviceKey>> {
    conn.prepare("SELECT DISTINCT device FROM command WHERE state IN ('queued', 'sent')")?
        .query_map([], |row| row.get(0).map(DeviceKey))?
        .collect()
}

/// The commands of a device that are to be sent, oldest first.
///
/// # Errors
/// Any of SQLite's.
pub fn pending(
    conn: &Connection,
    device: DeviceKey,
    now: UnixMillis,
    most: u32,
) -> rusqlite::Result<Vec<Pending>> {
    conn.prepare_cached(
        "SELECT id, payload, expires_at, attempts FROM command \
         WHERE device = ?1 AND state = 'queued' AND expires_at > ?2 ORDER BY seq LIMIT ?3",
    )?
    .query_map(params![device.0, to_sql(now), most], |row| {
        Ok(Pending {
            message_id: message_id(row, 0)?,
            payload: row.get::<_, Vec<u8>>(1)?.into(),
            expires_at: from_sql(row.get(2)?),
            attempts: row.get(3)?,
        })
    })?
    .collect()
}

/// Lets `event` happen to a command, if its state admits it, and returns the state it is in then;
/// `None` if the device has no such command.
///
/// # Errors
/// Any of SQLite's.
pub fn apply(
    conn: &Connection,
    device: DeviceKey,
    id: MessageId,
    event: Event,
    detail: Option<&str>,
    now: UnixMillis,
) -> rusqlite::Result<Option<(State, bool)>> {
    let Some(state) = state(conn, device, id)? else {
        return Ok(None);
    };
    let Some(next) = state.after(event) else {
        return Ok(Some((state, false)));
    };
    let at = to_sql(now);
    let (sent, delivered, finished) = match next {
        State::Queued => (None, None, None),
        State::Sent => (Some(at), None, None),
        State::Delivered => (None, Some(at), None),
        State::Done | State::Failed | State::Expired => (None, None, Some(at)),
    };
    conn.prepare_cached(
        "UPDATE command SET state = ?2, sent_at = coalesce(?3, sent_at), \
         delivered_at = coalesce(?4, delivered_at), finished_at = ?5, detail = coalesce(?6, detail), \
         attempts = attempts + ?7 WHERE id = ?1",
    )?
    .execute(params![
        id.as_bytes(),
        next.as_str(),
        sent,
        delivered,
        finished,
        detail,
        matches!(event, Event::Sent),
    ])?;
    Ok(Some((next, true)))
}

/// Puts every command that was sent but not confirmed back into the queue: those of one device whose
/// connection ended, or of all devices when the gateway starts.
///
/// # Errors
/// Any of SQLite's.
pub fn requeue(conn: &Connection, device: Option<DeviceKey>) -> rusqlite::Result<usize> {
    match device {
        Some(device) => conn
            .prepare_cached(
                "UPDATE command SET state = 'queued' WHERE device = ?1 AND state = 'sent'",
            )?
            .execute([device.0]),
        None => conn.execute(
            "UPDATE command SET state = 'queued' WHERE state = 'sent'",
            [],
        ),
    }
}

/// Gives up on everything whose time has come, at most `most` at once; returns whose they were.
///
/// # Errors
/// Any of SQLite's.
pub fn expire(
    conn: &Connection,
    now: UnixMillis,
    most: u32,
) -> rusqlite::Result<Vec<(DeviceKey, MessageId)>> {
    conn.prepare_cached(
        "UPDATE command SET state = 'expired', finished_at = ?1 WHERE seq IN \
         (SELECT seq FROM command WHERE state IN ('queued', 'sent') AND expires_at <= ?1 \
          ORDER BY expires_at LIMIT ?2) \
         RETURNING device, id",
    )?
    .query_map(params![to_sql(now), most], |row| {
        Ok((DeviceKey(row.get(0)?), message_id(row, 1)?))
    })?
    .collect()
}

/// Forgets settled commands queued before `before`, and the oldest settled ones beyond `keep`; at
/// most `most` of each at once.
///
/// # Errors
/// Any of SQLite's.
pub fn purge(
    conn: &Connection,
    before: UnixMillis,
    keep: u32,
    most: u32,
) -> rusqlite::Result<usize> {
    let old = conn.execute(
        "DELETE FROM command WHERE seq IN (SELECT seq FROM command \
         WHERE state NOT IN ('queued', 'sent') AND queued_at < ?1 ORDER BY queued_at LIMIT ?2)",
        params![to_sql(before), most],
    )?;
    let settled: u32 = conn.query_row(
        "SELECT count(*) FROM command WHERE state NOT IN ('queued', 'sent')",
        [],
        |row| row.get(0),
    )?;
    let surplus = settled.saturating_sub(keep).min(most);
    if surplus == 0 {
        return Ok(old);
    }
    let beyond = conn.execute(
        "DELETE FROM command WHERE seq IN (SELECT seq FROM command \
         WHERE state NOT IN ('queued', 'sent') ORDER BY queued_at LIMIT ?1)",
        [surplus],
    )?;
    Ok(old + beyond)
}

/// Everything known about one command.
///
/// # Errors
/// Any of SQLite's.
pub fn status(
    conn: &Connection,
    device: DeviceKey,
    id: MessageId,
) -> rusqlite::Result<Option<CommandStatus>> {
    conn.prepare_cached(&format!(
        "SELECT {STATUS} FROM command WHERE id = ?1 AND device = ?2"
    ))?
    .query_row(params![id.as_bytes(), device.0], status_from_row)
    .optional()
}

/// The newest commands of a device, newest first.
///
/// # Errors
/// Any of SQLite's.
pub fn recent(
    conn: &Connection,
    device: DeviceKey,
    most: u32,
) -> rusqlite::Result<Vec<CommandStatus>> {
    conn.prepare_cached(&format!(
        "SELECT {STATUS} FROM command WHERE device = ?1 ORDER BY seq DESC LIMIT ?2"
    ))?
    .query_map(params![device.0, most], status_from_row)?
    .collect()
}

/// Records the outcome a device reported on `ack`. Runs in the transaction that accepts the message.
/// `payload` is the verified message's.
///
/// # Errors
/// Any of SQLite's.
pub fn record_outcome(
    conn: &Connection,
    device: DeviceKey,
    payload: &[u8],
    now: UnixMillis,
) -> rusqlite::Result<Recorded> {
    // An outcome has a handful of members; what does not fit into this many is none.
    let mut slots = vec![0; slots_for(payload.len().min(4096))];
    let Some(ack) = Payload::parse(payload, &mut slots)
        .ok()
        .and_then(|p| Ack::parse(&p).ok())
    else {
        return Ok(Recorded::NotAnOutcome);
    };
    let detail = ack.detail.map(|detail| detail.as_str());
    let event = Event::Outcome(ack.status);
    Ok(
        match apply(conn, device, ack.command_id, event, detail, now)? {
            Some((state, true)) => Recorded::Settled(ack.command_id, state),
            Some((_, false)) => Recorded::Repeated(ack.command_id),
            None => Recorded::Unknown(ack.command_id),
        },
    )
}

fn state(conn: &Connection, device: DeviceKey, id: MessageId) -> rusqlite::Result<Option<State>> {
    conn.prepare_cached("SELECT state FROM command WHERE id = ?1 AND device = ?2")?
        .query_row(params![id.as_bytes(), device.0], |row| state_at(row, 0))
        .optional()
}

const STATUS: &str =
    "id, state, detail, attempts, queued_at, expires_at, sent_at, delivered_at, finished_at";

fn status_from_row(row: &Row<'_>) -> rusqlite::Result<CommandStatus> {
    let time =
        |index| -> rusqlite::Result<_> { Ok(row.get::<_, Option<i64>>(index)?.map(from_sql)) };
    Ok(CommandStatus {
        message_id: message_id(row, 0)?,
        state: state_at(row, 1)?,
        detail: row.get(2)?,
        attempts: row.get(3)?,
        queued_at: from_sql(row.get(4)?),
        expires_at: from_sql(row.get(5)?),
        sent_at: time(6)?,
        delivered_at: time(7)?,
        finished_at: time(8)?,
    })
}

fn message_id(row: &Row<'_>, index: usize) -> rusqlite::Result<MessageId> {
    row.get(index).map(MessageId::from_bytes)
}

fn state_at(row: &Row<'_>, index: usize) -> rusqlite::Result<State> {
    let text = row.get_ref(index)?.as_str()?;
    State::from_text(text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            format!("`{text}` is no state of a command").into(),
        )
    })
}

/// Whether [`expire`] or [`purge`] would find anything to do.
///
/// # Errors
/// Any of SQLite's.
pub fn is_due(
    conn: &Connection,
    now: UnixMillis,
    purge_before: UnixMillis,
    keep: u32,
) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM command WHERE state IN ('queued', 'sent') AND expires_at <= ?1) \
         OR EXISTS (SELECT 1 FROM command WHERE state NOT IN ('queued', 'sent') AND queued_at < ?2) \
         OR (SELECT count(*) FROM command WHERE state NOT IN ('queued', 'sent')) > ?3",
    )?
    .query_row(params![to_sql(now), to_sql(purge_before), keep], |row| row.get(0))
}
