//! What waits for a commit, in the order it came.
//!
//! Acknowledgements go out in the order of what they acknowledge (`[MQTT-4.6.0-2]`, -3), so what is to
//! be said about one burst of packets is a stage, and stages are completed first in, first out.
//! Several are on their way to disk at once.

use std::{
    collections::VecDeque,
    future::Future,
    num::NonZeroU16,
    pin::Pin,
    task::{Context, Poll},
};

use tidegate_mqtt::{QoS, ReasonCode};
use tidegate_wire::{MessageId, Reason};

use super::{free::Plan, message::Message};
use crate::store::{Batch, IngestError, Store, StoreError, Verdict};

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Work for the writer thread.
pub(super) type Write = Box<dyn FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send>;

/// Bursts of one connection on their way to disk. Two keep the writer busy while a third is read;
/// more only add latency.
const MAX_STAGES: usize = 8;

/// Things to say that may wait for commits before reading stops. An MQTT 5 peer is held to its
/// receive maximum; a 3.1.1 peer knows none, and this is its window.
const MAX_DEFERRED: usize = 4_096;

/// Something to be done once what came before it is on disk.
#[derive(Debug)]
pub(super) enum Deferred {
    /// The next message of the batch; `copy` is for local subscribers.
    Stored {
        id: Option<NonZeroU16>,
        qos: QoS,
        message_id: MessageId,
        copy: Option<Box<Message>>,
    },
    /// A rejected message.
    Rejected {
        id: Option<NonZeroU16>,
        qos: QoS,
        reason: Reason,
    },
    /// A publish on a free topic: pass it on.
    Routed(Box<Plan>),
    Answer {
        id: NonZeroU16,
        qos: QoS,
        reason: ReasonCode,
    },
    PubRel {
        id: NonZeroU16,
        reason: ReasonCode,
    },
    PubComp {
        id: NonZeroU16,
        reason: ReasonCode,
    },
    SubAck(Box<Subscribed>),
    UnsubAck {
        id: NonZeroU16,
        codes: Box<[u8]>,
    },
}

/// The answer to a SUBSCRIBE.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) id: NonZeroU16,
    pub(super) codes: Vec<u8>,
    pub(super) retained: Vec<Message>,
    /// Retained messages were put into the session's queue.
    pub(super) grew: bool,
}

/// Why a stage was not committed: nothing of it may be acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the disk budget is used up")]
    Full,
    #[error("the database could not be written")]
    Failed,
    #[error("the gateway is stopping")]
    Stopping,
}

impl From<IngestError> for Refusal {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Full => Self::Full,
            IngestError::Failed => Self::Failed,
            IngestError::Stopping => Self::Stopping,
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            StoreError::Stopping => Self::Stopping,
            _ => Self::Failed,
        }
    }
}

/// What one read brought that must be on disk, and what to say then.
#[derive(Default)]
pub(super) struct Burst {
    pub(super) batch: Batch,
    pub(super) writes: Vec<Write>,
    pub(super) deferred: Vec<Deferred>,
}

struct Stage {
    ingest: Option<Pending<Result<Vec<Verdict>, IngestError>>>,
    write: Option<Pending<Result<(), StoreError>>>,
    verdicts: Vec<Verdict>,
    deferred: Vec<Deferred>,
}

/// The stages of one connection.
#[derive(Default)]
pub(super) struct Pipeline {
    stages: VecDeque<Stage>,
    deferred: usize,
    spare: Vec<Deferred>,
}

/// A stage that is on disk.
#[derive(Debug)]
pub(super) struct Completed {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) deferred: Vec<Deferred>,
}

impl Pipeline {
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// More may be read.
    pub(super) fn has_room(&self) -> bool {
        self.stages.len() < MAX_STAGES && self.deferred < MAX_DEFERRED
    }

    /// The burst being gathered may grow.
    pub(super) fn has_room_for(&self, burst: &Burst) -> bool {
        self.stages.len() < MAX_STAGES && self.deferred + burst.deferred.len() < MAX_DEFERRED
    }

    /// Sends a burst on its way. What can be said at once, because nothing of it or before it waits
    /// for the disk, is returned.
    pub(super) fn submit(&mut self, burst: &mut Burst, store: &Store) -> Option<Completed> {
        if burst.batch.is_empty() && burst.writes.is_empty() {
            if burst.deferred.is_empty() {
                return None;
            }
            let Some(last) = self.stages.back_mut() else {
                let deferred = std::mem::replace(&mut burst.deferred, self.take_spare());
                return Some(Completed {
                    verdicts: Vec::new(),
                    deferred,
                });
            };
            self.deferred += burst.deferred.len();
            last.deferred.append(&mut burst.deferred);
            return None;
        }
        let ingest = (!burst.batch.is_empty()).then(|| {
            let (batch, store) = (std::mem::take(&mut burst.batch), store.clone());
            Box::pin(async move { store.ingest(batch).await }) as Pending<_>
        });
        let write = (!burst.writes.is_empty()).then(|| {
            let (writes, store) = (std::mem::take(&mut burst.writes), store.clone());
            let work = move |conn: &rusqlite::Connection| {
                writes.into_iter().try_for_each(|write| write(conn))
            };
            Box::pin(async move { store.write(work).await }) as Pending<_>
        });
        let spare = self.take_spare();
        let deferred = std::mem::replace(&mut burst.deferred, spare);
        self.deferred += deferred.len();
        self.stages.push_back(Stage {
            ingest,
            write,
            verdicts: Vec::new(),
            deferred,
        });
        None
    }

    fn take_spare(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.spare)
    }

    /// Gives memory back for the next burst.
    pub(super) fn recycle(&mut self, mut deferred: Vec<Deferred>) {
        deferred.clear();
        // Enough for an ordinary burst; what a large one needed is not kept.
        if deferred.capacity() <= 256 && deferred.capacity() > self.spare.capacity() {
            self.spare = deferred;
        }
    }

    /// Completes the first stage. All of them are polled, in their order, so that each is on its way
    /// to the writer before the next.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Completed, Refusal>> {
        for stage in &mut self.stages {
            if let Err(refusal) = stage.poll(cx) {
                // The first refusal ends the connection; what was committed before it is
                // delivered again with DUP and known again then.
                self.stages.clear();
                self.deferred = 0;
                return Poll::Ready(Err(refusal));
            }
        }
        if !self.stages.front().is_some_and(Stage::is_complete) {
            return Poll::Pending;
        }
        let Some(stage) = self.stages.pop_front() else {
            return Poll::Pending;
        };
        self.deferred -= stage.deferred.len();
        Poll::Ready(Ok(Completed {
            verdicts: stage.verdicts,
            deferred: stage.deferred,
        }))
    }
}

impl Stage {
    fn is_complete(&self) -> bool {
        self.ingest.is_none() && self.write.is_none()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        if let Some(ingest) = &mut self.ingest
            && let Poll::Ready(result) = ingest.as_mut().poll(cx)
        {
            self.ingest = None;
            self.verdicts = result?;
        }
        if let Some(write) = &mut self.write
            && let Poll::Ready(result) = write.as_mut().poll(cx)
        {
            self.write = None;
            result?;
        }
        Ok(())
    }
}
