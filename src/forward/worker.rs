//! A worker: takes the next message, delivers it, says how it went.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    sync::PoisonError,
    time::Instant,
};

use super::{Answer, PendingReply, Shared, State};
use crate::{
    outbox::{Cause, Next, Phase, Verdict},
    store::Message,
};

pub(super) fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !shared.stopping.is_cancelled() {
        match state.scheduler.next(shared.now()) {
            Next::Deliver(message) => {
                // Somebody else takes the next one, if there is one that may go.
                shared.wake_worker(&state);
                drop(state);
                let verdict = deliver(shared, &message);
                state = shared.lock();
                answered(shared, &mut state, message, verdict);
            }
            Next::Wait(until) => {
                state.deadline = until;
                // To wait until then, and to commit or read what this may have left to do.
                shared.wake_upkeep(&state);
                state.idle += 1;
                state = shared
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

fn deliver(shared: &Shared, message: &Message) -> Verdict<PendingReply> {
    let parts = &shared.parts;
    let Some(device) = parts.devices.id(message.device) else {
        let reason = "its device is no longer registered, so there is no address to send it to";
        return Verdict::Refused {
            status: None,
            reason: reason.to_owned(),
        };
    };
    let began = Instant::now();
    let answer = parts.upstream.deliver(&device, message);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    parts.metrics.attempts.increment();
    parts.metrics.attempt_micros.add(micros);
    if micros > parts.metrics.slowest_attempt_micros.get() {
        parts.metrics.slowest_attempt_micros.set(micros);
    }
    match answer {
        Answer::Settled { reply } => {
            let reply = reply.and_then(|payload| {
                let route = parts.replies.route(&device);
                if route.is_none() {
                    parts.metrics.replies_dropped.increment();
                }
                route.map(|route| PendingReply {
                    device,
                    route,
                    payload,
                })
            });
            Verdict::Settled { reply }
        }
        Answer::Retry {
            after,
            cause,
            detail,
        } => {
            parts.metrics.retry(cause);
            tracing::debug!(
                upstream = %parts.name, device = %device, message_id = %message.message_id,
                ?cause, %detail, "delivery failed, will be tried again"
            );
            Verdict::Retry { after, cause }
        }
        Answer::Refused { status, reason } => {
            tracing::debug!(
                upstream = %parts.name, device = %device, message_id = %message.message_id,
                ?status, %reason, "refused for good"
            );
            Verdict::Refused { status, reason }
        }
    }
}

fn answered(shared: &Shared, state: &mut State, message: Message, verdict: Verdict<PendingReply>) {
    let name = &shared.parts.name;
    let before = state.scheduler.counts().phase;
    let cause = match &verdict {
        Verdict::Retry { cause, .. } => Some(*cause),
        _ => None,
    };
    state
        .scheduler
        .answered(message, verdict, Instant::now(), random());
    let after = state.scheduler.counts().phase;
    // Once per outage, however many messages wait.
    if before != after && after == Phase::Open {
        let why = match cause {
            Some(Cause::Unreachable) => "it cannot be reached",
            Some(Cause::NoAnswer) => "it does not answer in time",
            _ => "it is overloaded",
        };
        tracing::warn!(upstream = %name, "upstream paused: {why}; probing until it answers");
    } else if before == Phase::Open && after != Phase::Open {
        tracing::info!(upstream = %name, "upstream answers again");
    }
    shared.wake_upkeep(state);
}

/// Evenly distributed over all of `u64`; spreads back-offs, nothing secret depends on it.
/// SplitMix64 (Steele, Lea and Flood, 2014), seeded per thread.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    STATE.with(|state| {
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = state.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
