//! One group: everything in one transaction, in memory and on disk, or nothing of it.

use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Batch, IngestError, Seq, StoreMetrics, Verdict, Writer, commands,
    error::Failure,
    log, open, seen,
    segment::{self, Record},
    updates,
    writer::{Job, Request, Work},
};
use crate::{
    clock::UnixMillis,
    config::WhenFull,
    envelope::Kind,
    replay::{Entry, Key, Moment, Seen},
};

/// How often the newest time is persisted at most.
const TIME_EVERY_MS: u64 = 10_000;

/// Segments' worth of owed messages given up on per group when the budget is used up.
const DISCARD_STEPS: u32 = 16;

/// What a group that committed came to.
pub(super) struct Done {
    pub(super) commit_took: Duration,
    pub(super) bytes: u64,
}

/// An answer that waits for the commit. Its room in the queue is given back with it.
pub(super) enum Answer {
    Ingest {
        verdicts: Vec<Verdict>,
        reply: oneshot::Sender<Result<Vec<Verdict>, IngestError>>,
        room: OwnedSemaphorePermit,
    },
    Job {
        job: Box<dyn Job>,
        room: OwnedSemaphorePermit,
    },
}

impl Answer {
    pub(super) fn is_ingest(&self) -> bool {
        matches!(self, Self::Ingest { .. })
    }

    pub(super) fn committed(self, metrics: &StoreMetrics) {
        match self {
            Self::Ingest {
                verdicts,
                reply,
                room,
            } => {
                let count = |wanted: fn(&Verdict) -> bool| {
                    verdicts.iter().filter(|verdict| wanted(verdict)).count() as u64
                };
                metrics
                    .stored_messages
                    .add(count(|v| matches!(v, Verdict::Stored(_))));
                metrics
                    .duplicates
                    .add(count(|v| matches!(v, Verdict::Duplicate)));
                metrics
                    .replayed
                    .add(count(|v| matches!(v, Verdict::Replayed)));
                metrics
                    .unknowable
                    .add(count(|v| matches!(v, Verdict::Stale)));
                drop(room);
                // Whoever asked may be gone: the messages are stored, the device sends them again and
                // is told that they are duplicates.
                let _ = reply.send(Ok(verdicts));
            }
            Self::Job { job, room } => {
                drop(room);
                job.answer(Ok(()));
            }
        }
    }

    pub(super) fn failed(self, failure: &Failure) {
        match self {
            Self::Ingest { reply, .. } => {
                let _ = reply.send(Err(failure.into()));
            }
            Self::Job { job, .. } => job.answer(Err(failure)),
        }
    }
}

impl Writer {
    /// Runs the group in a transaction. What is left in `group` after an error was not looked at.
    pub(super) fn transaction(
        &mut self,
        group: &mut Vec<Request>,
        answers: &mut Vec<Answer>,
        accepting: bool,
    ) -> Result<Done, Failure> {
        let before = self.parts.upstreams.clone();
        let (unsealed, now, saved_time) = (self.parts.unsealed_bytes, self.now, self.saved_time);
        let result = self.run_group(group, answers, accepting);
        if result.is_ok() {
            self.parts.memory.commit();
        } else {
            if !self.parts.conn.is_autocommit()
                && let Err(error) = self.parts.conn.execute_batch("ROLLBACK")
            {
                tracing::debug!(%error, "rollback");
            }
            self.parts.memory.rollback();
            self.parts.upstreams = before;
            self.parts.unsealed_bytes = unsealed;
            (self.now, self.saved_time) = (now, saved_time);
        }
        self.builder.clear();
        result
    }

    fn run_group(
        &mut self,
        group: &mut Vec<Request>,
        answers: &mut Vec<Answer>,
        accepting: bool,
    ) -> Result<Done, Failure> {
        self.parts
            .conn
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        let first = self.parts.upstreams.log.end;
        let mut bytes = 0;
        for request in group.drain(..) {
            let room = request.room;
            match request.work {
                Work::Ingest { batch, reply } => {
                    if !accepting {
                        self.note_time(&batch);
                        self.parts.metrics.refused_batches.increment();
                        let _ = reply.send(Err(IngestError::Full));
                        continue;
                    }
                    bytes += batch.bytes() as u64;
                    let result = self.ingest(&batch);
                    let (verdicts, error) = match result {
                        Ok(verdicts) => (verdicts, None),
                        Err(error) => (Vec::new(), Some(error)),
                    };
                    answers.push(Answer::Ingest {
                        verdicts,
                        reply,
                        room,
                    });
                    if let Some(error) = error {
                        return Err(error);
                    }
                }
                Work::Job(mut job) => {
                    let result = self.job(job.as_mut());
                    answers.push(Answer::Job { job, room });
                    result?;
                }
            }
        }
        self.flush()?;
        self.housekeeping(first)?;
        let began = Instant::now();
        self.parts.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(Done {
            commit_took: began.elapsed(),
            bytes,
        })
    }

    fn note_time(&mut self, batch: &Batch) {
        if let Some((record, ..)) = batch.items().last() {
            self.now = self.now.max(record.received_at);
        }
    }

