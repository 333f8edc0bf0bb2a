//! What counts as already seen.
//!
//! A `message_id` is remembered for as long as its timestamp could still pass the freshness check
//! (`timestamp + window >= now`), exactly, across restarts and power cuts. The newest entries are in
//! memory ([`recent`]) and are rebuilt from the log after a restart; older ones are *sealed* into
//! runs on disk ([`run`]): a static hash table in pages of about 3 KiB, with a binary fuse filter of
//! nine bits per entry in memory. A new message costs a probe of each filter and, in one of 256
//! probes, one page read. Runs are merged in tiers ([`merge`]) so that there are never many, and
//! forgotten whole when the newest timestamp in them can no longer pass.
//!
//! **The clock may jump.** Forgetting at a time that turns out wrong must not open a hole: what was
//! forgotten, up to its newest timestamp, is kept as a watermark, and any message at or below it
//! is refused as stale even if the clock later says it is fresh.
//!
//! All of it runs on the writer's thread and inside the writer's transaction: changes to memory take
//! effect in [`Memory::commit`] and are taken back by [`Memory::rollback`].

mod merge;
mod recent;
mod run;
#[cfg(test)]
mod tests;

use std::ops::Range;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

pub use run::{Filter, FilterError, RunId, RunRecord, RunState, pieces};

use crate::store::DeviceKey;
use merge::Merge;
use recent::Recent;
use run::Run;
use tidegate_wire::MessageId;

/// Who sent what: unique among accepted messages.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Key {
    pub device: DeviceKey,
    pub message_id: MessageId,
}

/// A remembered message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub key: Key,
    /// Keyed hash of the whole message, to tell a re-delivery from a replay.
    pub digest: u64,
}

/// The secret that places entries in tables and filters, so that nobody outside can aim at
/// collisions. One per database.
#[derive(Clone, Copy)]
pub struct HashKey(pub [u8; 16]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl HashKey {
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&key.device.0.to_le_bytes());
        bytes[4..].copy_from_slice(key.message_id.as_bytes());
        hasher.write(&bytes);
        hasher.finish()
    }
}

/// What is known of a message before it is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    Never,
    /// Accepted before; the digest of what was accepted.
    Before(u64),
    /// It may have been accepted and forgotten: not to be accepted.
    Unknowable,
}

/// Where runs live: a database in operation, plain memory in tests. Everything written belongs to
/// the transaction that is under way.
pub trait Pages {
    type Error;
    /// Hands each existing page of `pages` to `each`, in order.
    fn scan(
        &self,
        run: RunId,
        pages: Range<u32>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), FilterError>,
    ) -> Result<(), Self::Error>;
    fn put_page(&mut self, run: RunId, page: u32, bytes: &[u8]) -> Result<(), Self::Error>;
    fn put_filter(&mut self, run: RunId, piece: u32, bytes: &[u8]) -> Result<(), Self::Error>;
    fn remove_pages(&mut self, run: RunId, pages: Range<u32>) -> Result<(), Self::Error>;
    /// Inserts or replaces.
    fn put_run(&mut self, run: &RunRecord) -> Result<(), Self::Error>;
    /// Removes the record and its filters.
    fn remove_run(&mut self, run: RunId) -> Result<(), Self::Error>;
    fn put_state(&mut self, state: State) -> Result<(), Self::Error>;
}

/// What is persisted besides the runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Log position up to which messages are in runs; later ones are rebuilt from the log.
    pub sealed_through: u64,
    /// Newest timestamp among what was forgotten, seconds since 1970.
    pub forgotten_through: u64,
}

/// One step of housekeeping, as seen by [`Memory::maintain`].
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The trusted clock, seconds since 1970.
    pub now: u64,
    /// The log's end including the group under way.
    pub log_end: u64,
    /// Messages remembered in this group; merging keeps pace with them.
    pub added: usize,
    /// Bytes of log held only because they are not sealed yet.
    pub unsealed_bytes: u64,
}

/// How many of the newest entries stay in memory at least before they are sealed: 130 KiB, and at one
/// message per second from 1,000 devices a seal every three seconds.
const RECENT_MIN: usize = 3_072;

/// And at most: sealing is done in one go, about 10 ms for this many.
const RECENT_MAX: usize = 65_536;

