//! Pins that are wired to nothing but a [`World`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use embedded_hal::digital::{ErrorType, InputPin, OutputPin, StatefulOutputPin};
use embedded_hal::pwm::SetDutyCycle;
use embedded_hal_async::digital::Wait;
use tidegate_app::profile::{AnalogIn, SensorFault};
use tokio::sync::Notify;

/// What the pins sense and drive. Shared by the device and whoever plays with it.
#[derive(Debug, Default)]
pub struct World {
    /// 0 to 4095.
    pub potentiometer: Cell<u16>,
    /// Somebody turns the potentiometer up by one after each reading: so none can be missed
    /// unnoticed.
    pub turning: Cell<bool>,
    /// Whether the switch is held down.
    pub pressed: Cell<bool>,
    /// Tenths of a degree Celsius.
    pub temperature: Cell<i16>,
    /// Tenths of a percent.
    pub humidity: Cell<u16>,
    /// Duty cycle of the LED, 0 to 255.
    pub led: Cell<u16>,
    /// The relays.
    pub relays: RefCell<[bool; 2]>,
    switched: Notify,
    driven: Notify,
}

impl World {
    /// Where the potentiometer stands at first.
    pub const POTENTIOMETER: u16 = 1841;

    /// A room on a spring day.
    #[must_use]
    pub fn new() -> Rc<Self> {
        let world = Self::default();
        world.potentiometer.set(Self::POTENTIOMETER);
        world.temperature.set(225);
        world.humidity.set(600);
        Rc::new(world)
    }

    /// Presses or releases the switch.
    pub fn press(&self, pressed: bool) {
        self.pressed.set(pressed);
        self.switched.notify_waiters();
    }

    /// Brightness of the LED as a command gives it, 0 to 100.
    #[must_use]
    pub fn led_percent(&self) -> u32 {
        // The driver rounds the duty cycle down.
        (u32::from(self.led.get()) * 100).div_ceil(255)
    }

    /// Waits until the device drives the LED or a relay.
    pub async fn driven(&self) {
        self.driven.notified().await;
    }
}

/// The potentiometer's wiper.
#[derive(Debug)]
pub struct Wiper(pub Rc<World>);

impl AnalogIn for Wiper {
    async fn read(&mut self) -> Result<u16, SensorFault> {
        let value = self.0.potentiometer.get().min(4095);
        if self.0.turning.get() {
            self.0.potentiometer.set(value + 1);
        }
        Ok(value)
    }
}

/// The switch, to ground.
#[derive(Debug)]
pub struct Switch(pub Rc<World>);

impl ErrorType for Switch {
    type Error = Infallible;
}

impl InputPin for Switch {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.pressed.get())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(self.0.pressed.get())
    }
}

impl Switch {
    async fn wait(&self, pressed: bool) {
        loop {
            let switched = self.0.switched.notified();
            if self.0.pressed.get() == pressed {
                return;
            }
            switched.await;
        }
    }
}

impl Wait for Switch {
    async fn wait_for_high(&mut self) -> Result<(), Infallible> {
        self.wait(false).await;
        Ok(())
    }

    async fn wait_for_low(&mut self) -> Result<(), Infallible> {
        self.wait(true).await;
        Ok(())
    }

    async fn wait_for_rising_edge(&mut self) -> Result<(), Infallible> {
        self.wait(true).await;
        self.wait_for_high().await
    }

    async fn wait_for_falling_edge(&mut self) -> Result<(), Infallible> {
        self.wait(false).await;
        self.wait_for_low().await
    }

    async fn wait_for_any_edge(&mut self) -> Result<(), Infallible> {
        self.wait(!self.0.pressed.get()).await;
        Ok(())
    }
}

/// The LED's PWM channel.
#[derive(Debug)]
pub struct Pwm(pub Rc<World>);

impl embedded_hal::pwm::ErrorType for Pwm {
    type Error = Infallible;
}

impl SetDutyCycle for Pwm {
    fn max_duty_cycle(&self) -> u16 {
        255
    }

    fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Infallible> {
        self.0.led.set(duty);
        self.0.driven.notify_waiters();
        Ok(())
    }
}

