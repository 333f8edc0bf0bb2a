//! The backend misbehaves: slow, wrong, half an answer, far too long an answer, redirects; it flaps.

use std::{thread, time::Duration};

use crate::{
    support::{Setup, eventually},
    upstream::{Behaviour, Upstream},
    world::World,
};

/// How long each misbehaviour lasts.
const LASTS: Duration = Duration::from_secs(3);

/// What a misbehaving backend may make the gateway hold, KiB, beyond what it held before. Sixteen
/// workers with 64 KiB each, and what is owed meanwhile, are a few MiB; one answer is 200,000.
const HOLDS_KIB: u64 = 96 * 1024;

fn misbehaves(title: &'static str, behaviours: &[Behaviour]) {
    let world = World::start(title, Setup::new(), 3);
    let before = world.rss_kib();
    world.fault();
    for behaviour in behaviours {
        world.upstream.behave(behaviour.clone());
        let requests = world.upstream.requests();
        eventually("the backend to be asked", Duration::from_secs(60), || {
            (world.upstream.requests() > requests).then_some(())
        });
        thread::sleep(LASTS);
        // Devices are served all the while.
        world.tally.flows(20);
    }
    let held = world.peak_kib().saturating_sub(before);
    assert!(held < HOLDS_KIB, "{held} KiB more than before");
    world.upstream.behave(Behaviour::Well);
    world.recovers();
}

#[test]
fn slow_answers_and_none_at_all() {
    misbehaves(
        "slow backend",
        &[Behaviour::Slow(Duration::from_millis(800)), Behaviour::Mute],
    );
}

#[test]
fn wrong_answers() {
    misbehaves(
        "wrong backend",
        &[
            Behaviour::Status(500),
            Behaviour::Garbage,
            Behaviour::Status(503),
            Behaviour::EndlessHead,
        ],
    );
}

#[test]
fn two_hundred_megabytes_of_answer() {
    misbehaves("200 MB answers", &[Behaviour::Huge(200_000_000)]);
}

/// Half a reply after a status that says taken: asked again a few times, then believed.
#[test]
fn half_an_answer() {
    let world = World::start("half an answer", Setup::new(), 0);
    world.fault();
    world.upstream.behave(Behaviour::Half);
    let requests = world.upstream.requests();
    eventually(
        "a request to be asked again",
        Duration::from_secs(60),
        || (world.upstream.requests() > requests + 2).then_some(()),
    );
    world.tally.flows(20);
    world.upstream.behave(Behaviour::Well);
    world.recovers();
}

#[test]
fn redirects_are_not_followed_and_nothing_is_lost() {
    let elsewhere = Upstream::start();
    let world = World::start("redirects", Setup::new(), 0);
    world.fault();
    world.upstream.behave(Behaviour::Redirect(format!(
        "{}/device/x/data",
        elsewhere.url()
    )));
    // Kept as dead letters that say why.
    let dead = || world.gateway.json(&["outbox", "list", "--dead"])["dead"].clone();
    eventually("dead letters", Duration::from_secs(60), || {
        let why = dead()[0]["reason"].as_str()?.to_owned();
        assert!(why.contains(&elsewhere.url()), "{why}");
        Some(())
    });
    world.tally.flows(20);
    world.upstream.behave(Behaviour::Well);
    world.tally.flows(5);
    // And delivered when they are sent again, as soon as what was under way is answered.
    eventually("no dead letter", Duration::from_secs(60), || {
        world.gateway.run(&["outbox", "retry", "--all"]);
        thread::sleep(Duration::from_millis(500));
        dead().as_array()?.is_empty().then_some(())
    });
    assert_eq!(elsewhere.requests(), 0, "nobody else got a message");
    world.recovers();
}

#[test]
fn it_flaps() {
    let world = World::start("flapping backend", Setup::new(), 3);
    world.fault();
    for _ in 0..12 {
        world.upstream.go_down();
        thread::sleep(Duration::from_millis(250));
        world.upstream.come_back();
        thread::sleep(Duration::from_millis(250));
    }
    world.recovers();
}
