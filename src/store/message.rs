//! What goes in and out of the store.

use tidegate_wire::MessageId;

use super::{DeviceKey, Seq, UpstreamKey, sessions};
use crate::{clock::UnixMillis, envelope::Kind};

/// What became of one message of a [`super::Batch`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Committed under this position.
    Stored(Seq),
    /// The same bytes again, with the DUP flag: acknowledge, nothing new stored.
    Duplicate,
    /// This `message_id` was accepted before.
    Replayed,
    /// It is as old as messages that were forgotten while the clock was ahead, so whether it was
    /// accepted before cannot be known. To be rejected as a stale timestamp.
    Stale,
}

/// A message as an upstream gets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    pub seq: Seq,
    pub device: DeviceKey,
    pub kind: Kind,
    pub message_id: MessageId,
    /// When the device signed it, seconds since 1970.
    pub timestamp: u64,
    pub received_at: UnixMillis,
    /// The payload as the device wrote it.
    pub payload: bytes::Bytes,
}

/// What became of one message at one upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Delivered,
    /// Refused for good: kept with the reason until someone retries or drops it.
    Dead {
        status: Option<u16>,
        reason: String,
    },
    /// Not for this upstream after all. No longer counted as accepted for it.
    Skipped,
    /// Taken out of the log's order to wait on its own, so that one device's trouble holds back no
    /// other. Stays owed.
    Parked,
    /// Given up on because of `storage.max_age` or `discard_oldest`.
    Expired,
}

/// A reply for a device that goes into its session's durable queue in the same commit that settles
/// the message it answers.
#[derive(Clone, Debug)]
pub struct DurableReply {
    pub session: sessions::SessionKey,
    pub qos: u8,
    pub topic: String,
    pub payload: bytes::Bytes,
}

/// Settling a message that is settled already changes nothing (and queues no reply again).
#[derive(Clone, Debug)]
pub struct Settled {
    pub seq: Seq,
    pub device: DeviceKey,
    pub outcome: Outcome,
    pub reply: Option<DurableReply>,
}

/// One upstream's balance: `accepted == delivered + owed + dead + expired`, always.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ledger {
    pub accepted: u64,
    pub delivered: u64,
    pub owed: u64,
    pub dead: u64,
    pub expired: u64,
}

impl Ledger {
    #[must_use]
    pub fn balances(&self) -> bool {
        self.accepted == self.delivered + self.owed + self.dead + self.expired
    }
}

/// A ledger beside what a scan of the tables finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LedgerCheck {
    pub ledger: Ledger,
    /// Owed messages found: in the log, and parked.
    pub owed_in_log: u64,
    pub parked: u64,
    pub dead: u64,
}

impl LedgerCheck {
    /// Whether the counters say what the tables hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ledger.balances()
            && self.ledger.owed == self.owed_in_log + self.parked
            && self.ledger.dead == self.dead
    }
}

/// Which kinds an upstream is owed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    pub data: bool,
    pub events: bool,
}

impl Wanted {
    #[must_use]
    pub fn wants(self, kind: Kind) -> bool {
        match kind {
            Kind::Data => self.data,
            Kind::Event => self.events,
            Kind::Ack => false,
        }
    }
}

/// An upstream as the store knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamInfo {
    pub key: UpstreamKey,
    pub name: String,
    /// Whether the configuration still has it; if not, it keeps its debts until it is dropped.
    pub configured: bool,
    pub position: Seq,
    pub ledger: Ledger,
    pub parked: u64,
}

/// A device with messages that wait on their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParkedDevice {
    pub device: DeviceKey,
    pub messages: u64,
    pub oldest: Seq,
}

/// Which dead letters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DeadFilter {
    pub device: Option<DeviceKey>,
    pub seq: Option<Seq>,
    /// Only those after this position: for paging.
    pub after: Option<Seq>,
    /// 0 means no limit.
    pub limit: u32,
}

/// A message an upstream refused for good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadLetter {
    pub message: Message,
    pub status: Option<u16>,
    pub reason: String,
    pub died_at: UnixMillis,
}
