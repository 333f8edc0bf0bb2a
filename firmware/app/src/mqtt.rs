//! A client's MQTT 5 session, without I/O: bytes and the time go in, bytes and events come out.
//!
//! Messages go out with QoS 1, a bounded number of them in flight. They outlast the connection:
//! after the next one they are sent again under the same packet identifiers, marked as
//! duplicates if the server kept the session. What was signed too long ago to be accepted is
//! signed again; it keeps its message id.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;

use bytes::BytesMut;
use tidegate_mqtt::{
    Accept, Ack, AckKind, Connect, DecodeError, Disconnect, EncodeError, Filters, PINGREQ, Peer,
    Property, PropertyBuf, Publish, QoS, RawProperties, ReasonCode, RetainHandling, ServerPacket,
    Subscribe, Subscription, Version, decode_from_server, frame,
};
use tidegate_wire::{Channel, DeviceId, MessageId, Reason};

use crate::telemetry::Item;

/// Messages in flight at most. Eight cover a round trip of 100 ms at 80 messages a second; each
/// costs up to 800 bytes of heap.
pub const WINDOW: usize = 8;

/// Largest packet taken: a command with a new certificate, key and secret is 3 KiB.
pub const MAX_PACKET: u32 = 8 * 1024;

/// Seconds between signs of life. The gateway closes after one and a half of it, and NAT gateways
/// forget a silent connection after a few minutes.
const KEEP_ALIVE_S: u16 = 60;

/// Without an answer for this long the connection is dead.
const ANSWER: Duration = Duration::from_secs(15);

/// How long the gateway keeps the session, in seconds: a day, as long as it keeps a command.
const SESSION_EXPIRY_S: u32 = 24 * 60 * 60;

/// A message signed longer ago than this is signed again before it is sent again: half of what
/// the gateway accepts, in seconds.
const RESIGN_AFTER_S: u64 = 150;

/// How a connection attempt or a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// What came is not MQTT 5.
    #[error("gateway sent what is not MQTT 5 ({0}): check that the port is its MQTT listener")]
    Decode(DecodeError),
    /// A packet could not be written.
    #[error("packet could not be written ({0:?}): this is a bug")]
    Encode(EncodeError),
    /// The gateway does not let the device in.
    #[error(
        "gateway refused the connection ({0:?}): check the registry and the device's certificate"
    )]
    Refused(ReasonCode),
    /// The gateway said goodbye.
    #[error("gateway closed the session ({0:?})")]
    Closed(ReasonCode),
    /// The gateway answers something that was not asked, or not with what it may.
    #[error("gateway broke the protocol: {0}")]
    Protocol(&'static str),
    /// No answer.
    #[error("gateway did not answer for {} s: the connection is dead", ANSWER.as_secs())]
    Silent,
}

impl From<DecodeError> for SessionError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<EncodeError> for SessionError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// What the gateway made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Durable.
    Accepted,
    /// It had it already: the acknowledgement was lost.
    Known,
    /// Not now: sent again later.
    Later(Option<Reason>),
    /// Never.
    Rejected(Option<Reason>, ReasonCode),
}

impl Verdict {
    fn of(ack: &Ack<'_>) -> Self {
        if !ack.reason.is_failure() {
            return Self::Accepted;
        }
        let reason = ack.properties.reason_string().and_then(Reason::from_code);
        match reason {
            Some(Reason::Replayed) => Self::Known,
            Some(Reason::RateLimited | Reason::StaleTimestamp) => Self::Later(reason),
            None if ack.reason == ReasonCode::QuotaExceeded => Self::Later(None),
            _ => Self::Rejected(reason, ack.reason),
        }
    }
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The session stands; `resumed` if the gateway kept it.
    Connected {
        /// The gateway kept the session from before.
        resumed: bool,
    },
    /// Commands will come.
    Subscribed,
    /// A message was acknowledged.
    Settled(Item, Verdict),
    /// The gateway will not have a message now: it is signed and sent again by
    /// [`Session::resend`], which is better not called at once.
    Deferred(Option<Reason>),
    /// A message for this device. [`Session::acknowledge`] it once it is dealt with.
    Message {
        /// Which topic.
        channel: Channel,
        /// Its body.
        body: &'a [u8],
        /// To acknowledge it by; `None` with QoS 0.
        packet_id: Option<NonZeroU16>,
    },
    /// Nothing to do.
    Nothing,
}

