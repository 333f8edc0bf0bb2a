//! Temperature and humidity from a DHT11 or DHT22.

use core::future::pending;
use core::time::Duration;

use dht_sensor::DhtError;
use embedded_hal::digital::{InputPin, OutputPin};

use super::{NoActuators, Profile, SensorFault, Sensors};
use crate::json::Members;

/// Which sensor is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhtModel {
    /// Whole degrees, 0 to 50 °C.
    Dht11,
    /// Tenths of degrees, -40 to 80 °C.
    Dht22,
}

/// A DHT on an open-drain pin with a pull-up.
#[derive(Debug)]
pub struct Climate<P, D> {
    model: DhtModel,
    pin: P,
    delay: D,
}

/// Readings tried before one is left out: the sensor's answer takes 5 ms of exact timing, and an
/// interrupt in the wrong place spoils it.
const ATTEMPTS: u32 = 3;

/// The sensor needs this long between two answers, in milliseconds.
const REST_MS: u32 = 2000;

impl<P, D> Climate<P, D>
where
    P: InputPin + OutputPin,
    D: embedded_hal::delay::DelayNs + embedded_hal_async::delay::DelayNs,
{
    /// The profile of seed 001: a reading every ten seconds.
    pub const fn profile(model: DhtModel, pin: P, delay: D) -> Profile<Self, NoActuators> {
        Profile {
            name: "climate",
            interval: Duration::from_secs(10),
            sensors: Self { model, pin, delay },
            actuators: NoActuators,
        }
    }

    /// Tenths of °C, and tenths of percent.
    async fn read(&mut self) -> Result<(i32, i32), SensorFault> {
        let reading = match self.model {
            DhtModel::Dht11 => dht_sensor::dht11::r#async::read(&mut self.delay, &mut self.pin)
                .await
                .map(|r| {
                    (
                        i32::from(r.temperature) * 10,
                        i32::from(r.relative_humidity) * 10,
                    )
                }),
            DhtModel::Dht22 => dht_sensor::dht22::r#async::read(&mut self.delay, &mut self.pin)
                .await
                .map(|r| (tenths(r.temperature), tenths(r.relative_humidity))),
        };
        reading.map_err(|error| match error {
            DhtError::ChecksumMismatch => SensorFault::Damaged,
            DhtError::Timeout => SensorFault::NoAnswer,
            DhtError::PinError(_) => SensorFault::Hardware,
        })
    }
}

/// The sensor counts in tenths; the driver made a float of them.
fn tenths(value: f32) -> i32 {
    let scaled = value * 10.0;
    (if scaled < 0.0 {
        scaled - 0.5
    } else {
        scaled + 0.5
    }) as i32
}

impl<P, D> Sensors for Climate<P, D>
where
    P: InputPin + OutputPin,
    D: embedded_hal::delay::DelayNs + embedded_hal_async::delay::DelayNs,
{
    async fn changed(&mut self) {
        pending::<()>().await;
    }

    async fn sample(&mut self, out: &mut Members<'_, '_>) -> Result<(), SensorFault> {
        let mut fault = SensorFault::NoAnswer;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                embedded_hal_async::delay::DelayNs::delay_ms(&mut self.delay, REST_MS).await;
            }
            match self.read().await {
                Ok((temperature, humidity)) => {
                    out.tenths("temperature", temperature)?;
                    out.tenths("humidity", humidity)?;
                    return Ok(());
                }
                Err(error) => fault = error,
            }
        }
        Err(fault)
    }
}
