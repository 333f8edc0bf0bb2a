//! Commands for devices: durable before they are answered, signed when they are sent, settled by the
//! device's own signed word.
//!
//! A backend queues a command ([`Commands::queue`]); the front, when the device has a connection,
//! takes what is [`Commands::pending`], has it prepared ([`Commands::prepare`]) and reports what came
//! of it ([`Commands::sent`], [`Commands::delivered`], [`Commands::dropped`]). The outcome arrives as
//! a verified message on `ack` and is recorded by the store in the transaction that accepts it
//! ([`crate::store::commands::record_outcome`]).
//!
//! A command that was written to a connection which then broke is sent again on the next one, under
//! the same `message_id` and with a fresh timestamp and signature: the device executes a
//! `message_id` once.

mod error;
mod prepare;
mod raw;
mod state;
mod waiting;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{digest, rand};
use bytes::Bytes;
use tidegate_wire::{
    DeviceId, MessageId, Payload,
    limits::{ENVELOPE_OVERHEAD, slots_for},
};

use crate::{
    clock::UnixMillis,
    registry::Device,
    store::{
        DeviceKey, Store, StoreError,
        commands::{self as rows, Inserted, NewCommand},
    },
};

pub use error::CommandError;
pub use prepare::{PrepareError, Prepared, Route};
pub use raw::raw_form;
pub use state::{Event, State};

use waiting::{Tell, Waiting};

/// How long a command waits for its device unless the backend says otherwise: a day, so that a device
/// that wakes up daily gets it.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest a backend may ask for: 30 days. What matters for longer belongs into the backend.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Commands waiting for one device: a device that is away for long comes back to a list it can still
/// work through, and one backend in a loop fills no disk.
pub const MAX_WAITING: u32 = 100;
/// Longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// How long a settled command can be asked for and its idempotency key is honoured, counted from when
/// it was queued.
pub const KEEP_SETTLED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Settled commands kept in all; the oldest go first.
pub const MAX_SETTLED: u32 = 100_000;
/// Rows touched by one write of the periodic work, so that it holds up no group commit.
const BATCH: u32 = 1_000;

/// How commands are checked and signed; settings of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Largest message a device is sent, in bytes, signature and all.
    pub message_bytes: usize,
    /// Sign with version 2 whatever the device speaks.
    pub require_v2: bool,
}

/// The commands of all devices. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    rules: Rules,
    waiting: Mutex<Waiting>,
    notify: Box<dyn Fn(&DeviceId) + Send + Sync>,
}

/// A command to be stored.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// JSON, as the backend wrote it.
    pub body: Bytes,
    /// Unset: [`DEFAULT_TTL`].
    pub ttl: Option<Duration>,
    pub idempotency_key: Option<&'a str>,
    /// Who asks, such as `key:1f2e3d4c`; idempotency keys of different actors do not meet.
    pub by: &'a str,
}

/// A stored command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queued {
    pub message_id: MessageId,
    /// It was stored by an earlier call with the same idempotency key.
    pub before: bool,
}

/// A command that is to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    pub message_id: MessageId,
    /// JSON, as the backend wrote it.
    pub payload: Bytes,
    pub expires_at: UnixMillis,
    /// How often it was sent before.
    pub attempts: u32,
}

/// Everything known about a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandStatus {
    pub message_id: MessageId,
    pub state: State,
    /// What the device said about the outcome, JSON.
    pub detail: Option<String>,
    pub attempts: u32,
    pub queued_at: UnixMillis,
    pub expires_at: UnixMillis,
    pub sent_at: Option<UnixMillis>,
    pub delivered_at: Option<UnixMillis>,
    pub finished_at: Option<UnixMillis>,
}

