//! The device's own firmware, on the host's board, is updated by the real gateway: with the gateway's own
//! server and with a real nginx in front of it. What a device makes of a bad server is in
//! `firmware/host/tests/updates.rs`; what the servers make of bad clients in `updates.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use support::{
    Backend, Setup, eventually,
    updates::{Fleet, Server, Signed, keygen, with_both_servers},
};
use tidegate_host::{
    Behaviour, Bundle, Firmware, Kind, Simulation, Stop, Timing, Updating, Watcher, World,
    simulate_updating,
};
use tokio::{sync::Notify, task::LocalSet};

with_both_servers! {
    devices_move_to_a_release_while_they_measure
    an_image_that_fails_is_taken_back_and_the_gateway_knows_why
    a_release_of_another_key_is_refused_by_the_device
    a_download_outlasts_the_gateway
}

/// An update with all its restarts, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

const NEVER: Duration = Duration::from_secs(100 * 3600);

/// Looks at once, and an image has all the time it needs.
const AT_ONCE: Timing = Timing {
    first: Duration::from_millis(50),
    interval: NEVER,
    trial: NEVER,
};

/// A device in a thread of its own, until it is dropped: then its power is cut.
struct Device {
    off: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// `prepare` changes its bundle before it is put into its flash.
    fn start(
        fleet: &Fleet,
        id: &str,
        kind: Kind,
        timing: Timing,
        prepare: impl FnOnce(&mut Bundle),
    ) -> Self {
        let mut bundle = Bundle::read(&fleet.gateway.bundle(id)).unwrap();
        bundle.host = "localhost".to_owned();
        bundle.port = fleet.gateway.mqtt().port();
        bundle.update_port = Some(fleet.address.port());
        prepare(&mut bundle);
        let simulation = Simulation {
            bundle,
            kind,
            flash: Some(fleet.path(&format!("flash-{id}"))),
            buffer_pages: 8,
            interval: Some(Duration::from_millis(200)),
            gateway: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            watcher: Watcher::default(),
        };
        let off = Arc::new(Notify::new());
        let power = Arc::clone(&off);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let updating = Updating {
                timing,
                rolls_back: true,
            };
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    ended = simulate_updating(&simulation, &updating, World::new(), Rc::<Stop>::default()) => {
                        panic!("{ended:?}")
                    }
                    () = power.notified() => {}
                }
            });
        });
        Self {
            off,
            thread: Some(thread),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.off.notify_one();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// Signs, publishes and rolls out to everybody an image for the host's board.
fn release(fleet: &Fleet, product: &str, behaviour: Behaviour, size: usize) -> String {
    let firmware = Firmware {
        version: "1.1.0".to_owned(),
        security_version: 0,
        behaviour,
        only_on: None,
    };
    let signed = Signed {
        product,
        chip: "host",
        ..Signed::default()
    };
    let release = fleet.publish(&firmware.image(size), &signed);
    let _ = fs::remove_file(fleet.path("host-1.1.0.bin"));
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    release
}

/// What the gateway knows of a device's way: state and reason.
fn progress(fleet: &Fleet, release: &str, id: &str) -> (String, String) {
    let shown = fleet.gateway.json(&["firmware", "rollout", release]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    shown["progress"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["device"] == id))
        .map(|one| (text(&one["state"]), text(&one["reason"])))
        .unwrap_or_default()
}

fn wait(fleet: &Fleet, release: &str, id: &str, state: &str, reason: &str) {
    eventually(&format!("{id} to be {state} {reason}"), PATIENCE, || {
        let (is, why) = progress(fleet, release, id);
        assert!(
            is == state || !["confirmed", "failed", "rolled_back"].contains(&is.as_str()),
            "{id} is {is} ({why}), not {state}"
        );
        (is == state).then(|| assert_eq!(why, reason, "{id}"))
    });
}

fn devices_move_to_a_release_while_they_measure(server: Server) {
    let backend = Backend::start();
    let devices = ["sensor_001", "sensor_002"];
    let setup = devices
        .iter()
        .fold(Setup::new().backend(&backend.url()), |setup, id| {
            setup.device(id)
        });
    let fleet = Fleet::with(setup, server, "");
    let release = release(&fleet, "dashboard", Behaviour::Healthy, 150_001);
    let _running = devices.map(|id| Device::start(&fleet, id, Kind::Dashboard, AT_ONCE, |_| {}));
    for id in devices {
        wait(&fleet, &release, id, "confirmed", "");
        let shown = fleet.gateway.json(&["device", "show", id]);
        assert_eq!(shown["firmware"]["version"], "1.1.0", "{shown}");
    }
    // They go on measuring: with the new firmware something arrives that was not there before.
    let before = backend.requests().len();
    backend.wait_for(before + 10);
}

fn an_image_that_fails_is_taken_back_and_the_gateway_knows_why(server: Server) {
    let kinds = [
        (
            "sensor_001",
            Kind::Dashboard,
            "dashboard",
            Behaviour::Crashes,
            NEVER,
            "crashed",
        ),
        (
            "sensor_002",
            Kind::Climate,
            "climate",
            Behaviour::Hangs,
            NEVER,
            "watchdog",
        ),
        (
            "sensor_003",
            Kind::Gates,
            "gates",
            Behaviour::Unreachable,
            Duration::from_secs(3),
            "not_confirmed",
        ),
    ];
    let fleet = Fleet::start(server, &kinds.map(|(id, ..)| id), "");
    let running = kinds.map(|(id, kind, product, behaviour, trial, reason)| {
        let release = release(&fleet, product, behaviour, 40_000);
        let timing = Timing { trial, ..AT_ONCE };
        let device = Device::start(&fleet, id, kind, timing, |_| {});
        (device, release, id, reason)
    });
    for (_, release, id, reason) in &running {
        wait(&fleet, release, id, "rolled_back", reason);
        let shown = fleet.gateway.json(&["device", "show", id]);
        assert_ne!(shown["firmware"]["version"], "1.1.0", "{shown}");
    }
}

fn a_release_of_another_key_is_refused_by_the_device(server: Server) {
    let fleet = Fleet::start(server, &["sensor_001"], "");
    let (_, retired) = keygen(&fleet.gateway.setup, "retired.key");
    let release = release(&fleet, "dashboard", Behaviour::Healthy, 20_000);
    let _running = Device::start(&fleet, "sensor_001", Kind::Dashboard, AT_ONCE, |bundle| {
        bundle.release_keys = vec![retired.parse().unwrap()];
    });
    wait(&fleet, &release, "sensor_001", "failed", "unknown_key");
}

fn a_download_outlasts_the_gateway(server: Server) {
    let mut fleet = Fleet::start(server, &["sensor_001"], "bytes_per_second = \"64 KiB\"");
    let release = release(&fleet, "dashboard", Behaviour::Healthy, 400_000);
    let timing = Timing {
        interval: Duration::from_secs(1),
        ..AT_ONCE
    };
    let _running = Device::start(&fleet, "sensor_001", Kind::Dashboard, timing, |_| {});
    eventually("the download to begin", PATIENCE, || {
        (progress(&fleet, &release, "sensor_001").0 == "downloading").then_some(())
    });
    fleet.gateway.kill();
    fleet.gateway.start();
    wait(&fleet, &release, "sensor_001", "confirmed", "");
}
