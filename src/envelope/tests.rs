//! Each reason of the wire contract, in its order.

use std::sync::Arc;

use proptest::prelude::*;
use tidegate_wire::{Draft, Payload, SigningKey};

use super::*;

const NOW: UnixMillis = UnixMillis(1_727_712_000_500);
const KEY: DigestKey = DigestKey([7; 16]);
const SECRET: &[u8] = b"supersecretkey123";

/// A message as [`verify`] would have made it, for tests of what comes after.
pub(crate) fn verified(
    device: u32,
    message_id: u128,
    timestamp: u64,
    received_at: UnixMillis,
    kind: Kind,
    payload: &[u8],
) -> Verified<'_> {
    Verified {
        device: DeviceKey(device),
        id: "sensor_001".try_into().unwrap(),
        kind,
        message_id: MessageId::from_bytes(message_id.to_be_bytes()),
        timestamp,
        received_at,
        payload,
        digest: payload.iter().fold(9, |digest: u64, byte| {
            digest.wrapping_mul(31) + u64::from(*byte)
        }),
        signed: Some(Version::V2),
    }
}

/// The same, of a device that does not sign.
pub(crate) fn unsigned(
    device: u32,
    message_id: u128,
    received_at: UnixMillis,
) -> Verified<'static> {
    let mut message = verified(
        device,
        message_id,
        received_at.seconds(),
        received_at,
        Kind::Data,
        b"on",
    );
    message.signed = None;
    message
}

fn device() -> Device {
    Device {
        signing: Signing::Any,
        secret: Some(Arc::new(SigningKey::new(SECRET).unwrap())),
        ..Device::new(DeviceKey(3), identity())
    }
}

fn identity() -> DeviceId {
    "sensor_001".try_into().unwrap()
}

fn context<'c>(device: Option<&'c Device>, identity: &'c DeviceId) -> Context<'c> {
    Context {
        device,
        identity,
        kind: Kind::Data,
        now: NOW,
        freshness: Duration::from_secs(300),
        require_v2: false,
        max_bytes: 4096,
        digest_key: &KEY,
    }
}

fn signed(version: Version, timestamp: u64, payload: &[u8]) -> Vec<u8> {
    let mut slots = [0; 256];
    let draft = Draft {
        version,
        device_id: &identity(),
        timestamp,
        message_id: "550e8400-e29b-41d4-a716-446655440000".try_into().unwrap(),
        payload: Payload::parse(payload, &mut slots).unwrap(),
    };
    let mut out = vec![0; 4096];
    let len = draft
        .sign_into(&SigningKey::new(SECRET).unwrap(), Direction::Up, &mut out)
        .unwrap();
    out.truncate(len);
    out
}

fn reason(raw: &[u8], context: &Context<'_>) -> Reason {
    verify(raw, context).unwrap_err().reason
}

