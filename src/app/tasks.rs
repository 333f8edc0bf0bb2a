//! Every task and thread of the daemon is started here, watched and drained.

use std::{future::Future, io, thread};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks and threads. Cheap to clone.
///
/// Two kinds: *essential* ones, whose end before [`Tasks::stop`] ends the daemon (the process dies
/// rather than limps), and *connections*, which come and go.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    ended: mpsc::UnboundedSender<&'static str>,
}

/// Receives the names of essential tasks that ended too early.
#[derive(Debug)]
pub struct Ended(mpsc::UnboundedReceiver<&'static str>);

impl Ended {
    /// Waits for an essential task to end while the daemon is not stopping.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

impl Tasks {
    #[must_use]
    pub fn new() -> (Self, Ended) {
        let (ended, receiver) = mpsc::unbounded_channel();
        let tasks = Self {
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            ended,
        };
        (tasks, Ended(receiver))
    }

    /// Cancelled when the daemon stops: every task watches it and finishes what it has begun.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Starts an essential task.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (ended, stopping) = (self.ended.clone(), self.stopping.clone());
        self.start(async move {
            task.await;
            if !stopping.is_cancelled() {
                // The receiver is gone only when the daemon is past caring.
                let _ = ended.send(name);
            }
        });
    }

    /// Starts a task for one connection or request.
    pub fn connection(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.start(task);
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where tasks are started"
    )]
    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(task));
    }

    /// Starts an essential thread for work that blocks.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn thread(
        &self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<thread::JoinHandle<()>> {
        let (ended, stopping) = (self.ended.clone(), self.stopping.clone());
        let token = self.tracker.token();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            work();
            if !stopping.is_cancelled() {
                let _ = ended.send(name);
            }
            drop(token);
        })
    }

    /// Asks everything to stop.
    pub fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
    }

    /// Waits until every task and thread has ended; call after [`Tasks::stop`].
    pub async fn drained(&self) {
        self.tracker.wait().await;
    }
}
