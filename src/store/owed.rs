//! What forwarders call: what an upstream is owed, and what became of it. Blocking.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    DeadFilter, DeadLetter, DeviceKey, Ledger, LedgerCheck, Message, ParkedDevice, Seq, Settled,
    Store, StoreError, UpstreamInfo, UpstreamKey, Wanted,
    api::block_on,
    letters, log, outbox,
    segment::{Cursor, Record, Segment},
    upstream::Upstream,
};
use crate::clock::UnixMillis;

/// Positions not wanted by an upstream that wait to be settled with the next thing it settles.
const UNWANTED_MAX: usize = 4_096;

/// How long the state may be behind a commit that a reader sees already: far less than this.
const SHOWN_TRIES: u32 = 50;
const SHOWN_PAUSE: Duration = Duration::from_millis(20);

/// Where an upstream's reading of the log goes on, so that a segment is read once.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The `after` this continues.
    after: Seq,
    segment: Option<(Arc<Segment>, Cursor)>,
}

/// Messages being read, up to a limit.
#[derive(Debug, Default)]
struct Piece {
    max_messages: usize,
    max_bytes: usize,
    bytes: usize,
    full: bool,
    messages: Vec<Message>,
    unwanted: Vec<Seq>,
}

impl Piece {
    /// False if there is no room.
    fn take(&mut self, seq: Seq, record: &Record<'_>) -> bool {
        let bytes = self.bytes + record.payload.len();
        self.full = self.messages.len() >= self.max_messages
            || (!self.messages.is_empty() && bytes > self.max_bytes);
        if !self.full {
            self.bytes = bytes;
            self.messages.push(record.to_message(seq));
        }
        !self.full
    }
}

