//! What MQTT 5 adds: expiry, aliases, packet sizes, what passes through, what is said about errors.

use std::{thread, time::Duration};

use crate::{
    raw::{Connect, byte, first, four, id, properties, publish, text, two, user, will},
    world::World,
};

#[test]
fn request_and_response_pass_through_unaltered() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("sub");
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("req", 2)]);
        let mut old = world.v3("old");
        old.subscribe(&[("req", 2)]);
        for qos in 0..3 {
            let message = publish("req", "x")
                .qos(qos, 1)
                .with(user("z", "1"))
                .with(text(id::CORRELATION_DATA, [0, 1, 255]))
                .with(user("a", ""))
                .with(text(id::RESPONSE_TOPIC, "antwort/ü"))
                .with(byte(id::PAYLOAD_FORMAT, 1))
                .with(user("z", "2"))
                .with(text(id::CONTENT_TYPE, "text/plain"))
                .with(user("", "ü"));
            world.v5("pub").publish(&message);
            let got = raw.take();
            assert_eq!(
                got.property(id::CORRELATION_DATA),
                Some(&[0, 3, 0, 1, 255][..])
            );
            assert_eq!(
                got.property(id::RESPONSE_TOPIC).unwrap()[2..],
                *"antwort/ü".as_bytes()
            );
            assert_eq!(got.property(id::PAYLOAD_FORMAT), Some(&[1][..]));
            assert_eq!(got.property(id::CONTENT_TYPE).unwrap()[2..], *b"text/plain");
            let expected: Vec<_> = properties(&message.raw_properties)
                .into_iter()
                .filter(|(found, _)| *found == id::USER_PROPERTY)
                .map(|(_, value)| value)
                .collect();
            assert_eq!(got.all(id::USER_PROPERTY), expected, "all, in their order");
            assert_eq!(got.properties.len(), 8, "and nothing else");
            assert_eq!(old.take().text(), "x");
        }
        raw.disconnect();
        world.v5("sub").disconnect();
    }
}

#[test]
fn messages_expire_and_say_how_long_they_have_left() {
    let world = World::new();
    let connect = Connect::v5("late").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe(&[("x/#", 1)]);
    raw.disconnect();
    let mut publisher = world.v5("pub");
    let expiring = |topic: &str, seconds: u32| {
        publish(topic, "x")
            .qos(1, 1)
            .with(four(id::MESSAGE_EXPIRY, seconds))
    };
    publisher.publish(&expiring("x/short", 1));
    publisher.publish(&expiring("x/long", 100));
    publisher.publish(&expiring("x/zero", 0));
    publisher.publish(&publish("x/never", "x").qos(1, 1));
    publisher.publish(&expiring("x/kept-short", 1).retain());
    publisher.publish(&expiring("x/kept", 100).retain());
    thread::sleep(Duration::from_millis(2100));
    let left = |got: &crate::raw::Publish| {
        got.property(id::MESSAGE_EXPIRY)
            .map(|value| u32::from_be_bytes(value.try_into().unwrap()))
    };
    let mut raw = world.resume(&connect, true);
    let got = raw.take();
    assert_eq!(got.topic, "x/long");
    assert!((90..=98).contains(&left(&got).unwrap()), "{:?}", left(&got));
    let got = raw.take();
    assert_eq!((got.topic.as_str(), left(&got)), ("x/never", None));
    assert_eq!(raw.take().topic, "x/kept");
    raw.ping();
    let mut raw = world.v5("new");
    raw.subscribe(&[("x/#", 1)]);
    let got = raw.take();
    assert_eq!(got.topic, "x/kept");
    assert!((90..=98).contains(&left(&got).unwrap()));
    raw.ping();
    // Whoever is there gets it with what was sent; and to 3.1.1 it is a message like any other.
    publisher.publish(&expiring("x/now", 100));
    assert!((99..=100).contains(&left(&raw.take()).unwrap()));
}

