//! CONNECT, CONNACK, DISCONNECT, PINGREQ, keep alive (3.1, 3.2, 3.12, 3.14, 4.12).

use std::time::{Duration, Instant};

use crate::{
    raw::Raw,
    raw::{
        Connect, ack, byte, data, first, four, id, packet, publish, subscribe, text, two, variable,
        will,
    },
    support::mqtt::tls_config,
    world::{PASSWORD, World},
};

#[test]
fn the_first_packet_is_connect_or_the_connection_ends() {
    let world = World::new();
    for bytes in [
        vec![0xC0, 0],
        publish("a", "x").bytes(false),
        publish("a", "x").bytes(true),
        subscribe(true, 1, &[], &[("a", 0)]),
        ack(first::PUBACK, 1),
        vec![first::DISCONNECT, 0],
        vec![first::AUTH, 0],
        vec![first::CONNACK, 2, 0, 0],
        vec![0, 0],
    ] {
        let mut raw = world.dial();
        raw.send(&bytes);
        // Neither CONNACK nor DISCONNECT: there is nobody to say it to.
        raw.expect_closed();
    }
    world.assert_unharmed();
}

#[test]
fn a_second_connect_ends_the_connection() {
    let world = World::new();
    for connect in [Connect::v3("twice-3"), Connect::v5("twice-5")] {
        let mut raw = world.connect(&connect);
        raw.send(connect.bytes());
        raw.expect_end(0x82);
    }
    world.assert_unharmed();
}

#[test]
fn protocol_name_and_level() {
    let world = World::new();
    let rest = |v5: bool| {
        let mut out = vec![2, 0, 0];
        if v5 {
            out.push(0);
        }
        out.extend(data("c"));
        out
    };
    // The name of MQTT 3.1 is told which versions there are; any other is of another protocol.
    let mut raw = world.dial();
    raw.send(packet(
        0x10,
        &[data("MQIsdp"), vec![3], rest(false)].concat(),
    ));
    raw.expect(&[first::CONNACK, 2, 0, 1]);
    raw.expect_closed();
    for name in ["mqtt", "MQT", "HTTP", ""] {
        let mut raw = world.dial();
        raw.send(packet(0x10, &[data(name), vec![4], rest(false)].concat()));
        raw.expect_closed();
    }
    // Levels nobody knows: 0x84 to those who could be of a later version, 0x01 in 3.1.1's own words.
    for level in [0, 1, 2, 3, 6, 7, 255] {
        let mut raw = world.dial();
        raw.send(packet(
            0x10,
            &[data("MQTT"), vec![level], rest(true)].concat(),
        ));
        let connack = raw.connack();
        assert_eq!(connack.flags, 0);
        let expected = if level < 4 { 0x01 } else { 0x84 };
        assert_eq!(connack.reason, expected, "level {level}");
        raw.expect_closed();
    }
}

#[test]
fn connect_flags_and_fields_must_agree() {
    let world = World::new();
    let plain = |v5: bool| {
        if v5 {
            Connect::v5("c")
        } else {
            Connect::v3("c")
        }
    };
    for v5 in [false, true] {
        let with_will = plain(v5).will(will("w", "x"));
        let with_login = plain(v5).login("sensor", PASSWORD);
        let mut bodies = vec![
            ("the reserved bit", plain(v5).body_with(0x03)),
            ("will QoS without will", plain(v5).body_with(0x0A)),
            ("will QoS 3 without will", plain(v5).body_with(0x1A)),
            ("will retain without will", plain(v5).body_with(0x22)),
            ("will QoS 3", with_will.body_with(0x1E)),
            ("a will announced and not there", plain(v5).body_with(0x06)),
            ("a will there and not announced", with_will.body_with(0x02)),
            (
                "a user name announced and not there",
                plain(v5).body_with(0x82),
            ),
            ("a password announced and not there", {
                let mut body = plain(v5).body_with(0xC2);
                body.extend(data("sensor"));
                body
            }),
            (
                "a login there and not announced",
                with_login.body_with(0x02),
            ),
            ("a byte left over", [plain(v5).body(), vec![0]].concat()),
            ("no client id", {
                let body = plain(v5).body();
                body[..body.len() - 3].to_vec()
            }),
            ("half a client id", {
                let body = plain(v5).body();
                body[..body.len() - 1].to_vec()
            }),
        ];
        if !v5 {
            let mut body = plain(false).body_with(0x42);
            body.extend(data("secret"));
            bodies.push(("a password without user name", body));
        }
        for (what, body) in bodies {
            let mut raw = world.dial();
            raw.v5 = v5;
            raw.send(packet(0x10, &body));
            if v5 {
                let connack = raw.connack();
                assert_eq!((connack.flags, connack.reason), (0, 0x81), "{what}");
            }
            raw.expect_closed();
        }
        // The fixed header's flags.
        for flags in [1, 2, 4, 8] {
            let mut raw = world.dial();
            raw.send(packet(0x10 | flags, &plain(v5).body()));
            raw.expect_closed();
        }
    }
    // The other way round, the same fields are accepted.
    let mut raw = world.connect(&Connect::v3("ok").will(will("w", "x")).login("any", "thing"));
    raw.ping();
}

