use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_wire::{Channel, Direction, Envelope, Limits, SigningKey, Version};

use super::*;
use crate::{
    config::Signing,
    registry::testing::{TestStore, store},
    store::commands::{Recorded, record_outcome},
};

const NOW: UnixMillis = UnixMillis(1_727_712_000_000);
const RULES: Rules = Rules {
    message_bytes: 64 * 1024,
    require_v2: false,
};
const SECRET: &[u8] = b"supersecretkey123";

fn device() -> Device {
    Device {
        secret: Some(Arc::new(SigningKey::new(SECRET).unwrap())),
        ..Device::new(DeviceKey(1), "sensor_001".parse().unwrap())
    }
}

fn order(body: &'static str) -> Order<'static> {
    Order {
        body: Bytes::from_static(body.as_bytes()),
        ttl: None,
        idempotency_key: None,
        by: "key:test",
    }
}

fn keyed(body: &'static str, key: &'static str) -> Order<'static> {
    Order {
        idempotency_key: Some(key),
        ..order(body)
    }
}

async fn commands() -> (Commands, TestStore, Arc<AtomicU32>) {
    let (store, told) = (store(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&told);
    let commands = Commands::open(store.clone(), RULES, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    })
    .await
    .unwrap();
    (commands, store, told)
}

async fn state(commands: &Commands, id: MessageId) -> State {
    commands
        .status(DeviceKey(1), id)
        .await
        .unwrap()
        .unwrap()
        .state
}