#[test]
fn a_message_that_was_sent_no_longer_expires() {
    let world = World::new();
    let connect = Connect::v5("begun").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe(&[("b", 2)]);
    let message = publish("b", "x")
        .qos(2, 1)
        .with(four(id::MESSAGE_EXPIRY, 1));
    world.v5("pub").publish(&message);
    let one = raw.expect_publish();
    drop(raw);
    thread::sleep(Duration::from_millis(2100));
    let mut raw = world.resume(&connect, true);
    let again = raw.take();
    assert_eq!((again.id, again.dup), (one.id, true));
    raw.ping();
}

#[test]
fn topic_aliases() {
    let world = World::new();
    let mut raw = world.v5("sub");
    raw.subscribe(&[("alias/#", 1)]);
    let mut publisher = world.v5("pub");
    let alias = |topic: &str, alias: u16| {
        publish(topic, topic)
            .qos(1, 1)
            .with(two(id::TOPIC_ALIAS, alias))
    };
    for (topic, number, expected) in [
        ("alias/a", 1, "alias/a"),
        ("", 1, "alias/a"),
        ("alias/b", 16, "alias/b"),
        ("", 16, "alias/b"),
        ("", 1, "alias/a"),
        ("alias/c", 1, "alias/c"),
        ("", 1, "alias/c"),
    ] {
        assert_eq!(publisher.publish(&alias(topic, number)), 0);
        let got = raw.take();
        assert_eq!(got.topic, expected);
        assert_eq!(
            got.property(id::TOPIC_ALIAS),
            None,
            "not the publisher's business"
        );
    }
    publisher.send(alias("", 2).bytes(true));
    publisher.expect_end(0x82);
    for number in [17, 65_535] {
        let mut publisher = world.v5("pub");
        publisher.send(alias("alias/a", number).bytes(true));
        publisher.expect_end(0x94);
    }
    // A new connection knows none, even of the same session.
    let connect = Connect::v5("again").durable();
    let mut publisher = world.connect(&connect);
    publisher.publish(&alias("alias/a", 1));
    drop(publisher);
    let mut publisher = world.resume(&connect, true);
    publisher.send(alias("", 1).bytes(true));
    publisher.expect_end(0x82);
    world.assert_unharmed();
}

#[test]
fn aliases_are_sent_only_to_who_takes_them() {
    let world = World::new();
    for maximum in [None, Some(0), Some(3)] {
        let mut connect = Connect::v5("taker");
        if let Some(maximum) = maximum {
            connect = connect.with(two(id::TOPIC_ALIAS_MAXIMUM, maximum));
        }
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("t/#", 0)]);
        let mut publisher = world.v5("pub");
        for at in 0..10 {
            publisher.publish(&publish(&format!("t/{}", at % 5), "x").qos(1, 1));
            let got = raw.take();
            if let Some(alias) = got.property(id::TOPIC_ALIAS) {
                let alias = u16::from_be_bytes(alias.try_into().unwrap());
                assert!(alias > 0 && alias <= maximum.unwrap_or(0));
            } else {
                assert_eq!(got.topic, format!("t/{}", at % 5));
            }
        }
    }
}

#[test]
fn what_is_larger_than_the_subscriber_takes_is_left_out() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("small")
            .with(four(id::MAXIMUM_PACKET, 60))
            .with(two(id::RECEIVE_MAXIMUM, 1));
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("p", 2)]);
        let mut big = world.v5("big");
        big.subscribe(&[("p", 2)]);
        let mut publisher = world.v5("pub");
        for qos in 0..3 {
            publisher.publish(&publish("p", &"x".repeat(60)).qos(qos, 1));
            publisher.publish(&publish("p", "fits").qos(qos, 1));
            assert_eq!(
                raw.take().text(),
                "fits",
                "as if the other had been delivered"
            );
            assert_eq!(big.take().payload.len(), 60);
            assert_eq!(big.take().text(), "fits");
        }
        // Exactly as many bytes as it takes.
        let message = publish("p", &"y".repeat(60 - 2 - 3 - 1));
        assert_eq!(message.bytes(true).len(), 60);
        publisher.send(message.bytes(true));
        assert_eq!(raw.take().payload.len(), 54);
        raw.ping();
        drop(raw);
        world.v5("small").disconnect();
    }
}

