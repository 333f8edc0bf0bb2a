//! Devices that send: each keeps what is not acknowledged and sends it again, with DUP, after every
//! cut, as the firmware does.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    net::SocketAddr,
    num::NonZeroU16,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use tidegate_mqtt::{AckKind, QoS};

use crate::support::{
    self, Gateway, eventually,
    mqtt::{Client, Hello, Packet, tls_config},
};

/// A device waits this long for the gateway before it connects again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of what was sent, by all devices of a world.
#[derive(Default)]
pub struct Tally {
    /// `device:message_id` of everything that was acknowledged.
    acknowledged: Mutex<HashSet<String>>,
    /// How many were refused, by reason.
    refused: Mutex<BTreeMap<String, usize>>,
    /// Connections that were made.
    connections: AtomicUsize,
}

impl Tally {
    pub fn acknowledged(&self) -> usize {
        lock(&self.acknowledged).len()
    }

    pub fn keys(&self) -> HashSet<String> {
        lock(&self.acknowledged).clone()
    }

    pub fn refused(&self) -> BTreeMap<String, usize> {
        lock(&self.refused).clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until `more` messages than now are acknowledged.
    pub fn flows(&self, more: usize) {
        let before = self.acknowledged();
        eventually(
            &format!("{more} more acknowledgements"),
            3 * PATIENCE,
            || (self.acknowledged() >= before + more).then_some(()),
        );
    }
}

/// How long acknowledgements took, by the phase in which a message was first sent.
#[derive(Default)]
pub struct Latencies {
    phase: AtomicUsize,
    took: Mutex<Vec<(usize, Duration)>>,
}

/// Figures of one phase.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
}

impl Latencies {
    pub fn enter(&self, phase: usize) {
        self.phase.store(phase, Ordering::SeqCst);
    }

    pub fn figures(&self, phase: usize) -> Figures {
        let mut took: Vec<Duration> = lock(&self.took)
            .iter()
            .filter(|(of, _)| *of == phase)
            .map(|(_, took)| *took)
            .collect();
        took.sort_unstable();
        let at = |share: usize| {
            let last = took.len().saturating_sub(1);
            took.get(last * share / 100).copied().unwrap_or_default()
        };
        Figures {
            count: took.len(),
            p50: at(50),
            p99: at(99),
            longest: at(100),
        }
    }
}

/// How a device sends.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Messages it has unacknowledged at once.
    pub window: usize,
    /// From one message to the next, at least.
    pub pace: Duration,
    /// Bytes of filler in each message.
    pub filler: usize,
}

impl Manner {
    /// One message at a time, fifty a second: the device whose latency is looked at.
    pub const CALM: Self = Self {
        window: 1,
        pace: Duration::from_millis(20),
        filler: 0,
    };
    /// A busy device.
    pub const BUSY: Self = Self {
        window: 16,
        pace: Duration::from_millis(4),
        filler: 200,
    };
}

struct Pending {
    key: String,
    message: String,
    born: Instant,
    phase: usize,
    id: Option<NonZeroU16>,
}

/// A device on a thread of its own.
pub struct Sender {
    device: String,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    manner: Manner,
    pending: VecDeque<Pending>,
    next: usize,
    tally: Arc<Tally>,
    latencies: Arc<Latencies>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    /// Starts a device that sends until `stop` and all it sent is acknowledged or refused.
    pub fn start(
        gateway: &Gateway,
        device: &str,
        manner: Manner,
        tally: &Arc<Tally>,
        latencies: &Arc<Latencies>,
        stop: &Arc<AtomicBool>,
    ) -> JoinHandle<()> {
        let sender = Self {
            device: device.to_owned(),
            tls: tls_config(&gateway.bundle(device)),
            address: gateway.mqtt(),
            manner,
            pending: VecDeque::new(),
            next: 0,
            tally: Arc::clone(tally),
            latencies: Arc::clone(latencies),
            stop: Arc::clone(stop),
        };
        thread::spawn(move || sender.run())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn run(mut self) {
        while !self.stopped() || !self.pending.is_empty() {
            let name = self.device.clone();
            let hello = Hello {
                client_id: &name,
                clean: false,
                ..Hello::default()
            };
            let Ok((mut client, Packet::ConnAck { reason: 0, .. })) =
                Client::try_connect(self.address, &self.tls, &hello)
            else {
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            client.set_read_timeout(PATIENCE);
            self.tally.connections.fetch_add(1, Ordering::SeqCst);
            // However it ends, the next connection goes on where this one was cut.
            let _ = self.converse(&mut client);
        }
    }

    fn converse(&mut self, client: &mut Client) -> io::Result<()> {
        let topic = format!("device/{}/data", self.device);
        for pending in &mut self.pending {
            let id = client.next_id();
            pending.id = Some(id);
            let bytes = pending.message.as_bytes();
            client.send_as(&topic, bytes, QoS::AtLeastOnce, Some(id), true)?;
        }
        let mut due = Instant::now();
        loop {
            while !self.stopped()
                && self.pending.len() < self.manner.window
                && (self.pending.is_empty() || Instant::now() >= due)
            {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due = Instant::now() + self.manner.pace;
                let id = client.next_id();
                let pending = self.sign(id);
                let message = pending.message.clone();
                self.pending.push_back(pending);
                client.send_as(
                    &topic,
                    message.as_bytes(),
                    QoS::AtLeastOnce,
                    Some(id),
                    false,
                )?;
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            match client.receive()? {
                Packet::Ack {
                    kind: AckKind::PubAck,
                    id,
                    reason,
                    why,
                } => self.answered(id, reason, &why),
                Packet::Disconnect(_) => return Ok(()),
                _ => {}
            }
        }
    }

    fn sign(&mut self, id: NonZeroU16) -> Pending {
        let message_id = uuid::Uuid::new_v4().to_string();
        let filler = "x".repeat(self.manner.filler);
        let payload = format!(r#"{{"n":{},"filler":"{filler}"}}"#, self.next);
        self.next += 1;
        Pending {
            key: format!("{}:{message_id}", self.device),
            message: support::envelope_at(&self.device, support::now(), &message_id, &payload),
            born: Instant::now(),
            phase: self.latencies.phase.load(Ordering::SeqCst),
            id: Some(id),
        }
    }

    fn answered(&mut self, id: NonZeroU16, reason: u8, why: &str) {
        let Some(at) = self.pending.iter().position(|p| p.id == Some(id)) else {
            return;
        };
        let Some(pending) = self.pending.remove(at) else {
            return;
        };
        if reason >= 0x80 {
            let why = format!("{reason:#04x} {why}");
            *lock(&self.tally.refused).entry(why).or_default() += 1;
            return;
        }
        lock(&self.latencies.took).push((pending.phase, pending.born.elapsed()));
        lock(&self.tally.acknowledged).insert(pending.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
