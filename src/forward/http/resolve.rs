//! Addresses of the backend, remembered.
//!
//! ureq asks for them before every request, also when a connection is at hand, and starts a thread
//! for it when there is a timeout. At thousands of requests per second that would be most of the
//! work.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ureq::{
    Error,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

/// How long addresses are used before they are asked for again: a common TTL of names that are moved
/// in operation. After a failed connection they are asked for at once.
const FRESH: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct CachedResolver {
    system: DefaultResolver,
    /// For the one host this upstream has.
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: ResolvedSocketAddrs,
    until: Instant,
}

impl CachedResolver {
    /// Ask again before the next connection.
    pub(super) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let stale = {
            let mut known = lock();
            if let Some(known) = known.as_mut() {
                if now < known.until {
                    return Ok(known.addresses.clone());
                }
                // The others go on with what there is while this one asks.
                known.until = now + FRESH;
            }
            known.clone()
        };
        match self.system.resolve(uri, config, timeout) {
            Ok(addresses) => {
                *lock() = Some(Known {
                    addresses: addresses.clone(),
                    until: now + FRESH,
                });
                Ok(addresses)
            }
            // A name server that is down must not take the backend with it.
            Err(error) => match (stale, error) {
                (Some(stale), _) => Ok(stale.addresses),
                (None, Error::Io(_)) => Err(Error::HostNotFound),
                (None, error) => Err(error),
            },
        }
    }
}

/// The resolver of one agent.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<CachedResolver>);

impl Resolver for Shared {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        self.0.resolve(uri, config, timeout)
    }
}
