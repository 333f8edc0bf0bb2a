//! What comes in: publishes and handshakes.

use std::time::Duration;

use super::{Bench, Notes};
use crate::{
    Fallible, disk,
    fleet::Fleet,
    load::Load,
    results::{Goal, Line},
};

const DEVICES: usize = 50;
const WINDOW: u32 = 20;
/// Devices that publish one message at a time.
const SERIAL: usize = 4;
/// Devices that connect over and over, as many as the generator makes at a time.
const CONNECTING: usize = 32;

pub(super) fn throughput(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, DEVICES)?;
    let load = Load::new(DEVICES, bench.scaled(5, 2))
        .flag("window", WINDOW)
        .flag("size", bench.payload);
    let (mut peer, mut ours, mut notes) = (Vec::new(), Vec::new(), Notes::default());
    let (mut peer_us, mut our_us) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let outcome = bench.against_mosquitto(&fleet, &load)?;
        peer.push(outcome.number("rate"));
        peer_us.push(outcome.server_us()?);
        notes.add_cpu("mosquitto", &outcome)?;
        let outcome = bench.against_tidegate(&fleet, &load)?;
        ours.push(outcome.number("rate"));
        our_us.push(outcome.server_us()?);
        notes.add_cpu("tidegate", &outcome)?;
    }
    bench.results.add(Line {
        row: "throughput",
        what: format!("publishes, {DEVICES} devices, window {WINDOW}"),
        unit: "/s",
        peer: Some(("mosquitto", peer)),
        ours,
        goal: Some(Goal::Times(1.5)),
        notes: notes.medians(),
    });
    // What other work on the machine does not distort.
    bench.results.add(Line {
        row: "throughput",
        what: "processor time of the server for each of these".into(),
        unit: "us",
        peer: Some(("mosquitto", peer_us)),
        ours: our_us,
        goal: None,
        notes: Vec::new(),
    });
    Ok(())
}

pub(super) fn one_at_a_time(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, SERIAL)?;
    let load = Load::new(SERIAL, bench.scaled(4, 2))
        .flag("window", 1)
        .flag("size", bench.payload);
    let folder = bench.place.fresh("disk")?;
    let each = Duration::from_millis(bench.scaled(700, 300));
    let (mut limits, mut ours, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = Notes::default();
    for _ in 0..bench.rounds {
        // Before and after, as the disk has its moods.
        let before = disk::commits(&folder, bench.payload, each)?;
        let outcome = bench.against_tidegate(&fleet, &load)?;
        let after = disk::commits(&folder, bench.payload, each)?;
        let sqlite = (before.sqlite + after.sqlite) / 2.0;
        let fdatasync = (before.fdatasync + after.fdatasync) / 2.0;
        limits.push(SERIAL as f64 / sqlite * 1e6);
        ours.push(outcome.number("rate"));
        notes.add("commit in SQLite us", sqlite);
        notes.add("fdatasync us", fdatasync);
        notes.add(
            "its p99 us",
            (before.fdatasync_p99 + after.fdatasync_p99) / 2.0,
        );
        notes.add_cpu("tidegate", &outcome)?;
        notes.add("p50 us", outcome.number("/latency_us/p50"));
        peer.push(bench.against_mosquitto(&fleet, &load)?.number("rate"));
    }
    let what = format!("publishes, {SERIAL} devices, window 1");
    bench.results.add(Line {
        row: "commit",
        what: format!("{what}, of the disk's limit"),
        unit: "/s",
        peer: Some(("4 / a commit", limits)),
        ours: ours.clone(),
        goal: Some(Goal::OfLimit(0.8)),
        notes: notes.medians(),
    });
    bench.results.add(Line {
        row: "commit",
        what,
        unit: "/s",
        peer: Some(("mosquitto", peer)),
        ours,
        goal: None,
        notes: Vec::new(),
    });
    Ok(())
}

pub(super) fn latency(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, DEVICES)?;
    let base = Load::new(DEVICES, bench.scaled(5, 2))
        .flag("window", 64)
        .flag("size", bench.payload);
    let (peer_rate, our_rate) = match bench.results.medians("throughput") {
        Some(rates) => rates,
        None => {
            let load = Load::new(DEVICES, 2)
                .flag("window", WINDOW)
                .flag("size", bench.payload);
            let peer = bench.against_mosquitto(&fleet, &load)?.number("rate");
            (peer, bench.against_tidegate(&fleet, &load)?.number("rate"))
        }
    };
    let at = |rate: f64| base.clone().flag("rate", (rate / 2.0).round());
    let mut figures = [const { (Vec::new(), Vec::new()) }; 2];
    let mut notes = Notes::default();
    for _ in 0..bench.rounds {
        let peer = bench.against_mosquitto(&fleet, &at(peer_rate))?;
        let ours = bench.against_tidegate(&fleet, &at(our_rate))?;
        notes.add("mosquitto rate", peer.number("rate"));
        notes.add("tidegate rate", ours.number("rate"));
        notes.add_cpu("tidegate", &ours)?;
        for ((peers, own), which) in figures.iter_mut().zip(["p50", "p99"]) {
            peers.push(peer.number(&format!("/latency_us/{which}")) / 1e3);
            own.push(ours.number(&format!("/latency_us/{which}")) / 1e3);
        }
    }
    let [(p50_peer, p50), (p99_peer, p99)] = figures;
    bench.results.add(Line {
        row: "latency",
        what: "acknowledgement at half rate, p50".into(),
        unit: "ms",
        peer: Some(("mosquitto", p50_peer)),
        ours: p50,
        goal: None,
        notes: notes.medians(),
    });
    bench.results.add(Line {
        row: "latency",
        what: "acknowledgement at half rate, p99".into(),
        unit: "ms",
        peer: Some(("mosquitto", p99_peer)),
        ours: p99,
        goal: Some(Goal::AtMost(5.0)),
        notes: Vec::new(),
    });
    Ok(())
}

pub(super) fn handshakes(bench: &mut Bench) -> Fallible<()> {
    let fleet = Fleet::of(&bench.place, CONNECTING)?;
    for (mode, what) in [
        ("full", "full TLS 1.3 handshakes with client certificate"),
        ("resumed", "resumed TLS 1.3 handshakes"),
    ] {
        let load = Load::new(CONNECTING, bench.scaled(4, 2)).flag("handshakes", mode);
        let (mut peer, mut ours, mut notes) = (Vec::new(), Vec::new(), Notes::default());
        for _ in 0..bench.rounds {
            let outcome = bench.against_mosquitto(&fleet, &load)?;
            peer.push(outcome.number("rate"));
            notes.add_cpu("mosquitto", &outcome)?;
            notes.add(
                "mosquitto resumed",
                outcome.number("resumed") / outcome.number("connected"),
            );
            let outcome = bench.against_tidegate(&fleet, &load)?;
            ours.push(outcome.number("rate"));
            notes.add_cpu("tidegate", &outcome)?;
            notes.add(
                "tidegate resumed",
                outcome.number("resumed") / outcome.number("connected"),
            );
        }
        bench.results.add(Line {
            row: "handshakes",
            what: what.into(),
            unit: "/s",
            peer: Some(("mosquitto", peer)),
            ours,
            goal: Some(Goal::Times(1.0)),
            notes: notes.medians(),
        });
    }
    Ok(())
}
