//! Envelopes signed, sent, received, and tampered with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::node;
use proptest::prelude::*;
use tidegate_wire::command::{Receiver, receive};
use tidegate_wire::envelope::{Member, Problem};
use tidegate_wire::limits::{ENVELOPE_OVERHEAD, slots_for};
use tidegate_wire::{
    DeviceId, Direction, Draft, Envelope, Limits, MessageId, Payload, Reason, SigningKey, Version,
};

const SECRET: &[u8] = b"supersecretkey123";
const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

fn key() -> SigningKey {
    SigningKey::new(SECRET).unwrap()
}

fn sign(
    version: Version,
    direction: Direction,
    device: &str,
    timestamp: u64,
    message_id: MessageId,
    payload: &str,
) -> Vec<u8> {
    let mut slots = vec![0; slots_for(payload.len())];
    let draft = Draft {
        version,
        device_id: &device.try_into().unwrap(),
        timestamp,
        message_id,
        payload: Payload::parse(payload.as_bytes(), &mut slots).unwrap(),
    };
    let mut out = vec![0; payload.len() + ENVELOPE_OVERHEAD];
    let len = draft.sign_into(&key(), direction, &mut out).unwrap();
    // Not one byte less would have been enough, and that is told.
    assert!(
        draft
            .sign_into(&key(), direction, &mut out[..len - 1])
            .is_err()
    );
    draft.sign_into(&key(), direction, &mut out).unwrap();
    out.truncate(len);
    out
}

/// Whether a message is accepted, or why not.
fn judge(bytes: &[u8], direction: Direction) -> Result<(), Reason> {
    let mut slots = vec![0; slots_for(bytes.len())];
    let envelope = Envelope::parse(bytes, &Limits::CONTRACT, &mut slots)?;
    envelope.verify(&key(), direction, &mut slots)?;
    Ok(())
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![Version::V1, Version::V2])
}