#[test]
fn strings_of_connect_must_be_utf8_without_nul() {
    let world = World::new();
    let surrogate = [0xED, 0xA0, 0x80];
    for bad in [
        &surrogate[..],
        &[0xFF],
        &[0xC0, 0x80],
        b"a\0b",
        &[0xE2, 0x82],
    ] {
        for v5 in [false, true] {
            let head = |flags: u8| {
                let mut out = data("MQTT");
                out.extend([if v5 { 5 } else { 4 }, flags, 0, 0]);
                if v5 {
                    out.push(0);
                }
                out
            };
            let none: &[u8] = if v5 { &[0] } else { &[] };
            let client_id = [head(2), data(bad)].concat();
            let topic = [head(6), data("c"), none.to_vec(), data(bad), data("x")].concat();
            let user = [head(0x82), data("c"), data(bad)].concat();
            for body in [client_id, topic, user] {
                let mut raw = world.dial();
                raw.v5 = v5;
                raw.send(packet(0x10, &body));
                if v5 {
                    assert_eq!(raw.connack().reason, 0x81);
                }
                raw.expect_closed();
            }
        }
    }
    world.assert_unharmed();
}

#[test]
fn client_ids() {
    let world = World::new();
    let letters = "abcdefghijklmnopqrstuvw";
    let others = "0123456789ABCDEFGHIJKLM";
    for v5 in [false, true] {
        let make = |id: &str| if v5 { Connect::v5(id) } else { Connect::v3(id) };
        for id in ["a", letters, others, "NOPQRSTUVWXYZxyz", "größe 温度"] {
            world.connect(&make(id)).ping();
        }
        let (_, connack) = world.answer(&make(&"x".repeat(300)));
        assert_eq!(connack.reason, if v5 { 0x85 } else { 0x02 });
    }
    // None at all: 3.1.1 wants it clean; MQTT 5 is told what it got.
    world.v3("").ping();
    let (mut raw, connack) = world.answer(&Connect::v3("").clean(false));
    assert_eq!((connack.flags, connack.reason), (0, 0x02));
    raw.expect_closed();
    let (_one, first) = world.answer(&Connect::v5(""));
    let (_two, second) = world.answer(&Connect::v5(""));
    let assigned = |connack: &crate::raw::ConnAck| {
        connack.property(id::ASSIGNED_CLIENT_ID).unwrap()[2..].to_vec()
    };
    assert_ne!(assigned(&first), assigned(&second), "a new one each");
    // It is as good as one that was given: its session can be taken up again.
    let durable = Connect::v5("").with(four(id::SESSION_EXPIRY, 60));
    let (raw, connack) = world.answer(&durable);
    let name = String::from_utf8(assigned(&connack)).unwrap();
    raw.disconnect();
    world.resume(&Connect::v5(&name).durable(), true);
    let (_, connack) = world.answer(&Connect::v5("given"));
    assert_eq!(connack.property(id::ASSIGNED_CLIENT_ID), None);
}

#[test]
fn a_new_connection_of_the_same_client_takes_over() {
    let world = World::new();
    for connect in [Connect::v3("same-3"), Connect::v5("same-5")] {
        let mut old = world.connect(&connect);
        old.ping();
        let mut new = world.connect(&connect);
        old.expect_end(0x8E);
        new.ping();
    }
    // A device is one, whatever its client ids.
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    let device = |client_id: &str| {
        let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
        raw.send(Connect::v5(client_id).bytes());
        assert_eq!(raw.connack().reason, 0);
        raw
    };
    let mut old = device("one");
    let mut new = device("two");
    old.expect_end(0x8E);
    new.ping();
}

