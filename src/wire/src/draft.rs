//! An envelope to be signed and sent.

use crate::device_id::DeviceId;
use crate::json::Payload;
use crate::limits::MESSAGE_ID_TEXT;
use crate::message_id::MessageId;
use crate::output::{Output, TooSmall, decimal};
use crate::signing::{Direction, Head, SigningKey, Version};

/// Everything of an envelope but its signature.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// How it is to be signed.
    pub version: Version,
    /// Whose message it is: the sender's, or for a command the receiver's.
    pub device_id: &'a DeviceId,
    /// Now, in seconds since 1970.
    pub timestamp: u64,
    /// An id this device never had before.
    pub message_id: MessageId,
    /// What it carries; [`Payload::parse`] makes one.
    pub payload: Payload<'a>,
}

impl Draft<'_> {
    /// Signs the envelope, writes all of it into `out` and returns its length.
    ///
    /// White space in the payload is left out. The payload's length and
    /// [`ENVELOPE_OVERHEAD`](crate::limits::ENVELOPE_OVERHEAD) together always suffice.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `out` is; part of it is overwritten then, but holds no signature.
    pub fn sign_into(
        &self,
        key: &SigningKey,
        direction: Direction,
        out: &mut [u8],
    ) -> Result<usize, TooSmall> {
        let mut digits = [0; 20];
        let timestamp = decimal(self.timestamp, &mut digits);
        let mut text = [0; MESSAGE_ID_TEXT];
        let message_id = self.message_id.encode(&mut text);
        let mut digest = Head {
            version: self.version,
            direction,
            device_id: self.device_id.as_str(),
            timestamp,
            message_id,
        }
        .start(key);
        self.payload.canonical(|piece| digest.update(piece));

        let mut out = Output::new(out);
        out.put(match self.version {
            Version::V1 => b"{\"device_id\":\"",
            Version::V2 => b"{\"v\":2,\"device_id\":\"",
        })?;
        out.put(self.device_id.as_str().as_bytes())?;
        out.put(b"\",\"timestamp\":")?;
        out.put(timestamp)?;
        out.put(b",\"message_id\":\"")?;
        out.put(message_id.as_bytes())?;
        out.put(b"\",\"payload\":")?;
        self.payload.put(&mut out)?;
        out.put(b",\"signature\":\"")?;
        out.put_hex(&digest.sign())?;
        out.put(b"\"}")?;
        Ok(out.len())
    }
}
