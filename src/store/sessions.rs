//! MQTT sessions on disk: subscriptions, the queue towards the peer, QoS 2 packet identifiers taken
//! from it, wills and retained messages.
//!
//! A message for a session gets the session's next number. Its packet identifier derives from that
//! number ([`packet_id`]), so a message that is sent again after a restart carries the identifier it
//! had, without a write per send.
//!
//! # When a queue is full
//!
//! The oldest message that was not sent yet gives way to the newest: what is true now matters more
//! to a device that comes back than what was true a week ago. Every message given up is counted in
//! the session's row and collected by [`expire`].

use rusqlite::{Connection, OptionalExtension, Result, params};

/// A session's row: never used again for another session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey(pub i64);

/// A session expiry that means for ever (MQTT 5, section 3.1.2.11.2).
pub const NEVER: u32 = u32::MAX;

/// Packet identifiers of queued messages: 1 to this. Those above are for messages that do not
/// survive the connection, so that the two never meet.
pub const QUEUED_PACKET_IDS: u16 = 0x7fff;

/// The packet identifier of a session's message number `seq` (from 1).
#[must_use]
pub fn packet_id(seq: i64) -> u16 {
    let id = (seq - 1).rem_euclid(i64::from(QUEUED_PACKET_IDS)) + 1;
    u16::try_from(id).unwrap_or(1)
}

/// One subscription as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredSubscription {
    pub filter: String,
    /// The options byte of SUBSCRIBE, with the granted QoS.
    pub options: u8,
    pub identifier: Option<u32>,
}

/// A will as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredWill {
    /// Seconds between the end of the connection and the publication.
    pub delay: u32,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub payload: Vec<u8>,
    /// Properties to publish it with, in PUBLISH's encoding.
    pub properties: Vec<u8>,
}

/// What a CONNECT asks for.
#[derive(Clone, Debug)]
pub struct Open {
    /// `device:<id>` or `operator:<name>`.
    pub identity: String,
    pub client_id: String,
    pub clean_start: bool,
    /// Seconds; 0 keeps nothing beyond the connection.
    pub expiry: u32,
    pub will: Option<StoredWill>,
    pub now_ms: i64,
    pub max_queued: u32,
    pub max_bytes: u64,
    /// Sessions this identity may have; the one unused for longest gives way.
    pub max_sessions: u32,
}

/// What a CONNECT gets.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// `None` when nothing is to be kept beyond the connection.
    pub key: Option<SessionKey>,
    /// There was a session and it goes on.
    pub present: bool,
    pub subscriptions: Vec<StoredSubscription>,
    /// QoS 2 packet identifiers taken and not released.
    pub inbound: Vec<u16>,
    /// Messages up to this number may have reached the peer before.
    pub sent_through: i64,
    /// Sessions that ended by this: the former one after Clean Start, and those given up for room.
    pub ended: Vec<SessionKey>,
    /// Wills of ended sessions, due now (MQTT 5, section 3.1.3.2.2).
    pub wills: Vec<DueWill>,
}

/// A will whose time has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DueWill {
    pub identity: String,
    pub will: StoredWill,
}

