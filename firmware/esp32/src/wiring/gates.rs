//! Two relays; the usual boards switch on when the pin is low.

use esp_hal::gpio::{Level, Output, OutputConfig, OutputPin};
use tidegate_app::profile::{Gates, NoSensors, Profile, Relay};

pub(crate) type Wired = Profile<NoSensors, Gates<Output<'static>, 2>>;

pub(crate) fn wire(one: impl OutputPin + 'static, two: impl OutputPin + 'static) -> Wired {
    // High from the first moment on: a relay must not click at every start.
    Gates::profile([
        Relay::new(
            "gate1",
            Output::new(one, Level::High, OutputConfig::default()),
            true,
        ),
        Relay::new(
            "gate2",
            Output::new(two, Level::High, OutputConfig::default()),
            true,
        ),
    ])
}

#[cfg(feature = "esp32")]
macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire($chip.GPIO26, $chip.GPIO27)
    };
}
#[cfg(not(feature = "esp32"))]
macro_rules! profile {
    ($chip:ident) => {
        $crate::wiring::wire($chip.GPIO6, $chip.GPIO7)
    };
}
pub(crate) use profile;
