//! Packets that break a rule: each ends its connection, says why in MQTT 5, and harms nobody else.

use crate::{
    raw::{
        ack, byte, data, first, four, id, packet, publish, section, subscribe, subscription_id,
        text, two, unsubscribe, user,
    },
    world::World,
};

struct Case(&'static str, Vec<u8>, u8);

fn run(world: &World, v5: bool, cases: Vec<Case>) {
    let mut watcher = world.v5("watcher");
    watcher.subscribe(&[("bad/#", 2)]);
    for (at, Case(what, bytes, reason)) in cases.into_iter().enumerate() {
        println!("{what}");
        let name = format!("case-{v5}-{at}");
        let mut raw = if v5 { world.v5(&name) } else { world.v3(&name) };
        raw.send(bytes);
        raw.expect_end(reason);
    }
    world.v5("p").publish(&publish("bad/marker", "m").qos(1, 1));
    let first = watcher.take();
    assert_eq!(first.topic, "bad/marker", "nothing of them was passed on");
    world.assert_unharmed();
}

fn with_id(id: u16, rest: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes(), rest].concat()
}

/// What is wrong in both versions, and what MQTT 5 says about it.
fn common(v5: bool) -> Vec<Case> {
    let none: &[u8] = if v5 { &[0] } else { &[] };
    let body = |topic: &[u8], id: &[u8]| [&data(topic), id, none, b"x"].concat();
    let mut cases = vec![
        Case("type 0", vec![0, 0], 0x81),
        Case("QoS 3", packet(0x36, &body(b"bad/a", &[0, 1])), 0x81),
        Case("DUP with QoS 0", packet(0x38, &body(b"bad/a", b"")), 0x81),
        Case(
            "QoS 1 with packet id 0",
            packet(0x32, &body(b"bad/a", &[0, 0])),
            0x81,
        ),
        Case(
            "QoS 2 with packet id 0",
            packet(0x34, &body(b"bad/a", &[0, 0])),
            0x81,
        ),
        Case(
            "a `+` in the topic",
            packet(0x30, &body(b"bad/+", b"")),
            0x90,
        ),
        Case(
            "a `#` in the topic",
            packet(0x30, &body(b"bad/#", b"")),
            0x90,
        ),
        Case("a topic cut short", packet(0x30, &[0, 9, b'a']), 0x81),
        Case(
            "a surrogate in the topic",
            packet(0x30, &body(b"bad/\xED\xA0\x80", b"")),
            0x81,
        ),
        Case(
            "NUL in the topic",
            packet(0x30, &body(b"bad/\0", b"")),
            0x81,
        ),
        Case(
            "overlong UTF-8 in the topic",
            packet(0x30, &body(b"bad/\xC0\xAF", b"")),
            0x81,
        ),
        Case("PUBREL with flags 0", packet(0x60, &[0, 1]), 0x81),
        Case("PUBREL with flags 3", packet(0x63, &[0, 1]), 0x81),
        Case("PUBACK with flags", packet(0x42, &[0, 1]), 0x81),
        Case("PUBACK for packet id 0", ack(first::PUBACK, 0), 0x81),
        Case("PUBREC for packet id 0", ack(first::PUBREC, 0), 0x81),
        Case("PUBREL for packet id 0", ack(first::PUBREL, 0), 0x81),
        Case("PUBCOMP for packet id 0", ack(first::PUBCOMP, 0), 0x81),
        Case(
            "SUBSCRIBE with packet id 0",
            subscribe(v5, 0, &[], &[("bad/a", 0)]),
            0x81,
        ),
        Case("an empty SUBSCRIBE", subscribe(v5, 1, &[], &[]), 0x82),
        Case(
            "QoS 3 in SUBSCRIBE",
            subscribe(v5, 1, &[], &[("bad/a", 3)]),
            0x82,
        ),
        Case(
            "bit 6 in SUBSCRIBE",
            subscribe(v5, 1, &[], &[("bad/a", 0x40)]),
            0x81,
        ),
        Case(
            "bit 7 in SUBSCRIBE",
            subscribe(v5, 1, &[], &[("bad/a", 0x80)]),
            0x81,
        ),
        Case(
            "a filter without options",
            packet(first::SUBSCRIBE, &with_id(1, &[none, &data("a")].concat())),
            0x81,
        ),
        Case("an empty filter", subscribe(v5, 1, &[], &[("", 0)]), 0x8F),
        Case(
            "`#` not last",
            subscribe(v5, 1, &[], &[("bad/#/a", 0)]),
            0x8F,
        ),
        Case("`#` not alone", subscribe(v5, 1, &[], &[("bad#", 0)]), 0x8F),
        Case(
            "`+` not alone",
            subscribe(v5, 1, &[], &[("bad/a+", 0)]),
            0x8F,
        ),
        Case(
            "NUL in a filter",
            subscribe(v5, 1, &[], &[("bad/\0", 0)]),
            0x81,
        ),
        Case(
            "UNSUBSCRIBE with packet id 0",
            unsubscribe(v5, 0, &["a"]),
            0x81,
        ),
        Case("an empty UNSUBSCRIBE", unsubscribe(v5, 1, &[]), 0x82),
        Case(
            "UNSUBSCRIBE with a bad filter",
            unsubscribe(v5, 1, &["a/#/b"]),
            0x8F,
        ),
        Case(
            "ill-formed UTF-8 to unsubscribe",
            packet(
                first::UNSUBSCRIBE,
                &with_id(1, &[none, &data(b"\xFF")].concat()),
            ),
            0x81,
        ),
        Case(
            "ill-formed UTF-8 to subscribe",
            packet(
                first::SUBSCRIBE,
                &with_id(1, &[none, &data(b"\xFF"), &[0]].concat()),
            ),
            0x81,
        ),
        Case("PINGREQ with a body", vec![0xC0, 1, 0], 0x81),
        Case("PINGREQ with flags", vec![0xC1, 0], 0x81),
        Case(
            "a length of five digits",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
            0x81,
        ),
        Case(
            "a length in more digits than it needs",
            vec![0xC0, 0x80, 0],
            0x81,
        ),
        Case(
            "CONNACK from a client",
            vec![first::CONNACK, 3, 0, 0, 0],
            0x82,
        ),
        Case(
            "SUBACK from a client",
            packet(first::SUBACK, &[0, 1, 0, 0]),
            0x82,
        ),
        Case(
            "UNSUBACK from a client",
            packet(first::UNSUBACK, &[0, 1, 0, 0]),
            0x82,
        ),
        Case("PINGRESP from a client", vec![first::PINGRESP, 0], 0x82),
        Case(
            "more than the maximum packet size",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
            0x95,
        ),
    ];
    for flags in [0, 1, 3, 6, 10, 15] {
        let mut bytes = subscribe(v5, 1, &[], &[("bad/a", 0)]);
        bytes[0] = 0x80 | flags;
        cases.push(Case("SUBSCRIBE with other flags", bytes, 0x81));
        let mut bytes = unsubscribe(v5, 1, &["bad/a"]);
        bytes[0] = 0xA0 | flags;
        cases.push(Case("UNSUBSCRIBE with other flags", bytes, 0x81));
    }
    cases
}

