//! The writer's thread: takes requests from the queue, makes groups of them, commits, answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Batch, IngestError, StoreError, StoreMetrics, Verdict,
    api::Inner,
    budget::{Budget, Crossing},
    checkpoint,
    error::Failure,
    gather::Gather,
    open::Settings,
    outbox::Upstreams,
    segment::Builder,
    wal::Wal,
};
use crate::{clock::UnixMillis, config::WhenFull, replay::Memory};

/// The most a group takes: enough to make a commit cheap, little enough to keep it short.
const GROUP_REQUESTS: usize = 1_024;
const GROUP_MESSAGES: usize = 16_384;
const GROUP_BYTES: usize = 4 << 20;

/// How often an idle writer looks whether the gateway is stopping or housekeeping is due.
const IDLE: Duration = Duration::from_millis(100);

/// After the disk was full, how often it is tried with new messages whether it still is.
const PROBE: Duration = Duration::from_secs(1);

/// How often the writer does a checkpoint itself at most: a long read (a backup) can keep the WAL from
/// starting over, and trying with every group would only make groups slow.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);

/// Request for the writer; `room` is its share of the bounded queue, given back when it is answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) enum Work {
    Ingest {
        batch: Batch,
        reply: oneshot::Sender<Result<Vec<Verdict>, IngestError>>,
    },
    Job(Box<dyn Job>),
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingest { .. } => "Ingest",
            Self::Job(_) => "Job",
        })
    }
}

/// Work inside a group's transaction, in a savepoint of its own.
pub(super) trait Job: Send {
    /// Does it. An error takes back what it did to the database and to `upstreams`; one of storage
    /// fails the group.
    fn run(&mut self, conn: &Connection, upstreams: &mut Upstreams) -> Result<(), JobFailed>;
    /// Says what came of it: the group committed, or why it did not.
    fn answer(self: Box<Self>, outcome: Result<(), &Failure>);
}

/// A job did not do what it was to do; it keeps the reason for its answer.
#[derive(Debug)]
pub(super) struct JobFailed;

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) conn: Connection,
    pub(super) wal: Wal,
    pub(super) settings: Settings,
    pub(super) requests: Receiver<Request>,
    pub(super) inner: Arc<Inner>,
    pub(super) memory: Memory,
    pub(super) upstreams: Upstreams,
    pub(super) unsealed_bytes: u64,
    pub(super) highest_time: UnixMillis,
    pub(super) metrics: Arc<StoreMetrics>,
    pub(super) checkpoints: SyncSender<()>,
    pub(super) finish: Arc<AtomicBool>,
}

