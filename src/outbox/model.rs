//! The scheduler against a model of a store and an upstream, under random answers, latencies,
//! commits and crashes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_wire::MessageId;

use super::{Backoff, Cause, Flush, Limits, Next, Now, Phase, Scheduler, Settings, Verdict};
use crate::{
    clock::UnixMillis,
    envelope::Kind,
    store::{DeviceKey, Message, Outcome, Seq},
};

/// A generator small enough to read: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Held {
    Log,
    Parked,
    Delivered,
    Dead,
    Expired,
    Skipped,
}

/// What is on disk.
#[derive(Default)]
struct Disk {
    log: Vec<(Message, Held)>,
}

impl Disk {
    fn append(&mut self, device: u32, kind: Kind, received_at: UnixMillis) {
        let seq = u64::try_from(self.log.len()).unwrap() + 1;
        let message = Message {
            seq: Seq(seq),
            device: DeviceKey(device),
            kind,
            message_id: MessageId::from_bytes(u128::from(seq).to_be_bytes()),
            timestamp: received_at.seconds(),
            received_at,
            payload: Bytes::from_static(b"0123456789"),
        };
        self.log.push((message, Held::Log));
    }
    fn end(&self) -> Seq {
        self.log.last().map_or(Seq(0), |(message, _)| message.seq)
    }
    fn position(&self) -> Seq {
        let owed = self.log.iter().find(|(_, held)| *held == Held::Log);
        owed.map_or(self.end(), |(message, _)| Seq(message.seq.0 - 1))
    }
    fn read_log(&self, after: Seq, limit: usize) -> Vec<Message> {
        let from = usize::try_from(after.0).unwrap();
        let owed = self.log[from..]
            .iter()
            .filter(|(_, held)| *held == Held::Log);
        owed.take(limit)
            .map(|(message, _)| message.clone())
            .collect()
    }
    fn parked(&self, device: DeviceKey, limit: usize) -> Vec<Message> {
        let parked =
            |(message, held): &&(Message, Held)| message.device == device && *held == Held::Parked;
        self.log
            .iter()
            .filter(parked)
            .take(limit)
            .map(|(message, _)| message.clone())
            .collect()
    }
    fn parked_devices(&self) -> HashSet<DeviceKey> {
        let parked = self.log.iter().filter(|(_, held)| *held == Held::Parked);
        parked.map(|(message, _)| message.device).collect()
    }
    fn commit(&mut self, flush: &Flush<u64>) {
        for settlement in &flush.settlements {
            let (message, held) = &mut self.log[usize::try_from(settlement.seq.0).unwrap() - 1];
            assert_eq!(message.device, settlement.device);
            if let Some(reply) = settlement.reply {
                assert_eq!(reply, settlement.seq.0, "a reply stays with its message");
            }
            let becomes = match settlement.outcome {
                Outcome::Delivered => Held::Delivered,
                Outcome::Dead { .. } => Held::Dead,
                Outcome::Expired => Held::Expired,
                Outcome::Skipped => Held::Skipped,
                Outcome::Parked => Held::Parked,
            };
            let once = match *held {
                Held::Log => true,
                Held::Parked => becomes != Held::Parked,
                _ => false,
            };
            assert!(
                once,
                "{message:?} is {held:?} and settled again as {becomes:?}"
            );
            *held = becomes;
        }
    }
}

const LIMITS: Limits = Limits {
    window_messages: 16,
    window_bytes: 1_000,
    parked_devices: 2,
    parked_messages: 3,
    unflushed: 12,
    park_after: 3,
};

fn settings(limits: Limits, max_age: Option<Duration>) -> Settings {
    Settings {
        workers: 4,
        backoff: Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(2),
        },
        max_age,
        events: false,
        limits,
    }
}

struct World {
    disk: Disk,
    settings: Settings,
    scheduler: Scheduler<u64>,
    flying: Vec<Message>,
    flush: Option<Flush<u64>>,
    /// Decided since the last start, committed or not.
    decided: HashSet<Seq>,
    delivered_by: BTreeMap<DeviceKey, Vec<Seq>>,
    started: Instant,
    elapsed: Duration,
}

const EPOCH: u64 = 1_700_000_000_000;

