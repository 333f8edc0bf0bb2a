//! Contract topics: verify, commit, acknowledge; replies, commands, rejections.

use std::time::Duration;

use bytes::Bytes;
use tidegate_mqtt::{AckKind, Publish, QoS, RawProperties, ReasonCode, Will};

use super::{
    super::{Outgoing, ReplyRoute},
    client::{Got, Hello, publish},
    world::{World, signed, signed_at},
};
use crate::{
    clock::system_now,
    command::{Order, State},
    store::sessions,
};

#[tokio::test]
async fn acknowledged_means_stored_in_order() {
    let mut world = World::new().await;
    let mut client = world.device("a");
    client.connected(Hello::v3("x")).await;
    for number in 1..=5 {
        let body = signed("a", number, "1");
        client
            .publish(publish("device/a/data", 1, number.into(), &body))
            .await;
    }
    for number in 1..=5 {
        assert_eq!(
            client.next().await,
            Got::Ack(AckKind::PubAck, number, ReasonCode::Success)
        );
    }
    assert_eq!(world.stored(), 5);
    let body = signed("a", 6, "2");
    client.publish(publish("device/a/event", 2, 6, &body)).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubRec, 6, ReasonCode::Success)
    );
    assert_eq!(world.stored(), 6, "PUBREC as well waits for the commit");
    client.ack(AckKind::PubRel, 6).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubComp, 6, ReasonCode::Success)
    );
    let body = signed("a", 7, "3");
    client.publish(publish("device/a/data", 0, 0, &body)).await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    world.stop().await;
    assert_eq!(world.stored(), 7, "QoS 0 is stored as well");
}

#[tokio::test]
async fn delivered_again_is_acknowledged_and_stored_once() {
    let world = World::new().await;
    let body = signed("a", 1, "1");
    for dup in [false, true] {
        let mut client = world.device("a");
        client.connected(Hello::v5("x")).await;
        let again = Publish {
            dup,
            ..publish("device/a/data", 1, 9, &body)
        };
        client.publish(again).await;
        assert_eq!(
            client.next().await,
            Got::Ack(AckKind::PubAck, 9, ReasonCode::Success)
        );
    }
    assert_eq!(world.stored(), 1);
    assert_eq!(world.shared.metrics.messages_duplicate.get(), 1);
}

#[tokio::test]
async fn rejections_are_acknowledged_reported_and_counted() {
    let world = World::new().await;
    let good = signed("a", 1, "1");
    let mut forged = signed("a", 2, "1");
    let at = forged.len() - 4;
    forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
    let stale = signed_at("a", 3, "1", system_now().seconds() - 400);
    let foreign = signed("b", 4, "1");
    let cases: [(&str, &[u8], &str, u8); 6] = [
        ("device/a/data", b"no json", "malformed", 0x99),
        ("device/a/data", &forged, "bad_signature", 0x87),
        ("device/a/data", &stale, "stale_timestamp", 0x83),
        ("device/a/data", &foreign, "identity_mismatch", 0x87),
        ("device/b/data", &good, "topic_not_allowed", 0x87),
        ("device/a/data", &good, "replayed", 0x83),
    ];
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    assert_eq!(client.subscribe(&[("device/a/response", 0)]).await, [0]);
    client.publish(publish("device/a/data", 1, 1, &good)).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubAck, 1, ReasonCode::Success)
    );
    for (topic, body, reason, code) in cases {
        client.publish(publish(topic, 1, 7, body)).await;
        let code = ReasonCode::from_u8(code).unwrap();
        assert_eq!(
            client.next().await,
            Got::Ack(AckKind::PubAck, 7, code),
            "{reason}"
        );
        let notice = client.message().await;
        assert_eq!(notice.topic, "device/a/response");
        assert!(
            notice
                .payload
                .starts_with(&format!(r#"{{"status":"rejected","reason":"{reason}""#)),
            "{}",
            notice.payload
        );
        let reason = tidegate_wire::Reason::from_code(reason).unwrap();
        assert_eq!(world.shared.metrics.rejected(reason).get(), 1);
    }
    assert_eq!(world.stored(), 1);

    // 3.1.1 knows no reasons: a plain acknowledgement, so that the device goes on.
    let mut client = world.device("a");
    client.connected(Hello::v3("x")).await;
    client.publish(publish("device/b/data", 1, 8, &good)).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubAck, 8, ReasonCode::Success)
    );
    client
        .publish(publish("device/a/data", 2, 9, b"no json"))
        .await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubRec, 9, ReasonCode::Success)
    );
    client.ack(AckKind::PubRel, 9).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubComp, 9, ReasonCode::Success)
    );
    assert_eq!(world.stored(), 1);
}