/// Opens, resumes or replaces the session of (`identity`, `client_id`).
///
/// # Errors
/// The database's.
pub fn open(conn: &Connection, wanted: &Open) -> Result<Opened> {
    let mut opened = Opened::default();
    let existing: Option<(i64, i64, Option<i64>)> = conn
        .prepare_cached(
            "SELECT key, sent_through, expires_at FROM session WHERE identity = ?1 AND client_id = ?2",
        )?
        .query_row(params![wanted.identity, wanted.client_id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    if let Some((key, sent_through, expires_at)) = existing {
        let expired = expires_at.is_some_and(|at| at <= wanted.now_ms);
        let session = SessionKey(key);
        if wanted.clean_start || expired {
            // The session ends here, and its will with it; one still being waited with is due.
            opened.wills.extend(pending_will(conn, session)?);
            discard(conn, session)?;
            opened.ended.push(session);
        } else {
            opened.key = Some(session);
            opened.present = true;
            opened.sent_through = sent_through;
            opened.subscriptions = subscriptions(conn, session)?;
            opened.inbound = inbound(conn, session)?;
        }
    }
    // An expiry of 0 still goes on with what there is: it ends with this connection.
    if opened.key.is_none() && wanted.expiry == 0 {
        return Ok(opened);
    }
    let key = match opened.key {
        Some(session) => session,
        None => make_room(conn, wanted, &mut opened)?,
    };
    conn.prepare_cached(
        "UPDATE session SET expiry = ?2, expires_at = NULL, connected = 1, seen_at = ?3,
         max_queued = ?4, max_bytes = ?5 WHERE key = ?1",
    )?
    .execute(params![
        key.0,
        wanted.expiry,
        wanted.now_ms,
        wanted.max_queued,
        i64::try_from(wanted.max_bytes).unwrap_or(i64::MAX)
    ])?;
    // A new connection before the delay is over: the former will is not published.
    conn.prepare_cached("DELETE FROM will WHERE session = ?1")?
        .execute([key.0])?;
    if let Some(will) = &wanted.will {
        conn.prepare_cached(
            "INSERT INTO will (session, identity, delay, qos, retain, topic, payload, properties)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            key.0,
            wanted.identity,
            will.delay,
            will.qos,
            will.retain,
            will.topic,
            will.payload,
            will.properties
        ])?;
    }
    opened.key = Some(key);
    Ok(opened)
}

/// Inserts the row, after the sessions of the identity unused for longest were given up.
fn make_room(conn: &Connection, wanted: &Open, opened: &mut Opened) -> Result<SessionKey> {
    let spare: Vec<i64> = conn
        .prepare_cached(
            "SELECT key FROM session WHERE identity = ?1 AND connected = 0
             ORDER BY seen_at DESC, key DESC LIMIT -1 OFFSET ?2",
        )?
        .query_map(
            params![wanted.identity, wanted.max_sessions.saturating_sub(1)],
            |row| row.get(0),
        )?
        .collect::<Result<_>>()?;
    for key in spare {
        let session = SessionKey(key);
        opened.wills.extend(pending_will(conn, session)?);
        discard(conn, session)?;
        opened.ended.push(session);
    }
    conn.prepare_cached(
        "INSERT INTO session (identity, client_id, expiry, connected, seen_at, max_queued, max_bytes)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)",
    )?
    .execute(params![
        wanted.identity,
        wanted.client_id,
        wanted.expiry,
        wanted.now_ms,
        wanted.max_queued,
        i64::try_from(wanted.max_bytes).unwrap_or(i64::MAX)
    ])?;
    Ok(SessionKey(conn.last_insert_rowid()))
}

/// Notes the end of a connection: the session lives on for `expiry` seconds. With `publish_will` the
/// will becomes due after its delay or the expiry, whichever is sooner; else it is forgotten.
/// Returns the will if it is due at once, which an expiry of 0 makes it.
///
/// # Errors
/// The database's.
pub fn close(
    conn: &Connection,
    session: SessionKey,
    expiry: u32,
    publish_will: bool,
    now_ms: i64,
) -> Result<Option<DueWill>> {
    if !publish_will {
        conn.prepare_cached("DELETE FROM will WHERE session = ?1")?
            .execute([session.0])?;
    }
    if expiry == 0 {
        let due = any_will(conn, session)?;
        discard(conn, session)?;
        return Ok(due);
    }
    conn.prepare_cached(
        "UPDATE session SET connected = 0, expiry = ?2, expires_at = ?3, seen_at = ?4 WHERE key = ?1",
    )?
    .execute(params![session.0, expiry, end(expiry, now_ms), now_ms])?;
    conn.prepare_cached("UPDATE will SET due_at = ?2 + 1000 * min(delay, ?3) WHERE session = ?1")?
        .execute(params![session.0, now_ms, expiry])?;
    let due = conn
        .prepare_cached("SELECT delay FROM will WHERE session = ?1")?
        .query_row([session.0], |row| row.get::<_, u32>(0))
        .optional()?;
    if due == Some(0) {
        let will = any_will(conn, session)?;
        conn.prepare_cached("DELETE FROM will WHERE session = ?1")?
            .execute([session.0])?;
        return Ok(will);
    }
    Ok(None)
}

fn end(expiry: u32, now_ms: i64) -> Option<i64> {
    (expiry != NEVER).then(|| now_ms.saturating_add(i64::from(expiry) * 1000))
}

const WILL_COLUMNS: &str =
    "SELECT identity, delay, qos, retain, topic, payload, properties FROM will";

fn will_row(row: &rusqlite::Row<'_>) -> Result<DueWill> {
    Ok(DueWill {
        identity: row.get(0)?,
        will: StoredWill {
            delay: row.get(1)?,
            qos: row.get(2)?,
            retain: row.get(3)?,
            topic: row.get(4)?,
            payload: row.get(5)?,
            properties: row.get(6)?,
        },
    })
}

fn any_will(conn: &Connection, session: SessionKey) -> Result<Option<DueWill>> {
    conn.prepare_cached(&format!("{WILL_COLUMNS} WHERE session = ?1"))?
        .query_row([session.0], will_row)
        .optional()
}

/// A will that waits for its delay, which the end of its session makes due.
fn pending_will(conn: &Connection, session: SessionKey) -> Result<Option<DueWill>> {
    conn.prepare_cached(&format!(
        "{WILL_COLUMNS} WHERE session = ?1 AND due_at IS NOT NULL"
    ))?
    .query_row([session.0], will_row)
    .optional()
}

/// Removes a session and everything that waited for it.
///
/// # Errors
/// The database's.
pub fn discard(conn: &Connection, session: SessionKey) -> Result<()> {
    for sql in [
        "DELETE FROM subscription WHERE session = ?1",
        "DELETE FROM outgoing WHERE session = ?1",
        "DELETE FROM inbound WHERE session = ?1",
        "DELETE FROM will WHERE session = ?1",
        "DELETE FROM session WHERE key = ?1",
    ] {
        conn.prepare_cached(sql)?.execute([session.0])?;
    }
    Ok(())
}

/// The subscriptions of a session.
///
/// # Errors
/// The database's.
pub fn subscriptions(conn: &Connection, session: SessionKey) -> Result<Vec<StoredSubscription>> {
    conn.prepare_cached("SELECT filter, options, identifier FROM subscription WHERE session = ?1")?
        .query_map([session.0], |row| {
            Ok(StoredSubscription {
                filter: row.get(0)?,
                options: row.get(1)?,
                identifier: row.get(2)?,
            })
        })?
        .collect()
}

fn inbound(conn: &Connection, session: SessionKey) -> Result<Vec<u16>> {
    conn.prepare_cached("SELECT packet_id FROM inbound WHERE session = ?1")?
        .query_map([session.0], |row| row.get(0))?
        .collect()
}

/// Adds subscriptions, or replaces those with the same filter.
///
/// # Errors
/// The database's.
pub fn subscribe(
    conn: &Connection,
    session: SessionKey,
    subscriptions: &[StoredSubscription],
) -> Result<()> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO subscription (session, filter, options, identifier)
         SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM session WHERE key = ?1)
         ON CONFLICT DO UPDATE SET options = excluded.options, identifier = excluded.identifier",
    )?;
    for subscription in subscriptions {
        insert.execute(params![
            session.0,
            subscription.filter,
            subscription.options,
            subscription.identifier
        ])?;
    }
    Ok(())
}

