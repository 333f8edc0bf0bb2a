//! What happens around a device: somebody turns its potentiometer and presses its switch, the day grows
//! warm and cool again; and what it drives is seen.

use std::{
    f64::consts::TAU,
    rc::Rc,
    time::{Duration, Instant},
};

use tidegate_host::World;
use tokio::time::{MissedTickBehavior, interval};

use super::status;

/// Often enough for every reading to differ, seldom enough for a thousand devices.
const TICK: Duration = Duration::from_millis(250);

/// A day of the demo: short enough to see the backend's alert come and go.
const DAY: Duration = Duration::from_secs(40);

/// From the coolest to the warmest, in tenths of a degree Celsius, and of a percent of humidity.
const TEMPERATURE: (f64, f64) = (180.0, 320.0);
const HUMIDITY: (f64, f64) = (700.0, 450.0);

/// The range of the potentiometer's converter.
const POTENTIOMETER: (f64, f64) = (0.0, 4095.0);

/// The switch is pressed for one tick of so many.
const PRESS_EVERY: u32 = 40;

/// Goes on for as long as the device lives.
pub(super) async fn live(device: String, world: Rc<World>) {
    tokio::join!(pass(&device, &world), watch(&device, &world));
}

/// Time passes, differently for each device.
async fn pass(device: &str, world: &World) {
    let start = Instant::now();
    // Names that differ by little start far apart: the golden ratio spreads them over the day.
    let sum: u16 = device.bytes().map(u16::from).sum();
    let shift = (f64::from(sum) * 0.618_034).fract();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in (0..PRESS_EVERY).cycle() {
        tick.tick().await;
        let days = start.elapsed().as_secs_f64() / DAY.as_secs_f64() + shift;
        let warmth = (1.0 - (days * TAU).cos()) / 2.0;
        let between = |(low, high): (f64, f64)| low + (high - low) * warmth;
        world.temperature.set(between(TEMPERATURE) as i16);
        world.humidity.set(between(HUMIDITY) as u16);
        world.potentiometer.set(between(POTENTIOMETER) as u16);
        let pressed = (count + u32::from(sum)) % PRESS_EVERY == 0;
        if pressed != world.pressed.get() {
            world.press(pressed);
        }
    }
}

/// Says what a command did to the LED and the relays.
async fn watch(device: &str, world: &World) {
    // Dark and off at start.
    let (mut led, mut relays) = (0, [false; 2]);
    loop {
        world.driven().await;
        let percent = world.led_percent();
        if percent != led {
            status::note(&format!("{device}: its LED is at {percent} % now"));
            led = percent;
        }
        let now = *world.relays.borrow();
        for ((number, was), is) in (1..).zip(relays).zip(now) {
            if was != is {
                let state = if is { "on" } else { "off" };
                status::note(&format!("{device}: its relay gate{number} is {state} now"));
            }
        }
        relays = now;
    }
}