impl World {
    fn new(settings: Settings) -> Self {
        let started = Instant::now();
        Self {
            disk: Disk::default(),
            settings,
            scheduler: Scheduler::new(settings, Seq(0), [], started),
            flying: Vec::new(),
            flush: None,
            decided: HashSet::new(),
            delivered_by: BTreeMap::new(),
            started,
            elapsed: Duration::ZERO,
        }
    }

    fn now(&self) -> Now {
        let wall = EPOCH + u64::try_from(self.elapsed.as_millis()).unwrap();
        Now {
            instant: self.started + self.elapsed,
            wall: Some(UnixMillis(wall)),
        }
    }

    fn append(&mut self, device: u32, kind: Kind) {
        let now = self.now().wall.unwrap();
        self.disk.append(device, kind, now);
        self.scheduler.log_reaches(self.disk.end());
    }

    /// Reads what the scheduler asks for.
    fn read(&mut self) {
        let now = self.now();
        if let Some(request) = self.scheduler.wants_log() {
            let messages = self.disk.read_log(request.after, request.messages);
            self.scheduler.feed(request, messages, now);
        }
    }

    fn read_parked(&mut self) {
        let now = self.now();
        if let Some(request) = self.scheduler.wants_parked(now.instant) {
            let messages = self.disk.parked(request.device, request.limit);
            self.scheduler.feed_parked(request, messages, now);
        }
    }

    fn begin(&mut self) {
        if self.flying.len() >= self.settings.workers {
            return;
        }
        let now = self.now();
        if let Next::Deliver(message) = self.scheduler.next(now) {
            let held = self.disk.log[usize::try_from(message.seq.0).unwrap() - 1].1;
            assert!(
                matches!(held, Held::Log | Held::Parked),
                "handed out {held:?}: {message:?}"
            );
            assert!(
                !self.decided.contains(&message.seq),
                "decided already: {message:?}"
            );
            for other in &self.flying {
                assert_ne!(other.device, message.device, "two of one device under way");
            }
            for (earlier, held) in &self.disk.log[..usize::try_from(message.seq.0).unwrap() - 1] {
                let waits = matches!(held, Held::Log | Held::Parked)
                    && !self.decided.contains(&earlier.seq);
                let given_up = earlier.kind == Kind::Event
                    || super::queue::expired(earlier, self.settings.max_age, now);
                assert!(
                    earlier.device != message.device || !waits || given_up,
                    "{:?} overtakes {:?}",
                    message.seq,
                    earlier.seq
                );
            }
            self.flying.push(message);
        }
    }

    fn answer(&mut self, which: usize, verdict: Verdict<()>, random: u64) {
        let message = self.flying.swap_remove(which);
        let (seq, device) = (message.seq, message.device);
        let verdict = match verdict {
            Verdict::Settled { reply } => Verdict::Settled {
                reply: reply.map(|()| seq.0),
            },
            Verdict::Retry { after, cause } => Verdict::Retry { after, cause },
            Verdict::Refused { status, reason } => Verdict::Refused { status, reason },
        };
        let now = self.now().instant;
        self.scheduler.answered(message, verdict, now, random);
        if self.scheduler.settles(seq) {
            self.decided.insert(seq);
            self.delivered_by.entry(device).or_default().push(seq);
        }
    }

    fn begin_flush(&mut self) {
        if let Some(flush) = self.scheduler.take_flush() {
            assert!(self.flush.is_none(), "one flush at a time");
            for settlement in &flush.settlements {
                if !matches!(settlement.outcome, Outcome::Parked) {
                    self.decided.insert(settlement.seq);
                }
            }
            self.flush = Some(flush);
        }
    }

    fn end_flush(&mut self) {
        if let Some(flush) = self.flush.take() {
            self.disk.commit(&flush);
            let now = self.now().instant;
            self.scheduler.flushed(flush.number, now);
        }
    }

    fn crash(&mut self) {
        self.flying.clear();
        self.flush = None;
        self.decided.clear();
        let now = self.now().instant;
        let parked = self.disk.parked_devices();
        self.scheduler = Scheduler::new(self.settings, self.disk.position(), parked, now);
        self.scheduler.log_reaches(self.disk.end());
    }

