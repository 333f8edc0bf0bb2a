//! The profiles on pins that a test moves.

extern crate std;
use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

use embassy_futures::poll_once;
use embedded_hal::digital::{ErrorType, InputPin, OutputPin};
use embedded_hal::pwm::SetDutyCycle;
use embedded_hal_async::delay::DelayNs;
use embedded_hal_async::digital::Wait;
use tidegate_wire::output::Output;

use super::*;

fn command(text: &str, actuators: &mut impl Actuators) -> Result<bool, Refused> {
    let mut slots = [0; 16];
    let payload = Payload::parse(text.as_bytes(), &mut slots).unwrap();
    actuators.apply(&Command { payload })
}

fn report(actuators: &impl Actuators) -> String {
    let mut buffer = [0; 128];
    let mut out = Output::new(&mut buffer);
    Members::object::<TooSmall>(&mut out, |m| actuators.report(m)).unwrap();
    let len = out.len();
    core::str::from_utf8(&buffer[..len]).unwrap().into()
}

#[derive(Debug)]
struct Broken;

impl embedded_hal::digital::Error for Broken {
    fn kind(&self) -> embedded_hal::digital::ErrorKind {
        embedded_hal::digital::ErrorKind::Other
    }
}

impl embedded_hal::pwm::Error for Broken {
    fn kind(&self) -> embedded_hal::pwm::ErrorKind {
        embedded_hal::pwm::ErrorKind::Other
    }
}

/// A pin or channel that remembers, and can break.
#[derive(Debug, Default)]
struct Pin<'a> {
    high: Cell<Option<bool>>,
    duty: Cell<u16>,
    broken: Option<&'a Cell<bool>>,
}

impl Pin<'_> {
    fn check(&self) -> Result<(), Broken> {
        if self.broken.is_some_and(Cell::get) {
            Err(Broken)
        } else {
            Ok(())
        }
    }
}

impl ErrorType for Pin<'_> {
    type Error = Broken;
}

impl OutputPin for Pin<'_> {
    fn set_low(&mut self) -> Result<(), Broken> {
        self.check()?;
        self.high.set(Some(false));
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Broken> {
        self.check()?;
        self.high.set(Some(true));
        Ok(())
    }
}

impl embedded_hal::pwm::ErrorType for Pin<'_> {
    type Error = Broken;
}

impl SetDutyCycle for Pin<'_> {
    fn max_duty_cycle(&self) -> u16 {
        1000
    }

    fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Broken> {
        self.check()?;
        self.duty.set(duty);
        Ok(())
    }
}

