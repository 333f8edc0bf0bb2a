//! What is not signed, fresh and new is refused for its own reason: acknowledged, never forwarded,
//! reported to the device, and logged in the words of the seed document.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::time::Duration;

use support::{
    Backend, Gateway, Setup, envelope, envelope_at,
    mqtt::{Client, Hello, Packet, tls_config},
    now,
};
use tidegate_mqtt::QoS;
use tidegate_wire::Reason;

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Publishes and expects to be refused for `reason`, in the PUBACK and on the response topic.
fn refused(client: &mut Client, device: &str, message: &[u8], reason: Reason) {
    let packet_id = client
        .send(&format!("device/{device}/data"), message, QoS::AtLeastOnce)
        .unwrap()
        .unwrap();
    let (mut answered, mut noticed) = (None, None);
    while answered.is_none() || noticed.is_none() {
        match client.receive().unwrap() {
            Packet::Ack {
                id, reason, why, ..
            } if id == packet_id => answered = Some((reason, why)),
            Packet::Publish { payload, id, .. } => {
                if let Some(id) = id {
                    client
                        .acknowledge(tidegate_mqtt::AckKind::PubAck, id)
                        .unwrap();
                }
                noticed = Some(serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
            }
            _ => {}
        }
    }
    let (code, why) = answered.unwrap();
    assert_eq!(code, reason.mqtt(), "{why}");
    assert!(
        why.contains(reason.code()),
        "{why:?} should name {}",
        reason.code()
    );
    let notice = noticed.unwrap();
    assert_eq!(notice["status"], "rejected");
    assert_eq!(notice["reason"], reason.code(), "{notice}");
}

fn listening(gateway: &Gateway, device: &str) -> Client {
    let mut client = Client::connect(gateway, &gateway.bundle(device), &Hello::default());
    assert_eq!(
        client.subscribe(&format!("device/{device}/response"), QoS::AtLeastOnce),
        1
    );
    client
}

#[test]
fn each_reason_is_told_apart_and_nothing_refused_is_forwarded() {
    let backend = Backend::start();
    let gateway = Setup::new()
        .device("sensor_001")
        .device("sensor_002")
        .backend(&backend.url())
        .start();
    let mut client = listening(&gateway, "sensor_001");
    let payload = r#"{"temperature":22.5}"#;

    refused(&mut client, "sensor_001", b"hello", Reason::Malformed);
    let future = envelope("sensor_001", payload).replacen('{', r#"{"v":3,"#, 1);
    refused(
        &mut client,
        "sensor_001",
        future.as_bytes(),
        Reason::UnsupportedVersion,
    );
    refused(
        &mut client,
        "sensor_001",
        envelope("sensor_002", payload).as_bytes(),
        Reason::IdentityMismatch,
    );
    refused(
        &mut client,
        "sensor_001",
        envelope("nobody", payload).as_bytes(),
        Reason::IdentityMismatch,
    );
    let old = envelope_at("sensor_001", now() - 600, &id(), payload);
    refused(
        &mut client,
        "sensor_001",
        old.as_bytes(),
        Reason::StaleTimestamp,
    );
    let early = envelope_at("sensor_001", now() + 600, &id(), payload);
    refused(
        &mut client,
        "sensor_001",
        early.as_bytes(),
        Reason::StaleTimestamp,
    );
    let changed = envelope("sensor_001", payload).replace("22.5", "99.9");
    refused(
        &mut client,
        "sensor_001",
        changed.as_bytes(),
        Reason::BadSignature,
    );
    let large = envelope("sensor_001", &format!("{:?}", "x".repeat(70_000)));
    refused(
        &mut client,
        "sensor_001",
        large.as_bytes(),
        Reason::PayloadTooLarge,
    );
    assert!(
        backend.requests().is_empty(),
        "nothing refused is forwarded"
    );

    let good = envelope("sensor_001", payload);
    assert_eq!(
        client.publish("device/sensor_001/data", good.as_bytes()).0,
        0
    );
    backend.wait_for(1);
    client.message(); // the backend's reply
    refused(&mut client, "sensor_001", good.as_bytes(), Reason::Replayed);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.requests().len(), 1);

    for line in [
        "Rejected message from sensor_001: Invalid signature",
        "Rejected message from sensor_001: Timestamp out of range",
        "Rejected message: device_id mismatch with TLS identity",
    ] {
        gateway.wait_log(line);
    }
}

#[test]
fn a_device_may_publish_and_subscribe_only_under_its_own_id() {
    let gateway = Setup::new()
        .device("sensor_001")
        .device("sensor_002")
        .start();
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    for topic in [
        "device/sensor_002/data",
        "device/sensor_001/response",
        "device/sensor_001/command",
        "other/topic",
    ] {
        let (code, why) = client.publish(topic, b"{}");
        assert_eq!(code, Reason::TopicNotAllowed.mqtt(), "{topic}: {why}");
    }
    for filter in [
        "device/+/data",
        "#",
        "device/sensor_002/command",
        "$SYS/#",
        "device/#",
    ] {
        assert!(
            client.subscribe(filter, QoS::AtLeastOnce) >= 0x80,
            "{filter} was granted"
        );
    }
    assert_eq!(
        client.subscribe("device/sensor_001/command", QoS::AtLeastOnce),
        1
    );
}

#[test]
fn a_re_delivery_is_acknowledged_and_counts_once() {
    let backend = Backend::start();
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    let message = envelope("sensor_001", r#"{"a":1}"#);
    assert_eq!(
        client
            .publish("device/sensor_001/data", message.as_bytes())
            .0,
        0
    );
    let again = client.next_id();
    client
        .send_as(
            "device/sensor_001/data",
            message.as_bytes(),
            QoS::AtLeastOnce,
            Some(again),
            true,
        )
        .unwrap();
    assert_eq!(
        client.acknowledged(again).0,
        0,
        "the same bytes with DUP are no attack"
    );
    let spaced = message.replacen(':', ": ", 1);
    let third = client.next_id();
    client
        .send_as(
            "device/sensor_001/data",
            spaced.as_bytes(),
            QoS::AtLeastOnce,
            Some(third),
            true,
        )
        .unwrap();
    assert_eq!(
        client.acknowledged(third).0,
        Reason::Replayed.mqtt(),
        "other bytes under the same id are"
    );
    backend.wait_for(1);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn too_many_messages_a_second_are_refused_and_other_devices_do_not_notice() {
    let gateway = Setup::new()
        .device_with("sensor_001", "messages_per_second = 5")
        .device("sensor_002")
        .toml("[limits]\nmessage_burst = 10")
        .start();
    let mut flood = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    let mut calm = Client::connect(&gateway, &gateway.bundle("sensor_002"), &Hello::default());
    let codes: Vec<u8> = (0..30)
        .map(|_| {
            flood
                .publish(
                    "device/sensor_001/data",
                    envelope("sensor_001", "1").as_bytes(),
                )
                .0
        })
        .collect();
    assert!(codes[..5].iter().all(|code| *code == 0), "{codes:?}");
    assert!(codes.contains(&Reason::RateLimited.mqtt()), "{codes:?}");
    assert_eq!(
        calm.publish(
            "device/sensor_002/data",
            envelope("sensor_002", "1").as_bytes()
        )
        .0,
        0
    );
}

#[test]
fn a_restart_does_not_forget_what_was_accepted() {
    let backend = Backend::start();
    let mut gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    let message = envelope("sensor_001", r#"{"temperature":22.5}"#);
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    assert_eq!(
        client
            .publish("device/sensor_001/data", message.as_bytes())
            .0,
        0
    );
    backend.wait_for(1);
    gateway.kill();
    gateway.start();
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    assert_eq!(
        client
            .publish("device/sensor_001/data", message.as_bytes())
            .0,
        Reason::Replayed.mqtt()
    );
    assert!(gateway.stop().success());
    gateway.start();
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    assert_eq!(
        client
            .publish("device/sensor_001/data", message.as_bytes())
            .0,
        Reason::Replayed.mqtt()
    );
}

#[test]
fn a_stranger_does_not_get_in() {
    let gateway = Setup::new().device("sensor_001").start();
    let other = Setup::new().device("sensor_001").start();
    let stranger = tls_config(&other.bundle("sensor_001"));
    // The other gateway's bundle trusts another root: even its server check fails.
    assert!(Client::try_connect(gateway.mqtt(), &stranger, &Hello::default()).is_err());
    // With the right root but the other CA's certificate, the gateway is the one that refuses.
    let mixed = gateway.setup.path("mixed");
    std::fs::create_dir(&mixed).unwrap();
    std::fs::copy(
        gateway.bundle("sensor_001").join("ca.crt"),
        mixed.join("ca.crt"),
    )
    .unwrap();
    for name in ["device.crt", "device.key"] {
        std::fs::copy(other.bundle("sensor_001").join(name), mixed.join(name)).unwrap();
    }
    assert!(Client::try_connect(gateway.mqtt(), &tls_config(&mixed), &Hello::default()).is_err());
    // A certificate of ours for a device that is not declared.
    gateway.run(&[
        "pki",
        "issue",
        "device",
        "ghost",
        "--out",
        gateway.setup.path("ghost").to_str().unwrap(),
    ]);
    gateway.run(&["device", "remove", "ghost"]);
    assert!(
        Client::try_connect(
            gateway.mqtt(),
            &tls_config(&gateway.setup.path("ghost")),
            &Hello::default()
        )
        .is_err()
    );
}
