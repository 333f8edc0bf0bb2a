//! What is sent to the peer, within its window, and how it acknowledges that.
//!
//! # Packet identifiers
//!
//! Messages from the session's queue have the identifier that derives from their number
//! ([`packet_id`]); others, which do not survive the connection, take theirs from above that range.

use std::{collections::VecDeque, num::NonZeroU16};

use bytes::BytesMut;
use tidegate_mqtt::{Ack, AckKind, Publish, QoS, ReasonCode, Version};
use tidegate_wire::MessageId;

use super::Session;
use crate::{
    clock::UnixMillis,
    front::message::{Message, Source, properties_for},
    store::sessions::{QUEUED_PACKET_IDS, Waiting, packet_id},
};

/// What to do about a PUBREC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::front) enum Received {
    /// PUBREL at once.
    Now(ReasonCode),
    /// PUBREL when [`Progress::received`](crate::store::sessions::Progress::received) is on disk.
    AfterCommit,
    /// Nothing: the peer refused the message.
    Nothing,
}

/// A message the peer has not acknowledged for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
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
pub(in crate::front) struct Pumped {
    pub(in crate::front) sent: u64,
    pub(in crate::front) expired: u64,
    pub(in crate::front) too_large: u64,
    pub(in crate::front) unsubscribed: u64,
}

impl Session {
    /// Takes a PUBACK. One for an unknown identifier changes nothing: it is about an earlier
    /// connection. Nor does one for a QoS 2 message (`[MQTT-4.3.3-3]`).
    pub(in crate::front) fn puback(&mut self, id: NonZeroU16) {
        if self.in_flight(id).is_some_and(|(_, entry)| !entry.twice) {
            self.finish(id);
        }
    }

    /// Takes a PUBREC.
    pub(in crate::front) fn pubrec(&mut self, id: NonZeroU16, reason: ReasonCode) -> Received {
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
    pub(in crate::front) fn release(
        &mut self,
        id: NonZeroU16,
        reason: ReasonCode,
        out: &mut BytesMut,
    ) {
        self.write_ack(
            &Ack {
                reason,
                ..Ack::success(AckKind::PubRel, id)
            },
            out,
        );
    }

    /// Takes a PUBCOMP.
    pub(in crate::front) fn completed(&mut self, id: NonZeroU16) {
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

    /// Takes messages from the session's queue on disk, in order.
    pub(in crate::front) fn queue(&mut self, page: Vec<Waiting>) {
        self.queued.extend(page);
    }

    /// Messages from the queue on disk that wait here or are unacknowledged.
    #[must_use]
    pub(in crate::front) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Room for more messages from the mailbox.
    #[must_use]
    pub(in crate::front) fn wants_messages(&self) -> bool {
        self.volatile.is_empty()
    }

    /// Where to put messages that live as long as the connection.
    pub(in crate::front) fn mailbox(&mut self) -> &mut VecDeque<Message> {
        &mut self.volatile
    }

    /// Sends what waits: until there is nothing more, the window is full, or `out` has `full` bytes.
    pub(in crate::front) fn pump(
        &mut self,
        now: UnixMillis,
        full: usize,
        out: &mut BytesMut,
    ) -> Pumped {
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
            Err(_) => {
                pumped.too_large += 1;
                return None;
            }
        }
        let what = match message.source {
            Source::Command(command) => What::Command(command),
            _ => What::Volatile,
        };
        match (id, what) {
            (Some(id), what) => self.outgoing.push_back(InFlight {
                id,
                twice: qos == QoS::ExactlyOnce,
                received: false,
                what,
            }),
            (None, What::Command(command)) => self.delivered.push(command),
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
}
