//! SUBSCRIBE and UNSUBSCRIBE and what they lead to (3.8 to 3.11, 4.8).

use crate::{
    raw::{Connect, Raw, ack, first, id, packet, publish, subscribe, subscription_id, unsubscribe},
    support::mqtt::tls_config,
    world::World,
};

const NO_LOCAL: u8 = 4;

#[test]
fn each_filter_gets_its_code_in_its_place() {
    let world = World::new();
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    for connect in [Connect::v3("d"), Connect::v5("d")] {
        let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
        raw.v5 = connect.v5;
        raw.send(connect.bytes());
        raw.connack();
        let codes = raw.subscribe(&[
            ("home/a", 2),
            ("device/other/data", 1),
            ("home/#", 0),
            ("#", 0),
            ("$share/g/home/a", 1),
            ("device/sensor/response", 1),
        ]);
        let expected = match connect.v5 {
            true => [2, 0x87, 0, 0x87, 0x9E, 1],
            false => [2, 0x80, 0, 0x80, 0x80, 1],
        };
        assert_eq!(codes, expected);
    }
}

#[test]
fn answers_carry_the_identifier_of_the_question() {
    let world = World::new();
    for mut raw in world.both("id") {
        let v5 = raw.v5;
        for id in [1, 255, 256, 65_535] {
            raw.send(subscribe(v5, id, &[], &[("a", 0), ("b", 1)]));
            let seen = raw.next().unwrap();
            let mut body = id.to_be_bytes().to_vec();
            if v5 {
                body.push(0);
            }
            assert_eq!(
                packet(seen.first, &seen.body),
                packet(first::SUBACK, &[body.clone(), vec![0, 1]].concat())
            );
            raw.send(unsubscribe(v5, id, &["a", "nothing"]));
            if v5 {
                body.extend([0, 0x11]);
            }
            // Answered even where nothing was subscribed to.
            raw.expect(&packet(first::UNSUBACK, &body));
        }
    }
}

#[test]
fn the_same_filter_again_replaces_the_subscription() {
    let world = World::new();
    for mut raw in world.both("replace") {
        assert_eq!(raw.subscribe(&[("same/+", 0)]), [0]);
        assert_eq!(raw.subscribe(&[("same/+", 2)]), [2]);
        let mut publisher = world.v5("pub");
        publisher.publish(&publish("same/a", "one").qos(2, 1));
        let got = raw.take();
        assert_eq!((got.text().as_str(), got.qos), ("one", 2));
        assert_eq!(raw.subscribe(&[("same/+", 0)]), [0]);
        publisher.publish(&publish("same/a", "two").qos(2, 1));
        let got = raw.take();
        assert_eq!(
            (got.text().as_str(), got.qos),
            ("two", 0),
            "once, at the new quality"
        );
        assert_eq!(
            raw.unsubscribe(&["same/+"]).first().copied().unwrap_or(0),
            0
        );
        publisher.publish(&publish("same/a", "three").qos(1, 1));
        raw.subscribe(&[("marker", 1)]);
        publisher.publish(&publish("marker", "m").qos(1, 1));
        assert_eq!(raw.take().text(), "m", "one removal removes it");
    }
}

#[test]
fn one_packet_is_as_good_as_several() {
    let world = World::new();
    for mut raw in world.both("several") {
        // The same filter twice in one packet: the later counts.
        let codes = raw.subscribe(&[("s/a", 2), ("s/b", 1), ("s/a", 0)]);
        assert_eq!(codes, [2, 1, 0]);
        let mut publisher = world.v5("pub");
        publisher.publish(&publish("s/a", "x").qos(2, 1));
        assert_eq!(raw.take().qos, 0);
        publisher.publish(&publish("s/b", "x").qos(2, 1));
        assert_eq!(raw.take().qos, 1);
        let codes = raw.unsubscribe(&["s/a", "s/b", "s/a"]);
        if raw.v5 {
            assert_eq!(codes, [0, 0, 0x11]);
        }
        publisher.publish(&publish("s/a", "x").qos(2, 1));
        raw.subscribe(&[("marker", 1)]);
        publisher.publish(&publish("marker", "m").qos(1, 1));
        assert_eq!(raw.take().text(), "m");
    }
}

#[test]
fn overlapping_subscriptions_make_one_message_at_the_highest_quality() {
    let world = World::new();
    for mut raw in world.both("overlap") {
        raw.subscribe(&[("o/#", 0), ("o/+", 2), ("o/a", 1)]);
        let mut publisher = world.v5("pub");
        publisher.publish(&publish("o/a", "x").qos(2, 1));
        assert_eq!(raw.take().qos, 2);
        publisher.publish(&publish("o/a/b", "y").qos(2, 1));
        let got = raw.take();
        assert_eq!((got.text().as_str(), got.qos), ("y", 0));
    }
}

