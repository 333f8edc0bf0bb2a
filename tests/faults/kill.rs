//! kill -9 at random points, under load, with retransmission.

use std::{thread, time::Duration};

use crate::{
    support::{SOON, Setup, eventually},
    world::{Dice, World},
};

/// How often in the short form, and in the long one.
const SHORT: u32 = 12;
const LONG: u32 = 200;

#[test]
fn kill_minus_nine_at_random_points_loses_nothing_acknowledged() {
    rounds(SHORT);
}

#[test]
#[ignore = "the long form: some minutes"]
fn kill_minus_nine_two_hundred_times_loses_nothing_acknowledged() {
    rounds(LONG);
}

fn rounds(count: u32) {
    let mut dice = Dice::new();
    let mut world = World::start("kill -9", Setup::new(), 3);
    world.fault();
    let mut before_listening = 0;
    for round in 0..count {
        // Mostly in the midst of work; sometimes right after the start, or before it is over.
        match dice.below(4) {
            0 => {}
            1 => {
                world.gateway.kill();
                world.gateway.spawn();
                thread::sleep(Duration::from_millis(dice.below(250)));
                before_listening += 1;
            }
            _ => {
                let before = world.tally.acknowledged();
                eventually("messages to flow", 4 * SOON, || {
                    (world.tally.acknowledged() > before + 20).then_some(())
                });
            }
        }
        thread::sleep(Duration::from_millis(dice.below(200)));
        // The backend is cut off at times, so that the outbox is not empty when it happens.
        if round % 5 == 3 {
            world.upstream.go_down();
        } else {
            world.upstream.come_back();
        }
        world.gateway.kill();
        world.gateway.start();
    }
    world.upstream.come_back();
    println!("kill -9: {count} rounds, {before_listening} of them while it started");
    world.recovers();
}
