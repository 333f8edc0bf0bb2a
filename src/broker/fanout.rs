//! The task that drains the router: hands out what matched, and gives it the next batch.

use std::{
    mem,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Command, Shared, filter,
    router::{self, Came, Receiver},
};

/// Answers to pings in a row that mean that everything has come back. The router answers a ping
/// when it begins to hand out, so the first may come before the last of what it hands out, or
/// before the news that it paused; not so the second.
const QUIET: u8 = 2;

/// How long to wait before another attempt to start a router.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: &Shared, mut receiver: Receiver, stopping: CancellationToken) {
    loop {
        let came = tokio::select! {
            came = receiver.next() => came,
            () = stopping.cancelled() => break,
        };
        match came {
            Some(Came::Match {
                filter,
                batch,
                index,
            }) => deliver(shared, filter, batch, index),
            Some(Came::Paused) => {
                if let Some(outstanding) = &mut shared.lock().outstanding {
                    outstanding.quiet = 0;
                }
                receiver.resume();
            }
            Some(Came::Pong) => {
                if done(shared) {
                    renew(shared, &mut receiver, &stopping).await;
                }
            }
            Some(Came::Nothing) => {}
            None => {
                shared.metrics.router_panics.increment();
                tracing::error!("the router for free topics died; starting another");
                renew(shared, &mut receiver, &stopping).await;
            }
        }
    }
    if let Some(link) = &mut shared.lock().link {
        link.disconnect();
    }
}

fn deliver(shared: &Shared, number: usize, batch: u64, index: usize) {
    let found = {
        let state = shared.lock();
        let outstanding = state
            .outstanding
            .as_ref()
            .filter(|current| current.batch == batch);
        // A filter without a number any more has nobody.
        outstanding
            .zip(state.by_number.get(&number))
            .map(|(current, known)| (Arc::clone(&current.messages), Arc::clone(known)))
    };
    let Some((messages, known)) = found else {
        return;
    };
    let Some(message) = messages.get(index) else {
        return;
    };
    if filter::hidden(&known.text, &message.topic) {
        return;
    }
    let subscribers = known
        .subscribers
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    for (_, sink) in subscribers.iter() {
        sink.receive(&known.text, message);
    }
    shared
        .metrics
        .delivered
        .add(u64::try_from(subscribers.len()).unwrap_or(u64::MAX));
}

/// After a ping's answer: asks again, or goes on to the next batch. True if the router is to be
/// replaced because of what it never frees.
fn done(shared: &Shared) -> bool {
    let mut state = shared.lock();
    let state = &mut *state;
    let Some(outstanding) = &mut state.outstanding else {
        return false;
    };
    outstanding.quiet += 1;
    if outstanding.quiet < QUIET {
        if let Some(link) = &mut state.link {
            link.ping();
        }
        return false;
    }
    state.outstanding = None;
    let limits = &shared.limits;
    // Not more often than it has filters it needs.
    let filters = limits.router_filters.max(2 * state.filters.len());
    if state.seen_topics.len() >= limits.router_topics || state.seen_filters >= filters {
        shared.metrics.router_renewals.increment();
        tracing::info!(
            topics = state.seen_topics.len(),
            filters = state.seen_filters,
            "replacing the router for free topics, which frees what it remembers"
        );
        if let Some(link) = &mut state.link {
            link.retire();
        }
        state.link = None;
        return true;
    }
    shared.feed(state);
    if shared.has_room(state) {
        shared.room.notify_waiters();
    }
    false
}

/// Starts another router with all subscriptions there are.
async fn renew(shared: &Shared, receiver: &mut Receiver, stopping: &CancellationToken) {
    let link = loop {
        match router::start() {
            Ok((link, fresh)) => {
                *receiver = fresh;
                break link;
            }
            Err(error) => tracing::error!(%error, "trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => {}
            () = stopping.cancelled() => return,
        }
    };
    let mut state = shared.lock();
    let state = &mut *state;
    if let Some(lost) = state.outstanding.take() {
        // Some of their copies may have gone out; the rest are lost with the router.
        shared
            .metrics
            .lost
            .add(u64::try_from(lost.messages.len()).unwrap_or(u64::MAX));
    }
    state.link = Some(link);
    state.seen_topics.clear();
    state.seen_filters = 0;
    // The subscriptions that wait are among those there are.
    let publishes = mem::take(&mut state.queue);
    state
        .queue
        .extend(state.filters.values().cloned().map(Command::Subscribe));
    state.queue.extend(
        publishes
            .into_iter()
            .filter(|command| matches!(command, Command::Publish(_))),
    );
    shared.feed(state);
}
