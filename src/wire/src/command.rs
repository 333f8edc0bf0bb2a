//! Commands, and what a device answers to them.
//!
//! A command is an envelope that goes down; [`receive`] is all a device does to it before it looks
//! up whether it executed it before. The answer is the payload of an envelope on `ack`, an [`Ack`].

use core::fmt;

use crate::device_id::DeviceId;
use crate::envelope::{Envelope, Verified};
use crate::freshness::fresh;
use crate::json::Payload;
use crate::limits::{Limits, MESSAGE_ID_TEXT};
use crate::message_id::MessageId;
use crate::output::{Output, TooSmall};
use crate::reason::Reason;
use crate::signing::{Direction, SigningKey, Version};

/// What a device goes by when it reads a command.
#[derive(Debug, Clone, Copy)]
pub struct Receiver<'a> {
    /// Its own id.
    pub own: &'a DeviceId,
    /// Its key.
    pub key: &'a SigningKey,
    /// The oldest version it accepts. A device that signs version 2 should not accept version 1:
    /// a message of its own, in version 1, could be reflected to it as a command.
    pub min_version: Version,
    /// How far from its clock a timestamp may be, in seconds; see
    /// [`FRESHNESS_S`](crate::limits::FRESHNESS_S).
    pub tolerance_s: u64,
    /// How large and deep a command may be.
    pub limits: Limits,
}

/// Reads a command and checks, in the contract's order, its form, that it is for this device, its
/// timestamp and its signature. `now` is in seconds since 1970.
///
/// What is left to the device is to check that it has not executed this
/// [`message_id`](Envelope::message_id) before.
///
/// # Errors
///
/// The first [`Reason`] there is to refuse it.
pub fn receive<'a>(
    bytes: &'a [u8],
    receiver: &Receiver<'a>,
    now: u64,
    slots: &mut [u64],
) -> Result<Verified<Envelope<'a>>, Reason> {
    let envelope = Envelope::parse_for(receiver.own, bytes, &receiver.limits, slots)?;
    if envelope.version() < receiver.min_version {
        return Err(Reason::UnsupportedVersion);
    }
    if envelope.device_id() != receiver.own.as_str() {
        return Err(Reason::IdentityMismatch);
    }
    if !fresh(envelope.timestamp(), now, receiver.tolerance_s) {
        return Err(Reason::StaleTimestamp);
    }
    Ok(envelope.verify(receiver.key, Direction::Down, slots)?)
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// The device did it.
    Done,
    /// The device could not, or would not.
    Failed,
}

impl Status {
    /// `done` or `failed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The outcome of a command: `{"command_id":…,"status":"done"|"failed","detail":…}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The message id of the command.
    pub command_id: MessageId,
    /// How it ended.
    pub status: Status,
    /// Whatever else the device says about it.
    pub detail: Option<Payload<'a>>,
}

impl<'a> Ack<'a> {
    /// Reads the payload of an envelope from `ack`. Unknown members are ignored.
    ///
    /// # Errors
    ///
    /// [`InvalidAck`] says which member is missing or wrong.
    pub fn parse(payload: &Payload<'a>) -> Result<Self, InvalidAck> {
        let command_id = payload
            .member("command_id")
            .and_then(|value| MessageId::parse(value.plain_string()?.as_bytes()).ok())
            .ok_or(InvalidAck::CommandId)?;
        let status = payload.member("status").ok_or(InvalidAck::Status)?;
        let status = [Status::Done, Status::Failed]
            .into_iter()
            .find(|known| status.is_string(known.as_str()))
            .ok_or(InvalidAck::Status)?;
        Ok(Self {
            command_id,
            status,
            detail: payload.member("detail"),
        })
    }

    /// Writes the payload into `out` and returns its length: 88 bytes and the detail's length
    /// always suffice.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `out` is.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, TooSmall> {
        let mut out = Output::new(out);
        out.put(b"{\"command_id\":\"")?;
        let mut text = [0; MESSAGE_ID_TEXT];
        out.put(self.command_id.encode(&mut text).as_bytes())?;
        out.put(b"\",\"status\":\"")?;
        out.put(self.status.as_str().as_bytes())?;
        out.put(b"\"")?;
        if let Some(detail) = &self.detail {
            out.put(b",\"detail\":")?;
            detail.put(&mut out)?;
        }
        out.put(b"}")?;
        Ok(out.len())
    }
}

/// A payload is not the outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidAck {
    /// `command_id` is missing or no UUID.
    CommandId,
    /// `status` is missing or neither `done` nor `failed`.
    Status,
}

impl fmt::Display for InvalidAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandId => "ack has no valid `command_id`: give the command's message id",
            Self::Status => "ack has no valid `status`: give \"done\" or \"failed\"",
        })
    }
}

impl core::error::Error for InvalidAck {}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "660f9500-f39c-42e5-b827-557766551111";

    #[test]
    fn acks_round_trip() {
        let mut slots = [0; 16];
        for status in [Status::Done, Status::Failed] {
            for detail in [None, Some("null"), Some(r#"{ "why": "no \"power\"" }"#)] {
                let detail = detail.map(|d| Payload::parse(d.as_bytes(), &mut slots).unwrap());
                let ack = Ack {
                    command_id: ID.parse().unwrap(),
                    status,
                    detail,
                };
                let mut out = [0; 128];
                let len = ack.write(&mut out).unwrap();
                assert!(len <= 88 + detail.map_or(0, |d| d.as_str().len()));
                let payload = Payload::parse(&out[..len], &mut slots).unwrap();
                let read = Ack::parse(&payload).unwrap();
                assert_eq!((read.command_id, read.status), (ack.command_id, status));
                assert_eq!(read.detail.is_some(), detail.is_some());
                assert!(ack.write(&mut out[..len - 1]).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_ack_is_told() {
        let read = |text: &'static str| {
            Ack::parse(&Payload::parse(text.as_bytes(), &mut [0; 16]).unwrap())
        };
        assert_eq!(read("1"), Err(InvalidAck::CommandId));
        assert_eq!(read(r#"{"command_id":1}"#), Err(InvalidAck::CommandId));
        assert_eq!(
            read(r#"{"command_id":"660f9500-f39c-42e5-b827-557766551111"}"#),
            Err(InvalidAck::Status)
        );
        assert_eq!(
            read(r#"{"command_id":"660f9500-f39c-42e5-b827-557766551111","status":"maybe"}"#),
            Err(InvalidAck::Status)
        );
    }
}
