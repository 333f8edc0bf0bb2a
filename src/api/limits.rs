//! How often one may call. Pure: time is an argument.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// So many calls per second, and so many at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Allowance {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

/// Token buckets for callers of any kind, at most `most` of them in memory.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    allowance: Allowance,
    most: usize,
    buckets: HashMap<K, Bucket>,
}

/// Rather than tokens, the time at which the bucket will be full again: nothing needs refilling.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub(super) fn new(allowance: Allowance, most: usize) -> Self {
        Self {
            allowance,
            most,
            buckets: HashMap::new(),
        }
    }

    /// Takes one call from the caller's allowance.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub(super) fn take(&mut self, caller: K, now: Instant) -> Result<(), Duration> {
        let each = Duration::from_secs(1) / self.allowance.per_second.max(1);
        let room = each * self.allowance.burst.max(1);
        if !self.buckets.contains_key(&caller) && self.buckets.len() >= self.most {
            self.make_room(now);
        }
        let bucket = self
            .buckets
            .entry(caller)
            .or_insert(Bucket { full_at: now });
        let full_at = bucket.full_at.max(now) + each;
        let wait = full_at.saturating_duration_since(now + room);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        bucket.full_at = full_at;
        Ok(())
    }

    /// Forgets everyone whose allowance is whole, who loses nothing by it. If that is nobody, forgets
    /// the one who used the least: whoever floods us from many addresses at once then is held back by
    /// the bounds on what follows, not by this one.
    fn make_room(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        if self.buckets.len() >= self.most
            && let Some(least) = self
                .buckets
                .iter()
                .min_by_key(|(_, bucket)| bucket.full_at)
                .map(|(k, _)| k.clone())
        {
            self.buckets.remove(&least);
        }
    }
}

/// What counts as one address: for IPv6 the /64 network, which is what one customer is given.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut buckets = Buckets::new(
            Allowance {
                per_second: 10,
                burst: 20,
            },
            8,
        );
        for _ in 0..20 {
            buckets.take("a", start).unwrap();
        }
        assert_eq!(buckets.take("a", start), Err(SECOND / 10));
        buckets.take("b", start).unwrap();
        for tick in 1..=10 {
            buckets.take("a", start + SECOND / 10 * tick).unwrap();
            assert!(buckets.take("a", start + SECOND / 10 * tick).is_err());
        }
        for _ in 0..20 {
            buckets.take("a", start + 60 * SECOND).unwrap();
        }
        assert!(
            buckets.take("a", start + 60 * SECOND).is_err(),
            "it fills up, but not over"
        );
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_are_remembered() {
        let start = Instant::now();
        let mut buckets = Buckets::new(
            Allowance {
                per_second: 1,
                burst: 3,
            },
            4,
        );
        for _ in 0..3 {
            buckets.take(0, start).unwrap();
        }
        for other in 1..1_000 {
            buckets.take(other, start).unwrap();
            assert!(buckets.buckets.len() <= 4);
        }
        assert!(
            buckets.take(0, start).is_err(),
            "not washed out by the others"
        );
    }

    #[test]
    fn one_customer_is_one_network() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(net("2001:db8:1:2:3::1"), net("2001:db8:1:2:ffff::2"));
        assert_ne!(net("2001:db8:1:2::1"), net("2001:db8:1:3::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
    }
}
