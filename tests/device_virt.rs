//! The device itself, on a board without an operating system, against the real gateway: it gets an
//! address and the time, proves itself, tells, obeys, loses power and comes back.
//!
//! The board is QEMU's; the program is the one that runs on an ESP32, but for its drivers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use support::{
    Backend, Gateway, Request, Setup, curl, eventually,
    virt::{Board, HOST, Ntp, PATIENCE, firmware, provision},
};

/// The device reports every five seconds.
const INTERVAL: f64 = 5.0;

/// In seconds; NTP's own era ends a little later.
const NINE_YEARS: i64 = 9 * 365 * 24 * 3600;

/// Readings the device keeps in RAM before they go to flash.
const IN_RAM: usize = 32;

/// Readings that are to be in flash when the power is lost.
const IN_FLASH: usize = 30;

/// What was measured and a tenth more, so that a change that costs is noticed: instructions of a
/// handshake, the most bytes of heap and stack.
const HANDSHAKE: u64 = 71_000_000;
const HEAP: usize = 44 * 1024;
const STACK: usize = 41 * 1024;

struct World {
    gateway: Gateway,
    backend: Backend,
    ntp: Ntp,
    firmware: PathBuf,
    flash: PathBuf,
    key: String,
}

impl World {
    fn new() -> Self {
        let firmware = firmware();
        let backend = Backend::start();
        let ntp = Ntp::start();
        let gateway = Setup::new()
            .host(HOST)
            .device("virt_001")
            .backend(&backend.url())
            .start();
        let address = format!("{HOST}:{}", gateway.mqtt().port());
        let bundle = gateway.setup.path("bundle");
        let secret = gateway.setup.path("virt_001.secret");
        gateway.run(&[
            "pki",
            "issue",
            "device",
            "virt_001",
            "--gateway",
            &address,
            "--secret-file",
            secret.to_str().unwrap(),
            "--out",
            bundle.to_str().unwrap(),
        ]);
        let flash = gateway.setup.path("flash.bin");
        provision(&bundle, ntp.port, &flash);
        let scopes = ["--scope", "command:send", "--scope", "command:read"];
        let made = gateway.json(&[&["key", "create", "backend"][..], &scopes].concat());
        let key = made["token"].as_str().unwrap().to_owned();
        Self {
            gateway,
            backend,
            ntp,
            firmware,
            flash,
            key,
        }
    }

    fn power(&self) -> Board {
        Board::start(&self.firmware, &self.flash, &[])
    }

    /// Waits for a reading of which this is true and returns it.
    fn reading(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE, || {
            self.readings().into_iter().rfind(&wanted)
        })
    }

    fn readings(&self) -> Vec<Value> {
        let requests = self.backend.requests();
        requests
            .iter()
            .filter(|request| is_reading(request))
            .map(body)
            .collect()
    }

    /// Commands the device and waits for the outcome.
    fn command(&self, payload: &Value) -> Value {
        self.outcome(&self.send(payload))
    }

    /// Queues a command and returns where its outcome will be.
    fn send(&self, payload: &Value) -> String {
        let bearer = format!("Authorization: Bearer {}", self.key);
        let json = "Content-Type: application/json";
        let body = payload.to_string();
        let url = self.gateway.api_url("/command/virt_001");
        let arguments = ["-X", "POST", "-H", &bearer, "-H", json, "-d", &body, &url];
        let (code, answer) = curl(&self.gateway, &arguments);
        assert_eq!(code, 202, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        format!("{url}/{}", answer["message_id"].as_str().unwrap())
    }

    fn outcome(&self, url: &str) -> Value {
        let bearer = format!("Authorization: Bearer {}", self.key);
        eventually("the command's outcome", PATIENCE, || {
            let (code, status) = curl(&self.gateway, &["-H", &bearer, url]);
            assert_eq!(code, 200, "{status}");
            let status: Value = serde_json::from_str(&status).unwrap();
            let done = status["status"] == "done" || status["status"] == "failed";
            done.then_some(status)
        })
    }
}

