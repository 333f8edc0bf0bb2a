//! What it takes to stand there: memory, and the program itself.

use std::{process::Command, thread, time::Duration};

use super::{Bench, Notes, nobody};
use crate::{
    Fallible,
    fleet::Fleet,
    load::{Load, generate},
    mosquitto::Mosquitto,
    place::run,
    results::{Goal, Line},
    tidegate::Setup,
};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// Time after which a server that was just started or loaded is idle.
const SETTLED: Duration = Duration::from_millis(1500);

pub(super) fn sessions(bench: &mut Bench) -> Fallible<()> {
    let count = usize::try_from(bench.scaled(2_000, 100))?;
    let fleet = Fleet::of(&bench.place, count)?;
    let load = Load::new(count, 6)
        .without_warmup()
        .switch("connections-only");
    let peer = {
        let server = Mosquitto::start(&bench.place, &fleet)?;
        let before = server.server.usage()?.rss;
        let pid = server.server.pid();
        let outcome = generate(&bench.place, &fleet, &load, server.address, pid)?;
        (outcome.server_rss(4.0)? - before) / outcome.number("connected") / KIB
    };
    let setup = Setup::new(&bench.place, &fleet, count, nobody()?)?;
    let gateway = setup.start()?;
    thread::sleep(SETTLED);
    let before = gateway.server.usage()?.rss;
    let pid = gateway.server.pid();
    let outcome = generate(&bench.place, &fleet, &load, setup.address, pid)?;
    let connected = outcome.number("connected");
    if connected < count as f64 {
        return Err(format!("only {connected} of {count} sessions were made").into());
    }
    let mut notes = Notes::default();
    notes.add("tidegate before MiB", before / MIB);
    notes.add("with all of them MiB", outcome.server_rss(4.0)? / MIB);
    let ours = (outcome.server_rss(4.0)? - before) / connected / KIB;
    gateway.server.stop()?;
    bench.results.add(Line {
        row: "sessions",
        what: format!("memory of an idle session, of {count}"),
        unit: "KiB",
        peer: Some(("mosquitto", vec![peer])),
        ours: vec![ours],
        goal: Some(Goal::AtMostPeerAnd(1.0, 40.0)),
        notes: notes.medians(),
    });
    Ok(())
}

/// Seconds that timestamps are spread over, before and after now: the freshness window of five
/// minutes, less what the load itself takes.
const SPREAD: u64 = 280;

pub(super) fn replay(bench: &mut Bench) -> Fallible<()> {
    let devices = usize::try_from(bench.scaled(1_000, 50))?;
    let fleet = Fleet::of(&bench.place, devices)?;
    let mut notes = Notes::default();
    // What the registry adds: the same gateway with next to no devices.
    let few = {
        let setup = Setup::new(&bench.place, &fleet, 1, nobody()?)?;
        let gateway = setup.start()?;
        thread::sleep(SETTLED);
        gateway.server.usage()?.rss
    };
    let setup = Setup::new(&bench.place, &fleet, devices, nobody()?)?;
    // Declared devices are written once; what that took is gone after a restart.
    setup.start()?.server.stop()?;
    let gateway = setup.start()?;
    thread::sleep(SETTLED);
    let all = gateway.server.usage()?.rss;
    let load = Load::new(devices, 240)
        .without_warmup()
        .flag("window", 4)
        .flag("size", bench.payload)
        .flag("spread", SPREAD)
        .flag("messages", 2 * SPREAD);
    let pid = gateway.server.pid();
    generate(&bench.place, &fleet, &load, setup.address, pid)?;
    thread::sleep(SETTLED);
    let remembered = gateway.metric("tidegate_replay_remembered ", &fleet.root())?;
    let replay = gateway.metric("tidegate_replay_memory_bytes ", &fleet.root())?;
    notes.add("remembered", remembered);
    notes.add("registry KiB", (all - few) / KIB);
    notes.add("replay KiB", replay / KIB);
    notes.add("resident idle MiB", all / MIB);
    notes.add(
        "resident after the load MiB",
        gateway.server.usage()?.rss / MIB,
    );
    gateway.server.stop()?;
    // Restarted, it holds what it remembers and nothing of the load.
    let gateway = setup.start()?;
    thread::sleep(SETTLED);
    notes.add("resident restarted MiB", gateway.server.usage()?.rss / MIB);
    gateway.server.stop()?;
    let expected = devices as f64 * 2.0 * SPREAD as f64;
    if remembered < expected {
        return Err(format!("{remembered} messages are remembered instead of {expected}").into());
    }
    bench.results.add(Line {
        row: "replay",
        what: format!("memory of registry and replay protection, {devices} devices"),
        unit: "KiB",
        peer: None,
        ours: vec![((all - few).max(0.0) + replay) / KIB],
        goal: Some(Goal::AtMost(1e6 / KIB)),
        notes: notes.medians(),
    });
    Ok(())
}

pub(super) fn footprint(bench: &mut Bench) -> Fallible<()> {
    let stripped = bench.place.fresh("footprint")?.join("tidegate");
    run(Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(&bench.place.tidegate))?;
    bench.results.add(Line {
        row: "footprint",
        what: "program, stripped".into(),
        unit: "MiB",
        peer: None,
        ours: vec![std::fs::metadata(&stripped)?.len() as f64 / MIB],
        goal: None,
        notes: Vec::new(),
    });
    let fleet = Fleet::of(&bench.place, 1)?;
    let (mut peer, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let server = Mosquitto::start(&bench.place, &fleet)?;
        let setup = Setup::new(&bench.place, &fleet, 1, nobody()?)?;
        let gateway = setup.start()?;
        thread::sleep(SETTLED);
        peer.push(server.server.usage()?.rss / MIB);
        ours.push(gateway.server.usage()?.rss / MIB);
    }
    bench.results.add(Line {
        row: "footprint",
        what: "idle memory".into(),
        unit: "MiB",
        peer: Some(("mosquitto", peer)),
        ours,
        goal: Some(Goal::AtMost(20.0)),
        notes: Vec::new(),
    });
    Ok(())
}
