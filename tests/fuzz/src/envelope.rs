//! The signed message: what is one, and which signature is right for it.
//!
//! Input: the message. It is read a second time by a model (serde_json, and the signing input put
//! together as the contract says), which then signs it in every way there is, so that messages the
//! fuzzer made up get as far as a valid signature. Allocation: none.

use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tidegate_wire::command::{Receiver, receive};
use tidegate_wire::limits::{FRESHNESS_S, MAX_DEPTH, slots_for};
use tidegate_wire::{
    DeviceId, Direction, Envelope, Limits, MessageId, Reason, SigningKey, Version, fresh,
};

use crate::allocation;
use crate::json::{self, Member, Node};

const SECRET: &[u8] = b"supersecretkey123";

/// # Panics
///
/// If something does not hold.
pub fn run(message: &[u8]) {
    let mut slots = vec![0; slots_for(message.len())];
    let envelope = allocation::at_most(0, || {
        Envelope::parse(message, &Limits::CONTRACT, &mut slots)
    });
    let members = json::read_members(message, MAX_DEPTH);
    let model = members.as_deref().and_then(Model::read);
    match (&envelope, &model) {
        (Ok(envelope), Some(model)) => model.agrees(envelope),
        (Err(error), None) => assert_ne!(error.reason(), Reason::BadSignature),
        (Ok(envelope), None) => panic!("accepted {envelope:?}"),
        (Err(error), Some(model)) => panic!("refused {model:?}: {error}"),
    }
    let limit = Limits {
        max_message: message.len().saturating_sub(1),
        max_depth: MAX_DEPTH,
    };
    if !message.is_empty() {
        let reason = Envelope::parse(message, &limit, &mut slots).map_err(|error| error.reason());
        assert_eq!(reason.err(), Some(Reason::PayloadTooLarge));
    }
    let Some(model) = model else {
        as_command(message, None, &mut slots);
        return;
    };
    let SigningKeys { right, wrong } = &*KEYS;
    let offset = model.signature.as_ptr() as usize - message.as_ptr() as usize;
    let mut signed = message.to_vec();
    for made_for in Form::ALL {
        signed[offset..offset + 64].copy_from_slice(model.sign(made_for).as_bytes());
        let Ok(envelope) = Envelope::parse(&signed, &Limits::CONTRACT, &mut slots) else {
            panic!("another signature is another form");
        };
        for direction in [Direction::Up, Direction::Down] {
            let (verdict, other) = allocation::at_most(0, || {
                let verdict = envelope.verify(right, direction, &mut slots).is_ok();
                (
                    verdict,
                    envelope.verify(wrong, direction, &mut slots).is_ok(),
                )
            });
            assert_eq!(
                verdict,
                model.accepts(made_for, direction),
                "{made_for:?} {direction:?}"
            );
            assert!(!other, "accepted under another key");
        }
        as_command(
            &signed,
            Some(model.accepts(made_for, Direction::Down)),
            &mut slots,
        );
    }
}

struct SigningKeys {
    right: SigningKey,
    wrong: SigningKey,
}

static KEYS: LazyLock<SigningKeys> = LazyLock::new(|| {
    let key = |secret: &[u8]| match SigningKey::new(secret) {
        Ok(key) => key,
        Err(error) => panic!("{error}"),
    };
    SigningKeys {
        right: key(SECRET),
        wrong: key(b"supersecretkey124"),
    }
});

/// The device's side: whatever the message is, what `receive` says follows from its parts.
fn as_command(message: &[u8], signed: Option<bool>, slots: &mut [u64]) {
    let SigningKeys { right, .. } = &*KEYS;
    let Ok(own) = DeviceId::try_from("sensor_001") else {
        panic!("a valid id");
    };
    let now = 1_727_712_000;
    let receiver = Receiver {
        own: &own,
        key: right,
        min_version: Version::V1,
        tolerance_s: FRESHNESS_S,
        limits: Limits::CONTRACT,
    };
    let received = allocation::at_most(0, || receive(message, &receiver, now, slots).is_ok());
    let parsed = Envelope::parse_for(&own, message, &Limits::CONTRACT, slots);
    let Ok(envelope) = parsed else {
        assert!(!received, "received what cannot be read");
        return;
    };
    let meant =
        envelope.device_id() == own.as_str() && fresh(envelope.timestamp(), now, FRESHNESS_S);
    let verified = envelope.verify(right, Direction::Down, slots).is_ok();
    assert!(signed.is_none_or(|signed| signed == verified));
    assert_eq!(received, meant && verified);
}

