//! What a forwarder counts, per upstream.

use crate::{
    metrics::{Counter, Gauge},
    outbox::{Cause, Counts, Phase},
    store::Outcome,
};

/// Plain atomics. Outcomes are counted once they are committed.
#[derive(Debug, Default)]
pub struct ForwardMetrics {
    pub attempts: Counter,
    /// Time spent waiting for answers, microseconds, and the slowest since the start.
    pub attempt_micros: Counter,
    pub slowest_attempt_micros: Gauge,
    pub delivered: Counter,
    pub dead: Counter,
    pub expired: Counter,
    pub skipped: Counter,
    pub parked: Counter,
    pub retries_unreachable: Counter,
    pub retries_no_answer: Counter,
    pub retries_overloaded: Counter,
    pub retries_failed: Counter,
    pub retries_torn_reply: Counter,
    /// Replies handed to a session, and those nobody took.
    pub replies: Counter,
    pub replies_dropped: Counter,
    pub flushes: Counter,
    /// Settlements that could not be committed and are tried again.
    pub failed_flushes: Counter,
    /// Messages of the log in memory, waiting or under way.
    pub window: Gauge,
    pub in_flight: Gauge,
    /// 0 delivering, 1 paused and probing, 2 ramping up.
    pub phase: Gauge,
}

impl ForwardMetrics {
    pub(super) fn retry(&self, cause: Cause) {
        match cause {
            Cause::Unreachable => &self.retries_unreachable,
            Cause::NoAnswer => &self.retries_no_answer,
            Cause::Overloaded => &self.retries_overloaded,
            Cause::Failed => &self.retries_failed,
            Cause::TornReply => &self.retries_torn_reply,
        }
        .increment();
    }

    pub(super) fn committed(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered => &self.delivered,
            Outcome::Dead { .. } => &self.dead,
            Outcome::Skipped => &self.skipped,
            Outcome::Parked => &self.parked,
            Outcome::Expired => &self.expired,
        }
        .increment();
    }

    pub(super) fn set(&self, counts: Counts) {
        let gauge = |value| u64::try_from(value).unwrap_or(u64::MAX);
        self.window.set(gauge(counts.window));
        self.in_flight.set(gauge(counts.in_flight));
        self.phase.set(match counts.phase {
            Phase::Closed => 0,
            Phase::Open => 1,
            Phase::Ramping => 2,
        });
    }
}
