//! The whole device, on the host's board, against a gateway that can be made to misbehave.
//!
//! The gateway of these tests speaks real TLS and MQTT and does with each message what the test
//! says. What the device makes of the real one is tested with the gateway.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on stops"
)]

mod gateway;

use std::rc::Rc;
use std::time::Duration;

use gateway::{Gateway, Link, Message};
use serde_json::{Value, json};
use tidegate_host::simulate::BUFFER;
use tidegate_host::{Kind, Simulation, Stop, Watcher, World, simulate};
use tokio::task::LocalSet;

/// Runs a device beside a test.
async fn with_device(
    gateway: &Gateway,
    kind: Kind,
    interval: Duration,
    flash: Option<&std::path::Path>,
    test: impl AsyncFnOnce(Rc<World>),
) {
    with_buffer(BUFFER, gateway, kind, interval, flash, test).await;
}

/// Runs a device with so many pages of flash for readings beside a test.
async fn with_buffer(
    buffer_pages: usize,
    gateway: &Gateway,
    kind: Kind,
    interval: Duration,
    flash: Option<&std::path::Path>,
    test: impl AsyncFnOnce(Rc<World>),
) {
    let simulation = Simulation {
        bundle: gateway.bundle("sensor_001"),
        kind,
        flash: flash.map(Into::into),
        buffer_pages,
        interval: Some(interval),
        gateway: None,
        watcher: Watcher::default(),
    };
    let world = World::new();
    // So that every reading is told from every other.
    world.turning.set(true);
    let stop = Rc::<Stop>::default();
    let local = LocalSet::new();
    let both = local.run_until(async {
        tokio::select! {
            ended = simulate(&simulation, world.clone(), stop) => panic!("{ended:?}"),
            () = test(world.clone()) => {}
        }
    });
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .expect("the test comes to an end");
}

/// A hundred and twenty readings: a test can wait until it overflows. Sixty are lost at a time, because
/// flash is erased by pages.
const SMALL_BUFFER: usize = 2;

const OFTEN: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);

/// The next message, acknowledged.
async fn acknowledged(link: &mut Link) -> Message {
    let message = link.message().await;
    link.acknowledge(&message).await;
    message
}

/// The next message on a channel, acknowledged.
async fn next(link: &mut Link, channel: &str) -> Value {
    loop {
        let message = acknowledged(link).await;
        if message.channel == channel {
            return message.payload;
        }
    }
}

#[tokio::test]
async fn readings_arrive_signed_with_their_time() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Climate, OFTEN, None, async |world| {
        world.temperature.set(-55);
        world.humidity.set(405);
        let mut link = gateway.accept(false).await;
        let boot = next(&mut link, "event").await;
        assert_eq!(
            (&boot["event"], &boot["profile"]),
            (&json!("boot"), &json!("climate"))
        );
        let reading = next(&mut link, "data").await;
        assert_eq!(
            reading["temperature"],
            json!(-5.5),
            "through the sensor's driver"
        );
        assert_eq!(reading["humidity"], json!(40.5));
        assert!(reading["measured_at"].as_f64().unwrap() > 1.7e9);
    })
    .await;
}

#[tokio::test]
async fn a_press_is_told_at_once() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Dashboard, NEVER, None, async |world| {
        let mut link = gateway.accept(false).await;
        assert_eq!(next(&mut link, "data").await["switch"], json!(0));
        world.press(true);
        assert_eq!(next(&mut link, "data").await["switch"], json!(1));
        world.press(false);
        assert_eq!(next(&mut link, "data").await["switch"], json!(0));
    })
    .await;
}

#[tokio::test]
async fn a_command_is_carried_out_once_and_acknowledged_each_time() {
    let gateway = Gateway::start().await;
    let flash = tempfile::tempdir().unwrap();
    let command = gateway.command("sensor_001", &json!({"action": "led", "value": 80}));
    let later = gateway.command("sensor_001", &json!({"action": "led", "value": 10}));
    with_device(
        &gateway,
        Kind::Dashboard,
        NEVER,
        Some(flash.path()),
        async |world| {
            let mut link = gateway.accept(false).await;
            link.send("command", &command).await;
            let ack = next(&mut link, "ack").await;
            assert_eq!(ack["status"], json!("done"));
            assert_eq!(world.led.get(), 204);
            link.send("command", &later).await;
            next(&mut link, "ack").await;
            assert_eq!(world.led.get(), 25);
            link.send("command", &command).await;
            let again = next(&mut link, "ack").await;
            assert_eq!(again["command_id"], ack["command_id"]);
            assert_eq!(again["status"], json!("done"));
            assert_eq!(world.led.get(), 25, "and nothing was done");
        },
    )
    .await;
    // The same flash after a power loss.
    with_device(
        &gateway,
        Kind::Dashboard,
        NEVER,
        Some(flash.path()),
        async |world| {
            let mut link = gateway.accept(true).await;
            link.send("command", &command).await;
            assert_eq!(next(&mut link, "ack").await["status"], json!("done"));
            assert_eq!(world.led.get(), 0, "an LED starts dark and stays so");
        },
    )
    .await;
}