#[tokio::test]
async fn a_command_is_queued_sent_delivered_and_done() {
    let (commands, store, told) = commands().await;
    let device = device();
    assert!(!commands.waiting(device.key));
    let id = commands
        .queue(&device, order(r#"{"action":"reboot"}"#), NOW)
        .await
        .unwrap()
        .message_id;
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert!(commands.waiting(device.key));
    let pending = commands.pending(device.key, NOW).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!((pending[0].message_id, pending[0].attempts), (id, 0));

    commands.sent(device.key, vec![id], NOW).await.unwrap();
    assert_eq!(state(&commands, id).await, State::Sent);
    assert!(
        commands.pending(device.key, NOW).await.unwrap().is_empty(),
        "not twice to one connection"
    );
    commands.delivered(device.key, vec![id], NOW).await.unwrap();
    assert_eq!(state(&commands, id).await, State::Delivered);
    assert!(commands.pending(device.key, NOW).await.unwrap().is_empty());
    assert!(!commands.waiting(device.key));

    let ack = format!(r#"{{"command_id":"{id}","status":"done","detail":{{"uptime": 3}}}}"#);
    let recorded = store
        .write(move |conn| record_outcome(conn, DeviceKey(1), ack.as_bytes(), NOW))
        .await
        .unwrap();
    assert_eq!(recorded, Recorded::Settled(id, State::Done));
    let status = commands.status(device.key, id).await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.detail.as_deref()),
        (State::Done, Some(r#"{"uptime": 3}"#))
    );
    assert_eq!((status.attempts, status.finished_at), (1, Some(NOW)));
}

#[tokio::test]
async fn what_a_broken_connection_did_not_confirm_is_sent_again() {
    let (commands, store, _) = commands().await;
    let device = device();
    let id = commands
        .queue(&device, order("1"), NOW)
        .await
        .unwrap()
        .message_id;
    let first = commands.pending(device.key, NOW).await.unwrap().remove(0);
    let first_sent = commands.prepare(&first, &device, NOW).unwrap();
    commands.sent(device.key, vec![id], NOW).await.unwrap();
    commands.dropped(device.key).await.unwrap();
    assert_eq!(state(&commands, id).await, State::Queued);

    let later = UnixMillis(NOW.0 + 60_000);
    let again = commands.pending(device.key, later).await.unwrap().remove(0);
    assert_eq!((again.message_id, again.attempts), (id, 1));
    let again_sent = commands.prepare(&again, &device, later).unwrap();
    assert_ne!(first_sent.payload, again_sent.payload, "signed afresh");

    // And over a crash of the gateway.
    commands.sent(device.key, vec![id], later).await.unwrap();
    let restarted = Commands::open(store.clone(), RULES, |_| {}).await.unwrap();
    assert!(restarted.waiting(device.key));
    assert_eq!(
        restarted.pending(device.key, later).await.unwrap()[0].message_id,
        id
    );
}

#[tokio::test]
async fn order_is_kept() {
    let (commands, _store, _) = commands().await;
    let mut ids = Vec::new();
    for body in ["1", "2", "3"] {
        ids.push(
            commands
                .queue(&device(), order(body), NOW)
                .await
                .unwrap()
                .message_id,
        );
    }
    let pending = commands.pending(DeviceKey(1), NOW).await.unwrap();
    assert_eq!(
        pending.iter().map(|p| p.message_id).collect::<Vec<_>>(),
        ids
    );
    let recent = commands.recent(DeviceKey(1), 2).await.unwrap();
    assert_eq!(
        recent.iter().map(|c| c.message_id).collect::<Vec<_>>(),
        [ids[2], ids[1]]
    );
}

#[tokio::test]
async fn the_same_order_twice_is_one_command() {
    let (commands, _store, told) = commands().await;
    let device = device();
    let first = commands.queue(&device, keyed("1", "k"), NOW).await.unwrap();
    let again = commands.queue(&device, keyed("1", "k"), NOW).await.unwrap();
    assert_eq!((again.message_id, again.before), (first.message_id, true));
    assert_eq!(told.load(Ordering::Relaxed), 1);
    let conflict = commands.queue(&device, keyed("2", "k"), NOW).await;
    assert!(matches!(conflict, Err(CommandError::Conflict)));
    let longer = Order {
        ttl: Some(Duration::from_secs(5)),
        ..keyed("1", "k")
    };
    assert!(matches!(
        commands.queue(&device, longer, NOW).await,
        Err(CommandError::Conflict)
    ));
    let other_actor = Order {
        by: "key:other",
        ..keyed("1", "k")
    };
    assert!(
        !commands
            .queue(&device, other_actor, NOW)
            .await
            .unwrap()
            .before
    );
    let other_device = Device {
        key: DeviceKey(2),
        ..device.clone()
    };
    assert!(
        !commands
            .queue(&other_device, keyed("1", "k"), NOW)
            .await
            .unwrap()
            .before
    );
    // A repeated order is answered as before even when a new one would be refused.
    let disabled = Device {
        enabled: false,
        ..device
    };
    assert!(
        commands
            .queue(&disabled, keyed("1", "k"), NOW)
            .await
            .unwrap()
            .before
    );
    let refused = commands.queue(&disabled, keyed("1", "new"), NOW).await;
    assert!(matches!(refused, Err(CommandError::Disabled(_))));
}

#[tokio::test]
async fn a_devices_queue_is_bounded() {
    let (commands, _store, _) = commands().await;
    for _ in 0..MAX_WAITING {
        commands.queue(&device(), order("1"), NOW).await.unwrap();
    }
    assert!(matches!(
        commands.queue(&device(), order("1"), NOW).await,
        Err(CommandError::QueueFull(_))
    ));
    let other = Device {
        key: DeviceKey(2),
        ..device()
    };
    commands.queue(&other, order("1"), NOW).await.unwrap();
    let ids = commands.pending(DeviceKey(1), NOW).await.unwrap();
    commands
        .delivered(DeviceKey(1), vec![ids[0].message_id], NOW)
        .await
        .unwrap();
    commands.queue(&device(), order("1"), NOW).await.unwrap();
}

#[tokio::test]
async fn what_is_too_late_expires_and_what_is_old_is_forgotten() {
    let (commands, store, _) = commands().await;
    let device = device();
    let short = Order {
        ttl: Some(Duration::from_secs(10)),
        ..order("1")
    };
    let id = commands
        .queue(&device, short, NOW)
        .await
        .unwrap()
        .message_id;
    let kept = commands
        .queue(&device, order("2"), NOW)
        .await
        .unwrap()
        .message_id;
    let before = UnixMillis(NOW.0 + 9_999);
    let after = UnixMillis(NOW.0 + 10_000);
    assert_eq!(commands.expire(before).await.unwrap(), 0);
    assert_eq!(commands.pending(device.key, before).await.unwrap().len(), 2);
    assert_eq!(
        commands.pending(device.key, after).await.unwrap().len(),
        1,
        "never sent once it is late"
    );
    assert_eq!(commands.expire(after).await.unwrap(), 1);
    assert_eq!(commands.expire(after).await.unwrap(), 0);
    assert_eq!(
        (state(&commands, id).await, state(&commands, kept).await),
        (State::Expired, State::Queued)
    );

    // The device had it after all.
    let ack = format!(r#"{{"command_id":"{id}","status":"failed"}}"#);
    store
        .write(move |conn| record_outcome(conn, DeviceKey(1), ack.as_bytes(), after))
        .await
        .unwrap();
    assert_eq!(state(&commands, id).await, State::Failed);

    let much_later = UnixMillis(NOW.0 + millis(KEEP_SETTLED) + 1);
    commands.expire(much_later).await.unwrap();
    assert_eq!(commands.status(device.key, id).await.unwrap(), None);
}

#[tokio::test]
async fn outcomes_settle_only_commands_of_the_device_that_reports_them() {
    let (commands, store, _) = commands().await;
    let id = commands
        .queue(&device(), order("1"), NOW)
        .await
        .unwrap()
        .message_id;
    let report = |device: u32, payload: String| {
        let store = store.clone();
        async move {
            store
                .write(move |conn| record_outcome(conn, DeviceKey(device), payload.as_bytes(), NOW))
                .await
                .unwrap()
        }
    };
    let done = format!(r#"{{"command_id":"{id}","status":"done"}}"#);
    let failed = format!(r#"{{"command_id":"{id}","status":"failed"}}"#);
    assert_eq!(report(2, done.clone()).await, Recorded::Unknown(id));
    assert_eq!(state(&commands, id).await, State::Queued);
    for nonsense in ["", "1", "{}", r#"{"command_id":"x","status":"done"}"#, "{"] {
        assert_eq!(
            report(1, nonsense.to_owned()).await,
            Recorded::NotAnOutcome,
            "{nonsense}"
        );
    }
    assert_eq!(report(1, done).await, Recorded::Settled(id, State::Done));
    assert_eq!(
        report(1, failed).await,
        Recorded::Repeated(id),
        "the first one stands"
    );
    assert_eq!(state(&commands, id).await, State::Done);
    assert!(
        commands
            .pending(DeviceKey(1), NOW)
            .await
            .unwrap()
            .is_empty(),
        "done needs no sending"
    );
}

#[tokio::test]
async fn what_cannot_become_a_command_is_refused() {
    let (commands, _store, _) = commands().await;
    for body in ["", "{", "1 2", "nul", r#"{"a":1,"a":2}"#, "\u{feff}1"] {
        let order = Order {
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..order("")
        };
        let refused = commands.queue(&device(), order, NOW).await;
        assert!(
            matches!(refused, Err(CommandError::NotJson(_))),
            "{body}: {refused:?}"
        );
    }
    let large = Bytes::from(format!("\"{}\"", "x".repeat(64 * 1024)));
    let refused = commands
        .queue(
            &device(),
            Order {
                body: large,
                ..order("")
            },
            NOW,
        )
        .await;
    assert!(matches!(refused, Err(CommandError::TooLarge { .. })));
    for ttl in [
        Duration::ZERO,
        Duration::from_millis(999),
        MAX_TTL + Duration::from_secs(1),
    ] {
        let refused = commands
            .queue(
                &device(),
                Order {
                    ttl: Some(ttl),
                    ..order("1")
                },
                NOW,
            )
            .await;
        assert!(matches!(refused, Err(CommandError::Ttl)), "{ttl:?}");
    }
    let long = "k".repeat(256);
    for key in ["", "a b", "é", &long] {
        let order = Order {
            idempotency_key: Some(key),
            ..order("1")
        };
        let refused = commands.queue(&device(), order, NOW).await;
        assert!(
            matches!(refused, Err(CommandError::IdempotencyKey)),
            "{key}"
        );
    }
    let without = Device {
        secret: None,
        ..device()
    };
    let refused = commands.queue(&without, order("1"), NOW).await;
    assert!(matches!(
        refused,
        Err(CommandError::Unsendable(PrepareError::NoSecret(_)))
    ));
    assert!(!commands.waiting(DeviceKey(1)));
}

fn verify(prepared: &Prepared, expected: Version) {
    let mut slots = [0; 64];
    let envelope = Envelope::parse(&prepared.payload, &Limits::CONTRACT, &mut slots).unwrap();
    assert_eq!(envelope.version(), expected);
    assert_eq!(envelope.timestamp(), NOW.seconds());
    let key = SigningKey::new(SECRET).unwrap();
    envelope.verify(&key, Direction::Down, &mut slots).unwrap();
}

#[tokio::test]
async fn a_command_is_signed_in_the_version_its_device_speaks() {
    let (commands, store, _) = commands().await;
    let pending = Pending {
        message_id: MessageId::from_bytes([3; 16]),
        payload: Bytes::from_static(b"{ \"b\": 1.50, \"a\": 2 }"),
        expires_at: NOW,
        attempts: 0,
    };
    let device = device();
    let prepared = commands.prepare(&pending, &device, NOW).unwrap();
    assert_eq!(prepared.topic, *Channel::Command.topic(&device.id));
    verify(&prepared, Version::V1);
    device.note_accepted(Some(Version::V2), NOW);
    verify(
        &commands.prepare(&pending, &device, NOW).unwrap(),
        Version::V2,
    );
    let strict = Device {
        signing: Signing::V2,
        ..self::device()
    };
    verify(
        &commands.prepare(&pending, &strict, NOW).unwrap(),
        Version::V2,
    );
    let all_v2 = Commands::open(
        store.clone(),
        Rules {
            require_v2: true,
            ..RULES
        },
        |_| {},
    )
    .await
    .unwrap();
    verify(
        &all_v2.prepare(&pending, &self::device(), NOW).unwrap(),
        Version::V2,
    );
}

#[tokio::test]
async fn a_device_that_does_not_sign_gets_the_raw_form() {
    let (commands, _store, _) = commands().await;
    let device = Device {
        signing: Signing::None,
        command_topic: Some("gates/gate1/control".to_owned()),
        ..device()
    };
    for (body, raw) in [
        (r#""turn_on""#, "turn_on"),
        (r#""a\"b\u00e9""#, "a\"bé"),
        ("80", "80"),
        (" 1.50 ", "1.50"),
        ("true", "true"),
        (r#"{ "b": [1, 2], "a": "x y" }"#, r#"{"b":[1,2],"a":"x y"}"#),
    ] {
        let order = Order {
            body: Bytes::from_static(body.as_bytes()),
            ..order("")
        };
        let id = commands
            .queue(&device, order, NOW)
            .await
            .unwrap()
            .message_id;
        let pending = commands.pending(device.key, NOW).await.unwrap();
        let pending = pending.iter().find(|p| p.message_id == id).unwrap();
        let prepared = commands.prepare(pending, &device, NOW).unwrap();
        assert_eq!(prepared.topic, "gates/gate1/control");
        assert_eq!(prepared.payload, raw.as_bytes());
    }
    let nowhere = Device {
        command_topic: None,
        ..device
    };
    let refused = commands.queue(&nowhere, order("1"), NOW).await;
    assert!(matches!(
        refused,
        Err(CommandError::Unsendable(PrepareError::NoCommandTopic(_)))
    ));
}
