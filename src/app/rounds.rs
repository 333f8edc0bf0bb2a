//! What is done now and then: commands expire, times of last use are noted, the store is asked whether
//! it still commits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Gateway;
use crate::store::StoreError;

/// Commands expire by the second, and readiness is as old as this at most.
const SECOND: Duration = Duration::from_secs(1);
/// Notes that only have to be roughly right are written seldom: cards wear out.
const SELDOM: u32 = 300;

/// Goes round until the gateway stops.
pub(super) async fn go(gateway: Arc<Gateway>, stopping: CancellationToken) {
    let mut ticks = interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        round = round.wrapping_add(1);
        if let Err(error) = gateway.round(round.is_multiple_of(SELDOM)).await {
            // The store itself says what is wrong, once; this is for what lies in between.
            tracing::debug!(%error, "a periodic task was put off");
        }
    }
}

impl Gateway {
    async fn round(&self, seldom: bool) -> Result<(), StoreError> {
        // A commit of nothing costs nothing, and shows that the writer is there.
        self.store.write(|_| Ok(())).await?;
        self.health.committed(Instant::now());
        // Nothing ends on the word of a clock that is not to be believed.
        let Ok(now) = self.clock.now() else {
            return Ok(());
        };
        // And nothing that cannot be taken back on the word of one that has just jumped.
        let settled = self.clock.settled();
        if let Some(settled) = settled {
            self.clock.raise_floor(settled);
            self.store.note_time(settled);
        }
        self.commands.expire(now).await?;
        if seldom {
            if let Some(settled) = settled {
                let store = self.store.clone();
                let expired = tokio::task::spawn_blocking(move || store.expire(settled)).await;
                expired.map_err(|_| StoreError::Stopping)??;
            }
            self.note().await?;
        }
        Ok(())
    }

    /// Writes down what is only kept in memory between rounds.
    async fn note(&self) -> Result<(), StoreError> {
        if let Err(error) = self.registry.record_seen().await {
            tracing::debug!(%error, "times of last contact were not noted");
        }
        self.keys.record_used().await
    }

    /// The last round before the store closes.
    pub(super) async fn last_round(&self) -> Result<(), StoreError> {
        self.note().await
    }

    /// Whether the gateway does its work, clock aside: what the watchdog wants to know.
    pub(super) fn alive(&self) -> bool {
        self.health.commits(Instant::now())
    }
}
