//! What a board provides: network, clock, randomness, flash, update slots, and facts about itself.
//!
//! Everything takes `&self` or is used by one future at a time: the whole device is one task, so
//! nothing here needs to be `Send`, and no implementation needs a lock.

use core::fmt::Debug;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use embedded_io_async::{Read, Write};
use embedded_storage_async::nor_flash::{MultiwriteNorFlash, NorFlash};

use crate::update::Timing;

/// The types one board is made of; [`Parts`] holds the values.
pub trait Board {
    /// Its network stack.
    type Network: Network;
    /// Its clock and timer.
    type Clock: Clock;
    /// Its random numbers.
    type Random: Random;
    /// The partitions `credentials` and `state`. Erased bytes read as 0xFF.
    type Flash: NorFlash;
    /// The partition `buffer`. It holds readings and no secrets, so it need not be encrypted, which
    /// is what allows words to be written twice.
    type Buffer: MultiwriteNorFlash;
    /// Where firmware images go.
    type Slots: UpdateSlots;
    /// The rest.
    type System: System;
}

/// One board, ready to run.
#[derive(Debug)]
pub struct Parts<B: Board> {
    /// Network stack, joined or joining.
    pub network: B::Network,
    /// Clock and timer.
    pub clock: B::Clock,
    /// Cryptographic random numbers.
    pub random: B::Random,
    /// The partition `credentials`: at least two erase pages, half of them for each set. 16 KiB on
    /// a board with 4 KiB pages.
    pub credentials: B::Flash,
    /// The partition `state`: at least two erase pages, 16 KiB and more for endurance.
    pub state: B::Flash,
    /// The partition `buffer`: at least two erase pages; its size decides how many readings outlast
    /// how long an outage (about 100 bytes each).
    pub buffer: B::Buffer,
    /// Update slots.
    pub slots: B::Slots,
    /// Boot reason, free heap, restart.
    pub system: B::System,
    /// When updates are looked for: [`Timing::USUAL`] but in tests.
    pub timing: Timing,
}

/// A network stack: TCP, one-shot UDP, names.
///
/// Over `embassy-net`: `TcpClient::connect`, `DnsSocket::query` and a short-lived `UdpSocket`; over
/// tokio: `TcpStream`, `lookup_host`, `UdpSocket`.
pub trait Network {
    /// What went wrong, for the log.
    type Error: Debug;
    /// A TCP connection.
    ///
    /// Its `read` and `write` futures are created, polled once and dropped, reads and writes in
    /// turn; dropping one must lose no bytes, and the waker of its last poll must stay registered.
    /// Both hold for `embassy-net`'s and tokio's sockets.
    type Tcp<'a>: Read + Write
    where
        Self: 'a;

    /// Waits for a link and an address.
    async fn ready(&self);

    /// The address of a host name. Literal addresses never get here.
    ///
    /// # Errors
    ///
    /// No such name, or no answer.
    async fn resolve(&self, host: &str) -> Result<IpAddr, Self::Error>;

    /// Connects. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// Refused, unreachable, out of sockets.
    async fn connect(&self, to: SocketAddr) -> Result<Self::Tcp<'_>, Self::Error>;

    /// Sends one datagram and waits for one from the same address; returns its length. The caller
    /// bounds the time.
    ///
    /// # Errors
    ///
    /// The datagram cannot be sent, or the answer is larger than `answer`.
    async fn exchange(
        &self,
        to: SocketAddr,
        request: &[u8],
        answer: &mut [u8],
    ) -> Result<usize, Self::Error>;

    /// Strength of the radio signal in dBm; `None` on a wire.
    fn rssi(&self) -> Option<i8> {
        None
    }
}

/// Time since the board started, and a way to wait for it. Knows nothing of the calendar.
pub trait Clock {
    /// Time since start; never goes back.
    fn uptime(&self) -> Duration;

    /// Waits until the uptime is at least this.
    async fn sleep_until(&self, uptime: Duration);
}

/// Random numbers fit for keys: a hardware generator with its entropy source on, or the operating
/// system's.
pub trait Random {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// Why the board started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootReason {
    /// Power was applied.
    PowerOn,
    /// The firmware asked for it.
    Software,
    /// A watchdog bit.
    Watchdog,
    /// The supply voltage dipped.
    Brownout,
    /// The firmware panicked.
    Panic,
    /// Woken from deep sleep.
    DeepSleep,
    /// The board cannot tell.
    Unknown,
}

impl BootReason {
    /// As it is reported.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PowerOn => "power_on",
            Self::Software => "software",
            Self::Watchdog => "watchdog",
            Self::Brownout => "brownout",
            Self::Panic => "panic",
            Self::DeepSleep => "deep_sleep",
            Self::Unknown => "unknown",
        }
    }
}

/// Facts about the board, and its restart.
pub trait System {
    /// Board and chip, such as `esp32c3`.
    fn board(&self) -> &'static str;

