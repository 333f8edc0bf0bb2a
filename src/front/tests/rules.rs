//! What the gateway refuses, and how it says so.

use tidegate_mqtt::{Property, PropertyBuf, Publish, ReasonCode};

use super::{
    client::{Got, Hello, publish},
    world::World,
};
use crate::config::Limits;

#[tokio::test]
async fn connects_that_are_refused() {
    let world = World::new().await;
    let answer = async |hello: Hello<'_>| world.device("a").hello(hello).await;
    let refused = |reason| Got::ConnAck {
        present: false,
        reason,
        assigned: None,
    };
    let nameless = Hello {
        clean: false,
        ..Hello::v3("")
    };
    assert_eq!(
        answer(nameless).await,
        refused(ReasonCode::ClientIdentifierNotValid)
    );
    let long = "x".repeat(300);
    assert_eq!(
        answer(Hello::v5(&long)).await,
        refused(ReasonCode::ClientIdentifierNotValid)
    );
    let method = vec![Property::AuthenticationMethod("SCRAM")];
    let enhanced = Hello {
        properties: method,
        ..Hello::v5("x")
    };
    assert_eq!(
        answer(enhanced).await,
        refused(ReasonCode::BadAuthenticationMethod)
    );
    let Got::ConnAck {
        assigned: Some(assigned),
        ..
    } = answer(Hello::v5("")).await
    else {
        panic!("an id is assigned");
    };
    assert!(assigned.starts_with("auto-"));

    for (bytes, expected) in [
        // MQTT 3.1, level 6, not MQTT, malformed in MQTT 5, something else first.
        (
            &b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01x"[..],
            &b"\x20\x02\x00\x01"[..],
        ),
        (
            b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01x",
            b"\x20\x03\x00\x84\x00",
        ),
        (b"\x10\x0d\x00\x04HTTP\x04\x02\x00\x3c\x00\x01x", b""),
        (
            b"\x10\x0e\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01x",
            b"\x20",
        ),
        (b"\xc0\x00", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
    ] {
        let mut client = world.device("a");
        client.raw(bytes).await;
        let got = client.rest().await;
        assert!(got.starts_with(expected), "{bytes:?}: {got:?}");
        assert_eq!(got.is_empty(), expected.is_empty(), "{bytes:?}: {got:?}");
    }
}

#[tokio::test]
async fn breaches_end_the_connection_with_a_reason() {
    let world = World::with(Limits {
        in_flight: 3,
        ..super::world::limits()
    })
    .await;
    let alias = |number: u16| {
        let mut properties = PropertyBuf::new();
        properties
            .push(Property::TopicAlias(number.try_into().unwrap()))
            .unwrap();
        properties
    };
    let (high, unknown) = (alias(17), alias(2));
    let mut out = bytes::BytesMut::new();
    let mut packet = |publish: Publish<'_>| {
        out.clear();
        publish
            .encode(
                &tidegate_mqtt::Peer::server(tidegate_mqtt::Version::V5),
                &mut out,
            )
            .unwrap();
        out.to_vec()
    };
    let mut flood = Vec::new();
    for number in 1..=4 {
        flood.extend(packet(publish("home/x", 2, number, b"")));
    }
    let cases: [(Vec<u8>, ReasonCode); 9] = [
        (flood, ReasonCode::ReceiveMaximumExceeded),
        (
            packet(Publish {
                properties: high.as_raw(),
                ..publish("home/x", 0, 0, b"")
            }),
            ReasonCode::TopicAliasInvalid,
        ),
        (
            packet(Publish {
                properties: unknown.as_raw(),
                ..publish("", 0, 0, b"")
            }),
            ReasonCode::ProtocolError,
        ),
        (b"\x30\xff\xff\x7f".to_vec(), ReasonCode::PacketTooLarge),
        (
            b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00".to_vec(),
            ReasonCode::ProtocolError,
        ),
        (
            b"\x36\x05\x00\x01x\x00\x01".to_vec(),
            ReasonCode::MalformedPacket,
        ),
        (
            b"\x30\x06\x00\x03h/#\x00".to_vec(),
            ReasonCode::TopicNameInvalid,
        ),
        (
            b"\x82\x07\x00\x01\x00\x00\x01\x23\x03".to_vec(),
            ReasonCode::ProtocolError,
        ),
        (
            b"\xf0\x09\x19\x07\x15\x00\x04test".to_vec(),
            ReasonCode::ProtocolError,
        ),
    ];
    for (bytes, reason) in cases {
        let mut client = world.device("a");
        client.connected(Hello::v5("x")).await;
        client.raw(&bytes).await;
        loop {
            match client.next().await {
                Got::Ack(..) => {}
                got => {
                    assert_eq!(got, Got::Disconnect(reason), "{bytes:?}");
                    break;
                }
            }
        }
        assert_eq!(client.next().await, Got::Closed);
        // 3.1.1 is not told, but closed.
        let mut client = world.device("a");
        client.connected(Hello::v3("x")).await;
        client.raw(b"\x30\xff\xff\x7f").await;
        assert_eq!(client.next().await, Got::Closed);
    }
}

#[tokio::test]
async fn subscriptions_are_limited() {
    let world = World::with(Limits {
        subscriptions: 2,
        ..super::world::limits()
    })
    .await;
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    let codes = client
        .subscribe(&[("home/1", 0), ("home/2", 1), ("home/3", 1), ("home/1", 1)])
        .await;
    assert_eq!(
        codes,
        [0, 1, 0x97, 1],
        "the same filter again needs no room"
    );
    let mut old = world.device("b");
    old.connected(Hello::v3("x")).await;
    assert_eq!(
        old.subscribe(&[("device/a/response", 1), ("home/1", 2)])
            .await,
        [0x80, 2]
    );
}

#[tokio::test]
async fn free_topics_of_one_identity_are_limited() {
    let world = World::with(Limits {
        topics_per_identity: 2,
        ..super::world::limits()
    })
    .await;
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    for (topic, reason) in [
        ("home/1", ReasonCode::Success),
        ("home/2", ReasonCode::Success),
        ("home/3", ReasonCode::QuotaExceeded),
        ("home/1", ReasonCode::Success),
    ] {
        client.publish(publish(topic, 1, 1, b"x")).await;
        assert_eq!(
            client.next().await,
            Got::Ack(tidegate_mqtt::AckKind::PubAck, 1, reason)
        );
    }
}

#[tokio::test]
async fn a_peer_gets_no_packet_larger_than_it_takes() {
    let world = World::new().await;
    let mut client = world.operator("anna");
    let small = Hello {
        properties: vec![Property::MaximumPacketSize(40.try_into().unwrap())],
        ..Hello::v5("x")
    };
    client.connected(small).await;
    client.subscribe(&[("home/x", 1)]).await;
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    device.publish(publish("home/x", 1, 1, &[b'x'; 100])).await;
    device.publish(publish("home/x", 1, 2, b"short")).await;
    assert_eq!(client.message().await.payload, "short");
}
