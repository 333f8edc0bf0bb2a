//! How fast a device may send: a token bucket in one word.
//!
//! It is the generic cell rate algorithm (ITU-T I.371): one number says until when the messages taken
//! so far are paid for. A device's connections share it, so reconnecting does not fill the bucket.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A bucket. Time is nanoseconds since any fixed moment, the same for all calls.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    paid_until: AtomicU64,
}

/// What a bucket allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    /// Time per message, in nanoseconds; 0 is without limit.
    interval: u64,
    /// How far ahead of its rate a sender may run, in nanoseconds.
    ahead: u64,
}

impl Rate {
    /// `per_second` messages, running ahead by at most `burst`; 0 per second is without limit.
    #[must_use]
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        if per_second == 0 {
            return Self {
                interval: 0,
                ahead: 0,
            };
        }
        Self::of(1_000_000_000 / u64::from(per_second), burst)
    }

    /// One per `interval`, running ahead by at most `burst`.
    #[must_use]
    pub(super) fn every(interval: Duration, burst: u32) -> Self {
        Self::of(
            u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX),
            burst,
        )
    }

    fn of(interval: u64, burst: u32) -> Self {
        Self {
            interval,
            ahead: interval.saturating_mul(u64::from(burst.max(1))),
        }
    }
}

impl Bucket {
    /// Takes one message out; false if there is none.
    #[inline]
    pub(super) fn take(&self, rate: Rate, now: u64) -> bool {
        if rate.interval == 0 {
            return true;
        }
        let mut paid = self.paid_until.load(Ordering::Relaxed);
        loop {
            let next = paid.max(now).saturating_add(rate.interval);
            if next > now.saturating_add(rate.ahead) {
                return false;
            }
            match self.paid_until.compare_exchange_weak(
                paid,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(other) => paid = other,
            }
        }
    }

    /// How long until a tenth of the burst (at least one message) can be taken again.
    #[must_use]
    pub(super) fn recovery(&self, rate: Rate, now: u64) -> Duration {
        let room = (rate.ahead / 10).max(rate.interval);
        let paid = self.paid_until.load(Ordering::Relaxed);
        let limit = now.saturating_add(rate.ahead).saturating_sub(room);
        Duration::from_nanos(paid.saturating_sub(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 5));
        let taken = |now: u64| (0..100).filter(|_| bucket.take(rate, now)).count();
        assert_eq!(taken(50 * SECOND), 5, "the burst");
        assert_eq!(taken(50 * SECOND), 0);
        assert_eq!(
            taken(51 * SECOND),
            5,
            "a full bucket holds no more than the burst"
        );
        assert_eq!(
            taken(51 * SECOND + SECOND / 10),
            1,
            "ten per second from then on"
        );
    }

    #[test]
    fn recovery_is_when_some_can_be_taken() {
        let (bucket, rate) = (Bucket::default(), Rate::new(100, 100));
        let now = 7 * SECOND;
        while bucket.take(rate, now) {}
        let wait = bucket.recovery(rate, now);
        assert_eq!(wait, Duration::from_millis(100));
        let later = now + 100_000_000;
        assert_eq!((0..100).filter(|_| bucket.take(rate, later)).count(), 10);
    }

    #[test]
    fn no_limit() {
        let bucket = Bucket::default();
        assert!((0..10_000).all(|_| bucket.take(Rate::new(0, 0), 0)));
    }
}
