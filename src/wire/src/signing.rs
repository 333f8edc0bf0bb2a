//! Signatures: keys, versions, directions, and what exactly is signed.

use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::limits::{MAX_DEVICE_ID, MESSAGE_ID_TEXT, SIGNATURE};

/// Which way a message goes. Version 2 signs it, so a command cannot be reflected as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Device to gateway.
    Up,
    /// Gateway to device.
    Down,
}

impl Direction {
    /// The word that is signed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The version of an envelope: how its signing input is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The seed document's: the fields one after the other.
    V1,
    /// With separators and the direction.
    V2,
}

impl Version {
    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// The HMAC-SHA256 key of a device, ready to use.
///
/// The two hash blocks that depend on the key alone are computed once, here; every message starts
/// from a copy of that state. Neither the secret nor the state is ever printed, and the state is
/// wiped when it is dropped.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// The key whose bytes are `secret`: the UTF-8 text of the device's shared secret.
    ///
    /// # Errors
    ///
    /// [`EmptySecret`] if there are none: anybody could sign with that.
    pub fn new(secret: &[u8]) -> Result<Self, EmptySecret> {
        if secret.is_empty() {
            return Err(EmptySecret);
        }
        Hmac::new_from_slice(secret)
            .map(Self)
            .map_err(|_| EmptySecret)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// A shared secret has no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptySecret;

impl fmt::Display for EmptySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shared secret is empty: give the device one of at least 32 random characters")
    }
}

impl core::error::Error for EmptySecret {}

/// The fields that are signed before the payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) version: Version,
    pub(crate) direction: Direction,
    pub(crate) device_id: &'a str,
    /// In decimal, without leading zeros.
    pub(crate) timestamp: &'a [u8],
    /// As the sender wrote it.
    pub(crate) message_id: &'a str,
}

/// The longest head: version 2's, downwards.
const MAX_HEAD: usize = 12 + 5 + MAX_DEVICE_ID + 1 + 20 + 1 + MESSAGE_ID_TEXT + 1;

impl Head<'_> {
    /// Feeds the signing input up to the payload to `sink`, in one piece.
    #[inline]
    pub(crate) fn feed(&self, sink: impl FnOnce(&[u8])) {
        let mut bytes = [0; MAX_HEAD];
        let mut len = 0;
        let mut put = |part: &[u8]| {
            // Every part has its place in `MAX_HEAD`.
            if let Some(room) = bytes.get_mut(len..len + part.len()) {
                room.copy_from_slice(part);
                len += part.len();
            }
        };
        match self.version {
            Version::V1 => {
                put(self.device_id.as_bytes());
                put(self.timestamp);
                put(self.message_id.as_bytes());
            }
            Version::V2 => {
                put(match self.direction {
                    Direction::Up => b"tidegate-v2\nup\n",
                    Direction::Down => b"tidegate-v2\ndown\n",
                });
                put(self.device_id.as_bytes());
                put(b"\n");
                put(self.timestamp);
                put(b"\n");
                put(self.message_id.as_bytes());
                put(b"\n");
            }
        }
        sink(bytes.get(..len).unwrap_or(&[]));
    }

    /// An HMAC over the head, to be continued with the payload.
    #[inline]
    pub(crate) fn start(&self, key: &SigningKey) -> Digest {
        let mut hmac = key.0.clone();
        self.feed(|head| hmac.update(head));
        Digest(hmac)
    }
}

/// An HMAC under way.
pub(crate) struct Digest(Hmac<Sha256>);

impl Digest {
    #[inline]
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn sign(self) -> [u8; SIGNATURE] {
        self.0.finalize().into_bytes().into()
    }

    /// Compares in constant time.
    #[inline]
    pub(crate) fn matches(self, signature: &[u8; SIGNATURE]) -> bool {
        self.0.verify_slice(signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn the_longest_head_fits() {
        let device = "d".repeat(MAX_DEVICE_ID);
        let message = "m".repeat(MESSAGE_ID_TEXT);
        let head = Head {
            version: Version::V2,
            direction: Direction::Down,
            device_id: &device,
            timestamp: b"18446744073709551615",
            message_id: &message,
        };
        let expected =
            std::format!("tidegate-v2\ndown\n{device}\n18446744073709551615\n{message}\n");
        assert_eq!(expected.len(), MAX_HEAD);
        head.feed(|fed| assert_eq!(fed, expected.as_bytes()));
    }

    #[test]
    fn keys_keep_their_secret() {
        let key = SigningKey::new(b"supersecretkey123").unwrap();
        assert_eq!(std::format!("{key:?}"), "SigningKey(..)");
        assert_eq!(SigningKey::new(b"").unwrap_err(), EmptySecret);
    }
}
