//! Wills (3.1.2.5 to 3.1.2.7, 3.1.3.2 to 3.1.3.4, 3.14.4).

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    raw::{Connect, Raw, Will, byte, first, four, id, packet, publish, section, text, user, will},
    support::mqtt::tls_config,
    world::World,
};

fn watcher(world: &World) -> Raw {
    let mut raw = world.v5("watcher");
    raw.subscribe(&[("will/#", 2), ("marker", 1)]);
    raw
}

/// No will was published: what is published now comes first.
#[track_caller]
fn none_came(world: &World, watcher: &mut Raw) {
    thread::sleep(Duration::from_millis(200));
    world
        .v5("marker")
        .publish(&publish("marker", "m").qos(1, 1));
    assert_eq!(watcher.take().topic, "marker");
}

#[test]
fn published_when_the_connection_ends_without_goodbye() {
    let world = World::new();
    let mut watcher = watcher(&world);
    for connect in [Connect::v3("w3"), Connect::v5("w5")] {
        for durable in [false, true] {
            let connect = connect.clone().will(Will {
                qos: 1,
                ..will("will/a", "bye")
            });
            let connect = if durable { connect.durable() } else { connect };
            // Cut off.
            drop(world.connect(&connect));
            assert_eq!(watcher.take().text(), "bye");
            // A broken rule.
            let mut raw = world.connect(&connect);
            raw.send([first::SUBSCRIBE & 0xF0, 0]);
            assert_eq!(watcher.take().text(), "bye");
            drop(raw);
            // Keep alive.
            let raw = world.connect(&connect.clone().keep_alive(1));
            assert_eq!(watcher.take().text(), "bye");
            drop(raw);
            // Taken over.
            let old = world.connect(&connect);
            let mut without = connect.clone();
            without.will = None;
            let new = world.connect(&without);
            assert_eq!(watcher.take().text(), "bye");
            drop(old);
            drop(new);
            none_came(&world, &mut watcher);
        }
    }
}

#[test]
fn discarded_by_a_normal_goodbye_and_only_by_that() {
    let world = World::new();
    let mut watcher = watcher(&world);
    for connect in [Connect::v3("w3"), Connect::v5("w5")] {
        for durable in [false, true] {
            let connect = connect.clone().will(will("will/a", "bye"));
            let connect = if durable { connect.durable() } else { connect };
            world.connect(&connect).disconnect();
            none_came(&world, &mut watcher);
            // Nor does it come later, from the stored session.
            if durable {
                let mut without = connect.clone();
                without.will = None;
                drop(world.resume(&without, true));
                none_came(&world, &mut watcher);
            }
        }
    }
    for reason in [0x04, 0x80, 0x82] {
        let mut raw = world.connect(&Connect::v5("w5").will(will("will/a", "asked")));
        raw.send([first::DISCONNECT, 1, reason]);
        raw.expect_closed();
        assert_eq!(watcher.take().text(), "asked", "{reason:#x}");
    }
}

#[test]
fn quality_and_retain_are_as_asked() {
    let world = World::new();
    for v5 in [false, true] {
        for qos in 0..3 {
            for retain in [false, true] {
                let mut watcher = world.v5("watcher");
                // Without what earlier ones left behind.
                watcher.subscribe(&[("will/#", 2 | 0x20)]);
                let topic = format!("will/{v5}/{qos}/{retain}");
                let will = Will {
                    qos,
                    retain,
                    ..will(&topic, "bye")
                };
                let connect = if v5 {
                    Connect::v5("w")
                } else {
                    Connect::v3("w")
                };
                drop(world.connect(&connect.will(will)));
                let got = watcher.take();
                assert_eq!(
                    (got.topic.as_str(), got.qos, got.retain),
                    (topic.as_str(), qos, false)
                );
                let mut late = world.v5("late");
                late.subscribe(&[(&topic, 2)]);
                if retain {
                    let got = late.take();
                    assert_eq!(
                        (got.text().as_str(), got.qos, got.retain),
                        ("bye", qos, true)
                    );
                }
                late.ping();
            }
        }
    }
}

#[test]
fn a_will_reaches_who_is_away() {
    let world = World::new();
    let away = Connect::v5("away").durable();
    let mut raw = world.connect(&away);
    raw.subscribe(&[("will/a", 1)]);
    raw.disconnect();
    let mut watcher = watcher(&world);
    drop(world.connect(&Connect::v3("w").will(Will {
        qos: 1,
        ..will("will/a", "bye")
    })));
    watcher.take();
    assert_eq!(world.resume(&away, true).take().text(), "bye");
}