    fn check_bounds(&self) {
        let (counts, limits) = (self.scheduler.counts(), self.settings.limits);
        assert!(counts.window <= limits.window_messages, "{counts:?}");
        assert!(counts.window_bytes <= limits.window_bytes, "{counts:?}");
        assert!(
            counts.parked_in_memory <= limits.parked_devices,
            "{counts:?}"
        );
        assert!(
            counts.unflushed <= limits.unflushed + 2 * limits.window_messages,
            "{counts:?}"
        );
        assert_eq!(counts.in_flight, self.flying.len());
    }

    /// Everything goes well from here: how many rounds until nothing is owed.
    fn drain(&mut self) -> usize {
        for round in 0.. {
            self.read();
            self.read_parked();
            self.begin();
            if !self.flying.is_empty() {
                self.answer(0, Verdict::Settled { reply: Some(()) }, 0);
            }
            self.begin_flush();
            self.end_flush();
            self.elapsed += Duration::from_millis(20);
            self.check_bounds();
            let owed = |(_, held): &(Message, Held)| matches!(held, Held::Log | Held::Parked);
            if !self.disk.log.iter().any(owed) {
                return round;
            }
            assert!(round < 20_000, "stuck: {:?}", self.scheduler);
        }
        0
    }
}

fn random_verdict(random: &mut Random, bad: usize) -> Verdict<()> {
    if random.below(100) >= bad {
        return if random.below(20) == 0 {
            Verdict::Refused {
                status: Some(422),
                reason: "no".to_owned(),
            }
        } else {
            Verdict::Settled {
                reply: (random.below(2) == 0).then_some(()),
            }
        };
    }
    let causes = [
        Cause::Unreachable,
        Cause::NoAnswer,
        Cause::Overloaded,
        Cause::Failed,
        Cause::TornReply,
    ];
    let after = (random.below(5) == 0).then(|| Duration::from_millis(random.next() % 3_000));
    Verdict::Retry {
        after,
        cause: causes[random.below(causes.len())],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn in_order_once_and_nothing_lost(
        seed: u64,
        devices in 1_u32..12,
        bad in 0_usize..100,
        max_age in prop::option::of(1_u64..20),
        crashes: bool,
    ) {
        let mut random = Random(seed);
        let settings = settings(LIMITS, max_age.map(Duration::from_secs));
        let mut world = World::new(settings);
        for _ in 0..1_500 {
            match random.below(22) {
                0..4 => {
                    let kind = if random.below(10) == 0 { Kind::Event } else { Kind::Data };
                    // Half of it from one device, so that backlogs build up.
                    let any = u32::try_from(random.next() % u64::from(devices)).unwrap();
                    world.append(if random.below(2) == 0 { 0 } else { any }, kind);
                }
                4..7 => world.read(),
                7..10 => world.read_parked(),
                10..14 => world.begin(),
                14..18 => {
                    if !world.flying.is_empty() {
                        let which = random.below(world.flying.len());
                        let verdict = random_verdict(&mut random, bad);
                        let draw = random.next();
                        world.answer(which, verdict, draw);
                    }
                }
                18 => world.begin_flush(),
                19 => world.end_flush(),
                20 => {
                    world.elapsed += Duration::from_millis(random.next() % 500);
                    let now = world.now();
                    world.scheduler.expire(now);
                }
                _ => {
                    if crashes && random.below(40) == 0 {
                        world.crash();
                    }
                }
            }
            world.check_bounds();
        }
        // What is still under way comes back first.
        while !world.flying.is_empty() {
            world.answer(0, Verdict::Retry { after: None, cause: Cause::NoAnswer }, u64::MAX);
        }
        world.begin_flush();
        world.end_flush();
        world.drain();
        // The devices that were parked are found to have nothing more, two at a time.
        for _ in 0..devices {
            world.elapsed += Duration::from_secs(3);
            world.read_parked();
        }
        let counts = world.scheduler.counts();
        prop_assert_eq!((counts.window, counts.window_bytes, counts.devices), (0, 0, 0));
        if max_age.is_none() {
            for (message, held) in &world.disk.log {
                let fits = match message.kind {
                    Kind::Event => *held == Held::Skipped,
                    _ => matches!(held, Held::Delivered | Held::Dead),
                };
                prop_assert!(fits, "{:?} is {:?}", message, held);
            }
        }
        if !crashes {
            for (device, seqs) in &world.delivered_by {
                prop_assert!(seqs.is_sorted(), "{:?}: {:?}", device, seqs);
            }
        }
    }
}

#[test]
fn one_failing_device_is_parked_and_holds_back_no_other() {
    let mut world = World::new(settings(LIMITS, None));
    for n in 0..600 {
        world.append(if n % 2 == 0 { 0 } else { 1 + n % 7 }, Kind::Data);
    }
    let fails = |message: &Message| message.device == DeviceKey(0);
    for _ in 0..4_000 {
        world.read();
        world.read_parked();
        world.begin();
        for which in (0..world.flying.len()).rev() {
            let verdict = if fails(&world.flying[which]) {
                Verdict::Retry {
                    after: None,
                    cause: Cause::Failed,
                }
            } else {
                Verdict::Settled { reply: None }
            };
            world.answer(which, verdict, u64::MAX);
        }
        world.begin_flush();
        world.end_flush();
        world.elapsed += Duration::from_millis(5);
        world.check_bounds();
    }
    for (message, held) in &world.disk.log {
        let expected = if fails(message) {
            Held::Parked
        } else {
            Held::Delivered
        };
        assert_eq!(*held, expected, "{message:?}");
    }
    assert_eq!(world.scheduler.counts().phase, Phase::Closed);
    world.drain();
    assert!(world.delivered_by[&DeviceKey(0)].is_sorted());
    world.append(0, Kind::Data);
    world.drain();
    assert_eq!(
        world.disk.log.last().unwrap().1,
        Held::Delivered,
        "no longer parked"
    );
}

#[test]
fn a_long_backlog_of_a_slow_device_does_not_hold_back_another() {
    let mut world = World::new(settings(LIMITS, None));
    for _ in 0..300 {
        world.append(0, Kind::Data);
    }
    world.append(1, Kind::Data);
    // Device 0 takes a second for each message; device 1 is behind 300 of them in the log.
    let mut slow_since = Duration::ZERO;
    for _ in 0..2_000 {
        world.read();
        world.read_parked();
        let before = world.flying.len();
        world.begin();
        if world.flying.len() > before && world.flying[before].device == DeviceKey(0) {
            slow_since = world.elapsed;
        }
        if let Some(which) = world.flying.iter().position(|m| m.device == DeviceKey(1)) {
            world.answer(which, Verdict::Settled { reply: None }, 0);
            assert!(
                world.elapsed < Duration::from_secs(10),
                "{:?}",
                world.elapsed
            );
            return;
        }
        if !world.flying.is_empty() && world.elapsed - slow_since > Duration::from_secs(1) {
            world.answer(0, Verdict::Settled { reply: None }, 0);
        }
        world.begin_flush();
        world.end_flush();
        world.elapsed += Duration::from_millis(20);
        world.check_bounds();
    }
    panic!("device 1 never had its turn");
}

#[test]
fn an_outage_parks_nobody_and_ends_with_one_probe() {
    let mut world = World::new(settings(LIMITS, None));
    for n in 0..200 {
        world.append(n % 20, Kind::Data);
    }
    let mut posts = 0;
    for _ in 0..3_000 {
        world.read();
        world.begin();
        posts += world.flying.len();
        while !world.flying.is_empty() {
            world.answer(
                0,
                Verdict::Retry {
                    after: None,
                    cause: Cause::Unreachable,
                },
                u64::MAX,
            );
        }
        world.begin_flush();
        world.end_flush();
        world.elapsed += Duration::from_millis(20);
    }
    // A minute at a longest wait of two seconds.
    assert!(
        (25..60).contains(&posts),
        "{posts} requests to an upstream that is down"
    );
    assert!(
        world.disk.log.iter().all(|(_, held)| *held == Held::Log),
        "nothing was parked"
    );
    world.elapsed += Duration::from_secs(3);
    world.begin();
    world.begin();
    assert_eq!(world.flying.len(), 1, "one probe");
    world.answer(0, Verdict::Settled { reply: None }, 0);
    for _ in 0..4 {
        world.begin();
    }
    assert_eq!(world.flying.len(), 2, "then two");
    world.drain();
}

#[test]
fn retried_dead_letters_go_before_what_waits() {
    let mut world = World::new(settings(LIMITS, None));
    for _ in 0..2 {
        world.append(0, Kind::Data);
    }
    world.read();
    world.begin();
    world.answer(
        0,
        Verdict::Refused {
            status: Some(400),
            reason: "bad".to_owned(),
        },
        0,
    );
    world.begin_flush();
    world.end_flush();
    assert_eq!(world.disk.log[0].1, Held::Dead);
    // The operator retries it: parked again, and the scheduler is told.
    world.disk.log[0].1 = Held::Parked;
    world.decided.clear();
    let now = world.now().instant;
    world.scheduler.reread_parked([DeviceKey(0)], now);
    world.read_parked();
    world.begin();
    assert_eq!(world.flying[0].seq, Seq(1));
    world.drain_one();
    world.drain();
    assert!(
        world
            .disk
            .log
            .iter()
            .all(|(_, held)| *held == Held::Delivered)
    );
}

impl World {
    fn drain_one(&mut self) {
        self.answer(0, Verdict::Settled { reply: None }, 0);
    }
}

#[test]
fn a_torn_reply_is_asked_for_again_and_then_given_up() {
    let mut world = World::new(settings(LIMITS, None));
    world.append(0, Kind::Data);
    world.read();
    for attempt in 1..=3 {
        world.begin();
        assert_eq!(world.flying.len(), 1, "attempt {attempt}");
        world.answer(
            0,
            Verdict::Retry {
                after: None,
                cause: Cause::TornReply,
            },
            0,
        );
        world.elapsed += Duration::from_secs(1);
    }
    world.begin_flush();
    world.end_flush();
    assert_eq!(world.disk.log[0].1, Held::Delivered);
}

#[test]
fn age_counts_while_the_upstream_is_down() {
    let mut world = World::new(settings(LIMITS, Some(Duration::from_secs(60))));
    for n in 0..100 {
        world.append(n % 5, Kind::Data);
    }
    world.read();
    world.begin();
    world.answer(
        0,
        Verdict::Retry {
            after: None,
            cause: Cause::Unreachable,
        },
        u64::MAX,
    );
    world.elapsed += Duration::from_secs(61);
    for _ in 0..40 {
        let now = world.now();
        world.scheduler.expire(now);
        world.begin_flush();
        world.end_flush();
        world.read();
    }
    assert!(
        world
            .disk
            .log
            .iter()
            .all(|(_, held)| *held == Held::Expired)
    );
}

#[test]
fn a_million_owed_messages_take_no_more_memory_than_a_few() {
    let limits = Limits::default();
    let now = Now {
        instant: Instant::now(),
        wall: Some(UnixMillis(EPOCH)),
    };
    let mut scheduler: Scheduler<()> =
        Scheduler::new(settings(limits, None), Seq(0), [], now.instant);
    let end = 1_000_000;
    scheduler.log_reaches(Seq(end));
    let payload = Bytes::from_static(&[b'x'; 200]);
    let mut per_device: HashMap<DeviceKey, Seq> = HashMap::new();
    let (mut settled, mut slowest) = (0_u64, 0);
    while settled < end {
        if let Some(request) = scheduler.wants_log() {
            let last = end.min(request.after.0 + u64::try_from(request.messages).unwrap());
            let messages = (request.after.0 + 1..=last).map(|seq| Message {
                seq: Seq(seq),
                device: DeviceKey(u32::try_from(seq % 997).unwrap()),
                kind: Kind::Data,
                message_id: MessageId::from_bytes([0; 16]),
                timestamp: 0,
                received_at: UnixMillis(EPOCH),
                payload: payload.clone(),
            });
            scheduler.feed(request, messages.collect(), now);
        }
        while let Next::Deliver(message) = scheduler.next(now) {
            let last = per_device.insert(message.device, message.seq);
            assert!(last < Some(message.seq), "in order");
            scheduler.answered(message, Verdict::Settled { reply: None }, now.instant, 0);
        }
        slowest = slowest.max(scheduler.counts().window);
        if let Some(flush) = scheduler.take_flush() {
            settled += u64::try_from(flush.settlements.len()).unwrap();
            scheduler.flushed(flush.number, now.instant);
        }
        assert!(scheduler.counts().window <= limits.window_messages);
        assert!(scheduler.counts().unflushed <= limits.unflushed);
    }
    assert_eq!(settled, end);
}
