//! What the rest of the gateway calls.

use std::{
    collections::HashMap,
    fs::File,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    Batch, IngestError, Seq, StoreError, StoreMetrics, UpstreamKey, Verdict,
    error::Failure,
    open::{Meta, Settings},
    outbox::Upstreams,
    owed::Place,
    readers::Readers,
    writer::{Job, JobFailed, Request, Work},
};
use crate::{clock::UnixMillis, envelope::DigestKey};

/// The open database. Cheap to clone; every clone speaks to the same writer thread.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

/// What the writer's queue may hold at once, in KiB of messages: requests wait for room beyond that.
/// It bounds memory, and at 500,000 messages of 350 bytes per second it is 160 ms of work.
const QUEUE_KIB: u32 = 32 * 1024;

/// What a request takes of it besides its messages, so that empty ones are bounded as well.
const REQUEST_KIB: u32 = 1;

/// Reads off the runtime's threads at once.
const READS: usize = 8;

#[derive(Debug)]
pub(super) struct Inner {
    requests: Sender<Request>,
    room: Arc<Semaphore>,
    reads: Semaphore,
    pub(super) readers: Readers,
    published: RwLock<Arc<Upstreams>>,
    log_end: watch::Sender<Seq>,
    pub(super) places: Mutex<HashMap<UpstreamKey, Place>>,
    pub(super) unwanted: Mutex<HashMap<UpstreamKey, Vec<Seq>>>,
    meta: Meta,
    /// Milliseconds since 1970 that have certainly passed: written down with the next commit.
    certain: AtomicU64,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<StoreMetrics>,
    /// Held as long as anybody can reach the database.
    _lock: File,
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
            certain: AtomicU64::new(meta.highest_time.0),
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

    /// The newest time that has certainly passed.
    pub(super) fn certain(&self) -> UnixMillis {
        UnixMillis(self.certain.load(Ordering::Relaxed))
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.room.close();
    }

    pub(super) fn state(&self) -> Arc<Upstreams> {
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

    pub(super) fn job<T: Send + 'static>(
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

    /// This time has certainly passed; it is written down with one of the next commits, and is the
    /// clock's floor after the next start.
    pub fn note_time(&self, time: UnixMillis) {
        self.inner.certain.fetch_max(time.0, Ordering::Relaxed);
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
}

/// Waits for a future on a thread of its own; the store's futures need no runtime.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
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