fn direction() -> impl Strategy<Value = Direction> {
    prop::sample::select(vec![Direction::Up, Direction::Down])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_signed_is_accepted(
        version in version(),
        direction in direction(),
        device in "[A-Za-z0-9_-]{1,64}",
        timestamp in any::<u64>(),
        message_id in any::<[u8; 16]>(),
        payload in node(5),
        seed in any::<u64>(),
    ) {
        let id = MessageId::from_bytes(message_id);
        let bytes = sign(version, direction, &device, timestamp, id, &payload.spaced(seed));
        let mut slots = vec![0; slots_for(bytes.len())];
        let envelope = Envelope::parse(&bytes, &Limits::CONTRACT, &mut slots).unwrap();
        let verified = envelope.verify(&key(), direction, &mut slots).unwrap();
        prop_assert_eq!(verified.version(), version);
        prop_assert_eq!(verified.device_id(), &device);
        prop_assert_eq!(verified.timestamp(), timestamp);
        prop_assert_eq!(verified.message_id(), id);
        prop_assert_eq!(verified.payload().as_str(), payload.compact());
        // What it says is what an ordinary JSON reader finds in it.
        let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(read["device_id"].as_str(), Some(device.as_str()));
        prop_assert_eq!(read["timestamp"].as_u64(), Some(timestamp));
        prop_assert_eq!(read["message_id"].as_str(), Some(verified.message_id_text()));
        // Another key, and in version 2 the other direction, are refused.
        let other = SigningKey::new(b"supersecretkey124").unwrap();
        prop_assert!(envelope.verify(&other, direction, &mut slots).is_err());
        let reflected = if direction == Direction::Up { Direction::Down } else { Direction::Up };
        let reflected = envelope.verify(&key(), reflected, &mut slots);
        prop_assert_eq!(reflected.is_ok(), version == Version::V1);
    }

    #[test]
    fn sorted_signatures_are_version_1s_only(payload in node(5), seed in any::<u64>()) {
        for version in [Version::V1, Version::V2] {
            // Signed over the sorted form, sent in another order.
            let id = ID.parse().unwrap();
            let signed = sign(version, Direction::Up, "sensor_001", 1, id, &payload.sorted());
            let signed = String::from_utf8(signed).unwrap();
            let sent = signed.replace(
                &format!("\"payload\":{}", payload.sorted()),
                &format!("\"payload\":{}", payload.spaced(seed)),
            );
            let as_sent = payload.compact() == payload.sorted();
            let accepted = judge(sent.as_bytes(), Direction::Up).is_ok();
            prop_assert_eq!(accepted, as_sent || version == Version::V1);
        }
    }

    #[test]
    fn a_flipped_bit_is_refused(
        version in version(),
        payload in node(3),
        place in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let id = ID.parse().unwrap();
        let mut bytes = sign(version, Direction::Up, "sensor_001", 1_727_712_000, id, &payload.compact());
        let at = place.index(bytes.len());
        let before = bytes[at];
        bytes[at] ^= 1 << bit;
        match judge(&bytes, Direction::Up) {
            Err(Reason::Malformed | Reason::BadSignature | Reason::UnsupportedVersion) => {}
            // The one change that means nothing: hex digits of the signature in upper case.
            Ok(()) => {
                prop_assert!(at >= bytes.len() - 66, "accepted with a change at {}", at);
                prop_assert_eq!(bytes[at].to_ascii_lowercase(), before);
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), slots in 0..9usize) {
        let mut slots = vec![0; slots];
        if let Ok(envelope) = Envelope::parse(&bytes, &Limits::CONTRACT, &mut slots) {
            let _ = envelope.verify(&key(), Direction::Up, &mut slots);
        }
    }

    #[test]
    fn no_mutation_panics(
        payload in node(3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        slots in 0..64usize,
    ) {
        let id = ID.parse().unwrap();
        let mut bytes = sign(Version::V1, Direction::Up, "a", 1, id, &payload.compact());
        for (place, byte) in changes {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        let mut slots = vec![0; slots];
        if let Ok(envelope) = Envelope::parse(&bytes, &Limits::CONTRACT, &mut slots) {
            let _ = envelope.verify(&key(), Direction::Up, &mut slots);
        }
    }
}

/// An envelope of these members, in this order.
fn envelope_of(members: &[(&str, &str)]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

const ZEROS: &str = "\"0000000000000000000000000000000000000000000000000000000000000000\"";
const GOOD: [(&str, &str); 5] = [
    ("device_id", "\"sensor_001\""),
    ("timestamp", "1727712000"),
    ("message_id", "\"550e8400-e29b-41d4-a716-446655440000\""),
    ("payload", "1"),
    ("signature", ZEROS),
];

fn problem(text: &str) -> Option<Problem> {
    let mut slots = vec![0; slots_for(text.len())];
    Envelope::parse(text.as_bytes(), &Limits::CONTRACT, &mut slots)
        .err()
        .map(|error| error.problem)
}

fn replaced(member: &str, value: &str) -> String {
    let members = GOOD.map(|(name, good)| (name, if name == member { value } else { good }));
    envelope_of(&members)
}

#[test]
fn members_have_one_form_each() {
    assert_eq!(problem(&envelope_of(&GOOD)), None);
    for (member, name, wrong) in [
        (
            Member::DeviceId,
            "device_id",
            vec![
                "1",
                "null",
                "\"\"",
                "\"a b\"",
                "\"a/b\"",
                "\"sensor\\u005f001\"",
                "\"é\"",
                "[\"a\"]",
            ],
        ),
        (
            Member::Timestamp,
            "timestamp",
            vec![
                "\"1\"",
                "1.0",
                "1e9",
                "-1",
                "-0",
                "18446744073709551616",
                "null",
                "[1]",
            ],
        ),
        (
            Member::MessageId,
            "message_id",
            vec![
                "1",
                "\"\"",
                "\"550e8400e29b41d4a716446655440000\"",
                "\"\\u00350e8400-e29b-41d4-a716-446655440000\"",
                "null",
            ],
        ),
        (
            Member::Signature,
            "signature",
            vec![
                "\"\"",
                "\"00\"",
                "0",
                "null",
                "\"000000000000000000000000000000000000000000000000000000000000000\"",
                "\"00000000000000000000000000000000000000000000000000000000000000000\"",
                "\"000000000000000000000000000000000000000000000000000000000000000g\"",
                "\"\\u003000000000000000000000000000000000000000000000000000000000000000\"",
            ],
        ),
    ] {
        for value in wrong {
            assert_eq!(
                problem(&replaced(name, value)),
                Some(Problem::Wrong(member)),
                "{name} {value}"
            );
        }
        let without: Vec<_> = GOOD
            .into_iter()
            .filter(|(other, _)| *other != name)
            .collect();
        assert_eq!(
            problem(&envelope_of(&without)),
            Some(Problem::Missing(member))
        );
    }
    assert_eq!(
        problem(&envelope_of(&[GOOD[0], GOOD[1], GOOD[2], GOOD[4]])),
        Some(Problem::Missing(Member::Payload))
    );
    assert_eq!(problem("{}"), Some(Problem::Missing(Member::DeviceId)));
    assert_eq!(
        problem(&replaced("timestamp", "18446744073709551615")),
        None
    );
    for payload in ["null", "\"x\"", "{}", "[ ]", "-0.0e+9"] {
        assert_eq!(problem(&replaced("payload", payload)), None, "{payload}");
    }
}

#[test]
fn versions() {
    let with = |v: &str| {
        let mut members = vec![("v", v)];
        members.extend(GOOD);
        problem(&envelope_of(&members))
    };
    for (v, expected) in [
        ("1", None),
        ("2", None),
        ("0", Some(Problem::UnsupportedVersion)),
        ("3", Some(Problem::UnsupportedVersion)),
        ("-1", Some(Problem::UnsupportedVersion)),
        ("99999999999999999999", Some(Problem::UnsupportedVersion)),
        ("1.0", Some(Problem::Wrong(Member::V))),
        ("2e0", Some(Problem::Wrong(Member::V))),
        ("\"2\"", Some(Problem::Wrong(Member::V))),
        ("null", Some(Problem::Wrong(Member::V))),
    ] {
        assert_eq!(with(v), expected, "{v}");
    }
    // A later version may look quite different, and is still told apart from nonsense.
    assert_eq!(problem("{\"v\":3}"), Some(Problem::UnsupportedVersion));
}

#[test]
fn members_twice_are_refused_and_unknown_ones_ignored() {
    let with = |name, value| {
        let mut members = GOOD.to_vec();
        members.insert(2, (name, value));
        problem(&envelope_of(&members))
    };
    assert_eq!(with("extra", "{\"a\":[1,{}]}"), None);
    let is_json_fault = |problem: Option<Problem>| matches!(problem, Some(Problem::Json(_)));
    for name in ["device_id", "payload", "device\\u005fid", "\\u0073ignature"] {
        assert!(is_json_fault(with(name, "1")), "{name}");
    }
    assert!(is_json_fault(with("extra", "{\"a\":1,\"a\":1}")));
    assert!(is_json_fault(with("x\":1,\"\\u0078", "1")));
    let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
    assert!(is_json_fault(with("extra", &deep)));
    // A known member under an escaped name is that member.
    let escaped = envelope_of(&GOOD).replace("\"timestamp\"", "\"time\\u0073tamp\"");
    assert_eq!(problem(&escaped), None);
}

#[test]
fn the_rejection_is_reported_under_the_id_that_was_sent() {
    let upper = ID.to_ascii_uppercase();
    let text = replaced("message_id", &format!("\"{upper}\"")).replace("sensor_001", "no good");
    let error = Envelope::parse(text.as_bytes(), &Limits::CONTRACT, &mut [0; 8]).unwrap_err();
    assert_eq!(error.reason(), Reason::Malformed);
    assert_eq!(error.message_id, Some(upper.as_str()));
    // The signing input has the sender's spelling, the identity is the value.
    let text = replaced("message_id", &format!("\"{upper}\""));
    let envelope = Envelope::parse(text.as_bytes(), &Limits::CONTRACT, &mut [0; 8]).unwrap();
    assert_eq!(envelope.message_id(), ID.parse().unwrap());
    let mut input = Vec::new();
    envelope.signing_input(Direction::Up, |piece| input.extend_from_slice(piece));
    assert!(String::from_utf8(input).unwrap().contains(&upper));
}

#[test]
fn the_overhead_is_what_the_longest_members_take() {
    let device = "x".repeat(64);
    let id = ID.parse().unwrap();
    let longest = sign(Version::V2, Direction::Down, &device, u64::MAX, id, "12345");
    assert_eq!(longest.len(), 5 + ENVELOPE_OVERHEAD);
}

#[test]
fn too_large_comes_before_everything() {
    let limits = Limits {
        max_message: 16,
        ..Limits::CONTRACT
    };
    let error = Envelope::parse(b"not json, and long", &limits, &mut []).unwrap_err();
    assert_eq!(error.reason(), Reason::PayloadTooLarge);
    let error = Envelope::parse(b"not json", &limits, &mut []).unwrap_err();
    assert_eq!(error.reason(), Reason::Malformed);
}

#[test]
fn version_1_has_the_hole_version_2_closes() {
    let id = ID.parse().unwrap();
    for (version, accepted) in [(Version::V1, true), (Version::V2, false)] {
        let bytes = sign(version, Direction::Up, "sensor_001", 727_712_000, id, "1");
        let shifted = String::from_utf8(bytes)
            .unwrap()
            .replace("sensor_001", "sensor_00")
            .replace("727712000", "1727712000");
        assert_eq!(
            judge(shifted.as_bytes(), Direction::Up).is_ok(),
            accepted,
            "{version:?}"
        );
    }
}

#[test]
fn a_device_receives_its_commands_and_no_others() {
    let own: DeviceId = "sensor_001".try_into().unwrap();
    let key = key();
    let receiver = Receiver {
        own: &own,
        key: &key,
        min_version: Version::V1,
        tolerance_s: 300,
        limits: Limits::CONTRACT,
    };
    let now = 1_727_712_000;
    let id = ID.parse().unwrap();
    let payload = r#"{"action":"reboot"}"#;
    let command = |version, direction, device| sign(version, direction, device, now, id, payload);
    let told = |bytes: &[u8], receiver: &Receiver<'_>, now| {
        let verified = receive(bytes, receiver, now, &mut [0; 32])?;
        let action = verified.payload().member("action");
        assert!(action.is_some_and(|action| action.is_string("reboot")));
        Ok(())
    };

    let v2 = command(Version::V2, Direction::Down, "sensor_001");
    let v1 = command(Version::V1, Direction::Down, "sensor_001");
    assert_eq!(told(&v2, &receiver, now), Ok(()));
    assert_eq!(told(&v1, &receiver, now + 300), Ok(()));
    assert_eq!(told(&v2, &receiver, now + 301), Err(Reason::StaleTimestamp));
    let modern = Receiver {
        min_version: Version::V2,
        ..receiver
    };
    assert_eq!(told(&v2, &modern, now), Ok(()));
    assert_eq!(told(&v1, &modern, now), Err(Reason::UnsupportedVersion));
    let reflected = command(Version::V2, Direction::Up, "sensor_001");
    assert_eq!(told(&reflected, &receiver, now), Err(Reason::BadSignature));
    let others = command(Version::V2, Direction::Down, "sensor_002");
    assert_eq!(told(&others, &receiver, now), Err(Reason::IdentityMismatch));
    // The seed document's commands do not name the device, yet are signed with its id.
    let nameless = String::from_utf8(v1)
        .unwrap()
        .replace("\"device_id\":\"sensor_001\",", "");
    assert_eq!(told(nameless.as_bytes(), &receiver, now), Ok(()));
    assert_eq!(
        judge(nameless.as_bytes(), Direction::Down),
        Err(Reason::Malformed)
    );
}
