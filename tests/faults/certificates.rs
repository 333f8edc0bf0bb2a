//! A device's certificate expires while it is connected.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    support::{
        Setup, envelope, eventually,
        mqtt::{Client, Hello, Packet, tls_config},
    },
    world::World,
};

/// A certificate of a day that is over in a minute: dated back by the rest of it.
const PROFILE: &str = r#"
[subject]
common_name = "{id}"

[validity]
days = 1
backdate_minutes = 1439

[usage]
key = ["digital_signature"]
extended = ["client_auth"]

[names]
uri = "urn:tidegate:device:{id}"
"#;

#[test]
fn a_certificate_that_expires_ends_its_connection_and_no_other() {
    let world = World::start("an expiring certificate", Setup::new().device("brief"), 2);
    let setup = &world.gateway.setup;
    let profiles = setup.path("profiles");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("device.toml"), PROFILE).unwrap();
    let (bundle, secret) = (setup.path("brief"), setup.path("brief.secret"));
    let issued = Instant::now();
    world.gateway.run(&[
        "pki",
        "issue",
        "device",
        "brief",
        "--profiles",
        profiles.to_str().unwrap(),
        "--out",
        bundle.to_str().unwrap(),
        "--secret-file",
        secret.to_str().unwrap(),
    ]);
    let tls = tls_config(&bundle);
    let hello = Hello {
        client_id: "brief",
        ..Hello::default()
    };
    let (mut brief, answer) = Client::try_connect(world.gateway.mqtt(), &tls, &hello).unwrap();
    assert!(
        matches!(answer, Packet::ConnAck { reason: 0, .. }),
        "{answer:?}"
    );
    world.fault();
    let connections = world.tally.connections();
    let mut last_accepted = issued;
    // It goes on sending until it is cut off.
    eventually(
        "the connection to be closed",
        Duration::from_secs(240),
        || {
            let message = envelope("brief", r#"{"n":0}"#);
            let sent = brief.send(
                "device/brief/free",
                message.as_bytes(),
                tidegate_mqtt::QoS::AtMostOnce,
            );
            thread::sleep(Duration::from_millis(500));
            brief.set_read_timeout(Duration::from_millis(1));
            let closed = match brief.receive() {
                Ok(Packet::Disconnect(_)) => true,
                Err(error) => !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ),
                Ok(_) => false,
            };
            if sent.is_ok() && !closed {
                last_accepted = Instant::now();
                return None;
            }
            Some(())
        },
    );
    println!(
        "an expiring certificate: its connection was closed {:.0} s after it expired",
        (last_accepted - issued).as_secs_f64() - 60.0
    );
    assert!(
        last_accepted - issued > Duration::from_secs(50),
        "it was closed before it expired"
    );
    // And it does not come back.
    let again = Client::try_connect(world.gateway.mqtt(), &tls, &hello);
    assert!(
        !matches!(again, Ok((_, Packet::ConnAck { reason: 0, .. }))),
        "an expired certificate was let in"
    );
    assert_eq!(world.tally.connections(), connections, "no other was cut");
    world.recovers();
}
