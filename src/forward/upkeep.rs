//! The upkeep thread: reads what is owed, commits what was settled, hands out replies.

use std::{
    mem,
    sync::PoisonError,
    time::{Duration, Instant},
};

use tidegate_wire::topic::Channel;

use super::{GRACE, PendingReply, Reply, ReplyRoute, Shared};
use crate::{
    outbox::{Flush, LogRequest, ParkedRequest},
    store::{DurableReply, Settled, StoreError},
};

/// How often to look whether somebody else gave a device parked messages (a dead letter to be
/// retried), beside being told.
const LOOK_AT_PARKED: Duration = Duration::from_secs(30);

/// How often what is too old is looked for, if it may expire.
const LOOK_AT_AGE: Duration = Duration::from_secs(1);

/// How long to wait before asking the store again after it failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What to do next; none of it under the lock.
#[derive(Default)]
struct Work {
    flush: Option<Flush<PendingReply>>,
    log: Option<LogRequest>,
    parked: Option<ParkedRequest>,
    look_at_parked: bool,
}

impl Work {
    fn is_some(&self) -> bool {
        self.flush.is_some() || self.log.is_some() || self.parked.is_some() || self.look_at_parked
    }
}

/// When the periodic things are due.
struct Due {
    parked: Instant,
    age: Instant,
}

pub(super) fn run(shared: &Shared) {
    let mut due = Due {
        parked: Instant::now() + LOOK_AT_PARKED,
        age: Instant::now(),
    };
    let mut failing = false;
    while !shared.stopping.is_cancelled() {
        let work = next_work(shared, &mut due);
        if let Some(flush) = work.flush
            && !commit(shared, flush)
        {
            return;
        }
        let read = work.log.map_or(Ok(()), |request| read_log(shared, request));
        let read = read.and_then(|()| match work.parked {
            Some(request) => read_parked(shared, request),
            None => Ok(()),
        });
        let read = read.and_then(|()| {
            if work.look_at_parked {
                look(shared)
            } else {
                Ok(())
            }
        });
        match read {
            Ok(()) => failing = false,
            Err(StoreError::Stopping) => break,
            Err(error) => {
                let upstream = &shared.parts.name;
                // Said once: what is damaged stays so, and is asked for every second.
                if mem::replace(&mut failing, true) {
                    tracing::debug!(%upstream, %error, "what is owed could not be read again");
                } else {
                    tracing::error!(%upstream, %error, "what is owed could not be read; trying again");
                }
                pause(shared);
            }
        }
    }
    finish(shared);
}

/// Waits until there is something to do, and takes it.
fn next_work(shared: &Shared, due: &mut Due) -> Work {
    let mut state = shared.lock();
    let expires = shared.parts.settings.max_age.is_some();
    loop {
        let now = shared.now();
        if expires && due.age <= now.instant {
            due.age = now.instant + LOOK_AT_AGE;
            state.scheduler.expire(now);
        }
        if state
            .deadline
            .is_some_and(|deadline| deadline <= now.instant)
        {
            state.deadline = None;
            shared.wake_worker(&state);
        }
        let look_at_parked = due.parked <= now.instant || mem::take(&mut state.parked_changed);
        if look_at_parked {
            due.parked = now.instant + LOOK_AT_PARKED;
        }
        let work = Work {
            flush: state.scheduler.take_flush(),
            log: state.scheduler.wants_log(),
            parked: state.scheduler.wants_parked(now.instant),
            look_at_parked,
        };
        shared.parts.metrics.set(state.scheduler.counts());
        if work.is_some() || shared.stopping.is_cancelled() {
            return work;
        }
        let mut until = due.parked;
        if expires {
            until = until.min(due.age);
        }
        for other in [state.deadline, state.scheduler.next_wake()]
            .into_iter()
            .flatten()
        {
            until = until.min(other);
        }
        state.upkeep_idle = true;
        let wait = until.saturating_duration_since(now.instant);
        let waited = shared.upkeep.wait_timeout(state, wait);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.upkeep_idle = false;
    }
}

