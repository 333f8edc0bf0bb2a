//! What goes on to a backend, and what is owed to it.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Bench, Notes, nobody};
use crate::{
    Fallible,
    backend::Backend,
    fleet::Fleet,
    load::{Load, Outcome, generate},
    place::free_address,
    process::Sampler,
    results::{Goal, Line},
    seed_stack::SeedStack,
    tidegate::Setup,
};

const DEVICES: usize = 50;
/// Messages of a device that wait for their replies.
const WINDOW: u32 = 4;
/// Devices that are declared for the start; most have never connected.
const DECLARED: usize = 10_000;

pub(super) fn forward(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, DEVICES)?;
    let seconds = bench.scaled(5, 2);
    let base = Load::new(DEVICES, seconds)
        .flag("size", bench.payload)
        .switch("responses");
    let full = base.clone().flag("window", WINDOW);
    let (mut peer, mut ours) = (Vec::new(), Vec::new());
    let mut figures = [const { (Vec::new(), Vec::new()) }; 2];
    let mut notes = Notes::default();
    for _ in 0..bench.rounds {
        let half = |outcome: &Outcome| {
            base.clone()
                .flag("window", 64)
                .flag("rate", (outcome.number("rate") / 2.0).round())
        };
        let script = |load: &Load| -> Fallible<Outcome> {
            let backend = Backend::start(free_address()?)?;
            let stack = SeedStack::start(&bench.place, &fleet, DEVICES, backend.address)?;
            let before = (stack.cpu()?, backend.posts());
            // The script signs as the seed does: version 1.
            let load = load.clone().flag("signature", "v1");
            let (address, pid) = (stack.broker.address, stack.broker.server.pid());
            let outcome = generate(&bench.place, &fleet, &load, address, pid)?;
            let posts = backend.posts() - before.1;
            if posts == 0 {
                return Err("the script forwarded nothing".into());
            }
            Ok(outcome)
        };
        let peer_full = script(&full)?;
        let peer_half = script(&half(&peer_full))?;
        let gateway = |load: &Load| -> Fallible<Outcome> {
            let backend = Backend::start(free_address()?)?;
            let setup = Setup::new(&bench.place, &fleet, DEVICES, backend.address)?;
            let gateway = setup.start()?;
            let pid = gateway.server.pid();
            let outcome = generate(&bench.place, &fleet, load, setup.address, pid)?;
            gateway.server.stop()?;
            Ok(outcome)
        };
        let our_full = gateway(&full)?;
        let our_half = gateway(&half(&our_full))?;
        peer.push(peer_full.number("rate"));
        ours.push(our_full.number("rate"));
        notes.add_cpu("tidegate", &our_full)?;
        notes.add("unanswered", our_full.number("unanswered"));
        for ((peers, own), which) in figures.iter_mut().zip(["p50", "p99"]) {
            peers.push(peer_half.number(&format!("/latency_us/{which}")) / 1e3);
            own.push(our_half.number(&format!("/latency_us/{which}")) / 1e3);
        }
    }
    let [(p50_peer, p50), (p99_peer, p99)] = figures;
    let name = "mosquitto + script";
    bench.results.add(Line {
        row: "forward",
        what: format!("to the backend and back, {DEVICES} devices, window {WINDOW}"),
        unit: "/s",
        peer: Some((name, peer)),
        ours,
        goal: Some(Goal::Times(20.0)),
        notes: notes.medians(),
    });
    for (which, peer, ours, goal) in [
        ("p50", p50_peer, p50, None),
        ("p99", p99_peer, p99, Some(Goal::AtMost(10.0))),
    ] {
        bench.results.add(Line {
            row: "forward",
            what: format!("round trip at half its rate, {which}"),
            unit: "ms",
            peer: Some((name, peer)),
            ours,
            goal,
            notes: Vec::new(),
        });
    }
    Ok(())
}

