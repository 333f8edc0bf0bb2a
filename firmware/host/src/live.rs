//! One device to play with: keys are what is wired to it.

use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use futures_util::StreamExt;

use crate::board::Stop;
use crate::pins::World;
use crate::simulate::{Simulation, SimulationError, simulate};

/// How far a key turns the potentiometer, of 4095.
const TURN: u16 = 128;

/// How long a key holds the switch down: terminals do not tell when a key is released.
const PRESS: Duration = Duration::from_millis(300);

/// Puts the terminal back however the program ends.
struct RawMode;

impl RawMode {
    fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = disable_raw_mode();
    }
}

/// Runs a device until `q`, Ctrl-C or a failure. Without a terminal it runs with what it senses
/// left alone.
///
/// # Errors
///
/// [`SimulationError`]
pub async fn play(simulation: &Simulation) -> Result<(), SimulationError> {
    let world = World::new();
    let raw = io::stdin().is_terminal().then(RawMode::enter);
    let keyboard = matches!(raw, Some(Ok(_)));
    if keyboard {
        say(
            "keys: \u{2190} \u{2192} potentiometer, space switch, \u{2191} \u{2193} temperature, q quit",
        );
    }
    let stop = Rc::<Stop>::default();
    let device = simulate(simulation, world.clone(), stop.clone());
    tokio::pin!(device);
    tokio::select! {
        ended = &mut device => return ended,
        () = watch(&world) => {}
        () = keys(&world), if keyboard => {}
        () = stopped() => {}
    }
    say("saying goodbye");
    stop.ask();
    device.await
}

/// Ctrl-C outside of raw mode, or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Shows what the device drives.
async fn watch(world: &World) {
    loop {
        world.driven().await;
        let [one, two] = *world.relays.borrow();
        let state = |on| if on { "on" } else { "off" };
        say(&format!(
            "LED {} %, relays {} {}",
            world.led_percent(),
            state(one),
            state(two)
        ));
    }
}

async fn keys(world: &Rc<World>) {
    let mut events = EventStream::new();
    while let Some(Ok(event)) = events.next().await {
        let Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press | KeyEventKind::Repeat,
            ..
        }) = event
        else {
            continue;
        };
        let pot = world.potentiometer.get();
        match code {
            KeyCode::Char('q') => return,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return,
            KeyCode::Left => world.potentiometer.set(pot.saturating_sub(TURN)),
            KeyCode::Right => world.potentiometer.set((pot + TURN).min(4095)),
            KeyCode::Up => world
                .temperature
                .set((world.temperature.get() + 5).min(800)),
            KeyCode::Down => world
                .temperature
                .set((world.temperature.get() - 5).max(-400)),
            KeyCode::Char(' ') => {
                world.press(true);
                tokio::time::sleep(PRESS).await;
                world.press(false);
                continue;
            }
            _ => continue,
        }
        say(&format!(
            "potentiometer {}, temperature {:.1} \u{b0}C",
            world.potentiometer.get(),
            f32::from(world.temperature.get()) / 10.0
        ));
    }
}

fn say(text: &str) {
    // A closed terminal is no reason for a device to stop.
    let _ = write!(io::stdout().lock(), "{text}\r\n");
}
