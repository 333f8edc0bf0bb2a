//! Whether a message is from now.

/// Whether `timestamp` is within `tolerance_s` of `now`, either way; all in seconds since 1970.
///
/// Exactly the tolerance is still fresh. Nothing overflows, whatever a sender writes.
#[must_use]
pub const fn fresh(timestamp: u64, now: u64, tolerance_s: u64) -> bool {
    timestamp.abs_diff(now) <= tolerance_s
}

#[cfg(test)]
mod tests {
    use super::fresh;

    #[test]
    fn either_way_and_at_the_edges() {
        let now = 1_727_712_000;
        assert!(fresh(now, now, 0));
        assert!(fresh(now - 300, now, 300) && fresh(now + 300, now, 300));
        assert!(!fresh(now - 301, now, 300) && !fresh(now + 301, now, 300));
        assert!(!fresh(u64::MAX, 0, 300) && !fresh(0, u64::MAX, 300));
    }
}
