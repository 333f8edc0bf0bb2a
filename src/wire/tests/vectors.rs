//! Every vector in `tests/vectors/envelope.json`, which was made independently of this crate.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::Value;
use tidegate_wire::limits::slots_for;
use tidegate_wire::{Direction, Draft, Envelope, Limits, Payload, Reason, SigningKey, fresh};

/// Members a vector may have; one that is not known here would be a rule nobody checks.
const KNOWN: [&str; 11] = [
    "name",
    "rule",
    "version",
    "direction",
    "secret",
    "signing_input",
    "signature",
    "envelope",
    "valid",
    "reason",
    "note",
];

struct Vectors {
    device_id: String,
    now: u64,
    vectors: Vec<Value>,
}

fn vectors() -> Vectors {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/envelope.json"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    Vectors {
        device_id: file["device_id"].as_str().unwrap().into(),
        now: file["now"].as_u64().unwrap(),
        vectors: file["vectors"].as_array().unwrap().clone(),
    }
}

fn field<'v>(vector: &'v Value, name: &str) -> &'v str {
    vector[name]
        .as_str()
        .unwrap_or_else(|| panic!("{} has no text `{name}`", vector["name"]))
}

fn direction(vector: &Value) -> Direction {
    match field(vector, "direction") {
        "up" => Direction::Up,
        "down" => Direction::Down,
        other => panic!("direction {other}"),
    }
}

fn key(vector: &Value) -> SigningKey {
    SigningKey::new(field(vector, "secret").as_bytes()).unwrap()
}

fn signing_input(envelope: &Envelope<'_>, vector: &Value) -> String {
    let mut input = Vec::new();
    envelope.signing_input(direction(vector), |piece| input.extend_from_slice(piece));
    String::from_utf8(input).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checks of the contract that need no state but the time: form, freshness, signature. The
/// connection is taken to be that of the device the message names.
fn judge<'a>(
    bytes: &'a [u8],
    now: u64,
    signed: impl FnOnce(&Envelope<'a>, &mut [u64]) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let mut slots = vec![0; slots_for(bytes.len())];
    let envelope = Envelope::parse(bytes, &Limits::CONTRACT, &mut slots)?;
    if !fresh(envelope.timestamp(), now, 300) {
        return Err(Reason::StaleTimestamp);
    }
    signed(&envelope, &mut slots)
}

#[test]
fn every_vector_is_judged_as_it_says() {
    let file = vectors();
    assert!(file.vectors.len() >= 37, "vectors were lost");
    for vector in &file.vectors {
        let name = field(vector, "name");
        for member in vector.as_object().unwrap().keys() {
            assert!(KNOWN.contains(&member.as_str()), "{name}: unknown {member}");
        }
        let result = judge(
            field(vector, "envelope").as_bytes(),
            file.now,
            |envelope, slots| {
                let version = u64::from(envelope.version().number());
                assert_eq!(vector["version"].as_u64(), Some(version), "{name}");
                envelope.verify(&key(vector), direction(vector), slots)?;
                Ok(())
            },
        );
        if vector["valid"].as_bool().unwrap() {
            assert_eq!(result, Ok(()), "{name}");
            let envelope: Value = serde_json::from_str(field(vector, "envelope")).unwrap();
            assert_eq!(envelope["device_id"], file.device_id.as_str(), "{name}");
        } else {
            let reason = Reason::from_code(field(vector, "reason"))
                .unwrap_or_else(|| panic!("{name}: unknown reason"));
            assert_eq!(result, Err(reason), "{name}");
        }
    }
}

#[test]
fn signing_inputs_and_signatures_are_the_ones_given() {
    let mut checked = 0;
    for vector in &vectors().vectors {
        let name = field(vector, "name");
        if !vector["valid"].as_bool().unwrap() {
            continue;
        }
        let text = field(vector, "envelope");
        let mut slots = vec![0; slots_for(text.len())];
        let envelope = Envelope::parse(text.as_bytes(), &Limits::CONTRACT, &mut slots).unwrap();
        let signature = field(vector, "signature").to_ascii_lowercase();
        assert_eq!(hex(envelope.signature()), signature, "{name}");
        let given = field(vector, "signing_input");
        match field(vector, "rule") {
            "as-sent" => assert_eq!(signing_input(&envelope, vector), given, "{name}"),
            "sorted" => {
                let mut sorted = Vec::new();
                envelope
                    .payload()
                    .sorted(&mut slots, |piece| sorted.extend_from_slice(piece))
                    .unwrap();
                let sorted = String::from_utf8(sorted).unwrap();
                assert!(given.ends_with(&sorted), "{name}: {sorted}");
                assert_ne!(signing_input(&envelope, vector), given, "{name}");
                // It is the scratch slots that make the sorted form possible, and only that.
                let starved = envelope.verify(&key(vector), direction(vector), &mut []);
                assert!(starved.is_err(), "{name}");
            }
            other => panic!("{name}: unknown rule {other}"),
        }
        checked += 1;
    }
    assert!(checked >= 16, "only {checked} vectors carry a signature");
}

#[test]
fn what_is_signed_here_is_what_the_vectors_hold() {
    let mut same = 0;
    for vector in &vectors().vectors {
        let name = field(vector, "name");
        if !vector["valid"].as_bool().unwrap() || vector["rule"] != "as-sent" {
            continue;
        }
        let text = field(vector, "envelope");
        let mut slots = vec![0; slots_for(text.len())];
        let envelope = Envelope::parse(text.as_bytes(), &Limits::CONTRACT, &mut slots).unwrap();
        let draft = Draft {
            version: envelope.version(),
            device_id: &envelope.device_id().try_into().unwrap(),
            timestamp: envelope.timestamp(),
            message_id: envelope.message_id(),
            payload: envelope.payload(),
        };
        let mut buffer = [0; 1024];
        let len = draft
            .sign_into(&key(vector), direction(vector), &mut buffer)
            .unwrap();
        let ours = std::str::from_utf8(&buffer[..len]).unwrap();
        let signature = field(vector, "signature").to_ascii_lowercase();
        assert!(ours.ends_with(&format!("\"{signature}\"}}")), "{name}");
        if envelope.payload().as_str() == compacted(&envelope.payload()) {
            assert_eq!(
                ours.to_ascii_lowercase(),
                text.to_ascii_lowercase(),
                "{name}"
            );
            same += 1;
        }
    }
    assert!(same >= 10, "only {same} vectors were written again");
}

fn compacted(payload: &Payload<'_>) -> String {
    let mut out = vec![0; payload.as_str().len()];
    let len = payload.write(&mut out).unwrap();
    out.truncate(len);
    String::from_utf8(out).unwrap()
}
