//! What time it is: from the gateway's NTP, never before what is known to be past.

use core::cell::Cell;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use sntpc::{NtpContext, NtpTimestampGenerator, NtpUdpSocket, get_time};

use crate::board::{Clock, Network};

/// The calendar over a clock that only counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970 that are certainly past.
    floor: u64,
    /// Milliseconds since 1970 at uptime zero, once known.
    start: Option<u64>,
}

/// A time that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("time {offered} is before {floor}, which is certainly past: check the gateway's clock")]
pub struct BeforeFloor {
    /// Seconds since 1970 that were offered.
    pub offered: u64,
    /// Seconds since 1970 that are past.
    pub floor: u64,
}

impl WallClock {
    /// Knows only that it is later than the firmware was built and than the last time it knew.
    #[must_use]
    pub fn new(built_at: u64, last_known: Option<u64>) -> Self {
        Self {
            floor: built_at.max(last_known.unwrap_or(0)),
            start: None,
        }
    }

    /// Sets the time: at `uptime` it was `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`BeforeFloor`]: then the time stays as it was, and unknown if it was unknown.
    pub fn set(&mut self, unix_ms: u64, uptime: Duration) -> Result<(), BeforeFloor> {
        let offered = unix_ms / 1000;
        if offered < self.floor {
            return Err(BeforeFloor {
                offered,
                floor: self.floor,
            });
        }
        self.start = Some(unix_ms.saturating_sub(millis(uptime)));
        Ok(())
    }

    /// Milliseconds since 1970 at this uptime; `None` as long as that is unknown.
    #[must_use]
    pub fn at(&self, uptime: Duration) -> Option<u64> {
        Some(self.start?.saturating_add(millis(uptime)))
    }

    /// Seconds since 1970 at this uptime; `None` as long as that is unknown.
    #[must_use]
    pub fn seconds(&self, uptime: Duration) -> Option<u64> {
        self.at(uptime).map(|ms| ms / 1000)
    }
}

/// Whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Asks an NTP server: milliseconds since 1970, as of the clock's uptime when this returns.
///
/// # Errors
///
/// [`NoTime`] says why there is none. The caller bounds the wait.
pub async fn ask(
    network: &impl Network,
    clock: &impl Clock,
    server: SocketAddr,
) -> Result<u64, NoTime> {
    // The request carries our time, which is unknown: the answer's offset is the time itself.
    let ours = Uptime {
        clock,
        now: Duration::ZERO,
    };
    let socket = Exchange {
        network,
        server,
        request: Cell::new([0; NTP_PACKET]),
    };
    let result = get_time(server, &socket, NtpContext::new(ours))
        .await
        .map_err(NoTime)?;
    let micros = i128::from(result.offset()) + clock.uptime().as_micros() as i128;
    u64::try_from(micros / 1000).map_err(|_| NoTime(sntpc::Error::IncorrectPayload))
}

/// The NTP server did not answer, or not sensibly.
#[derive(Debug)]
pub struct NoTime(sntpc::Error);

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gateway gave no time ({:?}): check that its NTP server runs and is reachable",
            self.0
        )
    }
}

impl core::error::Error for NoTime {}

/// Bytes of an SNTP packet (RFC 4330, section 4).
const NTP_PACKET: usize = 48;

struct Uptime<'a, C> {
    clock: &'a C,
    now: Duration,
}

impl<C> Clone for Uptime<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Uptime<'_, C> {}

impl<C: Clock> NtpTimestampGenerator for Uptime<'_, C> {
    fn init(&mut self) {
        self.now = self.clock.uptime();
    }

    fn timestamp_sec(&self) -> u64 {
        self.now.as_secs()
    }

    fn timestamp_subsec_micros(&self) -> u32 {
        self.now.subsec_micros()
    }
}

/// A network's round trip as the socket sntpc wants.
struct Exchange<'a, N> {
    network: &'a N,
    server: SocketAddr,
    request: Cell<[u8; NTP_PACKET]>,
}

impl<N: Network> NtpUdpSocket for Exchange<'_, N> {
    async fn send_to(&self, bytes: &[u8], _: SocketAddr) -> sntpc::Result<usize> {
        let request = bytes
            .try_into()
            .map_err(|_| sntpc::Error::IncorrectPayload)?;
        self.request.set(request);
        Ok(bytes.len())
    }

    async fn recv_from(&self, bytes: &mut [u8]) -> sntpc::Result<(usize, SocketAddr)> {
        self.network
            .exchange(self.server, &self.request.get(), bytes)
            .await
            .map(|len| (len, self.server))
            .map_err(|_| sntpc::Error::Network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUILT: u64 = 1_790_000_000;

    #[test]
    fn time_is_unknown_until_it_is_set() {
        let mut clock = WallClock::new(BUILT, None);
        assert_eq!(clock.at(Duration::from_secs(9)), None);
        clock
            .set((BUILT + 100) * 1000 + 7, Duration::from_secs(10))
            .unwrap();
        assert_eq!(clock.seconds(Duration::from_secs(15)), Some(BUILT + 105));
        assert_eq!(
            clock.at(Duration::from_secs(4)),
            Some((BUILT + 94) * 1000 + 7),
            "what was measured before is placed too"
        );
    }

    #[test]
    fn a_lying_clock_is_not_believed() {
        let mut clock = WallClock::new(BUILT, Some(BUILT + 50));
        let error = clock.set((BUILT + 49) * 1000, Duration::ZERO).unwrap_err();
        assert_eq!(error.floor, BUILT + 50);
        assert_eq!(clock.at(Duration::ZERO), None);
        clock.set((BUILT + 50) * 1000, Duration::ZERO).unwrap();
        assert!(clock.set(0, Duration::ZERO).is_err());
        assert_eq!(clock.seconds(Duration::ZERO), Some(BUILT + 50), "and stays");
    }

    proptest! {
        #[test]
        fn the_floor_holds_whatever_is_offered(built: u64, last: Option<u64>, offered: u64, up in 0u64..1 << 40) {
            let mut clock = WallClock::new(built, last);
            let up = Duration::from_millis(up);
            if clock.set(offered, up).is_ok() {
                prop_assert!(clock.seconds(up).unwrap() >= built.max(last.unwrap_or(0)) || offered < millis(up));
            } else {
                prop_assert_eq!(clock.at(up), None);
            }
        }
    }
}
