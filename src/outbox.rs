//! What is owed to one upstream, and which message may go next.
//!
//! Pure decisions: no thread, no clock, no storage and no randomness of its own. [`crate::forward`]
//! feeds the scheduler with what the log holds, asks it what to deliver, tells it how that went and
//! commits what it settled.
//!
//! # Rules
//!
//! - Messages of one device go in the order they were accepted, one at a time. Devices take turns
//!   and never wait for one another.
//! - What may succeed later is tried again after an exponential back-off with full jitter, or when
//!   the upstream said (`Retry-After`). What never will is dead, and the device's next message goes.
//! - When the upstream itself is in trouble (unreachable, or timing out or overloaded for several
//!   devices with no success in between) everything pauses, one probe goes at a time, and the
//!   number of requests under way ramps up again from one ([`circuit`]).
//! - A device whose messages cannot go is *parked*: they leave the log for a queue of their own in
//!   the store, so that the log moves on. They go from there, in order, and what the device sends
//!   meanwhile joins that queue until it has drained.
//! - Memory is bounded by [`Limits`], whatever is owed.
//! - A settlement counts once it is committed. Until then it is only ours, and after a crash the
//!   message goes again, under the same idempotency key.

mod backoff;
mod circuit;
mod queue;
mod scheduler;

#[cfg(test)]
mod model;

pub use backoff::{Backoff, MAX_RETRY_AFTER};
pub use circuit::Phase;
pub use scheduler::{Counts, Flush, LogRequest, Next, ParkedRequest, Scheduler, Settlement};

use std::time::{Duration, Instant};

use crate::clock::UnixMillis;

/// The time as the scheduler is told it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What waits are measured by.
    pub instant: Instant,
    /// What age is measured by; `None` while the clock is not trusted, and then nothing expires.
    pub wall: Option<UnixMillis>,
}

/// Why a delivery is worth another attempt.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// No connection: refused, no such host, TLS failed. Says nothing about the message.
    Unreachable,
    /// A connection, but no answer: none in time, or closed, or not HTTP. Suspect: the upstream, or
    /// this message.
    NoAnswer,
    /// The upstream says it cannot take more now (429, 502, 503, 504).
    Overloaded,
    /// The upstream failed on this message (408, 425, 500 and other 5xx).
    Failed,
    /// The upstream took the message (2xx), but its reply did not arrive whole.
    TornReply,
}

impl Cause {
    /// Whether this speaks about the upstream as a whole rather than about one message.
    #[must_use]
    pub fn blames_upstream(self) -> bool {
        matches!(self, Self::Unreachable | Self::NoAnswer | Self::Overloaded)
    }
}

/// How one delivery went. `R` is what the forwarder wants to keep with the settlement (the reply).
#[derive(Clone, Debug)]
pub enum Verdict<R> {
    /// Taken by the upstream.
    Settled { reply: Option<R> },
    /// May succeed later; `after` is what the upstream asked us to wait.
    Retry {
        after: Option<Duration>,
        cause: Cause,
    },
    /// Refused for good.
    Refused { status: Option<u16>, reason: String },
}

/// How an upstream is treated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Deliveries under way at once.
    pub workers: usize,
    pub backoff: Backoff,
    /// Give up on what is older than this.
    pub max_age: Option<Duration>,
    /// Whether events (boot, health) are wanted; if not they are settled as skipped.
    pub events: bool,
    pub limits: Limits,
}

/// What the scheduler may hold in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages from the log, waiting or under way.
    pub window_messages: usize,
    /// Their payload bytes. One message may exceed it when it is alone.
    pub window_bytes: usize,
    /// Devices whose parked messages are in memory at once.
    pub parked_devices: usize,
    /// Messages of each of them.
    pub parked_messages: usize,
    /// Settlements not yet committed, beyond which nothing more is begun.
    pub unflushed: usize,
    /// Failed attempts of one message after which its device is parked.
    pub park_after: u32,
}

impl Default for Limits {
    /// About 8 MiB of payload at most from the log and 4 MiB parked: a message is rarely beyond
    /// 1 KiB, and 4,096 of them keep 16 workers busy for 400 ms at 10,000 deliveries per second,
    /// ten times what a commit takes on an SD card.
    fn default() -> Self {
        Self {
            window_messages: 4_096,
            window_bytes: 8 * 1024 * 1024,
            parked_devices: 64,
            parked_messages: 32,
            unflushed: 8_192,
            park_after: 5,
        }
    }
}
