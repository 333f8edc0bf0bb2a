//! What the rest of the gateway calls.

use std::{
    collections::HashMap,
    fs::File,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    Batch, DeadFilter, DeadLetter, DeviceKey, IngestError, Ledger, LedgerCheck, Message,
    ParkedDevice, Seq, Settled, StoreError, StoreMetrics, UpstreamInfo, UpstreamKey, Verdict,
    Wanted,
    error::Failure,
    letters, log,
    open::{Meta, Settings},
    outbox::{self, Upstream, Upstreams},
    readers::Readers,
    segment::{Cursor, Record, Segment},
    writer::{Job, JobFailed, Request, Work},
};
use crate::{clock::UnixMillis, envelope::DigestKey};

/// The open database. Cheap to clone; every clone speaks to the same writer thread.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the writer's queue may hold at once, in KiB of messages: requests wait for room beyond that.
/// It bounds memory, and at 500,000 messages of 350 bytes per second it is 160 ms of work.
const QUEUE_KIB: u32 = 32 * 1024;

/// What a request takes of it besides its messages, so that empty ones are bounded as well.
const REQUEST_KIB: u32 = 1;

/// Reads off the runtime's threads at once.
const READS: usize = 8;

/// Positions not wanted by an upstream that wait to be settled with the next thing it settles.
const UNWANTED_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Inner {
    requests: Sender<Request>,
    room: Arc<Semaphore>,
    reads: Semaphore,
    readers: Readers,
    published: RwLock<Arc<Upstreams>>,
    log_end: watch::Sender<Seq>,
    places: Mutex<HashMap<UpstreamKey, Place>>,
    unwanted: Mutex<HashMap<UpstreamKey, Vec<Seq>>>,
    meta: Meta,
    settings: Settings,
    metrics: Arc<StoreMetrics>,
    /// Held as long as anybody can reach the database.
    _lock: File,
}

/// Where an upstream's reading of the log goes on, so that a segment is read once.
#[derive(Debug, Default)]
struct Place {
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

impl Inner {
    pub(super) fn new(
        settings: &Settings,
        meta: &Meta,
        upstreams: Upstreams,
        metrics: Arc<StoreMetrics>,
        lock: File,
    ) -> (Arc<Self>, Receiver<Request>) {
        let (requests, receiver) = channel();
        let inner = Self {
            requests,
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            reads: Semaphore::new(READS),
            readers: Readers::new(settings.options.path.clone()),
            log_end: watch::Sender::new(upstreams.log.end),
            published: RwLock::new(Arc::new(upstreams)),
            places: Mutex::default(),
            unwanted: Mutex::default(),
            meta: meta.clone(),
            settings: settings.clone(),
            metrics,
            _lock: lock,
        };
        (Arc::new(inner), receiver)
    }

    /// Shows the state of the last commit.
    pub(super) fn publish(&self, upstreams: &Upstreams) {
        let state = Arc::new(upstreams.clone());
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = state;
        self.log_end
            .send_if_modified(|end| std::mem::replace(end, upstreams.log.end) != upstreams.log.end);
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.room.close();
    }

    fn state(&self) -> Arc<Upstreams> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024).unwrap_or(QUEUE_KIB);
        let room = (kib + REQUEST_KIB).min(QUEUE_KIB);
        Arc::clone(&self.room).acquire_many_owned(room).await.ok()
    }
}

