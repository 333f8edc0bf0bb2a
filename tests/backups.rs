//! Backups taken while the gateway runs, and gateways that start from them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;
use support::{
    Backend, Setup, envelope,
    mqtt::{Client, Hello},
    updates::{Fleet, Server, Signed, image},
};

#[test]
fn a_backup_taken_while_running_starts_a_second_gateway_with_the_same_devices_and_debts() {
    let backend = Backend::start();
    backend.go_down();
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    for n in 0..10 {
        client.publish(
            "device/sensor_001/data",
            envelope("sensor_001", &format!(r#"{{"n":{n}}}"#)).as_bytes(),
        );
    }
    let copy = gateway.setup.path("backup.tar");
    gateway.run(&["backup", copy.to_str().unwrap()]);
    client.publish(
        "device/sensor_001/data",
        envelope("sensor_001", r#"{"n":"after"}"#).as_bytes(),
    );

    let second = Setup::new().device("sensor_001").backend(&backend.url());
    let output = second.tidegate(&["restore", copy.to_str().unwrap()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = second.tidegate(&["restore", copy.to_str().unwrap()]);
    assert!(
        !output.status.success(),
        "a state that is there is not overwritten"
    );
    let second = second.start();
    assert_eq!(second.json(&["status"])["upstreams"]["backend"]["owed"], 10);
    // What was accepted after the backup is unknown here, so nothing from before the restore is taken.
    std::thread::sleep(Duration::from_millis(1_100));
    let mut client = Client::connect(&second, &bundle, &Hello::default());
    assert_eq!(
        client
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "1").as_bytes()
            )
            .0,
        0
    );
}

const RELEASE: &str = "dashboard/esp32c3/1.1.0";

/// A gateway to be that trusts the releases of `fleet`.
fn successor(fleet: &Fleet) -> Setup {
    let public = fs::read_to_string(fleet.key.with_extension("key.pub")).unwrap();
    let updates = format!(
        "[updates]\naddress = \"off\"\nsocket = {:?}\nrelease_keys = [{:?}]\n",
        fleet.path("successor.sock"),
        public.trim()
    );
    Setup::new().device("sensor_001").toml(&updates)
}

/// Runs a subcommand with `--json`; its status, and what it printed or complained of.
fn ran(setup: &Setup, arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = setup.tidegate(&[&["--json"], arguments].concat());
    let text = match output.status.success() {
        true => output.stdout,
        false => [output.stdout, output.stderr].concat(),
    };
    let text = String::from_utf8(text).unwrap();
    let said = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
    (output.status.code().unwrap(), said)
}

#[test]
fn a_backup_has_the_firmware_images_and_a_restore_puts_them_back() {
    let fleet = Fleet::start(Server::Embedded, &["sensor_001"], "");
    let bytes = image(300_000, 21);
    let first = Signed {
        more: &["--sequence", "1"],
        ..Signed::default()
    };
    assert_eq!(fleet.publish(&bytes, &first), RELEASE);
    let gone = Signed {
        version: "1.2.0",
        more: &["--sequence", "2"],
        ..Signed::default()
    };
    let gone = fleet.publish(&image(100_000, 22), &gone);
    let rollout = ["firmware", "rollout", RELEASE, "--percent", "100"];
    fleet.gateway.run(&rollout);
    fleet
        .gateway
        .run(&["firmware", "withdraw", &gone, "--reason", "it burns"]);
    let archive = |name: &str| fleet.path(name).to_str().unwrap().to_owned();
    let (whole, light) = (archive("whole.tar"), archive("light.tar"));
    let made = fleet.gateway.json(&["backup", &whole]);
    assert_eq!(
        (&made["images"], &made["left_out"]),
        (&1.into(), &json!([]))
    );
    let made = fleet.gateway.json(&["backup", "--without-images", &light]);
    assert_eq!(made["images"], 0);
    let size = |path: &str| fs::metadata(path).unwrap().len();
    assert!(size(&whole) >= size(&light) + 300_000);

    let second = successor(&fleet);
    let (code, restored) = ran(&second, &["restore", &whole]);
    assert_eq!((code, &restored["lacking"]), (0, &json!([])), "{restored}");
    let folder = second.state_dir().join("releases");
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(fs::read(files[0].path()).unwrap() == bytes);
    let mode = files[0].metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "nginx reads it by way of its group");
    let (code, verified) = ran(&second, &["firmware", "verify"]);
    assert_eq!((code, &verified["good"]), (0, &1.into()), "{verified}");

    // Without them: named, and back as they were once published again.
    let image = fleet.path("esp32c3-1.1.0.bin");
    let publish = ["firmware", "publish", image.to_str().unwrap()];
    for (archive, option) in [(&light, None), (&whole, Some("--without-images"))] {
        let third = successor(&fleet);
        let mut arguments = vec!["restore", archive];
        arguments.extend(option);
        let (code, restored) = ran(&third, &arguments);
        assert_eq!(code, 0, "{restored}");
        assert_eq!(restored["lacking"][0]["release"], RELEASE);
        assert_eq!(restored["lacking"][1], serde_json::Value::Null);
        let (code, verified) = ran(&third, &["firmware", "verify"]);
        assert_eq!(code, 65, "{verified}");
        let (code, published) = ran(&third, &publish);
        assert_eq!((code, &published["release"]), (0, &RELEASE.into()));
        assert_eq!(published["rollout"]["percent"], 100, "{published}");
        let (code, verified) = ran(&third, &["firmware", "verify"]);
        assert_eq!((code, &verified["good"]), (0, &1.into()), "{verified}");
        let (code, again) = ran(&third, &publish);
        assert_eq!(code, 1, "it is there: {again}");
    }

    // Damaged on its way: refused by name, and nothing is left behind.
    let mut damaged = fs::read(&whole).unwrap();
    let at = damaged
        .windows(64)
        .position(|part| *part == bytes[..64])
        .unwrap();
    damaged[at + 200_000] ^= 1;
    let path = archive("damaged.tar");
    fs::write(&path, damaged).unwrap();
    let fourth = successor(&fleet);
    let (code, said) = ran(&fourth, &["restore", &path]);
    let text = said.to_string();
    assert_eq!(code, 65, "{text}");
    assert!(
        text.contains(RELEASE) && text.contains("the image was changed"),
        "{text}"
    );
    let left = fs::read_dir(fourth.state_dir()).unwrap().count();
    assert_eq!(left, 0, "nothing is left behind");

    // Lost on the gateway: everything else is in the backup.
    let own = fleet.gateway.setup.state_dir().join("releases");
    let own = fs::read_dir(own).unwrap().next().unwrap().unwrap().path();
    fs::write(&own, &bytes[1..]).unwrap();
    let lost = archive("lost.tar");
    let made = fleet.gateway.json(&["backup", &lost]);
    let expected = json!([{ "release": RELEASE, "problem": "the image has another length" }]);
    assert_eq!((&made["images"], &made["left_out"]), (&0.into(), &expected));
    let (code, restored) = ran(&successor(&fleet), &["restore", &lost]);
    assert_eq!(
        (code, &restored["lacking"][0]["release"]),
        (0, &RELEASE.into())
    );
}

#[test]
fn releases_that_come_and_go_meanwhile_do_not_break_a_backup() {
    let fleet = Fleet::start(Server::Embedded, &["sensor_001"], "");
    let first = Signed {
        more: &["--sequence", "1"],
        ..Signed::default()
    };
    fleet.publish(&image(50_000, 0), &first);
    let done = AtomicBool::new(false);
    let mut archives = Vec::new();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for count in 1..=u8::MAX {
                if count > 3 && done.load(Ordering::Relaxed) {
                    break;
                }
                let version = format!("2.0.{count}");
                let sequence = (u32::from(count) + 1).to_string();
                let signed = Signed {
                    version: &version,
                    more: &["--sequence", &sequence],
                    ..Signed::default()
                };
                let release = fleet.publish(&image(50_000, count), &signed);
                fleet
                    .gateway
                    .run(&["firmware", "withdraw", &release, "--reason", "so"]);
                let _ = fs::remove_file(fleet.path(&format!("esp32c3-{version}.bin")));
            }
        });
        for number in 0..6 {
            let archive = fleet.path(&format!("{number}.tar"));
            let made = fleet.gateway.json(&["backup", archive.to_str().unwrap()]);
            assert_eq!(made["left_out"], json!([]), "{made}");
            archives.push(archive);
        }
        done.store(true, Ordering::Relaxed);
        publisher.join().unwrap();
    });
    for archive in archives {
        let setup = successor(&fleet);
        let (code, restored) = ran(&setup, &["restore", archive.to_str().unwrap()]);
        assert_eq!((code, &restored["lacking"]), (0, &json!([])), "{restored}");
        let (code, verified) = ran(&setup, &["firmware", "verify"]);
        assert_eq!(
            (code, &verified["strangers"]),
            (0, &json!([])),
            "{verified}"
        );
    }
}