#[tokio::test]
async fn what_is_not_the_gateways_command_is_not_done() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Gates, NEVER, None, async |world| {
        let mut link = gateway.accept(false).await;
        let turn_on = json!({"action": "relay", "name": "gate1", "value": "turn_on"});
        for command in [
            gateway.sign("sensor_001", b"another secret", &turn_on, 0),
            gateway.sign("sensor_001", gateway::SECRET, &turn_on, -400),
            gateway.sign("sensor_001", gateway::SECRET, &turn_on, 400),
            gateway.command("sensor_002", &turn_on),
            b"turn_on".to_vec(),
        ] {
            link.send("command", &command).await;
        }
        // Told apart by what comes after them.
        let other = json!({"action": "relay", "name": "gate2", "value": "turn_on"});
        link.send("command", &gateway.command("sensor_001", &other))
            .await;
        assert_eq!(next(&mut link, "ack").await["status"], json!("done"));
        assert_eq!(*world.relays.borrow(), [false, true]);
        let unknown = json!({"action": "fly"});
        link.send("command", &gateway.command("sensor_001", &unknown))
            .await;
        assert_eq!(next(&mut link, "ack").await["status"], json!("failed"));
    })
    .await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_the_same() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Gates, NEVER, None, async |_| {
        let mut link = gateway.accept(false).await;
        let (one, two) = (link.message().await, link.message().await);
        drop(link);
        let mut link = gateway.accept(true).await;
        for before in [one, two] {
            let again = link.message().await;
            assert!(again.dup && !before.dup);
            assert_eq!(again.bytes, before.bytes);
        }
    })
    .await;
}

#[tokio::test]
async fn readings_of_an_outage_arrive_later_in_order_and_none_is_missing() {
    let gateway = Gateway::start().await;
    let interval = Duration::from_millis(5);
    // The device stays away for up to a second more than the gateway, and for as long as this machine
    // is busy: there is room for twenty seconds.
    with_device(&gateway, Kind::Dashboard, interval, None, async |world| {
        let first = u64::from(World::POTENTIOMETER);
        let mut link = gateway.accept(false).await;
        let mut expected = first;
        let mut time = 0.0;
        let mut take = |message: &Message| {
            assert_ne!(message.payload["event"], json!("readings_lost"));
            if message.channel == "data" {
                assert_eq!(message.payload["pot"].as_u64(), Some(expected));
                let measured = message.payload["measured_at"].as_f64().unwrap();
                assert!(measured >= time);
                (expected, time) = (expected + 1, measured);
            }
            expected
        };
        while take(&acknowledged(&mut link).await) == first {}
        drop(link);
        // More than fits into RAM: the flash is part of it.
        while u64::from(world.potentiometer.get()) < first + 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut link = gateway.accept(true).await;
        while take(&acknowledged(&mut link).await) < first + 120 {}
    })
    .await;
}

#[tokio::test]
async fn what_was_lost_is_told_to_the_reading() {
    let gateway = Gateway::start().await;
    let interval = Duration::from_millis(2);
    let kind = Kind::Dashboard;
    with_buffer(
        SMALL_BUFFER,
        &gateway,
        kind,
        interval,
        None,
        async |world| {
            let first = u64::from(World::POTENTIOMETER);
            let link = gateway.accept(false).await;
            drop(link);
            while u64::from(world.potentiometer.get()) < first + 400 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let mut link = gateway.accept(true).await;
            let (mut missing, mut told, mut expected) = (0, 0, first);
            loop {
                let message = link.message().await;
                link.acknowledge(&message).await;
                if message.payload["event"] == json!("readings_lost") {
                    told += message.payload["count"].as_u64().unwrap();
                }
                if let Some(pot) = message.payload["pot"].as_u64() {
                    missing += pot - expected;
                    expected = pot + 1;
                }
                if expected > first + 420 {
                    break;
                }
            }
            assert!(missing > 50, "the oldest went, {missing} of them");
            assert_eq!(told, missing);
        },
    )
    .await;
}

