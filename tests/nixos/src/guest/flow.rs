//! The order of the stories, and the report.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{backup, story, updates};
use crate::{
    Outcome,
    shell::read,
    vm::{DONE, FAILED, POWER_CUT},
};

const PHASE: &str = "/var/lib/testbed/phase";

/// A story: what it shows, and how.
pub(crate) type Story = (&'static str, fn() -> Outcome<String>);

/// Before the power is cut.
const FIRST_BOOT: &[Story] = &[
    ("every unit of the box is up", story::units_are_up),
    ("the gateway's unit is sandboxed", story::sandboxed),
    (
        "the screen says how to reach the box, and no log does",
        story::welcome,
    ),
    (
        "telemetry reaches the backend and the reply the device",
        story::telemetry,
    ),
    (
        "forged, stale, repeated and foreign messages are refused",
        story::rejections,
    ),
    ("a command reaches the device, signed", story::command),
    ("the firewall holds from every side", story::firewall),
    ("the box keeps time and serves it to devices", story::time),
    (
        "a signed update comes in ranges, to devices alone",
        updates::offered,
    ),
    ("the journal has fields", story::journal),
    (
        "a changed device list is taken up without a restart",
        story::device_list,
    ),
    (
        "a revoked device is out at once, everywhere",
        story::revocation,
    ),
    ("a restart loses nothing", story::restart),
    (
        "an encrypted backup brings another box to where this one is",
        backup::backup,
    ),
    (
        "a hung gateway is restarted by the watchdog",
        story::watchdog,
    ),
    (
        "what the backend is owed waits on the disk",
        story::before_power_cut,
    ),
];

/// After it.
const SECOND_BOOT: &[Story] = &[
    ("every unit of the box is up again", story::units_are_up),
    (
        "what was acknowledged before the power went is delivered",
        story::after_power_cut,
    ),
];

/// The command `guest flow`.
pub(crate) fn run() -> Outcome {
    let second = Path::new(PHASE).exists();
    let outcome = tell(if second { SECOND_BOOT } else { FIRST_BOOT });
    match outcome {
        Err(why) => {
            for line in why.lines() {
                say(&format!("| {line}"));
            }
            say(FAILED);
            Err(why)
        }
        Ok(()) if second => {
            say(DONE);
            Ok(())
        }
        Ok(()) => {
            fs::write(PHASE, "2").map_err(|error| error.to_string())?;
            // The mark must survive, and nothing else is helped along: the gateway's own files are
            // its own business.
            read(Command::new("sync").arg(PHASE))?;
            say(POWER_CUT);
            thread::sleep(Duration::from_secs(600));
            Err("nobody pulled the plug".to_owned())
        }
    }
}

fn tell(stories: &[Story]) -> Outcome {
    let mut failed = Vec::new();
    for (what, story) in stories {
        let started = Instant::now();
        let outcome = story();
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(figures) if figures.is_empty() => say(&format!("ok     {took:>5.1} s  {what}")),
            Ok(figures) => say(&format!("ok     {took:>5.1} s  {what}: {figures}")),
            Err(why) => {
                say(&format!("FAIL   {took:>5.1} s  {what}"));
                for line in why.lines() {
                    say(&format!("| {line}"));
                }
                failed.push(*what);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let mut log = String::new();
    for unit in [
        "tidegate",
        "tidegate-welcome",
        "tidegate-tls",
        "tidegate-backup",
        "nginx",
        "chronyd",
        "nftables",
        "testbed-around",
    ] {
        let last = [
            "--no-pager",
            "--lines=12",
            "--output=short-monotonic",
            "--unit",
            unit,
        ];
        log += &read(Command::new("journalctl").args(last)).unwrap_or_default();
    }
    let first = read(Command::new("journalctl").args([
        "--no-pager",
        "--output=short-monotonic",
        "--unit=tidegate",
    ]));
    log += &first
        .unwrap_or_default()
        .lines()
        .take(25)
        .collect::<Vec<_>>()
        .join("\n");
    Err(format!(
        "{} of {} stories failed\n{}",
        failed.len(),
        stories.len(),
        log
    ))
}

/// One line to the host.
fn say(line: &str) {
    if let Ok(mut serial) = OpenOptions::new().write(true).open("/dev/ttyS1") {
        let _ = serial.write_all(format!("{line}\n").as_bytes());
    }
}
