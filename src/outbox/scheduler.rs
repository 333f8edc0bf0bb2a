//! Which message goes next to one upstream.

mod answers;
mod feeding;
mod places;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use super::{
    Now, Phase, Settings,
    circuit::{Circuit, Permission},
    queue::{InFlight, Place, Queue, expired},
};
use crate::store::{DeviceKey, Message, Outcome, Seq};

/// How long workers may stand idle behind a full window before the device that fills it most is
/// parked. Shorter would park a burst that a fast upstream takes in its stride; longer would let
/// one device's backlog hold back the others behind it in the log.
const STARVED: Duration = Duration::from_millis(250);

/// What became of a message, and what the forwarder keeps with it.
#[derive(Clone, Debug)]
pub struct Settlement<R> {
    pub seq: Seq,
    pub device: DeviceKey,
    pub outcome: Outcome,
    pub reply: Option<R>,
}

/// Settlements to be committed together. Report it with [`Scheduler::flushed`].
#[derive(Clone, Debug)]
pub struct Flush<R> {
    pub number: u64,
    pub settlements: Vec<Settlement<R>>,
}

/// What to do now.
#[derive(Debug)]
pub enum Next {
    /// Deliver this and report it with [`Scheduler::answered`].
    Deliver(Message),
    /// Nothing before this time, or before something else changes.
    Wait(Option<Instant>),
}

/// What to read from the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogRequest {
    pub after: Seq,
    pub messages: usize,
    pub bytes: usize,
    /// The log's end when this was asked for: if nothing is found, there is nothing up to here.
    pub end: Seq,
}

/// Whose parked messages to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParkedRequest {
    pub device: DeviceKey,
    pub limit: usize,
}

/// How the scheduler stands, for status and metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counts {
    /// Messages of the log in memory, and their payload bytes.
    pub window: usize,
    pub window_bytes: usize,
    pub in_flight: usize,
    /// Devices with messages in memory or parked.
    pub devices: usize,
    /// Devices whose parked messages are in memory.
    pub parked_in_memory: usize,
    /// Settlements not committed.
    pub unflushed: usize,
    pub phase: Phase,
}

impl std::fmt::Display for Counts {
    /// In a few words, for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.phase {
            Phase::Closed => write!(f, "delivering, {} under way", self.in_flight),
            Phase::Open => f.write_str("in trouble: waiting and probing"),
            Phase::Ramping => write!(f, "recovering, {} under way", self.in_flight),
        }
    }
}

/// The scheduler of one upstream. `R` is what the forwarder keeps with a settlement.
#[derive(Debug)]
pub struct Scheduler<R> {
    settings: Settings,
    circuit: Circuit,
    devices: HashMap<DeviceKey, Queue>,
    ready: VecDeque<DeviceKey>,
    waiting: BTreeSet<(Instant, DeviceKey)>,
    fetch: VecDeque<DeviceKey>,
    commit: Vec<DeviceKey>,
    read_to: Seq,
    log_end: Seq,
    window: usize,
    window_bytes: usize,
    in_flight: usize,
    parked_in_memory: usize,
    starved_since: Option<Instant>,
    /// Definite answers so far.
    answers: u64,
    settled: Vec<Settlement<R>>,
    /// The number of the flush that `settled` will be, and how many are being committed.
    flush: u64,
    committed: u64,
    flushing: usize,
}