#[tokio::test]
async fn raw_telemetry_of_a_device_that_does_not_sign() {
    let world = World::new().await;
    let mut client = world.device("raw");
    client.connected(Hello::v5("x")).await;
    client.publish(publish("sensors/led", 1, 1, b"80")).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubAck, 1, ReasonCode::Success)
    );
    client
        .publish(publish("device/raw/data", 1, 2, b"80"))
        .await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubAck, 2, ReasonCode::NotAuthorized)
    );
    assert_eq!(world.stored(), 1);
}

#[tokio::test]
async fn replies_to_a_volatile_session_go_with_the_connection() {
    let world = World::new().await;
    let id = "a".parse().unwrap();
    let reply = || Outgoing {
        topic: "device/a/response".to_owned(),
        payload: Bytes::from_static(b"{}"),
        qos: 1,
        queue_id: None,
        retain: false,
        properties: Bytes::new(),
    };
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    assert_eq!(world.directory.reply_route(&id), None);
    assert!(!world.directory.deliver(&id, reply()), "not subscribed");
    client.subscribe(&[("device/a/response", 1)]).await;
    assert_eq!(world.directory.reply_route(&id), Some(ReplyRoute::Volatile));
    assert!(world.directory.deliver(&id, reply()));
    let message = client.message().await;
    assert_eq!((message.qos, message.payload.as_str()), (1, "{}"));
    client.ack(AckKind::PubAck, message.id.unwrap()).await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    while world.directory.connected(&id) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.directory.reply_route(&id), None);
    assert!(!world.directory.deliver(&id, reply()));
}

#[tokio::test]
async fn replies_to_a_durable_session_survive_both_ends() {
    let world = World::new().await;
    let id = "a".parse().unwrap();
    let mut client = world.device("a");
    assert!(!client.connected(Hello::lasting("x")).await);
    client.subscribe(&[("device/a/#", 1)]).await;
    let Some(ReplyRoute::Durable { session, qos: 1 }) = world.directory.reply_route(&id) else {
        panic!("{:?}", world.directory.reply_route(&id));
    };
    drop(client);
    let queue = |payload: &'static [u8]| {
        world
            .store
            .write(move |conn| sessions::enqueue(conn, session, 1, "device/a/response", payload))
    };
    let queue_id = Some(queue(b"1").await.unwrap());
    let announced = Outgoing {
        topic: String::new(),
        payload: Bytes::new(),
        qos: 1,
        queue_id,
        retain: false,
        properties: Bytes::new(),
    };
    assert!(world.directory.deliver(&id, announced.clone()));
    let world = world.restart().await;
    assert!(matches!(
        world.directory.reply_route(&id),
        Some(ReplyRoute::Durable { qos: 1, .. })
    ));
    let mut client = world.device("a");
    assert!(
        client.connected(Hello::lasting("x")).await,
        "session present"
    );
    let message = client.message().await;
    assert_eq!(
        (message.payload.as_str(), message.qos, message.dup),
        ("1", 1, false)
    );
    // Announced while connected.
    let write = move |conn: &rusqlite::Connection| {
        sessions::enqueue(conn, session, 1, "device/a/response", b"2")
    };
    let queue_id = Some(world.store.write(write).await.unwrap());
    assert!(world.directory.deliver(
        &id,
        Outgoing {
            queue_id,
            ..announced
        }
    ));
    assert_eq!(client.message().await.payload, "2");
    drop(client);
    // Unacknowledged: again, in order, with DUP and the same identifiers.
    let mut client = world.device("a");
    client.connected(Hello::lasting("x")).await;
    let again = client.message().await;
    assert_eq!(
        (again.payload.as_str(), again.dup, again.id),
        ("1", true, message.id)
    );
    let second = client.message().await;
    assert_eq!((second.payload.as_str(), second.dup), ("2", true));
    client.ack(AckKind::PubAck, again.id.unwrap()).await;
    client.ack(AckKind::PubAck, second.id.unwrap()).await;
    client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    let mut client = world.device("a");
    assert!(client.connected(Hello::lasting("x")).await);
    client.silence().await;
}

