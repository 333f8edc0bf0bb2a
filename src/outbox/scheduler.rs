//! Which message goes next to one upstream.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use super::{
    Cause, Now, Phase, Settings, Verdict,
    circuit::{Circuit, Permission},
    queue::{InFlight, Origin, Place, Queue, expired},
};
use crate::{
    envelope::Kind,
    store::{DeviceKey, Message, Outcome, Seq},
};

/// How long workers may stand idle behind a full window before the device that fills it most is
/// parked. Shorter would park a burst that a fast upstream takes in its stride; longer would let
/// one device's backlog hold back the others behind it in the log.
const STARVED: Duration = Duration::from_millis(250);

/// Payload bytes of one device's parked messages in memory.
const PARKED_BYTES: usize = 64 * 1024;

/// How often a message is sent again for its reply alone, before it settles without one.
const REPLY_ATTEMPTS: u32 = 3;

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

    /// What to commit now: everything settled since the last time. `None` while the previous flush
    /// has not been reported.
    pub fn take_flush(&mut self) -> Option<Flush<R>> {
        if self.settled.is_empty() || self.flushing > 0 {
            return None;
        }
        let settlements = mem::take(&mut self.settled);
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

    /// Whether a read from the log is worth its cost: a quarter of the window is free.
    fn has_room(&self) -> bool {
        let limits = &self.settings.limits;
        self.window <= limits.window_messages - limits.window_messages.div_ceil(4)
            && self.window_bytes <= limits.window_bytes - limits.window_bytes / 4
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

    fn failed(
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
    fn park(&mut self, device: DeviceKey) {
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
    fn forgive_blamed(&mut self, now: Instant) {
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

    fn forgive(&mut self, device: DeviceKey) {
        if let Some(queue) = self.devices.get_mut(&device) {
            queue.forgive();
        }
    }

    fn settle(&mut self, device: DeviceKey, seq: Seq, outcome: Outcome, reply: Option<R>) {
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

    fn leaves_window(&mut self, origin: Origin, bytes: usize) {
        if origin == Origin::Log {
            self.window -= 1;
            self.window_bytes -= bytes;
        }
    }

    /// Moves those whose back-off has ended.
    fn wake(&mut self, now: Instant) {
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
    fn unlist(&mut self, device: DeviceKey) {
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
    fn replace(&mut self, device: DeviceKey, now: Instant) {
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
