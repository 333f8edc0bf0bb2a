//! What the process is told from outside, and how it ends when something inside went wrong.

use std::{convert::Infallible, io, panic, thread};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Handle, notify};

/// The process dies rather than limps: a panic anywhere ends it, and the service manager starts it
/// anew. Only the broker's router may panic, because [`crate::broker`] rebuilds it.
pub(super) fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        let tolerated = thread::current()
            .name()
            .is_some_and(crate::broker::survives_panic_of);
        if !tolerated {
            tracing::error!(%info, "panicked; ending at once");
            std::process::abort();
        }
    }));
}

/// SIGTERM and SIGINT stop gracefully, a second one at once; SIGHUP reloads.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on no signal ends the process by itself. A port that accepts tells others that the
    /// gateway is there, and they may stop it: this comes before any socket is bound.
    ///
    /// # Errors
    /// The operating system refuses a handler.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the process is asked to stop, for as long as there is nothing to reload: a hangup
    /// waits until [`obey`](Self::obey).
    pub(super) async fn asked_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does as told, without end.
    pub(super) async fn obey(mut self, handle: Handle) -> Infallible {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    notify::reloading();
                    match handle.reload().await {
                        Ok(_) => {}
                        Err(problem) => tracing::error!("not reloaded, nothing changed: {problem}"),
                    }
                    notify::ready(&handle.greeting());
                    continue;
                }
            }
            if asked {
                tracing::warn!("asked a second time; ending at once");
                // What was acknowledged is on disk; nothing else matters now.
                std::process::abort();
            }
            asked = true;
            handle.stop();
        }
    }
}