#[test]
fn packets_that_3_1_1_rules_out() {
    let world = World::new();
    let mut cases = common(false);
    cases.extend([
        Case("an empty topic", publish("", "x").bytes(false), 0),
        Case("PUBACK with a reason", packet(first::PUBACK, &[0, 1, 0]), 0),
        Case("PUBREL with a reason", packet(first::PUBREL, &[0, 1, 0]), 0),
        Case("no local", subscribe(false, 1, &[], &[("bad/a", 4)]), 0),
        Case(
            "retain as published",
            subscribe(false, 1, &[], &[("bad/a", 8)]),
            0,
        ),
        Case(
            "retain handling",
            subscribe(false, 1, &[], &[("bad/a", 16)]),
            0,
        ),
    ]);
    run(&world, false, cases);
}

#[test]
fn packets_that_5_0_rules_out() {
    let world = World::new();
    let with = |property: Vec<u8>| publish("bad/a", "x").with(property).bytes(true);
    let twice = |property: Vec<u8>| with([property.clone(), property].concat());
    let acked = |first: u8, reason: u8| packet(first, &[0, 1, reason]);
    let mut cases = common(true);
    cases.extend([
        Case(
            "an empty topic without alias",
            publish("", "x").bytes(true),
            0x82,
        ),
        Case("topic alias 0", with(two(id::TOPIC_ALIAS, 0)), 0x94),
        Case(
            "a subscription identifier from a client",
            with(subscription_id(1)),
            0x82,
        ),
        Case("payload format 2", with(byte(id::PAYLOAD_FORMAT, 2)), 0x82),
        Case(
            "payload format twice",
            twice(byte(id::PAYLOAD_FORMAT, 1)),
            0x82,
        ),
        Case(
            "message expiry twice",
            twice(four(id::MESSAGE_EXPIRY, 1)),
            0x82,
        ),
        Case("topic alias twice", twice(two(id::TOPIC_ALIAS, 1)), 0x82),
        Case(
            "response topic twice",
            twice(text(id::RESPONSE_TOPIC, "a")),
            0x82,
        ),
        Case(
            "correlation data twice",
            twice(text(id::CORRELATION_DATA, "a")),
            0x82,
        ),
        Case(
            "content type twice",
            twice(text(id::CONTENT_TYPE, "a")),
            0x82,
        ),
        Case(
            "a wild card in the response topic",
            with(text(id::RESPONSE_TOPIC, "a/+")),
            0x90,
        ),
        Case(
            "ill-formed UTF-8 in the response topic",
            with(text(id::RESPONSE_TOPIC, b"\xFF")),
            0x81,
        ),
        Case(
            "ill-formed UTF-8 in the content type",
            with(text(id::CONTENT_TYPE, b"\xFF")),
            0x81,
        ),
        Case(
            "ill-formed UTF-8 in a user property",
            with(vec![id::USER_PROPERTY, 0, 1, 0xFF, 0, 0]),
            0x81,
        ),
        Case("NUL in a user property", with(user("a", "\0")), 0x81),
        Case(
            "a property of CONNECT",
            with(four(id::SESSION_EXPIRY, 1)),
            0x81,
        ),
        Case("a property that does not exist", with(byte(0x7E, 0)), 0x81),
        Case(
            "properties beyond the packet",
            packet(0x30, &[data("bad/a"), vec![99]].concat()),
            0x81,
        ),
        Case("no property section", packet(0x30, &data("bad/a")), 0x81),
        Case(
            "a property section of five digits",
            packet(
                0x30,
                &[data("bad/a"), vec![0xFF, 0xFF, 0xFF, 0xFF, 1]].concat(),
            ),
            0x81,
        ),
        Case(
            "a reason PUBACK does not have",
            acked(first::PUBACK, 0x92),
            0x81,
        ),
        Case(
            "a reason PUBREC does not have",
            acked(first::PUBREC, 0x92),
            0x81,
        ),
        Case(
            "a reason PUBREL does not have",
            acked(first::PUBREL, 0x10),
            0x81,
        ),
        Case(
            "a reason PUBCOMP does not have",
            acked(first::PUBCOMP, 0x80),
            0x81,
        ),
        Case(
            "a reason string twice",
            packet(
                first::PUBACK,
                &[
                    vec![0, 1, 0],
                    section(&[text(id::REASON_STRING, "a"), text(id::REASON_STRING, "b")].concat()),
                ]
                .concat(),
            ),
            0x82,
        ),
        Case(
            "retain handling 3",
            subscribe(true, 1, &[], &[("bad/a", 0x30)]),
            0x82,
        ),
        Case(
            "no local on a shared subscription",
            subscribe(true, 1, &[], &[("$share/g/bad/a", 4)]),
            0x82,
        ),
        Case(
            "a shared subscription without a name",
            subscribe(true, 1, &[], &[("$share//bad", 0)]),
            0x8F,
        ),
        Case(
            "a wild card in a share name",
            subscribe(true, 1, &[], &[("$share/g+/bad", 0)]),
            0x8F,
        ),
        Case(
            "a shared subscription without a filter",
            subscribe(true, 1, &[], &[("$share/g", 0)]),
            0x8F,
        ),
        Case(
            "subscription identifier 0",
            subscribe(true, 1, &[id::SUBSCRIPTION_ID, 0], &[("bad/a", 0)]),
            0x82,
        ),
        Case(
            "two subscription identifiers",
            subscribe(
                true,
                1,
                &[subscription_id(1), subscription_id(2)].concat(),
                &[("bad/a", 0)],
            ),
            0x82,
        ),
        Case(
            "a session expiry in DISCONNECT after 0",
            packet(
                first::DISCONNECT,
                &[vec![0], section(&four(id::SESSION_EXPIRY, 9))].concat(),
            ),
            0x82,
        ),
    ]);
    run(&world, true, cases);
}
