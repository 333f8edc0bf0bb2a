//! Devices that are let in and then behave badly: one that floods, one that never reads, one that
//! sends a message a byte per second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tidegate_mqtt::{QoS, Version};

use crate::{
    support::{
        Setup, envelope,
        mqtt::{Client, Hello, tls_config},
    },
    world::World,
};

/// How long each goes on.
const LASTS: Duration = Duration::from_secs(8);

/// What one connected device may make the gateway hold, KiB: its queue of 1 MiB, its buffers, and
/// what the allocator keeps of them.
const ONE_DEVICE_KIB: u64 = 32 * 1024;

fn hello(name: &str) -> Hello<'_> {
    Hello {
        client_id: name,
        keep_alive: 0,
        ..Hello::default()
    }
}

#[test]
fn a_device_that_floods() {
    let setup = Setup::new().device("flood");
    let world = World::start("a device that floods", setup, 2);
    let tls = tls_config(&world.gateway.bundle("flood"));
    let address = world.gateway.mqtt();
    let before = world.rss_kib();
    world.fault();
    let end = Instant::now() + LASTS;
    let (mut sent, mut cut) = (0_u64, 0_u32);
    // Not to be stored: 60 kB of what is no envelope, without reading what is answered.
    let body = vec![b'x'; 60_000];
    while Instant::now() < end {
        let Ok((mut client, _)) = Client::try_connect(address, &tls, &hello("flood")) else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        client.set_write_timeout(Duration::from_secs(1));
        while Instant::now() < end {
            let qos = if sent.is_multiple_of(2) {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            if client.send("device/flood/data", &body, qos).is_err() {
                cut += 1;
                break;
            }
            sent += 1;
        }
    }
    let memory = world.peak_kib().saturating_sub(before);
    println!(
        "a device that floods: {sent} messages of 60 kB, cut {cut} times, {memory} KiB at most"
    );
    assert!(memory < ONE_DEVICE_KIB, "{memory} KiB");
    world.recovers();
}

#[test]
fn a_subscriber_that_never_reads() {
    let setup = Setup::new()
        .device_with("deaf", "subscribe = [\"news/#\"]")
        .device_with(
            "herald",
            "publish = [\"news/#\"]\nmessages_per_second = 100000",
        );
    let world = World::start("a subscriber that never reads", setup, 2);
    let address = world.gateway.mqtt();
    let deaf_tls = tls_config(&world.gateway.bundle("deaf"));
    let (mut deaf, _) = Client::try_connect(address, &deaf_tls, &hello("deaf")).unwrap();
    assert_eq!(deaf.subscribe("news/#", QoS::AtLeastOnce), 1);
    let before = world.rss_kib();
    world.fault();
    let herald_tls = tls_config(&world.gateway.bundle("herald"));
    let (mut herald, _) = Client::try_connect(address, &herald_tls, &hello("herald")).unwrap();
    let body = vec![b'n'; 20_000];
    let end = Instant::now() + LASTS;
    let mut sent = 0;
    while Instant::now() < end {
        let (reason, why) = herald.publish("news/today", &body);
        assert!(
            reason < 0x80,
            "the herald is not to suffer: {reason:#04x} {why}"
        );
        sent += 1;
    }
    let memory = world.peak_kib().saturating_sub(before);
    println!("a subscriber that never reads: {sent} messages of 20 kB, {memory} KiB at most");
    assert!(
        sent > 100,
        "a stuck subscriber held up the publisher: {sent}"
    );
    assert!(memory < ONE_DEVICE_KIB, "{memory} KiB");
    drop(deaf);
    world.recovers();
}

#[test]
fn a_message_at_a_byte_per_second() {
    let setup = (0..8).fold(Setup::new(), |setup, n| setup.device(&format!("slow_{n}")));
    let world = World::start("a message at a byte per second", setup, 2);
    let address = world.gateway.mqtt();
    world.fault();
    let stop = Arc::new(AtomicBool::new(false));
    let bytes = Arc::new(AtomicU64::new(0));
    let slow: Vec<_> = (0..8)
        .map(|n| {
            let name = format!("slow_{n}");
            let tls = tls_config(&world.gateway.bundle(&name));
            let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
            thread::spawn(move || {
                let hello = Hello {
                    version: Version::V5,
                    ..hello(&name)
                };
                let (mut client, _) = Client::try_connect(address, &tls, &hello).unwrap();
                // A PUBLISH that says it has 60,000 bytes.
                let topic = format!("device/{name}/data");
                let mut packet = vec![
                    0x30,
                    0xe0,
                    0xd4,
                    0x03,
                    0,
                    u8::try_from(topic.len()).unwrap(),
                ];
                packet.extend(topic.as_bytes());
                packet.push(0);
                packet.extend(envelope(&name, r#"{"t":1}"#).as_bytes());
                for byte in packet {
                    if stop.load(Ordering::SeqCst) || client.raw(&[byte]).is_err() {
                        break;
                    }
                    bytes.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_secs(1));
                }
            })
        })
        .collect();
    thread::sleep(LASTS);
    world.tally.flows(50);
    stop.store(true, Ordering::SeqCst);
    for thread in slow {
        thread.join().unwrap();
    }
    println!(
        "a message at a byte per second: {} bytes in all",
        bytes.load(Ordering::SeqCst)
    );
    world.recovers();
}
