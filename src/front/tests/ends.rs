//! How connections end: takeover, time, administration, stopping, slowness.

use std::time::{Duration, Instant};

use tidegate_mqtt::{AckKind, ReasonCode};

use super::{
    super::Why,
    client::{Got, Hello, publish},
    world::{World, device, signed},
};
use crate::{clock::system_now, config::Limits};

#[tokio::test]
async fn the_newer_connection_of_a_device_takes_over() {
    let world = World::new().await;
    let mut older = world.device("a");
    older.connected(Hello::v5("one")).await;
    let mut newer = world.device("a");
    newer.connected(Hello::v5("another")).await;
    assert_eq!(
        older.next().await,
        Got::Disconnect(ReasonCode::SessionTakenOver)
    );
    assert_eq!(older.next().await, Got::Closed);
    newer.ping().await;
    // Of one operator, only with the same client id.
    let mut first = world.operator("anna");
    first.connected(Hello::v5("1")).await;
    let mut second = world.operator("anna");
    second.connected(Hello::v5("2")).await;
    first.ping().await;
    let mut third = world.operator("anna");
    third.connected(Hello::v5("1")).await;
    assert_eq!(
        first.next().await,
        Got::Disconnect(ReasonCode::SessionTakenOver)
    );
    second.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_connections_leaves_one_with_the_whole_session() {
    let world = World::new().await;
    let mut first = world.device("a");
    first.connected(Hello::lasting("x")).await;
    first.subscribe(&[("home/#", 1)]).await;
    drop(first);
    let mut other = world.device("b");
    other.connected(Hello::v5("y")).await;
    for number in 1..=20_u16 {
        other
            .publish(publish("home/x", 1, number, number.to_string().as_bytes()))
            .await;
        assert!(matches!(other.next().await, Got::Ack(AckKind::PubAck, ..)));
    }
    let mut all: Vec<_> = (0..30).map(|_| world.device("a")).collect();
    let mut welcome = Vec::new();
    for mut client in all.drain(..) {
        // Said by all before any answer is waited for.
        let mut said = bytes::BytesMut::new();
        let connect = tidegate_mqtt::Connect {
            version: tidegate_mqtt::Version::V311,
            clean_start: false,
            keep_alive: 60,
            client_id: "x",
            will: None,
            user_name: None,
            password: None,
            properties: tidegate_mqtt::RawProperties::EMPTY,
        };
        let peer = tidegate_mqtt::Peer::server(tidegate_mqtt::Version::V311);
        connect.encode(&peer, &mut said).unwrap();
        client.raw(&said).await;
        client.speaks_v3();
        welcome.push(client);
    }
    let mut survivors = 0;
    for client in &mut welcome {
        let mut got = Vec::new();
        loop {
            match client.next_within(Duration::from_millis(500)).await {
                None => {
                    survivors += 1;
                    // In flight are as many as the window takes, in order.
                    let payloads: Vec<_> = got.iter().skip(1).map(payload).collect();
                    let expected: Vec<_> = (1..=8).map(|number| number.to_string()).collect();
                    assert_eq!(payloads, expected);
                    break;
                }
                Some(Got::Closed) => break,
                Some(other) => got.push(other),
            }
        }
    }
    assert_eq!(survivors, 1);
    assert!(world.directory.connected(&"a".parse().unwrap()));
}

fn payload(got: &Got) -> String {
    match got {
        Got::Publish(message) => message.payload.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keep_alive_ends_what_is_silent() {
    let world = World::new().await;
    let mut silent = world.device("a");
    silent
        .connected(Hello {
            keep_alive: 1,
            ..Hello::v5("x")
        })
        .await;
    let mut for_ever = world.device("b");
    for_ever
        .connected(Hello {
            keep_alive: 0,
            ..Hello::v5("y")
        })
        .await;
    let since = Instant::now();
    assert_eq!(
        silent.next().await,
        Got::Disconnect(ReasonCode::KeepAliveTimeout)
    );
    let after = since.elapsed();
    assert!(
        after > Duration::from_millis(1300) && after < Duration::from_secs(3),
        "{after:?}"
    );
    for_ever.ping().await;
}

#[tokio::test]
async fn a_disabled_device_is_closed_within_a_second() {
    let world = World::new().await;
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    let mut other = world.device("b");
    other.connected(Hello::v5("y")).await;
    let since = Instant::now();
    world
        .registry
        .set_enabled(&"a".parse().unwrap(), false, "test", system_now())
        .await
        .unwrap();
    assert_eq!(
        client.next().await,
        Got::Disconnect(ReasonCode::AdministrativeAction)
    );
    assert!(since.elapsed() < Duration::from_secs(10));
    other.ping().await;
    world
        .directory
        .kick(&"b".parse().unwrap(), Why::Administrative);
    assert_eq!(
        other.next().await,
        Got::Disconnect(ReasonCode::AdministrativeAction)
    );
}

#[tokio::test]
async fn stopping_acknowledges_what_is_on_its_way() {
    let mut world = World::new().await;
    let mut client = world.device("a");
    client.connected(Hello::v5("x")).await;
    let body = signed("a", 1, "1");
    client.publish(publish("device/a/data", 1, 1, &body)).await;
    assert_eq!(
        client.next().await,
        Got::Ack(AckKind::PubAck, 1, ReasonCode::Success)
    );
    world.stop().await;
    assert_eq!(
        client.next().await,
        Got::Disconnect(ReasonCode::ServerShuttingDown)
    );
    assert_eq!(client.next().await, Got::Closed);
    assert_eq!(world.stored(), 1);
}

#[tokio::test]
async fn who_does_not_read_loses_messages_not_the_gateway_its_memory() {
    let limits = Limits {
        queued_messages: 50,
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let mut slow = world.dial_with(super::super::Principal::Operator("anna".into()), 4096);
    slow.connected(Hello::v5("slow")).await;
    slow.subscribe(&[("home/#", 0)]).await;
    let mut busy = world.dial(device("a"));
    busy.connected(Hello::v5("x")).await;
    let body = vec![b'x'; 4000];
    for number in 1..=400_u16 {
        busy.publish(publish("home/x", 1, number, &body)).await;
        assert!(
            matches!(busy.next().await, Got::Ack(AckKind::PubAck, ..)),
            "others go on"
        );
    }
    let dropped = || {
        let metrics = &world.shared.metrics;
        metrics
            .dropped(super::super::metrics::Dropped::QueueFull)
            .get()
    };
    // The broker hands on at its own pace.
    for _ in 0..500 {
        if dropped() > 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(dropped() > 200, "{}", dropped());
    // What was kept arrives once it reads.
    let mut arrived = 0;
    while arrived + dropped() < 400 {
        let Some(Got::Publish(message)) = slow.next_within(super::client::SOON).await else {
            break;
        };
        assert_eq!(message.payload.len(), 4000);
        arrived += 1;
    }
    assert_eq!(arrived + dropped(), 400);
}

#[tokio::test]
async fn sessions_end_with_their_expiry() {
    let world = World::new().await;
    let mut client = world.device("a");
    let short = || Hello {
        properties: vec![tidegate_mqtt::Property::SessionExpiryInterval(1)],
        ..Hello::lasting("x")
    };
    client.connected(short()).await;
    client.subscribe(&[("home/#", 1)]).await;
    drop(client);
    let mut client = world.device("a");
    assert!(client.connected(short()).await, "within a second");
    drop(client);
    for _ in 0..40 {
        if world.directory.durable_sessions() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.directory.durable_sessions(), 0);
    let mut client = world.device("a");
    assert!(!client.connected(short()).await);
}
