//! The database is truncated, or has flipped bits: in its pages, in the segments of the log, in the
//! WAL. It is found, said by name, and the damaged file is kept; never is it silently made anew, and
//! never does less arrive than was acknowledged without a word.

use std::{
    fs,
    path::PathBuf,
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use crate::{
    support::{Gateway, Setup, envelope_at, eventually, mqtt::Client, mqtt::Hello, now},
    upstream::Upstream,
    world::Dice,
};

/// Messages in the database that is damaged.
const MESSAGES: usize = 400;
/// Of that many bytes each, so that the tables have inner pages.
const FILLER: usize = 600;

const FILES: [&str; 2] = ["tidegate.db", "tidegate.db-wal"];

/// The exit status for damaged data.
const DAMAGED: i32 = 65;

/// A stopped gateway that owes [`MESSAGES`] messages, and its files as they were.
struct Specimen {
    gateway: Gateway,
    upstream: Upstream,
    keys: std::collections::HashSet<String>,
    whole: Vec<Option<Vec<u8>>>,
}

/// What became of it.
#[derive(Debug)]
enum Outcome {
    /// It ended, with this status, and this is what it said.
    Ended(ExitStatus, String),
    /// It runs and says so.
    Said,
    /// It runs and everything arrived.
    Unharmed,
    /// It runs, and neither.
    Lost(usize),
}

impl Specimen {
    /// Stopped in an orderly way (everything is in the database), or killed (some is in the WAL).
    fn new(orderly: bool) -> Self {
        let upstream = Upstream::start();
        upstream.go_down();
        let mut gateway = Setup::new()
            .device_with("sensor", "messages_per_second = 100000")
            .toml("[limits]\nmessage_burst = 100000")
            .backend(&upstream.url())
            .start();
        let bundle = gateway.bundle("sensor");
        let mut client = Client::connect(&gateway, &bundle, &Hello::default());
        let filler = "x".repeat(FILLER);
        let mut keys = std::collections::HashSet::new();
        for n in 0..MESSAGES {
            let id = uuid::Uuid::new_v4().to_string();
            let payload = format!(r#"{{"n":{n},"filler":"{filler}"}}"#);
            let message = envelope_at("sensor", now(), &id, &payload);
            let (reason, why) = client.publish("device/sensor/data", message.as_bytes());
            assert_eq!(reason, 0, "{why}");
            keys.insert(format!("sensor:{id}"));
        }
        drop(client);
        if orderly {
            assert!(gateway.stop().success());
            // What is in the WAL would stand in for what is damaged.
            let path = gateway.setup.state_dir().join(FILES[0]);
            let conn = rusqlite::Connection::open(path).unwrap();
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        } else {
            gateway.kill();
        }
        let mut specimen = Self {
            gateway,
            upstream,
            keys,
            whole: Vec::new(),
        };
        specimen.whole = FILES
            .iter()
            .map(|name| fs::read(specimen.path(name)).ok())
            .collect();
        specimen
    }

    fn path(&self, name: &str) -> PathBuf {
        self.gateway.setup.state_dir().join(name)
    }

    /// As it was before any damage.
    fn heal(&self) {
        let _ = fs::remove_file(self.path("tidegate.db-shm"));
        for (name, whole) in FILES.iter().zip(&self.whole) {
            match whole {
                Some(bytes) => fs::write(self.path(name), bytes).unwrap(),
                None => drop(fs::remove_file(self.path(name))),
            }
        }
    }

    /// Starts it as it is now, with a backend that takes everything, and sees what comes of it.
    fn outcome(&mut self) -> Outcome {
        // A backend of its own, at the same address in the configuration, that knows nothing yet.
        self.upstream.forget();
        self.upstream.come_back();
        let logged = self.gateway.log().len();
        self.gateway.spawn();
        let deadline = Instant::now() + Duration::from_secs(25);
        let outcome = loop {
            let said = self.gateway.log()[logged..].to_owned();
            if let Some(status) = self.gateway.try_ended() {
                // The last lines are on their way.
                thread::sleep(Duration::from_millis(200));
                break Outcome::Ended(status, self.gateway.log()[logged..].to_owned());
            }
            if said.contains("damaged") && said.contains("tidegate.db") {
                break Outcome::Said;
            }
            let missing = self.upstream.missing(&self.keys).len();
            if missing == 0 {
                break Outcome::Unharmed;
            }
            if Instant::now() > deadline {
                break Outcome::Lost(missing);
            }
            thread::sleep(Duration::from_millis(20));
        };
        if self.gateway.runs() {
            self.gateway.kill();
        }
        self.upstream.go_down();
        self.upstream.assert_consistent();
        outcome
    }

    /// Fails the test if `damage` was neither harmless nor found and named.
    fn judge(&mut self, damage: &str) -> &'static str {
        let before = fs::read(self.path(FILES[0])).unwrap_or_default();
        match self.outcome() {
            Outcome::Unharmed => "harmless",
            Outcome::Said => {
                assert!(self.path(FILES[0]).exists(), "{damage}: the file is gone");
                "found while it ran"
            }
            Outcome::Ended(status, log) => {
                assert_eq!(status.code(), Some(DAMAGED), "{damage}: {log}");
                let named = log.contains("damaged") && log.contains("tidegate.db");
                assert!(named, "{damage}: not said by name: {log}");
                let after = fs::read(self.path(FILES[0])).unwrap_or_default();
                assert!(after == before, "{damage}: the damaged file was changed");
                "found at the start"
            }
            Outcome::Lost(count) => panic!(
                "{damage}: {count} of {MESSAGES} acknowledged messages are missing, and nothing was said:\n{}",
                self.gateway.log()
            ),
        }
    }

    fn whole(&self, file: usize) -> &[u8] {
        self.whole[file].as_deref().unwrap_or_default()
    }

    /// Whole again, it delivers everything: the damage was what was found.
    fn whole_again(mut self) {
        self.heal();
        assert!(matches!(self.outcome(), Outcome::Unharmed));
    }
}

#[test]
fn a_truncated_database_is_found_and_kept() {
    let mut specimen = Specimen::new(true);
    let length = specimen.whole(0).len() as u64;
    for to in [
        0,
        1,
        99,
        100,
        4_096,
        6_000,
        length / 2,
        length - 4_096,
        length - 1,
    ] {
        specimen.heal();
        let file = fs::File::options()
            .write(true)
            .open(specimen.path(FILES[0]))
            .unwrap();
        file.set_len(to).unwrap();
        drop(file);
        let found = specimen.judge(&format!("truncated to {to} of {length} bytes"));
        assert_eq!(
            found, "found at the start",
            "truncated to {to} of {length} bytes"
        );
    }
    specimen.whole_again();
}

#[test]
fn a_truncated_database_beside_its_wal_is_found_and_kept() {
    let mut specimen = Specimen::new(false);
    assert!(!specimen.whole(1).is_empty(), "a WAL was left");
    for to in [0, 99, 4_096] {
        specimen.heal();
        let file = fs::File::options()
            .write(true)
            .open(specimen.path(FILES[0]))
            .unwrap();
        let to = to.min(file.metadata().unwrap().len());
        file.set_len(to).unwrap();
        drop(file);
        let how = specimen.judge(&format!(
            "the database truncated to {to} bytes, the WAL whole"
        ));
        println!("truncated to {to} bytes beside its WAL: {how}");
    }
    specimen.heal();
    fs::remove_file(specimen.path(FILES[0])).unwrap();
    let found = specimen.judge("the database gone, its WAL there");
    assert_eq!(found, "found at the start");
    specimen.whole_again();
}

#[test]
fn a_flipped_bit_in_a_segment_is_found_by_its_checksum() {
    let mut specimen = Specimen::new(true);
    // In the middle of what a device sent: SQLite does not see it.
    for n in [3, MESSAGES / 2, MESSAGES - 2] {
        let text = format!(r#"{{"n":{n},"#);
        let bytes = specimen.whole(0);
        let at = bytes
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        let at = at.expect("the payload as the device wrote it") + text.len() + 20;
        specimen.heal();
        flip(&specimen.path(FILES[0]), at, 3);
        let found = specimen.judge(&format!("a bit of message {n} flipped"));
        assert_ne!(
            found, "harmless",
            "message {n} was delivered with a flipped bit"
        );
    }
    specimen.whole_again();
}

#[test]
fn flipped_bits_anywhere_in_the_database_lose_nothing_in_silence() {
    flips(true, 0, 16);
}

#[test]
#[ignore = "the long form: some minutes"]
fn four_hundred_flipped_bits_anywhere_in_the_database_lose_nothing_in_silence() {
    flips(true, 0, 400);
}

#[test]
fn flipped_bits_in_the_wal_lose_nothing_in_silence() {
    flips(false, 1, 8);
}

#[test]
#[ignore = "the long form: some minutes"]
fn two_hundred_flipped_bits_in_the_wal_lose_nothing_in_silence() {
    flips(false, 1, 200);
}

/// Flips one bit at a time at random places of a file: half of them where pages have their headers
/// and cell pointers, those of indices among them.
fn flips(orderly: bool, file: usize, count: usize) {
    let mut dice = Dice::new();
    let mut specimen = Specimen::new(orderly);
    let length = specimen.whole(file).len() as u64;
    assert!(length > 4_096, "there is something to damage");
    // The last transaction of a WAL cannot be told from one that a power cut tore.
    let length = if file == 1 { length * 9 / 10 } else { length };
    let mut found = std::collections::BTreeMap::<&str, usize>::new();
    for round in 0..count {
        let page = dice.below(length / 4_096) * 4_096;
        let within = if round % 2 == 0 { 64 } else { 4_096 };
        let at = page + dice.below(within);
        let bit = u32::try_from(dice.below(8)).unwrap();
        specimen.heal();
        flip(
            &specimen.path(FILES[file]),
            usize::try_from(at).unwrap(),
            bit,
        );
        let how = specimen.judge(&format!(
            "bit {bit} of byte {at} of {} flipped",
            FILES[file]
        ));
        *found.entry(how).or_default() += 1;
    }
    println!("{count} flipped bits in {}: {found:?}", FILES[file]);
    specimen.whole_again();
}

fn flip(path: &std::path::Path, at: usize, bit: u32) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// The lock tells a database that is gone from one that never was; and who wants to begin anew can.
#[test]
fn moved_away_it_begins_anew_and_says_so() {
    let mut specimen = Specimen::new(true);
    for name in FILES {
        let _ = fs::rename(specimen.path(name), specimen.path(&format!("{name}.old")));
    }
    specimen.gateway.start();
    let status = specimen.gateway.json(&["status"]);
    assert_eq!(status["upstreams"]["backend"]["accepted"], 0);
    eventually("a word of it", Duration::from_secs(5), || {
        specimen
            .gateway
            .log()
            .contains("new database")
            .then_some(())
    });
}
