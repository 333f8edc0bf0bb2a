//! Potentiometer, switch and LED.

use embassy_time::Delay;
use esp_hal::Blocking;
use esp_hal::analog::adc::{Adc, AdcConfig, AdcPin, Attenuation};
use esp_hal::gpio::{DriveMode, Input, InputConfig, InputPin, OutputPin, Pull};
use esp_hal::ledc::channel::{self, Channel, ChannelIFace};
use esp_hal::ledc::timer::{self, Timer, TimerIFace};
use esp_hal::ledc::{LSGlobalClkSource, Ledc, LowSpeed};
use esp_hal::peripherals::{ADC1, LEDC};
use esp_hal::time::Rate;
use static_cell::StaticCell;
use tidegate_app::profile::{AnalogIn, Button, Dashboard, Led, Profile, SensorFault};

use crate::StartError;

#[cfg(feature = "esp32")]
type PotentiometerPin = esp_hal::peripherals::GPIO34<'static>;
#[cfg(any(feature = "esp32c3", feature = "esp32c6"))]
type PotentiometerPin = esp_hal::peripherals::GPIO0<'static>;
#[cfg(feature = "esp32s3")]
type PotentiometerPin = esp_hal::peripherals::GPIO1<'static>;

pub(crate) type Wired =
    Profile<Dashboard<Potentiometer, Input<'static>, Delay>, Led<Channel<'static, LowSpeed>>>;

/// Faster than any eye, slow enough for 12 bits.
const LED_KHZ: u32 = 5;

/// A conversion takes some microseconds; one that is not done after this many looks never is.
const LOOKS: u32 = 10_000;

/// The LED controller takes no such frequency.
#[derive(Debug)]
#[expect(dead_code, reason = "they are for the log")]
pub(crate) enum LedError {
    Timer(timer::Error),
    Channel(channel::Error),
}

/// A potentiometer between 3.3 V and ground.
pub(crate) struct Potentiometer {
    converter: Adc<'static, ADC1<'static>, Blocking>,
    pin: AdcPin<PotentiometerPin, ADC1<'static>>,
}

impl AnalogIn for Potentiometer {
    async fn read(&mut self) -> Result<u16, SensorFault> {
        for _ in 0..LOOKS {
            if let Ok(value) = self.converter.read_oneshot(&mut self.pin) {
                return Ok(value.min(4095));
            }
            embassy_futures::yield_now().await;
        }
        Err(SensorFault::Hardware)
    }
}

pub(crate) fn wire(
    converter: ADC1<'static>,
    potentiometer: PotentiometerPin,
    switch: impl InputPin + 'static,
    controller: LEDC<'static>,
    led: impl OutputPin + 'static,
) -> Result<Wired, StartError> {
    let mut config = AdcConfig::new();
    // The attenuation with the widest range, up to about 3.1 V.
    let pin = config.enable_pin(potentiometer, Attenuation::_11dB);
    let potentiometer = Potentiometer {
        converter: Adc::new(converter, config),
        pin,
    };
    let switch = Input::new(switch, InputConfig::default().with_pull(Pull::Up));
    Ok(Dashboard::profile(
        potentiometer,
        Button::new(switch, Delay),
        Led::new(dimmer(controller, led).map_err(StartError::Led)?),
    ))
}

fn dimmer(
    controller: LEDC<'static>,
    led: impl OutputPin + 'static,
) -> Result<Channel<'static, LowSpeed>, LedError> {
    static TIMER: StaticCell<Timer<'static, LowSpeed>> = StaticCell::new();
    let mut controller = Ledc::new(controller);
    controller.set_global_slow_clock(LSGlobalClkSource::APBClk);
    let timer = TIMER.init(controller.timer::<LowSpeed>(timer::Number::Timer0));
    timer
        .configure(timer::config::Config {
            duty: timer::config::Duty::Duty12Bit,
            clock_source: timer::LSClockSource::APBClk,
            frequency: Rate::from_khz(LED_KHZ),
        })
        .map_err(LedError::Timer)?;
    let mut channel = controller.channel(channel::Number::Channel0, led);
    channel
        .configure(channel::config::Config {
            timer,
            duty_pct: 0,
            drive_mode: DriveMode::PushPull,
        })
        .map_err(LedError::Channel)?;
    Ok(channel)
}

#[cfg(feature = "esp32")]
macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire(
            $chip.ADC1,
            $chip.GPIO34,
            $chip.GPIO4,
            $chip.LEDC,
            $chip.GPIO25,
        )?
    };
}
#[cfg(any(feature = "esp32c3", feature = "esp32c6"))]
macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire(
            $chip.ADC1,
            $chip.GPIO0,
            $chip.GPIO4,
            $chip.LEDC,
            $chip.GPIO5,
        )?
    };
}
#[cfg(feature = "esp32s3")]
macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire(
            $chip.ADC1,
            $chip.GPIO1,
            $chip.GPIO4,
            $chip.LEDC,
            $chip.GPIO5,
        )?
    };
}
pub(crate) use profile;
