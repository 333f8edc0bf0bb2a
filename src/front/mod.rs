//! The device edge: TLS, MQTT 3.1.1 and 5, sessions, limits.
//!
//! ```text
//! listener ──accept, TLS──▶ connect ──CONNECT──▶ connection ── one task per connection
//!   (tls)    admission        (turn, session)      │   ▲
//!                                                  │   │ mailbox: signals, messages
//!            inbound: verify ──▶ stage ──▶ store   │   │
//!            free: durable sessions, broker        │   directory, durable, retained
//!            session: QoS flows, sans-IO ◀─────────┘   housekeeping: expiry, wills, rechecks
//! ```
//!
//! A message on a contract topic is verified where it lies in the read buffer, copied once, into the
//! batch of its burst, and acknowledged when that batch is on disk. One burst, whatever it
//! holds, costs one submission, and one commit costs one write of acknowledgements.
//!
//! # Queues and their bounds
//!
//! | what waits | bound | when it is full |
//! |---|---|---|
//! | handshakes | `limits.handshakes` | connections wait, until `limits.handshake_timeout` |
//! | connections | `limits.connections`, `connections_per_address` | refused, counted |
//! | bursts on their way to disk | 8, with 4,096 answers | reading stops |
//! | QoS 1 and 2 messages from an MQTT 5 peer | `limits.in_flight` | DISCONNECT 0x93 |
//! | messages from a device | its rate and burst | rejected; after 64 in a row reading pauses |
//! | a live connection's mailbox | `limits.queued_messages`, `queued_bytes` | the newest is dropped, counted |
//! | a durable session's queue | the same | the oldest not yet sent gives way, counted |
//! | output | 64 KiB, 128 KiB with answers | messages wait; reading stops; closed after 30 s |
//! | retained messages | `limits.retained_messages`, 100 × `queued_bytes` | not retained, counted |
//! | free topics of one identity | `limits.topics_per_identity` | publish refused |
//!
//! # What is left out
//!
//! Shared subscriptions are announced as unavailable and refused (0x9E); enhanced authentication is
//! refused (0x8C). Commands travel with QoS 1 at most: devices know a command again by its id.

mod admission;
mod commands;
mod connect;
mod connection;
mod directory;
mod durable;
mod free;
mod housekeeping;
mod inbound;
mod listener;
mod mailbox;
mod message;
pub mod metrics;
mod rate;
mod retained;
mod session;
mod stage;
mod subscribing;
mod subscription;
mod tls;
mod will;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use connection::STOP_GRACE;
pub use directory::{Directory, Listed, Principal};
pub use housekeeping::recover;
pub use listener::{BindError, Bound, bind, run};
pub use message::{Outgoing, ReplyRoute};
pub use metrics::FrontMetrics;

use admission::Admission;
use rate::{Bucket, Rate};

use crate::{
    broker::Broker,
    clock::Clock,
    command::Commands,
    config::{Limits, Verification},
    envelope::DigestKey,
    pki::Credentials,
    registry::Registry,
    store::Store,
    trace::Throttle,
};

/// Why the gateway closes a connection that did nothing wrong on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    #[error("a newer connection took over")]
    TakenOver,
    #[error("the certificate is revoked or has ended")]
    Revoked,
    #[error("the device is disabled")]
    Disabled,
    #[error("the device was removed")]
    Removed,
    #[error("closed by an administrator")]
    Administrative,
    #[error("the gateway is stopping")]
    Stopping,
}

/// What the front needs from the rest of the gateway.
#[derive(Clone, Debug)]
pub struct Parts {
    pub registry: Arc<Registry>,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub metrics: Arc<FrontMetrics>,
    pub directory: Arc<Directory>,
    pub broker: Arc<Broker>,
    pub commands: Commands,
    pub credentials: watch::Receiver<Arc<Credentials>>,
    pub limits: Limits,
    pub verification: Verification,
    pub digest_key: DigestKey,
    /// Cancelled when the gateway stops.
    pub stopping: CancellationToken,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    registry: Arc<Registry>,
    store: Store,
    clock: Arc<Clock>,
    metrics: Arc<FrontMetrics>,
    directory: Arc<Directory>,
    broker: Arc<Broker>,
    commands: Commands,
    credentials: watch::Receiver<Arc<Credentials>>,
    limits: Limits,
    verification: Verification,
    digest_key: DigestKey,
    stopping: CancellationToken,
    max_packet: u32,
    max_message: usize,
    operator_rate: Rate,
    admission: Admission,
    /// Password checks at once: each takes 19 MiB and a core for tens of milliseconds.
    passwords: Semaphore,
    started: Instant,
    /// Of log lines about failed handshakes, which anybody can cause.
    handshake_log: Bucket,
    handshakes_unlogged: AtomicU32,
    /// Of log lines about rejected messages, which every device can cause.
    rejection_log: Mutex<Throttle>,
}

/// Log lines about failed handshakes: some at once, then one a second.
const HANDSHAKE_LOG: (Duration, u32) = (Duration::from_secs(1), 20);

/// Log lines a minute about one device's rejected messages, per reason; devices and reasons told apart.
const REJECTIONS_LOGGED: u32 = 5;
const REJECTION_WINDOWS: usize = 4_096;

/// Password checks under way at once.
const PASSWORD_CHECKS: usize = 2;

impl Shared {
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let limits = parts.limits;
        Arc::new(Self {
            registry: parts.registry,
            store: parts.store,
            clock: parts.clock,
            metrics: parts.metrics,
            directory: parts.directory,
            broker: parts.broker,
            commands: parts.commands,
            credentials: parts.credentials,
            max_packet: u32::try_from(limits.packet_bytes.as_u64()).unwrap_or(u32::MAX),
            max_message: usize::try_from(parts.verification.message_bytes.as_u64())
                .unwrap_or(usize::MAX),
            operator_rate: Rate::new(limits.messages_per_second, limits.message_burst),
            admission: Admission::new(&limits),
            passwords: Semaphore::new(PASSWORD_CHECKS),
            started: Instant::now(),
            handshake_log: Bucket::default(),
            handshakes_unlogged: AtomicU32::new(0),
            rejection_log: Mutex::new(Throttle::new(REJECTIONS_LOGGED, REJECTION_WINDOWS)),
            limits,
            verification: parts.verification,
            digest_key: parts.digest_key,
            stopping: parts.stopping,
        })
    }

    /// Nanoseconds since this was made, and an hour: buckets that start empty of debt have a past.
    fn tick(&self) -> u64 {
        const PAST: Duration = Duration::from_secs(3600);
        u64::try_from((self.started.elapsed() + PAST).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether one more failed handshake may be logged, and how many were left out since the last.
    fn may_log_handshake(&self) -> Option<u32> {
        let (interval, burst) = HANDSHAKE_LOG;
        if self
            .handshake_log
            .take(Rate::every(interval, burst), self.tick())
        {
            return Some(self.handshakes_unlogged.swap(0, Ordering::Relaxed));
        }
        self.handshakes_unlogged.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn rejection_log(&self) -> MutexGuard<'_, Throttle> {
        self.rejection_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds a session may live without a connection.
    fn cap_expiry(&self, asked: u32) -> u32 {
        asked.min(u32::try_from(self.limits.session_expiry.as_secs()).unwrap_or(u32::MAX))
    }
}