/// Removes subscriptions.
///
/// # Errors
/// The database's.
pub fn unsubscribe(conn: &Connection, session: SessionKey, filters: &[String]) -> Result<()> {
    let mut delete =
        conn.prepare_cached("DELETE FROM subscription WHERE session = ?1 AND filter = ?2")?;
    for filter in filters {
        delete.execute(params![session.0, filter])?;
    }
    Ok(())
}

/// A message for a session's queue.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    pub qos: u8,
    pub retain: bool,
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// In PUBLISH's encoding, without message expiry.
    pub properties: &'a [u8],
    /// Milliseconds since 1970.
    pub expires_at: Option<i64>,
}

/// Puts a message into a session's queue and returns its number, which is above 0; 0 if it was not
/// taken, because the session is gone or the message alone is larger than the queue.
///
/// # Errors
/// The database's.
pub fn enqueue(
    conn: &Connection,
    session: SessionKey,
    qos: u8,
    topic: &str,
    payload: &[u8],
) -> Result<i64> {
    let message = Queued {
        qos,
        retain: false,
        topic,
        payload,
        properties: &[],
        expires_at: None,
    };
    enqueue_message(conn, session, &message)
}

/// [`enqueue`] with everything a PUBLISH can carry.
///
/// # Errors
/// The database's.
pub fn enqueue_message(
    conn: &Connection,
    session: SessionKey,
    message: &Queued<'_>,
) -> Result<i64> {
    let bytes = size(message.topic, message.payload, message.properties);
    let row: Option<(i64, i64, i64, i64, i64)> = conn
        .prepare_cached(
            "UPDATE session SET next_seq = next_seq + 1, queued = queued + 1,
             queued_bytes = queued_bytes + ?2 WHERE key = ?1 AND ?2 <= max_bytes
             RETURNING next_seq - 1, queued, queued_bytes, max_queued, max_bytes",
        )?
        .query_row(params![session.0, bytes], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })
        .optional()?;
    let Some((seq, mut queued, mut queued_bytes, max_queued, max_bytes)) = row else {
        conn.prepare_cached("UPDATE session SET dropped = dropped + 1 WHERE key = ?1")?
            .execute([session.0])?;
        return Ok(0);
    };
    conn.prepare_cached(
        "INSERT INTO outgoing (session, seq, qos, retain, topic, payload, properties, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        session.0,
        seq,
        message.qos,
        message.retain,
        message.topic,
        message.payload,
        message.properties,
        message.expires_at
    ])?;
    while queued > max_queued || queued_bytes > max_bytes {
        let Some(freed) = drop_oldest(conn, session, seq)? else {
            break;
        };
        queued -= 1;
        queued_bytes -= freed;
    }
    Ok(seq)
}

