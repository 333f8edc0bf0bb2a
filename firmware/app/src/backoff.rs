//! How long to wait before the next attempt.

use core::time::Duration;

/// First ceiling: most interruptions are a gateway that restarts, which takes seconds.
const BASE: Duration = Duration::from_secs(1);

/// Last ceiling: a thousand devices that come back over two minutes are eight handshakes a second.
const CEILING: Duration = Duration::from_secs(120);

/// A connection that held this long was a good one: the next failure is a new story.
const STABLE: Duration = Duration::from_secs(30);

/// Exponential back-off with jitter: devices that lost the same gateway must not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt: between half of the ceiling and all of it. `random` is
    /// any number, evenly distributed.
    pub fn wait(&mut self, random: u32) -> Duration {
        let ceiling = BASE
            .saturating_mul(1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX))
            .min(CEILING);
        self.attempts = self.attempts.saturating_add(1);
        let half = ceiling / 2;
        let jitter = u128::from(random) * half.as_millis() / u128::from(u32::MAX);
        half + Duration::from_millis(jitter as u64)
    }

    /// A connection ended that had held for this long.
    pub fn ended(&mut self, held: Duration) {
        if held >= STABLE {
            self.attempts = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_ceiling_and_stay_there(randoms: [u32; 40]) {
            let mut backoff = Backoff::default();
            for (attempt, random) in randoms.into_iter().enumerate() {
                let ceiling = Duration::from_secs(1 << attempt.min(20)).min(CEILING);
                let wait = backoff.wait(random);
                prop_assert!(wait >= ceiling / 2 && wait <= ceiling, "{wait:?} of {ceiling:?}");
            }
            backoff.ended(STABLE - Duration::from_millis(1));
            prop_assert!(backoff.wait(0) >= CEILING / 2, "a flapping gateway is left in peace");
            backoff.ended(STABLE);
            prop_assert!(backoff.wait(u32::MAX) <= BASE);
        }
    }
}
