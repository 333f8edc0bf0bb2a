//! What comes into memory: from the log, and from devices' parked messages.

use std::time::Instant;

use super::{LogRequest, ParkedRequest, Scheduler};
use crate::{
    envelope::Kind,
    outbox::{
        Now,
        queue::{Origin, Place, expired},
    },
    store::{DeviceKey, Message, Outcome, Seq},
};

/// Payload bytes of one device's parked messages in memory.
const PARKED_BYTES: usize = 64 * 1024;

impl<R> Scheduler<R> {
    /// The log now reaches to here.
    pub fn log_reaches(&mut self, end: Seq) {
        self.log_end = self.log_end.max(end);
    }

    /// What to read from the log now, if anything.
    #[must_use]
    pub fn wants_log(&self) -> Option<LogRequest> {
        let wanted = self.read_to < self.log_end && self.has_room() && !self.is_unflushed_full();
        wanted.then(|| LogRequest {
            after: self.read_to,
            messages: self
                .settings
                .limits
                .window_messages
                .saturating_sub(self.window),
            bytes: self
                .settings
                .limits
                .window_bytes
                .saturating_sub(self.window_bytes),
            end: self.log_end,
        })
    }

    /// Takes what the log held: owed messages in order, nothing left out up to the last.
    pub fn feed(&mut self, request: LogRequest, messages: Vec<Message>, now: Now) {
        self.read_to = messages
            .last()
            .map_or(request.end, |last| last.seq)
            .max(self.read_to);
        for message in messages {
            if message.seq <= request.after {
                continue;
            }
            let (device, seq) = (message.device, message.seq);
            if expired(&message, self.settings.max_age, now) {
                self.settle(device, seq, Outcome::Expired, None);
            } else if message.kind == Kind::Event && !self.settings.events {
                self.settle(device, seq, Outcome::Skipped, None);
            } else {
                let queue = self.devices.entry(device).or_default();
                if queue.diverting {
                    queue.diverted = true;
                    self.settle(device, seq, Outcome::Parked, None);
                } else {
                    self.window += 1;
                    self.window_bytes += message.payload.len();
                    queue.log.push_back(message);
                    // One that only waited to be forgotten is left in that list: it is passed over.
                    let done = queue.place == Place::Commit && !queue.behind;
                    if done || queue.place == Place::Idle {
                        queue.place = Place::Idle;
                        self.replace(device, now.instant);
                    }
                }
            }
        }
    }

    /// Whose parked messages to read now, if anyone's; answer with [`Scheduler::feed_parked`].
    pub fn wants_parked(&mut self, now: Instant) -> Option<ParkedRequest> {
        self.wake(now);
        if self.parked_in_memory >= self.settings.limits.parked_devices || self.is_unflushed_full()
        {
            return None;
        }
        let (device, queue) = loop {
            let device = self.fetch.pop_front()?;
            let Some(queue) = self.devices.get_mut(&device) else {
                continue;
            };
            if queue.flush <= self.committed {
                break (device, queue);
            }
            // More was parked since it was listed, and cannot be read before it is committed.
            queue.place = Place::Commit;
            self.commit.push(device);
        };
        queue.place = Place::Fetching;
        queue.diverted = false;
        queue.holds_parked = true;
        self.parked_in_memory += 1;
        Some(ParkedRequest {
            device,
            limit: self.settings.limits.parked_messages,
        })
    }

    /// Takes the first parked messages of a device, in order; fewer than asked means there are no
    /// more.
    pub fn feed_parked(&mut self, request: ParkedRequest, messages: Vec<Message>, now: Now) {
        let Some(queue) = self.devices.get_mut(&request.device) else {
            return;
        };
        let mut complete = messages.len() < request.limit && !queue.diverted;
        let (mut bytes, mut too_old) = (0, Vec::new());
        for message in messages {
            if expired(&message, self.settings.max_age, now) {
                too_old.push(message.seq);
                continue;
            }
            bytes += message.payload.len();
            if bytes > PARKED_BYTES && !queue.parked.is_empty() {
                complete = false;
                break;
            }
            queue.parked.push_back(message);
        }
        if complete {
            (queue.behind, queue.diverting) = (false, false);
        }
        queue.place = Place::Idle;
        for seq in too_old {
            self.settle(request.device, seq, Outcome::Expired, None);
        }
        self.replace(request.device, now.instant);
    }

    /// A device's parked messages could not be read; they will be asked for again.
    pub fn parked_unread(&mut self, request: ParkedRequest, now: Instant) {
        if let Some(queue) = self.devices.get_mut(&request.device) {
            queue.place = Place::Idle;
            queue.diverted = true;
            self.replace(request.device, now);
        }
    }

    /// These devices' parked messages were changed by someone else (a dead letter is to be retried,
    /// something was dropped): they are read again, and go at once.
    pub fn reread_parked(&mut self, devices: impl IntoIterator<Item = DeviceKey>, now: Instant) {
        for device in devices {
            self.unlist(device);
            let queue = self.devices.entry(device).or_default();
            queue.forgive();
            queue.parked.clear();
            (queue.behind, queue.diverted) = (true, true);
            self.replace(device, now);
        }
        self.circuit.hurry(now);
    }

    /// Whether it is known that this device has, or just had, parked messages.
    #[must_use]
    pub fn knows_parked(&self, device: DeviceKey) -> bool {
        self.devices.get(&device).is_some_and(|queue| {
            let under_way = queue
                .in_flight
                .is_some_and(|message| message.origin == Origin::Parked);
            queue.behind || queue.holds_parked || under_way || queue.flush > self.committed
        })
    }

    /// Whether a read from the log is worth its cost: a quarter of the window is free.
    pub(super) fn has_room(&self) -> bool {
        let limits = &self.settings.limits;
        self.window <= limits.window_messages - limits.window_messages.div_ceil(4)
            && self.window_bytes <= limits.window_bytes - limits.window_bytes / 4
    }
}