/// What a signature may be made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Sent(Direction),
    Sorted(Direction),
}

impl Form {
    const ALL: [Self; 4] = [
        Self::Sent(Direction::Up),
        Self::Sent(Direction::Down),
        Self::Sorted(Direction::Up),
        Self::Sorted(Direction::Down),
    ];
}

/// A message as the contract reads it, by other means.
#[derive(Debug)]
struct Model<'a> {
    version: Version,
    device_id: &'a str,
    timestamp: &'a str,
    message_id: &'a str,
    payload: &'a str,
    node: &'a Node<'a>,
    signature: &'a str,
}

impl Model<'_> {
    fn read<'a>(members: &'a [Member<'a>]) -> Option<Model<'a>> {
        let find = |name: &str| members.iter().find(|member| member.name == name);
        let text = |name: &str| find(name).map(|member| member.text);
        let version = match text("v") {
            None | Some("1") => Version::V1,
            Some("2") => Version::V2,
            Some(_) => return None,
        };
        let payload = find("payload")?;
        let model = Model {
            version,
            device_id: quoted(text("device_id")?)?,
            timestamp: text("timestamp")?,
            message_id: quoted(text("message_id")?)?,
            payload: payload.text,
            node: &payload.value,
            signature: quoted(text("signature")?)?,
        };
        let id = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        let uuid = |(at, b): (usize, u8)| {
            if hyphen(at) {
                b == b'-'
            } else {
                b.is_ascii_hexdigit()
            }
        };
        let valid = (1..=64).contains(&model.device_id.len())
            && model.device_id.bytes().all(id)
            && model.timestamp.bytes().all(|b| b.is_ascii_digit())
            && model.timestamp.parse::<u64>().is_ok()
            && model.message_id.len() == 36
            && model.message_id.bytes().enumerate().all(uuid)
            && model.signature.len() == 64
            && model.signature.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then_some(model)
    }

    fn agrees(&self, envelope: &Envelope<'_>) {
        assert_eq!(envelope.version(), self.version);
        assert_eq!(envelope.device_id(), self.device_id);
        assert_eq!(Ok(envelope.timestamp()), self.timestamp.parse());
        assert_eq!(envelope.message_id_text(), self.message_id);
        assert_eq!(
            Ok(envelope.message_id()),
            MessageId::parse(self.message_id.as_bytes())
        );
        assert_eq!(envelope.payload().as_str(), self.payload);
        let hex: String = envelope
            .signature()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, self.signature.to_ascii_lowercase());
    }

    fn accepts(&self, made_for: Form, direction: Direction) -> bool {
        let (sorted, signed) = match made_for {
            Form::Sent(direction) => (false, direction),
            Form::Sorted(direction) => (true, direction),
        };
        match self.version {
            Version::V1 => true,
            Version::V2 => {
                let same = !sorted || self.node.canonical(true) == self.node.canonical(false);
                same && signed == direction
            }
        }
    }

    fn sign(&self, form: Form) -> String {
        let (payload, direction) = match form {
            Form::Sent(direction) => (self.node.canonical(false), direction),
            Form::Sorted(direction) => (self.node.canonical(true), direction),
        };
        let Self {
            device_id,
            timestamp,
            message_id,
            ..
        } = self;
        let direction = if direction == Direction::Up {
            "up"
        } else {
            "down"
        };
        let input = match self.version {
            Version::V1 => format!("{device_id}{timestamp}{message_id}{payload}"),
            Version::V2 => format!(
                "tidegate-v2\n{direction}\n{device_id}\n{timestamp}\n{message_id}\n{payload}"
            ),
        };
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(SECRET) else {
            panic!("any key will do");
        };
        hmac.update(input.as_bytes());
        hmac.finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// A string that is written as what it says.
fn quoted(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\\')).then_some(inner)
}