/// The session of one device.
#[derive(Debug)]
pub struct Session {
    device: DeviceId,
    peer: Peer,
    phase: Phase,
    /// In the order they were first sent.
    in_flight: VecDeque<InFlight>,
    next_packet_id: NonZeroU16,
    /// What the server takes at a time.
    window: usize,
    keep_alive: Duration,
    last_sent: Duration,
    /// Since when an answer is due.
    waiting_since: Option<Duration>,
    ping_sent: bool,
    /// Messages sent on this connection, from the front of `in_flight`.
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Connecting,
    Up,
}

#[derive(Debug)]
struct InFlight {
    packet_id: NonZeroU16,
    /// It was sent under this identifier.
    transmitted: bool,
    /// It was sent to a session that is still there.
    dup: bool,
    item: Item,
    message: Vec<u8>,
    /// Seconds since 1970; `None` if it must be signed again.
    signed_at: Option<u64>,
}

impl Session {
    /// A session that never was connected.
    #[must_use]
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            peer: Peer::server(Version::V5),
            phase: Phase::Idle,
            in_flight: VecDeque::with_capacity(WINDOW),
            next_packet_id: NonZeroU16::MIN,
            window: WINDOW,
            keep_alive: Duration::from_secs(KEEP_ALIVE_S.into()),
            last_sent: Duration::ZERO,
            waiting_since: None,
            ping_sent: false,
            sent: 0,
        }
    }

    /// Starts a connection: writes CONNECT, with `will` to be published if the device vanishes.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`]
    pub fn connect(
        &mut self,
        now: Duration,
        will: Option<(&str, &[u8])>,
        out: &mut BytesMut,
    ) -> Result<(), SessionError> {
        self.peer = Peer::server(Version::V5);
        self.phase = Phase::Connecting;
        self.sent = 0;
        self.ping_sent = false;
        let mut properties = PropertyBuf::new();
        properties.push(Property::SessionExpiryInterval(SESSION_EXPIRY_S))?;
        if let Some(max) = core::num::NonZeroU32::new(MAX_PACKET) {
            properties.push(Property::MaximumPacketSize(max))?;
        }
        // A few commands at a time: more wait at the gateway until these are carried out.
        if let Some(few) = NonZeroU16::new(4) {
            properties.push(Property::ReceiveMaximum(few))?;
        }
        Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive: KEEP_ALIVE_S,
            client_id: self.device.as_str(),
            will: will.map(|(topic, payload)| tidegate_mqtt::Will {
                qos: QoS::AtLeastOnce,
                retain: false,
                topic,
                payload,
                properties: RawProperties::EMPTY,
            }),
            user_name: None,
            password: None,
            properties: properties.as_raw(),
        }
        .encode(&self.peer, out)?;
        self.wrote(now);
        self.waiting_since = Some(now);
        Ok(())
    }

    /// The connection is gone; what is in flight stays.
    pub fn disconnected(&mut self) {
        self.phase = Phase::Idle;
        self.waiting_since = None;
        self.sent = 0;
    }

    /// Signs everything that is in flight again before it is sent again: the key is another.
    pub fn sign_again(&mut self) {
        for message in &mut self.in_flight {
            message.signed_at = None;
        }
    }

    /// Takes back a message that was settled, to be sent first on the next connection.
    pub fn restore(&mut self, item: Item) {
        let packet_id = self.packet_id();
        self.in_flight.push_front(InFlight {
            packet_id,
            transmitted: false,
            dup: false,
            item,
            message: Vec::new(),
            signed_at: None,
        });
    }

    /// Whether messages can be sent.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether one message more can be in flight.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.is_up() && self.sent == self.in_flight.len() && self.in_flight.len() < self.window
    }

    /// How many messages are in flight, or will be with the next connection.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Reads one packet from `input`. `None` as long as it is not all there; otherwise how many
    /// bytes it took, and what it was.
    ///
    /// # Errors
    ///
    /// [`SessionError`]: the connection must be closed.
    pub fn receive<'b>(
        &mut self,
        now: Duration,
        input: &'b [u8],
        out: &mut BytesMut,
    ) -> Result<Option<(usize, Event<'b>)>, SessionError> {
        let accept = match self.phase {
            Phase::Up => Accept::FromServer(Version::V5),
            Phase::Idle | Phase::Connecting => Accept::ConnAck(Version::V5),
        };
        let Some(frame) = frame(input, MAX_PACKET, accept)? else {
            return Ok(None);
        };
        let Some(body) = frame.body(input) else {
            return Ok(None);
        };
        let event = match decode_from_server(Version::V5, frame, body)? {
            ServerPacket::ConnAck(ack) => {
                self.waiting_since = None;
                self.connected(now, &ack, out)?
            }
            ServerPacket::SubAck(ack) => {
                self.waiting_since = (self.ping_sent || self.sent > 0).then_some(now);
                // Responses are nice to have, commands are what a subscription is for.
                if ack.codes.first().is_none_or(|code| *code >= 0x80) {
                    return Err(SessionError::Protocol(
                        "it does not let the device subscribe to its commands",
                    ));
                }
                Event::Subscribed
            }
            ServerPacket::Ack(ack) if ack.kind == AckKind::PubAck => self.settled(now, &ack),
            ServerPacket::Publish(publish) => self.message(&publish)?,
            ServerPacket::PingResp => {
                self.ping_sent = false;
                self.answered(now);
                Event::Nothing
            }
            ServerPacket::Disconnect(disconnect) => {
                return Err(SessionError::Closed(disconnect.reason));
            }
            ServerPacket::Ack(_) | ServerPacket::UnsubAck(_) | ServerPacket::Auth(_) => {
                return Err(SessionError::Protocol("it sent a packet nobody asked for"));
            }
        };
        Ok(Some((frame.total_len(), event)))
    }

    fn connected(
        &mut self,
        now: Duration,
        ack: &tidegate_mqtt::ConnAck<'_>,
        out: &mut BytesMut,
    ) -> Result<Event<'static>, SessionError> {
        if ack.reason != ReasonCode::Success {
            return Err(SessionError::Refused(ack.reason));
        }
        let properties = &ack.properties;
        self.phase = Phase::Up;
        for message in &mut self.in_flight {
            message.dup = ack.session_present && message.transmitted;
        }
        self.window = properties
            .receive_maximum()
            .map_or(WINDOW, |max| WINDOW.min(max.get().into()));
        self.keep_alive = properties
            .server_keep_alive()
            .map_or(Duration::from_secs(KEEP_ALIVE_S.into()), |seconds| {
                Duration::from_secs(seconds.into())
            });
        if let Some(max) = properties.maximum_packet_size() {
            self.peer.max_packet_size = max.get();
        }
        let topics =
            [Channel::Command, Channel::Response].map(|channel| channel.topic(&self.device));
        let subscriptions = [&topics[0], &topics[1]].map(|topic| Subscription {
            filter: topic,
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::DoNotSend,
        });
        // Also when the session was resumed: the rights may have changed since.
        Subscribe {
            packet_id: self.packet_id(),
            properties: RawProperties::EMPTY,
            filters: Filters::from(&subscriptions[..]),
        }
        .encode(&self.peer, out)?;
        self.wrote(now);
        self.waiting_since = Some(now);
        Ok(Event::Connected {
            resumed: ack.session_present,
        })
    }

    fn settled(&mut self, now: Duration, ack: &Ack<'_>) -> Event<'static> {
        self.answered(now);
        let index = self
            .in_flight
            .iter()
            .take(self.sent)
            .position(|message| message.packet_id == ack.packet_id);
        // An acknowledgement of what is not in flight is of a connection before the server lost
        // the session: nothing is to be done about it (5.0 §4.3.2).
        let Some(mut message) = index.and_then(|index| self.in_flight.remove(index)) else {
            return Event::Nothing;
        };
        self.sent -= 1;
        match Verdict::of(ack) {
            Verdict::Later(reason) => {
                message.packet_id = self.packet_id();
                message.transmitted = false;
                message.dup = false;
                // Signed afresh when its turn comes.
                message.signed_at = None;
                self.in_flight.push_back(message);
                Event::Deferred(reason)
            }
            verdict => Event::Settled(message.item, verdict),
        }
    }

    fn message<'b>(&self, publish: &Publish<'b>) -> Result<Event<'b>, SessionError> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(SessionError::Protocol(
                "it sent QoS 2 to a QoS 1 subscription",
            ));
        }
        Ok(match tidegate_wire::topic::parse(publish.topic) {
            Some((device, channel)) if device == self.device.as_str() => Event::Message {
                channel,
                body: publish.payload,
                packet_id: publish.packet_id,
            },
            _ => return Err(SessionError::Protocol("it sent another device's message")),
        })
    }

    /// Acknowledges a message that came with QoS 1.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`]
    pub fn acknowledge(
        &mut self,
        now: Duration,
        packet_id: NonZeroU16,
        out: &mut BytesMut,
    ) -> Result<(), SessionError> {
        Ack::success(AckKind::PubAck, packet_id).encode(&self.peer, out)?;
        self.wrote(now);
        Ok(())
    }

    /// Sends again what was in flight when the last connection ended, one message at a time;
    /// whether there was one. `sign` signs a message afresh, `wall` is seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`]
    pub fn resend(
        &mut self,
        now: Duration,
        wall: u64,
        sign: impl FnOnce(&Item) -> Option<Vec<u8>>,
        out: &mut BytesMut,
    ) -> Result<bool, SessionError> {
        if !self.is_up() || self.sent >= self.window {
            return Ok(false);
        }
        let Some(message) = self.in_flight.get_mut(self.sent) else {
            return Ok(false);
        };
        if message
            .signed_at
            .is_none_or(|at| at.abs_diff(wall) > RESIGN_AFTER_S)
            && let Some(fresh) = sign(&message.item)
        {
            message.message = fresh;
            message.signed_at = Some(wall);
        }
        write(&self.device, &self.peer, message, out)?;
        message.transmitted = true;
        self.sent += 1;
        self.wrote(now);
        self.awaiting(now);
        Ok(true)
    }

    /// Sends a message; there must be [room](Self::has_room).
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`]: too large for the gateway, say. It is not in flight then.
    pub fn publish(
        &mut self,
        now: Duration,
        wall: u64,
        item: Item,
        message: Vec<u8>,
        out: &mut BytesMut,
    ) -> Result<(), SessionError> {
        let message = InFlight {
            packet_id: self.packet_id(),
            transmitted: true,
            dup: false,
            item,
            message,
            signed_at: Some(wall),
        };
        write(&self.device, &self.peer, &message, out)?;
        self.in_flight.push_back(message);
        self.sent += 1;
        self.wrote(now);
        self.awaiting(now);
        Ok(())
    }

    /// What time brings: a PINGREQ, or the end.
    ///
    /// # Errors
    ///
    /// [`SessionError::Silent`]
    pub fn tick(&mut self, now: Duration, out: &mut BytesMut) -> Result<(), SessionError> {
        if self
            .waiting_since
            .is_some_and(|since| now >= since.saturating_add(ANSWER))
        {
            return Err(SessionError::Silent);
        }
        if self.is_up() && !self.ping_sent && now >= self.ping_due() {
            out.extend_from_slice(PINGREQ);
            self.ping_sent = true;
            self.wrote(now);
            self.awaiting(now);
        }
        Ok(())
    }

    /// When [`tick`](Self::tick) has something to do at the latest.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let silent = self.waiting_since.map(|since| since.saturating_add(ANSWER));
        let ping = (self.is_up() && !self.ping_sent).then(|| self.ping_due());
        [silent, ping]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// Says goodbye, so that the will is not published.
    ///
    /// # Errors
    ///
    /// [`SessionError::Encode`]
    pub fn disconnect(&mut self, out: &mut BytesMut) -> Result<(), SessionError> {
        Disconnect::new(ReasonCode::Success).encode(&self.peer, out)?;
        Ok(())
    }

    fn ping_due(&self) -> Duration {
        if self.keep_alive.is_zero() {
            return Duration::MAX;
        }
        // Three quarters: a packet may be late, the sum must not.
        self.last_sent.saturating_add(self.keep_alive * 3 / 4)
    }

    const fn wrote(&mut self, now: Duration) {
        self.last_sent = now;
    }

    /// An answer is due from now on, if none was already.
    fn awaiting(&mut self, now: Duration) {
        self.waiting_since.get_or_insert(now);
    }

    /// An answer came; if more are due, the wait starts anew.
    fn answered(&mut self, now: Duration) {
        self.waiting_since = (self.ping_sent || self.sent > 1).then_some(now);
    }

    /// An identifier that is not in use (5.0 §2.2.1).
    fn packet_id(&mut self) -> NonZeroU16 {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = id.checked_add(1).unwrap_or(NonZeroU16::MIN);
            if self.in_flight.iter().all(|message| message.packet_id != id) {
                return id;
            }
        }
    }

    /// Ids of the messages in flight, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = MessageId> {
        self.in_flight.iter().map(|message| message.item.id)
    }
}

fn write(
    device: &DeviceId,
    peer: &Peer,
    message: &InFlight,
    out: &mut BytesMut,
) -> Result<(), SessionError> {
    Publish {
        dup: message.dup,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: &message.item.channel.topic(device),
        packet_id: Some(message.packet_id),
        properties: RawProperties::EMPTY,
        payload: &message.message,
    }
    .encode(peer, out)?;
    Ok(())
}

#[cfg(test)]
mod tests;
