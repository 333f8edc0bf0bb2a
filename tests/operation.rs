//! Running it: revocation, reloads, restarts, and everything that must be refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use support::{
    Backend, SOON, Setup, Subscriber, envelope, eventually,
    gateway::free_address,
    mqtt::{Client, Hello, Packet, tls_config},
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
