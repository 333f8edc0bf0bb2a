//! Recording who did what. One task writes, in groups; everyone else puts entries into its bounded
//! queue.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    store::{
        Store,
        audit::{self as rows, Entry},
    },
};

/// Entries waiting to be written: a burst of requests while one commit is under way.
const QUEUE: usize = 1024;
/// Entries written in one go.
const BATCH: usize = 256;
/// Longest text of one field; whatever a peer sent beyond it says nothing more.
const MAX_TEXT: usize = 200;

/// Takes entries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// Writes what [`Audit`] takes.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::Receiver<Entry>,
    dropped: Arc<AtomicU64>,
    store: Store,
    clock: Arc<Clock>,
}

impl Audit {
    /// The queue and the task's body, [`Recorder::run`].
    #[must_use]
    pub fn new(store: Store, clock: Arc<Clock>) -> (Self, Recorder) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let audit = Self {
            queue: sender,
            dropped: Arc::clone(&dropped),
        };
        (
            audit,
            Recorder {
                queue: receiver,
                dropped,
                store,
                clock,
            },
        )
    }

    /// Records what happened; waits while the queue is full. For everything that changed something.
    pub async fn record(&self, entry: Entry) {
        if self.queue.send(shortened(entry)).await.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records what happened if there is room, and counts it otherwise. For what strangers can cause.
    pub fn offer(&self, entry: Entry) {
        if self.queue.try_send(shortened(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many entries found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Recorder {
    /// Writes until `stopping`, and then what is still queued.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut entries = Vec::with_capacity(BATCH);
        let mut reported = 0;
        loop {
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut entries, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.write(std::mem::take(&mut entries)).await;
                    let dropped = self.dropped.load(Ordering::Relaxed);
                    if dropped > reported {
                        tracing::warn!(count = dropped - reported, "audit entries found no room in the queue");
                        reported = dropped;
                    }
                }
                () = stopping.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
    }

    async fn write(&self, entries: Vec<Entry>) {
        let now = self.clock.unchecked_now();
        let entries = Arc::new(entries);
        let batch = Arc::clone(&entries);
        let Err(error) = self
            .store
            .write(move |conn| rows::append(conn, &batch, now))
            .await
        else {
            return;
        };
        // The log is the second place to look. It holds no more than the table would.
        tracing::error!(%error, count = entries.len(), "the audit record could not be written; its entries follow");
        for entry in entries.iter() {
            tracing::warn!(
                actor = entry.actor,
                peer = entry.peer,
                action = entry.action,
                target_name = entry.target,
                result = entry.result,
                detail = entry.detail,
                "audit"
            );
        }
    }
}

fn shortened(mut entry: Entry) -> Entry {
    for text in [&mut entry.actor, &mut entry.action, &mut entry.result] {
        shorten(text);
    }
    for text in [&mut entry.peer, &mut entry.target, &mut entry.detail]
        .into_iter()
        .flatten()
    {
        shorten(text);
    }
    entry
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::UnixMillis, registry::testing::store};

    #[tokio::test]
    async fn what_is_queued_when_the_gateway_stops_is_written() {
        let store = store();
        let clock = Arc::new(Clock::with_source(UnixMillis(0), || UnixMillis(5_000)));
        let (audit, recorder) = Audit::new(store.clone(), clock);
        let entry = Entry {
            at: UnixMillis(5_000),
            actor: "key:a".to_owned(),
            peer: None,
            action: "command.send".to_owned(),
            target: Some("é".repeat(1_000)),
            result: "202".to_owned(),
            detail: None,
        };
        for _ in 0..QUEUE {
            audit.record(entry.clone()).await;
        }
        audit.offer(entry);
        assert_eq!(audit.dropped(), 1);
        let stopping = CancellationToken::new();
        stopping.cancel();
        recorder.run(stopping).await;
        let written = store
            .read(|conn| rows::recent(conn, None, 5_000))
            .await
            .unwrap();
        assert_eq!(written.len(), QUEUE);
        assert_eq!(
            written[0].1.target.as_ref().unwrap().chars().count(),
            MAX_TEXT
        );
    }
}
