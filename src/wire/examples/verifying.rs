//! How long it takes to parse and verify one message:
//! `cargo run --release -p tidegate-wire --example verifying`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate_wire::limits::slots_for;
use tidegate_wire::{Direction, Draft, Envelope, Limits, Payload, SigningKey, Version};

/// Long enough for a stable figure, short enough to run on every change.
const TIME: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = SigningKey::new(b"supersecretkey123")?;
    let mut slots = vec![0; slots_for(64 * 1024)];
    let telemetry = br#"{"temperature":22.5,"humidity":60,"pressure":1013.25,"battery":3.71,"rssi":-67,"uptime":86400,"door":"closed","firmware":"1.4.2","tide":"rising to 1.82 m"}"#;

    for version in [Version::V1, Version::V2] {
        let bytes = signed(&key, version, telemetry, &mut slots)?;
        let name = format!("telemetry, v{}", version.number());
        measure(&name, &bytes, &key, &mut slots);
    }

    let text = String::from_utf8(signed(&key, Version::V1, telemetry, &mut slots)?)?;
    let spaced = text.replace(',', ", ").replace("\":", "\": ");
    measure("telemetry, spaced", spaced.as_bytes(), &key, &mut slots);

    // What a hostile sender would choose. A wrong signature makes the sorted form be tried as well.
    let crowd: Vec<String> = (0..7600).map(|n| format!("\"{n:x}\":0")).collect();
    let crowd = format!("{{{}}}", crowd.join(","));
    let alike: Vec<String> = (0..400)
        .map(|n| format!("\"{}{n:03}\":0", "long".repeat(38)))
        .collect();
    let alike = format!("{{{}}}", alike.join(","));
    let mut nested = String::from("0");
    for _ in 0..32 {
        let siblings: Vec<String> = (0..226).map(|n| format!("\"{n:x}{n:x}\":0")).collect();
        nested = format!("{{{},\"z\":{nested}}}", siblings.join(","));
    }
    for (name, payload) in [
        ("members", crowd),
        ("like names", alike),
        ("nesting", nested),
    ] {
        let mut bytes = signed(&key, Version::V1, payload.as_bytes(), &mut slots)?;
        let name = format!("64 KiB of {name}");
        measure(&name, &bytes, &key, &mut slots);
        if let Some(digit) = bytes.iter_mut().rev().nth(2) {
            *digit = if *digit == b'0' { b'1' } else { b'0' };
        }
        measure(&format!("{name}, forged"), &bytes, &key, &mut slots);
    }
    let batch = format!("[{}]", vec!["22.5"; 13_000].join(","));
    let bytes = signed(&key, Version::V1, batch.as_bytes(), &mut slots)?;
    measure("64 KiB of numbers", &bytes, &key, &mut slots);
    let prose = format!("\"{}\"", "tide ".repeat(13_000));
    let bytes = signed(&key, Version::V1, prose.as_bytes(), &mut slots)?;
    measure("64 KiB of text", &bytes, &key, &mut slots);
    Ok(())
}

fn signed(
    key: &SigningKey,
    version: Version,
    payload: &[u8],
    slots: &mut [u64],
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let draft = Draft {
        version,
        device_id: &"sensor_001".try_into()?,
        timestamp: 1_727_712_000,
        message_id: "550e8400-e29b-41d4-a716-446655440000".try_into()?,
        payload: Payload::parse(payload, slots)?,
    };
    let mut buffer = vec![0; 70_000];
    let len = draft.sign_into(key, Direction::Up, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn measure(name: &str, bytes: &[u8], key: &SigningKey, slots: &mut [u64]) {
    let parsed = time(|| Envelope::parse(black_box(bytes), &Limits::CONTRACT, slots).is_ok());
    let mut accepted = false;
    let both = time(|| {
        accepted = Envelope::parse(black_box(bytes), &Limits::CONTRACT, slots)
            .is_ok_and(|envelope| envelope.verify(key, Direction::Up, slots).is_ok());
        accepted
    });
    println!(
        "{name:>30}: {:>6} bytes, parse {parsed:>9.0} ns, parse and verify {both:>9.0} ns, {}",
        bytes.len(),
        if accepted { "accepted" } else { "refused" },
    );
}

/// Nanoseconds for each call, the best of several rounds.
fn time(mut call: impl FnMut() -> bool) -> f64 {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed() < TIME {
        let round = Instant::now();
        let calls = 100;
        for _ in 0..calls {
            black_box(call());
        }
        best = best.min(round.elapsed().as_nanos() as f64 / f64::from(calls));
    }
    best
}
