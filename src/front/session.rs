//! The protocol state of one connection: QoS flows both ways, windows, topic aliases.
//!
//! No sockets, no clock, no storage: packets go in, and what is to be sent is appended to a buffer.
//! What must be on disk first is for the caller to arrange; [`Session::progress`] gathers what the
//! store has to learn.
//!
//! # Packet identifiers towards the peer
//!
//! Messages from the session's queue have the identifier that derives from their number
//! ([`crate::store::sessions::packet_id`]); others, which do not survive the connection, take theirs
//! from above that range.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU16,
    sync::Arc,
};

use bytes::BytesMut;
use tidegate_mqtt::{
    Ack, AckKind, EncodeError, Peer, Property, PropertyBuf, Publish, QoS, ReasonCode, Version,
};
use tidegate_wire::MessageId;

use super::{
    message::{Message, Source, properties_for},
    subscription::Subscriptions,
};
use crate::{
    clock::UnixMillis,
    store::sessions::{Progress, QUEUED_PACKET_IDS, Waiting, packet_id},
};

/// Topic aliases a peer may define (MQTT 5). More than a device has topics; each may cost 64 KiB.
pub(super) const TOPIC_ALIAS_MAXIMUM: u16 = 16;

/// QoS 2 messages a 3.1.1 peer, which knows no receive maximum, may leave unreleased.
const UNRELEASED_MAXIMUM: usize = 4_096;

/// What ends a connection because the peer broke a rule that needs state to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Breach {
    #[error("more unacknowledged messages than the receive maximum")]
    ReceiveMaximum,
    #[error("a topic alias that is over the maximum")]
    TopicAlias,
    #[error("a topic alias that was never defined, without a topic")]
    UnknownTopicAlias,
    #[error("PUBREL before PUBREC")]
    EarlyRelease,
    #[error("AUTH without an authentication method")]
    Auth,
    #[error("a session expiry although it was 0 in CONNECT")]
    SessionExpiry,
}

impl Breach {
    /// For DISCONNECT.
    #[must_use]
    pub(super) const fn reason(self) -> ReasonCode {
        match self {
            Self::ReceiveMaximum => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAlias => ReasonCode::TopicAliasInvalid,
            Self::UnknownTopicAlias | Self::EarlyRelease | Self::Auth | Self::SessionExpiry => {
                ReasonCode::ProtocolError
            }
        }
    }
}

/// What a PUBLISH is, apart from its topic and payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Inbound {
    /// To be taken. The topic an alias stands for, if the packet has none itself.
    New(Option<Arc<str>>),
    /// A QoS 2 message that was taken before: PUBREC again, if it was answered already.
    Again { answered: bool },
}

/// What to do about a PUBREL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Release {
    /// PUBCOMP at once.
    Now(ReasonCode),
    /// PUBCOMP when [`Progress::released`] is on disk.
    AfterCommit,
}

/// What to do about a PUBREC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Received {
    /// PUBREL at once.
    Now(ReasonCode),
    /// PUBREL when [`Progress::received`] is on disk.
    AfterCommit,
    /// Nothing: the peer refused the message.
    Nothing,
}

/// A QoS 2 message taken from the peer and not released.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Its identifier is on disk.
    stored: bool,
    answered: bool,
    /// Counts against our receive maximum.
    counted: bool,
}

/// A message the peer has not acknowledged for good.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: NonZeroU16,
    /// It was sent with QoS 2: PUBREC and PUBCOMP finish it, and PUBACK does not.
    twice: bool,
    /// PUBCOMP is awaited; otherwise PUBACK or PUBREC.
    received: bool,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Volatile,
    Queued(i64),
    Command(MessageId),
}

/// What [`Session::pump`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pumped {
    pub(super) sent: u64,
    pub(super) expired: u64,
    pub(super) too_large: u64,
    pub(super) unsubscribed: u64,
}

