//! What the device has to say, from the reading to the signed message, kept while it cannot.
//!
//! ```text
//!              Readings
//!  sensors ─▶ RAM ──full──▶ Backlog (flash) ──full──▶ oldest lost, counted, reported
//!              └── oldest first ──┴──▶ sign ─▶ publish ─▶ acknowledged: forgotten
//!  notices ─▶ Outbox ──────────────────┘
//! ```
//!
//! A message keeps its id however often it is signed, so what was delivered twice because an
//! acknowledgement got lost has the same idempotency key at the backend.

mod backlog;
mod outbox;
mod readings;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use tidegate_wire::limits::ENVELOPE_OVERHEAD;
use tidegate_wire::output::{Output, TooSmall};
use tidegate_wire::{Channel, DeviceId, Direction, Draft, MessageId, Payload, SigningKey, Version};

pub use backlog::{Backlog, BacklogError};
pub use outbox::Outbox;
pub use readings::Readings;

use crate::json::Members;
use crate::time::WallClock;

/// Largest payload of a message: a reading is 60 bytes, an ack with a detail 200.
pub const MAX_PAYLOAD: usize = 384;

/// What `,"measured_at":` and the largest time take.
const MEASURED_AT: usize = 40;

/// Scratch slots for the members of a payload of that size; no profile has half as many.
const SLOTS: usize = 64;

/// When something was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Since start: the time of day may not be known yet.
    Uptime(Duration),
    /// Milliseconds since 1970: it outlasts a restart.
    Wall(u64),
}

impl Moment {
    /// Milliseconds since 1970, if that can be told.
    #[must_use]
    pub fn wall(self, clock: &WallClock) -> Option<u64> {
        match self {
            Self::Uptime(uptime) => clock.at(uptime),
            Self::Wall(ms) => Some(ms),
        }
    }
}

/// A message before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it goes.
    pub channel: Channel,
    /// Its id, for good.
    pub id: MessageId,
    /// When it was measured or happened.
    pub moment: Moment,
    /// The payload, a JSON object; [`sign`](Self::sign) adds `measured_at` to data and events.
    pub payload: Box<[u8]>,
}

/// A message could not be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// It is too large.
    #[error("payload is larger than {MAX_PAYLOAD} bytes: split the profile")]
    TooLarge,
    /// It is not JSON.
    #[error("payload is not a JSON object: this is a bug in the profile")]
    NotJson,
}

impl From<TooSmall> for ItemError {
    fn from(_: TooSmall) -> Self {
        Self::TooLarge
    }
}

impl Item {
    /// A message whose payload is an object with these members.
    ///
    /// # Errors
    ///
    /// What `members` fails with, or [`ItemError::TooLarge`].
    pub fn new<E: From<TooSmall>>(
        channel: Channel,
        id: MessageId,
        moment: Moment,
        members: impl FnOnce(&mut Members<'_, '_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = [0; MAX_PAYLOAD];
        let mut out = Output::new(&mut buffer);
        Members::object(&mut out, members)?;
        let len = out.len();
        Ok(Self {
            channel,
            id,
            moment,
            payload: buffer.get(..len).unwrap_or(&[]).into(),
        })
    }

    /// The signed message. `now` in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`ItemError`]: it can never be sent, and is to be dropped.
    pub fn sign(
        &self,
        device: &DeviceId,
        key: &SigningKey,
        clock: &WallClock,
        now: u64,
    ) -> Result<Vec<u8>, ItemError> {
        let mut buffer = [0; MAX_PAYLOAD + MEASURED_AT];
        let mut out = Output::new(&mut buffer);
        let moment = self.moment.wall(clock);
        match (self.channel, moment, self.payload.split_last()) {
            (Channel::Data | Channel::Event, Some(ms), Some((b'}', members))) => {
                out.put(members)?;
                if members.len() > 1 {
                    out.put(b",")?;
                }
                out.put(b"\"measured_at\":")?;
                out.put_u64(ms / 1000)?;
                let thousandths = ms % 1000;
                out.put(b".")?;
                for digit in [thousandths / 100, thousandths / 10 % 10, thousandths % 10] {
                    out.put_u64(digit)?;
                }
                out.put(b"}")?;
            }
            _ => out.put(&self.payload)?,
        }
        let len = out.len();
        let mut slots = [0; SLOTS];
        let payload = Payload::parse(buffer.get(..len).unwrap_or(&[]), &mut slots)
            .map_err(|_| ItemError::NotJson)?;
        let mut message = vec![0; len + ENVELOPE_OVERHEAD];
        let len = Draft {
            version: Version::V2,
            device_id: device,
            timestamp: now,
            message_id: self.id,
            payload,
        }
        .sign_into(key, Direction::Up, &mut message)?;
        message.truncate(len);
        Ok(message)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::*;
    use tidegate_wire::{Envelope, Limits};

    pub(crate) fn reading(number: u32) -> Item {
        let mut id = [0; 16];
        id[12..].copy_from_slice(&number.to_be_bytes());
        Item::new(
            Channel::Data,
            MessageId::from_bytes(id),
            Moment::Uptime(Duration::from_secs(number.into())),
            |m| m.integer("n", number.into()),
        )
        .map_err(|_: TooSmall| ())
        .unwrap()
    }

    #[test]
    fn what_was_measured_before_says_when() {
        let mut clock = WallClock::new(0, None);
        clock
            .set(1_790_000_000_250, Duration::from_secs(60))
            .unwrap();
        let key = SigningKey::new(b"supersecretkey123").unwrap();
        let device = "sensor_001".try_into().unwrap();
        let item = reading(50);
        for now in [1_790_000_000, 1_790_050_000] {
            let message = item.sign(&device, &key, &clock, now).unwrap();
            let mut slots = [0; 64];
            let envelope = Envelope::parse(&message, &Limits::CONTRACT, &mut slots).unwrap();
            assert_eq!(envelope.timestamp(), now);
            assert_eq!(envelope.message_id(), item.id, "the id stays");
            let verified = envelope.verify(&key, Direction::Up, &mut slots).unwrap();
            assert_eq!(
                verified.payload().as_str(),
                r#"{"n":50,"measured_at":1789999990.250}"#
            );
        }
    }

    #[test]
    fn a_payload_that_fits_is_signed_whatever_its_size() {
        let clock = WallClock::new(0, None);
        let key = SigningKey::new(b"s").unwrap();
        let device = "d".try_into().unwrap();
        let text = "x".repeat(MAX_PAYLOAD - 8);
        let item: Result<Item, TooSmall> = Item::new(
            Channel::Data,
            MessageId::from_bytes([0; 16]),
            Moment::Wall(u64::MAX),
            |m| m.string("t", &text),
        );
        let mut item = item.unwrap();
        assert_eq!(item.payload.len(), MAX_PAYLOAD);
        item.sign(&device, &key, &clock, u64::MAX).unwrap();
        item.payload = b"not json".as_slice().into();
        assert_eq!(item.sign(&device, &key, &clock, 0), Err(ItemError::NotJson));
    }
}
