//! What the store counts.

use crate::metrics::{Counter, Gauge};

/// Plain atomics, updated once per group.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Group commits that reached the disk, and those that did not.
    pub commits: Counter,
    pub failed_commits: Counter,
    /// Time spent in COMMIT (which is the fsync), and in all of a group, microseconds.
    pub commit_micros: Counter,
    pub group_micros: Counter,
    /// The slowest COMMIT since the start, microseconds.
    pub slowest_commit_micros: Gauge,
    /// Requests taken into groups.
    pub requests: Counter,
    pub stored_messages: Counter,
    pub stored_bytes: Counter,
    pub duplicates: Counter,
    pub replayed: Counter,
    /// Refused because they are as old as what was forgotten while the clock was ahead.
    pub unknowable: Counter,
    /// Batches refused because the budget or the disk is full.
    pub refused_batches: Counter,
    /// 1 while the budget or the disk is full.
    pub full: Gauge,
    /// Bytes of database and WAL in use, as held against the budget.
    pub disk_bytes: Gauge,
    pub disk_budget_bytes: Gauge,
    pub wal_bytes: Gauge,
    pub checkpoints: Counter,
    /// Checkpoints the writer had to do itself because the WAL reached its hard limit.
    pub forced_checkpoints: Counter,
    pub pruned_segments: Counter,
    /// Messages remembered against replay, what that takes in memory, and the runs on disk.
    pub remembered: Gauge,
    pub remembered_memory_bytes: Gauge,
    pub remembered_runs: Gauge,
    /// Messages given up on because of `storage.max_age` or `discard_oldest`.
    pub expired: Counter,
}
