//! Time, and whether it can be trusted.
//!
//! A Raspberry Pi has no clock battery: after a power cut it wakes up in the past. Until the system
//! clock is at or past a floor that only moves forward (the newest time this gateway ever
//! persisted, and the time it was built), freshness and certificate validity mean nothing, so
//! connections are refused with a reason that says so.
//!
//! A clock may also jump ahead by mistake and come back. If what it read meanwhile were taken for
//! certain, the gateway would refuse everybody for as long as the jump was wide. So after a step
//! ahead, nothing that cannot be taken back is done by the new time (the floor does not rise, what is
//! owed does not expire) until it has stood for an hour: [`Clock::settled`].

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
    steps: Mutex<Steps>,
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
pub(crate) const STEP_TOLERANCE_MS: u64 = 60_000;

/// How long a step ahead must stand before it is taken for the truth. Whoever looks after the machine,
/// or NTP, has put it right by then; and after a start without a clock battery, an hour without a
/// rising floor costs nothing that freshness and the memory of message ids do not cover.
const SETTLES: Duration = Duration::from_secs(3600);

/// Steps of the clock, seen from one that is never set.
#[derive(Debug, Default)]
struct Steps {
    /// What the clock read when it was last believed.
    believed: Option<(UnixMillis, Instant)>,
    /// Since when it has been ahead of that.
    ahead_since: Option<Instant>,
}

impl Steps {
    /// Takes a reading and says whether it is to be taken for certain. (`instant` may stand still
    /// while the machine sleeps, which then looks like a step: it settles as one.)
    fn settled(&mut self, now: UnixMillis, instant: Instant) -> bool {
        let expected = self.believed.map_or(now.0, |(then, at)| {
            let ran = instant.saturating_duration_since(at).as_millis();
            then.0
                .saturating_add(u64::try_from(ran).unwrap_or(u64::MAX))
        });
        if now.0 > expected.saturating_add(STEP_TOLERANCE_MS) {
            let since = *self.ahead_since.get_or_insert(instant);
            if instant.saturating_duration_since(since) < SETTLES {
                return false;
            }
        }
        *self = Self {
            believed: Some((now, instant)),
            ahead_since: None,
        };
        true
    }
}

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
            steps: Mutex::default(),
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

    /// The time for what cannot be taken back; `None` while the clock is not trusted, or has stepped
    /// ahead and not stood there for long.
    #[must_use]
    pub fn settled(&self) -> Option<UnixMillis> {
        let now = self.now().ok()?;
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.settled(now, Instant::now()).then_some(now)
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
    fn a_step_ahead_is_certain_only_after_an_hour() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let reads = UnixMillis::from_seconds;
        const DAY: u64 = 86_400;
        let mut steps = Steps::default();
        assert!(steps.settled(reads(1_000), at(0)), "what it starts with");
        assert!(
            steps.settled(reads(1_065), at(10)),
            "small steps are ordinary"
        );
        assert!(!steps.settled(reads(1_070 + DAY), at(15)));
        assert!(!steps.settled(reads(1_071 + 2 * DAY), at(16)), "on and on");
        assert!(steps.settled(reads(1_080), at(25)), "it came back");
        assert!(!steps.settled(reads(1_090 + DAY), at(35)));
        assert!(!steps.settled(reads(4_600 + DAY), at(3_545)));
        assert!(
            steps.settled(reads(4_690 + DAY), at(3_635)),
            "it stood for an hour"
        );
        assert!(steps.settled(reads(4_700 + DAY), at(3_645)));
        assert!(steps.settled(reads(5_000), at(3_700)), "and was wrong");
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