impl<R> Scheduler<R> {
    /// A scheduler that has delivered everything up to `position` (and whatever the store says is
    /// settled beyond it), with `parked` the devices that have parked messages.
    #[must_use]
    pub fn new(
        settings: Settings,
        position: Seq,
        parked: impl IntoIterator<Item = DeviceKey>,
        now: Instant,
    ) -> Self {
        let mut scheduler = Self {
            circuit: Circuit::new(settings.workers, settings.backoff),
            settings,
            devices: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            fetch: VecDeque::new(),
            commit: Vec::new(),
            read_to: position,
            log_end: position,
            window: 0,
            window_bytes: 0,
            in_flight: 0,
            parked_in_memory: 0,
            starved_since: None,
            answers: 0,
            settled: Vec::new(),
            flush: 1,
            committed: 0,
            flushing: 0,
        };
        for device in parked {
            let queue = scheduler.devices.entry(device).or_default();
            (queue.behind, queue.diverting) = (true, true);
            scheduler.replace(device, now);
        }
        scheduler
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            window: self.window,
            window_bytes: self.window_bytes,
            in_flight: self.in_flight,
            devices: self.devices.len(),
            parked_in_memory: self.parked_in_memory,
            unflushed: self.unflushed(),
            phase: self.circuit.phase(),
        }
    }

    /// What may be delivered now. Every message handed out comes back through
    /// [`Scheduler::answered`].
    pub fn next(&mut self, now: Now) -> Next {
        self.wake(now.instant);
        loop {
            if self.is_unflushed_full() {
                return Next::Wait(None);
            }
            match self.circuit.permits(now.instant, self.in_flight) {
                Permission::Go => {}
                Permission::NotBefore(until) => return Next::Wait(Some(until)),
                Permission::Busy => return Next::Wait(None),
            }
            let Some(device) = self.ready.pop_front() else {
                return Next::Wait(self.nothing_ready(now.instant));
            };
            let Some(queue) = self.devices.get_mut(&device) else {
                continue;
            };
            queue.place = Place::Idle;
            let Some((message, origin)) = queue.pop() else {
                self.replace(device, now.instant);
                continue;
            };
            if expired(&message, self.settings.max_age, now) {
                self.leaves_window(origin, message.payload.len());
                self.settle(device, message.seq, Outcome::Expired, None);
                self.forgive(device);
                self.replace(device, now.instant);
                continue;
            }
            let bytes = message.payload.len();
            queue.in_flight = Some(InFlight {
                seq: message.seq,
                origin,
                bytes,
                just_parked: false,
            });
            queue.place = Place::Flight;
            self.in_flight += 1;
            self.circuit.begun(device);
            return Next::Deliver(message);
        }
    }

    /// What to commit now: everything settled since the last time. `None` while the previous flush
    /// has not been reported.
    pub fn take_flush(&mut self) -> Option<Flush<R>> {
        if self.settled.is_empty() || self.flushing > 0 {
            return None;
        }
        // Room for as many again: growing would copy them, each time in another worker's memory.
        let next = Vec::with_capacity(self.settled.len());
        let settlements = mem::replace(&mut self.settled, next);
        let number = self.flush;
        self.flush += 1;
        self.flushing = settlements.len();
        Some(Flush {
            number,
            settlements,
        })
    }

    /// This flush is committed.
    pub fn flushed(&mut self, number: u64, now: Instant) {
        self.committed = self.committed.max(number);
        self.flushing = 0;
        for device in mem::take(&mut self.commit) {
            if self
                .devices
                .get(&device)
                .is_some_and(|queue| queue.place == Place::Commit)
            {
                self.replace(device, now);
            }
        }
    }

    /// Whether the next flush settles this message for good.
    #[cfg(test)]
    pub(super) fn settles(&self, seq: Seq) -> bool {
        let mut settled = self
            .settled
            .iter()
            .filter(|settlement| settlement.seq == seq);
        settled.any(|settlement| !matches!(settlement.outcome, Outcome::Parked))
    }

    /// Whether nothing is under way and nothing waits to be committed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.unflushed() == 0
    }

    /// The earliest back-off to end; what [`Scheduler::wants_parked`] may be waiting for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.waiting.first().map(|&(at, _)| at)
    }

    fn unflushed(&self) -> usize {
        self.settled.len() + self.flushing
    }

    fn is_unflushed_full(&self) -> bool {
        self.unflushed() >= self.settings.limits.unflushed
    }

    /// Workers are free and nobody may go. Until when, and whether one device's backlog is why.
    fn nothing_ready(&mut self, now: Instant) -> Option<Instant> {
        let wake = self.next_wake();
        let blocked = !self.has_room() && self.read_to < self.log_end;
        if !blocked || self.circuit.phase() != Phase::Closed {
            self.starved_since = None;
            return wake;
        }
        let since = *self.starved_since.get_or_insert(now);
        if now.duration_since(since) < STARVED {
            let until = since + STARVED;
            return Some(wake.map_or(until, |wake| wake.min(until)));
        }
        self.starved_since = None;
        let biggest = self.devices.iter().max_by_key(|(_, queue)| queue.log.len());
        if let Some((&device, queue)) = biggest
            && !queue.log.is_empty()
        {
            self.unlist(device);
            self.park(device);
            self.replace(device, now);
        }
        wake
    }
}
