//! What becomes of messages: settled, tried again, parked, expired.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{Scheduler, Settlement};
use crate::{
    outbox::{
        Cause, Now, Phase, Verdict,
        queue::{InFlight, Origin, Place, expired},
    },
    store::{DeviceKey, Message, Outcome, Seq},
};

/// How often a message is sent again for its reply alone, before it settles without one.
const REPLY_ATTEMPTS: u32 = 3;

impl<R> Scheduler<R> {
    /// How a delivery went. `random` is evenly distributed over all of `u64`.
    pub fn answered(&mut self, message: Message, verdict: Verdict<R>, now: Instant, random: u64) {
        let device = message.device;
        let Some(queue) = self.devices.get_mut(&device) else {
            return;
        };
        let Some(InFlight {
            seq,
            origin,
            bytes,
            just_parked,
        }) = queue.in_flight.take()
        else {
            return;
        };
        debug_assert_eq!(
            seq, message.seq,
            "one message of a device is under way at a time"
        );
        queue.place = Place::Idle;
        self.in_flight -= 1;
        let outcome = match verdict {
            Verdict::Settled { reply } => Ok((Outcome::Delivered, reply)),
            Verdict::Refused { status, reason } => Ok((Outcome::Dead { status, reason }, None)),
            Verdict::Retry {
                cause: Cause::TornReply,
                ..
            } if queue.failures + 1 >= REPLY_ATTEMPTS => Ok((Outcome::Delivered, None)),
            Verdict::Retry { after, cause } => Err((after, cause)),
        };
        match outcome {
            Ok((outcome, reply)) => {
                queue.forgive();
                self.answers += 1;
                self.circuit.answered();
                self.leaves_window(origin, bytes);
                // Not parked after all, if that is not being committed yet.
                let unparked = if just_parked {
                    self.settled.iter_mut().find(|parked| parked.seq == seq)
                } else {
                    None
                };
                match unparked {
                    Some(parked) => (parked.outcome, parked.reply) = (outcome, reply),
                    None => self.settle(device, seq, outcome, reply),
                }
            }
            Err((after, cause)) => self.failed(message, origin, cause, after, now, random),
        }
        self.replace(device, now);
    }

    /// Settles what is too old without waiting for its turn, so that age counts while the upstream
    /// is down as well.
    pub fn expire(&mut self, now: Now) {
        if self.settings.max_age.is_none() || now.wall.is_none() {
            return;
        }
        let devices: Vec<DeviceKey> = self.devices.keys().copied().collect();
        for device in devices {
            let mut changed = false;
            while let Some(queue) = self.devices.get_mut(&device) {
                let head = queue.parked.front().or_else(|| queue.log.front());
                let late = head.is_some_and(|head| expired(head, self.settings.max_age, now));
                // What is parked in the store goes first; it is judged when it is read.
                let popped = if late && queue.in_flight.is_none() {
                    queue.pop()
                } else {
                    None
                };
                let Some((message, origin)) = popped else {
                    break;
                };
                self.leaves_window(origin, message.payload.len());
                self.settle(device, message.seq, Outcome::Expired, None);
                changed = true;
            }
            if changed {
                self.unlist(device);
                self.forgive(device);
                self.replace(device, now.instant);
            }
        }
    }

    pub(super) fn failed(
        &mut self,
        message: Message,
        origin: Origin,
        cause: Cause,
        after: Option<Duration>,
        now: Instant,
        random: u64,
    ) {
        let device = message.device;
        let opened = if cause.blames_upstream() {
            self.circuit.failed(cause, device, after, now, random)
        } else {
            self.circuit.answered();
            false
        };
        let down = self.circuit.phase() == Phase::Open;
        let (answers, park_after) = (self.answers, self.settings.limits.park_after);
        let Some(queue) = self.devices.get_mut(&device) else {
            return;
        };
        if cause.blames_upstream() && down {
            // The circuit says when to try again; it is not this message's fault.
            queue.forgive();
        } else {
            if queue.failures == 0 {
                queue.answers_before = answers;
            }
            queue.failures = queue.failures.saturating_add(1);
            queue.blames_upstream = cause.blames_upstream();
            let wait = self.settings.backoff.wait(queue.failures, after, random);
            queue.not_before = Some(now + wait);
        }
        let others_succeed = answers > queue.answers_before;
        let park = queue.failures >= park_after && (!cause.blames_upstream() || others_succeed);
        let diverting = queue.diverting;
        match origin {
            // The store has them all: what is in memory would only take room while it waits.
            Origin::Parked => {
                queue.parked.clear();
                queue.behind = true;
            }
            Origin::Log => queue.log.push_front(message),
        }
        if park && !diverting {
            self.park(device);
        }
        if opened {
            self.forgive_blamed(now);
        }
    }

    /// Moves what a device has from the log to its own queue in the store; what follows goes there
    /// as well. What is under way moves too: left in the log it would, after a crash, find itself
    /// behind those that came after it.
    pub(super) fn park(&mut self, device: DeviceKey) {
        let Some(queue) = self.devices.get_mut(&device) else {
            return;
        };
        (queue.behind, queue.diverting, queue.diverted) = (true, true, true);
        let log = mem::take(&mut queue.log);
        if let Some(in_flight) = &mut queue.in_flight
            && in_flight.origin == Origin::Log
        {
            (in_flight.origin, in_flight.just_parked) = (Origin::Parked, true);
            let (seq, bytes) = (in_flight.seq, in_flight.bytes);
            self.leaves_window(Origin::Log, bytes);
            self.settle(device, seq, Outcome::Parked, None);
        }
        for message in log {
            self.leaves_window(Origin::Log, message.payload.len());
            self.settle(device, message.seq, Outcome::Parked, None);
        }
    }

    /// The upstream is down: those that waited because of it are ready when it is back.
    pub(super) fn forgive_blamed(&mut self, now: Instant) {
        let waiting: Vec<DeviceKey> = self.waiting.iter().map(|&(_, device)| device).collect();
        for device in waiting {
            if self
                .devices
                .get(&device)
                .is_some_and(|queue| queue.blames_upstream)
            {
                self.unlist(device);
                self.forgive(device);
                self.replace(device, now);
            }
        }
    }

    pub(super) fn forgive(&mut self, device: DeviceKey) {
        if let Some(queue) = self.devices.get_mut(&device) {
            queue.forgive();
        }
    }

    pub(super) fn settle(
        &mut self,
        device: DeviceKey,
        seq: Seq,
        outcome: Outcome,
        reply: Option<R>,
    ) {
        if let Some(queue) = self.devices.get_mut(&device) {
            queue.flush = self.flush;
        }
        self.settled.push(Settlement {
            seq,
            device,
            outcome,
            reply,
        });
    }

    pub(super) fn leaves_window(&mut self, origin: Origin, bytes: usize) {
        if origin == Origin::Log {
            self.window -= 1;
            self.window_bytes -= bytes;
        }
    }
}
