//! PUBLISH and its flows, both ways: QoS 0, 1, 2, identifiers, order, windows (3.3 to 3.7, 4.3 to
//! 4.6, 4.9).

use crate::{
    raw::{Connect, Raw, ack, first, id, packet, publish, two},
    support::{envelope, mqtt::tls_config},
    world::World,
};

#[test]
fn each_quality_of_service_has_its_answer() {
    let world = World::new();
    for mut raw in world.both("qos") {
        raw.send(publish("q/0", "x").bytes(raw.v5));
        raw.ping();
        raw.send(publish("q/1", "x").qos(1, 65_535).bytes(raw.v5));
        assert_eq!(raw.expect_ack(first::PUBACK, 65_535), 0);
        raw.send(publish("q/2", "x").qos(2, 7).bytes(raw.v5));
        assert_eq!(raw.expect_ack(first::PUBREC, 7), 0);
        raw.send(ack(first::PUBREL, 7));
        assert_eq!(raw.expect_ack(first::PUBCOMP, 7), 0);
        raw.ping();
    }
}

#[test]
fn messages_arrive_at_the_lower_of_both_qualities() {
    let world = World::new();
    for mut subscriber in world.both("sub") {
        let codes = subscriber.subscribe(&[("g/0", 0), ("g/1", 1), ("g/2", 2)]);
        assert_eq!(codes, [0, 1, 2], "granted as asked");
        for mut publisher in world.both("pub") {
            for sent in 0..3 {
                for granted in 0..3 {
                    let message = publish(&format!("g/{granted}"), "x").qos(sent, 9);
                    publisher.publish(&message);
                    let got = subscriber.take();
                    assert_eq!(got.qos, sent.min(granted), "{sent} to {granted}");
                    assert_eq!((&got.topic, got.text()), (&message.topic, "x".into()));
                    assert!(!got.dup, "a new message is not a duplicate");
                }
            }
        }
    }
}

#[test]
fn dup_is_not_passed_on() {
    let world = World::new();
    for mut subscriber in world.both("sub") {
        subscriber.subscribe(&[("d", 2)]);
        let mut publisher = world.v5("pub");
        for qos in [1, 2] {
            publisher.publish(&publish("d", "x").qos(qos, 3).dup());
            assert!(!subscriber.take().dup);
        }
    }
}

#[test]
fn an_identifier_that_was_acknowledged_is_a_new_message() {
    let world = World::new();
    let mut subscriber = world.v5("sub");
    subscriber.subscribe(&[("n", 2)]);
    for mut publisher in world.both("pub") {
        for qos in [1, 2] {
            for text in ["one", "two", "three"] {
                // With DUP or without: after PUBACK or PUBCOMP nothing is remembered.
                let message = publish("n", text).qos(qos, 5);
                let message = if text == "two" {
                    message.dup()
                } else {
                    message
                };
                publisher.publish(&message);
                assert_eq!(subscriber.take().text(), text);
            }
        }
    }
}

#[test]
fn qos_2_is_delivered_once_until_it_is_released() {
    let world = World::new();
    let mut subscriber = world.v5("sub");
    subscriber.subscribe(&[("once", 2)]);
    for mut publisher in world.both("pub") {
        let v5 = publisher.v5;
        let message = publish("once", "x").qos(2, 11);
        for _ in 0..3 {
            publisher.send(message.clone().dup().bytes(v5));
            assert_eq!(publisher.expect_ack(first::PUBREC, 11), 0);
        }
        publisher.send(ack(first::PUBREL, 11));
        assert_eq!(publisher.expect_ack(first::PUBCOMP, 11), 0);
        publisher.publish(&publish("once", "marker").qos(2, 12));
        assert_eq!(subscriber.take().text(), "x");
        assert_eq!(subscriber.take().text(), "marker");
    }
}

