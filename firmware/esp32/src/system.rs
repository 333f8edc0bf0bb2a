//! Boot reason, watchdog, random numbers.

use core::cell::RefCell;

use esp_hal::peripherals::RTC_TIMER;
use esp_hal::rng::Trng;
use esp_hal::rtc_cntl::{Rtc, RwdtStage, RwdtStageAction, reset_reason};
use esp_hal::system::Cpu;
use esp_hal::time::Duration;
use tidegate_app::board::{BootReason, Random, System};
use tidegate_embassy::{BUILT_AT, SECURITY_VERSION, VERSION};

use crate::memory;

/// The device feeds the watchdog every five seconds. A handshake on the slowest chip takes two, an
/// erased page 50 ms: whoever is silent for this long is stuck.
const WATCHDOG: Duration = Duration::from_secs(60);

/// The firmware panicked before this start. It outlasts a reset, not a loss of power.
#[esp_hal::ram(unstable(rtc_fast, persistent))]
static mut PANICKED: u32 = 0;

/// Not by chance in memory that was never written.
const YES: u32 = 0x7a11_1c3d;

fn note_panic(value: u32) -> u32 {
    let flag = &raw mut PANICKED;
    // SAFETY: it is a word of memory with no invariants; only the one task and a panic, which is
    // the last thing that happens, touch it.
    unsafe {
        let before = flag.read_volatile();
        flag.write_volatile(value);
        before
    }
}

/// What esp-backtrace does after it has told of the panic.
#[unsafe(no_mangle)]
extern "Rust" fn custom_halt() -> ! {
    note_panic(YES);
    esp_hal::system::software_reset()
}

/// Facts about the board.
pub(crate) struct EspSystem {
    rtc: RefCell<Rtc<'static>>,
    reason: BootReason,
}

impl EspSystem {
    /// Starts the watchdog.
    pub(crate) fn new(timer: RTC_TIMER<'static>) -> Self {
        let mut rtc = Rtc::new(timer);
        rtc.rwdt.set_timeout(RwdtStage::Stage0, WATCHDOG);
        rtc.rwdt
            .set_stage_action(RwdtStage::Stage0, RwdtStageAction::ResetSystem);
        rtc.rwdt.enable();
        let panicked = note_panic(0) == YES;
        Self {
            rtc: RefCell::new(rtc),
            reason: why(panicked),
        }
    }
}

/// The chips name their reasons differently and number them alike.
fn why(panicked: bool) -> BootReason {
    match reset_reason(Cpu::ProCpu).map(|reason| reason as u32) {
        Some(0x01) => BootReason::PowerOn,
        Some(0x03 | 0x0c) if panicked => BootReason::Panic,
        Some(0x03 | 0x0c) => BootReason::Software,
        Some(0x05) => BootReason::DeepSleep,
        Some(0x07..=0x09 | 0x0b | 0x0d | 0x10..=0x12) => BootReason::Watchdog,
        Some(0x0f) => BootReason::Brownout,
        _ => BootReason::Unknown,
    }
}

impl System for EspSystem {
    fn board(&self) -> &'static str {
        esp_hal::chip!()
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn security_version(&self) -> u32 {
        SECURITY_VERSION
    }

    fn built_at(&self) -> u64 {
        BUILT_AT
    }

    fn boot_reason(&self) -> BootReason {
        self.reason
    }

    fn free_heap(&self) -> Option<u32> {
        u32::try_from(memory::free()).ok()
    }

    fn alive(&self) {
        self.rtc.borrow_mut().rwdt.feed();
    }

    fn restart(&self) {
        esp_hal::system::software_reset()
    }
}

/// The hardware generator, fed by the radio's noise.
pub(crate) struct EspRandom(Trng);

/// The generator has no source of entropy.
#[derive(Debug, thiserror::Error)]
#[error("random numbers have no source of entropy: the radio must be on")]
pub(crate) struct NoEntropy;

impl EspRandom {
    /// Once the radio is on.
    pub(crate) fn new() -> Result<Self, NoEntropy> {
        Trng::try_new().map(Self).map_err(|_| NoEntropy)
    }
}

impl Random for EspRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.read(bytes);
    }
}