#[tokio::test]
async fn new_credentials_are_tried_then_kept_and_bad_ones_given_up() {
    let gateway = Gateway::start().await;
    let flash = tempfile::tempdir().unwrap();
    with_device(
        &gateway,
        Kind::Gates,
        OFTEN,
        Some(flash.path()),
        async |_| {
            let mut link = gateway.accept(false).await;
            let (certificate, key) = gateway.renew("sensor_001");
            let renewal = json!({"action": "credentials", "certificate": certificate, "key": key});
            link.send("command", &gateway.command("sensor_001", &renewal))
                .await;
            let ack = next(&mut link, "ack").await;
            assert_eq!(ack["status"], json!("done"), "{ack}");
            drop_after_goodbye(link).await;
            let mut link = gateway.accept(true).await;
            assert_eq!(link.certificate, base64(&certificate), "the new one");
            loop {
                let event = next(&mut link, "event").await;
                if event["event"] == json!("credentials_renewed") {
                    break;
                }
            }
            // One that the gateway does not know, and so refuses.
            let (stranger, key) = Gateway::start().await.renew("sensor_001");
            let renewal = json!({"action": "credentials", "certificate": stranger, "key": key});
            link.send("command", &gateway.command("sensor_001", &renewal))
                .await;
            next(&mut link, "ack").await;
            drop_after_goodbye(link).await;
            for _ in 0..3 {
                assert!(
                    gateway.refuse().await,
                    "the stranger's certificate is refused"
                );
            }
            let mut link = gateway.accept(true).await;
            assert_eq!(
                link.certificate,
                base64(&certificate),
                "back to what worked"
            );
            loop {
                let event = next(&mut link, "event").await;
                if event["event"] == json!("credentials_refused") {
                    break;
                }
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_secret_that_the_gateway_does_not_know_costs_no_message() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Dashboard, OFTEN, None, async |_| {
        let mut link = gateway.accept(false).await;
        let first = u64::from(World::POTENTIOMETER);
        let renewal = json!({"action": "credentials", "secret": "not the gateway's secret"});
        link.send("command", &gateway.command("sensor_001", &renewal))
            .await;
        let mut expected = first;
        let mut take = |payload: &Value| {
            if let Some(pot) = payload["pot"].as_u64() {
                assert_eq!(pot, expected);
                expected = pot + 1;
            }
        };
        while let Some(message) = link.try_message().await {
            link.acknowledge(&message).await;
            take(&message.payload);
        }
        for _ in 0..3 {
            let mut link = gateway.accept(true).await;
            assert!(
                link.try_message().await.is_none(),
                "nothing that is signed with it is accepted"
            );
        }
        let mut link = gateway.accept(true).await;
        loop {
            let message = link.message().await;
            link.acknowledge(&message).await;
            take(&message.payload);
            if message.payload["event"] == json!("credentials_refused") {
                return;
            }
        }
    })
    .await;
}

/// Acknowledges what still comes until the device leaves.
async fn drop_after_goodbye(mut link: Link) {
    while let Some(message) = link.try_message().await {
        link.acknowledge(&message).await;
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64ct::Encoding;
    base64ct::Base64::decode_vec(text).unwrap()
}

#[tokio::test]
async fn a_reboot_is_acknowledged_first_and_told_after() {
    let gateway = Gateway::start().await;
    let flash = tempfile::tempdir().unwrap();
    with_device(
        &gateway,
        Kind::Gates,
        NEVER,
        Some(flash.path()),
        async |_| {
            let mut link = gateway.accept(false).await;
            let reboot = json!({"action": "reboot"});
            link.send("command", &gateway.command("sensor_001", &reboot))
                .await;
            assert_eq!(next(&mut link, "ack").await["status"], json!("done"));
            drop_after_goodbye(link).await;
            let mut link = gateway.accept(true).await;
            let boot = next(&mut link, "event").await;
            assert_eq!(boot["reason"], json!("software"));
            assert_eq!(boot["boots"], json!(2));
        },
    )
    .await;
}

#[tokio::test]
async fn a_restart_on_purpose_costs_no_reading() {
    let gateway = Gateway::start().await;
    let flash = tempfile::tempdir().unwrap();
    let flash = Some(flash.path());
    with_device(&gateway, Kind::Dashboard, OFTEN, flash, async |_| {
        let mut link = gateway.accept(false).await;
        let reboot = gateway.command("sensor_001", &json!({"action": "reboot"}));
        link.send("command", &reboot).await;
        // No reading is acknowledged: some are in flight, others wait in RAM when it gives up.
        while let Some(message) = link.try_message().await {
            if message.channel != "data" {
                link.acknowledge(&message).await;
            }
        }
        let mut link = gateway.accept(true).await;
        let mut expected = u64::from(World::POTENTIOMETER);
        while expected < u64::from(World::POTENTIOMETER) + 60 {
            let message = acknowledged(&mut link).await;
            assert_ne!(message.payload["event"], json!("readings_lost"));
            if message.channel == "data" {
                assert_eq!(message.payload["pot"].as_u64(), Some(expected));
                expected += 1;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn not_now_is_sent_again_signed_afresh_under_the_same_id() {
    let gateway = Gateway::start().await;
    with_device(&gateway, Kind::Gates, NEVER, None, async |_| {
        let mut link = gateway.accept(false).await;
        let first = link.message().await;
        link.refuse(&first, "rate_limited", 0x97).await;
        loop {
            let message = link.message().await;
            link.acknowledge(&message).await;
            if message.id == first.id {
                assert!(!message.dup);
                return;
            }
        }
    })
    .await;
}
