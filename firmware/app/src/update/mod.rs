//! Updates: found, fetched, verified, started on trial, confirmed or taken back.
//!
//! ```text
//!  look ─▶ http ─▶ manifest: signed? for us? newer? ─▶ download ─▶ slot ─▶ read back: digest?
//!                                                                            │
//!   reported: offered, downloading, failed                               activate
//!                                                                            ▼
//!  confirmed ◀── CONNACK and PUBACK ◀── on trial ◀── boot loader ◀── installed, restart
//!                                          │
//!  rolled_back ◀── the image from before ◀─┴── crash, watchdog, not confirmed in time
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`http`] | GET with ranges, strictly |
//! | [`download`] | the image on its way into the slot; resumed |
//! | [`record`] | what is remembered of updates |
//! | [`trial`] | what a start means for an image on trial |
//! | [`otadata`] | which slot starts: the record shared with the boot loader |
//! | [`slots`] | update slots made of partitions |
//!
//! Losing power at any moment leaves a device that starts: an image is only written to the slot that
//! does not run, is activated only when what is in the flash has the signed digest, and the record
//! of which slot starts changes with a single write.

pub mod download;
pub mod http;
pub mod otadata;
pub mod record;
pub mod slots;
pub mod trial;

#[cfg(test)]
mod tests;

use core::time::Duration;

/// When updates are looked for, and how long an image is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start to the first look. With the jitter, a thousand devices that start together
    /// are twenty handshakes a second.
    pub first: Duration,
    /// Between two looks.
    pub interval: Duration,
    /// From the start of an image on trial until it is given up. A gateway that restarts, or a
    /// router, is back by then.
    pub trial: Duration,
}

impl Timing {
    /// As on the boards: a minute, six hours, fifteen minutes.
    pub const USUAL: Self = Self {
        first: Duration::from_secs(60),
        interval: Duration::from_secs(6 * 60 * 60),
        trial: Duration::from_secs(15 * 60),
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::USUAL
    }
}

/// A wait of about this long: between three quarters and five quarters of it, so that devices which
/// started together do not ask together. `random` is any number, evenly distributed.
#[must_use]
pub fn jittered(wait: Duration, random: u32) -> Duration {
    let spread = u128::from(random) * (wait / 2).as_millis() / u128::from(u32::MAX);
    let spread = u64::try_from(spread).unwrap_or(u64::MAX);
    (wait / 4 * 3).saturating_add(Duration::from_millis(spread))
}

/// What a server's `Retry-After` asks for, within reason: not sooner than a minute, and not later
/// than one would have asked anyway.
#[must_use]
pub fn retry_after(seconds: u32, interval: Duration) -> Duration {
    Duration::from_secs(seconds.into())
        .max(Duration::from_secs(60))
        .min(interval)
}