    fn ingest(&mut self, batch: &Batch) -> Result<Vec<Verdict>, Failure> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for (record, bytes, dup) in batch.items() {
            let verdict = self.message(&record, bytes, dup)?;
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    fn message(
        &mut self,
        record: &Record<'_>,
        bytes: &[u8],
        dup: bool,
    ) -> Result<Verdict, Failure> {
        let received = record.received_at;
        self.now = self.now.max(received);
        if record.remembered {
            let key = Key {
                device: record.device,
                message_id: record.message_id,
            };
            let entry = Entry {
                key,
                digest: record.digest,
            };
            let tables = seen::Tables(&self.parts.conn);
            match self
                .parts
                .memory
                .admit(&tables, entry, record.timestamp, received.seconds())?
            {
                Seen::Never => {}
                Seen::Before(digest) if dup && digest == record.digest => {
                    return Ok(Verdict::Duplicate);
                }
                Seen::Before(_) => return Ok(Verdict::Replayed),
                Seen::Unknowable => return Ok(Verdict::Stale),
            }
        }
        if self.builder.count() > 0 && self.builder.len() + bytes.len() > segment::MAX_BYTES {
            self.flush()?;
        }
        let log = &mut self.parts.upstreams.log;
        log.end = Seq(log.end.0 + 1);
        match record.kind {
            Kind::Data => log.data += 1,
            Kind::Event => log.events += 1,
            Kind::Ack => {}
        }
        let seq = log.end;
        self.builder.extend(bytes, 1, received);
        match record.kind {
            Kind::Ack => self.outcome(record, received)?,
            Kind::Event if updates::concerns(record.payload) => self.progress(record, received)?,
            Kind::Data | Kind::Event => {}
        }
        Ok(Verdict::Stored(seq))
    }

    /// Records a command's outcome. One that cannot be recorded is still accepted: it is in the log,
    /// and the device would only send it again for ever.
    fn outcome(&mut self, record: &Record<'_>, received: UnixMillis) -> Result<(), Failure> {
        let conn = &self.parts.conn;
        conn.execute_batch("SAVEPOINT outcome")?;
        match commands::record_outcome(conn, record.device, record.payload, received) {
            Ok(_) => conn.execute_batch("RELEASE outcome")?,
            Err(error) if !conn.is_autocommit() && !is_storage(&error) => {
                tracing::warn!(%error, device = record.device.0, "a command's outcome was not recorded");
                conn.execute_batch("ROLLBACK TO outcome; RELEASE outcome")?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Records how far a device is with an update. As with outcomes, what cannot be recorded is still
    /// accepted.
    fn progress(&mut self, record: &Record<'_>, received: UnixMillis) -> Result<(), Failure> {
        let conn = &self.parts.conn;
        conn.execute_batch("SAVEPOINT progress")?;
        match updates::record_event(conn, record.device, record.payload, received) {
            Ok(()) => conn.execute_batch("RELEASE progress")?,
            Err(error) if !conn.is_autocommit() && !is_storage(&error) => {
                tracing::warn!(%error, device = record.device.0, "a device's update event was not recorded");
                conn.execute_batch("ROLLBACK TO progress; RELEASE progress")?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn job(&mut self, job: &mut dyn Job) -> Result<(), Failure> {
        // Jobs see what the group accepted before them.
        self.flush()?;
        let conn = &self.parts.conn;
        conn.prepare_cached("SAVEPOINT job")?.execute([])?;
        let before = self.parts.upstreams.clone();
        let result = job.run(conn, &mut self.parts.upstreams);
        if conn.is_autocommit() {
            // Some errors (a full disk among them) end the whole transaction.
            return Err(Failure::Full);
        }
        if result.is_err() {
            self.parts.upstreams = before;
            conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        conn.prepare_cached("RELEASE job")?.execute([])?;
        Ok(())
    }

    /// Writes the open segment.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.builder.count() > 0 {
            self.parts.unsealed_bytes += self.builder.len() as u64;
            log::append(
                &self.parts.conn,
                &mut self.builder,
                &self.parts.upstreams.log,
            )?;
            self.builder.clear();
        }
        Ok(())
    }

    /// A bounded amount of everything that has to be done now and then. `first` is where the log ended
    /// before this group.
    fn housekeeping(&mut self, first: Seq) -> Result<(), Failure> {
        let parts = &mut self.parts;
        if self.budget.full() && parts.settings.options.when_full == WhenFull::DiscardOldest {
            for _ in 0..DISCARD_STEPS {
                let expired = parts.upstreams.discard_oldest(&parts.conn)?;
                parts.metrics.expired.add(expired);
                if expired == 0 {
                    break;
                }
            }
        }
        let end = parts.upstreams.log.end;
        let sealed = parts.memory.sealed_through();
        let moment = Moment {
            now: self.now.seconds(),
            log_end: end.0,
            added: usize::try_from(end.0 - first.0).unwrap_or(usize::MAX),
            unsealed_bytes: parts.unsealed_bytes,
        };
        if parts
            .memory
            .maintain(&mut seen::Tables(&parts.conn), moment)?
        {
            parts.unsealed_bytes = 0;
        }
        parts.upstreams.settle_debtless();
        // What was sealed in this very group is pruned by a later one.
        let floor = parts.upstreams.floor().min(Seq(sealed));
        parts
            .metrics
            .pruned_segments
            .add(log::prune(&parts.conn, floor)?);
        parts.upstreams.save(&parts.conn)?;
        if self.now.0 >= self.saved_time.0 + TIME_EVERY_MS {
            open::save_highest_time(&parts.conn, self.now)?;
            self.saved_time = self.now;
        }
        Ok(())
    }
}

/// Whether an error says something about the disk rather than about the statement.
pub(super) fn is_storage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        DatabaseCorrupt, DiskFull, NotADatabase, OutOfMemory, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(DiskFull | SystemIoFailure | DatabaseCorrupt | NotADatabase | OutOfMemory)
    )
}
