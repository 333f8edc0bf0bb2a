//! What the process is told from outside, and how it ends when something inside went wrong.

use std::{convert::Infallible, panic, thread};

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
pub(super) async fn obey(handle: Handle) -> Infallible {
    let (Some(mut terminate), Some(mut interrupt), Some(mut hangup)) = (
        on(SignalKind::terminate()),
        on(SignalKind::interrupt()),
        on(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    let mut asked = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {
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

fn on(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| tracing::warn!(%error, "a signal cannot be caught"))
        .ok()
}
