//! What a device senses and drives: a profile is data and types, the device around it is the same.
//!
//! | profile | senses | drives | seed |
//! |---|---|---|---|
//! | [`Dashboard`] | potentiometer, tactile switch | LED brightness | 000 |
//! | [`Climate`] | temperature and humidity (DHT11, DHT22) | nothing | 001 |
//! | [`Gates`] | the relays' own state | relays | 004 |

mod climate;
mod dashboard;
mod gates;
#[cfg(test)]
mod tests;

use core::fmt::Debug;
use core::time::Duration;

use tidegate_wire::Payload;
use tidegate_wire::output::TooSmall;

pub use climate::{Climate, DhtModel};
pub use dashboard::{AnalogIn, Button, Dashboard, Led};
pub use gates::{Gates, NoSensors, Relay};

use crate::json::Members;

/// The sensing half and the driving half of a device, and how often it reports.
#[derive(Debug)]
pub struct Profile<S, A> {
    /// Reported with every boot event.
    pub name: &'static str,
    /// Time between two readings.
    pub interval: Duration,
    /// What it senses.
    pub sensors: S,
    /// What it drives.
    pub actuators: A,
}

/// What a device senses.
pub trait Sensors {
    /// Waits until a reading is worth more than waiting for the interval to end: a switch was
    /// pressed. Pends for ever where there is no such thing. Dropped and called again at will.
    async fn changed(&mut self);

    /// Takes a reading.
    ///
    /// # Errors
    ///
    /// [`SensorFault`]: this reading is left out.
    async fn sample(&mut self, out: &mut Members<'_, '_>) -> Result<(), SensorFault>;
}

/// What a device drives. Never waits: an actuator that needs time starts here and goes on elsewhere.
pub trait Actuators {
    /// Carries out a command; see each profile for what it knows. `Ok(false)`: this is not one of
    /// its commands.
    ///
    /// # Errors
    ///
    /// [`Refused`] says why it was not done.
    fn apply(&mut self, command: &Command<'_>) -> Result<bool, Refused>;

    /// Adds its state to a reading.
    ///
    /// # Errors
    ///
    /// [`TooSmall`]
    fn report(&self, out: &mut Members<'_, '_>) -> Result<(), TooSmall>;
}

/// A device that drives nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoActuators;

impl Actuators for NoActuators {
    fn apply(&mut self, _: &Command<'_>) -> Result<bool, Refused> {
        Ok(false)
    }

    fn report(&self, _: &mut Members<'_, '_>) -> Result<(), TooSmall> {
        Ok(())
    }
}

/// A command's payload, as the profiles read it: `{"action":"led","value":80}`,
/// `{"action":"relay","name":"gate1","value":"turn_on"}`, or a bare string such as `"turn_on"`.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The payload itself.
    pub payload: Payload<'a>,
}

impl<'a> Command<'a> {
    /// Whether the action is this one.
    #[must_use]
    pub fn is(&self, action: &str) -> bool {
        self.payload
            .member("action")
            .is_some_and(|value| value.is_string(action))
    }

    /// The member `value`.
    #[must_use]
    pub fn value(&self) -> Option<Payload<'a>> {
        self.payload.member("value")
    }

    /// The member `name`.
    #[must_use]
    pub fn name(&self) -> Option<Payload<'a>> {
        self.payload.member("name")
    }
}

/// Why a command was not carried out; sent as the ack's detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The LED takes a percentage.
    #[error("value must be 0 to 100")]
    Brightness,
    /// The relay's state is neither.
    #[error("value must be \"turn_on\" or \"turn_off\"")]
    RelayState,
    /// There is no such relay.
    #[error("no relay has this name")]
    NoSuchRelay,
    /// The pin or the PWM channel failed.
    #[error("the hardware refused: check the wiring and the board's pin setup")]
    Hardware,
}

/// Why there is no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SensorFault {
    /// It does not answer.
    #[error("sensor does not answer: check its wiring and pull-up")]
    NoAnswer,
    /// It answered with a wrong checksum.
    #[error("sensor's answer is damaged: shorten its cable")]
    Damaged,
    /// The pin or converter failed.
    #[error("pin or converter failed: check the board's pin setup")]
    Hardware,
    /// The reading does not fit into a message.
    #[error("reading is too large for a message")]
    TooLarge,
}

impl From<TooSmall> for SensorFault {
    fn from(_: TooSmall) -> Self {
        Self::TooLarge
    }
}