impl From<Arc<Inner>> for Store {
    fn from(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

type JobWork<T> =
    Box<dyn FnOnce(&Connection, &mut Upstreams) -> Result<T, StoreError> + Send + 'static>;

/// A closure on its way through the writer, and who waits for it.
struct Closure<T> {
    work: Option<JobWork<T>>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send> Job for Closure<T> {
    fn run(&mut self, conn: &Connection, upstreams: &mut Upstreams) -> Result<(), JobFailed> {
        let Some(work) = self.work.take() else {
            return Ok(());
        };
        let result = work(conn, upstreams);
        let done = if result.is_ok() {
            Ok(())
        } else {
            Err(JobFailed)
        };
        self.result = Some(result);
        done
    }

    fn answer(self: Box<Self>, outcome: Result<(), &Failure>) {
        let answer = match (outcome, self.result) {
            (Ok(()), Some(Err(StoreError::Sql(error)))) => {
                Err(StoreError::from(&Failure::from(error)))
            }
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Stopping),
            (Err(failure), _) => Err(failure.into()),
        };
        // Whoever asked may be gone.
        let _ = self.reply.send(answer);
    }
}

impl Store {
    /// Hands a batch to the writer. The answer comes after the commit, one verdict per message, in
    /// order. Waits for room in the bounded queue.
    ///
    /// # Errors
    /// [`IngestError`]: nothing of the batch is on disk, nothing of it may be acknowledged.
    pub async fn ingest(&self, batch: Batch) -> Result<Vec<Verdict>, IngestError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let room = self
            .inner
            .room(batch.bytes())
            .await
            .ok_or(IngestError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            work: Work::Ingest { batch, reply },
            room,
        };
        self.inner
            .requests
            .send(request)
            .map_err(|_| IngestError::Stopping)?;
        answer.await.map_err(|_| IngestError::Stopping)?
    }

    /// Runs `work` inside the next group commit, in a savepoint of its own, and answers after the
    /// commit.
    ///
    /// # Errors
    /// What `work` returned, or why the group was not committed; then nothing of it happened.
    pub fn write<T, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.job(Box::new(move |conn, _| Ok(work(conn)?)))
    }

    /// [`Store::write`] for threads without a runtime.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        block_on(self.write(work))
    }

    fn job<T: Send + 'static>(
        &self,
        work: JobWork<T>,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T> {
        let inner = Arc::clone(&self.inner);
        async move {
            let room = inner.room(0).await.ok_or(StoreError::Stopping)?;
            let (reply, answer) = oneshot::channel();
            let job = Closure {
                work: Some(work),
                result: None,
                reply,
            };
            let request = Request {
                work: Work::Job(Box::new(job)),
                room,
            };
            inner
                .requests
                .send(request)
                .map_err(|_| StoreError::Stopping)?;
            answer.await.map_err(|_| StoreError::Stopping)?
        }
    }

    /// Runs `work` on a reader's connection (a consistent snapshot); blocks.
    ///
    /// # Errors
    /// What `work` returned, or why the database could not be read.
    pub fn read_blocking<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.inner.readers.read(|conn| Ok(work(conn)?))
    }

    /// [`Store::read_blocking`] off the runtime's threads.
    ///
    /// # Errors
    /// As [`Store::read_blocking`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _turn = self
            .inner
            .reads
            .acquire()
            .await
            .map_err(|_| StoreError::Stopping)?;
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_blocking(work))
            .await
            .map_err(|_| StoreError::Stopping)?
    }

    /// The key of [`crate::envelope::Verified::digest`].
    #[must_use]
    pub fn digest_key(&self) -> DigestKey {
        self.inner.meta.digest_key
    }

    /// What tells this database from others; it survives backup and restore.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.inner.meta.id
    }

    /// The newest time known to have passed when the database was opened: the clock's floor.
    #[must_use]
    pub fn highest_time(&self) -> UnixMillis {
        self.inner.meta.highest_time
    }

    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.inner.metrics
    }

    /// Wakes whoever waits for new messages; the value is the position of the newest one.
    #[must_use]
    pub fn log_end(&self) -> watch::Receiver<Seq> {
        self.inner.log_end.subscribe()
    }

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
        let result = self.read_piece(place, row, state.log.end, &mut piece);
        let waiting = self.keep_unwanted(upstream, piece.unwanted);
        self.places().insert(upstream, result?);
        if waiting >= UNWANTED_MAX {
            self.settle_blocking(upstream, Vec::new())?;
        }
        Ok(piece.messages)
    }

    /// Fills `piece` from `place` on; returns where to go on.
    fn read_piece(
        &self,
        mut place: Place,
        row: &Upstream,
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
                        let start = segment.records().cursor();
                        (Arc::new(segment), start)
                    }
                    None => break,
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

/// Waits for a future on a thread of its own; the store's futures need no runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
