//! A gateway under load, with a backend that knows what it took and a calm device whose latency is
//! looked at before, during and after the fault.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    load::{Latencies, Manner, Sender, Tally},
    support::{Gateway, Setup, eventually},
    upstream::Upstream,
};

/// The device whose latency is looked at.
pub const CALM: &str = "calm";

/// What may stay of the memory a fault took, once it is over: an allocator's fragments. The figure
/// is for a build without optimisation; what a fault could take without a bound is far more.
const SLACK_KIB: u64 = 48 * 1024;

/// How long everything may take to arrive once the fault is over.
const ARRIVES: Duration = Duration::from_secs(90);

/// A phase of a test: how long the calm device and the others have before the fault and after it.
const CALM_BEFORE: Duration = Duration::from_secs(2);

pub struct World {
    pub gateway: Gateway,
    pub upstream: Upstream,
    pub tally: Arc<Tally>,
    title: &'static str,
    latencies: Arc<Latencies>,
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
    rss_before: u64,
}

impl World {
    /// Starts the gateway of `setup` with a calm device and `busy` busy ones, and lets them send for a
    /// while undisturbed.
    pub fn start(title: &'static str, setup: Setup, busy: usize) -> Self {
        Self::with(title, setup, busy, Manner::BUSY)
    }

    /// As [`World::start`], with another manner of being busy.
    pub fn with(title: &'static str, mut setup: Setup, busy: usize, manner: Manner) -> Self {
        let upstream = Upstream::start();
        let names: Vec<String> = (0..busy).map(|n| format!("busy_{n}")).collect();
        for name in [CALM.to_owned()].iter().chain(&names) {
            setup = setup.device_with(name, "messages_per_second = 100000");
        }
        let gateway = setup.backend(&upstream.url()).start();
        let mut world = Self {
            gateway,
            upstream,
            tally: Arc::default(),
            title,
            latencies: Arc::default(),
            stop: Arc::default(),
            senders: Vec::new(),
            rss_before: 0,
        };
        world.add(CALM, Manner::CALM);
        for name in &names {
            world.add(name, manner);
        }
        world.tally.flows(1 + 20 * busy);
        world.latencies.enter(1);
        thread::sleep(CALM_BEFORE);
        world.rss_before = world.rss_kib();
        world
    }

    /// A further device. Only the calm one's latency counts.
    pub fn add(&mut self, device: &str, manner: Manner) {
        let latencies = if device == CALM {
            Arc::clone(&self.latencies)
        } else {
            Arc::default()
        };
        let sender = Sender::start(
            &self.gateway,
            device,
            manner,
            &self.tally,
            &latencies,
            &self.stop,
        );
        self.senders.push(sender);
    }

    /// The fault begins.
    pub fn fault(&self) {
        self.latencies.enter(2);
    }

    /// Resident memory of the daemon, KiB.
    pub fn rss_kib(&self) -> u64 {
        status_kib(self.gateway.pid(), "VmRSS:")
    }

    /// The most it ever had since it was started, KiB.
    pub fn peak_kib(&self) -> u64 {
        status_kib(self.gateway.pid(), "VmHWM:")
    }

    /// The fault is over: messages flow for a while, then the devices stop, all they sent is
    /// acknowledged, everything acknowledged is at the backend, the ledger is even, memory is back
    /// at what it was; and the figures are printed.
    pub fn recovers(mut self) -> Gateway {
        self.tally.flows(50);
        self.latencies.enter(3);
        thread::sleep(CALM_BEFORE);
        self.stop.store(true, Ordering::SeqCst);
        eventually("the devices to be done", ARRIVES, || {
            self.senders
                .iter()
                .all(JoinHandle::is_finished)
                .then_some(())
        });
        for sender in self.senders.drain(..) {
            sender.join().unwrap();
        }
        let keys = self.tally.keys();
        eventually("everything acknowledged to arrive", ARRIVES, || {
            assert_eq!(self.ledger()["dead"], 0, "nothing is refused for good");
            self.upstream.missing(&keys).is_empty().then_some(())
        });
        self.upstream.assert_consistent();
        eventually("an even ledger with nothing owed", ARRIVES, || {
            // All of one moment.
            let ledger = self.ledger();
            let of = |name: &str| ledger[name].as_u64().unwrap_or_else(|| panic!("{ledger}"));
            assert_eq!(
                of("accepted"),
                of("delivered") + of("owed") + of("dead") + of("expired"),
                "{ledger}"
            );
            assert_eq!(of("expired"), 0);
            (of("owed") == 0).then_some(())
        });
        assert_eq!(
            self.ledger()["accepted"],
            keys.len() as u64,
            "as many as were acknowledged"
        );
        let rss_after = eventually("memory to be back at its bound", ARRIVES, || {
            let now = self.rss_kib();
            (now <= self.rss_before + SLACK_KIB).then_some(now)
        });
        self.print(rss_after);
        self.gateway
    }

    fn ledger(&self) -> serde_json::Value {
        self.gateway.json(&["status"])["upstreams"]["backend"].clone()
    }

    fn print(&self, rss_after: u64) {
        let title = self.title;
        for (phase, name) in [(1, "before"), (2, "during"), (3, "after")] {
            let of = self.latencies.figures(phase);
            println!(
                "{title}: {name}: calm device: {} messages, p50 {:.1} ms, p99 {:.1} ms, longest {:.0} ms",
                of.count,
                of.p50.as_secs_f64() * 1e3,
                of.p99.as_secs_f64() * 1e3,
                of.longest.as_secs_f64() * 1e3,
            );
        }
        println!(
            "{title}: {} acknowledged, {} refused, {} connections; memory {} KiB before, {rss_after} KiB after, {} KiB at most",
            self.tally.acknowledged(),
            self.tally.refused().values().sum::<usize>(),
            self.tally.connections(),
            self.rss_before,
            self.peak_kib(),
        );
    }
}

fn status_kib(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Numbers for choosing moments; the seed is printed so that a run can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let seed = std::env::var("TIDEGATE_FAULTS_SEED").map_or_else(
            |_| u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap()),
            |text| text.parse().expect("TIDEGATE_FAULTS_SEED is a number"),
        );
        println!("TIDEGATE_FAULTS_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `bound` (xorshift64, Marsaglia 2003).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// As [`Dice::below`], of something that has a length.
    pub fn below_len(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// One of a byte's bits.
    pub fn bit(&mut self) -> u32 {
        u32::try_from(self.below(8)).unwrap()
    }
}