#[test]
fn nothing_after_a_refused_connect_is_processed() {
    let world = World::new();
    let mut watcher = world.v5("watcher");
    watcher.subscribe(&[("home/#", 1)]);
    let mut raw = Raw::plain(world.plain);
    let connect = Connect::v5("c").login("sensor", "wrong");
    let bytes = [connect.bytes(), publish("home/a", "no").bytes(true)].concat();
    raw.send(bytes);
    let connack = raw.connack();
    assert_eq!((connack.flags, connack.reason), (0, 0x86));
    raw.expect_closed();
    let mut raw = Raw::plain(world.plain);
    raw.v5 = false;
    raw.send(
        [
            Connect::v3("c").bytes(),
            publish("home/a", "no").bytes(false),
        ]
        .concat(),
    );
    assert_eq!(raw.connack().reason, 0x04, "bad user name or password");
    raw.expect_closed();
    // With the right password, what comes along with CONNECT is.
    let mut raw = Raw::plain(world.plain);
    let connect = Connect::v5("c").login("sensor", PASSWORD);
    raw.send([connect.bytes(), publish("home/a", "yes").bytes(true)].concat());
    assert_eq!(raw.connack().reason, 0);
    assert_eq!(watcher.take().text(), "yes");
}

#[test]
fn connack_comes_first_and_once_and_says_what_is_offered() {
    let world = World::new();
    let connect = Connect::v5("offer").durable();
    let (mut raw, connack) = world.answer(&connect);
    assert_eq!(connack.property(id::SHARED_AVAILABLE), Some(&[0][..]));
    assert_eq!(
        connack.property(id::TOPIC_ALIAS_MAXIMUM),
        Some(&[0, 16][..])
    );
    assert_eq!(connack.property(id::RECEIVE_MAXIMUM), Some(&[0, 64][..]));
    assert!(connack.property(id::MAXIMUM_PACKET).is_some());
    // Everything else is offered, so nothing is said about it.
    for absent in [
        id::MAXIMUM_QOS,
        id::RETAIN_AVAILABLE,
        id::SERVER_KEEP_ALIVE,
        id::RESPONSE_INFORMATION,
        id::AUTH_METHOD,
        id::AUTH_DATA,
        id::SESSION_EXPIRY,
    ] {
        assert_eq!(connack.property(absent), None, "{absent:#x}");
    }
    raw.subscribe(&[("first/#", 1)]);
    raw.disconnect();
    world.v5("p").publish(&publish("first/a", "x").qos(1, 1));
    // Even with a message waiting, CONNACK is the first packet, and the only one of its kind.
    let mut raw = world.resume(&connect, true);
    assert_eq!(raw.take().text(), "x");
    raw.ping();
}

#[test]
fn request_response_information_is_answered_with_none() {
    let world = World::new();
    for asked in [0, 1] {
        let (_, connack) = world.answer(&Connect::v5("r").with(byte(id::REQUEST_RESPONSE, asked)));
        assert_eq!(connack.property(id::RESPONSE_INFORMATION), None);
    }
}

#[test]
fn a_session_expiry_beyond_the_limit_is_capped_and_said() {
    let world = World::new();
    let (_, connack) = world.answer(&Connect::v5("long").with(four(id::SESSION_EXPIRY, u32::MAX)));
    let week = (7_u32 * 24 * 3600).to_be_bytes();
    assert_eq!(connack.property(id::SESSION_EXPIRY), Some(&week[..]));
}

#[test]
fn enhanced_authentication_is_refused_by_name() {
    let world = World::new();
    let connect = Connect::v5("auth").with(text(id::AUTH_METHOD, "SCRAM-SHA-256"));
    let (mut raw, connack) = world.answer(&connect);
    assert_eq!((connack.flags, connack.reason), (0, 0x8C));
    assert_eq!(connack.property(id::AUTH_METHOD), None);
    raw.expect_closed();
    // Data without a method is a protocol error; so is AUTH from a client that named none.
    let (mut raw, connack) = world.answer(&Connect::v5("a").with(text(id::AUTH_DATA, "x")));
    assert_eq!(connack.reason, 0x82);
    raw.expect_closed();
    let mut raw = world.v5("auth");
    raw.send([first::AUTH, 2, 0x19, 0]);
    raw.expect_end(0x82);
    for flags in [1, 8] {
        let mut raw = world.v5("auth");
        raw.send([first::AUTH | flags, 2, 0x19, 0]);
        raw.expect_end(0x81);
    }
    // 3.1.1 has no such packet.
    let mut raw = world.v3("auth");
    raw.send([first::AUTH, 0]);
    raw.expect_closed();
}

#[test]
fn pings_are_answered() {
    let world = World::new();
    for mut raw in world.both("ping") {
        raw.ping();
        raw.send([0xC0, 0, 0xC0, 0]);
        raw.expect(&[0xD0, 0]);
        raw.expect(&[0xD0, 0]);
    }
}