/// What a message counts for in its queue.
fn size(topic: &str, payload: &[u8], properties: &[u8]) -> i64 {
    i64::try_from(topic.len() + payload.len() + properties.len()).unwrap_or(i64::MAX)
}

const SIZE: &str = "length(CAST(topic AS BLOB)) + length(payload) + length(properties)";

/// Gives up the oldest message before `newest` that was not sent; what was sent must stay until it is
/// acknowledged. Returns its size.
fn drop_oldest(conn: &Connection, session: SessionKey, newest: i64) -> Result<Option<i64>> {
    let freed: Option<i64> = conn
        .prepare_cached(&format!(
            "DELETE FROM outgoing WHERE session = ?1 AND seq = (
               SELECT min(o.seq) FROM outgoing o JOIN session s ON s.key = o.session
               WHERE o.session = ?1 AND o.seq > s.sent_through AND o.seq < ?2)
             RETURNING {SIZE}"
        ))?
        .query_row(params![session.0, newest], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = freed {
        conn.prepare_cached(
            "UPDATE session SET queued = queued - 1, queued_bytes = queued_bytes - ?2,
             dropped = dropped + 1 WHERE key = ?1",
        )?
        .execute(params![session.0, bytes])?;
    }
    Ok(freed)
}

/// A queued message on its way to the peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Waiting {
    pub seq: i64,
    pub qos: u8,
    /// The peer has it: only PUBREL is owed.
    pub received: bool,
    pub retain: bool,
    pub topic: String,
    pub payload: Vec<u8>,
    pub properties: Vec<u8>,
    pub expires_at: Option<i64>,
}

/// The messages of a session after number `after`, in order: at most `max_messages`, and no more
/// once `max_bytes` is passed, but at least one if there is one.
///
/// # Errors
/// The database's.
pub fn page(
    conn: &Connection,
    session: SessionKey,
    after: i64,
    max_messages: usize,
    max_bytes: usize,
) -> Result<Vec<Waiting>> {
    let mut select = conn.prepare_cached(
        "SELECT seq, qos, received, retain, topic, payload, properties, expires_at FROM outgoing
         WHERE session = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let limit = i64::try_from(max_messages).unwrap_or(i64::MAX);
    let mut rows = select.query(params![session.0, after, limit])?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let waiting = Waiting {
            seq: row.get(0)?,
            qos: row.get(1)?,
            received: row.get(2)?,
            retain: row.get(3)?,
            topic: row.get(4)?,
            payload: row.get(5)?,
            properties: row.get(6)?,
            expires_at: row.get(7)?,
        };
        bytes += waiting.payload.len() + waiting.topic.len() + waiting.properties.len();
        page.push(waiting);
        if bytes >= max_bytes {
            break;
        }
    }
    Ok(page)
}