#[test]
fn subscription_identifiers_name_every_subscription_that_matched() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("ids");
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        world
            .v5("pub")
            .publish(&publish("i/r", "kept").qos(1, 1).retain());
        let number = |value: &[u8]| {
            value
                .iter()
                .rev()
                .fold(0_usize, |sum, byte| sum << 7 | usize::from(byte & 0x7F))
        };
        raw.subscribe_with(&subscription_id(1), &[("i/+", 1)]);
        let got = raw.take();
        assert_eq!(
            got.all(id::SUBSCRIPTION_ID),
            [[1]],
            "retained messages as well"
        );
        raw.subscribe_with(&subscription_id(268_435_455), &[("i/#", 0)]);
        raw.take();
        raw.subscribe(&[("i/a", 2)]);
        for qos in 0..3 {
            world.v5("pub").publish(&publish("i/a", "x").qos(qos, 1));
            let got = raw.take();
            let mut found: Vec<_> = got
                .all(id::SUBSCRIPTION_ID)
                .into_iter()
                .map(number)
                .collect();
            found.sort_unstable();
            assert_eq!(found, [1, 268_435_455]);
        }
        // A subscription made again without one has none.
        raw.subscribe(&[("i/+", 1), ("i/#", 0)]);
        while raw
            .next_within(std::time::Duration::from_millis(300))
            .is_ok()
        {}
        world.v5("pub").publish(&publish("i/a", "x"));
        assert!(raw.take().all(id::SUBSCRIPTION_ID).is_empty());
        world.v5("ids").publish(&publish("i/r", "").retain());
    }
}

#[test]
fn subscription_identifiers_survive_the_connection() {
    let mut world = World::new();
    let connect = Connect::v5("ids").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe_with(&subscription_id(77), &[("i/+", 1)]);
    raw.disconnect();
    world.v5("pub").publish(&publish("i/a", "away").qos(1, 1));
    world.restart();
    let mut raw = world.resume(&connect, true);
    assert_eq!(raw.take().all(id::SUBSCRIPTION_ID), [[77]]);
    world.v5("pub").publish(&publish("i/a", "back").qos(1, 1));
    assert_eq!(raw.take().all(id::SUBSCRIPTION_ID), [[77]]);
}

#[test]
fn no_local_keeps_own_messages_away() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("own");
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("l/a", 1 | NO_LOCAL), ("l/b", 1)]);
        for qos in 0..3 {
            raw.publish(&publish("l/a", "own").qos(qos, 1));
            world
                .v5("other")
                .publish(&publish("l/a", "others").qos(qos, 1));
            assert_eq!(raw.take().text(), "others");
            raw.send(publish("l/b", "own").qos(0, 1).bytes(true));
            assert_eq!(raw.take().text(), "own");
        }
        raw.unsubscribe(&["l/a", "l/b"]);
        raw.disconnect();
        world.v5("own").disconnect();
    }
}

#[test]
fn shared_subscriptions_are_refused_by_name() {
    let world = World::new();
    let (mut raw, connack) = world.answer(&Connect::v5("shared"));
    assert_eq!(connack.property(id::SHARED_AVAILABLE), Some(&[0][..]));
    assert_eq!(raw.subscribe(&[("$share/group/a", 1)]), [0x9E]);
    world.v5("pub").publish(&publish("a", "x").qos(1, 1));
    raw.ping();
    let mut raw = world.v3("shared");
    assert_eq!(raw.subscribe(&[("$share/group/a", 1)]), [0x80]);
}

#[test]
fn unsubscribing_stops_new_messages_and_finishes_old_ones() {
    let world = World::new();
    for v5 in [false, true] {
        let connect = if v5 {
            Connect::v5("u5")
        } else {
            Connect::v3("u3")
        }
        .durable();
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("u/+", 2), ("marker", 1)]);
        let mut publisher = world.v5("pub");
        publisher.publish(&publish("u/a", "begun").qos(2, 1));
        let begun = raw.expect_publish().id.unwrap();
        // Compared character by character: neither of these is the one.
        raw.unsubscribe(&["u/a", "u/#", "U/+"]);
        publisher.publish(&publish("u/a", "still").qos(1, 1));
        assert_eq!(raw.take().text(), "still");
        raw.unsubscribe(&["u/+"]);
        publisher.publish(&publish("u/a", "no more").qos(1, 1));
        publisher.publish(&publish("marker", "m").qos(1, 1));
        assert_eq!(raw.take().text(), "m");
        raw.send(ack(first::PUBREC, begun));
        assert_eq!(raw.expect_ack(first::PUBREL, begun), 0);
        raw.send(ack(first::PUBCOMP, begun));
        raw.disconnect();
        // Away as well.
        publisher.publish(&publish("u/a", "no more").qos(1, 1));
        world.resume(&connect, true).ping();
    }
}

#[test]
fn more_filters_than_allowed_are_refused_one_by_one() {
    let world = World::with("subscriptions = 3");
    let mut raw = world.v5("many");
    let codes = raw.subscribe(&[("m/1", 0), ("m/2", 0), ("m/3", 0), ("m/4", 0), ("m/1", 1)]);
    assert_eq!(codes, [0, 0, 0, 0x97, 1]);
    raw.unsubscribe(&["m/2"]);
    assert_eq!(raw.subscribe(&[("m/4", 0)]), [0]);
}