    /// The chip that images are built for, as releases name it, such as `esp32c3`.
    fn chip(&self) -> &'static str {
        self.board()
    }

    /// Version of the firmware image: semantic, without a build part.
    fn version(&self) -> &str;

    /// Security version of the firmware image: raised when what came before must never run again.
    fn security_version(&self) -> u32 {
        0
    }

    /// When the image was built, in seconds since 1970: the earliest time that can be true.
    fn built_at(&self) -> u64;

    /// Why it started this time.
    fn boot_reason(&self) -> BootReason;

    /// Free heap in bytes, if the board counts it.
    fn free_heap(&self) -> Option<u32>;

    /// Milliseconds since 1970 from a clock that is trusted already, such as an operating system's.
    /// Boards without one say `None` and are asked to reach the gateway's NTP.
    fn trusted_time(&self) -> Option<u64> {
        None
    }

    /// Something happened that whoever watches the device may want to know, such as a program it
    /// runs in. Called from within the device: it must not wait.
    fn notice(&self, _: Notice) {}

    /// Feeds the watchdog: called at least every ten seconds while the device makes progress.
    fn alive(&self) {}

    /// Resolves when the device is to say goodbye and end: before the power is cut on purpose, or
    /// when a program is stopped. Boards that just lose power leave it as it is.
    async fn stop_requested(&self) {
        core::future::pending::<()>().await;
    }

    /// Restarts the board. On a board it does not return; where it does, the app ends.
    fn restart(&self);
}

/// What a device tells its board in passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The gateway let the device in.
    Connected,
    /// The gateway accepted a message that was measured while there was a connection, this long
    /// after it was measured.
    Accepted(Duration),
    /// The backend's response to a message came.
    Response,
}

/// What the boot loader thinks of the running image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootState {
    /// It was confirmed, or written by wire.
    Confirmed,
    /// First start after an update: without [`UpdateSlots::confirm`] the next start takes the
    /// other slot.
    Trial,
    /// An update did not confirm itself; this is the image from before.
    RolledBack,
}

impl BootState {
    /// As it is reported.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Trial => "trial",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Two places for a firmware image: the one that runs, and the other.
pub trait UpdateSlots {
    /// What went wrong, for the log.
    type Error: Debug;

    /// The slot that runs, 0 or 1.
    fn running(&self) -> u8;

    /// Whether the running image has proven itself.
    ///
    /// # Errors
    ///
    /// The boot loader's record cannot be read.
    async fn boot_state(&mut self) -> Result<BootState, Self::Error>;

    /// Bytes that fit into the inactive slot; 0 if there is none.
    fn capacity(&self) -> u32;

    /// Erases the inactive slot from `offset` on for `length` bytes, both multiples of the erase
    /// size [`erase_size`](Self::erase_size).
    ///
    /// # Errors
    ///
    /// Out of the slot, or the flash failed.
    async fn erase(&mut self, offset: u32, length: u32) -> Result<(), Self::Error>;

    /// Bytes that are erased at once.
    fn erase_size(&self) -> u32;

    /// Writes erased bytes of the inactive slot; `offset` and length are multiples of 16.
    ///
    /// # Errors
    ///
    /// Out of the slot, or the flash failed.
    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Reads back from the inactive slot.
    ///
    /// # Errors
    ///
    /// Out of the slot, or the flash failed.
    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Makes the next start take the inactive slot, on trial.
    ///
    /// # Errors
    ///
    /// The boot loader's record cannot be written.
    async fn activate(&mut self) -> Result<(), Self::Error>;

    /// Says that the running image works; also once an update was rolled back, to start anew.
    ///
    /// # Errors
    ///
    /// The boot loader's record cannot be written.
    async fn confirm(&mut self) -> Result<(), Self::Error>;

    /// Says that the running image does not work: the next start takes the other slot, which holds
    /// the image from before.
    ///
    /// # Errors
    ///
    /// The boot loader's record cannot be written.
    async fn revert(&mut self) -> Result<(), Self::Error>;
}

/// For boards without slots: the image was written by wire and stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSlots;

/// A board without slots was asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this board has no update slots: flash it by wire")]
pub struct NoSuchSlot;

impl UpdateSlots for NoSlots {
    type Error = NoSuchSlot;

    fn running(&self) -> u8 {
        0
    }

    async fn boot_state(&mut self) -> Result<BootState, NoSuchSlot> {
        Ok(BootState::Confirmed)
    }

    fn capacity(&self) -> u32 {
        0
    }

    async fn erase(&mut self, _: u32, _: u32) -> Result<(), NoSuchSlot> {
        Err(NoSuchSlot)
    }

    fn erase_size(&self) -> u32 {
        4096
    }

    async fn write(&mut self, _: u32, _: &[u8]) -> Result<(), NoSuchSlot> {
        Err(NoSuchSlot)
    }

    async fn read(&mut self, _: u32, _: &mut [u8]) -> Result<(), NoSuchSlot> {
        Err(NoSuchSlot)
    }

    async fn activate(&mut self) -> Result<(), NoSuchSlot> {
        Err(NoSuchSlot)
    }

    async fn confirm(&mut self) -> Result<(), NoSuchSlot> {
        Ok(())
    }

    async fn revert(&mut self) -> Result<(), NoSuchSlot> {
        Err(NoSuchSlot)
    }
}
