//! What happens by itself: sessions and retained messages expire, wills come due, and live
//! connections are looked at again when the registry or the credentials change.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Directory, Shared, Why, free::retained_message, metrics::Dropped, will};
use crate::{
    clock::UnixMillis,
    store::{Store, StoreError, sessions},
};

/// How often to look for what is due: will delays and expiries are whole seconds.
const PERIOD: Duration = Duration::from_secs(1);
/// Periods between looking at expired retained messages.
const SELDOM: u32 = 60;
/// Periods between looking at certificates' ends: how long a connection may outlive its certificate.
/// Every connection is woken for it, which 10,000 of them do not notice at this rate.
const CERTIFICATES: u32 = 10;
/// Changes are gathered this long before connections are woken: many devices may change at once, and
/// each must be closed within a second.
const GATHER: Duration = Duration::from_millis(100);

/// Reads what outlived the last run: sessions and retained messages. To be called once, before
/// [`super::run`].
///
/// # Errors
/// [`StoreError`].
pub async fn recover(
    store: &Store,
    directory: &Directory,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let now = millis(now);
    let (dormant, retained) = store
        .write(move |conn| Ok((sessions::recover(conn, now)?, sessions::retained(conn)?)))
        .await?;
    directory.load(&dormant);
    for stored in retained {
        directory.retained.set(&retained_message(stored));
    }
    Ok(())
}

fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// Ends what is due, until the gateway stops.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for suppressed in shared.rejection_log().expired(std::time::Instant::now()) {
            tracing::warn!("{suppressed}");
        }
        // Nothing ends on the word of a clock that is not to be believed.
        let Ok(now) = shared.clock.now() else {
            continue;
        };
        match expire(&shared, now).await {
            Ok(()) | Err(StoreError::Stopping) => {}
            Err(error) => tracing::error!(%error, "sessions and wills that are due wait"),
        }
        tick = tick.wrapping_add(1);
        if tick.is_multiple_of(CERTIFICATES) {
            shared.directory.recheck_all();
        }
        if tick.is_multiple_of(SELDOM)
            && let Err(error) = expire_retained(&shared, now).await
        {
            tracing::error!(%error, "expired retained messages were not removed");
        }
    }
}

async fn expire(shared: &Shared, now: UnixMillis) -> Result<(), StoreError> {
    let ms = millis(now);
    // Asked first: a write would be a commit every second, even of an idle gateway.
    if !shared
        .store
        .read(move |conn| sessions::is_due(conn, ms))
        .await?
    {
        return Ok(());
    }
    let expired = shared
        .store
        .write(move |conn| sessions::expire(conn, ms))
        .await?;
    shared.directory.forget(&expired.sessions);
    shared
        .metrics
        .dropped(Dropped::QueueFull)
        .add(expired.dropped);
    for due in expired.wills {
        will::publish(shared, due).await;
    }
    Ok(())
}

async fn expire_retained(shared: &Shared, now: UnixMillis) -> Result<(), StoreError> {
    let gone = shared.directory.retained.expire(now);
    if gone.is_empty() {
        return Ok(());
    }
    shared
        .metrics
        .retained_messages
        .set(shared.directory.retained.len() as u64);
    let ms = millis(now);
    shared
        .store
        .write(move |conn| sessions::expire_retained(conn, ms))
        .await
}

/// Has connections looked at again whenever something about who is welcome changed, and closes them
/// when the gateway stops.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut registry = shared.registry.changes();
    let mut credentials = shared.credentials.clone();
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => break,
            changed = registry.changed() => if changed.is_err() { break },
            changed = credentials.changed() => if changed.is_err() { break },
        }
        sleep(GATHER).await;
        registry.mark_unchanged();
        credentials.mark_unchanged();
        shared.directory.recheck_all();
    }
    shared.stopping.cancelled().await;
    shared.directory.close_all(Why::Stopping);
}
