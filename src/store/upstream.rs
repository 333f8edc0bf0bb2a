//! One upstream: its balance, what it wants, and how one message of it is settled.

use rusqlite::Connection;

use super::{
    Ledger, Outcome, Seq, Settled, StoreError, UpstreamKey, Wanted, letters,
    log::{self, LogEnd},
    segment::Segment,
    settled::{self, SettledSet},
};
use crate::envelope::Kind;

/// From `from` on these kinds were wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Era {
    pub(super) from: Seq,
    pub(super) wanted: Wanted,
}

#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) configured: bool,
    pub(super) settled: SettledSet,
    pub(super) eras: Vec<Era>,
    /// Accepted before the newest era, and the log's totals at its start.
    pub(super) accepted_before: u64,
    pub(super) data_base: u64,
    pub(super) event_base: u64,
    pub(super) delivered: u64,
    pub(super) dead: u64,
    pub(super) expired: u64,
    pub(super) skipped: u64,
    pub(super) parked: u64,
    /// Differs from its row.
    pub(super) changed: bool,
}

impl Upstream {
    pub(super) fn wanted_now(&self) -> Wanted {
        self.eras.last().map_or(
            Wanted {
                data: false,
                events: false,
            },
            |era| era.wanted,
        )
    }

    /// Whether the message was owed to this upstream when it was accepted.
    pub(super) fn wants(&self, seq: Seq, kind: Kind) -> bool {
        let eras = self.eras.partition_point(|era| era.from <= seq);
        eras > 0 && self.eras[eras - 1].wanted.wants(kind)
    }

    pub(super) fn ledger(&self, log: &LogEnd) -> Ledger {
        let wanted = self.wanted_now();
        let mut accepted = self.accepted_before;
        if wanted.data {
            accepted += log.data - self.data_base;
        }
        if wanted.events {
            accepted += log.events - self.event_base;
        }
        let accepted = accepted - self.skipped;
        let owed = accepted - self.delivered - self.dead - self.expired;
        Ledger {
            accepted,
            delivered: self.delivered,
            owed,
            dead: self.dead,
            expired: self.expired,
        }
    }

    /// Owed and still in the log, as opposed to parked.
    pub(super) fn owed_in_log(&self, log: &LogEnd) -> u64 {
        self.ledger(log).owed - self.parked
    }
}

impl Upstream {
    /// A message that left the log: parked, or settled before.
    pub(super) fn settle_parked(
        &mut self,
        conn: &Connection,
        key: UpstreamKey,
        item: &Settled,
    ) -> Result<bool, StoreError> {
        if self.parked == 0 {
            return Ok(false);
        }
        let gone = match &item.outcome {
            Outcome::Parked => return Ok(false),
            Outcome::Dead { status, reason } => {
                letters::bury_parked(conn, key, item.device, item.seq, *status, reason)?
            }
            Outcome::Delivered | Outcome::Skipped | Outcome::Expired => {
                letters::remove_parked(conn, key, item.device, item.seq)?
            }
        };
        if gone {
            self.parked -= 1;
            self.count(&item.outcome);
        }
        Ok(gone)
    }

    pub(super) fn settle_logged(
        &mut self,
        conn: &Connection,
        key: UpstreamKey,
        item: &Settled,
        segment: &mut Option<Segment>,
    ) -> Result<bool, StoreError> {
        if matches!(item.outcome, Outcome::Parked | Outcome::Dead { .. }) {
            let held = segment
                .as_ref()
                .is_some_and(|held| held.first <= item.seq && item.seq <= held.last());
            if !held {
                *segment = log::holding(conn, item.seq)?;
            }
            let mut records = segment.as_ref().map(Segment::records).into_iter().flatten();
            let Some((seq, record)) = records.find(|(seq, _)| *seq == item.seq) else {
                return Err(StoreError::Damaged {
                    seq: item.seq.0,
                    detail: "an owed message is missing".to_owned(),
                });
            };
            if !self.wants(seq, record.kind) {
                return Ok(false);
            }
            letters::keep(conn, key, seq, &record, &item.outcome)?;
        }
        if self.settled.insert(item.seq) {
            self.count(&item.outcome);
        }
        Ok(true)
    }

    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered => self.delivered += 1,
            Outcome::Dead { .. } => self.dead += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::Parked => self.parked += 1,
            Outcome::Expired => self.expired += 1,
        }
    }
}

pub(super) fn encode_eras(eras: &[Era]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for era in eras {
        settled::put(&mut bytes, era.from.0);
        bytes.push(u8::from(era.wanted.data) | u8::from(era.wanted.events) << 1);
    }
    bytes
}

pub(super) fn decode_eras(mut bytes: &[u8]) -> Option<Vec<Era>> {
    let mut eras = Vec::new();
    while !bytes.is_empty() {
        let from = Seq(settled::take(&mut bytes)?);
        let (wanted, rest) = bytes.split_first()?;
        bytes = rest;
        eras.push(Era {
            from,
            wanted: Wanted {
                data: wanted & 1 != 0,
                events: wanted & 2 != 0,
            },
        });
    }
    Some(eras)
}