/// In between, a 128th of all that is remembered: small beside the filters (nine bits per entry),
/// and fewer merges when the rate is high.
const RECENT_SHARE: u64 = 128;

/// Entries merged for each one accepted. Tiers of four merge an entry about `log4(total / recent)`
/// times, which is less than six for 100 million; above that, merges never fall behind.
const MERGE_PACE: usize = 8;

/// Merge credit is capped so that a burst does not save up for a long stall.
const MERGE_CREDIT_MAX: usize = 4 * run::PIECE_ENTRIES;

/// Pages deleted per group at least from runs that are no longer in use (about 1 MiB); more when more
/// is accepted, as fast as merges write.
const DROP_PAGES: u32 = 256;

/// All that is remembered.
#[derive(Debug)]
pub struct Memory {
    key: HashKey,
    /// Freshness, seconds.
    window: u64,
    /// Seal when this much log is held back by entries that are not sealed.
    max_unsealed_bytes: u64,
    state: State,
    recent: Recent,
    /// Oldest first.
    runs: Vec<Run>,
    merge: Option<Merge>,
    dropping: Vec<(RunRecord, u32)>,
    next_run: u64,
    credit: usize,
    pending: Vec<Change>,
}

/// What a transaction under way will have done to memory once it commits.
#[derive(Debug)]
enum Change {
    State(State),
    ClearRecent,
    Forget(RunId),
    Sealed(Run),
    Started(Merge),
    Piece(Filter),
    Merged,
    DroppedTo(RunId, u32),
    Dropped(RunId),
}

impl Memory {
    /// What was persisted; [`Memory::restore`] adds what the log holds beyond
    /// [`State::sealed_through`].
    #[must_use]
    pub fn new(
        key: HashKey,
        window: u64,
        max_unsealed_bytes: u64,
        state: State,
        records: Vec<(RunRecord, Vec<Filter>)>,
    ) -> Self {
        let next_run = records
            .iter()
            .map(|(record, _)| record.id.0 + 1)
            .max()
            .unwrap_or(1);
        let (mut runs, mut dropping) = (Vec::new(), Vec::new());
        for (record, filters) in records {
            match record.state {
                RunState::Live => runs.push(Run { record, filters }),
                // A merge that was cut short starts over; its inputs are all still there.
                RunState::Building | RunState::Dropping => dropping.push((record, 0)),
            }
        }
        runs.sort_by_key(|run| (run.record.first_received, run.record.id));
        Self {
            key,
            window,
            max_unsealed_bytes,
            state,
            recent: Recent::default(),
            runs,
            merge: None,
            dropping,
            next_run,
            credit: 0,
            pending: Vec::new(),
        }
    }

    /// Remembers a message that the log holds beyond the sealed position; at start.
    pub fn restore(&mut self, entry: Entry, timestamp: u64, received: u64) {
        let hash = self.key.hash(&entry.key);
        self.recent
            .insert(&self.key, hash, entry, timestamp, received);
        self.recent.mark();
    }

