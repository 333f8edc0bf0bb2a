//! The disk gets slow: it takes no writes for a while, again and again, as SD cards do when they
//! collect garbage.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{disk::Disk, support::Setup, world::World};

#[test]
fn a_slow_disk_makes_acknowledgements_late_and_loses_none() {
    let setup = Setup::new();
    let mut disk = Disk::ext4(&setup.state_dir(), setup.path("").as_path(), 128);
    let world = World::start("slow disk", setup, 3);
    world.fault();
    let end = Instant::now() + Duration::from_secs(8);
    let mut stalls = 0;
    while Instant::now() < end {
        disk.freeze();
        thread::sleep(Duration::from_millis(300));
        disk.thaw();
        stalls += 1;
        thread::sleep(Duration::from_millis(50));
    }
    println!("slow disk: {stalls} stalls of 300 ms");
    world.recovers();
}

#[test]
fn a_disk_that_stands_still_for_long_loses_nothing_and_cuts_nobody() {
    let setup = Setup::new();
    let mut disk = Disk::ext4(&setup.state_dir(), setup.path("").as_path(), 128);
    let world = World::start("disk stands still", setup, 3);
    world.fault();
    let connections = world.tally.connections();
    disk.freeze();
    let before = world.tally.acknowledged();
    thread::sleep(Duration::from_secs(2));
    let during = world.tally.acknowledged();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(
        world.tally.acknowledged(),
        during,
        "nothing is acknowledged while nothing can be written ({before} before)"
    );
    disk.thaw();
    world.tally.flows(20);
    assert_eq!(world.tally.connections(), connections, "nobody was cut");
    world.recovers();
}
