//! Free topics: subscribers live and absent, QoS 2, retained messages, wills.

use tidegate_mqtt::{
    AckKind, Property, PropertyBuf, Publish, QoS, RawProperties, ReasonCode, RetainHandling,
    Subscription, Will,
};

use super::{
    client::{Client, Got, Hello, publish},
    world::World,
};

const OK: ReasonCode = ReasonCode::Success;

async fn say(client: &mut Client, topic: &str, payload: &str) {
    client
        .publish(publish(topic, 1, 77, payload.as_bytes()))
        .await;
    assert_eq!(client.next().await, Got::Ack(AckKind::PubAck, 77, OK));
}

#[tokio::test]
async fn subscribers_get_what_they_asked_for() {
    let world = World::new().await;
    let mut one = world.operator("anna");
    one.connected(Hello::v5("one")).await;
    let mut identifier = PropertyBuf::new();
    identifier
        .push(Property::SubscriptionIdentifier(5))
        .unwrap();
    let overlapping = [
        Subscription::new("home/#", QoS::AtMostOnce),
        Subscription::new("home/+", QoS::AtLeastOnce),
    ];
    assert_eq!(
        one.subscribe_with(&overlapping, identifier.as_raw()).await,
        [0, 1]
    );
    let mut old = world.operator("bert");
    old.connected(Hello::v3("two")).await;
    assert_eq!(old.subscribe(&[("home/door", 2)]).await, [2]);

    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    let mut properties = PropertyBuf::new();
    properties
        .push(Property::MessageExpiryInterval(60))
        .unwrap();
    properties.push(Property::UserProperty("k", "v")).unwrap();
    properties
        .push(Property::TopicAlias(3.try_into().unwrap()))
        .unwrap();
    let open = Publish {
        properties: properties.as_raw(),
        ..publish("home/door", 2, 1, b"open")
    };
    device.publish(open).await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubRec, 1, OK));

    let message = one.message().await;
    assert_eq!(
        (message.qos, message.identifiers.as_slice()),
        (1, [5, 5].as_slice()),
        "one copy"
    );
    assert_eq!(message.user, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(message.expiry, Some(60));
    let message = old.message().await;
    assert_eq!((message.qos, message.payload.as_str()), (2, "open"));
    let number = message.id.unwrap();
    old.ack(AckKind::PubRec, number).await;
    assert_eq!(old.next().await, Got::Ack(AckKind::PubRel, number, OK));
    old.ack(AckKind::PubComp, number).await;

    // The alias stands for the topic now.
    let mut alias = PropertyBuf::new();
    alias
        .push(Property::TopicAlias(3.try_into().unwrap()))
        .unwrap();
    let again = Publish {
        properties: alias.as_raw(),
        ..publish("", 0, 0, b"shut")
    };
    device.publish(again).await;
    let message = old.message().await;
    assert_eq!(
        (
            message.topic.as_str(),
            message.payload.as_str(),
            message.qos
        ),
        ("home/door", "shut", 0)
    );
    assert_eq!(one.message().await.payload, "shut");

    // Rights: a device does not leave its lists, an operator not the free topics.
    device.publish(publish("garden/x", 1, 2, b"")).await;
    assert_eq!(
        device.next().await,
        Got::Ack(AckKind::PubAck, 2, ReasonCode::NotAuthorized)
    );
    one.publish(publish("device/a/command", 1, 3, b"{}")).await;
    assert_eq!(
        one.next().await,
        Got::Ack(AckKind::PubAck, 3, ReasonCode::NotAuthorized)
    );
    let refused = device
        .subscribe(&[("garden/#", 0), ("device/b/#", 1), ("$share/g/home/x", 1)])
        .await;
    assert_eq!(refused, [0x87, 0x87, 0x9e]);
}

#[tokio::test]
async fn no_local_and_unsubscribe() {
    let world = World::new().await;
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    let local = Subscription {
        no_local: true,
        ..Subscription::new("home/a", QoS::AtLeastOnce)
    };
    device.subscribe_with(&[local], RawProperties::EMPTY).await;
    say(&mut device, "home/a", "mine").await;
    let mut other = world.device("b");
    other.connected(Hello::v5("y")).await;
    say(&mut other, "home/a", "theirs").await;
    assert_eq!(device.message().await.payload, "theirs");
}

