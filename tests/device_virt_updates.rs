//! Updates of the device without an operating system, by the real gateway: it is told to look,
//! fetches the release, starts it from its other slot, and keeps it or goes back.
//!
//! The board is QEMU's with a boot stage of its own; both images are the real firmware.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use support::{
    Backend, Gateway, Setup, curl, eventually,
    virt::{Board, HOST, Ntp, boot_stage, flash_image, image, provision_with},
};

/// An image is fetched, written and read back in QEMU, on a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(180);

/// What the boards are flashed with by wire, the source's version, and what they are updated to.
const OLD: &str = "0.1.0";
const NEW: &str = "0.2.0";

/// Most bytes of heap and stack while an update is fetched and messages flow.
const HEAP: usize = 60 * 1024;
const STACK: usize = 44 * 1024;

struct World {
    gateway: Gateway,
    backend: Backend,
    _ntp: Ntp,
    boot_stage: PathBuf,
    flash: PathBuf,
    release_key: PathBuf,
    key: String,
}

impl World {
    fn new() -> Self {
        let backend = Backend::start();
        let ntp = Ntp::start();
        let updates: SocketAddr = support::gateway::free_address();
        let setup = Setup::new();
        let release_key = setup.path("release.key");
        let key_path = release_key.to_str().unwrap();
        let made = setup.tidegate(&["--json", "firmware", "keygen", "--out", key_path]);
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let public = made["public"].as_str().unwrap();
        let gateway = setup
            .host(HOST)
            .device("virt_001")
            .toml(&format!(
                "[upstreams.backend]\ntype = \"http\"\nurl = {:?}\nevents = true\n",
                backend.url()
            ))
            .toml(&format!(
                "[updates]\naddress = \"{updates}\"\nrelease_keys = [\"{public}\"]\n"
            ))
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
        let port = updates.port().to_string();
        provision_with(&bundle, ntp.port, &["--update-port", &port], &flash);
        let old = gateway.setup.path("old.img");
        image(None, false, &old);
        flash_image(&old, &flash);
        let rom = gateway.setup.path("boot.rom");
        boot_stage(&rom);
        let scopes = ["--scope", "command:send", "--scope", "command:read"];
        let made = gateway.json(&[&["key", "create", "backend"][..], &scopes].concat());
        let key = made["token"].as_str().unwrap().to_owned();
        Self {
            gateway,
            backend,
            _ntp: ntp,
            boot_stage: rom,
            flash,
            release_key,
            key,
        }
    }

    fn power(&self) -> Board {
        Board::boot(&self.boot_stage, &self.flash)
    }

    /// Signs, publishes and rolls out a release of the new version.
    fn release(&self, crashes: bool) {
        let new = self.gateway.setup.path("new.img");
        image(Some(NEW), crashes, &new);
        let new = new.to_str().unwrap();
        let key = self.release_key.to_str().unwrap();
        let names = ["--product", "dashboard", "--chip", "virt", "--release", NEW];
        self.gateway
            .run(&[&["firmware", "sign", new, "--key", key][..], &names].concat());
        self.gateway.run(&["firmware", "publish", new]);
        let release = format!("dashboard/virt/{NEW}");
        self.gateway
            .run(&["firmware", "rollout", &release, "--percent", "100"]);
    }

    /// Commands the device to look for an update now.
    fn look(&self) {
        let bearer = format!("Authorization: Bearer {}", self.key);
        let json = "Content-Type: application/json";
        let body = json!({"action": "update"}).to_string();
        let url = self.gateway.api_url("/command/virt_001");
        let arguments = ["-X", "POST", "-H", &bearer, "-H", json, "-d", &body, &url];
        let (code, answer) = curl(&self.gateway, &arguments);
        assert_eq!(code, 202, "{answer}");
    }

    fn events(&self, name: &str) -> Vec<Value> {
        let requests = self.backend.requests();
        let bodies = requests
            .iter()
            .filter(|request| request.path == "/device/virt_001/event")
            .map(|request| serde_json::from_slice(&request.body).unwrap());
        bodies
            .filter(|event: &Value| event["event"] == name)
            .collect()
    }

    /// What the device said of its update, with the version and the reason.
    fn updates(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let line = |event: &Value| {
            let [state, version, reason] =
                ["state", "version", "reason"].map(|name| text(&event[name]));
            format!("{state} {version} {reason}").trim_end().to_owned()
        };
        self.events("update").iter().map(line).collect()
    }

    /// Waits until the device has said this of its update.
    fn wait_update(&self, expected: &str) {
        eventually(expected, LONG, || {
            self.updates()
                .iter()
                .any(|update| update == expected)
                .then_some(())
        });
    }

    fn wait_boot(&self, version: &str, update: &str) -> Value {
        eventually("the boot event", LONG, || {
            self.events("boot")
                .into_iter()
                .find(|boot| boot["version"] == version && boot["update"] == update)
        })
    }
}

#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_board_is_updated_and_stays_so() {
    let world = World::new();
    let mut board = world.power();
    board.wait("boot: ota_0 starts");
    let boot = world.wait_boot(OLD, "confirmed");
    assert_eq!(
        (&boot["chip"], &boot["reason"]),
        (&json!("virt"), &json!("power_on"))
    );
    world.release(false);
    world.look();
    // By then the second handshake and the release's signature are behind it.
    board.wait_long(&format!("update {NEW}: downloading"), LONG);
    board.type_line("memory");
    let line = board.wait("memory needed");
    println!("{line}");
    let numbers: Vec<usize> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    let [.., heap, stack] = numbers[..] else {
        panic!("{line}")
    };
    assert!(heap < HEAP && stack < STACK, "{line}");
    world.wait_update(&format!("confirmed {NEW}"));
    let told = ["offered", "downloading", "installed", "confirmed"];
    assert_eq!(world.updates(), told.map(|state| format!("{state} {NEW}")));
    let boot = world.wait_boot(NEW, "trial");
    assert_eq!(boot["reason"], "software", "it restarted itself");
    assert!(
        board.log().contains("boot: ota_1 starts"),
        "{}",
        board.log()
    );
    // It outlasts the power.
    board.lose_power();
    let mut board = world.power();
    board.wait("boot: ota_1 starts");
    world.wait_boot(NEW, "confirmed");
    // What was not acknowledged before the power went is told again, and nothing else.
    let mut updates = world.updates();
    updates.dedup();
    assert_eq!(updates, told.map(|state| format!("{state} {NEW}")));
}

#[test]
#[ignore = "needs QEMU and builds the firmware: the step `virt` of tests/run"]
fn a_board_whose_update_crashes_goes_back() {
    let world = World::new();
    let mut board = world.power();
    world.wait_boot(OLD, "confirmed");
    world.release(true);
    world.look();
    world.wait_update(&format!("rolled_back {NEW} crashed"));
    let boot = world.wait_boot(OLD, "rolled_back");
    assert_eq!(boot["reason"], "panic", "the new image's crash");
    board.wait("exception 2 at");
    let log = board.log();
    let starts: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("boot: ota_"))
        .collect();
    let expected = [
        "boot: ota_0 starts",
        "boot: ota_1 starts",
        "boot: ota_0 starts",
    ];
    assert_eq!(starts, expected);
    // And it stays with that, whatever is offered.
    board.lose_power();
    let mut board = world.power();
    board.wait("boot: ota_0 starts");
    board.wait("connected, session resumed");
}
