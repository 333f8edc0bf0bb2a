//! How many connections there may be, in all and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use super::Shared;
use crate::config::Limits;

/// Counts connections from accept to close, and handshakes under way.
#[derive(Debug)]
pub(super) struct Admission {
    counts: Mutex<Counts>,
    connections: usize,
    per_address: u32,
    pub(super) handshakes: Semaphore,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, u32>,
}

/// One admitted connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    shared: Arc<Shared>,
    address: IpAddr,
}

/// What counts as one address: for IPv6 a /64, which is what one site has.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            counts: Mutex::default(),
            connections: limits.connections as usize,
            per_address: limits.connections_per_address,
            handshakes: Semaphore::new(limits.handshakes as usize),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, address: IpAddr) -> bool {
        let mut counts = self.lock();
        if counts.all >= self.connections {
            return false;
        }
        let from_here = counts.by_address.entry(address).or_default();
        if *from_here >= self.per_address {
            return false;
        }
        *from_here += 1;
        counts.all += 1;
        true
    }

    fn leave(&self, address: IpAddr) {
        let mut counts = self.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(from_here) = counts.by_address.get_mut(&address) {
            *from_here -= 1;
            if *from_here == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

impl Admitted {
    /// Admits a connection, or not.
    pub(super) fn new(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let address = site(address);
        shared.admission.enter(address).then(|| Self {
            shared: shared.clone(),
            address,
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.admission.leave(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_are_given_back() {
        let limits = Limits {
            connections: 3,
            connections_per_address: 2,
            ..Limits::default()
        };
        let admission = Admission::new(&limits);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|text| site(text.parse().unwrap()));
        assert!(admission.enter(a) && admission.enter(a));
        assert!(!admission.enter(a), "two per address");
        assert!(admission.enter(b));
        assert!(!admission.enter(b), "three in all");
        admission.leave(a);
        assert!(admission.enter(b) && !admission.enter(a));
    }

    #[test]
    fn a_site_is_one_address() {
        let site = |text: &str| site(text.parse().unwrap());
        assert_eq!(site("2001:db8::1"), site("2001:db8::ffff:1"));
        assert_ne!(site("2001:db8:0:1::1"), site("2001:db8::1"));
        assert_eq!(site("::ffff:10.0.0.1"), site("10.0.0.1"));
    }
}
