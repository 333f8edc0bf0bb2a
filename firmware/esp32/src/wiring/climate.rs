//! A DHT11 on one open-drain pin.

use embassy_time::Delay;
use esp_hal::gpio::{DriveMode, Flex, InputConfig, Level, OutputConfig, Pin, Pull};
use tidegate_app::profile::{Climate, DhtModel, NoActuators, Profile};

pub(crate) type Wired = Profile<Climate<Flex<'static>, BusyDelay>, NoActuators>;

/// Microseconds are counted out, as the sensor's protocol needs; anything longer is slept.
pub(crate) struct BusyDelay;

impl embedded_hal::delay::DelayNs for BusyDelay {
    fn delay_ns(&mut self, ns: u32) {
        esp_hal::delay::Delay::new().delay_nanos(ns);
    }
}

impl embedded_hal_async::delay::DelayNs for BusyDelay {
    async fn delay_ns(&mut self, ns: u32) {
        embedded_hal_async::delay::DelayNs::delay_ns(&mut Delay, ns).await;
    }
}

pub(crate) fn wire(data: impl Pin + 'static) -> Wired {
    let mut pin = Flex::new(data);
    pin.apply_output_config(
        &OutputConfig::default()
            .with_drive_mode(DriveMode::OpenDrain)
            .with_pull(Pull::Up),
    );
    pin.apply_input_config(&InputConfig::default().with_pull(Pull::Up));
    pin.set_level(Level::High);
    pin.set_output_enable(true);
    pin.set_input_enable(true);
    Climate::profile(DhtModel::Dht11, pin, BusyDelay)
}

macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire($chip.GPIO4)
    };
}
pub(crate) use profile;
