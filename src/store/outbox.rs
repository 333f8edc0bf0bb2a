//! What each upstream has settled, and its balance.
//!
//! Settling thousands of messages is one row: a position, ranges beyond it and counters. The counter
//! of accepted messages is not even that: it is the log's running total since the upstream began, so
//! accepting costs upstreams nothing. The writer keeps this in memory and writes the rows that
//! changed once per group; everybody else sees the state of the last commit.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Ledger, Seq, Settled, StoreError, UpstreamInfo, UpstreamKey, Wanted, db, letters,
    log::{self, LogEnd},
    sessions,
    settled::SettledSet,
    un,
    upstream::{Era, Upstream, decode_eras, encode_eras},
};
use crate::clock::UnixMillis;

/// All upstreams and the log's end; cloning shares.
#[derive(Clone, Debug, Default)]
pub(super) struct Upstreams {
    pub(super) log: LogEnd,
    rows: BTreeMap<UpstreamKey, Arc<Upstream>>,
}

impl Upstreams {
    pub(super) fn load(conn: &Connection) -> Result<Self, StoreError> {
        let log = log::end(conn)?;
        let mut statement = conn.prepare(
            "SELECT key, name, configured, position, settled, eras, accepted_before, data_base,
             event_base, delivered, dead, expired, skipped, parked FROM upstream",
        )?;
        let mut rows = statement.query([])?;
        let mut upstreams = Self {
            log,
            rows: BTreeMap::new(),
        };
        while let Some(row) = rows.next()? {
            let position = Seq(un(row.get(3)?));
            let damaged = || StoreError::Damaged {
                seq: position.0,
                detail: "what an upstream has settled cannot be read".to_owned(),
            };
            if position > log.end {
                return Err(damaged());
            }
            let upstream = Upstream {
                name: row.get(1)?,
                configured: row.get(2)?,
                settled: SettledSet::decode(
                    position,
                    row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?,
                )
                .map_err(|_| damaged())?,
                eras: decode_eras(row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?)
                    .ok_or_else(damaged)?,
                accepted_before: un(row.get(6)?),
                data_base: un(row.get(7)?),
                event_base: un(row.get(8)?),
                delivered: un(row.get(9)?),
                dead: un(row.get(10)?),
                expired: un(row.get(11)?),
                skipped: un(row.get(12)?),
                parked: un(row.get(13)?),
                changed: false,
            };
            upstreams
                .rows
                .insert(UpstreamKey(row.get(0)?), Arc::new(upstream));
        }
        upstreams.settle_debtless();
        Ok(upstreams)
    }

    pub(super) fn get(&self, key: UpstreamKey) -> Option<&Arc<Upstream>> {
        self.rows.get(&key)
    }

    fn change(&mut self, key: UpstreamKey) -> Result<&mut Upstream, StoreError> {
        let row = self.rows.get_mut(&key).ok_or(StoreError::NoSuchUpstream)?;
        let row = Arc::make_mut(row);
        row.changed = true;
        Ok(row)
    }

    pub(super) fn ledger(&self, key: UpstreamKey) -> Option<Ledger> {
        self.rows.get(&key).map(|row| row.ledger(&self.log))
    }

    pub(super) fn list(&self) -> Vec<UpstreamInfo> {
        let info = |(key, row): (&UpstreamKey, &Arc<Upstream>)| UpstreamInfo {
            key: *key,
            name: row.name.clone(),
            configured: row.configured,
            position: row.settled.position(),
            ledger: row.ledger(&self.log),
            parked: row.parked,
        };
        self.rows.iter().map(info).collect()
    }

    /// Position up to which no upstream needs the log.
    pub(super) fn floor(&self) -> Seq {
        let positions = self.rows.values().map(|row| row.settled.position());
        positions.min().unwrap_or(self.log.end)
    }

    /// Who is owed something in the log has a position; for the others it is the log's end, so that
    /// messages owed to nobody do not keep the log. In memory only: a start does it again.
    pub(super) fn settle_debtless(&mut self) {
        for row in self.rows.values_mut() {
            if row.settled.position() < self.log.end && row.owed_in_log(&self.log) == 0 {
                Arc::make_mut(row).settled = SettledSet::at(self.log.end);
            }
        }
    }

    /// Writes the rows that changed.
    pub(super) fn save(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for (key, row) in &mut self.rows {
            if !row.changed {
                continue;
            }
            let row = Arc::make_mut(row);
            conn.prepare_cached(
                "UPDATE upstream SET configured = ?2, position = ?3, settled = ?4, eras = ?5,
                 accepted_before = ?6, data_base = ?7, event_base = ?8, delivered = ?9, dead = ?10,
                 expired = ?11, skipped = ?12, parked = ?13 WHERE key = ?1",
            )?
            .execute(params![
                key.0,
                row.configured,
                db(row.settled.position().0),
                row.settled.encode_ranges(),
                encode_eras(&row.eras),
                db(row.accepted_before),
                db(row.data_base),
                db(row.event_base),
                db(row.delivered),
                db(row.dead),
                db(row.expired),
                db(row.skipped),
                db(row.parked),
            ])?;
            row.changed = false;
        }
        Ok(())
    }

