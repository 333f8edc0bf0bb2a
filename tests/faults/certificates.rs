//! A device's certificate expires while it is connected.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    clock::libfaketime,
    support::{
        Setup,
        mqtt::{Client, Hello, Packet, tls_config},
    },
    world::World,
};

/// A device's certificate of one day.
const PROFILE: &str = r#"
[subject]
common_name = "{id}"

[validity]
days = 1
backdate_minutes = 60

[usage]
key = ["digital_signature"]
extended = ["client_auth"]

[names]
uri = "urn:tidegate:device:{id}"
"#;

/// It was issued so long ago that half a minute of the day is left.
const LEFT_S: u64 = 30;
const ISSUED_AGO_S: u64 = 86_400 - LEFT_S;

#[test]
fn a_certificate_that_expires_ends_its_connection_and_no_other() {
    let world = World::start("an expiring certificate", Setup::new().device("brief"), 2);
    let setup = &world.gateway.setup;
    let (bundle, secret) = (setup.path("brief"), setup.path("brief.secret"));
    let profiles = setup.path("profiles");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(profiles.join("device.toml"), PROFILE).unwrap();
    let issued = Instant::now();
    let output = setup
        .command(&["pki", "issue", "device", "brief", "--out"])
        .arg(&bundle)
        .arg("--profiles")
        .arg(&profiles)
        .arg("--secret-file")
        .arg(&secret)
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME", format!("-{ISSUED_AGO_S}s"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
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
    // It goes on until it is cut off.
    brief.set_read_timeout(Duration::from_secs(30));
    while brief.raw(&[0xC0, 0]).is_ok() && matches!(brief.receive(), Ok(Packet::Pong)) {
        last_accepted = Instant::now();
        assert!(
            issued.elapsed() < Duration::from_secs(LEFT_S + 60),
            "it was not closed"
        );
        thread::sleep(Duration::from_millis(500));
    }
    println!(
        "an expiring certificate: its connection lived for {:.0} s more",
        (last_accepted - issued).as_secs_f64() - LEFT_S as f64
    );
    assert!(
        last_accepted - issued > Duration::from_secs(LEFT_S - 2),
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