/// What a connection learned about its session's queue since it last told.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Acknowledged, expired or impossible to send: gone.
    pub done: Vec<i64>,
    /// PUBREC came.
    pub received: Vec<i64>,
    /// Everything up to here may have reached the peer.
    pub sent_through: Option<i64>,
    /// QoS 2 packet identifiers the peer released.
    pub released: Vec<u16>,
}

impl Progress {
    /// Nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.received.is_empty()
            && self.sent_through.is_none()
            && self.released.is_empty()
    }
}

/// Writes down what a connection learned.
///
/// # Errors
/// The database's.
pub fn progress(conn: &Connection, session: SessionKey, progress: &Progress) -> Result<()> {
    let (mut count, mut bytes) = (0_i64, 0_i64);
    {
        let mut delete = conn.prepare_cached(&format!(
            "DELETE FROM outgoing WHERE session = ?1 AND seq = ?2 RETURNING {SIZE}"
        ))?;
        for seq in &progress.done {
            let freed: Option<i64> = delete
                .query_row(params![session.0, seq], |row| row.get(0))
                .optional()?;
            if let Some(freed) = freed {
                count += 1;
                bytes += freed;
            }
        }
        let mut update = conn
            .prepare_cached("UPDATE outgoing SET received = 1 WHERE session = ?1 AND seq = ?2")?;
        for seq in &progress.received {
            update.execute(params![session.0, seq])?;
        }
        let mut release =
            conn.prepare_cached("DELETE FROM inbound WHERE session = ?1 AND packet_id = ?2")?;
        for id in &progress.released {
            release.execute(params![session.0, id])?;
        }
    }
    conn.prepare_cached(
        "UPDATE session SET queued = queued - ?2, queued_bytes = queued_bytes - ?3,
         sent_through = max(sent_through, ?4) WHERE key = ?1",
    )?
    .execute(params![
        session.0,
        count,
        bytes,
        progress.sent_through.unwrap_or(0)
    ])?;
    Ok(())
}

/// Remembers that the QoS 2 message with this packet identifier was taken.
///
/// # Errors
/// The database's.
pub fn take_inbound(conn: &Connection, session: SessionKey, packet_id: u16) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO inbound (session, packet_id)
         SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM session WHERE key = ?1) ON CONFLICT DO NOTHING",
    )?
    .execute(params![session.0, packet_id])?;
    Ok(())
}

/// What [`expire`] found.
#[derive(Clone, Debug, Default)]
pub struct Expired {
    pub sessions: Vec<SessionKey>,
    pub wills: Vec<DueWill>,
    /// Messages given up for lack of room since the last time.
    pub dropped: u64,
}

/// Whether [`expire`] would find something.
///
/// # Errors
/// The database's.
pub fn is_due(conn: &Connection, now_ms: i64) -> Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM session WHERE expires_at <= ?1)
         OR EXISTS (SELECT 1 FROM will WHERE due_at <= ?1)
         OR EXISTS (SELECT 1 FROM session WHERE dropped > 0)",
    )?
    .query_row([now_ms], |row| row.get(0))
}

