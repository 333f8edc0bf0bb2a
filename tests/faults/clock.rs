//! The system's clock jumps, an hour either way and a day either way, and comes back. Only the
//! daemon's clock: the devices' is right all the time.

use std::{fs, path::Path, thread, time::Duration};

use crate::{
    support::{SOON, Setup, eventually},
    world::World,
};

/// The library that lies to a program about the time.
pub fn libfaketime() -> &'static str {
    // Where Debian keeps it, on the machines we build for.
    const PLACES: [&str; 2] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    PLACES
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime, of Debian's package faketime; tests/run installs it")
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn set(file: &Path, offset: i64) {
    // Renamed into place: the daemon never reads half of it.
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset:+}s\n")).unwrap();
    fs::rename(new, file).unwrap();
}

fn jump_and_back(title: &'static str, seconds: i64) {
    let setup = Setup::new();
    let offset = setup.path("clock");
    set(&offset, 0);
    let setup = setup
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        // As the system's clock is set: what only runs forward is not.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut world = World::start(title, setup, 2);
    world.fault();
    set(&offset, seconds);
    // Fresh by the devices' clocks is not by the gateway's: nothing is accepted.
    let stalled = || {
        eventually("acknowledgements to stop", 2 * SOON, || {
            let before = world.tally.acknowledged();
            thread::sleep(Duration::from_secs(2));
            (world.tally.acknowledged() == before).then_some(())
        });
    };
    stalled();
    println!("{title}: refused: {:?}", world.tally.refused());
    // It comes back, and so does the gateway.
    set(&offset, 0);
    world.tally.flows(50);
    // Again, and with a restart: what the clock read was not written down as certain.
    set(&offset, seconds);
    stalled();
    // Longer than it takes until the time is written down.
    thread::sleep(Duration::from_secs(11));
    world.gateway.kill();
    set(&offset, 0);
    world.gateway.start();
    world.tally.flows(50);
    let log = world.recovers().log();
    assert!(log.contains("Timestamp out of range") || log.contains("clock_untrusted"));
}

#[test]
fn an_hour_ahead_and_back() {
    jump_and_back("clock an hour ahead", HOUR);
}

#[test]
fn an_hour_behind_and_back() {
    jump_and_back("clock an hour behind", -HOUR);
}

#[test]
fn a_day_ahead_and_back() {
    jump_and_back("clock a day ahead", DAY);
}

#[test]
fn a_day_behind_and_back() {
    jump_and_back("clock a day behind", -DAY);
}
