//! Potentiometer, tactile switch and LED.

use core::time::Duration;

use embedded_hal::digital::InputPin;
use embedded_hal::pwm::SetDutyCycle;
use embedded_hal_async::delay::DelayNs;
use embedded_hal_async::digital::Wait;
use tidegate_wire::output::TooSmall;

use super::{Actuators, Command, Profile, Refused, SensorFault, Sensors};
use crate::json::Members;

/// How long a switch must rest before its new position counts, in milliseconds: tactile switches
/// bounce for 5 ms, worn ones for 15.
const DEBOUNCE_MS: u32 = 20;

/// An analogue input, which embedded-hal has no trait for.
pub trait AnalogIn {
    /// 0 to 4095, the range of the ESP32's converter.
    ///
    /// # Errors
    ///
    /// [`SensorFault::Hardware`]
    async fn read(&mut self) -> Result<u16, SensorFault>;
}

/// A potentiometer and a switch.
#[derive(Debug)]
pub struct Dashboard<P, W, D> {
    potentiometer: P,
    button: Button<W, D>,
}

impl<P: AnalogIn, W: Wait + InputPin, D: DelayNs> Dashboard<P, W, D> {
    /// The profile of seed 000: a reading every five seconds and with every press.
    pub fn profile<L: SetDutyCycle>(
        potentiometer: P,
        button: Button<W, D>,
        led: Led<L>,
    ) -> Profile<Self, Led<L>> {
        Profile {
            name: "dashboard",
            interval: Duration::from_secs(5),
            sensors: Self {
                potentiometer,
                button,
            },
            actuators: led,
        }
    }
}

impl<P: AnalogIn, W: Wait + InputPin, D: DelayNs> Sensors for Dashboard<P, W, D> {
    async fn changed(&mut self) {
        self.button.changed().await;
    }

    async fn sample(&mut self, out: &mut Members<'_, '_>) -> Result<(), SensorFault> {
        out.integer("pot", self.potentiometer.read().await?.into())?;
        out.integer("switch", self.button.pressed().into())?;
        Ok(())
    }
}

/// A tactile switch to ground with a pull-up: low is pressed.
#[derive(Debug)]
pub struct Button<W, D> {
    pin: W,
    delay: D,
    pressed: bool,
}

impl<W: Wait + InputPin, D: DelayNs> Button<W, D> {
    /// Starts released: a switch held down at boot is reported as a press.
    pub const fn new(pin: W, delay: D) -> Self {
        Self {
            pin,
            delay,
            pressed: false,
        }
    }

    /// The last position that counted.
    pub const fn pressed(&self) -> bool {
        self.pressed
    }

    /// Waits for the next position that counts. Nothing is lost if it is dropped: the position is
    /// compared with the last one that counted, not with the last edge.
    pub async fn changed(&mut self) {
        loop {
            let waited = if self.pressed {
                self.pin.wait_for_high().await
            } else {
                self.pin.wait_for_low().await
            };
            self.delay.delay_ms(DEBOUNCE_MS).await;
            let low = self.pin.is_low();
            if let (Ok(()), Ok(low)) = (waited, low)
                && low != self.pressed
            {
                self.pressed = low;
                return;
            }
        }
    }
}

/// An LED on a PWM channel. Knows `{"action":"led","value":0..100}`.
#[derive(Debug)]
pub struct Led<L> {
    channel: L,
    percent: u8,
}

impl<L: SetDutyCycle> Led<L> {
    /// Off until told otherwise.
    pub fn new(mut channel: L) -> Self {
        // A channel that cannot be switched off here will say so at the first command.
        let _ = channel.set_duty_cycle_fully_off();
        Self {
            channel,
            percent: 0,
        }
    }
}

impl<L: SetDutyCycle> Actuators for Led<L> {
    fn apply(&mut self, command: &Command<'_>) -> Result<bool, Refused> {
        if !command.is("led") {
            return Ok(false);
        }
        let percent = command
            .value()
            .and_then(|value| u8::try_from(value.unsigned()?).ok())
            .filter(|percent| *percent <= 100)
            .ok_or(Refused::Brightness)?;
        self.channel
            .set_duty_cycle_percent(percent)
            .map_err(|_| Refused::Hardware)?;
        self.percent = percent;
        Ok(true)
    }

    fn report(&self, out: &mut Members<'_, '_>) -> Result<(), TooSmall> {
        out.integer("led", self.percent.into())
    }
}
