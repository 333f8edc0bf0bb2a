//! The disk budget: how much of the disk the database may use, and what happens at the edge.

/// What is left for settling, deleting and commands once new messages are refused: a share of the
/// budget, within bounds. Settling writes before it frees.
const RESERVE_SHARE: u64 = 8;
const RESERVE_MIN: u64 = 1 << 20;
const RESERVE_MAX: u64 = 64 << 20;

/// New messages are accepted again when this share of what they may use is free, so that the edge is
/// not crossed with every message.
const HYSTERESIS_SHARE: u64 = 16;

/// Whether there is room for new messages. Pure; fed with measurements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    limit: u64,
    used: u64,
    full: bool,
}

/// The budget's edge was crossed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Crossing {
    Full,
    Room,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            full: false,
        }
    }

    /// Bytes new messages may fill.
    pub(super) fn usable(&self) -> u64 {
        let reserve = (self.limit / RESERVE_SHARE).clamp(RESERVE_MIN, RESERVE_MAX);
        self.limit.saturating_sub(reserve.min(self.limit / 2))
    }

    pub(super) fn full(&self) -> bool {
        self.full
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Takes a measurement of the bytes in use.
    pub(super) fn measured(&mut self, used: u64) -> Option<Crossing> {
        self.used = used;
        let usable = self.usable();
        if !self.full && used >= usable {
            self.full = true;
            return Some(Crossing::Full);
        }
        if self.full && used <= usable - usable / HYSTERESIS_SHARE {
            self.full = false;
            return Some(Crossing::Room);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_before_the_limit_and_recovers_with_hysteresis() {
        let mut budget = Budget::new(64 << 20);
        let usable = budget.usable();
        assert_eq!(usable, 56 << 20, "an eighth is kept for settling");
        assert_eq!(budget.measured(usable - 1), None);
        assert_eq!(budget.measured(usable), Some(Crossing::Full));
        assert_eq!(budget.measured(usable - 1), None, "one byte is not room");
        assert!(budget.full());
        assert_eq!(budget.measured(usable / 16 * 15), Some(Crossing::Room));
        assert!(!budget.full());
    }

    #[test]
    fn a_tiny_budget_still_leaves_something_to_use() {
        assert_eq!(Budget::new(1 << 20).usable(), 1 << 19);
        assert_eq!(Budget::new(0).usable(), 0);
    }
}
