//! `tidegate demo` on a machine where nothing is prepared, a second time, and with a port in use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use support::gateway::free_address;

struct Ports([String; 3]);

impl Ports {
    fn free() -> Self {
        Self([(); 3].map(|()| free_address().to_string()))
    }

    fn demo(&self, state: &Path, more: &[&str]) -> Output {
        let [mqtt, api, backend] = &self.0;
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("--state-dir")
            .arg(state)
            .args(["demo", "--mqtt", mqtt, "--api", api, "--backend", backend])
            .args(more)
            .output()
            .unwrap()
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

    let second = ports.demo(&state, &["--for", "2s"]);
    let printed = text(&second.stdout);
    assert!(second.status.success(), "{printed}{}", text(&second.stderr));
    assert!(
        ledger(&printed, "accepted") > accepted,
        "the ledger goes on: {printed}"
    );
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
        (&["--attack", "--devices", "1"], "--devices"),
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
