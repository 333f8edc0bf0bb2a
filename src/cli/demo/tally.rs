//! What the devices went through together.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidegate_host::{Notice, Watcher};

/// Latencies kept for percentiles: minutes of five devices, and soon sorted.
const MAX_LATENCIES: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Tally {
    replies: AtomicU64,
    latencies: Mutex<VecDeque<Duration>>,
}

impl Tally {
    /// What a device tells everything to.
    pub(super) fn watcher(self: &Arc<Self>) -> Watcher {
        let tally = Arc::clone(self);
        Watcher::new(move |notice| match notice {
            Notice::Response => {
                tally.replies.fetch_add(1, Ordering::Relaxed);
            }
            Notice::Accepted(after) => tally.accepted(after),
            Notice::Connected => {}
        })
    }

    fn accepted(&self, after: Duration) {
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if latencies.len() == MAX_LATENCIES {
            latencies.pop_front();
        }
        latencies.push_back(after);
    }

    /// Answers of the backend that reached their devices.
    pub(super) fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// The time from reading to acknowledgement that 99 of 100 recent messages stayed under.
    pub(super) fn p99(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() * 99 / 100).copied()
    }
}
