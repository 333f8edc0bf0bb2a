//! Sessions: how long they live, what they keep, and that they outlive the gateway (3.1.2.4,
//! 3.1.2.11.2, 4.1, 4.4).

use std::{thread, time::Duration};

use crate::{
    raw::{Connect, ack, first, four, id, packet, publish, section, user},
    world::World,
};

#[test]
fn session_present_says_what_is_there() {
    let world = World::new();
    for v5 in [false, true] {
        let make = || {
            if v5 {
                Connect::v5("s5")
            } else {
                Connect::v3("s3")
            }
        };
        let durable = make().durable();
        world.resume(&durable, false).disconnect();
        world.resume(&durable, true).disconnect();
        // Abrupt ends as well.
        drop(world.resume(&durable, true));
        world.resume(&durable, true).disconnect();
        // Clean: there is none, and none is left.
        world.resume(&make(), false).disconnect();
        world.resume(&durable, false).disconnect();
        // Another client has another session.
        let mut other = durable.clone();
        other.client_id.push('x');
        world.resume(&other, false).disconnect();
        world.resume(&durable, true).disconnect();
    }
    // A clean start with an expiry begins a session that is kept.
    let connect = Connect::v5("clean-kept").with(four(id::SESSION_EXPIRY, 60));
    world.resume(&connect, false).disconnect();
    world
        .resume(&connect.clone().clean(false), true)
        .disconnect();
    world.resume(&connect, false).disconnect();
    // MQTT 5 without an expiry keeps nothing, clean start or not.
    world
        .resume(&Connect::v5("none").clean(false), false)
        .disconnect();
    world
        .resume(&Connect::v5("none").clean(false), false)
        .disconnect();
}

#[test]
fn a_session_of_one_version_goes_on_in_the_other() {
    let world = World::new();
    let mut raw = world.connect(&Connect::v3("both").durable());
    raw.subscribe(&[("b/+", 1)]);
    raw.disconnect();
    world
        .v5("pub")
        .publish(&publish("b/a", "x").qos(1, 1).with(user("a", "b")));
    let mut raw = world.resume(&Connect::v5("both").durable(), true);
    assert_eq!(raw.take().all(id::USER_PROPERTY), [b"\0\x01a\0\x01b"]);
    raw.disconnect();
    world.v5("pub").publish(&publish("b/a", "y").qos(1, 1));
    assert_eq!(
        world
            .resume(&Connect::v3("both").durable(), true)
            .take()
            .text(),
        "y"
    );
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let world = World::new();
    let connect = Connect::v5("e")
        .clean(false)
        .with(four(id::SESSION_EXPIRY, 1));
    let mut raw = world.resume(&connect, false);
    raw.subscribe(&[("e/a", 1)]);
    // It does not end under a connection, however long that lasts.
    thread::sleep(Duration::from_millis(1500));
    raw.ping();
    raw.disconnect();
    let mut raw = world.resume(&connect, true);
    raw.ping();
    raw.disconnect();
    thread::sleep(Duration::from_millis(2500));
    let mut raw = world.resume(&connect, false);
    world.v5("pub").publish(&publish("e/a", "x").qos(1, 1));
    raw.ping();
}

#[test]
fn disconnect_may_change_the_expiry() {
    let world = World::new();
    let goodbye = |seconds: u32| {
        packet(
            first::DISCONNECT,
            &[vec![0], section(&four(id::SESSION_EXPIRY, seconds))].concat(),
        )
    };
    let durable = Connect::v5("x").durable();
    let mut raw = world.resume(&durable, false);
    raw.send(goodbye(0));
    raw.expect_closed();
    let mut raw = world.resume(&durable, false);
    raw.send(goodbye(1));
    raw.expect_closed();
    world.resume(&durable, true).disconnect();
    let mut raw = world.resume(&durable, true);
    raw.send(goodbye(1));
    raw.expect_closed();
    thread::sleep(Duration::from_millis(2500));
    let mut raw = world.resume(
        &Connect::v5("x")
            .clean(false)
            .with(four(id::SESSION_EXPIRY, 1)),
        false,
    );
    raw.send(goodbye(600));
    raw.expect_closed();
    thread::sleep(Duration::from_millis(2500));
    world.resume(&durable, true).disconnect();
}

#[test]
fn what_matches_while_a_client_is_away_waits_for_it_in_order() {
    let mut world = World::new();
    for v5 in [false, true] {
        let connect = if v5 {
            Connect::v5("a5")
        } else {
            Connect::v3("a3")
        }
        .durable();
        let mut raw = world.connect(&connect);
        raw.subscribe(&[("a/2/#", 2), ("a/1/#", 1), ("a/0/#", 0)]);
        raw.disconnect();
        let mut publisher = world.v5("pub");
        for at in 0..30 {
            for granted in 0..3 {
                let message = publish(&format!("a/{granted}/x"), &at.to_string());
                publisher.publish(&message.qos(at % 3, 1));
            }
        }
        world.restart();
        let mut raw = world.resume(&connect, true);
        let mut last = [-1; 3];
        for _ in 0..40 {
            let got = raw.take();
            let at: i32 = got.text().parse().unwrap();
            let granted = got.topic.as_bytes()[2] - b'0';
            assert_eq!(i32::from(got.qos), (at % 3).min(granted.into()));
            assert!(got.qos > 0, "QoS 0 is not kept");
            let last = &mut last[usize::from(granted)];
            assert!(at > *last, "in order");
            *last = at;
        }
        raw.ping();
        drop(raw);
        world.resume(&connect, true).ping();
    }
}