#[test]
fn qos_2_is_delivered_once_across_connections_and_restarts() {
    let mut world = World::new();
    for v5 in [false, true] {
        let mut subscriber = world.v5("sub");
        subscriber.subscribe(&[("once", 2)]);
        let connect = if v5 {
            Connect::v5("p5")
        } else {
            Connect::v3("p3")
        }
        .durable();
        let message = publish("once", "x").qos(2, 11);
        let mut publisher = world.resume(&connect, false);
        publisher.send(message.bytes(v5));
        assert_eq!(publisher.expect_ack(first::PUBREC, 11), 0);
        assert_eq!(subscriber.take().text(), "x");
        drop(publisher);
        // The answer may have been lost: it is sent again, over a new connection ...
        let mut publisher = world.resume(&connect, true);
        publisher.send(message.clone().dup().bytes(v5));
        assert_eq!(publisher.expect_ack(first::PUBREC, 11), 0);
        drop(publisher);
        drop(subscriber);
        // ... and to a gateway whose plug was pulled.
        world.crash();
        let mut subscriber = world.v5("sub");
        subscriber.subscribe(&[("once", 2)]);
        let mut publisher = world.resume(&connect, true);
        publisher.send(message.clone().dup().bytes(v5));
        assert_eq!(publisher.expect_ack(first::PUBREC, 11), 0);
        publisher.send(ack(first::PUBREL, 11));
        assert_eq!(publisher.expect_ack(first::PUBCOMP, 11), 0);
        publisher.publish(&publish("once", "new").qos(2, 11));
        assert_eq!(subscriber.take().text(), "new", "not the old one again");
    }
}

#[test]
fn a_clean_start_forgets_what_was_not_released() {
    let world = World::new();
    let mut subscriber = world.v5("sub");
    subscriber.subscribe(&[("once", 2)]);
    let connect = Connect::v5("p").durable();
    let message = publish("once", "x").qos(2, 11);
    let mut publisher = world.connect(&connect);
    publisher.send(message.bytes(true));
    publisher.expect_ack(first::PUBREC, 11);
    assert_eq!(subscriber.take().text(), "x");
    drop(publisher);
    let mut publisher = world.resume(&connect.clean(true), false);
    publisher.publish(&message);
    assert_eq!(
        subscriber.take().text(),
        "x",
        "a new session, a new message"
    );
}

#[test]
fn acknowledgements_nobody_waits_for() {
    let world = World::new();
    for mut raw in world.both("stray") {
        raw.send(ack(first::PUBREL, 99));
        let reason = raw.expect_ack(first::PUBCOMP, 99);
        assert_eq!(reason, if raw.v5 { 0x92 } else { 0 });
        raw.send(ack(first::PUBREC, 98));
        let reason = raw.expect_ack(first::PUBREL, 98);
        assert_eq!(reason, if raw.v5 { 0x92 } else { 0 });
        raw.send(ack(first::PUBACK, 97));
        raw.send(ack(first::PUBCOMP, 96));
        raw.ping();
    }
    world.assert_unharmed();
}

#[test]
fn the_wrong_acknowledgement_finishes_nothing() {
    let world = World::new();
    let connect = Connect::v5("sub")
        .durable()
        .with(two(id::RECEIVE_MAXIMUM, 1));
    let mut subscriber = world.connect(&connect);
    subscriber.subscribe(&[("w", 2)]);
    let mut publisher = world.v5("pub");
    publisher.publish(&publish("w", "first").qos(2, 1));
    publisher.publish(&publish("w", "second").qos(1, 1));
    let message = subscriber.expect_publish();
    let id = message.id.unwrap();
    subscriber.send(ack(first::PUBACK, id));
    subscriber.send(ack(first::PUBCOMP, id));
    subscriber.ping();
    // Still in flight, so the second waits; then in its way.
    subscriber.send(ack(first::PUBREC, id));
    assert_eq!(subscriber.expect_ack(first::PUBREL, id), 0);
    subscriber.ping();
    subscriber.send(ack(first::PUBCOMP, id));
    assert_eq!(subscriber.take().text(), "second");
}

#[test]
fn unacknowledged_messages_are_sent_again_in_their_order_and_only_on_a_new_connection() {
    let world = World::new();
    for v5 in [false, true] {
        let connect = if v5 {
            Connect::v5("s5")
        } else {
            Connect::v3("s3")
        }
        .durable();
        let mut subscriber = world.connect(&connect);
        subscriber.subscribe(&[("again/#", 2)]);
        let mut publisher = world.v5("pub");
        for (at, qos) in [1, 2, 1, 2].into_iter().enumerate() {
            publisher.publish(&publish(&format!("again/{at}"), "x").qos(qos, 1));
        }
        let sent: Vec<_> = (0..4).map(|_| subscriber.expect_publish()).collect();
        assert!(sent.iter().all(|message| !message.dup));
        let mut ids: Vec<_> = sent.iter().map(|message| message.id.unwrap()).collect();
        // The second is received: from now on its release is what counts.
        subscriber.send(ack(first::PUBREC, ids[1]));
        assert_eq!(subscriber.expect_ack(first::PUBREL, ids[1]), 0);
        std::thread::sleep(std::time::Duration::from_millis(300));
        subscriber.ping();
        drop(subscriber);
        let mut subscriber = world.resume(&connect, true);
        for (at, before) in sent.iter().enumerate() {
            if at == 1 {
                assert_eq!(subscriber.expect_ack(first::PUBREL, ids[1]), 0);
                continue;
            }
            let after = subscriber.expect_publish();
            assert_eq!((after.id, &after.topic), (before.id, &before.topic));
            assert!(after.dup, "sent before");
        }
        subscriber.send(ack(first::PUBCOMP, ids[1]));
        subscriber.send(ack(first::PUBACK, ids[0]));
        subscriber.send(ack(first::PUBACK, ids[2]));
        subscriber.send(ack(first::PUBREC, ids[3]));
        assert_eq!(subscriber.expect_ack(first::PUBREL, ids[3]), 0);
        subscriber.send(ack(first::PUBCOMP, ids[3]));
        subscriber.ping();
        drop(subscriber);
        let mut subscriber = world.resume(&connect, true);
        subscriber.ping();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4, "each had its own identifier");
    }
}