#[tokio::test]
async fn qos_2_from_a_peer_is_taken_once_across_connections() {
    let world = World::new().await;
    let mut listener = world.operator("anna");
    listener.connected(Hello::v5("l")).await;
    listener.subscribe(&[("home/#", 0)]).await;
    let mut device = world.device("a");
    device.connected(Hello::lasting("x")).await;
    device.publish(publish("home/once", 2, 5, b"1")).await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubRec, 5, OK));
    drop(device);
    let world_again;
    {
        assert_eq!(listener.message().await.payload, "1");
        drop(listener);
        world_again = world.restart().await;
    }
    let world = world_again;
    let mut listener = world.operator("anna");
    listener.connected(Hello::v5("l")).await;
    listener.subscribe(&[("home/#", 0)]).await;
    let mut device = world.device("a");
    assert!(device.connected(Hello::lasting("x")).await);
    device
        .publish(Publish {
            dup: true,
            ..publish("home/once", 2, 5, b"1")
        })
        .await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubRec, 5, OK));
    device.ack(AckKind::PubRel, 5).await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubComp, 5, OK));
    listener.silence().await;
    // The identifier is free again.
    device.publish(publish("home/once", 2, 5, b"2")).await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubRec, 5, OK));
    assert_eq!(listener.message().await.payload, "2");
    device.ack(AckKind::PubRel, 9).await;
    let unknown = ReasonCode::PacketIdentifierNotFound;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubComp, 9, unknown));
}

#[tokio::test]
async fn qos_2_to_an_absent_peer_arrives_once() {
    let world = World::new().await;
    let mut absent = world.operator("anna");
    absent.connected(Hello::lasting("d")).await;
    assert_eq!(absent.subscribe(&[("home/#", 2)]).await, [2]);
    drop(absent);
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    device.publish(publish("home/x", 2, 1, b"1")).await;
    assert_eq!(device.next().await, Got::Ack(AckKind::PubRec, 1, OK));
    let world = world.restart().await;
    let mut back = world.operator("anna");
    assert!(back.connected(Hello::lasting("d")).await);
    let message = back.message().await;
    assert_eq!((message.qos, message.dup), (2, false));
    let number = message.id.unwrap();
    drop(back);
    let mut back = world.operator("anna");
    back.connected(Hello::lasting("d")).await;
    let again = back.message().await;
    assert_eq!((again.id, again.dup), (Some(number), true));
    back.ack(AckKind::PubRec, number).await;
    assert_eq!(back.next().await, Got::Ack(AckKind::PubRel, number, OK));
    drop(back);
    // PUBREC was said: from here on only PUBREL comes, even after a restart.
    let world = world.restart().await;
    let mut back = world.operator("anna");
    back.connected(Hello::lasting("d")).await;
    assert_eq!(back.next().await, Got::Ack(AckKind::PubRel, number, OK));
    back.ack(AckKind::PubComp, number).await;
    back.silence().await;
}

#[tokio::test]
async fn a_session_belongs_to_its_identity() {
    let world = World::new().await;
    let mut anna = world.operator("anna");
    anna.connected(Hello::lasting("same")).await;
    anna.subscribe(&[("home/#", 1)]).await;
    drop(anna);
    let mut eve = world.operator("eve");
    assert!(
        !eve.connected(Hello::lasting("same")).await,
        "another identity's session is not hers"
    );
    // Clean Start ends it.
    let mut anna = world.operator("anna");
    assert!(
        !anna
            .connected(Hello {
                clean: true,
                ..Hello::lasting("same")
            })
            .await
    );
    drop(anna);
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    say(&mut device, "home/x", "1").await;
    let mut anna = world.operator("anna");
    assert!(anna.connected(Hello::lasting("same")).await);
    anna.silence().await;
}

