//! The body of a command: any JSON value that somebody with an API key sends, signed by the gateway
//! and read by the device.
//!
//! Input: a control byte (bit 0: the version it is signed in; the rest: what the device's id is made
//! of), then the body. Allocation: none, but for the raw form four times its size.

use tidegate_wire::command::{Ack, Receiver, receive};
use tidegate_wire::json::Fault;
use tidegate_wire::limits::{ENVELOPE_OVERHEAD, FRESHNESS_S, slots_for};
use tidegate_wire::{
    DeviceId, Direction, Draft, Limits, MessageId, Payload, Reason, SigningKey, Version,
};

use crate::allocation;
use crate::gateway::command::raw::raw_form;

/// # Panics
///
/// If something does not hold.
pub fn run(data: &[u8]) {
    let Some((&control, body)) = data.split_first() else {
        return;
    };
    let mut slots = vec![0; slots_for(body.len() + ENVELOPE_OVERHEAD)];
    let Ok(payload) = allocation::at_most(0, || Payload::parse(body, &mut slots)) else {
        return;
    };
    let version = if control & 1 == 0 {
        Version::V1
    } else {
        Version::V2
    };
    let id = "d-_9".repeat(16);
    let id = id.get(..usize::from(control >> 1) % 64 + 1).unwrap_or("d");
    let (Ok(device_id), Ok(key)) = (
        DeviceId::try_from(id),
        SigningKey::new(b"supersecretkey123"),
    ) else {
        panic!("a valid id and secret");
    };
    let now = 1_727_712_000;
    let message_id = MessageId::from_random([control; 16]);
    let draft = Draft {
        version,
        device_id: &device_id,
        timestamp: now,
        message_id,
        payload,
    };

    // Signing: within the room that is promised to suffice, and in not a byte less.
    let mut out = vec![0; payload.as_str().len() + ENVELOPE_OVERHEAD];
    let signed = allocation::at_most(0, || draft.sign_into(&key, Direction::Down, &mut out));
    let Ok(len) = signed else {
        panic!("{signed:?}: the promised room did not suffice");
    };
    assert!(
        draft
            .sign_into(&key, Direction::Down, &mut vec![0; len - 1])
            .is_err()
    );
    out.truncate(len);
    let Ok(longest) = DeviceId::try_from("x".repeat(64).as_str()) else {
        panic!("a valid id");
    };
    let widest = Draft {
        version: Version::V2,
        device_id: &longest,
        timestamp: u64::MAX,
        ..draft
    };
    let mut room = vec![0; payload.as_str().len() + ENVELOPE_OVERHEAD];
    let fits = widest.sign_into(&key, Direction::Down, &mut room);
    assert!(fits.is_ok(), "{fits:?}: the promised room did not suffice");

    // Receiving: the device accepts it and finds the same command in it.
    let receiver = Receiver {
        own: &device_id,
        key: &key,
        min_version: version,
        tolerance_s: FRESHNESS_S,
        limits: Limits {
            max_message: len,
            ..Limits::CONTRACT
        },
    };
    let received = allocation::at_most(0, || receive(&out, &receiver, now, &mut slots));
    let received = match received {
        Ok(received) => received,
        Err(reason) => panic!("the device refuses it: {reason:?}"),
    };
    assert_eq!(received.message_id(), message_id);
    let mut sent = Vec::new();
    payload.canonical(|piece| sent.extend_from_slice(piece));
    assert_eq!(received.payload().as_bytes(), sent);

    // Refusing: at another time, for another device, as data, and with any one bit changed.
    let late = receive(&out, &receiver, now + FRESHNESS_S + 1, &mut slots).map(drop);
    assert_eq!(late, Err(Reason::StaleTimestamp));
    let Ok(other) = DeviceId::try_from("somebody-else") else {
        panic!("a valid id");
    };
    let elsewhere = receive(
        &out,
        &Receiver {
            own: &other,
            ..receiver
        },
        now,
        &mut slots,
    );
    assert_eq!(elsewhere.map(drop), Err(Reason::IdentityMismatch));
    let reflected = received
        .into_inner()
        .verify(&key, Direction::Up, &mut slots)
        .is_ok();
    assert_eq!(reflected, version == Version::V1);
    tampered(&out, &receiver, control, now, &mut slots);

    outcome(&payload, message_id, &mut slots);
    raw(&payload, &sent);
}

/// The form for a device that knows no JSON: there is one for every command that was taken, and it
/// says the same.
fn raw(payload: &Payload<'_>, canonical: &[u8]) {
    // Blanks in it are gone from the canonical form.
    let limit = 4 * payload.as_bytes().len() + 256;
    let raw = allocation::at_most(limit, || raw_form(payload));
    let Some(raw) = raw else {
        panic!("no raw form of {payload}");
    };
    if payload.as_bytes().starts_with(b"\"") {
        let said = String::from_utf8_lossy(&raw);
        assert!(payload.is_string(&said), "{payload} is not {said:?}");
    } else {
        assert_eq!(raw, canonical);
    }
}

/// With a bit changed it is refused, or says the same: the case of a hex digit of the signature
/// means nothing, and neither does a member that is not called `device_id` any more, because a
/// device supplies its own id then.
fn tampered(message: &[u8], receiver: &Receiver<'_>, control: u8, now: u64, slots: &mut [u64]) {
    let Ok(sent) = receive(message, receiver, now, slots) else {
        return;
    };
    let mut changed = message.to_vec();
    let at = usize::from(control).wrapping_mul(0x9e37) % changed.len();
    changed[at] ^= 1 << (control % 5);
    if let Ok(read) = receive(&changed, receiver, now, slots) {
        assert_eq!(read.into_inner(), sent.into_inner(), "changed at byte {at}");
    }
}

/// What the device answers: read from any payload, and written with any detail.
fn outcome(payload: &Payload<'_>, command_id: MessageId, slots: &mut [u64]) {
    if let Ok(ack) = allocation::at_most(0, || Ack::parse(payload)) {
        written(&ack, slots);
    }
    let status = tidegate_wire::command::Status::Done;
    written(
        &Ack {
            command_id,
            status,
            detail: Some(*payload),
        },
        slots,
    );
}

fn written(ack: &Ack<'_>, slots: &mut [u64]) {
    let mut out = vec![0; 88 + ack.detail.map_or(0, |detail| detail.as_str().len())];
    let len = match allocation::at_most(0, || ack.write(&mut out)) {
        Ok(len) => len,
        Err(error) => panic!("the promised room did not suffice: {error}"),
    };
    match Payload::parse(&out[..len], slots).map(|payload| Ack::parse(&payload)) {
        Ok(Ok(read)) => assert_eq!((read.command_id, read.status), (ack.command_id, ack.status)),
        // One level deeper than the detail, which may already be as deep as is allowed.
        Err(error) => assert_eq!(error.fault, Fault::TooDeep, "{error}"),
        Ok(Err(error)) => panic!("not read back: {error}"),
    }
}
