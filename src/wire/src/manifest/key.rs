//! Release keys: who may sign a release.

use core::fmt;
use core::str::FromStr;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use super::{SIGNATURE, unhex};
use crate::message_id::hex;

/// An Ed25519 public key whose releases are trusted (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: KeyId,
}

impl PublicKey {
    /// Length of a key in bytes.
    pub const LEN: usize = 32;

    /// The key with these 32 bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] if they are no point of the curve, or one of small order, under which
    /// signatures mean nothing.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidKey> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidKey)?;
        if key.is_weak() {
            return Err(InvalidKey);
        }
        Ok(Self {
            key,
            id: KeyId::of(bytes),
        })
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        self.key.as_bytes()
    }

    /// What the key is called in a manifest.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether this key has signed `message`: the strict rule, under which nobody but the holder of
    /// the key can make a second signature of the same message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.key.verify_strict(message, &signature).is_ok()
    }
}

/// 64 hex digits: how a key stands in a text, such as the device bundle's `release-keys`.
impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::from_bytes(&unhex(text).ok_or(InvalidKey)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digits(self.as_bytes(), f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// What a release key is called: the first 8 bytes of the SHA-256 of its 32, written as 16 hex
/// digits. It finds the key; it is never taken for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// The id of the key with these bytes.
    #[must_use]
    pub fn of(key: &[u8; PublicKey::LEN]) -> Self {
        let digest: [u8; 32] = Sha256::digest(key).into();
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        Self(id)
    }

    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digits(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

fn digits(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| {
        let pair = hex(*byte);
        f.write_str(str::from_utf8(&pair).unwrap_or(""))
    })
}

/// These are not the bytes of a key that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an Ed25519 public key: give 64 hex digits, as `firmware keygen` prints them",
        )
    }
}

impl core::error::Error for InvalidKey {}
