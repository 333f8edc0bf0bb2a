//! Running it: revocation, reloads, restarts, backups, and everything that must be refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    Backend, SOON, Setup, Subscriber, envelope, eventually,
    gateway::free_address,
    mqtt::{Client, Hello, Packet, tls_config},
    updates::{Fleet, Server, Signed, image},
};
use tidegate_mqtt::{QoS, Version};

/// Waits until the gateway has ended the connection.
fn wait_closed(client: &mut Client) {
    while !matches!(client.receive(), Ok(Packet::Disconnect(_)) | Err(_)) {}
}

/// What must happen within a second is tried a few times: this machine may be busy with something else.
fn within_a_second(rounds: &[&str], mut took: impl FnMut(&str) -> Duration) {
    let all: Vec<_> = rounds.iter().map(|round| took(round)).collect();
    assert!(
        all.iter().any(|took| *took < Duration::from_secs(1)),
        "it took {all:?}"
    );
}

#[test]
fn revoking_a_device_closes_its_session_within_a_second_and_keeps_it_out() {
    let gateway = Setup::new()
        .device("sensor_001")
        .device("sensor_002")
        .device("sensor_003")
        .device("sensor_004")
        .start();
    let two = gateway.bundle("sensor_002");
    let mut other = Client::connect(&gateway, &two, &Hello::default());
    within_a_second(&["sensor_001", "sensor_003", "sensor_004"], |name| {
        let bundle = gateway.bundle(name);
        let mut client = Client::connect(&gateway, &bundle, &Hello::default());
        gateway.run(&["pki", "revoke", name]);
        let revoked = Instant::now();
        wait_closed(&mut client);
        let took = revoked.elapsed();
        let refused = Client::try_connect(gateway.mqtt(), &tls_config(&bundle), &Hello::default());
        assert!(refused.is_err());
        took
    });
    assert_eq!(
        other
            .publish(
                "device/sensor_002/data",
                envelope("sensor_002", "1").as_bytes()
            )
            .0,
        0
    );
}

#[test]
fn disabling_a_device_closes_its_session_and_enabling_lets_it_back() {
    let gateway = Setup::new().start();
    let folder = gateway.setup.path("bundle");
    gateway.run(&[
        "pki",
        "issue",
        "device",
        "guest",
        "--out",
        folder.to_str().unwrap(),
    ]);
    within_a_second(&["once", "twice", "again"], |_| {
        gateway.run(&["device", "enable", "guest"]);
        let mut client = Client::connect(&gateway, &folder, &Hello::default());
        gateway.run(&["device", "disable", "guest"]);
        let disabled = Instant::now();
        wait_closed(&mut client);
        disabled.elapsed()
    });
    let refused = Client::try_connect(gateway.mqtt(), &tls_config(&folder), &Hello::default());
    assert!(!matches!(
        refused,
        Ok((_, Packet::ConnAck { reason: 0, .. }))
    ));
    gateway.run(&["device", "enable", "guest"]);
    Client::connect(&gateway, &folder, &Hello::default());
}

#[test]
fn a_reload_changes_devices_and_certificates_and_keeps_sessions() {
    let gateway = Setup::new()
        .device("sensor_001")
        .device("sensor_002")
        .start();
    let mut stays = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    let mut goes = Client::connect(&gateway, &gateway.bundle("sensor_002"), &Hello::default());
    let config = gateway.setup.path("tidegate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let secret = gateway.setup.path("sensor_001.secret");
    let (kept, _) = text.split_once("[devices.sensor_002]").unwrap();
    fs::write(
        &config,
        format!("{kept}[devices.sensor_003]\nsecret_file = {secret:?}\n"),
    )
    .unwrap();
    gateway.signal("-HUP");
    eventually(
        "the removed device to be disconnected",
        SOON,
        || match goes.receive() {
            Ok(Packet::Disconnect(_)) | Err(_) => Some(()),
            Ok(_) => None,
        },
    );
    gateway.wait_log("sensor_003");
    assert_eq!(
        stays
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "1").as_bytes()
            )
            .0,
        0
    );

    // A new server certificate is taken up without dropping anybody.
    let before = server_certificate(&gateway);
    gateway.run(&["pki", "renew", "server"]);
    eventually("the new certificate", SOON, || {
        (server_certificate(&gateway) != before).then_some(())
    });
    assert_eq!(
        stays
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "2").as_bytes()
            )
            .0,
        0
    );

    // A broken file changes nothing and says why.
    fs::write(&config, "listeners = 7\n").unwrap();
    gateway.signal("-HUP");
    gateway.wait_log("listeners");
    assert_eq!(
        stays
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "3").as_bytes()
            )
            .0,
        0
    );
}

