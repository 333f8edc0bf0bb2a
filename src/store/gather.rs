//! How long to wait for company before a commit.
//!
//! A commit costs the same for one message as for a thousand. With many clients the queue fills
//! while the previous group is being committed, and there is nothing to wait for. With few, each
//! waiting for its acknowledgement before it sends again, those that were just answered are on
//! their way back: committing what little is queued now would split them into two convoys that take
//! turns, at half the throughput. So after answering `n` batches the writer waits for up to `n` more
//! beyond what was queued by then, for at most a small share of what a commit takes.
//!
//! Clients that do not come back at once (a sensor with a second to go) must not cost others that
//! wait: when waiting was in vain it is not tried again for a while, twice as long each time.

use std::time::Duration;

/// The longest wait is a commit's time divided by this: four clients in step then still make
/// 4 / (1 + 1/6) = 0.86 × 4 messages per commit time.
const SHARE: u32 = 6;

/// And never longer than this, however slow the disk.
const LONGEST: Duration = Duration::from_millis(2);

/// Groups for which no wait is tried after waits in vain, at most.
const MOST_SKIPPED: u32 = 64;

/// More batches than this come by themselves while a commit runs.
const CROWD: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gather {
    /// Moving average.
    commit: Duration,
    skip: u32,
    next_skip: u32,
}

/// For how many more batches to wait, and how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wait {
    pub(super) batches: usize,
    pub(super) longest: Duration,
}

impl Gather {
    /// What to wait for, given the number of batches just answered.
    pub(super) fn plan(&mut self, answered: usize) -> Option<Wait> {
        if answered == 0 || answered > CROWD {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(Wait {
            batches: answered,
            longest: (self.commit / SHARE).min(LONGEST),
        })
    }

    /// What came of it: `came` of those waited for.
    pub(super) fn waited(&mut self, wait: Wait, came: usize) {
        if came * 2 >= wait.batches {
            self.next_skip = 0;
        } else {
            self.next_skip = (self.next_skip * 2).clamp(1, MOST_SKIPPED);
            self.skip = self.next_skip;
        }
    }

    /// How long the last commit took.
    pub(super) fn committed(&mut self, took: Duration) {
        self.commit = if self.commit.is_zero() {
            took
        } else {
            (self.commit * 7 + took) / 8
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_commits_of(millis: u64) -> Gather {
        let mut gather = Gather::default();
        gather.committed(Duration::from_millis(millis));
        gather
    }

    #[test]
    fn waits_for_those_just_answered_a_sixth_of_a_commit() {
        let mut gather = after_commits_of(3);
        let wait = gather.plan(2).unwrap();
        assert_eq!(
            wait,
            Wait {
                batches: 2,
                longest: Duration::from_micros(500)
            }
        );
        assert_eq!(after_commits_of(60).plan(1).unwrap().longest, LONGEST);
    }

    #[test]
    fn does_not_wait_for_nobody_or_for_a_crowd() {
        assert_eq!(after_commits_of(3).plan(0), None);
        assert_eq!(after_commits_of(3).plan(CROWD + 1), None);
    }

    #[test]
    fn waiting_in_vain_becomes_rare_and_success_resets_it() {
        let mut gather = after_commits_of(3);
        let mut tried = 0;
        for _ in 0..1000 {
            if let Some(wait) = gather.plan(3) {
                tried += 1;
                gather.waited(wait, 0);
            }
        }
        assert!(tried < 30, "{tried} waits in vain in 1000 groups");
        while gather.plan(3).is_none() {}
        gather.waited(
            Wait {
                batches: 3,
                longest: LONGEST,
            },
            2,
        );
        assert!(gather.plan(3).is_some() && gather.plan(3).is_some());
    }
}
