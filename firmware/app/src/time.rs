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
    /// The gateway took a message for fresh that was signed with it.
    confirmed: bool,
}

/// A confirmed clock that is set and jumps by more than this, in milliseconds, is as good as one that
/// never was: crystals are off by seconds a day, the gateway takes 300 s for fresh.
const JUMP_MS: u64 = 60_000;

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
    pub const fn new(built_at: u64, last_known: Option<u64>) -> Self {
        let floor = match last_known {
            Some(known) if known > built_at => known,
            _ => built_at,
        };
        Self {
            floor,
            start: None,
            confirmed: false,
        }
    }

    /// Seconds since 1970 that are certainly past.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
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
        let start = unix_ms.saturating_sub(millis(uptime));
        let jump = self.start.is_none_or(|old| old.abs_diff(start) > JUMP_MS);
        self.confirmed &= !jump;
        self.start = Some(start);
        Ok(())
    }

    /// The gateway, proven by its certificate, took a message for fresh: the time is right. NTP alone
    /// proves nothing, anyone on the way can answer. A lie must not outlast the next answer, and least
    /// of all be stored.
    pub const fn confirm(&mut self) {
        self.confirmed = self.start.is_some();
    }

    /// The gateway finds it wrong.
    pub const fn doubt(&mut self) {
        self.confirmed = false;
    }

    /// Whether it is more than what somebody said.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.confirmed
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
/// NTP tells time modulo 136 years (RFC 5905, section 6); the answer is the one within 68 years of
/// `about`, which is in seconds since 1970: the [floor](WallClock::floor) will do.
///
/// # Errors
///
/// [`NoTime`] says why there is none. The caller bounds the wait.
pub async fn ask(
    network: &impl Network,
    clock: &impl Clock,
    server: SocketAddr,
    about: u64,
) -> Result<u64, NoTime> {
    // The request carries our time, which may be far off: the answer says how far.
    let about = Duration::from_secs(about);
    let ours = Guess {
        clock,
        about,
        now: about,
    };
    let socket = Exchange {
        network,
        server,
        request: Cell::new([0; NTP_PACKET]),
    };
    let result = get_time(server, &socket, NtpContext::new(ours))
        .await
        .map_err(NoTime)?;
    let guess = about.saturating_add(clock.uptime()).as_micros();
    let micros = i128::from(result.offset()).saturating_add_unsigned(guess);
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

/// What we believe the time to be.
struct Guess<'a, C> {
    clock: &'a C,
    about: Duration,
    now: Duration,
}

impl<C> Clone for Guess<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Guess<'_, C> {}

impl<C: Clock> NtpTimestampGenerator for Guess<'_, C> {
    fn init(&mut self) {
        self.now = self.about.saturating_add(self.clock.uptime());
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

    /// Seconds from 1900, where NTP counts from, to 1970.
    const NTP_EPOCH: u64 = 2_208_988_800;

    struct Server {
        /// Milliseconds since 1970.
        time: u64,
        spoil: Option<usize>,
    }

    struct NoTcp;

    impl embedded_io_async::ErrorType for NoTcp {
        type Error = core::convert::Infallible;
    }

    impl embedded_io_async::Read for NoTcp {
        async fn read(&mut self, _: &mut [u8]) -> Result<usize, Self::Error> {
            Ok(0)
        }
    }

    impl embedded_io_async::Write for NoTcp {
        async fn write(&mut self, _: &[u8]) -> Result<usize, Self::Error> {
            Ok(0)
        }

        async fn flush(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    impl Network for Server {
        type Error = ();
        type Tcp<'a> = NoTcp;

        async fn ready(&self) {}

        async fn resolve(&self, _: &str) -> Result<core::net::IpAddr, ()> {
            Err(())
        }

        async fn connect(&self, _: SocketAddr) -> Result<NoTcp, ()> {
            Err(())
        }

        async fn exchange(
            &self,
            _: SocketAddr,
            request: &[u8],
            answer: &mut [u8],
        ) -> Result<usize, ()> {
            let answer = &mut answer[..NTP_PACKET];
            answer.fill(0);
            // Version 4, server, stratum 1.
            answer[0] = 0x24;
            answer[1] = 1;
            // The epoch's number is lost, as on the wire.
            let time = ((self.time / 1000 + NTP_EPOCH) << 32) + (((self.time % 1000) << 32) / 1000);
            answer[24..32].copy_from_slice(&request[40..48]);
            answer[32..40].copy_from_slice(&time.to_be_bytes());
            answer[40..48].copy_from_slice(&time.to_be_bytes());
            if let Some(at) = self.spoil {
                answer[at] ^= 0xff;
            }
            Ok(NTP_PACKET)
        }
    }

    struct Still(Duration);

    impl Clock for Still {
        fn uptime(&self) -> Duration {
            self.0
        }

        async fn sleep_until(&self, _: Duration) {}
    }

    fn asked(server: &Server, uptime: Duration) -> Result<u64, NoTime> {
        let address = SocketAddr::from(([10, 0, 2, 2], 123));
        crate::memory_flash::wait(ask(server, &Still(uptime), address, BUILT))
    }

    #[test]
    fn the_answer_is_the_time() {
        for uptime in [0, 1, 12_345, 40 * 24 * 3_600_000] {
            // The last is past 2036, when NTP's seconds start anew.
            for time in [BUILT * 1000, BUILT * 1000 + 678, 2_500_000_000_000] {
                let got =
                    asked(&Server { time, spoil: None }, Duration::from_millis(uptime)).unwrap();
                assert!(got.abs_diff(time) <= 1, "{got} for {time} at {uptime}");
            }
        }
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        for at in 24..32 {
            let server = Server {
                time: BUILT * 1000,
                spoil: Some(at),
            };
            assert!(asked(&server, Duration::from_secs(5)).is_err(), "byte {at}");
        }
    }

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

    #[test]
    fn a_time_is_confirmed_until_it_jumps() {
        let mut clock = WallClock::new(BUILT, None);
        clock.confirm();
        assert!(!clock.is_confirmed(), "there is none yet");
        let now = BUILT * 1000 + 500_000;
        clock.set(now, Duration::from_secs(10)).unwrap();
        assert!(!clock.is_confirmed(), "somebody said so");
        clock.confirm();
        clock.set(now + 62_000, Duration::from_secs(70)).unwrap();
        assert!(clock.is_confirmed(), "two seconds off in a minute");
        let years = 9 * 365 * 86_400_000;
        clock.set(now + years, Duration::from_secs(80)).unwrap();
        assert!(!clock.is_confirmed());
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