impl Store {
    /// Makes the upstreams known to the store match the configuration; keys in the order of `names`. A
    /// new one starts at the log's end; one that left keeps its debts, shown as not configured, until
    /// [`Store::remove_upstream`]. What is wanted changes for messages accepted from now on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn upstreams(&self, names: &[(String, Wanted)]) -> Result<Vec<UpstreamKey>, StoreError> {
        let names = names.to_vec();
        block_on(self.job(Box::new(move |conn, state| state.reconcile(conn, &names))))
    }

    /// Forgets an upstream, what it is owed and its dead letters.
    ///
    /// # Errors
    /// [`StoreError::NoSuchUpstream`], or when the database cannot be written.
    pub fn remove_upstream(&self, upstream: UpstreamKey) -> Result<(), StoreError> {
        block_on(self.job(Box::new(move |conn, state| state.remove(conn, upstream))))?;
        self.places().remove(&upstream);
        Ok(())
    }

    /// All upstreams as of the last commit, those that left the configuration included.
    #[must_use]
    pub fn list_upstreams(&self) -> Vec<UpstreamInfo> {
        self.inner.state().list()
    }

    /// Everything at or below is settled, as of the last commit.
    #[must_use]
    pub fn position(&self, upstream: UpstreamKey) -> Option<Seq> {
        self.inner
            .state()
            .get(upstream)
            .map(|row| row.settled.position())
    }

    #[must_use]
    pub fn ledger(&self, upstream: UpstreamKey) -> Option<Ledger> {
        self.inner.state().ledger(upstream)
    }

    /// The ledger beside a count of everything; reads the whole log.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn verify_ledger(&self, upstream: UpstreamKey) -> Result<LedgerCheck, StoreError> {
        self.inner
            .readers
            .read(|conn| outbox::check(conn, upstream))
    }

    /// What `upstream` is owed after `after`, in order, without what is settled or parked: at most
    /// `max_messages`, and no more than `max_bytes` of payload beyond the first.
    ///
    /// Memory and cost per message do not depend on how much is owed: reading goes on where the last
    /// call with that position ended.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read_log(
        &self,
        upstream: UpstreamKey,
        after: Seq,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let state = self.inner.state();
        let row = state.get(upstream).ok_or(StoreError::NoSuchUpstream)?;
        let after = after.max(row.settled.position());
        let place = self
            .places()
            .remove(&upstream)
            .filter(|place| place.after == after);
        let place = place.unwrap_or(Place {
            after,
            segment: None,
        });
        let mut piece = Piece {
            max_messages,
            max_bytes,
            ..Piece::default()
        };
        let result = self.read_piece(place, (upstream, row), state.log.end, &mut piece);
        let waiting = self.keep_unwanted(upstream, piece.unwanted);
        self.places().insert(upstream, result?);
        if waiting >= UNWANTED_MAX {
            self.settle_blocking(upstream, Vec::new())?;
        }
        Ok(piece.messages)
    }

    /// There is nothing between `reached` and `next`: because it was settled and pruned since the
    /// state was looked at, or because it is lost. The state is shown right after the commit that
    /// pruned, so it need not be waited for long.
    fn pruned(&self, upstream: UpstreamKey, reached: Seq, next: Seq) -> Result<(), StoreError> {
        for _ in 0..SHOWN_TRIES {
            let position = self.position(upstream).ok_or(StoreError::NoSuchUpstream)?;
            if position.0 + 1 >= next.0 {
                return Ok(());
            }
            std::thread::sleep(SHOWN_PAUSE);
        }
        Err(log::gap(reached, next))
    }

    /// Fills `piece` from `place` on; returns where to go on.
    fn read_piece(
        &self,
        mut place: Place,
        (upstream, row): (UpstreamKey, &Upstream),
        end: Seq,
        piece: &mut Piece,
    ) -> Result<Place, StoreError> {
        let mut reached = place
            .segment
            .as_ref()
            .map_or(place.after, |(_, at)| Seq(at.seq.0 - 1));
        while reached < end && !piece.full {
            let (segment, cursor) = match place.segment.take() {
                Some(found) if found.1.seq <= found.0.last() => found,
                _ => match self.inner.readers.read(|conn| log::after(conn, reached))? {
                    Some(segment) => {
                        if segment.first.0 > reached.0 + 1 {
                            self.pruned(upstream, reached, segment.first)?;
                        }
                        let start = segment.records().cursor();
                        (Arc::new(segment), start)
                    }
                    None => {
                        self.pruned(upstream, reached, Seq(end.0 + 1))?;
                        break;
                    }
                },
            };
            let mut records = segment.records_from(cursor);
            let mut here = cursor;
            while here.seq <= segment.last().min(end) {
                let Some((seq, record)) = records.next() else {
                    let detail = "a record cannot be read".to_owned();
                    return Err(StoreError::Damaged {
                        seq: here.seq.0,
                        detail,
                    });
                };
                if seq > place.after && !row.settled.contains(seq) {
                    if !row.wants(seq, record.kind) {
                        piece.unwanted.push(seq);
                    } else if !piece.take(seq, &record) {
                        break;
                    }
                }
                reached = reached.max(seq);
                here = records.cursor();
            }
            place.segment = Some((segment, here));
        }
        place.after = piece
            .messages
            .last()
            .map_or(place.after, |message| message.seq);
        Ok(place)
    }

    /// Notes positions that are to be settled with the next thing; returns how many wait.
    fn keep_unwanted(&self, upstream: UpstreamKey, found: Vec<Seq>) -> usize {
        if found.is_empty() {
            return 0;
        }
        let mut unwanted = self
            .inner
            .unwanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waiting = unwanted.entry(upstream).or_default();
        waiting.extend(found);
        waiting.len()
    }

    /// Settles messages of one upstream in one group commit. Returns the queue ids of their replies, in
    /// order; 0 where there is nothing to deliver: the session is gone, or the message was settled
    /// before (then its reply was queued before, too).
    ///
    /// # Errors
    /// When the group was not committed; then nothing is settled, and doing it again is safe.
    pub fn settle_blocking(
        &self,
        upstream: UpstreamKey,
        items: Vec<Settled>,
    ) -> Result<Vec<i64>, StoreError> {
        let unwanted = self
            .inner
            .unwanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&upstream)
            .unwrap_or_default();
        let kept = unwanted.clone();
        let result = block_on(self.job(Box::new(move |conn, state| {
            state.settle(conn, upstream, &items, &unwanted)
        })));
        if result.is_err() {
            self.keep_unwanted(upstream, kept);
        }
        result
    }

    /// The oldest parked messages of a device, in order. Settling them takes them out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn parked(
        &self,
        upstream: UpstreamKey,
        device: DeviceKey,
        limit: u32,
    ) -> Result<Vec<Message>, StoreError> {
        self.read_blocking(|conn| letters::parked(conn, upstream, device, limit))
    }

    /// The devices with parked messages.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn parked_devices(&self, upstream: UpstreamKey) -> Result<Vec<ParkedDevice>, StoreError> {
        self.read_blocking(|conn| letters::parked_devices(conn, upstream))
    }

    /// Dead letters, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead(
        &self,
        upstream: UpstreamKey,
        filter: DeadFilter,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.read_blocking(|conn| letters::dead(conn, upstream, filter))
    }

    /// Owes dead letters again: they become parked messages of their devices. Returns how many.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn retry_dead(&self, upstream: UpstreamKey, filter: DeadFilter) -> Result<u64, StoreError> {
        block_on(self.job(Box::new(move |conn, state| {
            state.revive(conn, upstream, filter)
        })))
    }

    /// Gives up on dead letters; they count as expired. Returns how many.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn drop_dead(&self, upstream: UpstreamKey, filter: DeadFilter) -> Result<u64, StoreError> {
        block_on(self.job(Box::new(move |conn, state| {
            state.bury(conn, upstream, filter)
        })))
    }

    /// Gives up on what has been owed for longer than `storage.max_age`. Called now and then with the
    /// trusted time; returns how many messages it gave up on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn expire(&self, now: UnixMillis) -> Result<u64, StoreError> {
        let Some(max_age) = self.inner.settings.options.max_age else {
            return Ok(0);
        };
        let age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        let cutoff = UnixMillis(now.0.saturating_sub(age));
        let mut total = 0;
        loop {
            let (expired, more) =
                block_on(self.job(Box::new(move |conn, state| state.expire(conn, cutoff))))?;
            self.inner.metrics.expired.add(expired);
            total += expired;
            if !more {
                return Ok(total);
            }
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<UpstreamKey, Place>> {
        self.inner
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
