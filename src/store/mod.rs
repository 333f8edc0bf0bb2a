//! The only SQL in the gateway. One writer thread owns the database and commits in groups; readers
//! have connections of their own.
//!
//! What is accepted goes into an append-only log of *segments* ([`segment`] says why and how): one
//! row per commit, holding all messages of that group, so that a durable acknowledgement stays cheap
//! under load. What an upstream has settled is a position in that log plus the few exceptions beyond
//! it ([`outbox`]); what must not be accepted again is remembered beside it ([`crate::replay`],
//! [`seen`]). A segment is deleted when every upstream has settled all of it and nothing remembered
//! has to be rebuilt from it; with no upstream at all, messages are owed to nobody and only the
//! second holds.
//!
//! Three threads: the [`Writer`], which alone writes; the [`Checkpointer`], which moves the WAL into
//! the database behind its back; and whoever reads, on a pool of read-only connections.

mod api;
pub mod backup;
mod batch;
mod budget;
mod checkpoint;
mod error;
mod gather;
mod group;
mod letters;
mod log;
mod message;
mod metrics;
mod open;
mod outbox;
mod owed;
mod readers;
mod schema;
mod seen;
mod segment;
mod settled;
mod upstream;
mod wal;
mod writer;

pub mod audit;
pub mod commands;
pub mod devices;
pub mod keys;
pub mod sessions;

#[cfg(test)]
mod tests;

pub use api::Store;
pub use batch::Batch;
pub use checkpoint::Checkpointer;
pub use error::{IngestError, OpenError, StoreError};
pub use message::{
    DeadFilter, DeadLetter, DurableReply, Ledger, LedgerCheck, Message, Outcome, ParkedDevice,
    Settled, UpstreamInfo, Verdict, Wanted,
};
pub use metrics::StoreMetrics;
pub use open::{Opened, Options};
pub use writer::Writer;

/// The database's name in the state folder.
pub const DATABASE: &str = "tidegate.db";

/// Position of an accepted message in the log: 1, 2, 3 … in the order of commits.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

/// The registry's number for a device: never reused, smaller than its id in every table.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceKey(pub u32);

/// The number of an upstream's row; its name in the configuration stays with it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamKey(pub u32);

/// A number as SQLite stores it. Positions, counters and times stay far below 2^63.
fn db(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as SQLite stored it; what [`db`] wrote is never negative.
fn un(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