#[test]
fn a_good_message_keeps_its_payload_and_its_times() {
    for version in [Version::V1, Version::V2] {
        let raw = signed(version, NOW.seconds() - 5, br#"{"temperature":22.50}"#);
        let (device, identity) = (device(), identity());
        let message = verify(&raw, &context(Some(&device), &identity)).unwrap();
        assert_eq!(
            message.payload(),
            br#"{"temperature":22.50}"#,
            "digits as they were sent"
        );
        assert_eq!(message.timestamp(), NOW.seconds() - 5);
        assert_eq!(message.received_at(), NOW);
        assert_eq!(message.device_key(), DeviceKey(3));
        assert_eq!(message.version(), Some(version));
    }
}

#[test]
fn every_reason_comes_before_the_next() {
    let (known, identity) = (device(), identity());
    let disabled = Device {
        enabled: false,
        ..device()
    };
    let strict = Device {
        signing: Signing::V2,
        ..device()
    };
    let other: DeviceId = "sensor_002".try_into().unwrap();
    // Everything is wrong with this message but its form: which reason is given depends on what is
    // put right.
    let mut bad = signed(Version::V1, NOW.seconds() - 301, b"1");
    let end = bad.len() - 3;
    bad[end] = if bad[end] == b'0' { b'1' } else { b'0' };

    let small = Context {
        max_bytes: bad.len() - 1,
        ..context(None, &other)
    };
    assert_eq!(reason(&bad, &small), Reason::PayloadTooLarge);
    assert_eq!(reason(&bad[1..], &context(None, &other)), Reason::Malformed);
    let v2 = Context {
        require_v2: true,
        ..context(None, &other)
    };
    assert_eq!(reason(&bad, &v2), Reason::UnsupportedVersion);
    assert_eq!(
        reason(&bad, &context(Some(&strict), &identity)),
        Reason::UnsupportedVersion
    );
    assert_eq!(reason(&bad, &context(None, &other)), Reason::UnknownDevice);
    assert_eq!(
        reason(&bad, &context(Some(&disabled), &other)),
        Reason::DisabledDevice
    );
    assert_eq!(
        reason(&bad, &context(Some(&known), &other)),
        Reason::IdentityMismatch
    );
    assert_eq!(
        reason(&bad, &context(Some(&known), &identity)),
        Reason::StaleTimestamp
    );
    let then = Context {
        now: UnixMillis(NOW.0 - 1_000),
        ..context(Some(&known), &identity)
    };
    assert_eq!(reason(&bad, &then), Reason::BadSignature);
    let rejection = verify(&bad, &then).unwrap_err();
    assert_eq!(
        rejection.message_id,
        Some("550e8400-e29b-41d4-a716-446655440000".try_into().unwrap()),
        "a rejection can be reported under its id"
    );
}

#[test]
fn a_device_without_a_secret_cannot_have_signed() {
    let silent = Device {
        secret: None,
        ..device()
    };
    let raw = signed(Version::V2, NOW.seconds(), b"1");
    assert_eq!(
        reason(&raw, &context(Some(&silent), &identity())),
        Reason::BadSignature
    );
}

#[test]
fn a_command_sent_back_as_data_is_refused() {
    let mut slots = [0; 64];
    let draft = Draft {
        version: Version::V2,
        device_id: &identity(),
        timestamp: NOW.seconds(),
        message_id: "550e8400-e29b-41d4-a716-446655440000".try_into().unwrap(),
        payload: Payload::parse(br#"{"relay":"on"}"#, &mut slots).unwrap(),
    };
    let mut out = [0; 512];
    let key = SigningKey::new(SECRET).unwrap();
    let len = draft.sign_into(&key, Direction::Down, &mut out).unwrap();
    assert_eq!(
        reason(&out[..len], &context(Some(&device()), &identity())),
        Reason::BadSignature
    );
}

#[test]
fn freshness_is_inclusive_either_way() {
    let (device, identity) = (device(), identity());
    for (timestamp, good) in [
        (NOW.seconds() - 300, true),
        (NOW.seconds() + 300, true),
        (NOW.seconds() - 301, false),
        (NOW.seconds() + 301, false),
    ] {
        let raw = signed(Version::V2, timestamp, b"1");
        assert_eq!(
            verify(&raw, &context(Some(&device), &identity)).is_ok(),
            good
        );
    }
}

#[test]
fn a_raw_body_is_accepted_only_from_a_device_that_need_not_sign() {
    let id = MessageId::from_bytes([1; 16]);
    let identity = identity();
    let raw = Device {
        signing: Signing::None,
        secret: None,
        ..device()
    };
    let message = accept_unsigned(b"turn_on", &context(Some(&raw), &identity), id).unwrap();
    assert_eq!(
        (message.payload(), message.version()),
        (&b"turn_on"[..], None)
    );
    assert_eq!(message.timestamp(), NOW.seconds());
    let refused = |device: Option<&Device>, identity: &DeviceId, max_bytes| {
        let context = Context {
            max_bytes,
            ..context(device, identity)
        };
        accept_unsigned(b"turn_on", &context, id)
            .unwrap_err()
            .reason
    };
    let other: DeviceId = "sensor_002".try_into().unwrap();
    let disabled = Device {
        enabled: false,
        ..device()
    };
    assert_eq!(refused(Some(&raw), &identity, 6), Reason::PayloadTooLarge);
    assert_eq!(refused(None, &identity, 4096), Reason::UnknownDevice);
    assert_eq!(
        refused(Some(&disabled), &identity, 4096),
        Reason::DisabledDevice
    );
    assert_eq!(refused(Some(&raw), &other, 4096), Reason::IdentityMismatch);
    assert_eq!(
        refused(Some(&device()), &identity, 4096),
        Reason::BadSignature
    );
}

proptest! {
    #[test]
    fn any_changed_byte_changes_the_digest_or_is_refused(at in 0_usize..200, bit in 0_u8..8) {
        let (device, identity) = (device(), identity());
        let context = context(Some(&device), &identity);
        let raw = signed(Version::V2, NOW.seconds(), br#"{"a":1,"b":[true,null]}"#);
        let digest = verify(&raw, &context).unwrap().digest();
        let mut changed = raw.clone();
        let at = at % changed.len();
        changed[at] ^= 1 << bit;
        if let Ok(message) = verify(&changed, &context) {
            // Only what does not mean anything may differ: the case of the signature's digits.
            prop_assert!(changed.eq_ignore_ascii_case(&raw), "byte {at}");
            prop_assert_ne!(message.digest(), digest);
        }
    }

    #[test]
    fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        let (device, identity) = (device(), identity());
        prop_assert!(verify(&raw, &context(Some(&device), &identity)).is_err());
    }
}