#[test]
fn a_session_in_the_middle_of_everything_survives_the_plug() {
    let mut world = World::new();
    let connect = Connect::v5("mid").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe(&[("m/#", 2)]);
    let mut publisher = world.v5("pub");
    for (at, qos) in [1, 2, 2, 1].into_iter().enumerate() {
        publisher.publish(&publish(&format!("m/{at}"), "x").qos(qos, 1));
    }
    let ids: Vec<u16> = (0..4).map(|_| raw.expect_publish().id.unwrap()).collect();
    // 0 acknowledged, 1 released but not completed, 2 and 3 sent.
    raw.send(ack(first::PUBACK, ids[0]));
    raw.send(ack(first::PUBREC, ids[1]));
    assert_eq!(raw.expect_ack(first::PUBREL, ids[1]), 0);
    // And one of its own, received and not released.
    raw.send(publish("elsewhere", "x").qos(2, 77).bytes(true));
    assert_eq!(raw.expect_ack(first::PUBREC, 77), 0);
    for crash in [true, false] {
        match crash {
            true => world.crash(),
            false => world.restart(),
        }
        let mut raw = world.resume(&connect, true);
        assert_eq!(raw.expect_ack(first::PUBREL, ids[1]), 0);
        for at in [2, 3] {
            let got = raw.expect_publish();
            assert_eq!((got.id, got.topic), (Some(ids[at]), format!("m/{at}")));
            assert!(got.dup, "it may have been received");
        }
        if !crash {
            raw.send(ack(first::PUBCOMP, ids[1]));
            raw.send(ack(first::PUBREC, ids[2]));
            assert_eq!(raw.expect_ack(first::PUBREL, ids[2]), 0);
            raw.send(ack(first::PUBCOMP, ids[2]));
            raw.send(ack(first::PUBACK, ids[3]));
            raw.send(ack(first::PUBREL, 77));
            assert_eq!(raw.expect_ack(first::PUBCOMP, 77), 0);
            raw.send(ack(first::PUBREL, 77));
            assert_eq!(raw.expect_ack(first::PUBCOMP, 77), 0x92);
            raw.ping();
        }
    }
    let mut raw = world.resume(&connect, true);
    raw.ping();
    // The subscription is still there.
    world.v5("pub").publish(&publish("m/new", "x").qos(1, 1));
    assert_eq!(raw.take().topic, "m/new");
}

#[test]
fn unsubscribed_and_replaced_subscriptions_stay_so_after_a_restart() {
    let mut world = World::new();
    let connect = Connect::v3("s").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe(&[("s/gone", 1), ("s/less", 2), ("s/kept", 2)]);
    raw.unsubscribe(&["s/gone"]);
    raw.subscribe(&[("s/less", 1)]);
    world.crash();
    let mut publisher = world.v5("pub");
    for topic in ["s/gone", "s/less", "s/kept"] {
        publisher.publish(&publish(topic, "x").qos(2, 1));
    }
    let mut raw = world.resume(&connect, true);
    let got = [raw.take(), raw.take()].map(|message| (message.topic, message.qos));
    assert_eq!(got, [("s/less".to_owned(), 1), ("s/kept".to_owned(), 2)]);
    raw.ping();
}

#[test]
fn a_full_session_gives_up_its_oldest_and_goes_on() {
    let world = World::with("queued_messages = 10");
    let connect = Connect::v5("full").durable();
    let mut raw = world.connect(&connect);
    raw.subscribe(&[("f", 1)]);
    raw.disconnect();
    let mut publisher = world.v5("pub");
    for at in 0..25 {
        assert_eq!(
            publisher.publish(&publish("f", &at.to_string()).qos(1, 1)),
            0
        );
    }
    let mut raw = world.resume(&connect, true);
    for at in 15..25 {
        assert_eq!(raw.take().text(), at.to_string());
    }
    raw.ping();
}

#[test]
fn a_takeover_hands_the_session_over_whole() {
    let world = World::new();
    for v5 in [false, true] {
        let connect = if v5 {
            Connect::v5("t5")
        } else {
            Connect::v3("t3")
        }
        .durable();
        let mut old = world.connect(&connect);
        old.subscribe(&[("t", 1)]);
        let mut publisher = world.v5("pub");
        publisher.publish(&publish("t", "one").qos(1, 1));
        let one = old.expect_publish();
        let mut new = world.resume(&connect, true);
        old.expect_end(0x8E);
        let again = new.take();
        assert_eq!(
            (again.id, again.dup, again.text()),
            (one.id, true, "one".into())
        );
        publisher.publish(&publish("t", "two").qos(1, 1));
        assert_eq!(new.take().text(), "two");
        new.ping();
    }
}