#[test]
fn a_refusal_by_the_subscriber_ends_the_flow() {
    let world = World::new();
    let connect = Connect::v5("sub").durable();
    let mut subscriber = world.connect(&connect);
    subscriber.subscribe(&[("r", 2)]);
    let mut publisher = world.v5("pub");
    publisher.publish(&publish("r", "a").qos(1, 1));
    publisher.publish(&publish("r", "b").qos(2, 1));
    for answer in [first::PUBACK, first::PUBREC] {
        let id = subscriber.expect_publish().id.unwrap().to_be_bytes();
        subscriber.send(packet(answer, &[id[0], id[1], 0x80]));
    }
    subscriber.ping();
    drop(subscriber);
    world.resume(&connect, true).ping();
}

#[test]
fn order_is_kept_per_topic_and_quality() {
    let world = World::new();
    for mut subscriber in world.both("sub") {
        subscriber.subscribe(&[("o/#", 2)]);
        let mut publisher = world.v5("pub");
        for qos in 0..3 {
            let count = 40;
            for at in 0..count {
                let message = publish("o/x", &at.to_string()).qos(qos, at + 1);
                publisher.send(message.bytes(true));
            }
            // Acknowledgements in the order of what they acknowledge.
            for at in 0..count {
                match qos {
                    1 => assert_eq!(publisher.expect_ack(first::PUBACK, at + 1), 0),
                    2 => assert_eq!(publisher.expect_ack(first::PUBREC, at + 1), 0),
                    _ => {}
                }
            }
            if qos == 2 {
                for at in 0..count {
                    publisher.send(ack(first::PUBREL, at + 1));
                }
                for at in 0..count {
                    assert_eq!(publisher.expect_ack(first::PUBCOMP, at + 1), 0);
                }
            }
            let mut pending = Vec::new();
            for at in 0..count {
                let message = subscriber.expect_publish();
                assert_eq!(message.text(), at.to_string());
                pending.extend(message.id);
            }
            let (answer, release) = match qos {
                1 => (first::PUBACK, false),
                _ => (first::PUBREC, true),
            };
            for id in &pending {
                subscriber.send(ack(answer, *id));
            }
            if release {
                // PUBREL in the order of PUBREC.
                for id in &pending {
                    assert_eq!(subscriber.expect_ack(first::PUBREL, *id), 0);
                    subscriber.send(ack(first::PUBCOMP, *id));
                }
            }
            subscriber.ping();
        }
    }
}

#[test]
fn the_receive_maximum_of_a_subscriber_is_kept() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("sub").with(two(id::RECEIVE_MAXIMUM, 2));
        let connect = if durable { connect.durable() } else { connect };
        let mut subscriber = world.connect(&connect);
        subscriber.subscribe(&[("m", 2)]);
        let mut publisher = world.v5("pub");
        for at in 0..5 {
            let qos = if at % 2 == 0 { 1 } else { 2 };
            publisher.publish(&publish("m", &at.to_string()).qos(qos, 1));
        }
        let one = subscriber.expect_publish();
        let two = subscriber.expect_publish();
        std::thread::sleep(std::time::Duration::from_millis(300));
        // Two are out; everything else goes on.
        subscriber.ping();
        assert_eq!(subscriber.subscribe(&[("other", 0)]), [0]);
        subscriber.send(ack(first::PUBACK, one.id.unwrap()));
        let three = subscriber.expect_publish();
        // PUBREC does not give the place back, PUBCOMP does.
        let second = two.id.unwrap();
        subscriber.send(ack(first::PUBREC, second));
        assert_eq!(subscriber.expect_ack(first::PUBREL, second), 0);
        subscriber.ping();
        subscriber.send(ack(first::PUBCOMP, second));
        assert_eq!(subscriber.expect_publish().text(), "3");
        assert_eq!(three.text(), "2");
        subscriber.ping();
        drop(subscriber);
        world.connect(&Connect::v5("sub")).disconnect();
    }
}