/// What CONNECT settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) version: Version,
    pub(super) peer: Peer,
    /// The session outlives the connection.
    pub(super) durable: bool,
    /// Ours: QoS 1 and 2 messages an MQTT 5 peer may leave unacknowledged.
    pub(super) receive_maximum: u16,
    /// How many we may: the lower of the peer's receive maximum and our limit.
    pub(super) window: u16,
    /// This connection's number, to know its own messages.
    pub(super) number: u64,
    /// Messages up to this number may have reached the peer on an earlier connection.
    pub(super) sent_through: i64,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    terms: Terms,
    pub(super) subscriptions: Subscriptions,
    /// What the store is to learn.
    pub(super) progress: Progress,
    /// Commands the peer confirmed.
    pub(super) delivered: Vec<MessageId>,
    aliases: Vec<Option<Arc<str>>>,
    incoming: u16,
    taken: BTreeMap<NonZeroU16, Taken>,
    outgoing: VecDeque<InFlight>,
    queued: VecDeque<Waiting>,
    volatile: VecDeque<Message>,
    next_id: u16,
}

impl Session {
    #[must_use]
    pub(super) fn new(terms: Terms, subscriptions: Subscriptions, inbound: &[u16]) -> Self {
        let resumed = Taken {
            stored: true,
            answered: true,
            counted: false,
        };
        Self {
            terms,
            subscriptions,
            progress: Progress::default(),
            delivered: Vec::new(),
            aliases: Vec::new(),
            incoming: 0,
            taken: inbound
                .iter()
                .filter_map(|id| Some((NonZeroU16::new(*id)?, resumed)))
                .collect(),
            outgoing: VecDeque::new(),
            queued: VecDeque::new(),
            volatile: VecDeque::new(),
            next_id: 0,
        }
    }

    #[must_use]
    pub(super) fn version(&self) -> Version {
        self.terms.version
    }

    #[must_use]
    pub(super) fn peer(&self) -> &Peer {
        &self.terms.peer
    }

    #[must_use]
    pub(super) fn is_durable(&self) -> bool {
        self.terms.durable
    }

    // --- from the peer ---------------------------------------------------------------------------

    /// Judges a PUBLISH and counts it.
    ///
    /// # Errors
    /// [`Breach`]: close the connection.
    #[inline]
    pub(super) fn publish(&mut self, publish: &Publish<'_>) -> Result<Inbound, Breach> {
        let topic = match publish.properties.topic_alias() {
            None => None,
            Some(alias) => self.resolve(alias, publish.topic)?,
        };
        let Some(id) = publish.packet_id else {
            return Ok(Inbound::New(topic));
        };
        if publish.qos == QoS::ExactlyOnce {
            if let Some(taken) = self.taken.get_mut(&id) {
                let (answered, count) = (taken.answered, !taken.counted);
                taken.counted = true;
                if count {
                    self.count()?;
                }
                return Ok(Inbound::Again { answered });
            }
            if self.taken.len() >= UNRELEASED_MAXIMUM {
                return Err(Breach::ReceiveMaximum);
            }
            let taken = Taken {
                stored: false,
                answered: false,
                counted: true,
            };
            self.taken.insert(id, taken);
        }
        self.count()?;
        Ok(Inbound::New(topic))
    }

    fn count(&mut self) -> Result<(), Breach> {
        self.incoming = self.incoming.saturating_add(1);
        if self.terms.version == Version::V5 && self.incoming > self.terms.receive_maximum {
            return Err(Breach::ReceiveMaximum);
        }
        Ok(())
    }

