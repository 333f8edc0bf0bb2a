//! The host as a board: tokio, the operating system's clock and random numbers.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use embedded_io_async::{ErrorType, Read, Write};
use tidegate_app::board::{Board, BootReason, Clock, Network, Notice, Random, System};
use tidegate_app::update::slots::PartitionSlots;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use crate::firmware::{Behaviour, Firmware};
use crate::flash::Flash;

/// The host.
#[derive(Debug)]
pub struct Host;

impl Board for Host {
    type Network = HostNetwork;
    type Clock = HostClock;
    type Random = HostRandom;
    type Flash = Flash;
    type Buffer = Flash;
    type Slots = PartitionSlots<Flash>;
    type System = HostSystem;
}

/// tokio's sockets.
#[derive(Debug, Clone)]
pub struct HostNetwork {
    /// Where the gateway really is, if not where the bundle says: for tests, and for a gateway
    /// whose name is not in the DNS yet.
    pub gateway: Option<IpAddr>,
    /// What the firmware makes of it.
    pub behaviour: Behaviour,
    /// Told when the firmware fails.
    pub failed: Rc<tokio::sync::Notify>,
}

impl Network for HostNetwork {
    type Error = io::Error;
    type Tcp<'a> = Tcp;

    async fn ready(&self) {}

    async fn resolve(&self, host: &str) -> io::Result<IpAddr> {
        if let Some(address) = self.gateway {
            return Ok(address);
        }
        let mut addresses = lookup_host((host, 0)).await?;
        let first = addresses.next().map(|address| address.ip());
        first.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Tcp> {
        match self.behaviour {
            Behaviour::Healthy | Behaviour::CrashesAtStart => {}
            Behaviour::Unreachable => return Err(io::ErrorKind::NetworkUnreachable.into()),
            Behaviour::Crashes | Behaviour::Hangs => {
                self.failed.notify_one();
                return std::future::pending().await;
            }
        }
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Tcp(stream))
    }

    async fn exchange(
        &self,
        to: SocketAddr,
        request: &[u8],
        answer: &mut [u8],
    ) -> io::Result<usize> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        socket.send(request).await?;
        socket.recv(answer).await
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp(TcpStream);

impl ErrorType for Tcp {
    type Error = io::Error;
}

impl Read for Tcp {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }
}

impl Write for Tcp {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

/// tokio's timer.
#[derive(Debug, Clone, Copy)]
pub struct HostClock(Instant);

impl Default for HostClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for HostClock {
    fn uptime(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep_until(&self, uptime: Duration) {
        // "Never" is beyond what an instant can hold.
        match self.0.checked_add(uptime) {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostRandom;

impl Random for HostRandom {
    #[expect(
        clippy::expect_used,
        reason = "without randomness there is nothing safe to go on with"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system has random numbers");
    }
}

/// The process.
#[derive(Debug, Clone)]
pub struct HostSystem {
    /// Set when the device restarted.
    pub restarted: Rc<Cell<bool>>,
    /// Why it started.
    pub reason: BootReason,
    /// What runs.
    pub firmware: Firmware,
    /// The device is to stop.
    pub stop: Rc<Stop>,
    /// Who is told what happens to it.
    pub watcher: Watcher,
}

/// Is told what happens to a device, from within it: it must not wait.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<dyn Fn(Notice) + Send + Sync>>);

impl Watcher {
    /// One that calls this.
    pub fn new(told: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// One that calls this and then tells `self`.
    pub(crate) fn after(self, told: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self::new(move |notice| {
            told(notice);
            if let Some(own) = &self.0 {
                own(notice);
            }
        })
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

/// Tells a device to say goodbye and end.
#[derive(Debug, Default)]
pub struct Stop {
    asked: Cell<bool>,
    notify: tokio::sync::Notify,
}

impl Stop {
    /// Asks for it.
    pub fn ask(&self) {
        self.asked.set(true);
        self.notify.notify_waiters();
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.get()
    }

    pub(crate) async fn wait(&self) {
        let notified = self.notify.notified();
        if !self.asked() {
            notified.await;
        }
    }
}

impl System for HostSystem {
    fn board(&self) -> &'static str {
        "host"
    }

    fn version(&self) -> &str {
        &self.firmware.version
    }

    fn security_version(&self) -> u32 {
        self.firmware.security_version
    }

    fn built_at(&self) -> u64 {
        // The operating system's clock is trusted: there is nothing to protect it from.
        0
    }

    fn boot_reason(&self) -> BootReason {
        self.reason
    }

    fn free_heap(&self) -> Option<u32> {
        None
    }

    fn trusted_time(&self) -> Option<u64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    async fn stop_requested(&self) {
        self.stop.wait().await;
    }

    fn notice(&self, notice: Notice) {
        if let Watcher(Some(told)) = &self.watcher {
            told(notice);
        }
    }

    fn restart(&self) {
        self.restarted.set(true);
    }
}