/// Ends sessions and collects wills whose time has come.
///
/// # Errors
/// The database's.
pub fn expire(conn: &Connection, now_ms: i64) -> Result<Expired> {
    let keys: Vec<i64> = conn
        .prepare_cached("SELECT key FROM session WHERE expires_at <= ?1")?
        .query_map([now_ms], |row| row.get(0))?
        .collect::<Result<_>>()?;
    let mut expired = Expired::default();
    let mut ended = conn.prepare_cached(&format!("{WILL_COLUMNS} WHERE session = ?1"))?;
    for key in keys {
        expired
            .wills
            .extend(ended.query_row([key], will_row).optional()?);
        expired.dropped += conn
            .prepare_cached("SELECT dropped FROM session WHERE key = ?1")?
            .query_row([key], |row| row.get::<_, u32>(0).map(u64::from))?;
        discard(conn, SessionKey(key))?;
        expired.sessions.push(SessionKey(key));
    }
    let due: Vec<DueWill> = conn
        .prepare_cached(&format!("{WILL_COLUMNS} WHERE due_at <= ?1"))?
        .query_map([now_ms], will_row)?
        .collect::<Result<_>>()?;
    if !due.is_empty() {
        conn.prepare_cached("DELETE FROM will WHERE due_at <= ?1")?
            .execute([now_ms])?;
    }
    expired.wills.extend(due);
    expired.dropped += conn
        .prepare_cached("SELECT coalesce(sum(dropped), 0) FROM session WHERE dropped > 0")?
        .query_row([], |row| row.get::<_, u32>(0).map(u64::from))?;
    conn.prepare_cached("UPDATE session SET dropped = 0 WHERE dropped > 0")?
        .execute([])?;
    Ok(expired)
}

/// A session without a connection, as it is found at the start.
#[derive(Clone, Debug)]
pub struct Dormant {
    pub key: SessionKey,
    pub identity: String,
    pub client_id: String,
    pub subscriptions: Vec<StoredSubscription>,
}

/// Finds the sessions that are there when the gateway starts. Connections that were open when it
/// ended without warning count as ended now, wills included. Oldest first.
///
/// # Errors
/// The database's.
pub fn recover(conn: &Connection, now_ms: i64) -> Result<Vec<Dormant>> {
    conn.execute(
        "UPDATE will SET due_at = ?1 + 1000 * min(delay, (SELECT expiry FROM session WHERE key = session))
         WHERE due_at IS NULL",
        [now_ms],
    )?;
    conn.execute(
        "UPDATE session SET connected = 0, seen_at = ?1,
         expires_at = CASE expiry WHEN 4294967295 THEN NULL ELSE ?1 + 1000 * expiry END
         WHERE connected = 1",
        [now_ms],
    )?;
    let mut dormant: Vec<Dormant> = conn
        .prepare("SELECT key, identity, client_id FROM session ORDER BY seen_at, key")?
        .query_map([], |row| {
            Ok(Dormant {
                key: SessionKey(row.get(0)?),
                identity: row.get(1)?,
                client_id: row.get(2)?,
                subscriptions: Vec::new(),
            })
        })?
        .collect::<Result<_>>()?;
    for session in &mut dormant {
        session.subscriptions = subscriptions(conn, session.key)?;
    }
    Ok(dormant)
}

/// A retained message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredRetained {
    pub topic: String,
    pub qos: u8,
    pub payload: Vec<u8>,
    pub properties: Vec<u8>,
    pub expires_at: Option<i64>,
}

/// Retains a message in place of any on the same topic.
///
/// # Errors
/// The database's.
pub fn retain(conn: &Connection, message: &Queued<'_>) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO retained (topic, qos, payload, properties, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET qos = excluded.qos, payload = excluded.payload,
         properties = excluded.properties, expires_at = excluded.expires_at",
    )?
    .execute(params![
        message.topic,
        message.qos,
        message.payload,
        message.properties,
        message.expires_at
    ])?;
    Ok(())
}

/// Retains nothing on a topic any more.
///
/// # Errors
/// The database's.
pub fn clear_retained(conn: &Connection, topic: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM retained WHERE topic = ?1")?
        .execute([topic])?;
    Ok(())
}

/// Forgets retained messages past their time.
///
/// # Errors
/// The database's.
pub fn expire_retained(conn: &Connection, now_ms: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM retained WHERE expires_at <= ?1")?
        .execute([now_ms])?;
    Ok(())
}

/// All retained messages.
///
/// # Errors
/// The database's.
pub fn retained(conn: &Connection) -> Result<Vec<StoredRetained>> {
    conn.prepare("SELECT topic, qos, payload, properties, expires_at FROM retained")?
        .query_map([], |row| {
            Ok(StoredRetained {
                topic: row.get(0)?,
                qos: row.get(1)?,
                payload: row.get(2)?,
                properties: row.get(3)?,
                expires_at: row.get(4)?,
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests;