    /// Looks up or defines a topic alias; `None` if the packet's own topic counts.
    fn resolve(&mut self, alias: NonZeroU16, topic: &str) -> Result<Option<Arc<str>>, Breach> {
        if alias.get() > TOPIC_ALIAS_MAXIMUM {
            return Err(Breach::TopicAlias);
        }
        let at = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            return match self.aliases.get(at) {
                Some(Some(known)) => Ok(Some(known.clone())),
                // 5.0, section 3.3.2.3.4: unlike one that is out of range, a protocol error.
                _ => Err(Breach::UnknownTopicAlias),
            };
        }
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        if let Some(slot) = self.aliases.get_mut(at) {
            *slot = Some(topic.into());
        }
        Ok(None)
    }

    /// Notes that the identifier of a QoS 2 message is on disk with the message.
    pub(super) fn taken_on_disk(&mut self, id: NonZeroU16) {
        if let Some(taken) = self.taken.get_mut(&id) {
            taken.stored = true;
        }
    }

    /// Answers a PUBLISH: PUBACK for QoS 1, PUBREC for QoS 2.
    #[inline]
    pub(super) fn answer(
        &mut self,
        id: NonZeroU16,
        qos: QoS,
        reason: ReasonCode,
        out: &mut BytesMut,
    ) {
        let kind = match qos {
            QoS::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        let ack = Ack {
            reason,
            ..Ack::success(kind, id)
        };
        self.write_ack(&ack, out);
        self.answered(id, qos, reason);
    }

    /// [`Session::answer`] with a reason string, for a peer that reads them.
    pub(super) fn refuse(
        &mut self,
        id: NonZeroU16,
        qos: QoS,
        reason: ReasonCode,
        text: &str,
        out: &mut BytesMut,
    ) {
        let kind = match qos {
            QoS::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        let mut properties = PropertyBuf::new();
        // The texts are short and ours.
        let _ = properties.push(Property::ReasonString(text));
        let ack = Ack {
            kind,
            packet_id: id,
            reason,
            properties: properties.as_raw(),
        };
        self.write_ack(&ack, out);
        self.answered(id, qos, reason);
    }

    fn answered(&mut self, id: NonZeroU16, qos: QoS, reason: ReasonCode) {
        if qos == QoS::AtLeastOnce {
            self.incoming = self.incoming.saturating_sub(1);
        } else if self.terms.version == Version::V5 && reason.is_failure() {
            // The exchange ends here (5.0, figure 4.3); 3.1.1 goes on to PUBREL all the same.
            self.forget_taken(id);
        } else if let Some(taken) = self.taken.get_mut(&id) {
            taken.answered = true;
        }
    }

    fn forget_taken(&mut self, id: NonZeroU16) -> Option<Taken> {
        let taken = self.taken.remove(&id)?;
        if taken.counted {
            self.incoming = self.incoming.saturating_sub(1);
        }
        Some(taken)
    }

    /// Takes a PUBREL.
    ///
    /// # Errors
    /// [`Breach::EarlyRelease`].
    pub(super) fn pubrel(&mut self, id: NonZeroU16) -> Result<Release, Breach> {
        match self.taken.get(&id) {
            None => Ok(Release::Now(ReasonCode::PacketIdentifierNotFound)),
            Some(taken) if !taken.answered => Err(Breach::EarlyRelease),
            Some(taken) if taken.stored => {
                self.progress.released.push(id.get());
                Ok(Release::AfterCommit)
            }
            Some(_) => Ok(Release::Now(ReasonCode::Success)),
        }
    }

    /// Writes PUBCOMP: the identifier is free again.
    pub(super) fn pubcomp(&mut self, id: NonZeroU16, reason: ReasonCode, out: &mut BytesMut) {
        self.forget_taken(id);
        self.write_ack(
            &Ack {
                reason,
                ..Ack::success(AckKind::PubComp, id)
            },
            out,
        );
    }

    // --- acknowledgements from the peer ----------------------------------------------------------

    /// Takes a PUBACK. One for an unknown identifier changes nothing: it is about an earlier
    /// connection. Nor does one for a QoS 2 message (`[MQTT-4.3.3-3]`).
    pub(super) fn puback(&mut self, id: NonZeroU16) {
        if self.in_flight(id).is_some_and(|(_, entry)| !entry.twice) {
            self.finish(id);
        }
    }

    /// Takes a PUBREC.
    pub(super) fn pubrec(&mut self, id: NonZeroU16, reason: ReasonCode) -> Received {
        // A QoS 1 message waits for PUBACK (`[MQTT-4.3.2-3]`): no QoS 2 message has this identifier.
        let Some((at, entry)) = self.in_flight(id).filter(|(_, entry)| entry.twice) else {
            return Received::Now(ReasonCode::PacketIdentifierNotFound);
        };
        if self.terms.version == Version::V5 && reason.is_failure() {
            self.finish(id);
            return Received::Nothing;
        }
        if entry.received {
            return Received::Now(ReasonCode::Success);
        }
        if let Some(entry) = self.outgoing.get_mut(at) {
            entry.received = true;
        }
        match entry.what {
            What::Queued(seq) => {
                self.progress.received.push(seq);
                Received::AfterCommit
            }
            What::Volatile | What::Command(_) => Received::Now(ReasonCode::Success),
        }
    }

    /// Writes PUBREL.
    pub(super) fn release(&mut self, id: NonZeroU16, reason: ReasonCode, out: &mut BytesMut) {
        self.write_ack(
            &Ack {
                reason,
                ..Ack::success(AckKind::PubRel, id)
            },
            out,
        );
    }

    /// Takes a PUBCOMP.
    pub(super) fn completed(&mut self, id: NonZeroU16) {
        if self.in_flight(id).is_some_and(|(_, entry)| entry.received) {
            self.finish(id);
        }
    }

    fn in_flight(&self, id: NonZeroU16) -> Option<(usize, InFlight)> {
        // Peers acknowledge in order, so it is nearly always the first.
        self.outgoing
            .iter()
            .position(|entry| entry.id == id)
            .and_then(|at| {
                let entry = self.outgoing.get(at)?;
                Some((at, *entry))
            })
    }

    fn finish(&mut self, id: NonZeroU16) {
        let Some((at, entry)) = self.in_flight(id) else {
            return;
        };
        self.outgoing.remove(at);
        match entry.what {
            What::Volatile => {}
            What::Queued(seq) => self.progress.done.push(seq),
            What::Command(id) => self.delivered.push(id),
        }
    }

    // --- towards the peer ------------------------------------------------------------------------

    /// Takes messages from the session's queue on disk, in order.
    pub(super) fn queue(&mut self, page: Vec<Waiting>) {
        self.queued.extend(page);
    }

    /// Messages from the queue on disk that wait here or are unacknowledged.
    #[must_use]
    pub(super) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Room for more messages from the mailbox.
    #[must_use]
    pub(super) fn wants_messages(&self) -> bool {
        self.volatile.is_empty()
    }

    /// Where to put messages that live as long as the connection.
    pub(super) fn mailbox(&mut self) -> &mut VecDeque<Message> {
        &mut self.volatile
    }

    /// Sends what waits: until there is nothing more, the window is full, or `out` has `full` bytes.
    pub(super) fn pump(&mut self, now: UnixMillis, full: usize, out: &mut BytesMut) -> Pumped {
        let mut pumped = Pumped::default();
        while out.len() < full && self.has_window() {
            let Some(waiting) = self.queued.pop_front() else {
                break;
            };
            self.send_queued(&waiting, now, out, &mut pumped);
        }
        while out.len() < full {
            let Some(message) = self.volatile.pop_front() else {
                break;
            };
            if let Some(message) = self.send(message, now, out, &mut pumped) {
                self.volatile.push_front(message);
                break;
            }
        }
        pumped
    }

    fn has_window(&self) -> bool {
        self.outgoing.len() < usize::from(self.terms.window)
    }

    fn send_queued(
        &mut self,
        waiting: &Waiting,
        now: UnixMillis,
        out: &mut BytesMut,
        pumped: &mut Pumped,
    ) {
        let seq = waiting.seq;
        let Some(id) = NonZeroU16::new(packet_id(seq)) else {
            return;
        };
        let qos = QoS::from_bits(waiting.qos).unwrap_or(QoS::AtLeastOnce);
        let dup = seq <= self.terms.sent_through;
        let entry = InFlight {
            id,
            twice: qos == QoS::ExactlyOnce,
            received: waiting.received,
            what: What::Queued(seq),
        };
        if waiting.received {
            self.outgoing.push_back(entry);
            self.release(id, ReasonCode::Success, out);
            return;
        }
        let expires_at = waiting
            .expires_at
            .map(|at| UnixMillis(u64::try_from(at).unwrap_or_default()));
        // What may have been sent is sent again even if its time is over: the flow must end
        // (5.0, section 4.4).
        let expires_at = if dup { None } else { expires_at };
        let Some(properties) = properties_for(&waiting.properties, expires_at, &[], now) else {
            pumped.expired += 1;
            self.progress.done.push(seq);
            return;
        };
        let publish = Publish {
            dup,
            qos,
            retain: waiting.retain,
            topic: &waiting.topic,
            packet_id: Some(id),
            properties: properties.as_raw(),
            payload: &waiting.payload,
        };
        if publish.encode(&self.terms.peer, out).is_err() {
            // As if it had been sent and acknowledged (`[MQTT-3.1.2-25]`).
            pumped.too_large += 1;
            self.progress.done.push(seq);
            return;
        }
        pumped.sent += 1;
        self.outgoing.push_back(entry);
        self.progress.sent_through = Some(seq);
    }

    /// Sends a message, or gives it back if the window is full.
    fn send(
        &mut self,
        message: Message,
        now: UnixMillis,
        out: &mut BytesMut,
        pumped: &mut Pumped,
    ) -> Option<Message> {
        let own = message.from != 0 && message.from == self.terms.number;
        let (qos, retain, identifiers) = match message.source {
            Source::Retained {
                granted,
                identifier,
            } => (
                message.qos.min(granted),
                true,
                identifier.into_iter().collect(),
            ),
            source => {
                let Some(matched) = self.subscriptions.matching(&message.topic, own) else {
                    pumped.unsubscribed += 1;
                    return None;
                };
                let qos = message.qos.min(matched.qos);
                match source {
                    Source::Client if self.terms.durable && qos > QoS::AtMostOnce => {
                        // It comes through the session's queue.
                        return None;
                    }
                    Source::Client => {
                        let retain = message.retain && matched.retain_as_published;
                        (qos, retain, matched.identifiers)
                    }
                    Source::Command(_) => (qos.min(QoS::AtLeastOnce), false, matched.identifiers),
                    _ => (qos, message.retain, matched.identifiers),
                }
            }
        };
        // A QoS 2 exchange must survive the connection if the session does; this one would not.
        let qos = if self.terms.durable {
            qos.min(QoS::AtLeastOnce)
        } else {
            qos
        };
        let id = match qos {
            QoS::AtMostOnce => None,
            _ if !self.has_window() => return Some(message),
            _ => match self.free_id() {
                Some(id) => Some(id),
                None => return Some(message),
            },
        };
        let Some(properties) =
            properties_for(&message.properties, message.expires_at, &identifiers, now)
        else {
            pumped.expired += 1;
            return None;
        };
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic: &message.topic,
            packet_id: id,
            properties: properties.as_raw(),
            payload: &message.payload,
        };
        match publish.encode(&self.terms.peer, out) {
            Ok(_) => pumped.sent += 1,
            Err(EncodeError::PacketTooLarge { .. } | _) => {
                pumped.too_large += 1;
                return None;
            }
        }
        match (id, message.source) {
            (Some(id), Source::Command(command)) => {
                let what = What::Command(command);
                self.outgoing.push_back(InFlight {
                    id,
                    twice: qos == QoS::ExactlyOnce,
                    received: false,
                    what,
                });
            }
            (Some(id), _) => {
                let what = What::Volatile;
                self.outgoing.push_back(InFlight {
                    id,
                    twice: qos == QoS::ExactlyOnce,
                    received: false,
                    what,
                });
            }
            (None, Source::Command(command)) => self.delivered.push(command),
            (None, _) => {}
        }
        None
    }

    /// The next identifier for a message that does not survive the connection.
    fn free_id(&mut self) -> Option<NonZeroU16> {
        let floor = if self.terms.durable {
            QUEUED_PACKET_IDS
        } else {
            0
        };
        // One more try than identifiers can be taken.
        for _ in 0..=self.outgoing.len() {
            self.next_id = self.next_id.checked_add(1).unwrap_or(0).max(floor + 1);
            let id = NonZeroU16::new(self.next_id)?;
            if self.outgoing.iter().all(|entry| entry.id != id) {
                return Some(id);
            }
        }
        None
    }

    fn write_ack(&self, ack: &Ack<'_>, out: &mut BytesMut) {
        if ack.encode(&self.terms.peer, out).is_err() {
            // A reason this acknowledgement does not carry, or a peer that takes less than 5 bytes:
            // the bare form says the essential.
            let bare = Ack::success(ack.kind, ack.packet_id);
            let _ = bare.encode(
                &Peer {
                    max_packet_size: u32::MAX,
                    ..self.terms.peer
                },
                out,
            );
        }
    }
}

#[cfg(test)]
mod tests;
