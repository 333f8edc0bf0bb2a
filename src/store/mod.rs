//! The only SQL in the gateway. One writer thread owns the database and commits in groups; readers
//! have connections of their own.
//!
//! What is accepted goes into an append-only log of *segments*: one row per commit, holding all
//! messages of that group, so that a durable acknowledgement stays cheap under load. What an
//! upstream has settled is a position in that log plus the few exceptions beyond it
//! ([`crate::outbox`]); what must not be accepted again is remembered beside it ([`crate::replay`]).

/// Position of an accepted message in the log: 1, 2, 3 … in the order of commits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

/// The registry's number for a device: never reused, smaller than its id in every table.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceKey(pub u32);

/// The number of an upstream's row; its name in the configuration stays with it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamKey(pub u32);

mod budget;
mod log;
mod writer;

use std::{future::Future, path::PathBuf, sync::Arc};

use tidegate_wire::{DeviceId, MessageId};

use crate::{
    clock::UnixMillis,
    envelope::{Kind, Verified},
    metrics::Metrics,
};

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; its WAL and lock live beside it.
    pub path: PathBuf,
    pub disk_budget_bytes: u64,
    pub when_full: crate::config::WhenFull,
    pub commit_delay: std::time::Duration,
    pub freshness: std::time::Duration,
    pub max_age: Option<std::time::Duration>,
}

/// The open database. Cheap to clone; every clone speaks to the same writer thread.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<()>,
}

/// Messages of one connection on their way to disk, in the order they came. Reused buffers: payload
/// bytes lie end to end in one allocation.
#[derive(Debug, Default)]
pub struct Batch {}

/// What became of one message of a [`Batch`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Committed under this position.
    Stored(Seq),
    /// The same bytes again, with the DUP flag: acknowledge, nothing new stored.
    Duplicate,
    /// This `message_id` was accepted before.
    Replayed,
}

/// Why a batch is not on disk. None of its messages may be acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IngestError {
    #[error("the disk budget is used up; raise storage.disk_budget or let an upstream catch up")]
    Full,
    #[error("the database could not be written; the log says why")]
    Failed,
    #[error("the gateway is stopping")]
    Stopping,
}

/// A failed write or read outside the hot path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the disk budget is used up; raise storage.disk_budget or let an upstream catch up")]
    Full,
    #[error("the gateway is stopping")]
    Stopping,
}

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another tidegate; stop it first, or choose another state_dir")]
    InUse { path: PathBuf },
    #[error("{path} was written by a newer tidegate (schema {found}, this one knows {known}); install that version or restore a backup")]
    FromTheFuture { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is damaged ({detail}); it is kept as it is: restore a backup, or move it away to start empty")]
    Damaged { path: PathBuf, detail: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Sql { path: PathBuf, source: rusqlite::Error },
}

impl Batch {
    /// Takes a verified message; only these can be stored. `dup` is the PUBLISH packet's DUP flag.
    pub fn push(&mut self, message: &Verified<'_>, dup: bool) {
        todo!()
    }
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// Bytes of payload held.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}

/// A message as an upstream gets it.
#[derive(Clone, Debug)]
pub struct Message {
    pub seq: Seq,
    pub device: DeviceKey,
    pub kind: Kind,
    pub message_id: MessageId,
    /// When the device signed it, seconds since 1970.
    pub timestamp: u64,
    pub received_at: UnixMillis,
    /// The payload as the device wrote it.
    pub payload: bytes::Bytes,
}

/// What became of one message at one upstream.
#[derive(Clone, Debug)]
pub enum Outcome {
    Delivered,
    /// Refused for good: kept with the reason until someone retries or drops it.
    Dead { status: Option<u16>, reason: String },
    /// Not for this upstream (its kind is not wanted).
    Skipped,
    /// Taken out of the log's order to wait on its own, so that one device's trouble holds back no
    /// other. Stays owed.
    Parked,
    /// Given up on because of `storage.max_age` or `discard_oldest`.
    Expired,
}

/// A reply for a device that goes into its session's durable queue in the same commit that settles
/// the message it answers.
#[derive(Clone, Debug)]
pub struct DurableReply {
    pub session: sessions::SessionKey,
    pub qos: u8,
    pub topic: String,
    pub payload: bytes::Bytes,
}

#[derive(Clone, Debug)]
pub struct Settled {
    pub seq: Seq,
    pub device: DeviceKey,
    pub outcome: Outcome,
    pub reply: Option<DurableReply>,
}

/// One upstream's balance: `accepted == delivered + owed + dead + expired`, always.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ledger {
    pub accepted: u64,
    pub delivered: u64,
    pub owed: u64,
    pub dead: u64,
    pub expired: u64,
}

impl Store {
    /// Opens or creates the database and starts nothing: `run_writer` is the writer thread's body.
    pub fn open(options: &Options, metrics: Arc<Metrics>, now: UnixMillis) -> Result<(Store, writer::Writer), OpenError> {
        todo!()
    }

    /// Hands a batch to the writer. The answer comes after the commit, one verdict per message, in
    /// order. Waits for room in the bounded queue.
    pub async fn ingest(&self, batch: Batch) -> Result<Vec<Verdict>, IngestError> {
        todo!()
    }

    /// Runs `work` inside the next group commit, in a savepoint of its own, and answers after the
    /// commit.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T, StoreError>> + Send {
        async { todo!() }
    }

    /// [`Store::write`] for threads without a runtime.
    pub fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        todo!()
    }

    /// Runs `work` on a reader's connection (a consistent snapshot); blocks.
    pub fn read_blocking<T>(&self, work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        todo!()
    }

    /// [`Store::read_blocking`] off the runtime's threads.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        todo!()
    }
}
