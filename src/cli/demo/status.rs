//! The demo's one live line, and notes above it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use terminal_size::{Width, terminal_size_of};
use tokio::time::{MissedTickBehavior, interval};

use super::{tally::Tally, update::Update};
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

/// Draws the live line for ever; `names` are the devices'.
pub(super) async fn lines(
    handle: &Handle,
    names: &[String],
    tally: &Tally,
    update: Option<&Update>,
) {
    let terminal = io::stdout().is_terminal();
    let period = if terminal { ON_TERMINAL } else { ELSEWHERE };
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = handle.ledger("backend").accepted;
    loop {
        ticks.tick().await;
        let ledger = handle.ledger("backend");
        let rate = ledger.accepted.saturating_sub(before) as f64 / period.as_secs_f64();
        before = ledger.accepted;
        let p99 = tally.p99().map_or("-".to_owned(), |p99| {
            format!("{:.1} ms", p99.as_secs_f64() * 1e3)
        });
        let connected = names.iter().filter(|name| handle.connected(name)).count();
        // Beside each how much it is missed where there is no room for all.
        let mut fields = vec![
            (2, format!("devices {connected}")),
            (6, format!("accepted {}", ledger.accepted)),
            (6, format!("delivered {}", ledger.delivered)),
            (6, format!("owed {}", ledger.owed)),
            (5, format!("rejected {}", handle.rejected())),
            (1, format!("replies {}", tally.replies())),
            (4, format!("rate {rate:.0}/s")),
            (3, format!("p99 {p99}")),
        ];
        if let Some(update) = update {
            fields.insert(1, (6, format!("updated {}", update.confirmed())));
        }
        if terminal {
            let mut out = io::stdout().lock();
            let columns = terminal_size_of(&out).map_or(80, |(Width(columns), _)| columns);
            // A line that wraps could not be drawn over: its last column stays free.
            let line = fit(&fields, usize::from(columns).saturating_sub(1));
            let _ = write!(out, "\r\x1b[K{line}");
            let _ = out.flush();
        } else {
            note(&fit(&fields, usize::MAX));
        }
    }
}

/// The fields side by side, without those that are missed least if they are wider than `columns`.
fn fit(fields: &[(u8, String)], columns: usize) -> String {
    for least in 0..=u8::MAX {
        let kept: Vec<&str> = fields
            .iter()
            .filter(|(worth, _)| *worth >= least)
            .map(|(_, text)| text.as_str())
            .collect();
        let line = kept.join("  ");
        if line.len() <= columns {
            return line;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        let fields = [
            (1, "replies 3".to_owned()),
            (6, "owed 1".to_owned()),
            (3, "p99 2 ms".to_owned()),
        ];
        assert_eq!(fit(&fields, usize::MAX), "replies 3  owed 1  p99 2 ms");
        assert_eq!(fit(&fields, 27), "replies 3  owed 1  p99 2 ms");
        assert_eq!(fit(&fields, 26), "owed 1  p99 2 ms");
        assert_eq!(fit(&fields, 15), "owed 1");
        assert_eq!(fit(&fields, 5), "");
    }
}
