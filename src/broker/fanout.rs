//! The task that drains the router: hands out what matched, and gives it the next batch.

use std::{
    mem,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Command, Filter, Routed, Shared, Sink, filter,
    router::{self, Came, Receiver},
};

/// Answers to pings in a row that mean that everything has come back. The router answers a ping
/// when it begins to hand out, so the first may come before the last of what it hands out, or
/// before the news that it paused; not so the second.
const QUIET: u8 = 2;

/// How long to wait before another attempt to start a router.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Copies of one batch held to be put in order. More than this, which takes hundreds of filters that
/// match everything, go out as they come: in order per filter, no longer across filters, and a
/// client whose filters overlap may get a message twice.
const MAX_HELD: usize = 65_536;

/// That a message of the batch, by its index, matched a filter, by its number.
type Match = (usize, usize);

pub(super) async fn run(shared: &Shared, mut receiver: Receiver, stopping: CancellationToken) {
    let mut held: Vec<Match> = Vec::new();
    loop {
        let came = tokio::select! {
            came = receiver.next() => came,
            () = stopping.cancelled() => break,
        };
        match came {
            Some(Came::Match { filter, index }) => {
                held.push((index, filter));
                if held.len() >= MAX_HELD {
                    let current = shared
                        .lock()
                        .outstanding
                        .as_ref()
                        .map(|o| Arc::clone(&o.messages));
                    deliver(shared, &current.unwrap_or_default(), &mut held);
                }
            }
            Some(Came::Paused) => {
                if let Some(outstanding) = &mut shared.lock().outstanding {
                    outstanding.quiet = 0;
                }
                receiver.resume();
            }
            Some(Came::Pong) => {
                if let Some((messages, outgrown)) = done(shared) {
                    deliver(shared, &messages, &mut held);
                    if outgrown {
                        renew(shared, &mut receiver, &stopping).await;
                    }
                }
            }
            Some(Came::Nothing) => {}
            None => {
                shared.metrics.router_panics.increment();
                tracing::error!("the router for free topics died; starting another");
                held.clear();
                renew(shared, &mut receiver, &stopping).await;
            }
        }
    }
    if let Some(link) = &mut shared.lock().link {
        link.disconnect();
    }
}

/// Hands out what matched, in the order it was published.
fn deliver(shared: &Shared, messages: &[Routed], held: &mut Vec<Match>) {
    held.sort_unstable();
    let mut copies = 0;
    // Taken once; what is unsubscribed meanwhile has nobody in it.
    let known: Vec<Option<Arc<Filter>>> = {
        let state = shared.lock();
        held.iter()
            .map(|(_, number)| state.by_number.get(number).cloned())
            .collect()
    };
    let mut subscribers: Vec<(u64, Arc<dyn Sink>)> = Vec::new();
    let mut matched = held.drain(..).zip(known).peekable();
    while let Some(((index, _), known)) = matched.next() {
        let Some(message) = messages.get(index) else {
            continue;
        };
        let last = matched.peek().is_none_or(|((next, _), _)| *next != index);
        if let Some(known) = known
            && !filter::hidden(&known.text, &message.topic)
        {
            let of_filter = known
                .subscribers
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if last && subscribers.is_empty() {
                for (_, sink) in of_filter.iter() {
                    sink.receive(message.clone());
                }
                copies += of_filter.len();
                continue;
            }
            subscribers.extend(of_filter.iter().cloned());
        }
        if last {
            // Several filters matched: once to each client.
            subscribers.sort_unstable_by_key(|(id, _)| *id);
            subscribers.dedup_by_key(|(id, _)| *id);
            copies += subscribers.len();
            for (_, sink) in subscribers.drain(..) {
                sink.receive(message.clone());
            }
        }
    }
    shared
        .metrics
        .delivered
        .add(u64::try_from(copies).unwrap_or(u64::MAX));
}

/// After a ping's answer: asks again, or, when all of the batch has come back, gives it and begins the
/// next one. True with it if instead the router is to be replaced, because of what it never frees.
fn done(shared: &Shared) -> Option<(Arc<[Routed]>, bool)> {
    let mut state = shared.lock();
    let state = &mut *state;
    let outstanding = state.outstanding.as_mut()?;
    outstanding.quiet += 1;
    if outstanding.quiet < QUIET {
        if let Some(link) = &mut state.link {
            link.ping();
        }
        return None;
    }
    let messages = state.outstanding.take()?.messages;
    let limits = &shared.limits;
    // Not more often than it has filters it needs.
    let filters = limits.router_filters.max(2 * state.filters.len());
    if state.seen_topics.len() >= limits.router_topics || state.seen_filters >= filters {
        shared.metrics.router_renewals.increment();
        tracing::info!(
            topics = state.seen_topics.len(),
            filters = state.seen_filters,
            "replacing the router for free topics, which never frees what it remembers"
        );
        if let Some(link) = &mut state.link {
            link.retire();
        }
        state.link = None;
        return Some((messages, true));
    }
    shared.feed(state);
    if shared.has_room(state) {
        shared.room.notify_waiters();
    }
    Some((messages, false))
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
