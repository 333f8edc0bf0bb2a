//! Mosquitto with the Python script between it and the backend.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{
    Fallible,
    fleet::{Fleet, device_id},
    mosquitto::Mosquitto,
    place::Place,
    process::{Server, Usage},
};

#[derive(Debug)]
pub(crate) struct SeedStack {
    pub(crate) broker: Mosquitto,
    script: Server,
}

impl SeedStack {
    pub(crate) fn start(
        place: &Place,
        fleet: &Fleet,
        devices: usize,
        backend: SocketAddr,
    ) -> Fallible<Self> {
        let python = place.python()?;
        let broker = Mosquitto::start(place, fleet)?;
        let folder = place.fresh("seed-stack")?;
        let database = folder.join("devices.db");
        let conn = Connection::open(&database)?;
        conn.execute_batch(
            "CREATE TABLE devices (device_id TEXT PRIMARY KEY, shared_secret TEXT NOT NULL, created_at INTEGER)",
        )?;
        for id in (0..devices).map(device_id) {
            let secret = fs::read_to_string(fleet.secret(&id)?)?;
            let row = (id, secret, 0);
            conn.execute("INSERT INTO devices VALUES (?, ?, ?)", row)?;
        }
        let log = folder.join("log");
        let mut script = Server::start(
            Command::new(python)
                .arg(place.root.join("tests/bench/seed_stack/gateway.py"))
                .arg(broker.plain.port().to_string())
                .arg(&database)
                .arg(format!("http://{backend}")),
            &log,
        )?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&log)?.contains("ready") {
            script.alive(&log)?;
            if Instant::now() > deadline {
                return Err(format!("the script is not ready; see {}", log.display()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { broker, script })
    }

    /// Seconds of processor time of both processes.
    pub(crate) fn cpu(&self) -> Fallible<f64> {
        Ok(self.broker.server.usage()?.cpu + Usage::of(self.script.pid())?.cpu)
    }
}
