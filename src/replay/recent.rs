//! The newest entries, in memory.

use super::{Entry, HashKey, Key};

/// An insertion-ordered set: entries end to end, and an open-addressing index of their positions.
/// Thirty-two bytes per entry and six to eleven of index. Entries of a group that failed are taken back in
/// reverse order, which with linear probing leaves no holes that matter.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: Vec<Entry>,
    /// Position + 1 in `entries`; 0 is free. A power of two long, at most three quarters full.
    index: Vec<u32>,
    bounds: Bounds,
    committed: Mark,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    newest_timestamp: u64,
    first_received: u64,
    last_received: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    entries: usize,
    bounds: Bounds,
}

const SMALLEST_INDEX: usize = 64;

/// Entries that are made room for at once, at least.
const GROWTH: usize = 512;

impl Recent {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn newest_timestamp(&self) -> u64 {
        self.bounds.newest_timestamp
    }

    pub(super) fn received(&self) -> (u64, u64) {
        (self.bounds.first_received, self.bounds.last_received)
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.index.capacity() * size_of::<u32>()
    }

    pub(super) fn get(&self, hash: u64, key: &Key) -> Option<u64> {
        if self.index.is_empty() {
            return None;
        }
        let mut slot = self.slot(hash);
        loop {
            let position = *self.index.get(slot)?;
            let entry = self.entries.get((position as usize).checked_sub(1)?)?;
            if entry.key == *key {
                return Some(entry.digest);
            }
            slot = (slot + 1) & (self.index.len() - 1);
        }
    }

    /// `hash` is that of `entry`.
    pub(super) fn insert(
        &mut self,
        key: &HashKey,
        hash: u64,
        entry: Entry,
        timestamp: u64,
        received: u64,
    ) {
        if self.entries.is_empty() {
            self.bounds = Bounds {
                newest_timestamp: timestamp,
                first_received: received,
                last_received: received,
            };
        } else {
            let bounds = &mut self.bounds;
            bounds.newest_timestamp = bounds.newest_timestamp.max(timestamp);
            bounds.first_received = bounds.first_received.min(received);
            bounds.last_received = bounds.last_received.max(received);
        }
        if self.entries.len() == self.entries.capacity() {
            // Doubling would double what is held for good at the ordinary rate.
            self.entries
                .reserve_exact(GROWTH.max(self.entries.len() / 4));
        }
        self.entries.push(entry);
        if self.entries.len() * 4 > self.index.len() * 3 {
            self.reindex(key);
        } else {
            self.place(hash, self.entries.len());
        }
    }

    /// Everything so far stays.
    pub(super) fn mark(&mut self) {
        self.committed = Mark {
            entries: self.entries.len(),
            bounds: self.bounds,
        };
    }

    /// Takes back what came after the mark.
    pub(super) fn rollback(&mut self, key: &HashKey) {
        while self.entries.len() > self.committed.entries {
            let position = self.entries.len();
            let Some(entry) = self.entries.pop() else {
                break;
            };
            let mut slot = self.slot(key.hash(&entry.key));
            while let Some(found) = self.index.get_mut(slot) {
                if *found as usize == position {
                    *found = 0;
                    break;
                }
                slot = (slot + 1) & (self.index.len() - 1);
            }
        }
        self.bounds = self.committed.bounds;
    }

    /// Forgets everything, and gives memory back after a burst.
    pub(super) fn clear(&mut self) {
        if self.index.len() > 4 * super::RECENT_MIN {
            *self = Self::default();
        } else {
            self.entries.clear();
            self.index.fill(0);
            self.bounds = Bounds::default();
            self.mark();
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "only the low bits are wanted"
    )]
    fn slot(&self, hash: u64) -> usize {
        // Runs use the high bits.
        (hash as usize) & (self.index.len() - 1)
    }

    fn place(&mut self, hash: u64, position: usize) {
        let mut slot = self.slot(hash);
        while let Some(found) = self.index.get_mut(slot) {
            if *found == 0 {
                *found = u32::try_from(position).unwrap_or(u32::MAX);
                return;
            }
            slot = (slot + 1) & (self.index.len() - 1);
        }
    }

    fn reindex(&mut self, key: &HashKey) {
        let length = (self.entries.len() * 2)
            .next_power_of_two()
            .max(SMALLEST_INDEX);
        self.index.clear();
        self.index.resize(length, 0);
        for position in 0..self.entries.len() {
            let hash = key.hash(&self.entries[position].key);
            self.place(hash, position + 1);
        }
    }
}
