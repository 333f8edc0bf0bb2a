//! The disk fills, and then there is room again.

use std::{thread, time::Duration};

use crate::{disk::Disk, support::Setup, world::World};

fn fills_and_has_room(title: &'static str, setup: Setup, disk: &Disk) {
    let world = World::start(title, setup, 3);
    world.upstream.go_down();
    world.fault();
    disk.fill();
    world.gateway.wait_log("the disk is full");
    // It says so, and it stays: whoever asks is answered.
    assert!(world.gateway.json(&["status"])["upstreams"]["backend"].is_object());
    // Nothing is acknowledged that is not stored: what still is fits into pages there are.
    let full = world.tally.acknowledged();
    thread::sleep(Duration::from_secs(3));
    println!(
        "{title}: {} acknowledged in three seconds on a full disk",
        world.tally.acknowledged() - full
    );
    disk.make_room();
    world.tally.flows(20);
    world.upstream.come_back();
    world.recovers();
}

#[test]
fn a_full_ext4_stops_acknowledgements_until_there_is_room() {
    let setup = Setup::new();
    let disk = Disk::ext4(&setup.state_dir(), setup.path("").as_path(), 48);
    fills_and_has_room("full ext4", setup, &disk);
}

#[test]
fn a_full_tmpfs_stops_acknowledgements_until_there_is_room() {
    let setup = Setup::new();
    let disk = Disk::tmpfs(&setup.state_dir(), 48);
    fills_and_has_room("full tmpfs", setup, &disk);
}

#[test]
fn killed_on_a_full_disk_it_starts_again_when_there_is_room() {
    let setup = Setup::new();
    let disk = Disk::ext4(&setup.state_dir(), setup.path("").as_path(), 48);
    let mut world = World::start("killed on a full disk", setup, 3);
    world.upstream.go_down();
    world.fault();
    disk.fill();
    world.gateway.wait_log("the disk is full");
    world.gateway.kill();
    // It starts or it says why not; it does not begin anew.
    world.gateway.spawn();
    thread::sleep(Duration::from_secs(2));
    world.gateway.kill();
    disk.make_room();
    world.gateway.start();
    world.upstream.come_back();
    world.recovers();
}
