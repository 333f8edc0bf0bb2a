//! Builds the daemon and runs it: every task and thread is started here, and drained here.
//!
//! [`App::build`] opens the state, reconciles the devices, brings up the certificates and binds every
//! socket, in that order, so that whatever is wrong is said before anybody is served. [`App::run`]
//! starts the tasks, says READY, and returns when the gateway was asked to stop and has finished what
//! it had begun. Two sets of tasks stop one after the other: the edges (front, API, forwarders), and
//! then the store's threads, which the edges need to the last.

mod build;
mod credentials;
mod exposition;
mod gateway;
pub mod notify;
mod rounds;
mod signals;
mod tasks;
mod ties;
mod updates;

use std::time::Duration;

use tokio::time::timeout;

pub(crate) use build::start_store;
pub use build::{App, StartError};
pub use gateway::{EnrolError, Gateway, Handle};
pub use tasks::{Ended, Tasks};

use crate::{
    cli::exit::Exit,
    config::{Config, Sources},
    trace,
};
use signals::Signals;

/// From the request to stop until the edges are cut off: devices get their last acknowledgements,
/// deliveries under way come back ([`crate::forward::GRACE`]).
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why a running gateway ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0} ended, which it must not; the gateway stops so that it can be started anew")]
    TaskEnded(&'static str),
    #[error("cannot start: {0}")]
    Start(#[from] StartError),
}

/// `tidegate run`: the whole life of the daemon in this process.
#[must_use]
pub fn run(config: Config, sources: Sources) -> Exit {
    let log = match trace::init(&config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("tidegate: {error}");
            return Exit::Config;
        }
    };
    signals::abort_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no threads to run on; raise the limit on tasks");
            return Exit::Io;
        }
    };
    runtime.block_on(async {
        let mut signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be caught, so nothing could stop the gateway gracefully");
                return Exit::Io;
            }
        };
        let built = tokio::select! {
            // Nobody was served yet, and what is on disk may be left at any point.
            () = signals.asked_to_stop() => {
                tracing::info!("asked to stop before it had started; stopped");
                return Exit::Ok;
            }
            built = App::build(config) => built,
        };
        let app = match built {
            Ok(app) => app.reloading_from(sources, log),
            Err(error) => {
                tracing::error!("{error}");
                return error.exit();
            }
        };
        match app.run_until_signalled(signals).await {
            Ok(()) => Exit::Ok,
            Err(error) => {
                tracing::error!("{error}");
                Exit::Failure
            }
        }
    })
}

impl App {
    async fn run_until_signalled(self, signals: Signals) -> Result<(), RunError> {
        let handle = self.handle();
        let signals = signals.obey(handle);
        let mut running = std::pin::pin!(self.run());
        tokio::select! {
            never = signals => match never {},
            ended = &mut running => ended,
        }
    }

    /// Serves until [`Handle::stop`], then finishes what was begun.
    ///
    /// # Errors
    /// When it could not begin, or a task that must not end did.
    pub async fn run(mut self) -> Result<(), RunError> {
        let started = self.start();
        let gateway = self.gateway.clone();
        let outcome = match started {
            Err(error) => Err(RunError::Start(error)),
            Ok(()) => {
                gateway.health.listening();
                let status = gateway.greeting();
                tracing::info!("{status}");
                notify::ready(&status);
                let stop = gateway.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    name = self.edges_ended.next() => Err(RunError::TaskEnded(name)),
                    name = self.core_ended.next() => Err(RunError::TaskEnded(name)),
                }
            }
        };
        tracing::info!("stopping");
        notify::stopping("finishing what was begun");
        gateway.health.stopping();
        self.edges.stop();
        if timeout(STOP_GRACE, self.edges.drained()).await.is_err() {
            tracing::warn!("some connections or deliveries did not end in time and are cut off");
        }
        if let Err(error) = gateway.last_round().await {
            tracing::warn!(%error, "not everything could be noted for the next start");
        }
        self.core.stop();
        self.core.drained().await;
        tracing::info!("stopped");
        outcome
    }
}