#[test]
fn keep_alive_ends_after_one_and_a_half_times() {
    let world = World::new();
    for connect in [Connect::v3("keep-3"), Connect::v5("keep-5")] {
        let mut raw = world.connect(&connect.keep_alive(1));
        // Kept up by any packet.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(700));
            raw.ping();
        }
        let since = Instant::now();
        raw.expect_end(0x8D);
        let waited = since.elapsed();
        assert!(
            (1300..4000).contains(&waited.as_millis()),
            "after {waited:?}, not 1.5 s"
        );
    }
    // 0 turns it off; and what is half sent is not a packet.
    let mut off = world.v5("off");
    let mut half = world.connect(&Connect::v5("half").keep_alive(1));
    std::thread::sleep(Duration::from_millis(2500));
    off.ping();
    half.expect_end(0x8D);
}

#[test]
fn disconnect_ends_the_connection_and_what_follows_is_ignored() {
    let world = World::new();
    let mut watcher = world.v5("watcher");
    watcher.subscribe(&[("after/#", 1)]);
    for mut raw in world.both("leaver") {
        let after = publish("after/a", "no").bytes(raw.v5);
        raw.send([vec![first::DISCONNECT, 0], after].concat());
        raw.expect_closed();
    }
    world
        .v5("p")
        .publish(&publish("after/a", "marker").qos(1, 1));
    assert_eq!(watcher.take().text(), "marker");
    // Reserved bits.
    for mut raw in world.both("reserved") {
        raw.send([first::DISCONNECT | 1, 0]);
        raw.expect_end(0x81);
    }
    // A reason that DISCONNECT does not have, or that only servers send.
    for reason in [0x01, 0x03, 0x7F, 0x86, 0x8B, 0xFF] {
        let mut raw = world.v5("reason");
        raw.send([first::DISCONNECT, 1, reason]);
        raw.expect_end(0x81);
    }
    // 3.1.1 has none.
    let mut raw = world.v3("reason");
    raw.send([first::DISCONNECT, 1, 0]);
    raw.expect_closed();
}

#[test]
fn stopping_says_so() {
    let mut world = World::new();
    let mut five = world.v5("stop-5");
    let mut three = world.v3("stop-3");
    assert!(world.gateway.stop().success());
    five.expect_end(0x8B);
    three.expect_closed();
}

#[test]
fn certificates_and_passwords_lead_to_the_same_protocol() {
    let world = World::new();
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
    raw.send(Connect::v5("tls").bytes());
    assert_eq!(raw.connack().reason, 0);
    raw.ping();
    raw.disconnect();
    let mut raw = Raw::plain(world.plain);
    raw.send(Connect::v5("plain").login("sensor", PASSWORD).bytes());
    assert_eq!(raw.connack().reason, 0);
    // One byte at a time is a stream like any other.
    for byte in subscribe(true, 4242, &[], &[("home/a", 1)]) {
        raw.send([byte]);
    }
    assert_eq!(raw.expect_ack(first::SUBACK, 4242), 0);
    raw.ping();
}

#[test]
fn property_sections_of_connect_are_checked() {
    let world = World::new();
    let twice = |property: Vec<u8>| [property.clone(), property].concat();
    let cases = [
        (
            "session expiry twice",
            twice(four(id::SESSION_EXPIRY, 1)),
            0x82,
        ),
        (
            "receive maximum twice",
            twice(two(id::RECEIVE_MAXIMUM, 1)),
            0x82,
        ),
        ("receive maximum 0", two(id::RECEIVE_MAXIMUM, 0), 0x82),
        ("maximum packet size 0", four(id::MAXIMUM_PACKET, 0), 0x82),
        ("problem information 2", byte(id::REQUEST_PROBLEM, 2), 0x82),
        (
            "response information 2",
            byte(id::REQUEST_RESPONSE, 2),
            0x82,
        ),
        ("a property of PUBLISH", two(id::TOPIC_ALIAS, 1), 0x81),
        ("a property that does not exist", byte(0x7E, 1), 0x81),
        ("half a property", vec![id::SESSION_EXPIRY, 0], 0x81),
        (
            "ill-formed user property",
            vec![id::USER_PROPERTY, 0, 1, 0xFF, 0, 0],
            0x81,
        ),
    ];
    for (what, property, expected) in cases {
        let (mut raw, connack) = world.answer(&Connect::v5("p").with(property));
        let reason = connack.reason;
        assert_eq!(
            (connack.flags, reason),
            (0, expected),
            "{what}: {reason:#x}"
        );
        raw.expect_closed();
    }
    // A length in more digits than it needs.
    let mut body = data("MQTT");
    body.extend([5, 2, 0, 0, 0x80, 0]);
    body.extend(data("c"));
    let mut raw = world.dial();
    raw.send([vec![0x10], variable(body.len()), body].concat());
    assert_eq!(raw.connack().reason, 0x81);
    raw.expect_closed();
}
