//! All of it together, as the device wants it.

use core::cell::RefCell;
use core::convert::Infallible;

use embassy_time::Delay;
use embedded_hal::digital::{ErrorType as DigitalErrorType, InputPin};
use embedded_hal::pwm::{ErrorType as PwmErrorType, SetDutyCycle};
use portable_atomic::Ordering;
use tidegate_app::board::{Board, BootReason, Random, System};
use tidegate_app::profile::{
    Actuators, AnalogIn, Button, Dashboard, Led, Profile, SensorFault, Sensors,
};
use tidegate_app::update::slots::PartitionSlots;
use tidegate_embassy::{
    BUILT_AT, EmbassyClock, EmbassyNetwork, Partition, SECURITY_VERSION, VERSION,
};

use crate::console::{MOVED, POTENTIOMETER, PRESSED};
use crate::flash::BlockFlash;
use crate::machine::exit;
use crate::restart::{self, Restart};
use crate::virtio::Entropy;
use crate::{memory, time};

/// The board.
pub(crate) struct Virt;

impl Board for Virt {
    type Network = EmbassyNetwork;
    type Clock = EmbassyClock;
    type Random = VirtRandom;
    type Flash = Partition<BlockFlash>;
    type Buffer = Partition<BlockFlash>;
    type Slots = PartitionSlots<Partition<BlockFlash>>;
    type System = VirtSystem;
}

/// virtio-rng, which passes on the host's random numbers.
pub(crate) struct VirtRandom(RefCell<Entropy>);

impl VirtRandom {
    pub(crate) const fn new(device: Entropy) -> Self {
        Self(RefCell::new(device))
    }
}

impl Random for VirtRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut device = self.0.borrow_mut();
        let mut rest = bytes;
        while !rest.is_empty() {
            match device.request_entropy(rest) {
                Ok(len) => rest = rest.get_mut(len..).unwrap_or(&mut []),
                Err(error) => {
                    // Without randomness there is nothing safe to go on with.
                    log::error!("virtio-rng: {error}");
                    exit(1);
                }
            }
        }
    }
}

/// Facts about the board.
pub(crate) struct VirtSystem {
    reason: BootReason,
}

impl VirtSystem {
    /// Once.
    pub(crate) fn new() -> Self {
        Self {
            reason: restart::reason(),
        }
    }
}

impl System for VirtSystem {
    fn board(&self) -> &'static str {
        "virt"
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
        time::feed();
    }

    fn restart(&self) {
        restart::restart(Restart::Software)
    }
}

/// What is "wired" to the board: the serial port.
pub(crate) fn profile() -> Profile<impl Sensors, impl Actuators> {
    Dashboard::profile(Typed, Button::new(Typed, Delay), Led::new(Shown(0)))
}

/// Potentiometer and switch, as they were last typed.
struct Typed;

impl AnalogIn for Typed {
    async fn read(&mut self) -> Result<u16, SensorFault> {
        Ok(POTENTIOMETER.load(Ordering::Relaxed))
    }
}

impl DigitalErrorType for Typed {
    type Error = Infallible;
}

impl InputPin for Typed {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(!PRESSED.load(Ordering::Relaxed))
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(PRESSED.load(Ordering::Relaxed))
    }
}

impl Typed {
    async fn wait_until(&mut self, pressed: bool) {
        while PRESSED.load(Ordering::Relaxed) != pressed {
            MOVED.wait().await;
        }
    }
}

impl embedded_hal_async::digital::Wait for Typed {
    async fn wait_for_high(&mut self) -> Result<(), Infallible> {
        self.wait_until(false).await;
        Ok(())
    }

    async fn wait_for_low(&mut self) -> Result<(), Infallible> {
        self.wait_until(true).await;
        Ok(())
    }

    async fn wait_for_rising_edge(&mut self) -> Result<(), Infallible> {
        self.wait_until(true).await;
        self.wait_for_high().await
    }

    async fn wait_for_falling_edge(&mut self) -> Result<(), Infallible> {
        self.wait_until(false).await;
        self.wait_for_low().await
    }

    async fn wait_for_any_edge(&mut self) -> Result<(), Infallible> {
        let now = PRESSED.load(Ordering::Relaxed);
        self.wait_until(!now).await;
        Ok(())
    }
}

/// The LED: its brightness is logged.
struct Shown(u16);

impl PwmErrorType for Shown {
    type Error = Infallible;
}

impl SetDutyCycle for Shown {
    fn max_duty_cycle(&self) -> u16 {
        100
    }

    fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Infallible> {
        if self.0 != duty {
            self.0 = duty;
            log::info!("LED at {duty} %");
        }
        Ok(())
    }
}
