//! Relays that open gates.

use core::future::pending;
use core::time::Duration;

use embedded_hal::digital::OutputPin;
use tidegate_wire::output::TooSmall;

use super::{Actuators, Command, Profile, Refused, SensorFault, Sensors};
use crate::json::Members;

/// Relays, each by its name. Knows `{"action":"relay","name":"gate1","value":"turn_on"}`, and with
/// one relay the seed's bare `"turn_on"` and `"turn_off"`.
#[derive(Debug)]
pub struct Gates<P, const N: usize> {
    relays: [Relay<P>; N],
}

/// One relay on a pin.
#[derive(Debug)]
pub struct Relay<P> {
    name: &'static str,
    pin: P,
    active_low: bool,
    on: bool,
}

impl<P: OutputPin> Relay<P> {
    /// Off until told otherwise. The usual relay boards switch on when the pin is low.
    pub fn new(name: &'static str, pin: P, active_low: bool) -> Self {
        let mut relay = Self {
            name,
            pin,
            active_low,
            on: false,
        };
        // A pin that cannot be switched off here will say so at the first command.
        let _ = relay.set(false);
        relay
    }

    fn set(&mut self, on: bool) -> Result<(), Refused> {
        let level = (on != self.active_low).into();
        self.pin.set_state(level).map_err(|_| Refused::Hardware)?;
        self.on = on;
        Ok(())
    }
}

impl<P: OutputPin, const N: usize> Gates<P, N> {
    /// The profile of seed 004: relays, whose state is reported once a minute.
    pub const fn profile(relays: [Relay<P>; N]) -> Profile<NoSensors, Self> {
        Profile {
            name: "gates",
            interval: Duration::from_secs(60),
            sensors: NoSensors,
            actuators: Self { relays },
        }
    }
}

impl<P: OutputPin, const N: usize> Actuators for Gates<P, N> {
    fn apply(&mut self, command: &Command<'_>) -> Result<bool, Refused> {
        let bare = N == 1 && command.payload.as_str().starts_with('"');
        if !bare && !command.is("relay") {
            return Ok(false);
        }
        let value = if bare {
            command.payload
        } else {
            command.value().ok_or(Refused::RelayState)?
        };
        let on = if value.is_string("turn_on") {
            true
        } else if value.is_string("turn_off") {
            false
        } else {
            return Err(Refused::RelayState);
        };
        let relay = match command.name() {
            _ if bare => self.relays.first_mut(),
            Some(name) => self
                .relays
                .iter_mut()
                .find(|relay| name.is_string(relay.name)),
            None => None,
        };
        relay.ok_or(Refused::NoSuchRelay)?.set(on)?;
        Ok(true)
    }

    fn report(&self, out: &mut Members<'_, '_>) -> Result<(), TooSmall> {
        self.relays
            .iter()
            .try_for_each(|relay| out.boolean(relay.name, relay.on))
    }
}

/// A device that senses nothing but what it drives.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSensors;

impl Sensors for NoSensors {
    async fn changed(&mut self) {
        pending::<()>().await;
    }

    async fn sample(&mut self, _: &mut Members<'_, '_>) -> Result<(), SensorFault> {
        Ok(())
    }
}
