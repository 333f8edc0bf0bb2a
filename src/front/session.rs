//! The protocol state of one connection: QoS flows both ways, windows, topic aliases.
//!
//! No sockets, no clock, no storage: packets go in, and what is to be sent is appended to a buffer.
//! What must be on disk first is for the caller to arrange; [`Session::progress`] gathers what the
//! store has to learn. [`incoming`] is what the peer sends, [`outgoing`] what is sent to it.

mod incoming;
mod outgoing;

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU16,
    sync::Arc,
};

use bytes::BytesMut;
use tidegate_mqtt::{Ack, Peer, ReasonCode, Version};
use tidegate_wire::MessageId;

use super::{message::Message, subscription::Subscriptions};
use crate::store::sessions::{Progress, Waiting};
use incoming::Taken;
pub(super) use incoming::{Inbound, Release};
use outgoing::InFlight;
pub(super) use outgoing::Received;

/// Topic aliases a peer may define (MQTT 5). More than a device has topics; each may cost 64 KiB.
pub(super) const TOPIC_ALIAS_MAXIMUM: u16 = 16;

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
        Self {
            terms,
            subscriptions,
            progress: Progress::default(),
            delivered: Vec::new(),
            aliases: Vec::new(),
            incoming: 0,
            taken: inbound
                .iter()
                .filter_map(|id| Some((NonZeroU16::new(*id)?, Taken::RESUMED)))
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