#[test]
fn the_led_takes_a_percentage() {
    let broken = Cell::new(false);
    let mut led = Led::new(Pin {
        duty: Cell::new(1000),
        broken: Some(&broken),
        ..Pin::default()
    });
    assert_eq!(report(&led), r#"{"led":0}"#, "dark at start");
    for percent in [0, 1, 80, 100] {
        let text = std::format!(r#"{{"action":"led","value":{percent}}}"#);
        assert_eq!(command(&text, &mut led), Ok(true));
        assert_eq!(report(&led), std::format!(r#"{{"led":{percent}}}"#));
    }
    for value in ["101", "-1", "1.5", "\"80\"", "256", "null"] {
        let text = std::format!(r#"{{"action":"led","value":{value}}}"#);
        assert_eq!(
            command(&text, &mut led),
            Err(Refused::Brightness),
            "{value}"
        );
    }
    assert_eq!(
        command(r#"{"action":"led"}"#, &mut led),
        Err(Refused::Brightness)
    );
    assert_eq!(command(r#"{"action":"relay"}"#, &mut led), Ok(false));
    broken.set(true);
    let dim = r#"{"action":"led","value":5}"#;
    assert_eq!(command(dim, &mut led), Err(Refused::Hardware));
    assert_eq!(
        report(&led),
        r#"{"led":100}"#,
        "what it is, not what it was told"
    );
}

#[test]
fn relays_go_by_their_names() {
    let broken = Cell::new(false);
    let pin = || Pin {
        broken: Some(&broken),
        ..Pin::default()
    };
    let profile = Gates::profile([
        Relay::new("gate1", pin(), true),
        Relay::new("gate2", pin(), false),
    ]);
    let mut gates = profile.actuators;
    assert_eq!(report(&gates), r#"{"gate1":false,"gate2":false}"#);
    let on = r#"{"action":"relay","name":"gate2","value":"turn_on"}"#;
    assert_eq!(command(on, &mut gates), Ok(true));
    assert_eq!(report(&gates), r#"{"gate1":false,"gate2":true}"#);
    for (text, expected) in [
        (
            r#"{"action":"relay","name":"gate3","value":"turn_on"}"#,
            Err(Refused::NoSuchRelay),
        ),
        (
            r#"{"action":"relay","value":"turn_on"}"#,
            Err(Refused::NoSuchRelay),
        ),
        (
            r#"{"action":"relay","name":"gate1","value":"open"}"#,
            Err(Refused::RelayState),
        ),
        (
            r#"{"action":"relay","name":"gate1"}"#,
            Err(Refused::RelayState),
        ),
        // With two of them nobody knows which is meant.
        (r#""turn_on""#, Ok(false)),
    ] {
        assert_eq!(command(text, &mut gates), expected, "{text}");
    }
    broken.set(true);
    assert_eq!(command(on, &mut gates), Err(Refused::Hardware));
}

#[test]
fn the_seeds_bare_words_move_a_single_relay() {
    for active_low in [false, true] {
        let mut gate = Gates::profile([Relay::new("gate", Pin::default(), active_low)]).actuators;
        assert_eq!(command(r#""turn_on""#, &mut gate), Ok(true));
        assert_eq!(report(&gate), r#"{"gate":true}"#);
        assert_eq!(command(r#""turn_off""#, &mut gate), Ok(true));
        assert_eq!(report(&gate), r#"{"gate":false}"#);
        assert_eq!(command(r#""open""#, &mut gate), Err(Refused::RelayState));
    }
}

/// A switch whose level is scripted: each wait and each look takes the next one.
struct Bouncing<'a>(&'a RefCell<VecDeque<bool>>);

impl Bouncing<'_> {
    /// The level now; it stays at the last.
    fn low(&self) -> bool {
        let mut script = self.0.borrow_mut();
        if script.len() > 1 {
            script.pop_front().unwrap()
        } else {
            script[0]
        }
    }

    async fn wait(&self, low: bool) {
        loop {
            let last = self.0.borrow().len() == 1;
            if self.low() == low {
                return;
            }
            if last {
                core::future::pending::<()>().await;
            }
        }
    }
}

impl ErrorType for Bouncing<'_> {
    type Error = Infallible;
}

impl InputPin for Bouncing<'_> {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(!self.low())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(self.low())
    }
}

impl Wait for Bouncing<'_> {
    async fn wait_for_high(&mut self) -> Result<(), Infallible> {
        self.wait(false).await;
        Ok(())
    }

    async fn wait_for_low(&mut self) -> Result<(), Infallible> {
        self.wait(true).await;
        Ok(())
    }

    async fn wait_for_rising_edge(&mut self) -> Result<(), Infallible> {
        unreachable!("edges bounce")
    }

    async fn wait_for_falling_edge(&mut self) -> Result<(), Infallible> {
        unreachable!("edges bounce")
    }

    async fn wait_for_any_edge(&mut self) -> Result<(), Infallible> {
        unreachable!("edges bounce")
    }
}

struct NoDelay;

impl DelayNs for NoDelay {
    async fn delay_ns(&mut self, _: u32) {}
}

#[test]
fn a_bouncing_switch_is_one_press() {
    let cases: [(&[bool], &[bool]); 4] = [
        (&[false], &[]),
        // A spike: low when waited for, high again when it should have come to rest.
        (&[true, false, false], &[]),
        // Bounces, then held: one press.
        (&[true, false, true, false, true, true], &[true]),
        // Pressed and released.
        (&[true, true, false, false, false], &[true, false]),
    ];
    for (levels, expected) in cases {
        let script = RefCell::new(levels.iter().copied().collect());
        let mut button = Button::new(Bouncing(&script), NoDelay);
        let mut positions = Vec::new();
        while poll_once(button.changed()).is_ready() {
            positions.push(button.pressed());
        }
        assert_eq!(positions, expected, "{levels:?}");
    }
}
