//! Moves the WAL into the database, behind the writer's back.
//!
//! A checkpoint in the writer's thread makes a commit wait for it: 50 ms at the 99th percentile,
//! against 3 ms without. So the writer never checkpoints by itself; a thread of its own does,
//! PASSIVE (which blocks nobody), whenever enough was written. The WAL starts over only when all of
//! it has been moved, which under steady load a passive checkpoint never quite achieves: when the WAL
//! is beyond its target and little is left, the writer is asked to move the rest between two groups,
//! which is quick because it is little. At a hard limit the writer does it however much is left.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio_util::sync::CancellationToken;

use super::{StoreMetrics, open::Settings};

/// How often the stopping token is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Ticks after which what little there is in the WAL is moved: five seconds.
const IDLE_TICKS: u32 = 25;

/// Passes in a row to make the rest small; each leaves what was written during it.
const PASSES: u32 = 3;

/// What is little: a checkpoint of this many frames (2 MiB) takes a few milliseconds.
const FEW_FRAMES: u64 = 512;

const PAGE_BYTES: u64 = 4_096;

/// The checkpointing thread's body and what it needs.
#[derive(Debug)]
pub struct Checkpointer {
    path: PathBuf,
    wal_target: u64,
    wake: Receiver<()>,
    finish: Arc<AtomicBool>,
    metrics: Arc<StoreMetrics>,
}

pub(super) fn signal() -> (SyncSender<()>, Receiver<()>) {
    sync_channel(1)
}

/// What a checkpoint says: frames in the WAL, and how many of them are moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Progress {
    pub(super) busy: bool,
    pub(super) frames: u64,
    pub(super) moved: u64,
}

pub(super) fn passive(conn: &Connection) -> rusqlite::Result<Progress> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(Progress {
            busy: row.get::<_, i64>(0)? != 0,
            frames: number(row.get(1)?),
            moved: number(row.get(2)?),
        })
    })
}

impl Checkpointer {
    pub(super) fn new(
        path: PathBuf,
        settings: &Settings,
        wake: Receiver<()>,
        metrics: Arc<StoreMetrics>,
    ) -> Self {
        Self {
            path,
            wal_target: settings.wal_target,
            wake,
            finish: Arc::default(),
            metrics,
        }
    }

    /// Set when the writer is asked to finish the WAL.
    pub(super) fn finish(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.finish)
    }

    /// Runs until the gateway stops. A checkpoint that fails is tried again: nothing is lost by it but
    /// disk space, and the writer's own attempt at the hard limit decides what happens then.
    pub fn run(self, stopping: &CancellationToken) {
        let conn = match self.open() {
            Ok(conn) => conn,
            Err(error) => {
                tracing::error!(%error, "no connection for checkpoints");
                return;
            }
        };
        let (mut idle, mut failing) = (0, false);
        while !stopping.is_cancelled() {
            match self.wake.recv_timeout(TICK) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) if idle < IDLE_TICKS => {
                    idle += 1;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            idle = 0;
            match self.checkpoint(&conn) {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "checkpoint failed again"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "checkpoint failed; trying again");
                }
            }
        }
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.busy_timeout(Duration::from_secs(1))?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(conn)
    }

    fn checkpoint(&self, conn: &Connection) -> rusqlite::Result<()> {
        for _ in 0..PASSES {
            let progress = passive(conn)?;
            if progress.busy {
                return Ok(());
            }
            self.metrics.checkpoints.increment();
            let rest = progress.frames.saturating_sub(progress.moved);
            if rest == 0 {
                return Ok(());
            }
            if progress.frames * PAGE_BYTES >= self.wal_target && rest <= FEW_FRAMES {
                self.finish.store(true, Ordering::Release);
                return Ok(());
            }
        }
        self.finish.store(true, Ordering::Release);
        Ok(())
    }
}