#[tokio::test]
async fn the_newest_messages_wait_for_a_full_session() {
    let limits = crate::config::Limits {
        queued_messages: 3,
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let mut absent = world.operator("anna");
    absent.connected(Hello::lasting("d")).await;
    absent.subscribe(&[("home/#", 1)]).await;
    drop(absent);
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    for number in 1..=5 {
        say(&mut device, "home/x", &number.to_string()).await;
    }
    let mut back = world.operator("anna");
    back.connected(Hello::lasting("d")).await;
    for number in 3..=5 {
        assert_eq!(back.message().await.payload, number.to_string());
    }
    back.silence().await;
}

#[tokio::test]
async fn retained_messages() {
    let world = World::new().await;
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    for (topic, payload) in [
        ("home/1", "old"),
        ("home/1", "new"),
        ("home/2", "gone"),
        ("home/2", ""),
    ] {
        let kept = Publish {
            retain: true,
            ..publish(topic, 1, 4, payload.as_bytes())
        };
        device.publish(kept).await;
        assert_eq!(device.next().await, Got::Ack(AckKind::PubAck, 4, OK));
    }
    let world = world.restart().await;
    let mut anna = world.operator("anna");
    anna.connected(Hello::v5("l")).await;
    assert_eq!(anna.subscribe(&[("home/#", 0)]).await, [0]);
    let message = anna.message().await;
    assert_eq!(
        (message.payload.as_str(), message.retain, message.qos),
        ("new", true, 0)
    );
    let handling = |retain_handling| {
        [Subscription {
            retain_handling,
            ..Subscription::new("home/#", QoS::AtMostOnce)
        }]
    };
    for never in [RetainHandling::SendIfNew, RetainHandling::DoNotSend] {
        anna.subscribe_with(&handling(never), RawProperties::EMPTY)
            .await;
        anna.silence().await;
    }
    // A message that comes while subscribed is news: no flag.
    let mut device = world.device("a");
    device.connected(Hello::v5("x")).await;
    device
        .publish(Publish {
            retain: true,
            ..publish("home/1", 0, 0, b"news")
        })
        .await;
    let message = anna.message().await;
    assert_eq!((message.payload.as_str(), message.retain), ("news", false));
    // To a durable session through its queue.
    let mut bert = world.operator("bert");
    bert.connected(Hello::lasting("l")).await;
    bert.subscribe(&[("home/1", 1)]).await;
    let message = bert.message().await;
    assert_eq!(
        (message.payload.as_str(), message.retain, message.qos),
        ("news", true, 0)
    );
}

fn will(topic: &str) -> Will<'_> {
    Will {
        qos: QoS::AtLeastOnce,
        retain: false,
        topic,
        payload: b"gone",
        properties: RawProperties::EMPTY,
    }
}

#[tokio::test]
async fn wills() {
    let world = World::new().await;
    let mut anna = world.operator("anna");
    anna.connected(Hello::v5("l")).await;
    anna.subscribe(&[("home/will", 1)]).await;
    let dying = |client_id| Hello {
        will: Some(will("home/will")),
        ..Hello::v5(client_id)
    };
    let expect = async |happens: bool, anna: &mut Client| {
        if happens {
            let message = anna.message().await;
            assert_eq!(message.payload, "gone");
            anna.ack(AckKind::PubAck, message.id.unwrap()).await;
        } else {
            anna.silence().await;
        }
    };

    let mut device = world.device("a");
    device.connected(dying("x")).await;
    device.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    expect(false, &mut anna).await;

    let mut device = world.device("a");
    device.connected(dying("x")).await;
    device.disconnect(ReasonCode::DisconnectWithWill).await;
    expect(true, &mut anna).await;

    let mut device = world.device("a");
    device.connected(dying("x")).await;
    drop(device);
    expect(true, &mut anna).await;

    // Taken over: the session of the older ends, so its will is published.
    let mut device = world.device("a");
    device.connected(dying("x")).await;
    let mut newer = world.device("a");
    newer.connected(Hello::v5("x")).await;
    expect(true, &mut anna).await;

    // With a delay, and back before it is over: never.
    let mut delay = PropertyBuf::new();
    delay.push(Property::WillDelayInterval(1)).unwrap();
    let delayed = || Hello {
        will: Some(Will {
            properties: delay.as_raw(),
            ..will("home/will")
        }),
        ..Hello::lasting("y")
    };
    let mut device = world.device("a");
    device.connected(delayed()).await;
    drop(device);
    let mut device = world.device("a");
    device.connected(delayed()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    expect(false, &mut anna).await;
    // Not back in time: also when the gateway was restarted meanwhile.
    drop(device);
    drop(anna);
    let world = world.restart().await;
    let mut anna = world.operator("anna");
    anna.connected(Hello::v5("l")).await;
    anna.subscribe(&[("home/will", 1)]).await;
    expect(true, &mut anna).await;

    let mut device = world.device("a");
    let refused = Hello {
        will: Some(will("device/b/data")),
        ..Hello::v5("x")
    };
    assert!(matches!(
        device.hello(refused).await,
        Got::ConnAck {
            reason: ReasonCode::NotAuthorized,
            ..
        }
    ));
}
