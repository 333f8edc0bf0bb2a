//! What is measured, one function for each row.

mod ingest;
mod onward;
mod standing;

use std::net::SocketAddr;

use crate::{
    Fallible,
    fleet::Fleet,
    load::{Load, Outcome, generate},
    mosquitto::Mosquitto,
    place::{Place, free_address},
    results::{Results, median},
    tidegate::Setup,
};

/// One row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&mut Bench) -> Fallible<()>,
}

pub(crate) const ROWS: [Row; 10] = [
    Row {
        name: "throughput",
        what: "acknowledged publishes a second, 50 devices, window 20",
        run: ingest::throughput,
    },
    Row {
        name: "commit",
        what: "the same with 4 devices, one message at a time, beside the disk's own commits",
        run: ingest::one_at_a_time,
    },
    Row {
        name: "latency",
        what: "of acknowledgements at half the first row's rate",
        run: ingest::latency,
    },
    Row {
        name: "forward",
        what: "to an HTTP backend and back, beside mosquitto with a Python script",
        run: onward::forward,
    },
    Row {
        name: "sessions",
        what: "memory of an idle mutual-TLS session",
        run: standing::sessions,
    },
    Row {
        name: "handshakes",
        what: "full and resumed TLS 1.3 handshakes a second",
        run: ingest::handshakes,
    },
    Row {
        name: "replay",
        what: "memory of replay protection and registry, 1,000 devices, a whole window",
        run: standing::replay,
    },
    Row {
        name: "drain",
        what: "of 10 k, 100 k and 1 M owed messages",
        run: onward::drain,
    },
    Row {
        name: "start",
        what: "to serving, with 10,000 devices and 1 M owed messages",
        run: onward::start,
    },
    Row {
        name: "footprint",
        what: "of the program: file and idle memory",
        run: standing::footprint,
    },
];

/// What rows share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) place: Place,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Bytes of a payload, as the load generator takes it.
    pub(crate) payload: usize,
    pub(crate) results: Results,
}

impl Bench {
    /// `full`, or less when it only is to be seen that everything works.
    fn scaled(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Runs `load` against mosquitto, in its own life.
    fn against_mosquitto(&self, fleet: &Fleet, load: &Load) -> Fallible<Outcome> {
        let peer = Mosquitto::start(&self.place, fleet)?;
        let outcome = generate(&self.place, fleet, load, peer.address, peer.server.pid())?;
        peer.server.stop()?;
        Ok(outcome)
    }

    /// Runs `load` against Tidegate, in its own life; its backend is away.
    fn against_tidegate(&self, fleet: &Fleet, load: &Load) -> Fallible<Outcome> {
        let setup = Setup::new(&self.place, fleet, load.devices, nobody()?)?;
        let gateway = setup.start()?;
        let outcome = generate(
            &self.place,
            fleet,
            load,
            setup.address,
            gateway.server.pid(),
        )?;
        gateway.server.stop()?;
        Ok(outcome)
    }
}

/// An address where nothing listens.
fn nobody() -> Fallible<SocketAddr> {
    free_address()
}

/// The figures of several rounds under the names they are noted by.
#[derive(Debug, Default)]
struct Notes(Vec<(String, Vec<f64>)>);

impl Notes {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Processor time of server and generator.
    fn add_cpu(&mut self, who: &str, outcome: &Outcome) -> Fallible<()> {
        self.add(&format!("{who} processors"), outcome.server_cpu()?);
        self.add(&format!("generator's beside {who}"), outcome.number("cpu"));
        self.add(&format!("{who} us each"), outcome.server_us()?);
        Ok(())
    }

    fn medians(self) -> Vec<(String, f64)> {
        self.0
            .into_iter()
            .filter_map(|(name, values)| Some((name, median(&values)?)))
            .collect()
    }
}