/// The input of a relay board, which switches on when it is low.
#[derive(Debug)]
pub struct RelayInput {
    /// Where it is.
    pub world: Rc<World>,
    /// Which relay.
    pub index: usize,
}

impl ErrorType for RelayInput {
    type Error = Infallible;
}

impl RelayInput {
    fn set(&self, low: bool) {
        if let Some(relay) = self.world.relays.borrow_mut().get_mut(self.index) {
            *relay = low;
        }
        self.world.driven.notify_waiters();
    }
}

impl OutputPin for RelayInput {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.set(true);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.set(false);
        Ok(())
    }
}

impl StatefulOutputPin for RelayInput {
    fn is_set_high(&mut self) -> Result<bool, Infallible> {
        self.is_set_low().map(|low| !low)
    }

    fn is_set_low(&mut self) -> Result<bool, Infallible> {
        Ok(self
            .world
            .relays
            .borrow()
            .get(self.index)
            .copied()
            .unwrap_or(false))
    }
}

/// A DHT22's wire and the delay of the driver that reads it: microseconds pass only when the
/// driver waits, so that the host's scheduling cannot spoil the exact timing.
#[derive(Debug, Clone)]
pub struct Dht {
    world: Rc<World>,
    line: Rc<Cell<Line>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Microseconds since the driver let go of the wire.
    micros: u64,
    /// The driver holds it low.
    held: bool,
    /// What the sensor will send: 40 bits.
    bits: u64,
}

/// The sensor's answer, in microseconds (datasheet, "digital communication"): it waits, announces
/// itself low and high, then sends each bit as a low and a high whose length tells 0 from 1.
const WAIT: u64 = 30;
const ANNOUNCE: u64 = 80;
const LOW: u64 = 50;
const ZERO: u64 = 26;
const ONE: u64 = 70;

impl Dht {
    /// A sensor in this world.
    #[must_use]
    pub fn new(world: Rc<World>) -> Self {
        Self {
            world,
            line: Rc::default(),
        }
    }

    /// Humidity and temperature in tenths, the sign apart, and their sum.
    fn bits(&self) -> u64 {
        let temperature = self.world.temperature.get();
        let sign = if temperature < 0 { 0x8000 } else { 0 };
        let [a, b] = self.world.humidity.get().to_be_bytes();
        let [c, d] = (temperature.unsigned_abs() | sign).to_be_bytes();
        let sum = a.wrapping_add(b).wrapping_add(c).wrapping_add(d);
        [a, b, c, d, sum]
            .into_iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(byte))
    }

    fn high(&self) -> bool {
        let line = self.line.get();
        if line.held {
            return false;
        }
        let Some(mut at) = line.micros.checked_sub(WAIT) else {
            return true;
        };
        if at < 2 * ANNOUNCE {
            return at >= ANNOUNCE;
        }
        at -= 2 * ANNOUNCE;
        for bit in (0..40).rev() {
            let high = if line.bits >> bit & 1 == 1 { ONE } else { ZERO };
            if at < LOW + high {
                return at >= LOW;
            }
            at -= LOW + high;
        }
        // Low once more, then the pull-up has it.
        at >= LOW
    }
}

impl ErrorType for Dht {
    type Error = Infallible;
}

impl InputPin for Dht {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(self.high())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(!self.high())
    }
}

impl OutputPin for Dht {
    fn set_low(&mut self) -> Result<(), Infallible> {
        self.line.set(Line {
            held: true,
            ..Line::default()
        });
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        self.line.set(Line {
            micros: 0,
            held: false,
            bits: self.bits(),
        });
        Ok(())
    }
}

impl embedded_hal::delay::DelayNs for Dht {
    fn delay_ns(&mut self, ns: u32) {
        let mut line = self.line.get();
        line.micros += u64::from(ns).div_ceil(1000);
        self.line.set(line);
    }
}

impl embedded_hal_async::delay::DelayNs for Dht {
    async fn delay_ns(&mut self, ns: u32) {
        tokio::time::sleep(Duration::from_nanos(ns.into())).await;
    }
}

/// tokio's timer as a delay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pause;

impl embedded_hal_async::delay::DelayNs for Pause {
    async fn delay_ns(&mut self, ns: u32) {
        tokio::time::sleep(Duration::from_nanos(ns.into())).await;
    }
}