#[test]
fn a_delayed_will_waits_and_is_dropped_when_its_author_returns() {
    let world = World::new();
    let mut watcher = watcher(&world);
    let delayed = |seconds: u32| Will {
        properties: four(id::WILL_DELAY, seconds),
        ..will("will/late", "bye")
    };
    // Back in time.
    let connect = Connect::v5("d").durable().will(delayed(2));
    drop(world.connect(&connect));
    thread::sleep(Duration::from_millis(500));
    let mut raw = world.resume(&connect, true);
    thread::sleep(Duration::from_millis(2500));
    none_came(&world, &mut watcher);
    raw.ping();
    // Not back.
    drop(raw);
    let since = Instant::now();
    assert_eq!(watcher.take().text(), "bye");
    let waited = since.elapsed();
    assert!(waited >= Duration::from_millis(1900), "after {waited:?}");
    // A session that ends takes no longer delay with it: at once without one ...
    drop(world.connect(&Connect::v5("short").will(delayed(600))));
    assert_eq!(watcher.take().text(), "bye");
    // ... at the end of one that expires ...
    let connect = Connect::v5("expiring")
        .with(four(id::SESSION_EXPIRY, 1))
        .will(delayed(600));
    drop(world.connect(&connect));
    assert_eq!(watcher.take().text(), "bye");
    // ... and when a clean start ends it.
    let connect = Connect::v5("clean").durable().will(delayed(600));
    drop(world.connect(&connect));
    none_came(&world, &mut watcher);
    world.v5("clean");
    assert_eq!(watcher.take().text(), "bye");
}

#[test]
fn a_will_survives_the_gateway() {
    let mut world = World::new();
    let away = Connect::v5("away").durable();
    let mut raw = world.connect(&away);
    raw.subscribe(&[("will/a", 1)]);
    raw.disconnect();
    let connect = Connect::v5("d").durable().will(Will {
        qos: 1,
        ..will("will/a", "bye")
    });
    let _alive = world.connect(&connect);
    world.crash();
    assert_eq!(world.resume(&away, true).take().text(), "bye");
}

#[test]
fn properties_of_a_will_arrive_with_it() {
    let world = World::new();
    let mut watcher = watcher(&world);
    let properties = [
        user("b", "1"),
        byte(id::PAYLOAD_FORMAT, 1),
        user("a", "2"),
        text(id::CONTENT_TYPE, "text/plain"),
        text(id::RESPONSE_TOPIC, "will/answer"),
        user("b", "3"),
        text(id::CORRELATION_DATA, [0, 255]),
        four(id::MESSAGE_EXPIRY, 100),
        four(id::WILL_DELAY, 0),
    ];
    let will = Will {
        properties: properties.concat(),
        ..will("will/p", "bye")
    };
    drop(world.connect(&Connect::v5("w").will(will)));
    let got = watcher.take();
    assert_eq!(got.property(id::PAYLOAD_FORMAT), Some(&[1][..]));
    assert_eq!(
        got.property(id::CONTENT_TYPE),
        Some(&b"\0\x0Atext/plain"[..])
    );
    assert_eq!(
        got.property(id::RESPONSE_TOPIC),
        Some(&b"\0\x0Bwill/answer"[..])
    );
    assert_eq!(
        got.property(id::CORRELATION_DATA),
        Some(&[0, 2, 0, 255][..])
    );
    assert_eq!(got.property(id::WILL_DELAY), None);
    let left = u32::from_be_bytes(
        got.property(id::MESSAGE_EXPIRY)
            .unwrap()
            .try_into()
            .unwrap(),
    );
    assert!((95..=100).contains(&left), "{left}");
    let users = got.all(id::USER_PROPERTY);
    assert_eq!(
        users,
        [b"\0\x01b\0\x011", b"\0\x01a\0\x012", b"\0\x01b\0\x013"]
    );
}

#[test]
fn a_will_that_may_not_be_published_is_refused_with_connect() {
    let world = World::new();
    let bundle = tls_config(&world.gateway.bundle("sensor"));
    for v5 in [false, true] {
        for topic in ["elsewhere", "device/other/data", "$SYS/x"] {
            let connect = if v5 {
                Connect::v5("w")
            } else {
                Connect::v3("w")
            };
            let mut raw = Raw::tls(world.gateway.mqtt(), &bundle);
            raw.send(connect.will(will(topic, "x")).bytes());
            let connack = raw.connack();
            assert_eq!(
                (connack.flags, connack.reason),
                (0, if v5 { 0x87 } else { 5 })
            );
            raw.expect_closed();
        }
    }
    // Nor is one with a topic that is none.
    for topic in ["", "a/+", "#"] {
        let mut raw = world.dial();
        raw.send(Connect::v5("w").will(will(topic, "x")).bytes());
        assert!(raw.connack().reason >= 0x80);
        raw.expect_closed();
        let mut raw = world.dial();
        raw.send(Connect::v3("w").will(will(topic, "x")).bytes());
        raw.expect_closed();
    }
}

#[test]
fn a_disconnect_that_changes_the_expiry_still_discards_the_will() {
    let world = World::new();
    let mut watcher = watcher(&world);
    let connect = Connect::v5("w").durable().will(will("will/a", "bye"));
    let mut raw = world.connect(&connect);
    raw.send(packet(
        first::DISCONNECT,
        &[vec![0], section(&four(id::SESSION_EXPIRY, 0))].concat(),
    ));
    raw.expect_closed();
    none_came(&world, &mut watcher);
    world.resume(&Connect::v5("w").durable(), false);
}
