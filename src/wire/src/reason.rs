//! Why a message is refused, and how that is said.

use core::fmt;

use crate::output::{Output, TooSmall};

/// Why a message was not accepted. They are declared, and ordered, as they are checked: the first
/// that applies is the one that is logged, counted and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The device may not publish on this topic.
    TopicNotAllowed,
    /// The message is larger than the limit.
    PayloadTooLarge,
    /// The device sends more than it may.
    RateLimited,
    /// The message is not an envelope.
    Malformed,
    /// It is an envelope of a version this receiver does not speak, or may not accept.
    UnsupportedVersion,
    /// No such device is registered.
    UnknownDevice,
    /// The device is registered but disabled.
    DisabledDevice,
    /// The message names another device than the connection's.
    IdentityMismatch,
    /// The timestamp is too far from the receiver's clock.
    StaleTimestamp,
    /// The signature is not the device's.
    BadSignature,
    /// A message with this id was accepted before.
    Replayed,
}

impl Reason {
    /// All of them, in the order of acceptance.
    pub const ALL: [Self; 11] = [
        Self::TopicNotAllowed,
        Self::PayloadTooLarge,
        Self::RateLimited,
        Self::Malformed,
        Self::UnsupportedVersion,
        Self::UnknownDevice,
        Self::DisabledDevice,
        Self::IdentityMismatch,
        Self::StaleTimestamp,
        Self::BadSignature,
        Self::Replayed,
    ];

    /// The reason as it is reported and counted, such as `bad_signature`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TopicNotAllowed => "topic_not_allowed",
            Self::PayloadTooLarge => "payload_too_large",
            Self::RateLimited => "rate_limited",
            Self::Malformed => "malformed",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownDevice => "unknown_device",
            Self::DisabledDevice => "disabled_device",
            Self::IdentityMismatch => "identity_mismatch",
            Self::StaleTimestamp => "stale_timestamp",
            Self::BadSignature => "bad_signature",
            Self::Replayed => "replayed",
        }
    }

    /// The reason with this [`code`](Self::code).
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The reason in the words of the log; the seed document's, where it has words for it.
    #[must_use]
    pub const fn wording(self) -> &'static str {
        match self {
            Self::TopicNotAllowed => "Topic not allowed",
            Self::PayloadTooLarge => "Message too large",
            Self::RateLimited => "Rate limit exceeded",
            Self::Malformed => "Malformed message",
            Self::UnsupportedVersion => "Unsupported envelope version",
            Self::UnknownDevice => "Unknown device",
            Self::DisabledDevice => "Device disabled",
            Self::IdentityMismatch => "device_id mismatch with TLS identity",
            Self::StaleTimestamp => "Timestamp out of range",
            Self::BadSignature => "Invalid signature",
            Self::Replayed => "Replayed message",
        }
    }

    /// The log line: `Rejected message from sensor_001: Invalid signature`.
    ///
    /// `device` is the connection's identity, if it has one. An identity mismatch is logged
    /// without it, as the seed document has it: `Rejected message: device_id mismatch with TLS
    /// identity`.
    #[must_use]
    pub const fn log_line(self, device: Option<&str>) -> LogLine<'_> {
        LogLine {
            reason: self,
            device,
        }
    }

    /// The MQTT 5 reason code of the PUBACK or PUBREC (OASIS MQTT 5.0, table 3-4).
    #[must_use]
    pub const fn mqtt(self) -> u8 {
        /// The publish is valid, but the receiver is not willing to accept it.
        const IMPLEMENTATION_SPECIFIC_ERROR: u8 = 0x83;
        const NOT_AUTHORIZED: u8 = 0x87;
        /// An implementation or administrative limit was exceeded.
        const QUOTA_EXCEEDED: u8 = 0x97;
        const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
        match self {
            Self::TopicNotAllowed
            | Self::UnknownDevice
            | Self::DisabledDevice
            | Self::IdentityMismatch
            | Self::BadSignature => NOT_AUTHORIZED,
            Self::PayloadTooLarge | Self::RateLimited => QUOTA_EXCEEDED,
            Self::Malformed => PAYLOAD_FORMAT_INVALID,
            Self::UnsupportedVersion | Self::StaleTimestamp | Self::Replayed => {
                IMPLEMENTATION_SPECIFIC_ERROR
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.wording())
    }
}

impl core::error::Error for Reason {}

/// A [`Reason::log_line`], to be formatted.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'d> {
    reason: Reason,
    device: Option<&'d str>,
}

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Some(device) if self.reason != Reason::IdentityMismatch => {
                write!(f, "Rejected message from {device}: {}", self.reason)
            }
            _ => write!(f, "Rejected message: {}", self.reason),
        }
    }
}

/// Writes the notice sent on `device/{id}/response` and returns its length:
/// `{"status":"rejected","reason":"bad_signature","message_id":"…"}`.
///
/// `message_id` is the text the device wrote, so that it finds it again; without one the member is
/// left out. With a message id [`MAX_REJECTION`](crate::limits::MAX_REJECTION) bytes suffice.
///
/// # Errors
///
/// [`TooSmall`] if `out` is.
pub fn rejection(
    reason: Reason,
    message_id: Option<&str>,
    out: &mut [u8],
) -> Result<usize, TooSmall> {
    let mut out = Output::new(out);
    out.put(b"{\"status\":\"rejected\",\"reason\":\"")?;
    out.put(reason.code().as_bytes())?;
    out.put(b"\"")?;
    if let Some(id) = message_id {
        out.put(b",\"message_id\":")?;
        out.put_json_string(id)?;
    }
    out.put(b"}")?;
    Ok(out.len())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::limits::MAX_REJECTION;
    use std::string::ToString;

    #[test]
    fn the_log_keeps_the_seed_wording() {
        let line = |reason: Reason| reason.log_line(Some("sensor_001")).to_string();
        assert_eq!(
            line(Reason::BadSignature),
            "Rejected message from sensor_001: Invalid signature"
        );
        assert_eq!(
            line(Reason::StaleTimestamp),
            "Rejected message from sensor_001: Timestamp out of range"
        );
        assert_eq!(
            line(Reason::IdentityMismatch),
            "Rejected message: device_id mismatch with TLS identity"
        );
    }

    #[test]
    fn codes_are_distinct_and_found_again() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
            assert!(reason.mqtt() >= 0x80, "a refusal is an error code");
        }
        assert!(Reason::ALL.is_sorted());
        assert_eq!(Reason::from_code("ok"), None);
    }

    #[test]
    fn notices() {
        let mut out = [0; MAX_REJECTION];
        for reason in Reason::ALL {
            let id = "550e8400-e29b-41d4-a716-446655440000";
            let len = rejection(reason, Some(id), &mut out).unwrap();
            assert_eq!(
                core::str::from_utf8(&out[..len]).unwrap(),
                std::format!(
                    r#"{{"status":"rejected","reason":"{}","message_id":"{id}"}}"#,
                    reason.code()
                )
            );
        }
        let len = rejection(Reason::Malformed, None, &mut out).unwrap();
        assert_eq!(
            &out[..len],
            br#"{"status":"rejected","reason":"malformed"}"#
        );
        assert!(rejection(Reason::Malformed, None, &mut out[..20]).is_err());
    }
}