#[test]
fn more_than_our_receive_maximum_ends_the_connection() {
    let world = World::with("in_flight = 4");
    let (mut raw, connack) = world.answer(&Connect::v5("greedy"));
    assert_eq!(connack.property(id::RECEIVE_MAXIMUM), Some(&[0, 4][..]));
    for at in 1..=4 {
        raw.send(publish("g", "x").qos(2, at).bytes(true));
        assert_eq!(raw.expect_ack(first::PUBREC, at), 0);
    }
    // QoS 0 does not count, and every other packet is answered.
    raw.send(publish("g", "x").bytes(true));
    raw.ping();
    raw.send(ack(first::PUBREL, 1));
    raw.expect_ack(first::PUBCOMP, 1);
    assert_eq!(
        raw.publish(&publish("g", "x").qos(1, 9)),
        0,
        "a place is free"
    );
    raw.send(publish("g", "x").qos(2, 5).bytes(true));
    raw.expect_ack(first::PUBREC, 5);
    raw.send(publish("g", "x").qos(2, 6).bytes(true));
    raw.expect_end(0x93);
}

#[test]
fn what_may_not_be_published_is_answered_and_goes_nowhere() {
    let world = World::new();
    let mut watcher = world.v5("watcher");
    watcher.subscribe(&[("#", 2)]);
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    let others = [
        "device/other/data",
        "device/sensor/command",
        "elsewhere",
        "$SYS/a",
    ];
    for connect in [Connect::v3("d"), Connect::v5("d")] {
        let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
        raw.v5 = connect.v5;
        raw.send(connect.bytes());
        raw.connack();
        for topic in others {
            for qos in [1, 2] {
                // MQTT 5 says so; 3.1.1 has no word for it, and the flow ends as usual.
                let reason = raw.publish(&publish(topic, "x").qos(qos, 3));
                assert_eq!(reason, if connect.v5 { 0x87 } else { 0 }, "{topic}");
            }
        }
        // A place in the window was not lost.
        raw.ping();
    }
    let mut operator = world.v5("pub");
    for topic in ["device/sensor/data", "$SYS/a", "$x"] {
        assert_eq!(operator.publish(&publish(topic, "x").qos(1, 1)), 0x87);
    }
    operator.publish(&publish("marker", "x").qos(1, 1));
    assert_eq!(watcher.take().topic, "marker");
}

#[test]
fn a_refused_qos_2_identifier_is_free_at_once() {
    let world = World::new();
    let mut subscriber = world.v5("sub");
    subscriber.subscribe(&[("free", 2)]);
    let mut raw = world.v5("pub");
    assert_eq!(raw.publish(&publish("$SYS/no", "x").qos(2, 8)), 0x87);
    assert_eq!(raw.publish(&publish("free", "x").qos(2, 8)), 0);
    assert_eq!(subscriber.take().text(), "x");
}

#[test]
fn contract_topics_keep_to_the_same_flows() {
    let world = World::new();
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    let mut watcher = world.v5("watcher");
    watcher.subscribe(&[("device/#", 0)]);
    for connect in [Connect::v3("d"), Connect::v5("d")] {
        let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
        raw.v5 = connect.v5;
        raw.send(connect.bytes());
        raw.connack();
        for qos in 0..3 {
            let text = envelope("sensor", "{}");
            assert_eq!(
                raw.publish(&publish("device/sensor/data", &text).qos(qos, 21)),
                0
            );
            assert_eq!(watcher.take().text(), text, "a copy for who may look on");
        }
        // QoS 2, sent again before its release: taken once.
        let text = envelope("sensor", "{}");
        let message = publish("device/sensor/data", &text).qos(2, 22);
        for _ in 0..2 {
            raw.send(message.clone().bytes(connect.v5));
            assert_eq!(raw.expect_ack(first::PUBREC, 22), 0);
        }
        raw.send(ack(first::PUBREL, 22));
        assert_eq!(raw.expect_ack(first::PUBCOMP, 22), 0);
        assert_eq!(watcher.take().text(), text);
        // A rejected one is acknowledged, with its reason where there is a word for it.
        let reason = raw.publish(&publish("device/sensor/data", "nonsense").qos(1, 23));
        assert_eq!(reason >= 0x80, connect.v5, "{reason:#x}");
        raw.ping();
    }
}