    /// Says whether a message was accepted before, and if it never was, remembers it as one of the
    /// group under way.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn admit<P: Pages>(
        &mut self,
        pages: &P,
        entry: Entry,
        timestamp: u64,
        received: u64,
    ) -> Result<Seen, P::Error> {
        if timestamp <= self.state.forgotten_through {
            return Ok(Seen::Unknowable);
        }
        let hash = self.key.hash(&entry.key);
        if let Some(digest) = self.recent.get(hash, &entry.key) {
            return Ok(Seen::Before(digest));
        }
        for run in self.runs.iter().rev() {
            if let Some(digest) = run.get(pages, hash, &entry.key)? {
                return Ok(Seen::Before(digest));
            }
        }
        self.recent
            .insert(&self.key, hash, entry, timestamp, received);
        Ok(Seen::Never)
    }

    /// Forgets, seals, merges and cleans up, a bounded amount of each. Once per group, after its
    /// messages. Says whether everything up to `log_end` is sealed now.
    ///
    /// # Errors
    /// Those of the storage; the transaction must then be rolled back.
    pub fn maintain<P: Pages>(&mut self, pages: &mut P, moment: Moment) -> Result<bool, P::Error> {
        self.forget(pages, moment)?;
        self.seal(pages, moment)?;
        self.advance_merge(pages, moment.added)?;
        self.drop_pages(pages, moment.added)?;
        let sealed = |change: &Change| matches!(change, Change::State(state) if state.sealed_through == moment.log_end);
        Ok(self.pending.iter().any(sealed))
    }

    /// Whether [`Memory::maintain`] has something to do although nothing is being accepted.
    #[must_use]
    pub fn wants_maintenance(&self, now: u64) -> bool {
        !self.dropping.is_empty()
            || self.merge.is_some()
            || self
                .runs
                .iter()
                .any(|run| self.is_old(run.record.newest_timestamp, now))
            || (!self.recent.is_empty() && self.is_old(self.recent.newest_timestamp(), now))
    }

    /// The group is on disk.
    pub fn commit(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::State(state) => self.state = state,
                Change::ClearRecent => self.recent.clear(),
                Change::Forget(id) => {
                    if let Some(at) = self.runs.iter().position(|run| run.record.id == id) {
                        let run = self.runs.remove(at);
                        self.dropping.push((run.record, 0));
                    }
                }
                Change::Sealed(run) => {
                    self.next_run = self.next_run.max(run.record.id.0 + 1);
                    self.runs.push(run);
                }
                Change::Started(merge) => {
                    self.next_run = self.next_run.max(merge.output.id.0 + 1);
                    self.merge = Some(merge);
                }
                Change::Piece(filter) => {
                    if let Some(merge) = &mut self.merge {
                        merge.filters.push(filter);
                    }
                }
                Change::Merged => self.apply_merge(),
                Change::DroppedTo(id, page) => {
                    for (record, at) in &mut self.dropping {
                        if record.id == id {
                            *at = page;
                        }
                    }
                }
                Change::Dropped(id) => self.dropping.retain(|(record, _)| record.id != id),
            }
        }
        self.recent.mark();
    }

    /// The group is not on disk.
    pub fn rollback(&mut self) {
        self.pending.clear();
        self.recent.rollback(&self.key);
    }

    /// Log position up to which the log is no longer needed to remember what was accepted.
    #[must_use]
    pub fn sealed_through(&self) -> u64 {
        self.state.sealed_through
    }

    /// Messages remembered.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.recent.len() as u64 + self.runs.iter().map(|run| run.record.entries).sum::<u64>()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of runs a lookup may have to probe.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Bytes of memory held for remembering.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let filters = |filters: &[Filter]| filters.iter().map(Filter::bytes).sum::<usize>();
        self.recent.bytes()
            + self
                .runs
                .iter()
                .map(|run| filters(&run.filters))
                .sum::<usize>()
            + self
                .merge
                .as_ref()
                .map_or(0, |merge| filters(&merge.filters))
    }

    fn is_old(&self, timestamp: u64, now: u64) -> bool {
        timestamp.saturating_add(self.window) < now
    }

    fn forget<P: Pages>(&mut self, pages: &mut P, moment: Moment) -> Result<(), P::Error> {
        let mut state = self.state;
        let merging = |id| {
            self.merge
                .as_ref()
                .is_some_and(|merge| merge.inputs.contains(&id))
        };
        for run in &self.runs {
            let record = run.record;
            if self.is_old(record.newest_timestamp, moment.now) && !merging(record.id) {
                pages.put_run(&RunRecord {
                    state: RunState::Dropping,
                    ..record
                })?;
                state.forgotten_through = state.forgotten_through.max(record.newest_timestamp);
                self.pending.push(Change::Forget(record.id));
            }
        }
        if !self.recent.is_empty() && self.is_old(self.recent.newest_timestamp(), moment.now) {
            state.forgotten_through = state.forgotten_through.max(self.recent.newest_timestamp());
            state.sealed_through = moment.log_end;
            self.pending.push(Change::ClearRecent);
        }
        self.put_state(pages, state)
    }

    fn put_state<P: Pages>(&mut self, pages: &mut P, state: State) -> Result<(), P::Error> {
        if state != self.state {
            pages.put_state(state)?;
            self.pending.push(Change::State(state));
        }
        Ok(())
    }

    fn seal<P: Pages>(&mut self, pages: &mut P, moment: Moment) -> Result<(), P::Error> {
        let share = usize::try_from(self.len() / RECENT_SHARE).unwrap_or(RECENT_MAX);
        let due = self.recent.len() >= share.clamp(RECENT_MIN, RECENT_MAX)
            || moment.unsealed_bytes >= self.max_unsealed_bytes;
        if !due
            || self
                .pending
                .iter()
                .any(|change| matches!(change, Change::ClearRecent))
        {
            return Ok(());
        }
        // Forgetting may have raised the watermark in this same transaction.
        let mut state = self
            .pending
            .iter()
            .rev()
            .find_map(|change| {
                if let Change::State(state) = change {
                    Some(*state)
                } else {
                    None
                }
            })
            .unwrap_or(self.state);
        state.sealed_through = moment.log_end;
        if !self.recent.is_empty() {
            let id = RunId(self.next_run);
            let run = run::write(pages, &self.key, id, &self.recent)?;
            pages.put_run(&run.record)?;
            self.pending.push(Change::Sealed(run));
            self.pending.push(Change::ClearRecent);
        }
        self.put_state(pages, state)
    }

    fn advance_merge<P: Pages>(&mut self, pages: &mut P, added: usize) -> Result<(), P::Error> {
        // When nothing is accepted there is time.
        let earned = if added == 0 {
            run::PIECE_ENTRIES
        } else {
            added * MERGE_PACE
        };
        self.credit = (self.credit + earned).min(MERGE_CREDIT_MAX);
        // Runs that change hands in this transaction are left alone until it is committed.
        let settled = !self
            .pending
            .iter()
            .any(|change| matches!(change, Change::Forget(_) | Change::Sealed(_)));
        let Some(merge) = &self.merge else {
            let records: Vec<RunRecord> = self.runs.iter().map(|run| run.record).collect();
            if let (true, Some(plan)) = (settled, merge::plan(&records, self.window)) {
                let merge = Merge::new(RunId(self.next_run), &records[plan.runs], plan.level);
                pages.put_run(&merge.output)?;
                self.pending.push(Change::Started(merge));
            }
            return Ok(());
        };
        let mut done = 0;
        while self.credit >= run::PIECE_ENTRIES && merge.filters.len() + done < merge.pieces() {
            let piece = merge.filters.len() + done;
            let filter = merge.build_piece(pages, &self.key, &self.runs, piece)?;
            self.pending.push(Change::Piece(filter));
            self.credit -= run::PIECE_ENTRIES;
            done += 1;
        }
        if merge.filters.len() + done == merge.pieces() {
            for run in self
                .runs
                .iter()
                .filter(|run| merge.inputs.contains(&run.record.id))
            {
                pages.put_run(&RunRecord {
                    state: RunState::Dropping,
                    ..run.record
                })?;
            }
            pages.put_run(&RunRecord {
                state: RunState::Live,
                ..merge.output
            })?;
            self.pending.push(Change::Merged);
        }
        Ok(())
    }

    fn apply_merge(&mut self) {
        let Some(merge) = self.merge.take() else {
            return;
        };
        let at = self
            .runs
            .iter()
            .position(|run| merge.inputs.contains(&run.record.id));
        let (old, mut kept): (Vec<Run>, Vec<Run>) = self
            .runs
            .drain(..)
            .partition(|run| merge.inputs.contains(&run.record.id));
        self.dropping
            .extend(old.into_iter().map(|run| (run.record, 0)));
        let record = RunRecord {
            state: RunState::Live,
            ..merge.output
        };
        kept.insert(
            at.unwrap_or(0).min(kept.len()),
            Run {
                record,
                filters: merge.filters,
            },
        );
        self.runs = kept;
    }

    fn drop_pages<P: Pages>(&mut self, pages: &mut P, added: usize) -> Result<(), P::Error> {
        let Some((record, from)) = self.dropping.first() else {
            return Ok(());
        };
        let pace = run::pages_for((added * MERGE_PACE) as u64).max(DROP_PAGES);
        let to = from.saturating_add(pace).min(record.pages);
        pages.remove_pages(record.id, *from..to)?;
        if to == record.pages {
            pages.remove_run(record.id)?;
            self.pending.push(Change::Dropped(record.id));
        } else {
            self.pending.push(Change::DroppedTo(record.id, to));
        }
        Ok(())
    }
}
