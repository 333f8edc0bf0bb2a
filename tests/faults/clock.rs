//! The system's clock jumps, an hour either way and a day either way, and comes back. Only the
//! daemon's clock: the devices' is right all the time.

use std::{fs, path::Path, thread, time::Duration};

use crate::{
    support::{Setup, eventually},
    world::World,
};

/// Where Debian keeps it, on the machines we build for.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn set(file: &Path, offset: i64) {
    // Renamed into place: the daemon never reads half of it.
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset:+}s\n")).unwrap();
    fs::rename(new, file).unwrap();
}

fn jump_and_back(title: &'static str, seconds: i64) {
    let library = LIBRARIES
        .iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime, of Debian's package faketime; tests/run installs it");
    let setup = Setup::new();
    let offset = setup.path("clock");
    set(&offset, 0);
    let setup = setup
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let mut world = World::start(title, setup, 2);
    world.fault();
    set(&offset, seconds);
    eventually(
        "messages to be refused for their time",
        Duration::from_secs(30),
        || (!world.tally.refused().is_empty()).then_some(()),
    );
    // Long enough for whatever is done by the clock to have been done.
    thread::sleep(Duration::from_secs(4));
    println!("{title}: refused: {:?}", world.tally.refused());
    let refused: usize = world.tally.refused().values().sum();
    set(&offset, 0);
    world.tally.flows(50);
    // The same with a restart in between: what the clock read was not written down as certain.
    set(&offset, seconds);
    thread::sleep(Duration::from_secs(3));
    world.gateway.kill();
    set(&offset, 0);
    world.gateway.start();
    world.tally.flows(50);
    let gateway = world.recovers();
    assert!(refused > 0, "{}", gateway.log());
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
