//! Keeps remote peers from filling the log: a few lines a minute in full, the rest as a number.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

/// The span that lines are counted over.
const WINDOW: Duration = Duration::from_secs(60);
/// What lines are counted under when too many peers cause some at once.
const OTHERS: &str = "others";

/// Counts the lines caused by each peer for each reason. Not shared: put it behind a lock, or give
/// each task its own.
#[derive(Debug)]
pub struct Throttle {
    per_window: u32,
    capacity: usize,
    windows: HashMap<Key, Window>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    peer: Box<str>,
    reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    started: Instant,
    lines: u64,
}

/// What to do about one line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Log it.
    Log,
    /// Log it, and say that more of its kind will not be for a while.
    LogAsLast,
    /// Do not log it; it is counted.
    Suppress,
}

/// Lines that were not logged. Its text is the line to log instead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suppressed {
    /// A device id or an address; `others` when there were too many to tell apart.
    pub peer: String,
    pub reason: &'static str,
    /// How many.
    pub lines: u64,
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            reason,
            lines,
        } = self;
        write!(
            f,
            "suppressed {} more of {reason} from {peer} in the last minute",
            Grouped(*lines)
        )
    }
}

/// A number with its thousands apart: 1,234,567.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Grouped(self.0 / 1000), self.0 % 1000)
    }
}

impl Throttle {
    /// Lets `per_minute` lines through for each peer and reason, and remembers `capacity` of them;
    /// peers past that share one count per reason.
    #[must_use]
    pub fn new(per_minute: u32, capacity: usize) -> Self {
        Self {
            per_window: per_minute,
            capacity,
            windows: HashMap::new(),
        }
    }

    /// Decides about one line of `peer` for `reason`. Lines of the peers' own making must not be
    /// counted under texts of their choice: `reason` is one of ours.
    pub fn line(&mut self, peer: &str, reason: &'static str, now: Instant) -> Decision {
        let mut key = Key {
            peer: peer.into(),
            reason,
        };
        if !self.windows.contains_key(&key) && self.windows.len() >= self.capacity {
            // `others` is allowed past the capacity: there are only as many as reasons.
            key.peer = OTHERS.into();
        }
        let window = self.windows.entry(key).or_insert(Window {
            started: now,
            lines: 0,
        });
        window.lines += 1;
        let most = u64::from(self.per_window);
        match window.lines {
            lines if lines < most => Decision::Log,
            lines if lines == most => Decision::LogAsLast,
            _ => Decision::Suppress,
        }
    }

    /// Ends the windows that are over and says what was suppressed in them, in a stable order. Call
    /// it every few seconds; a window lasts until the first call after its minute.
    pub fn expired(&mut self, now: Instant) -> Vec<Suppressed> {
        let most = u64::from(self.per_window);
        let mut suppressed = Vec::new();
        self.windows.retain(|key, window| {
            if now.saturating_duration_since(window.started) < WINDOW {
                return true;
            }
            if window.lines > most {
                suppressed.push(Suppressed {
                    peer: key.peer.to_string(),
                    reason: key.reason,
                    lines: window.lines - most,
                });
            }
            false
        });
        suppressed.sort_by(|one, other| (&one.peer, one.reason).cmp(&(&other.peer, other.reason)));
        suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_number() {
        let (mut throttle, start) = (Throttle::new(3, 10), Instant::now());
        let decisions: Vec<_> = (0..1237)
            .map(|_| throttle.line("a", "replayed", start))
            .collect();
        assert_eq!(
            decisions[..4],
            [
                Decision::Log,
                Decision::Log,
                Decision::LogAsLast,
                Decision::Suppress
            ]
        );
        assert!(
            decisions[3..]
                .iter()
                .all(|decision| *decision == Decision::Suppress)
        );
        assert_eq!(throttle.expired(start + 59 * SECOND), []);
        let ended = throttle.expired(start + WINDOW);
        assert_eq!(ended.len(), 1);
        assert_eq!(
            ended[0].to_string(),
            "suppressed 1,234 more of replayed from a in the last minute"
        );
        assert_eq!(
            throttle.line("a", "replayed", start + WINDOW),
            Decision::Log,
            "a new minute"
        );
    }

    #[test]
    fn peers_and_reasons_do_not_share() {
        let (mut throttle, now) = (Throttle::new(1, 10), Instant::now());
        for (peer, reason) in [("a", "x"), ("b", "x"), ("a", "y")] {
            assert_eq!(throttle.line(peer, reason, now), Decision::LogAsLast);
        }
        assert_eq!(throttle.line("a", "x", now), Decision::Suppress);
        assert_eq!(throttle.expired(now + WINDOW).len(), 1);
    }

    #[test]
    fn many_peers_take_no_more_memory_and_share_one_count() {
        let (mut throttle, now) = (Throttle::new(2, 100), Instant::now());
        let mut logged = 0;
        for peer in 0..10_000 {
            let decision = throttle.line(&peer.to_string(), "no_certificate", now);
            logged += u32::from(decision != Decision::Suppress);
        }
        assert_eq!(logged, 100 + 2);
        assert!(throttle.windows.len() <= 101);
        let ended = throttle.expired(now + WINDOW);
        assert_eq!(
            ended,
            [Suppressed {
                peer: "others".to_owned(),
                reason: "no_certificate",
                lines: 10_000 - 102
            }]
        );
        assert!(throttle.windows.is_empty());
    }

    #[test]
    fn a_quiet_peer_is_forgotten_without_a_word() {
        let (mut throttle, now) = (Throttle::new(2, 10), Instant::now());
        throttle.line("a", "x", now);
        throttle.line("a", "x", now);
        assert_eq!(throttle.expired(now + WINDOW), []);
        assert!(throttle.windows.is_empty());
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (1_000_001, "1,000,001"),
        ] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
