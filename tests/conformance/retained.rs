//! Retained messages (3.3.1.3, 3.8.3.1).

use std::{thread, time::Duration};

use crate::{
    raw::{Connect, Raw, four, id, publish, user},
    world::World,
};

const AS_PUBLISHED: u8 = 8;
const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

/// Nothing of `retained/…` comes with this subscription.
#[track_caller]
fn nothing(raw: &mut Raw) {
    raw.ping();
}

#[test]
fn the_last_one_is_kept_with_its_quality() {
    let world = World::new();
    for mut publisher in world.both("pub") {
        for qos in 0..3 {
            publisher.publish(&publish("r/a", "old").qos(2, 1).retain());
            publisher.publish(&publish("r/a", "new").qos(qos, 1).retain());
            // Without the flag nothing is kept and nothing replaced.
            publisher.publish(&publish("r/a", "passing").qos(1, 1));
            publisher.publish(&publish("r/other", "passing").qos(1, 1));
            publisher.send([0xC0, 0]);
            publisher.expect(&[0xD0, 0]);
            for granted in 0..3 {
                for mut raw in world.both("late") {
                    raw.subscribe(&[("r/+", granted)]);
                    let got = raw.take();
                    assert_eq!((got.text().as_str(), got.qos), ("new", qos.min(granted)));
                    assert!(got.retain && !got.dup);
                    nothing(&mut raw);
                }
            }
        }
        publisher.publish(&publish("r/a", "").qos(1, 1).retain());
    }
}

#[test]
fn an_empty_one_clears_and_is_passed_on_as_any_other() {
    let world = World::new();
    for mut publisher in world.both("pub") {
        publisher.publish(&publish("r/a", "kept").qos(1, 1).retain());
        let mut live = world.v5("live");
        live.subscribe(&[("r/a", 1 | NEVER)]);
        for qos in 0..3 {
            publisher.publish(&publish("r/a", "").qos(qos, 1).retain());
            let got = live.take();
            assert_eq!((got.text().as_str(), got.retain), ("", false));
            let mut late = world.v5("late");
            late.subscribe(&[("r/a", 1)]);
            nothing(&mut late);
            publisher.publish(&publish("r/a", "kept").qos(1, 1).retain());
            live.take();
        }
        publisher.publish(&publish("r/a", "").qos(1, 1).retain());
    }
}

#[test]
fn retain_handling() {
    let world = World::new();
    for durable in [false, true] {
        world
            .v5("pub")
            .publish(&publish("r/a", "kept").qos(1, 1).retain());
        let connect = Connect::v5("handling");
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("r/a", 1 | NEVER)]);
        nothing(&mut raw);
        raw.subscribe(&[("r/a", 1 | IF_NEW)]);
        nothing(&mut raw);
        raw.subscribe(&[("r/a", 1)]);
        assert_eq!(raw.take().text(), "kept", "0: every time");
        raw.subscribe(&[("r/a", 0)]);
        assert_eq!(raw.take().text(), "kept");
        raw.unsubscribe(&["r/a"]);
        raw.subscribe(&[("r/a", 1 | IF_NEW)]);
        assert_eq!(raw.take().text(), "kept", "1: when it is new");
        raw.subscribe(&[("r/a", 1 | IF_NEW)]);
        nothing(&mut raw);
        if durable {
            // The subscription is there already when its session is taken up again.
            raw.disconnect();
            let mut raw = world.resume(&connect, true);
            raw.subscribe(&[("r/a", 1 | IF_NEW)]);
            nothing(&mut raw);
            raw.subscribe(&[("r/+", 1 | IF_NEW)]);
            assert_eq!(
                raw.take().text(),
                "kept",
                "another filter is another subscription"
            );
        }
    }
    // 3.1.1 has no choice: every time.
    let mut raw = world.v3("handling-3");
    for _ in 0..3 {
        raw.subscribe(&[("r/a", 1)]);
        assert_eq!(raw.take().text(), "kept");
    }
}

#[test]
fn retain_as_published() {
    let world = World::new();
    for durable in [false, true] {
        let connect = Connect::v5("as");
        let connect = if durable { connect.durable() } else { connect };
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("as/published", 2 | AS_PUBLISHED), ("as/usual", 2)]);
        let mut old = world.v3("old");
        old.subscribe(&[("as/+", 2)]);
        let mut publisher = world.v5("pub");
        for qos in 0..3 {
            for retain in [true, false] {
                for topic in ["as/published", "as/usual"] {
                    let mut message = publish(topic, "x").qos(qos, 1);
                    message.retain = retain;
                    publisher.publish(&message);
                    let expected = retain && topic == "as/published";
                    assert_eq!(raw.take().retain, expected, "{topic} {qos} {retain}");
                    assert!(
                        !old.take().retain,
                        "3.1.1 never, but for a new subscription"
                    );
                }
            }
        }
        for topic in ["as/published", "as/usual"] {
            publisher.publish(&publish(topic, "").qos(1, 1).retain());
            assert_eq!(raw.take().text(), "");
        }
        raw.disconnect();
        world.v5("as").disconnect();
    }
}

#[test]
fn retained_messages_outlive_sessions_and_the_gateway() {
    let mut world = World::new();
    let mut publisher = world.v5("pub");
    for at in 0..20 {
        let message = publish(&format!("r/{at}"), &at.to_string())
            .qos(at % 3, 1)
            .retain();
        publisher.publish(&message.with(user("n", "v")));
    }
    publisher.publish(&publish("r/3", "").qos(1, 1).retain());
    publisher.publish(&publish("r/4", "four").qos(2, 1).retain());
    publisher.publish(
        &publish("r/gone", "x")
            .qos(1, 1)
            .retain()
            .with(four(id::MESSAGE_EXPIRY, 1)),
    );
    publisher.disconnect();
    for crash in [false, true] {
        match crash {
            true => world.crash(),
            false => world.restart(),
        }
        thread::sleep(Duration::from_millis(1100));
        let mut raw = world.v5("late");
        raw.subscribe(&[("r/+", 2)]);
        let mut found: Vec<_> = (0..19).map(|_| raw.take()).collect();
        found.sort_by_key(|message| message.topic[2..].parse::<u16>().unwrap());
        let topics: Vec<u16> = found
            .iter()
            .map(|m| m.topic[2..].parse().unwrap())
            .collect();
        let expected: Vec<u16> = (0..20).filter(|at| *at != 3).collect();
        assert_eq!(topics, expected);
        for message in found {
            assert!(message.retain);
            if message.topic == "r/4" {
                assert_eq!((message.text().as_str(), message.qos), ("four", 2));
                continue;
            }
            let at: u8 = message.topic[2..].parse().unwrap();
            assert_eq!(message.qos, at % 3);
            assert_eq!(message.all(id::USER_PROPERTY), [b"\0\x01n\0\x01v"]);
        }
        nothing(&mut raw);
    }
}
