//! Device ids: who a message is from or for.

use core::borrow::Borrow;
use core::hash::{Hash, Hasher};
use core::str::FromStr;
use core::{fmt, str};

use crate::limits::MAX_DEVICE_ID;

/// The name of a device: 1 to 64 characters of `A-Z a-z 0-9 _ -`, held inline.
///
/// It compares, orders and hashes as its text does, so a map keyed by `DeviceId` can be asked
/// with a `&str`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId {
    // Padded with zeros. NUL is not a character of an id, so comparing the arrays orders as
    // comparing the texts would.
    bytes: [u8; MAX_DEVICE_ID],
    len: u8,
}

impl DeviceId {
    /// The id these bytes spell, borrowed, or why they do not.
    ///
    /// # Errors
    ///
    /// [`InvalidDeviceId`] unless there are 1 to 64 bytes, all of `A-Z a-z 0-9 _ -`.
    pub fn check(bytes: &[u8]) -> Result<&str, InvalidDeviceId> {
        if bytes.is_empty() {
            return Err(InvalidDeviceId::Empty);
        }
        if bytes.len() > MAX_DEVICE_ID {
            return Err(InvalidDeviceId::TooLong(bytes.len()));
        }
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        match bytes.iter().position(|b| !allowed(b)) {
            Some(at) => Err(InvalidDeviceId::Character(at)),
            None => str::from_utf8(bytes).map_err(|e| InvalidDeviceId::Character(e.valid_up_to())),
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        // Checked to be ASCII when it was made.
        str::from_utf8(text).unwrap_or("")
    }
}

impl TryFrom<&str> for DeviceId {
    type Error = InvalidDeviceId;

    fn try_from(text: &str) -> Result<Self, InvalidDeviceId> {
        Self::try_from(text.as_bytes())
    }
}

impl TryFrom<&[u8]> for DeviceId {
    type Error = InvalidDeviceId;

    fn try_from(text: &[u8]) -> Result<Self, InvalidDeviceId> {
        let text = Self::check(text)?;
        let mut bytes = [0; MAX_DEVICE_ID];
        for (to, from) in bytes.iter_mut().zip(text.as_bytes()) {
            *to = *from;
        }
        let len = u8::try_from(text.len()).map_err(|_| InvalidDeviceId::TooLong(text.len()))?;
        Ok(Self { bytes, len })
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        Self::try_from(text)
    }
}

impl AsRef<str> for DeviceId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Hash for DeviceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for DeviceId {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({})", self.as_str())
    }
}

/// Why a text is not a device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidDeviceId {
    /// There is no text at all.
    Empty,
    /// It has this many bytes, more than [`MAX_DEVICE_ID`].
    TooLong(usize),
    /// The byte at this offset is not allowed.
    Character(usize),
}

impl fmt::Display for InvalidDeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("device id is empty: give it 1 to 64 characters"),
            Self::TooLong(len) => write!(
                f,
                "device id has {len} characters: shorten it to at most {MAX_DEVICE_ID}"
            ),
            Self::Character(at) => write!(
                f,
                "device id has a character at offset {at} that is not allowed: use only A-Z a-z 0-9 _ -"
            ),
        }
    }
}

impl core::error::Error for InvalidDeviceId {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::{BTreeSet, HashMap};
    use std::string::ToString;

    #[test]
    fn accepts_the_alphabet_and_nothing_else() {
        for byte in 0..=255u8 {
            let allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
            assert_eq!(
                DeviceId::check(&[b'a', byte]).is_ok(),
                allowed.contains(&byte),
                "{byte}"
            );
        }
    }

    #[test]
    fn length_is_1_to_64() {
        assert_eq!(DeviceId::try_from(""), Err(InvalidDeviceId::Empty));
        let longest = "x".repeat(64);
        assert_eq!(
            DeviceId::try_from(longest.as_str()).unwrap().as_str(),
            longest
        );
        assert_eq!(
            DeviceId::try_from("x".repeat(65).as_str()),
            Err(InvalidDeviceId::TooLong(65))
        );
    }

    #[test]
    fn behaves_as_its_text() {
        let names = ["b", "a", "a0", "A", "a-", "_", "a_"];
        let ids: BTreeSet<DeviceId> = names.iter().map(|n| n.parse().unwrap()).collect();
        let texts: BTreeSet<&str> = names.into_iter().collect();
        assert!(ids.iter().map(DeviceId::as_str).eq(texts.iter().copied()));
        let by_id: HashMap<DeviceId, u8> = ids.iter().map(|id| (*id, 1)).collect();
        assert_eq!(by_id.get("a0"), Some(&1));
        assert_eq!(by_id.get("c"), None);
        assert_eq!("a0".parse::<DeviceId>().unwrap().to_string(), "a0");
    }
}