#[test]
fn what_is_said_about_errors_gives_way_to_the_maximum_packet_size() {
    let world = World::new();
    // CONNACK: without the reason string; DISCONNECT and PUBACK as well.
    let connect = Connect::v5("tiny").with(four(id::MAXIMUM_PACKET, 12));
    let mut raw = world.dial();
    raw.send(connect.clone().with(text(id::AUTH_METHOD, "x")).bytes());
    let connack = raw.connack();
    assert_eq!(
        (connack.reason, connack.property(id::REASON_STRING)),
        (0x8C, None)
    );
    let mut raw = world.connect(&connect);
    for (qos, answer) in [(1, first::PUBACK), (2, first::PUBREC)] {
        raw.send(publish("$no", "x").qos(qos, 5).bytes(true));
        let seen = raw.next().unwrap();
        assert_eq!((seen.first, seen.body[2]), (answer, 0x87));
        assert!(seen.body.len() + 2 <= 12);
    }
    raw.send([first::SUBACK, 0]);
    let seen = raw.next().unwrap();
    assert_eq!(seen.first, first::DISCONNECT);
    assert!(seen.body.len() + 2 <= 12);
    raw.expect_closed();
}

#[test]
fn reason_strings_only_for_who_wants_them() {
    let world = World::new();
    for wanted in [None, Some(1), Some(0)] {
        let mut connect = Connect::v5("why");
        if let Some(wanted) = wanted {
            connect = connect.with(byte(id::REQUEST_PROBLEM, wanted));
        }
        let mut raw = world.connect(&connect);
        raw.send(publish("$no", "x").qos(1, 5).bytes(true));
        let seen = raw.next().unwrap();
        assert_eq!((seen.first, seen.body[2]), (first::PUBACK, 0x87));
        let sent = seen.body.get(4..).map(properties).unwrap_or_default();
        let found = sent.iter().any(|(found, _)| *found == id::REASON_STRING);
        assert_eq!(found, wanted != Some(0));
        // With a message, user properties are the message's own: they pass.
        raw.subscribe(&[("m", 0)]);
        world
            .v5("pub")
            .publish(&publish("m", "x").with(user("a", "b")));
        assert_eq!(raw.take().all(id::USER_PROPERTY).len(), 1);
        // CONNACK and DISCONNECT may always say why.
        raw.send([first::AUTH, 2, 0x19, 0]);
        raw.expect_end(0x82);
    }
}

#[test]
fn user_properties_are_taken_wherever_they_may_be() {
    let world = World::new();
    let names = [user("a", "1"), user("a", "1"), user("", "")].concat();
    let will = crate::raw::Will {
        properties: names.clone(),
        ..will("w", "x")
    };
    let mut raw = world.connect(&Connect::v5("user").with(&names).will(will));
    raw.subscribe_with(&names, &[("u", 0)]);
    raw.send(publish("u", "x").with(&names).bytes(true));
    assert_eq!(raw.take().all(id::USER_PROPERTY).len(), 3);
    raw.ping();
    let body = [vec![0], crate::raw::section(&names)].concat();
    raw.send(crate::raw::packet(first::DISCONNECT, &body));
    raw.expect_closed();
}

#[test]
fn an_expired_qos_2_message_still_completes_its_flow() {
    let world = World::new();
    let connect = Connect::v5("slow").durable();
    let mut publisher = world.connect(&connect);
    let message = publish("gone", "x")
        .qos(2, 9)
        .with(four(id::MESSAGE_EXPIRY, 1));
    publisher.send(message.bytes(true));
    assert_eq!(publisher.expect_ack(first::PUBREC, 9), 0);
    drop(publisher);
    thread::sleep(Duration::from_millis(1500));
    let mut publisher = world.resume(&connect, true);
    publisher.send(message.dup().bytes(true));
    assert_eq!(publisher.expect_ack(first::PUBREC, 9), 0);
    publisher.send(crate::raw::ack(first::PUBREL, 9));
    assert_eq!(publisher.expect_ack(first::PUBCOMP, 9), 0);
}
