//! `tidegate demo` on a machine where nothing is prepared, a second time, and with a port in use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use support::gateway::free_address;

struct Ports([String; 3]);

impl Ports {
    fn free() -> Self {
        Self([(); 3].map(|()| free_address().to_string()))
    }

    fn command(&self, state: &Path, more: &[&str]) -> Command {
        let [mqtt, api, backend] = &self.0;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("--state-dir")
            .arg(state)
            .args(["demo", "--mqtt", mqtt, "--api", api, "--backend", backend])
            .args(more);
        command
    }

    fn demo(&self, state: &Path, more: &[&str]) -> Output {
        self.command(state, more).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number after `name` in the ledger's line.
fn ledger(printed: &str, name: &str) -> u64 {
    let line = printed
        .lines()
        .find(|line| line.starts_with("ledger:"))
        .unwrap();
    let (_, after) = line.split_once(name).unwrap();
    after.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_outage_and_four_attacks_leave_a_balanced_ledger_and_a_second_start_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let ports = Ports::free();
    let first = ports.demo(&state, &["--for", "12s", "--offline", "3s", "--attack"]);
    let printed = text(&first.stdout);
    assert!(first.status.success(), "{printed}{}", text(&first.stderr));
    for attack in ["replay", "tampering", "impersonation", "stranger"] {
        let refused = format!("attack refused  {attack}");
        assert!(
            printed.contains(&refused),
            "{refused:?} is missing: {printed}"
        );
    }
    assert!(printed.contains("the backend is away") && printed.contains("the backend is back"));
    let accepted = ledger(&printed, "accepted");
    assert!(accepted > 50, "{printed}");
    assert_eq!(ledger(&printed, "delivered"), accepted, "{printed}");

    // Another port for the devices: their flash still has the first one.
    let mut ports = ports;
    ports.0[0] = free_address().to_string();
    let second = ports.demo(&state, &["--for", "6s", "--attack", "--devices", "1"]);
    let printed = text(&second.stdout);
    assert!(second.status.success(), "{printed}{}", text(&second.stderr));
    assert_eq!(printed.matches("attack refused").count(), 4, "{printed}");
    assert!(
        ledger(&printed, "accepted") > accepted,
        "the ledger goes on: {printed}"
    );
}

#[test]
fn the_commands_that_are_printed_take_effect_and_ctrl_c_ends_it_with_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Ports::free()
        .command(
            &folder.path().join("it's state"),
            &["--for", "5m", "--devices", "40"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    let mut script = String::new();
    while !printed.contains("Ctrl-C") {
        let line = lines.next().expect("the introduction").unwrap();
        if ["cd ", "curl "]
            .iter()
            .any(|&c| line.trim_start().starts_with(c))
        {
            script.push_str(&format!(
                "{} || exit 1\n",
                line.replace("curl ", "curl -sSf ")
            ));
        }
        printed.push_str(&line);
        printed.push('\n');
    }
    assert_eq!(script.matches("curl").count(), 2, "{printed}");
    let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(ran.status.success(), "{script}{}", text(&ran.stderr));
    for effect in [
        "sensor_001: its LED is at 80 % now",
        "sensor_003: its relay gate1 is on now",
        // More than start at a time.
        "devices 40 ",
    ] {
        while !printed.contains(effect) {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("{effect}: {printed}"));
            printed.push_str(&line.unwrap());
            printed.push('\n');
        }
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &demo.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    for line in lines {
        printed.push_str(&line.unwrap());
        printed.push('\n');
    }
    assert!(demo.wait().unwrap().success(), "{printed}");
    assert_eq!(ledger(&printed, "owed"), 0, "{printed}");
    assert!(ledger(&printed, "accepted") > 0, "{printed}");
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for place in 0..3 {
        let mut ports = Ports::free();
        ports.0[place].clone_from(&address);
        let refused = ports.demo(&folder.path().join("state"), &["--for", "2s"]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success());
        assert!(said.contains(&address) && said.contains("in use"), "{said}");
        assert!(said.lines().count() <= 3, "one clear error: {said}");
    }
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (options, named) in [
        (["--for", "2s", "--offline", "3s"].as_slice(), "--offline"),
        (&["--devices", "1001"], "--devices"),
        (&["--every", "0s"], "--every"),
        (&["--for", "3x"], "--for"),
        (&["--devices", "0"], "--devices"),
    ] {
        let refused = Ports::free().demo(&folder.path().join("state"), options);
        assert!(!refused.status.success(), "{options:?}");
        let said = text(&refused.stderr);
        assert!(said.contains(named), "{options:?}: {said}");
    }
}
