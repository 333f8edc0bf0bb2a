//! The demo's one live line, and notes above it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::Ordering,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::device::Tally;
use crate::app::Handle;

/// How often the line is drawn on a terminal, and printed elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(500);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Prints a line of its own, leaving the live line to be drawn anew below it.
pub(super) fn note(text: &str) {
    let mut out = io::stdout().lock();
    let clear = if out.is_terminal() { "\r\x1b[K" } else { "" };
    // A closed standard output must not stop the demo.
    let _ = writeln!(out, "{clear}{text}");
    let _ = out.flush();
}

/// Draws the live line for ever.
pub(super) async fn lines(handle: &Handle, tally: &Tally) {
    let terminal = io::stdout().is_terminal();
    let period = if terminal { ON_TERMINAL } else { ELSEWHERE };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = 0;
    loop {
        ticks.tick().await;
        let ledger = handle.ledger("backend");
        let rate = ledger.accepted.saturating_sub(before) as f64 / period.as_secs_f64();
        before = ledger.accepted;
        let p99 = tally.p99().map_or("-".to_owned(), |p99| {
            format!("{:.1} ms", p99.as_secs_f64() * 1e3)
        });
        let line = format!(
            "devices {}  accepted {}  delivered {}  owed {}  rejected {}  replies {}  rate {rate:.0}/s  p99 {p99}",
            tally.connected.load(Ordering::Relaxed),
            ledger.accepted,
            ledger.delivered,
            ledger.owed,
            handle.rejected(),
            tally.replies.load(Ordering::Relaxed),
        );
        if terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[K{line}");
            let _ = out.flush();
        } else {
            note(&line);
        }
    }
}
