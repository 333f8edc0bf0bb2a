//! What one device is owed, as far as it is in memory.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Now;
use crate::store::{Message, Seq};

/// Where a message came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    Log,
    Parked,
}

/// A message under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) seq: Seq,
    pub(super) origin: Origin,
    pub(super) bytes: usize,
    /// It was parked while it was under way.
    pub(super) just_parked: bool,
}

/// In which of the scheduler's lists a device stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Place {
    /// In none.
    #[default]
    Idle,
    /// Its next message may go.
    Ready,
    /// Its next message may go then.
    Waiting(Instant),
    /// Its parked messages are to be read.
    Fetch,
    /// Its parked messages are being read.
    Fetching,
    /// A message is under way.
    Flight,
    /// Its parked messages are to be read once what it settled is committed.
    Commit,
}

/// One device's queue: what is parked goes before what is in the log.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// From the log, in order.
    pub(super) log: VecDeque<Message>,
    /// The first of its parked messages, in order: copies of what the store holds.
    pub(super) parked: VecDeque<Message>,
    pub(super) in_flight: Option<InFlight>,
    /// The store may hold more parked messages; they go before `log`.
    pub(super) behind: bool,
    /// What the log brings is parked rather than queued, because earlier messages are.
    pub(super) diverting: bool,
    /// Something was parked since its parked messages were last asked for.
    pub(super) diverted: bool,
    /// Failed attempts of its next message, in a row.
    pub(super) failures: u32,
    /// How many answers the upstream had given anyone when the first of them failed.
    pub(super) answers_before: u64,
    /// The last of them blamed the upstream rather than the message.
    pub(super) blames_upstream: bool,
    pub(super) not_before: Option<Instant>,
    /// The flush that its newest settlement is part of.
    pub(super) flush: u64,
    /// Counts among those whose parked messages are in memory.
    pub(super) holds_parked: bool,
    pub(super) place: Place,
}

impl Queue {
    /// Takes the next message.
    pub(super) fn pop(&mut self) -> Option<(Message, Origin)> {
        if let Some(message) = self.parked.pop_front() {
            return Some((message, Origin::Parked));
        }
        if self.behind {
            return None;
        }
        self.log.pop_front().map(|message| (message, Origin::Log))
    }

    /// Forgets that its next message failed.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.blames_upstream = false;
        self.not_before = None;
    }
}

/// Whether a message is too old to be delivered.
pub(super) fn expired(message: &Message, max_age: Option<Duration>, now: Now) -> bool {
    match (max_age, now.wall) {
        (Some(max_age), Some(wall)) => {
            let age = wall.0.saturating_sub(message.received_at.0);
            u128::from(age) > max_age.as_millis()
        }
        _ => false,
    }
}