/// Has the gateway owe `messages` to a backend that is away.
fn owe(bench: &Bench, fleet: &Fleet, setup: &Setup, messages: u64) -> Fallible<()> {
    let gateway = setup.start()?;
    let load = Load::new(DEVICES, 240)
        .without_warmup()
        .flag("window", 64)
        .flag("size", bench.payload)
        .flag("messages", messages / DEVICES as u64);
    let pid = gateway.server.pid();
    generate(&bench.place, fleet, &load, setup.address, pid)?;
    let owed = gateway.owed()?;
    gateway.server.stop()?;
    if owed == messages {
        Ok(())
    } else {
        Err(format!("{owed} messages are owed instead of {messages}").into())
    }
}

pub(super) fn drain(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, DEVICES)?;
    let sizes: &[u64] = if bench.quick {
        &[2_000, 20_000]
    } else {
        &[10_000, 100_000, 1_000_000]
    };
    let (mut costs, mut peaks, mut first) = (Vec::new(), Vec::new(), None);
    for &messages in sizes {
        let away = free_address()?;
        let setup = Setup::new(&bench.place, &fleet, DEVICES, away)?;
        owe(bench, &fleet, &setup, messages)?;
        let backend = Backend::start(away)?;
        let gateway = setup.start()?;
        let before = gateway.server.usage()?;
        let (began, sampler) = (Instant::now(), Sampler::start(gateway.server.pid()));
        while backend.posts() < messages {
            if began.elapsed() > Duration::from_secs(300) {
                let posts = backend.posts();
                return Err(format!("only {posts} of {messages} came in five minutes").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed().as_secs_f64();
        let cpu = gateway.server.usage()?.cpu - before.cpu;
        let peak = sampler.finish().peak();
        gateway.server.stop()?;
        let cost = cpu / messages as f64 * 1e6;
        let first = first.get_or_insert((cost, peak));
        costs.push((messages, cost, messages as f64 / took, *first));
        peaks.push((messages, peak, *first));
    }
    for (messages, cost, rate, first) in costs {
        bench.results.add(Line {
            row: "drain",
            what: format!("drain of {messages} owed, processor time each"),
            unit: "us",
            peer: Some(("the smallest", vec![first.0])),
            ours: vec![cost],
            // Flat: a tenth more may be the machine's.
            goal: Some(Goal::AtMost(first.0 * 1.1)),
            notes: vec![("messages a second".into(), rate)],
        });
    }
    for (messages, peak, first) in peaks {
        bench.results.add(Line {
            row: "drain",
            what: format!("drain of {messages} owed, most memory"),
            unit: "MiB",
            peer: Some(("the smallest", vec![first.1 / MIB])),
            ours: vec![peak / MIB],
            goal: Some(Goal::AtMost(first.1 / MIB * 1.25)),
            notes: Vec::new(),
        });
    }
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn start(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, DEVICES)?;
    let messages: u64 = bench.scaled(1_000_000, 20_000);
    let setup = Setup::new(&bench.place, &fleet, DEVICES, nobody()?)?;
    owe(bench, &fleet, &setup, messages)?;
    setup.configure(&fleet, DECLARED, nobody()?)?;
    // The first start adds the devices, which happens once.
    let gateway = setup.start()?;
    let mut notes = Notes::default();
    notes.add(
        "with the devices new ms",
        gateway.started_in.as_secs_f64() * 1e3,
    );
    gateway.server.stop()?;
    let mut ours = Vec::new();
    for _ in 0..bench.rounds {
        let gateway = setup.start()?;
        ours.push(gateway.started_in.as_secs_f64() * 1e3);
        let usage = gateway.server.usage()?;
        notes.add("of it processor time ms", usage.cpu * 1e3);
        notes.add("memory MiB", usage.rss / MIB);
        // As after a power cut.
        drop(gateway);
        let gateway = setup.start()?;
        notes.add("after kill -9 ms", gateway.started_in.as_secs_f64() * 1e3);
        gateway.server.stop()?;
    }
    bench.results.add(Line {
        row: "start",
        what: format!("start with {DECLARED} devices and {messages} owed messages"),
        unit: "ms",
        peer: None,
        ours,
        goal: Some(Goal::AtMost(1000.0)),
        notes: notes.medians(),
    });
    Ok(())
}