fn is_reading(request: &Request) -> bool {
    request.path == "/device/virt_001/data" && body(request).get("pot").is_some()
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn measured_at(reading: &Value) -> f64 {
    reading["measured_at"]
        .as_f64()
        .unwrap_or_else(|| panic!("{reading}"))
}

/// How many instructions had run when this line was logged.
fn instructions(line: &str) -> u64 {
    let count = line
        .split(" us, ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("{line}"))
}

#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_device_tells_obeys_loses_power_and_comes_back() {
    let mut world = World::new();
    // The first thing that ever happens to the device: it is told something while it sleeps.
    let early = world.send(&json!({"action": "led", "value": 35}));
    let mut board = world.power();
    board.wait("connected, session new");
    let status = world.outcome(&early);
    assert_eq!(status["status"], "done", "{status}");
    board.wait("LED at 35 %");

    // What is sensed arrives, a press at once.
    board.type_line("pot 1841");
    board.type_line("press");
    let pressed = world.reading("the press", |r| r["switch"] == 1 && r["pot"] == 1841);
    let age = support::now() as f64 - measured_at(&pressed);
    assert!(age.abs() < 60.0, "the device's clock is right: {age} s");
    assert!(board.log().contains("boot 1 "), "{}", board.log());

    // It obeys, says so, and says what it cannot.
    let status = world.command(&json!({"action": "led", "value": 80}));
    assert_eq!(status["status"], "done", "{status}");
    board.wait("LED at 80 %");
    world.reading("the LED's brightness", |r| r["led"] == 80);
    let status = world.command(&json!({"action": "led", "value": 101}));
    assert_eq!(status["status"], "failed", "{status}");
    assert!(!board.log().contains("LED at 101"));

    // The gateway is away for a while: nothing of that time is missing afterwards.
    let before = world.readings().last().map(measured_at).unwrap();
    world.gateway.kill();
    std::thread::sleep(Duration::from_secs_f64(INTERVAL * 2.5));
    world.gateway.start();
    board.wait("connected, session resumed");
    let back = support::now() as f64;
    world.reading("a reading after the outage", |r| measured_at(r) > back);
    let mut times: Vec<f64> = world.readings().iter().map(measured_at).collect();
    times.sort_by(f64::total_cmp);
    let first = times.iter().position(|at| *at >= before).unwrap();
    for pair in times[first..].windows(2) {
        assert!(
            pair[1] - pair[0] < INTERVAL * 1.5,
            "a reading is missing: {times:?}"
        );
    }

    // Power is lost; the device comes back as the same one, and does nothing twice.
    board.lose_power();
    let seen = world.readings().len();
    let mut board = world.power();
    board.wait("boot 2 ");
    board.wait("connected, session resumed");
    eventually("readings after the power loss", PATIENCE, || {
        (world.readings().len() > seen).then_some(())
    });
    assert!(
        !board.log().contains("LED at 80"),
        "an old command was carried out again"
    );
    let status = world.command(&json!({"action": "led", "value": 20}));
    assert_eq!(status["status"], "done", "{status}");
    board.wait("LED at 20 %");
    board.lose_power();

    // A time before the last one it knew is a lie, and without a time it does not connect.
    world.ntp.lie(-3600);
    let mut board = world.power();
    board.wait("which is certainly past");
    assert!(!board.log().contains("TLS established"), "{}", board.log());
    world.ntp.lie(0);
    board.wait("connected, session resumed");
    board.lose_power();

    // A time far ahead lets it find the gateway's certificate expired. It is not kept: the next answer
    // is as good as the first.
    world.ntp.lie(NINE_YEARS);
    let mut board = world.power();
    board.wait("expired");
    assert!(!board.log().contains("TLS established"), "{}", board.log());
    world.ntp.lie(0);
    board.wait("connected, session resumed");
}

/// The gateway is away, the device buffers, and then loses power: what was in its flash arrives.
#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn readings_in_flash_outlast_a_power_loss() {
    let mut world = World::new();
    let mut board = world.power();
    board.wait("connected, session new");
    world.reading("the first reading", |_| true);
    world.gateway.kill();
    board.wait("gateway cannot be reached");

    // Each press is a reading with a number of its own.
    let presses = IN_RAM + IN_FLASH;
    for pot in 1..=presses {
        board.type_line(&format!("pot {pot}"));
        board.type_line(if pot % 2 == 1 { "press" } else { "release" });
        // Longer than the switch is debounced.
        std::thread::sleep(Duration::from_millis(120));
    }
    board.lose_power();

    world.gateway.start();
    let mut board = world.power();
    board.wait("connected, session resumed");
    let arrived = |pot: usize| world.readings().iter().any(|reading| reading["pot"] == pot);
    // The first new reading comes after those in flash.
    let start = support::now() as f64;
    world.reading("a reading after the power loss", |reading| {
        measured_at(reading) > start
    });
    let outlasted: Vec<_> = (1..=presses).filter(|pot| arrived(*pot)).collect();
    // On a busy machine some presses are shorter than the switch is debounced, so it is at least
    // half of those that cannot have been in RAM, which is lost with the power.
    assert!(outlasted.len() >= IN_FLASH / 2, "{outlasted:?}");
    assert!(!arrived(presses), "the last reading was in RAM");
}