/// The writer's thread's body and all it owns.
#[derive(Debug)]
pub struct Writer {
    pub(super) parts: Parts,
    pub(super) builder: Builder,
    pub(super) budget: Budget,
    /// Newest trusted time: that of the newest message, and its persisted form.
    pub(super) now: UnixMillis,
    pub(super) saved_time: UnixMillis,
    /// Bytes written since the last checkpoint was asked for.
    wal_pending: u64,
    gather: Gather,
    answered: usize,
    disk_full_since: Option<Instant>,
    last_checkpoint: Option<Instant>,
    /// An episode of failures is under way and has been logged.
    failing: bool,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        let budget = Budget::new(parts.settings.options.disk_budget_bytes);
        let mut writer = Self {
            builder: Builder::default(),
            budget,
            now: parts.highest_time,
            saved_time: parts.highest_time,
            wal_pending: 0,
            gather: Gather::default(),
            answered: 0,
            disk_full_since: None,
            last_checkpoint: None,
            failing: false,
            parts,
        };
        writer.measure();
        writer
    }

    /// Runs until the gateway stops, and then finishes what is queued; or until the database is found
    /// damaged, which only ends the thread: whoever started it ends the process.
    pub fn run(mut self, stopping: &CancellationToken) {
        let mut group = Vec::new();
        let failure = loop {
            self.collect(&mut group);
            if group.is_empty() {
                if stopping.is_cancelled() {
                    break Failure::Stopping;
                }
                if !self.has_housekeeping() {
                    continue;
                }
            }
            if let Err(failure @ Failure::Damaged(_)) = self.commit(&mut group) {
                let detail = StoreError::from(&failure);
                tracing::error!(
                    path = %self.parts.settings.options.path.display(),
                    %detail,
                    "the database is damaged; it is kept as it is: restore a backup, or move it away to start empty"
                );
                break failure;
            }
        };
        self.close(&failure);
    }

    /// Nothing more is taken; what is still queued is answered.
    fn close(self, failure: &Failure) {
        self.parts.inner.close();
        while let Ok(request) = self.parts.requests.try_recv() {
            answer_failed(request.work, failure);
        }
        if let Err(error) = checkpoint::passive(&self.parts.conn) {
            tracing::debug!(%error, "last checkpoint");
        }
    }

    /// Fills `group` with what is to be committed together; empty after a while without requests.
    fn collect(&mut self, group: &mut Vec<Request>) {
        let mut size = Size::default();
        let wait = self.gather.plan(std::mem::take(&mut self.answered));
        // What came during the last commit.
        while !size.full()
            && let Ok(request) = self.parts.requests.try_recv()
        {
            size.add(&request.work);
            group.push(request);
        }
        if group.is_empty() {
            match self.parts.requests.recv_timeout(IDLE) {
                Ok(request) => {
                    size.add(&request.work);
                    group.push(request);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
        let delay = self.parts.settings.options.commit_delay;
        if !delay.is_zero() {
            self.wait_for(usize::MAX, delay, group, &mut size);
        } else if let Some(wait) = wait {
            let came = self.wait_for(wait.batches, wait.longest, group, &mut size);
            self.gather.waited(wait, came);
        }
    }

    fn wait_for(
        &mut self,
        batches: usize,
        longest: Duration,
        group: &mut Vec<Request>,
        size: &mut Size,
    ) -> usize {
        let end = Instant::now() + longest;
        let mut came = 0;
        while came < batches && !size.full() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(request) = self.parts.requests.recv_timeout(left) else {
                break;
            };
            came += usize::from(matches!(request.work, Work::Ingest { .. }));
            size.add(&request.work);
            group.push(request);
        }
        came
    }

    fn has_housekeeping(&self) -> bool {
        self.parts.memory.wants_maintenance(self.now.seconds())
            || self.parts.finish.load(Ordering::Relaxed)
    }

    /// Commits a group and answers it.
    fn commit(&mut self, group: &mut Vec<Request>) -> Result<(), Failure> {
        let began = Instant::now();
        let metrics = Arc::clone(&self.parts.metrics);
        metrics.requests.add(group.len() as u64);
        let mut answers = Vec::with_capacity(group.len());
        let accepting = self.accepts();
        let result = self.transaction(group, &mut answers, accepting);
        metrics.group_micros.add(micros(began.elapsed()));
        match &result {
            Ok(done) => {
                self.parts.inner.publish(&self.parts.upstreams);
                self.gather.committed(done.commit_took);
                let took = micros(done.commit_took);
                metrics.commits.increment();
                metrics.commit_micros.add(took);
                metrics
                    .slowest_commit_micros
                    .set(metrics.slowest_commit_micros.get().max(took));
                self.answered = answers.iter().filter(|answer| answer.is_ingest()).count();
                for answer in answers {
                    answer.committed(&metrics);
                }
                self.recovered(accepting);
                self.wal_pending += done.bytes;
            }
            Err(failure) => {
                metrics.failed_commits.increment();
                self.failed(failure);
                for answer in answers {
                    answer.failed(failure);
                }
                for request in group.drain(..) {
                    answer_failed(request.work, failure);
                }
            }
        }
        self.keep_wal_small();
        if self.disk_full_since.is_none() && !self.budget.full() {
            self.parts.wal.make_room();
        }
        self.measure();
        result.map(drop)
    }

    /// Whether new messages are taken into the group.
    fn accepts(&self) -> bool {
        let probing = self
            .disk_full_since
            .is_none_or(|since| since.elapsed() >= PROBE);
        let discarding = self.parts.settings.options.when_full == WhenFull::DiscardOldest
            && self.budget.used() < self.parts.settings.options.disk_budget_bytes;
        probing && (!self.budget.full() || discarding)
    }

    fn recovered(&mut self, accepting: bool) {
        if accepting && self.disk_full_since.take().is_some() {
            self.parts.metrics.full.set(u64::from(self.budget.full()));
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("the database can be written again");
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let full = matches!(failure, Failure::Full);
        let filled_up = full && self.disk_full_since.is_none();
        if full {
            self.disk_full_since = Some(Instant::now());
            self.parts.metrics.full.set(1);
        }
        // Said once; also when a disk that made trouble turns out to be full.
        if !std::mem::replace(&mut self.failing, true) || filled_up {
            match failure {
                Failure::Full => tracing::error!(
                    "the disk is full: new messages are not acknowledged until there is space"
                ),
                Failure::Sql(code, text) => tracing::error!(
                    %code,
                    detail = text.as_deref().unwrap_or_default(),
                    "a commit failed: nothing of it is acknowledged; trying again with what comes"
                ),
                Failure::Damaged(_) | Failure::Stopping => {}
            }
        }
        if matches!(failure, Failure::Sql(..)) {
            // Neither spin nor hold up for long what may work again at once.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks for checkpoints, and does one itself when asked to finish or at the hard limit.
    fn keep_wal_small(&mut self) {
        let target = self.parts.settings.wal_target;
        if self.wal_pending >= target / 4 {
            self.wal_pending = 0;
            // Full means that it has been told.
            let _ = self.parts.checkpoints.try_send(());
        }
        let asked = self.parts.finish.swap(false, Ordering::AcqRel);
        let over = self.parts.wal.used() >= 4 * target;
        // The file keeps its size when the WAL starts over, and that counts against the budget.
        let squeezed = (self.disk_full_since.is_some() || self.budget.full())
            && self.parts.metrics.wal_bytes.get() >= target / 4;
        let lately = self
            .last_checkpoint
            .is_some_and(|last| last.elapsed() < CHECKPOINT_EVERY);
        if asked || ((over || squeezed) && !lately) {
            self.last_checkpoint = Some(Instant::now());
            if over {
                self.parts.metrics.forced_checkpoints.increment();
            }
            let sql = if squeezed {
                "PRAGMA wal_checkpoint(TRUNCATE)"
            } else if over {
                // The file is kept: commits into room it has are several times faster.
                "PRAGMA wal_checkpoint(RESTART)"
            } else {
                "PRAGMA wal_checkpoint(PASSIVE)"
            };
            // A reader may be in the way for a moment: not worth waiting for.
            let done = self
                .parts
                .conn
                .busy_timeout(Duration::from_millis(10))
                .and_then(|()| self.parts.conn.query_row(sql, [], |_| Ok(())))
                .and_then(|()| self.parts.conn.busy_timeout(Duration::from_secs(10)));
            if let Err(error) = done {
                tracing::debug!(%error, "checkpoint in the writer");
            }
        }
    }

    /// Measures what the disk budget is held against.
    fn measure(&mut self) {
        let conn = &self.parts.conn;
        let pragma = |sql: &str| {
            conn.prepare_cached(sql)
                .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
                .map_or(0, |pages| u64::try_from(pages).unwrap_or(0))
        };
        let pages = pragma("PRAGMA page_count").saturating_sub(pragma("PRAGMA freelist_count"));
        let wal = self.parts.wal.size();
        let used = pages * pragma("PRAGMA page_size") + wal;
        let metrics = &self.parts.metrics;
        metrics.wal_bytes.set(wal);
        metrics.disk_bytes.set(used);
        metrics.remembered.set(self.parts.memory.len());
        metrics
            .remembered_memory_bytes
            .set(self.parts.memory.memory_bytes() as u64);
        metrics.remembered_runs.set(self.parts.memory.runs() as u64);
        match self.budget.measured(used) {
            Some(Crossing::Full) => {
                metrics.full.set(1);
                tracing::warn!(used, "the disk budget is used up");
            }
            Some(Crossing::Room) => {
                metrics.full.set(u64::from(self.disk_full_since.is_some()));
                tracing::info!(used, "there is room within the disk budget again");
            }
            None => {}
        }
    }
}

/// How much a group holds.
#[derive(Default)]
struct Size {
    requests: usize,
    messages: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, work: &Work) {
        self.requests += 1;
        if let Work::Ingest { batch, .. } = work {
            self.messages += batch.len();
            self.bytes += batch.bytes();
        }
    }

    fn full(&self) -> bool {
        self.requests >= GROUP_REQUESTS
            || self.messages >= GROUP_MESSAGES
            || self.bytes >= GROUP_BYTES
    }
}

fn answer_failed(work: Work, failure: &Failure) {
    match work {
        Work::Ingest { reply, .. } => {
            // Whoever asked may be gone; then nobody acknowledges anything.
            let _ = reply.send(Err(failure.into()));
        }
        Work::Job(job) => job.answer(Err(failure)),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