/// Commits settlements, trying until it works; false when the store has stopped.
fn commit(shared: &Shared, flush: Flush<PendingReply>) -> bool {
    let (parts, metrics) = (&shared.parts, &shared.parts.metrics);
    let mut pending = Vec::new();
    let mut settled = Vec::with_capacity(flush.settlements.len());
    for settlement in flush.settlements {
        let mut durable = None;
        if let Some(reply) = settlement.reply {
            if let ReplyRoute::Durable { session, qos } = reply.route {
                let topic = Channel::Response.topic(&reply.device).as_str().to_owned();
                let payload = reply.payload.clone();
                durable = Some(DurableReply {
                    session,
                    qos,
                    topic,
                    payload,
                });
            }
            pending.push(reply);
        }
        let (seq, device, outcome) = (settlement.seq, settlement.device, settlement.outcome);
        settled.push(Settled {
            seq,
            device,
            outcome,
            reply: durable,
        });
    }
    let mut failures = 0_u32;
    let ids = loop {
        match parts.debts.settle(&settled) {
            Ok(ids) => break ids,
            Err(StoreError::Stopping) => return false,
            Err(error) => {
                metrics.failed_flushes.increment();
                if failures == 0 {
                    let upstream = &parts.name;
                    tracing::error!(
                        %upstream, %error,
                        "what was delivered could not be recorded; trying until it can"
                    );
                }
                failures += 1;
                if shared.stopping.is_cancelled() {
                    return false;
                }
                pause(shared);
            }
        }
    };
    metrics.flushes.increment();
    {
        let mut state = shared.lock();
        state.scheduler.flushed(flush.number, Instant::now());
        // Room for more settlements is room for more work.
        shared.wake_worker(&state);
    }
    for settled in &settled {
        metrics.committed(&settled.outcome);
    }
    hand_out(shared, pending, ids);
    true
}

/// Replies go to devices only now that what they answer is settled.
fn hand_out(shared: &Shared, pending: Vec<PendingReply>, ids: Vec<Option<i64>>) {
    let mut ids = ids.into_iter();
    for reply in pending {
        let (qos, queue_id) = match reply.route {
            ReplyRoute::Volatile { qos } => (qos, None),
            ReplyRoute::Durable { qos, .. } => match ids.next().flatten() {
                Some(id) => (qos, Some(id)),
                // Settled by an earlier delivery, whose reply is on its way.
                None => continue,
            },
        };
        let taken = shared.parts.replies.deliver(
            &reply.device,
            Reply {
                payload: reply.payload,
                qos,
                queue_id,
            },
        );
        let metrics = &shared.parts.metrics;
        if taken || queue_id.is_some() {
            &metrics.replies
        } else {
            &metrics.replies_dropped
        }
        .increment();
    }
}

fn read_log(shared: &Shared, request: LogRequest) -> Result<(), StoreError> {
    let LogRequest {
        after,
        messages,
        bytes,
        ..
    } = request;
    let messages = shared.parts.debts.read_log(after, messages, bytes)?;
    let mut state = shared.lock();
    state.scheduler.feed(request, messages, shared.now());
    shared.wake_worker(&state);
    Ok(())
}

fn read_parked(shared: &Shared, request: ParkedRequest) -> Result<(), StoreError> {
    let read = shared.parts.debts.parked(request.device, request.limit);
    let mut state = shared.lock();
    match read {
        Ok(messages) => {
            state.scheduler.feed_parked(request, messages, shared.now());
            shared.wake_worker(&state);
            Ok(())
        }
        Err(error) => {
            state.scheduler.parked_unread(request, Instant::now());
            Err(error)
        }
    }
}

/// Looks for parked messages that the scheduler does not know of.
fn look(shared: &Shared) -> Result<(), StoreError> {
    let devices = shared.parts.debts.parked_devices()?;
    let mut state = shared.lock();
    let unknown: Vec<_> = devices
        .into_iter()
        .filter(|&device| !state.scheduler.knows_parked(device))
        .collect();
    if !unknown.is_empty() {
        state.scheduler.reread_parked(unknown, Instant::now());
        shared.wake_worker(&state);
    }
    Ok(())
}

fn pause(shared: &Shared) {
    let state = shared.lock();
    // Woken early by whoever else needs upkeep: the store is then asked early, no more.
    drop(shared.upkeep.wait_timeout(state, STORE_PAUSE));
}

/// Waits for what is under way, for a while, and commits it.
fn finish(shared: &Shared) {
    let deadline = Instant::now() + GRACE;
    let mut interrupted = false;
    loop {
        let flush = {
            let mut state = shared.lock();
            match state.scheduler.take_flush() {
                Some(flush) => flush,
                None if state.scheduler.is_quiet() => return,
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        if interrupted {
                            return;
                        }
                        interrupted = true;
                        shared.parts.upstream.interrupt();
                    }
                    state.upkeep_idle = true;
                    let wait = left.max(Duration::from_millis(200));
                    let waited = shared.upkeep.wait_timeout(state, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0.upkeep_idle = false;
                    continue;
                }
            }
        };
        if !commit(shared, flush) {
            return;
        }
    }
}
