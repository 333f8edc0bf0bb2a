//! Time, and whether it can be trusted.
//!
//! A Raspberry Pi has no clock battery: after a power cut it wakes up in the past. Until the system
//! clock is at or past a floor that only moves forward (the newest time this gateway ever
//! persisted, and the time it was built), freshness and certificate validity mean nothing, so
//! connections are refused with a reason that says so.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds, rounded down.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    #[must_use]
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}

/// No clock is believed that reads earlier than this: 2026-11-01, when this version was made.
pub const RELEASED: UnixMillis = UnixMillis(1_793_491_200_000);

/// The system's clock as it reads now; times before 1970 read as zero.
#[must_use]
pub fn system_now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The system clock with a floor below which it is not believed.
#[derive(Debug)]
pub struct Clock {
    floor: AtomicU64,
    read: fn() -> UnixMillis,
}

/// The system clock reads earlier than a time that has certainly passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the clock is not trusted: it reads {} but it was already {} (both in seconds since 1970); set the time or wait for NTP",
    .now.seconds(), .floor.seconds()
)]
pub struct Untrusted {
    pub now: UnixMillis,
    pub floor: UnixMillis,
}

/// How far the clock may be set back in operation before it is no longer believed. NTP steps of less
/// than this are ordinary; freshness tolerates 300 s anyway.
const STEP_TOLERANCE_MS: u64 = 60_000;

impl Clock {
    /// A clock over the system's that is trusted from `floor` on.
    #[must_use]
    pub fn system(floor: UnixMillis) -> Self {
        Self::with_source(floor, system_now)
    }

    /// A clock over any source; for tests.
    #[must_use]
    pub fn with_source(floor: UnixMillis, read: fn() -> UnixMillis) -> Self {
        Self {
            floor: AtomicU64::new(floor.0),
            read,
        }
    }

    /// The time, or why it is not to be believed.
    ///
    /// # Errors
    /// [`Untrusted`] while the source reads more than a minute before the floor.
    pub fn now(&self) -> Result<UnixMillis, Untrusted> {
        let now = (self.read)();
        let floor = UnixMillis(self.floor.load(Ordering::Relaxed));
        if now.0.saturating_add(STEP_TOLERANCE_MS) < floor.0 {
            return Err(Untrusted { now, floor });
        }
        Ok(now)
    }

    /// The time as the source reads it, trusted or not; for logs and for what only orders events.
    #[must_use]
    pub fn unchecked_now(&self) -> UnixMillis {
        (self.read)()
    }

    /// The newest time known to have passed; what is to be persisted now and then.
    #[must_use]
    pub fn floor(&self) -> UnixMillis {
        UnixMillis(self.floor.load(Ordering::Relaxed))
    }

    /// Moves the floor up to `time`; never down.
    pub fn raise_floor(&self, time: UnixMillis) {
        self.floor.fetch_max(time.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_its_floor_is_not_believed() {
        let clock = Clock::with_source(UnixMillis(1_000_000), || UnixMillis(900_000));
        assert_eq!(
            clock.now(),
            Err(Untrusted {
                now: UnixMillis(900_000),
                floor: UnixMillis(1_000_000)
            })
        );
        let clock = Clock::with_source(UnixMillis(950_000), || UnixMillis(900_000));
        assert_eq!(
            clock.now(),
            Ok(UnixMillis(900_000)),
            "a small step back is ordinary"
        );
    }

    #[test]
    fn the_floor_only_rises() {
        let clock = Clock::with_source(UnixMillis(10), || UnixMillis(0));
        clock.raise_floor(UnixMillis(5));
        assert_eq!(clock.floor(), UnixMillis(10));
        clock.raise_floor(UnixMillis(20));
        assert_eq!(clock.floor(), UnixMillis(20));
    }
}
