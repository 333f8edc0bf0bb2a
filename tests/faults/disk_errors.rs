//! Writes fail: EIO from write and fsync, for a while.

use std::{thread, time::Duration};

use crate::{
    disk::Disk,
    support::{SOON, Setup, eventually},
    world::World,
};

#[test]
fn failing_writes_are_not_acknowledged_and_said_and_end_without_a_loss() {
    let setup = Setup::new();
    let disk = Disk::failing(&setup.state_dir(), setup.path("").as_path(), 64);
    let world = World::start("failing disk", setup, 3);
    world.upstream.go_down();
    world.fault();
    for times in 1..=3 {
        disk.fill();
        eventually("a word of it", 4 * SOON, || {
            let said = world.gateway.log().matches("a commit failed").count();
            (said >= times).then_some(())
        });
        thread::sleep(Duration::from_secs(1));
        disk.make_room();
        world.tally.flows(20);
    }
    world.upstream.come_back();
    world.recovers();
}

#[test]
fn killed_while_writes_fail_it_has_all_it_acknowledged() {
    let setup = Setup::new();
    let disk = Disk::failing(&setup.state_dir(), setup.path("").as_path(), 64);
    let mut world = World::start("killed on a failing disk", setup, 3);
    world.upstream.go_down();
    world.fault();
    disk.fill();
    world.gateway.wait_log("a commit failed");
    world.gateway.kill();
    disk.make_room();
    world.gateway.start();
    world.upstream.come_back();
    world.recovers();
}