/// What openssl s_client sees.
fn server_certificate(gateway: &support::Gateway) -> String {
    let output = std::process::Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &gateway.mqtt().to_string(),
            "-showcerts",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    text.split("-----BEGIN CERTIFICATE-----")
        .nth(1)
        .unwrap()
        .to_owned()
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let gateway = Setup::new().device("sensor_001").start();
    let bundle = gateway.bundle("sensor_001");
    let connect = |option: &str| {
        std::process::Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &gateway.mqtt().to_string(),
                "-verify_return_error",
                option,
            ])
            .args(["-CAfile", bundle.join("ca.crt").to_str().unwrap()])
            .args(["-cert", bundle.join("device.crt").to_str().unwrap()])
            .args(["-key", bundle.join("device.key").to_str().unwrap()])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let output = connect(version);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Verify return code: 0"), "{version}: {text}");
    }
    assert!(!connect("-tls1_1").status.success());
}

#[test]
fn passwords_work_only_where_a_listener_says_so_and_it_says_so_loudly() {
    let (plain, server_tls) = (free_address(), free_address());
    let setup = Setup::new();
    let password = setup.path("sensor_001.password");
    support::gateway::write_private(&password, "correct horse battery");
    let gateway = setup
        .device_with("sensor_001", &format!("password_file = {password:?}"))
        .toml(&format!(
            "[listeners.migration]\naddress = \"{plain}\"\nmode = \"plain\"\n[listeners.passwords]\naddress = \"{server_tls}\"\nmode = \"server_tls\""
        ))
        .start();
    gateway.wait_log("migration");
    let hello = |password| Hello {
        version: Version::V311,
        user: Some("sensor_001"),
        password: Some(password),
        ..Hello::default()
    };
    let (mut client, answer) = Client::plain(plain, &hello("correct horse battery")).unwrap();
    assert!(
        matches!(answer, Packet::ConnAck { reason: 0, .. }),
        "{answer:?}"
    );
    assert_eq!(
        client
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "1").as_bytes()
            )
            .0,
        0
    );
    let (_, answer) = Client::plain(plain, &hello("wrong")).unwrap();
    assert!(
        !matches!(answer, Packet::ConnAck { reason: 0, .. }),
        "{answer:?}"
    );
    let output = std::process::Command::new("mosquitto_pub")
        .args([
            "-h",
            "localhost",
            "-p",
            &server_tls.port().to_string(),
            "-u",
            "sensor_001",
            "-P",
            "correct horse battery",
        ])
        .args([
            "--cafile",
            gateway
                .bundle("sensor_001")
                .join("ca.crt")
                .to_str()
                .unwrap(),
        ])
        .args([
            "-q",
            "1",
            "-t",
            "device/sensor_001/data",
            "-m",
            &envelope("sensor_001", "2"),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_newer_session_of_a_device_takes_over() {
    let gateway = Setup::new().device("sensor_001").start();
    let bundle = gateway.bundle("sensor_001");
    let mut first = Client::connect(
        &gateway,
        &bundle,
        &Hello {
            client_id: "a",
            ..Hello::default()
        },
    );
    let mut second = Client::connect(
        &gateway,
        &bundle,
        &Hello {
            client_id: "b",
            ..Hello::default()
        },
    );
    loop {
        match first.receive() {
            Ok(Packet::Disconnect(code)) => {
                assert_eq!(code, 0x8E, "session taken over");
                break;
            }
            Err(_) => break,
            Ok(_) => {}
        }
    }
    assert_eq!(
        second
            .publish(
                "device/sensor_001/data",
                envelope("sensor_001", "1").as_bytes()
            )
            .0,
        0
    );
}

#[test]
fn an_operator_watches_accepted_telemetry_and_devices_on_free_topics_talk() {
    let gateway = Setup::new()
        .device("sensor_001")
        .device_with(
            "pot",
            "signing = \"none\"\npublish = [\"sensors/#\"]\ntelemetry = [\"sensors/pot\"]",
        )
        .start();
    let folder = gateway.setup.path("operator");
    gateway.run(&[
        "pki",
        "issue",
        "operator",
        "dashboard",
        "--out",
        folder.to_str().unwrap(),
    ]);
    for (from, to) in [
        ("dashboard.crt", "device.crt"),
        ("dashboard.key", "device.key"),
    ] {
        fs::copy(folder.join(from), folder.join(to)).unwrap();
    }
    let everything = Subscriber::start(&gateway, &folder, "#", &["-v"]);
    let message = envelope("sensor_001", r#"{"temperature":1}"#);
    let mut device = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    device.publish("device/sensor_001/data", message.as_bytes());
    assert_eq!(
        everything.message(),
        format!("device/sensor_001/data {message}")
    );
    let mut pot = Client::connect(&gateway, &gateway.bundle("pot"), &Hello::default());
    pot.send("sensors/pot", b"80", QoS::AtLeastOnce).unwrap();
    assert_eq!(everything.message(), "sensors/pot 80");
}

#[test]
fn a_second_start_on_the_same_state_is_refused_and_the_first_goes_on() {
    let gateway = Setup::new().device("sensor_001").start();
    let output = gateway.setup.tidegate(&["run"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("in use"), "{text}");
    Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::new().toml(&format!("[listeners.second]\naddress = \"{address}\""));
    let output = setup.tidegate(&["run"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&address) && text.contains("in use"), "{text}");
}

#[test]
fn a_database_from_the_future_is_left_alone() {
    let mut gateway = Setup::new().start();
    assert!(gateway.stop().success());
    let database = gateway.setup.state_dir().join("tidegate.db");
    rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_update(None, "user_version", 999)
        .unwrap();
    let before = fs::read(&database).unwrap();
    let output = gateway.setup.tidegate(&["run"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("newer") && text.contains("999"), "{text}");
    assert_eq!(fs::read(&database).unwrap(), before);
}

#[test]
fn a_damaged_database_is_reported_and_kept() {
    let mut gateway = Setup::new().start();
    assert!(gateway.stop().success());
    let database = gateway.setup.state_dir().join("tidegate.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[..100].fill(0x55);
    fs::write(&database, &bytes).unwrap();
    let output = gateway.setup.tidegate(&["run"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("damaged") && text.contains("tidegate.db"),
        "{text}"
    );
    assert_eq!(fs::read(&database).unwrap(), bytes);
}

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
            let mut count = 0_u8;
            while !done.load(Ordering::Relaxed) || count < 3 {
                count += 1;
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

#[test]
fn the_daemon_and_every_subcommand_have_certificates_in_one_folder() {
    // By the file.
    let setup = Setup::new().pki_dir("authority").device("sensor_001");
    let gateway = setup.start();
    let authority = gateway.setup.path("authority");
    assert!(authority.join("root.crt").exists(), "made by the daemon");
    let bundle = gateway.bundle("sensor_001");
    Client::connect(&gateway, &bundle, &Hello::default()).disconnect();
    let listed = gateway.json(&["pki", "list"]).to_string();
    assert!(listed.contains("sensor_001"), "{listed}");
    gateway.run(&["pki", "revoke", "sensor_001"]);
    eventually("the revoked device to be refused", SOON, || {
        Client::try_connect(gateway.mqtt(), &tls_config(&bundle), &Hello::default()).err()
    });
    let copy = gateway.setup.path("backup.tar");
    gateway.run(&["backup", copy.to_str().unwrap()]);
    assert!(!gateway.setup.state_dir().join("pki").exists());

    // A restore puts it where this configuration has it.
    let second = Setup::new().pki_dir("elsewhere");
    let restored = second.tidegate(&["restore", copy.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    for name in ["root.crt", "revoked.json"] {
        let of = |folder: std::path::PathBuf| fs::read(folder.join(name)).unwrap();
        assert_eq!(
            of(second.path("elsewhere")),
            of(authority.clone()),
            "{name}"
        );
    }

    // By the environment, and by --set, which goes before both.
    let third = Setup::new().pki_dir("file");
    let named = |name: &str| third.path(name).to_str().unwrap().to_owned();
    let set = format!("pki.dir={}", named("set"));
    let made = |name: &str| third.path(name).join("root.crt").exists();
    let status = third
        .command(&["pki", "init"])
        .env("TIDEGATE_PKI__DIR", named("environment"))
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert_eq!((made("file"), made("environment")), (false, true));
    let status = third
        .command(&["--set", &set, "pki", "init"])
        .env("TIDEGATE_PKI__DIR", named("environment"))
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert!(made("set"));

    // By default below the state folder.
    let fourth = Setup::new();
    assert!(fourth.tidegate(&["pki", "init"]).status.success());
    assert!(fourth.state_dir().join("pki/root.crt").exists());
}

#[test]
fn sigterm_finishes_what_was_begun() {
    let backend = Backend::start();
    let mut gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    client.publish(
        "device/sensor_001/data",
        envelope("sensor_001", "1").as_bytes(),
    );
    let started = Instant::now();
    assert!(gateway.stop().success());
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    let mut last = None;
    while let Ok(packet) = client.receive() {
        last = Some(packet);
    }
    assert_eq!(
        last,
        Some(Packet::Disconnect(0x8B)),
        "the device is told that the server shuts down"
    );
}
