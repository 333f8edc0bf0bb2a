//! In which list a device stands.

use std::time::Instant;

use super::Scheduler;
use crate::{outbox::queue::Place, store::DeviceKey};

impl<R> Scheduler<R> {
    /// Moves those whose back-off has ended.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(&(at, device)) = self.waiting.first() {
            if at > now {
                break;
            }
            self.waiting.pop_first();
            if let Some(queue) = self.devices.get_mut(&device) {
                queue.place = Place::Idle;
                queue.not_before = None;
            }
            self.replace(device, now);
        }
    }

    /// Takes a device out of the list it stands in, except while something of it is under way.
    pub(super) fn unlist(&mut self, device: DeviceKey) {
        let Some(queue) = self.devices.get_mut(&device) else {
            return;
        };
        match queue.place {
            Place::Flight | Place::Fetching => return,
            Place::Ready => self.ready.retain(|&other| other != device),
            Place::Waiting(at) => {
                self.waiting.remove(&(at, device));
            }
            Place::Fetch => self.fetch.retain(|&other| other != device),
            // Flushing passes over those that have moved on.
            Place::Commit | Place::Idle => {}
        }
        queue.place = Place::Idle;
    }

    /// Puts a device that stands in no list into the one where it belongs.
    pub(super) fn replace(&mut self, device: DeviceKey, now: Instant) {
        let Some(queue) = self.devices.get_mut(&device) else {
            return;
        };
        if matches!(queue.place, Place::Flight | Place::Fetching) {
            return;
        }
        if queue.holds_parked && queue.parked.is_empty() {
            queue.holds_parked = false;
            self.parked_in_memory -= 1;
        }
        let committed = queue.flush <= self.committed;
        let work = !queue.parked.is_empty() || queue.behind || !queue.log.is_empty();
        queue.place = match queue.not_before {
            Some(at) if at > now && work => {
                self.waiting.insert((at, device));
                Place::Waiting(at)
            }
            _ if !queue.parked.is_empty() || (!queue.behind && work) => {
                self.ready.push_back(device);
                Place::Ready
            }
            _ if !committed => {
                self.commit.push(device);
                Place::Commit
            }
            _ if queue.behind => {
                self.fetch.push_back(device);
                Place::Fetch
            }
            _ => {
                self.devices.remove(&device);
                return;
            }
        };
    }
}
