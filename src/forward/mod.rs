//! Delivers what is owed to one upstream: threads around the decisions of [`crate::outbox`], one
//! file per kind of upstream.
//!
//! Each upstream has a bounded number of *workers*, which deliver one message at a time each, and
//! one *upkeep* thread, which reads from the log, commits what was settled (as one group, as soon
//! as the previous one is done) and hands replies to devices after the commit that settled what
//! they answer.

mod debts;
pub mod http;
mod metrics;
mod upkeep;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_wire::DeviceId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use debts::Debts;
pub use metrics::ForwardMetrics;

use crate::{
    app::Tasks,
    clock::Clock,
    outbox::{Cause, Counts, Now, Scheduler, Settings},
    store::{DeviceKey, Message, Seq, StoreError, sessions::SessionKey},
};

/// How one delivery went.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Taken. What it replied goes to the device; `None` if there is nothing to pass on.
    Settled { reply: Option<Bytes> },
    /// May succeed later; `after` is what the upstream asked us to wait.
    Retry {
        after: Option<Duration>,
        cause: Cause,
        detail: String,
    },
    /// Refused for good.
    Refused { status: Option<u16>, reason: String },
}

/// A kind of upstream: how to deliver one message. Called from several threads at once; blocks
/// until there is an answer, for no longer than the upstream's timeout.
pub trait Upstream: Send + Sync {
    fn deliver(&self, device_id: &DeviceId, message: &Message) -> Answer;

    /// Ends what is under way, as well as it can be ended: the gateway is stopping. Called from
    /// another thread.
    fn interrupt(&self) {}
}

/// Who a device is, by its number in the store.
pub trait Devices: Send + Sync {
    /// `None` when it is no longer registered.
    fn id(&self, device: DeviceKey) -> Option<DeviceId>;
}

/// Where a reply to a device goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyRoute {
    /// Into this session's queue in the store, in the commit that settles the message.
    Durable { session: SessionKey, qos: u8 },
    /// To a session that lives in memory only.
    Volatile { qos: u8 },
}

/// A reply whose message has been settled.
#[derive(Clone, Debug)]
pub struct Reply {
    pub payload: Bytes,
    pub qos: u8,
    /// Its row in the session's queue, if it has one.
    pub queue_id: Option<i64>,
}

/// The way of replies to devices.
pub trait Replies: Send + Sync {
    /// Who takes replies for this device; `None` when nobody is subscribed to its response topic.
    fn route(&self, device: &DeviceId) -> Option<ReplyRoute>;
    /// Hands over a reply; never blocks. False: nobody took it.
    fn deliver(&self, device: &DeviceId, reply: Reply) -> bool;
}

/// What a forwarder needs.
pub struct Parts {
    /// The upstream's name in the configuration, for logs.
    pub name: Arc<str>,
    pub settings: Settings,
    pub upstream: Arc<dyn Upstream>,
    pub debts: Arc<dyn Debts>,
    pub devices: Arc<dyn Devices>,
    pub replies: Arc<dyn Replies>,
    pub clock: Arc<Clock>,
    pub metrics: Arc<ForwardMetrics>,
    /// Where the log ends, as commits move it.
    pub log_end: watch::Receiver<Seq>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why an upstream's forwarder did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("upstream {name}: what it is owed could not be read: {source}")]
    Store { name: Arc<str>, source: StoreError },
    #[error(
        "upstream {name}: the system refused a thread ({source}); lower its `workers` or raise the limit on tasks"
    )]
    Thread { name: Arc<str>, source: io::Error },
}

/// A running forwarder.
#[derive(Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("name", &self.shared.parts.name)
            .finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Starts the threads of one upstream. They end when `tasks` is stopped: what is under way gets
    /// [`GRACE`] to come back, and what was settled is committed.
    ///
    /// # Errors
    /// [`StartError`] when the store cannot be read or a thread cannot be started.
    pub fn start(parts: Parts, tasks: &Tasks) -> Result<Self, StartError> {
        let store = |source| StartError::Store {
            name: Arc::clone(&parts.name),
            source,
        };
        let position = parts.debts.position().map_err(store)?;
        let parked = parts.debts.parked_devices().map_err(store)?;
        let mut scheduler = Scheduler::new(parts.settings, position, parked, Instant::now());
        scheduler.log_reaches(*parts.log_end.borrow());
        let (workers, name) = (parts.settings.workers.max(1), Arc::clone(&parts.name));
        let mut log_end = parts.log_end.clone();
        let shared = Arc::new(Shared {
            parts,
            stopping: tasks.stopping(),
            state: Mutex::new(State {
                scheduler,
                deadline: None,
                idle: 0,
                upkeep_idle: false,
                parked_changed: false,
            }),
            work: Condvar::new(),
            upkeep: Condvar::new(),
        });
        let thread = |source| StartError::Thread {
            name: Arc::clone(&name),
            source,
        };
        for _ in 0..workers {
            let shared = Arc::clone(&shared);
            tasks
                .thread("forward", move || worker::run(&shared))
                .map_err(thread)?;
        }
        let upkeep = Arc::clone(&shared);
        tasks
            .thread("forward-upkeep", move || upkeep::run(&upkeep))
            .map_err(thread)?;
        let (waker, stopping) = (Arc::clone(&shared), tasks.stopping());
        tasks.spawn("forward-wake", async move {
            loop {
                tokio::select! {
                    changed = log_end.changed() => {
                        if changed.is_err() {
                            stopping.cancelled().await;
                        }
                    }
                    () = stopping.cancelled() => {}
                }
                if stopping.is_cancelled() {
                    break;
                }
                let end = *log_end.borrow_and_update();
                let mut state = waker.lock();
                state.scheduler.log_reaches(end);
                waker.wake_upkeep(&state);
            }
            // Whoever waits looks at the token when woken; the lock makes sure that nobody is
            // between looking and waiting.
            drop(waker.lock());
            waker.work.notify_all();
            waker.upkeep.notify_all();
        });
        Ok(Self { shared })
    }

    /// Parked messages or dead letters of this upstream were changed from outside: look at once.
    pub fn parked_changed(&self) {
        let mut state = self.shared.lock();
        state.parked_changed = true;
        self.shared.wake_upkeep(&state);
    }

    /// How it stands now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().scheduler.counts()
    }
}

/// How long deliveries under way may take to come back when the gateway stops. What does not is
/// delivered again at the next start, under the same idempotency key.
pub const GRACE: Duration = Duration::from_secs(5);

/// A reply on its way, kept with the settlement of the message it answers.
#[derive(Debug)]
struct PendingReply {
    device: DeviceId,
    route: ReplyRoute,
    payload: Bytes,
}

struct State {
    scheduler: Scheduler<PendingReply>,
    /// When a worker is to be woken because something may have become due.
    deadline: Option<Instant>,
    /// Workers that wait for work.
    idle: usize,
    upkeep_idle: bool,
    parked_changed: bool,
}

struct Shared {
    parts: Parts,
    stopping: CancellationToken,
    state: Mutex<State>,
    work: Condvar,
    upkeep: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the daemon; tests that catch one find the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            wall: self.parts.clock.settled(),
        }
    }

    /// One worker is enough: it wakes the next if there is more.
    fn wake_worker(&self, state: &State) {
        if state.idle > 0 {
            self.work.notify_one();
        }
    }

    fn wake_upkeep(&self, state: &State) {
        if state.upkeep_idle {
            self.upkeep.notify_one();
        }
    }
}