impl Commands {
    /// Commands as the store has them: what was sent but not confirmed when the gateway stopped is to
    /// be sent again. `notify` is called after a commit with the device that has something to fetch;
    /// it must not block.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(
        store: Store,
        rules: Rules,
        notify: impl Fn(&DeviceId) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let waiting = store
            .write(|conn| {
                rows::requeue(conn, None)?;
                rows::devices_waiting(conn)
            })
            .await?;
        let mut marked = Waiting::default();
        waiting.into_iter().for_each(|device| marked.mark(device));
        let (waiting, notify) = (Mutex::new(marked), Box::new(notify));
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                rules,
                waiting,
                notify,
            }),
        })
    }

    /// Stores a command for `device`; when this returns it is on disk, and a connected device is
    /// being told.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is stored then.
    pub async fn queue(
        &self,
        device: &Device,
        order: Order<'_>,
        now: UnixMillis,
    ) -> Result<Queued, CommandError> {
        let ttl = order.ttl.unwrap_or(DEFAULT_TTL);
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            return Err(CommandError::Ttl);
        }
        if order
            .idempotency_key
            .is_some_and(|key| !is_idempotency_key(key))
        {
            return Err(CommandError::IdempotencyKey);
        }
        let most = self
            .inner
            .rules
            .message_bytes
            .saturating_sub(ENVELOPE_OVERHEAD);
        if order.body.len() > most {
            return Err(CommandError::TooLarge {
                len: order.body.len(),
                most,
            });
        }
        let mut slots = vec![0; slots_for(order.body.len())];
        Payload::parse(&order.body, &mut slots).map_err(CommandError::NotJson)?;
        // Asked before it is stored: a command nobody can ever send is the backend's to know about.
        if device.enabled {
            Route::of(device)?;
        }

        let id = MessageId::from_random(random()?);
        let new = NewCommand {
            id,
            device: device.key,
            payload: order.body.to_vec(),
            by: order.by.to_owned(),
            idempotency_key: order.idempotency_key.map(str::to_owned),
            request_digest: request_digest(&order),
            queued_at: now,
            expires_at: UnixMillis(now.0.saturating_add(millis(ttl))),
        };
        let accepting = device.enabled;
        let mut tell = Tell {
            inner: Arc::clone(&self.inner),
            device: device.key,
            id: device.id,
            stored: false,
        };
        let (inserted, _tell) = self
            .inner
            .store
            .write(move |conn| {
                let inserted = rows::insert(conn, &new, accepting, MAX_WAITING)?;
                tell.stored = inserted == Inserted::New;
                Ok((inserted, tell))
            })
            .await?;
        match inserted {
            Inserted::New => Ok(Queued {
                message_id: id,
                before: false,
            }),
            Inserted::Before(message_id) => Ok(Queued {
                message_id,
                before: true,
            }),
            Inserted::Conflict => Err(CommandError::Conflict),
            Inserted::QueueFull => Err(CommandError::QueueFull(device.id)),
            Inserted::Refused => Err(CommandError::Disabled(device.id)),
        }
    }

    /// Whether the device may have commands waiting. False is certain; true is worth asking
    /// [`Commands::pending`]. Touches memory only.
    #[must_use]
    pub fn waiting(&self, device: DeviceKey) -> bool {
        self.inner.lock_waiting().devices.contains_key(&device)
    }

    /// What is to be sent to the device now, oldest first. Commands already written to a live
    /// connection are not among them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pending(
        &self,
        device: DeviceKey,
        now: UnixMillis,
    ) -> Result<Vec<Pending>, StoreError> {
        let mark = self.inner.lock_waiting().devices.get(&device).copied();
        let Some(mark) = mark else {
            return Ok(Vec::new());
        };
        let (pending, waiting) = self
            .inner
            .store
            .read(move |conn| {
                Ok((
                    rows::pending(conn, device, now, MAX_WAITING)?,
                    rows::waiting(conn, device)?,
                ))
            })
            .await?;
        let mut marked = self.inner.lock_waiting();
        if waiting == 0 && marked.devices.get(&device) == Some(&mark) {
            marked.devices.remove(&device);
        }
        Ok(pending)
    }

    /// Makes the message to publish: signed now, or in raw form for a device that does not sign.
    ///
    /// # Errors
    /// [`PrepareError`]: the device lost its secret or its command topic since the command was stored.
    pub fn prepare(
        &self,
        pending: &Pending,
        device: &Device,
        now: UnixMillis,
    ) -> Result<Prepared, PrepareError> {
        prepare::prepare(pending, device, self.inner.rules.require_v2, now)
    }

    /// Notes that these go to the device's connection now, and returns those that may: one that
    /// expired since it was fetched may not. Call it before writing: a command that was noted as sent
    /// and was not is sent again; the other way round, what happened would not be known.
    ///
    /// # Errors
    /// [`StoreError`]; then send none of them.
    pub async fn sent(
        &self,
        device: DeviceKey,
        ids: Vec<MessageId>,
        now: UnixMillis,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.apply_all(device, ids, Event::Sent, now).await
    }

    /// The device confirmed these, or they went out with QoS 0.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delivered(
        &self,
        device: DeviceKey,
        ids: Vec<MessageId>,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.apply_all(device, ids, Event::Delivered, now)
            .await
            .map(drop)
    }

    /// The device's connection ended: what it did not confirm is to be sent again. Does nothing, and
    /// touches memory only, for a device without waiting commands.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dropped(&self, device: DeviceKey) -> Result<(), StoreError> {
        if self.waiting(device) {
            self.inner
                .store
                .write(move |conn| rows::requeue(conn, Some(device)))
                .await?;
        }
        Ok(())
    }

    /// One command of a device, if it is still known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn status(
        &self,
        device: DeviceKey,
        id: MessageId,
    ) -> Result<Option<CommandStatus>, StoreError> {
        self.inner
            .store
            .read(move |conn| rows::status(conn, device, id))
            .await
    }

    /// The device's newest commands, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recent(
        &self,
        device: DeviceKey,
        most: u32,
    ) -> Result<Vec<CommandStatus>, StoreError> {
        self.inner
            .store
            .read(move |conn| rows::recent(conn, device, most))
            .await
    }

    /// Gives up on what is past its time and forgets what was settled long ago; call it every few
    /// seconds. Returns how many expired.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn expire(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let due = self
            .inner
            .store
            .read(move |conn| rows::is_due(conn, now, purge_before(now), MAX_SETTLED))
            .await?;
        if !due {
            return Ok(0);
        }
        let expired = self
            .inner
            .store
            .write(move |conn| {
                let expired = rows::expire(conn, now, BATCH)?;
                rows::purge(conn, purge_before(now), MAX_SETTLED, BATCH)?;
                Ok(expired)
            })
            .await?;
        if !expired.is_empty() {
            tracing::info!(
                count = expired.len(),
                "commands expired before their device took them"
            );
        }
        Ok(expired.len())
    }

    /// Lets `event` happen to each of these and returns those it changed.
    async fn apply_all(
        &self,
        device: DeviceKey,
        mut ids: Vec<MessageId>,
        event: Event,
        now: UnixMillis,
    ) -> Result<Vec<MessageId>, StoreError> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let work = move |conn: &rusqlite::Connection| {
            let mut failed = None;
            ids.retain(
                |id| match rows::apply(conn, device, *id, event, None, now) {
                    Ok(applied) => matches!(applied, Some((_, true))),
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                },
            );
            failed.map_or(Ok(ids), Err)
        };
        self.inner.store.write(work).await
    }
}

impl Inner {
    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Numbers are consistent whatever panicked while they were locked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands")
            .field("rules", &self.inner.rules)
            .finish_non_exhaustive()
    }
}

fn purge_before(now: UnixMillis) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(millis(KEEP_SETTLED)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Visible ASCII, so that it can be logged and compared byte for byte.
fn is_idempotency_key(key: &str) -> bool {
    (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
}

/// Over everything that makes one order differ from another under the same idempotency key.
fn request_digest(order: &Order<'_>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let ttl = order.ttl.map_or(u64::MAX, |ttl| ttl.as_secs());
    context.update(&ttl.to_be_bytes());
    context.update(&order.body);
    let mut request_digest = [0; 32];
    request_digest.copy_from_slice(context.finish().as_ref());
    request_digest
}

fn random() -> Result<[u8; 16], CommandError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| CommandError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
