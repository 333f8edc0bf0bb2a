//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, alive.
//!
//! Without systemd every call does nothing. A message that cannot be sent is logged and otherwise
//! ignored: if it mattered, systemd acts on its absence.

use std::{io, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Everything is bound and running.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The configuration is being read again. [`ready`] ends it. `Type=notify-reload` needs the time.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => failed(&error),
    }
}

/// The end has begun.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Stopping takes longer; do not kill us for at least this long.
pub fn extend_stop(by: Duration) {
    let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// The body of the watchdog task: feeds the watchdog as long as `healthy` says so, until `stopping`.
///
/// `healthy` is asked three times per watchdog period and must not block. Without a watchdog it is
/// never asked.
pub async fn feed_watchdog(stopping: CancellationToken, healthy: impl Fn() -> bool) {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return stopping.cancelled().await;
    };
    // A third: one tick may be late, and two may be lost, before systemd loses patience.
    let mut ticks = interval(period / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_healthy = true;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let is_healthy = healthy();
        if is_healthy {
            send(&[NotifyState::Watchdog]);
        }
        if was_healthy && !is_healthy {
            tracing::error!(
                "not healthy: the watchdog starves until the store commits and the front accepts again"
            );
        } else if !was_healthy && is_healthy {
            tracing::info!("healthy again");
        }
        was_healthy = is_healthy;
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        failed(&error);
    }
}

fn failed(error: &io::Error) {
    tracing::warn!(%error, "the service manager could not be told");
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::net::UnixDatagram, process::Command};

    use super::*;

    /// Not a test: what the test below has another process do, with an environment of its own.
    #[test]
    #[ignore = "run by the test below"]
    fn in_another_process() {
        ready("2 listeners");
        reloading();
        ready("2 listeners");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(async {
            let token = CancellationToken::new();
            let asked = Cell::new(0);
            let healthy = || {
                asked.set(asked.get() + 1);
                if asked.get() == 3 {
                    token.cancel();
                }
                // Healthy at the first time only.
                asked.get() == 1
            };
            feed_watchdog(token.clone(), healthy).await;
        });
        stopping("draining");
    }

    #[test]
    fn the_service_manager_hears_everything_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "app::notify::tests::in_another_process",
                "--ignored",
            ])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000")
            .env_remove("WATCHDOG_PID")
            .stdout(std::process::Stdio::null())
            .status()
            .expect("started");
        assert!(status.success());
        socket.set_nonblocking(true).expect("all is there");
        let mut buffer = [0; 4096];
        let mut messages = Vec::new();
        while let Ok(length) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(messages.len(), 5, "{messages:?}");
        assert_eq!(messages[0], "READY=1\nSTATUS=2 listeners\n");
        let reload = messages[1]
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect("both in one");
        assert!(
            reload
                .trim_end()
                .parse::<u64>()
                .is_ok_and(|micros| micros > 0),
            "{reload}"
        );
        assert_eq!(messages[2], messages[0]);
        assert_eq!(messages[3], "WATCHDOG=1\n", "fed while healthy only");
        assert_eq!(messages[4], "STOPPING=1\nSTATUS=draining\n");
    }
}
