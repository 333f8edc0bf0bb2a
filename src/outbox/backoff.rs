//! How long to wait before another attempt.

use std::time::Duration;

/// The longest a `Retry-After` is honoured. A backend that asks for more is asked again after this:
/// an hour is the longest quota window in common use, and a typo in a header must not silence a
/// gateway for a year.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Exponential back-off with full jitter: a wait drawn evenly from zero to a ceiling that starts at
/// `min` and doubles with each failure up to `max`. Full jitter spreads a crowd best of all
/// variants (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row (1 is the first). `random` is evenly
    /// distributed over all of `u64`. What the upstream asked for is never cut short, up to
    /// [`MAX_RETRY_AFTER`].
    #[must_use]
    pub fn wait(&self, failures: u32, asked: Option<Duration>, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self.min.saturating_mul(1 << doublings).min(self.max);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product is `random` scaled to [0, nanos).
        let jittered = (u128::from(random) * u128::from(nanos)) >> 64;
        let jittered = Duration::from_nanos(u64::try_from(jittered).unwrap_or(u64::MAX));
        asked.map_or(jittered, |asked| jittered.max(asked.min(MAX_RETRY_AFTER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_millis(500),
        max: Duration::from_secs(60),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_wait() {
        let longest = |failures| BACKOFF.wait(failures, None, u64::MAX).as_millis() + 1;
        assert_eq!(longest(1), 500);
        assert_eq!(longest(2), 1_000);
        assert_eq!(longest(7), 32_000);
        assert_eq!(longest(8), 60_000);
        assert_eq!(longest(u32::MAX), 60_000);
    }

    #[test]
    fn jitter_covers_all_of_it_evenly() {
        assert_eq!(BACKOFF.wait(3, None, 0), Duration::ZERO);
        assert_eq!(BACKOFF.wait(3, None, 1 << 63), Duration::from_secs(1));
    }

    #[test]
    fn what_was_asked_is_honoured_within_reason() {
        let asked = |seconds| {
            BACKOFF
                .wait(1, Some(Duration::from_secs(seconds)), 0)
                .as_secs()
        };
        assert_eq!(asked(7), 7);
        assert_eq!(asked(86_400), MAX_RETRY_AFTER.as_secs());
        assert_eq!(
            BACKOFF.wait(8, Some(Duration::from_secs(1)), 1 << 63),
            Duration::from_secs(30),
            "asking for less does not shorten the back-off"
        );
    }
}
