//! Pins of each profile on each chip; the README has drawings.
//!
//! | profile | wire | ESP32 | ESP32-C3 | ESP32-C6 | ESP32-S3 |
//! |---|---|---|---|---|---|
//! | dashboard | potentiometer (ADC1) | 34 | 0 | 0 | 1 |
//! | | switch to ground | 4 | 4 | 4 | 4 |
//! | | LED | 25 | 5 | 5 | 5 |
//! | climate | DHT11 data | 4 | 4 | 4 | 4 |
//! | gates | relay 1 | 26 | 6 | 6 | 6 |
//! | | relay 2 | 27 | 7 | 7 | 7 |
//!
//! None of them decides how a chip starts, and none belongs to its flash or USB port.

#[cfg(feature = "climate")]
mod climate;
#[cfg(feature = "dashboard")]
mod dashboard;
#[cfg(feature = "gates")]
mod gates;

#[cfg(feature = "climate")]
pub(crate) use climate::{Wired, profile, wire};
#[cfg(feature = "dashboard")]
pub(crate) use dashboard::{LedError, Wired, profile, wire};
#[cfg(feature = "gates")]
pub(crate) use gates::{Wired, profile, wire};

#[cfg(not(any(
    all(
        feature = "dashboard",
        not(any(feature = "climate", feature = "gates"))
    ),
    all(
        feature = "climate",
        not(any(feature = "dashboard", feature = "gates"))
    ),
    all(
        feature = "gates",
        not(any(feature = "dashboard", feature = "climate"))
    ),
)))]
compile_error!("exactly one of the features dashboard, climate and gates must be on");
