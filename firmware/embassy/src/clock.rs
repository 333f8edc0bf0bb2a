//! `embassy-time` as the device's clock.

use core::time::Duration;

use embassy_time::{Instant, Timer};
use tidegate_app::board::Clock;

/// The time driver of the board.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbassyClock;

impl Clock for EmbassyClock {
    fn uptime(&self) -> Duration {
        Duration::from_micros(Instant::now().as_micros())
    }

    async fn sleep_until(&self, uptime: Duration) {
        // What does not fit is past the end of the counter, some thousand years from now.
        let micros = u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX);
        let at = Instant::try_from_micros(micros).unwrap_or(Instant::MAX);
        Timer::at(at).await;
    }
}