#[tokio::test]
async fn commands_are_signed_sent_and_confirmed() {
    let world = World::new().await;
    let device = world.registry.get(&"a".parse().unwrap()).unwrap();
    let order = |body: &'static str| Order {
        body: Bytes::from_static(body.as_bytes()),
        ttl: None,
        idempotency_key: None,
        by: "test",
    };
    let early = world
        .commands
        .queue(&device, order(r#"{"n":1}"#), system_now())
        .await
        .unwrap();
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    client.silence().await;
    client.subscribe(&[("device/a/command", 2)]).await;
    let message = client.message().await;
    assert_eq!(
        (message.topic.as_str(), message.qos),
        ("device/a/command", 1)
    );
    assert!(
        message.payload.contains(&early.message_id.to_string()),
        "{}",
        message.payload
    );
    client.ack(AckKind::PubAck, message.id.unwrap()).await;
    let late = world
        .commands
        .queue(&device, order(r#"{"n":2}"#), system_now())
        .await
        .unwrap();
    let message = client.message().await;
    assert!(message.payload.contains(&late.message_id.to_string()));
    let state = async |id| {
        world
            .commands
            .status(device.key, id)
            .await
            .unwrap()
            .unwrap()
            .state
    };
    for _ in 0..100 {
        if state(early.message_id).await == State::Delivered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(state(early.message_id).await, State::Delivered);
    assert_eq!(state(late.message_id).await, State::Sent);
    // Not confirmed: sent again on the next connection.
    drop(client);
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    client.subscribe(&[("device/a/command", 1)]).await;
    assert!(
        client
            .message()
            .await
            .payload
            .contains(&late.message_id.to_string())
    );
}

/// A device that takes version 2 alone and was never heard of: its will tells, when it connects.
#[tokio::test]
async fn the_first_command_of_all_is_signed_in_the_version_of_the_will() {
    let world = World::new().await;
    let (ours, forged) = (signed("a", 9, "{}"), signed("b", 9, "{}"));
    for (id, will, v2) in [
        ("b", None, false),
        ("b", Some(&b"no envelope"[..]), false),
        ("b", Some(&ours[..]), false),
        ("a", Some(&forged[..]), false),
        ("a", Some(&ours[..]), true),
    ] {
        let device = world.registry.get(&id.parse().unwrap()).unwrap();
        let order = Order {
            body: Bytes::from_static(b"{}"),
            ttl: None,
            idempotency_key: None,
            by: "test",
        };
        let queued = world.commands.queue(&device, order, system_now()).await;
        let id_text = queued.unwrap().message_id.to_string();
        let mut client = world.device(id);
        let topic = format!("device/{id}/event");
        let hello = Hello {
            will: will.map(|payload| Will {
                qos: QoS::AtLeastOnce,
                retain: false,
                topic: &topic,
                payload,
                properties: RawProperties::EMPTY,
            }),
            ..Hello::v5("x")
        };
        client.connected(hello).await;
        let commands = format!("device/{id}/command");
        client.subscribe(&[(&commands, 1)]).await;
        let message = loop {
            let message = client.message().await;
            client.ack(AckKind::PubAck, message.id.unwrap()).await;
            if message.payload.contains(&id_text) {
                break message;
            }
        };
        let signed_v2 = message.payload.contains("\"v\":2");
        assert_eq!(signed_v2, v2, "{}", message.payload);
        client.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    }
}

#[tokio::test]
async fn over_its_rate_a_device_is_rejected_then_slowed_down() {
    let limits = crate::config::Limits {
        messages_per_second: 10,
        message_burst: 3,
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let mut client = world.device("a");
    client.connected(Hello::v3("x")).await;
    for number in 1..=200_u16 {
        let body = signed("a", u8::try_from(number).unwrap(), "1");
        client
            .publish(publish("device/a/data", 1, number, &body))
            .await;
    }
    for number in 1..=200_u16 {
        assert_eq!(
            client.next().await,
            Got::Ack(AckKind::PubAck, number, ReasonCode::Success)
        );
    }
    let metrics = &world.shared.metrics;
    assert!(metrics.reading_paused.get() >= 1);
    assert!(metrics.rejected(tidegate_wire::Reason::RateLimited).get() > 100);
    assert!(
        world.stored() >= 3 && world.stored() < 40,
        "{}",
        world.stored()
    );
}
