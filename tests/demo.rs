//! `tidegate demo` on a machine where nothing is prepared, a second time, and with a port in use.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use support::gateway::free_address;

struct Ports([String; 4]);

impl Ports {
    fn free() -> Self {
        Self([(); 4].map(|()| free_address().to_string()))
    }

    fn command(&self, state: &Path, more: &[&str]) -> Command {
        let [mqtt, api, backend, updates] = &self.0;
        let (_, update_port) = updates.rsplit_once(':').unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("--state-dir")
            .arg(state)
            .args(["demo", "--mqtt", mqtt, "--api", api, "--backend", backend])
            .args(["--update-port", update_port])
            .args(more);
        command
    }

    fn demo(&self, state: &Path, more: &[&str]) -> Output {
        self.command(state, more).output().unwrap()
    }
}

/// A demo that is told when to end.
struct Demo {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    printed: String,
}

impl Demo {
    fn start(ports: &Ports, state: &Path, more: &[&str]) -> Self {
        let mut command = ports.command(state, more);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        Self {
            lines: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
            printed: String::new(),
        }
    }

    fn wait_for(&mut self, what: &str) {
        while !self.printed.contains(what) {
            let line = self.lines.next();
            let line = line.unwrap_or_else(|| panic!("{what}: {}", self.printed));
            self.printed.push_str(&line.unwrap());
            self.printed.push('\n');
        }
    }

    /// Ctrl-C, after which it ends well; all that it printed.
    fn interrupt(mut self) -> String {
        let interrupted = Command::new("kill")
            .args(["-INT", &self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(interrupted.success());
        for line in self.lines.by_ref() {
            self.printed.push_str(&line.unwrap());
            self.printed.push('\n');
        }
        assert!(self.process.wait().unwrap().success(), "{}", self.printed);
        std::mem::take(&mut self.printed)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended, unless the test failed or its power is to be cut.
        let _ = self.process.kill();
        let _ = self.process.wait();
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
    let state = folder.path().join("it's state");
    let mut demo = Demo::start(&Ports::free(), &state, &["--for", "5m", "--devices", "40"]);
    let mut script = String::new();
    demo.wait_for("Ctrl-C");
    for line in demo.printed.lines() {
        if ["cd ", "curl "]
            .iter()
            .any(|&c| line.trim_start().starts_with(c))
        {
            script.push_str(&format!(
                "{} || exit 1\n",
                line.replace("curl ", "curl -sSf ")
            ));
        }
    }
    assert_eq!(script.matches("curl").count(), 2, "{}", demo.printed);
    let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(ran.status.success(), "{script}{}", text(&ran.stderr));
    for effect in [
        "sensor_001: its LED is at 80 % now",
        "sensor_003: its relay gate1 is on now",
        // More than start at a time.
        "devices 40 ",
    ] {
        demo.wait_for(effect);
    }
    let printed = demo.interrupt();
    assert_eq!(ledger(&printed, "owed"), 0, "{printed}");
    assert!(ledger(&printed, "accepted") > 0, "{printed}");
}

#[test]
fn devices_move_to_each_release_but_the_one_it_crashes_on() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let update = ["--update", "--devices", "4"];
    let moved = |version: &str| {
        format!(
            "update: 3 of 4 devices run {version}; \
             sensor_004 crashed with it, rolled back and runs 0.1.0 as before"
        )
    };

    // With everything else going on at the same time.
    let all = [&update[..], &["--attack", "--offline", "1s"]].concat();
    let mut demo = Demo::start(&Ports::free(), &state, &all);
    demo.wait_for(&moved("0.2.0"));
    demo.wait_for("attack refused  stranger");
    demo.wait_for("the backend is back");
    let printed = demo.interrupt();
    for line in [
        "sensor_001: runs 0.2.0 and keeps it",
        "sensor_002: runs 0.2.0 and keeps it",
        "sensor_003: runs 0.2.0 and keeps it",
        "sensor_004: rolled 0.2.0 back (crashed)",
    ] {
        assert_eq!(printed.matches(line).count(), 1, "{line}: {printed}");
    }
    assert!(
        !printed.contains("sensor_004: runs") && !printed.contains("left as it is"),
        "{printed}"
    );
    assert_eq!(ledger(&printed, "owed"), 0, "{printed}");

    // Power is cut in the middle of the next one.
    let mut cut = Demo::start(&Ports::free(), &state, &update);
    // "downloads" as a rule; where nobody looked in time, "runs".
    cut.wait_for("s 0.3.0");
    drop(cut);
    // And this is a device as a demo without updates left it behind.
    fs::remove_file(state.join("devices/sensor_002/release-keys")).unwrap();
    let mut demo = Demo::start(&Ports::free(), &state, &update);
    demo.wait_for(&moved("0.4.0"));
    let printed = demo.interrupt();
    assert_eq!(ledger(&printed, "owed"), 0, "{printed}");

    // Too little time is said, not passed over.
    let short = [&update[..], &["--for", "300ms"]].concat();
    let short = Ports::free().demo(&state, &short);
    let said = text(&short.stderr);
    assert!(!short.status.success(), "{}", text(&short.stdout));
    assert!(
        said.contains("--for was over before the update was"),
        "{said}"
    );
    // Without updates, all of them go on.
    let after = Ports::free().demo(&state, &["--for", "3s", "--devices", "4"]);
    let printed = text(&after.stdout);
    assert!(after.status.success(), "{printed}{}", text(&after.stderr));
    assert!(ledger(&printed, "accepted") > 0, "{printed}");
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for place in 0..4 {
        let mut ports = Ports::free();
        ports.0[place].clone_from(&address);
        let refused = ports.demo(&folder.path().join("state"), &["--for", "2s", "--update"]);
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
        (&["--update", "--devices", "1"], "--update"),
        (&["--update-port", "0"], "--update-port"),
    ] {
        let refused = Ports::free().demo(&folder.path().join("state"), options);
        assert!(!refused.status.success(), "{options:?}");
        let said = text(&refused.stderr);
        assert!(said.contains(named), "{options:?}: {said}");
    }
}
