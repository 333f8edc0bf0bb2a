//! Merging runs, so that a lookup never has many to probe.

use std::ops::Range;

use super::{
    Entry, HashKey, Pages,
    run::{self, Filter, PIECE_PAGES, Run, RunId, RunRecord, RunState},
};

/// Runs of one level that are merged at once.
const FAN_IN: usize = 4;

/// Runs beyond which neighbours are merged whatever their level.
const MAX_RUNS: usize = 16;

/// A run may cover at most this share of the freshness window (2/5): it is forgotten whole, so what
/// it covers is what is remembered too long.
const SPAN_NUMERATOR: u64 = 2;
const SPAN_DENOMINATOR: u64 = 5;

/// What to merge next: neighbours in age.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    pub(super) runs: Range<usize>,
    pub(super) level: u8,
}

/// Chooses, given the runs oldest first and the freshness window in seconds.
#[must_use]
pub(super) fn plan(runs: &[RunRecord], window: u64) -> Option<Plan> {
    let span = |range: &Range<usize>| {
        let runs = runs.get(range.clone()).unwrap_or_default();
        let first = runs
            .iter()
            .map(|run| run.first_received)
            .min()
            .unwrap_or_default();
        let last = runs
            .iter()
            .map(|run| run.last_received)
            .max()
            .unwrap_or_default();
        last.saturating_sub(first)
    };
    let tier = (0..runs.len().saturating_sub(FAN_IN - 1))
        .map(|from| from..from + FAN_IN)
        .filter(|range| {
            let level = runs[range.start].level;
            runs[range.clone()].iter().all(|run| run.level == level)
                && span(range) * SPAN_DENOMINATOR <= window * SPAN_NUMERATOR
        })
        // Small ones first: they are cheap and there are more of them.
        .min_by_key(|range| runs[range.start].level);
    if let Some(range) = tier {
        let level = runs[range.start].level.saturating_add(1);
        return Some(Plan { runs: range, level });
    }
    if runs.len() <= MAX_RUNS {
        return None;
    }
    (0..runs.len() - 1)
        .map(|from| from..from + 2)
        .min_by_key(|range| {
            runs[range.clone()]
                .iter()
                .map(|run| run.entries)
                .sum::<u64>()
        })
        .map(|range| {
            let level = runs[range.clone()]
                .iter()
                .map(|run| run.level)
                .max()
                .unwrap_or(0);
            Plan { runs: range, level }
        })
}

/// A merge under way, done piece by piece in the order of hashes. It is in memory only: cut short, it
/// starts over from its inputs, which stay in use until it is finished.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) output: RunRecord,
    pub(super) inputs: Vec<RunId>,
    /// Of the pieces that are written.
    pub(super) filters: Vec<Filter>,
}

impl Merge {
    pub(super) fn new(id: RunId, inputs: &[RunRecord], level: u8) -> Self {
        let entries = inputs.iter().map(|run| run.entries).sum();
        let output = RunRecord {
            id,
            state: RunState::Building,
            level,
            entries,
            pages: run::pages_for(entries),
            newest_timestamp: inputs
                .iter()
                .map(|run| run.newest_timestamp)
                .max()
                .unwrap_or(0),
            first_received: inputs
                .iter()
                .map(|run| run.first_received)
                .min()
                .unwrap_or(0),
            last_received: inputs
                .iter()
                .map(|run| run.last_received)
                .max()
                .unwrap_or(0),
        };
        Self {
            output,
            inputs: inputs.iter().map(|run| run.id).collect(),
            filters: Vec::new(),
        }
    }

    pub(super) fn pieces(&self) -> usize {
        run::pieces(&self.output) as usize
    }

    pub(super) fn build_piece<P: Pages>(
        &self,
        pages: &mut P,
        key: &HashKey,
        runs: &[Run],
        piece: usize,
    ) -> Result<Filter, P::Error> {
        let piece = u32::try_from(piece).unwrap_or(u32::MAX);
        let from = piece * PIECE_PAGES;
        let to = from.saturating_add(PIECE_PAGES).min(self.output.pages);
        let wanted = from..to;
        let first = run::first_hash(from, self.output.pages);
        let last = match run::first_hash(to, self.output.pages) {
            u64::MAX => u64::MAX,
            next => next - 1,
        };
        let mut entries: Vec<(u64, Entry)> = Vec::with_capacity(run::PIECE_ENTRIES * 17 / 16);
        for input in runs
            .iter()
            .filter(|run| self.inputs.contains(&run.record.id))
        {
            let record = &input.record;
            let overlap = run::page_of(first, record.pages)..run::page_of(last, record.pages) + 1;
            pages.scan(record.id, overlap, &mut |bytes| {
                run::decode_page(bytes, |entry| {
                    let hash = key.hash(&entry.key);
                    if wanted.contains(&run::page_of(hash, self.output.pages)) {
                        entries.push((hash, entry));
                    }
                })
            })?;
        }
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        run::write_piece(pages, &self.output, piece, entries.into_iter())
    }
}