/// The certificate is renewed over the air; the old one is worth nothing any more, and is not needed.
#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_new_certificate_comes_over_the_air() {
    let world = World::new();
    let mut board = world.power();
    board.wait("connected, session new");
    let path = |name: &str| world.gateway.setup.path(name).display().to_string();
    let (renewed, old) = (path("renewed"), path("bundle/device.crt"));
    let device = "device:virt_001";
    let renew = ["pki", "renew", device, "--force", "--out", &renewed];
    world.gateway.run(&renew);
    let certificate = der(&format!("{renewed}/device.crt"));
    let key = der(&format!("{renewed}/device.key"));
    let status =
        world.command(&json!({"action": "credentials", "certificate": certificate, "key": key}));
    assert_eq!(status["status"], "done", "{status}");
    board.wait("trying new credentials");
    board.wait("new credentials work and are kept");
    world.gateway.run(&["pki", "revoke", "--cert", &old]);
    board.lose_power();
    let mut board = world.power();
    board.wait("connected, session resumed");
    let status = world.command(&json!({"action": "led", "value": 10}));
    assert_eq!(status["status"], "done", "{status}");
    board.lose_power();
    // What came before it is not in the flash any more.
    let flash = std::fs::read(&world.flash).unwrap();
    let before = base64(&der(&old));
    assert!(!flash.windows(before.len()).any(|bytes| bytes == before));
    let now = base64(&certificate);
    assert!(flash.windows(now.len()).any(|bytes| bytes == now));
}

/// The first object in a PEM file, in base64 as it is there.
fn der(path: &str) -> String {
    let pem = std::fs::read_to_string(path).unwrap();
    let lines = pem.lines().skip(1);
    lines.take_while(|line| !line.starts_with('-')).collect()
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_board_without_credentials_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let flash = dir.path().join("flash.bin");
    std::fs::write(&flash, vec![0xff; 4 << 20]).unwrap();
    let mut board = Board::start(&firmware(), &flash, &[]);
    board.wait("device is not provisioned: write its credentials partition");
    assert!(!board.ended().success());
}

/// A handshake's cost, and what it needs of the memory the board has.
#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_handshake_costs_what_it_did() {
    let world = World::new();
    let mut board = Board::start(&world.firmware, &world.flash, &["-icount", "shift=0"]);
    board.wait("connected, session new");
    world.reading("a reading", |_| true);
    let [start, end] = ["time is", "TLS established"].map(|text| instructions(&board.wait(text)));
    let handshake = end - start;
    board.type_line("memory");
    let line = board.wait("memory needed");
    let numbers: Vec<usize> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect();
    let [.., heap, stack] = numbers[..] else {
        panic!("{line}")
    };
    println!("handshake: {handshake} instructions; heap {heap}, stack {stack} bytes");
    assert!(handshake < HANDSHAKE, "{handshake} instructions");
    assert!(heap < HEAP && stack < STACK, "{line}");
}