    /// Makes the rows match the configuration; see `Store::upstreams`.
    pub(super) fn reconcile(
        &mut self,
        conn: &Connection,
        names: &[(String, Wanted)],
    ) -> Result<Vec<UpstreamKey>, StoreError> {
        let gone: Vec<UpstreamKey> = self
            .rows
            .iter()
            .filter(|(_, row)| row.configured && !names.iter().any(|(name, _)| *name == row.name))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            // Its debts stay; new messages are not owed to it any more.
            self.begin_era(
                key,
                Wanted {
                    data: false,
                    events: false,
                },
            )?;
            self.change(key)?.configured = false;
        }
        names
            .iter()
            .map(|(name, wanted)| {
                let known = self.rows.iter().find(|(_, row)| row.name == *name);
                let key = match known.map(|(key, _)| *key) {
                    Some(key) => key,
                    None => self.create(conn, name)?,
                };
                self.begin_era(key, *wanted)?;
                if !self.rows.get(&key).is_some_and(|row| row.configured) {
                    self.change(key)?.configured = true;
                }
                Ok(key)
            })
            .collect()
    }

    fn create(&mut self, conn: &Connection, name: &str) -> Result<UpstreamKey, StoreError> {
        conn.execute(
            "INSERT INTO upstream (name, configured, position, settled, eras, accepted_before,
             data_base, event_base, delivered, dead, expired, skipped, parked)
             VALUES (?1, 1, ?2, x'', x'', 0, 0, 0, 0, 0, 0, 0, 0)",
            params![name, db(self.log.end.0)],
        )?;
        let key = UpstreamKey(u32::try_from(conn.last_insert_rowid()).unwrap_or(u32::MAX));
        let row = Upstream {
            name: name.to_owned(),
            configured: true,
            settled: SettledSet::at(self.log.end),
            eras: Vec::new(),
            accepted_before: 0,
            data_base: 0,
            event_base: 0,
            delivered: 0,
            dead: 0,
            expired: 0,
            skipped: 0,
            parked: 0,
            changed: true,
        };
        self.rows.insert(key, Arc::new(row));
        Ok(key)
    }

    /// From the next message on, `wanted` is what this upstream is owed.
    fn begin_era(&mut self, key: UpstreamKey, wanted: Wanted) -> Result<(), StoreError> {
        let log = self.log;
        if self
            .rows
            .get(&key)
            .is_some_and(|row| row.wanted_now() == wanted)
        {
            return Ok(());
        }
        let row = self.change(key)?;
        row.accepted_before = row.ledger(&log).accepted + row.skipped;
        row.data_base = log.data;
        row.event_base = log.events;
        let from = Seq(log.end.0 + 1);
        // Eras that nothing unsettled is left of say nothing any more.
        let position = row.settled.position();
        let current = row.eras.partition_point(|era| era.from.0 <= position.0 + 1);
        row.eras.drain(..current.saturating_sub(1));
        row.eras.retain(|era| era.from != from);
        row.eras.push(Era { from, wanted });
        Ok(())
    }

    /// Forgets an upstream with its debts and dead letters.
    pub(super) fn remove(&mut self, conn: &Connection, key: UpstreamKey) -> Result<(), StoreError> {
        self.rows.remove(&key).ok_or(StoreError::NoSuchUpstream)?;
        letters::remove_all(conn, key)?;
        conn.execute("DELETE FROM upstream WHERE key = ?1", [key.0])?;
        Ok(())
    }

    /// Settles; returns the queue ids of the replies, in order, 0 for one that could not be queued.
    pub(super) fn settle(
        &mut self,
        conn: &Connection,
        key: UpstreamKey,
        items: &[Settled],
        unwanted: &[Seq],
    ) -> Result<Vec<i64>, StoreError> {
        let end = self.log.end;
        let row = self.change(key)?;
        for seq in unwanted {
            row.settled.insert(*seq);
        }
        let mut replies = Vec::new();
        let mut segment = None;
        for item in items {
            let settled = if item.seq > end {
                false
            } else if row.settled.contains(item.seq) {
                row.settle_parked(conn, key, item)?
            } else {
                row.settle_logged(conn, key, item, &mut segment)?
            };
            if let Some(reply) = &item.reply {
                // A reply to a session that is gone is nobody's: 0 as well.
                replies.push(if settled {
                    sessions::enqueue(conn, reply.session, reply.qos, &reply.topic, &reply.payload)?
                } else {
                    0
                });
            }
        }
        Ok(replies)
    }

    /// Gives up on what is older than `cutoff`, of every upstream, a bounded amount. Returns how many
    /// messages, and whether there may be more.
    pub(super) fn expire(
        &mut self,
        conn: &Connection,
        cutoff: UnixMillis,
    ) -> Result<(u64, bool), StoreError> {
        /// Segments looked into per call: keeps a group short.
        const MOST_SEGMENTS: u32 = 32;
        let (mut expired, mut looked) = (0, 0);
        let keys: Vec<UpstreamKey> = self.rows.keys().copied().collect();
        for key in keys {
            if self.rows.get(&key).is_some_and(|row| row.parked > 0) {
                let gone = letters::expire_parked(conn, key, cutoff)?;
                if gone > 0 {
                    let row = self.change(key)?;
                    row.parked -= gone;
                    row.expired += gone;
                    expired += gone;
                }
            }
            while let Some(position) = self.rows.get(&key).map(|row| row.settled.position()) {
                match log::age_after(conn, position)? {
                    Some((_, newest)) if newest < cutoff => {}
                    _ => break,
                }
                if looked == MOST_SEGMENTS {
                    return Ok((expired, true));
                }
                looked += 1;
                expired += self.expire_segment(conn, key)?;
            }
        }
        Ok((expired, false))
    }

    /// Gives up on the oldest thing owed by anybody: a segment's worth or some parked messages.
    /// Returns how many messages; 0 if nothing is owed.
    pub(super) fn discard_oldest(&mut self, conn: &Connection) -> Result<u64, StoreError> {
        /// Parked messages given up on at once.
        const MOST_PARKED: u32 = 256;
        let mut oldest: Option<(Seq, UpstreamKey, bool)> = None;
        for (key, row) in &self.rows {
            let logged = (row.owed_in_log(&self.log) > 0).then(|| row.settled.position());
            let parked = if row.parked > 0 {
                letters::oldest_parked(conn, *key)?
            } else {
                None
            };
            for (seq, parked) in [(logged, false), (parked, true)] {
                if let Some(seq) = seq
                    && oldest.is_none_or(|(other, ..)| seq < other)
                {
                    oldest = Some((seq, *key, parked));
                }
            }
        }
        match oldest {
            None => Ok(0),
            Some((_, key, false)) => self.expire_segment(conn, key),
            Some((_, key, true)) => {
                let gone = letters::discard_parked(conn, key, MOST_PARKED)?;
                let row = self.change(key)?;
                row.parked -= gone;
                row.expired += gone;
                Ok(gone)
            }
        }
    }

    fn expire_segment(&mut self, conn: &Connection, key: UpstreamKey) -> Result<u64, StoreError> {
        let row = self.change(key)?;
        let Some(segment) = log::after(conn, row.settled.position())? else {
            return Ok(0);
        };
        let owed = segment
            .records()
            .filter(|(seq, record)| row.wants(*seq, record.kind) && !row.settled.contains(*seq))
            .count() as u64;
        row.expired += owed;
        row.settled.advance(segment.last());
        Ok(owed)
    }

    /// Owes dead letters again, or gives up on them. Returns how many.
    pub(super) fn revive(
        &mut self,
        conn: &Connection,
        key: UpstreamKey,
        filter: super::DeadFilter,
    ) -> Result<u64, StoreError> {
        let row = self.change(key)?;
        let count = letters::revive(conn, key, filter)?;
        row.dead -= count;
        row.parked += count;
        Ok(count)
    }

    pub(super) fn bury(
        &mut self,
        conn: &Connection,
        key: UpstreamKey,
        filter: super::DeadFilter,
    ) -> Result<u64, StoreError> {
        let row = self.change(key)?;
        let count = letters::drop_dead(conn, key, filter)?;
        row.dead -= count;
        row.expired += count;
        Ok(count)
    }
}

/// What a scan of the tables finds owed; see [`super::LedgerCheck`].
pub(super) fn check(conn: &Connection, key: UpstreamKey) -> Result<super::LedgerCheck, StoreError> {
    let upstreams = Upstreams::load(conn)?;
    let row = upstreams.get(key).ok_or(StoreError::NoSuchUpstream)?;
    let mut owed_in_log = 0;
    log::each_after(conn, row.settled.position(), |seq, record| {
        if row.wants(seq, record.kind) && !row.settled.contains(seq) {
            owed_in_log += 1;
        }
    })?;
    let count = |sql: &str| {
        conn.query_row(sql, [key.0], |row| row.get(0))
            .optional()
            .map(|count| un(count.unwrap_or(0)))
    };
    Ok(super::LedgerCheck {
        ledger: row.ledger(&upstreams.log),
        owed_in_log,
        parked: count("SELECT count(*) FROM parked WHERE upstream = ?1")?,
        dead: count("SELECT count(*) FROM dead WHERE upstream = ?1")?,
    })
}
