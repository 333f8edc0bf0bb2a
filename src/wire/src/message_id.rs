//! Message ids: what makes a message one of a kind.

use core::fmt;
use core::str::{self, FromStr};

use crate::limits::MESSAGE_ID_TEXT;

/// A UUID (RFC 9562), any version, unique per device.
///
/// Two texts that differ only in the case of their hex digits are the same id: identity is by
/// value. A signature, however, is over the text as the sender wrote it, which the
/// [`Envelope`](crate::Envelope) keeps beside this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; 16]);

/// Where the hyphens are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl MessageId {
    /// The id with these 16 bytes, in the order they are written.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A version 4 id from 16 random bytes, which must come from a cryptographic generator.
    #[must_use]
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The 16 bytes, in the order they are written.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the 36-character form: 8-4-4-4-12 hex digits of either case.
    ///
    /// # Errors
    ///
    /// [`InvalidMessageId`] for everything else: braces, `urn:uuid:`, missing hyphens.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidMessageId> {
        let text: &[u8; MESSAGE_ID_TEXT] = text.try_into().map_err(|_| InvalidMessageId)?;
        let mut bytes = [0u8; 16];
        let mut at = 0;
        // One bit per failed digit: the loop has no branch that depends on the text.
        let mut wrong = 0u8;
        for (index, byte) in bytes.iter_mut().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                wrong |= text[at] ^ b'-';
                at += 1;
            }
            let (high, low) = (nibble(text[at]), nibble(text[at + 1]));
            wrong |= (high | low) & 0xf0;
            *byte = high << 4 | low & 0x0f;
            at += 2;
        }
        if wrong == 0 {
            Ok(Self(bytes))
        } else {
            Err(InvalidMessageId)
        }
    }

    /// Writes the 36-character form, in lower case, and returns it.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; MESSAGE_ID_TEXT]) -> &'b str {
        let mut at = 0;
        for byte in self.0 {
            if HYPHENS.contains(&at) {
                buffer[at] = b'-';
                at += 1;
            }
            [buffer[at], buffer[at + 1]] = hex(byte);
            at += 2;
        }
        // All of it was just written as ASCII.
        str::from_utf8(buffer).unwrap_or("")
    }
}

/// The value of a hex digit; a high bit is set if it is not one.
#[inline]
pub(crate) const fn nibble(digit: u8) -> u8 {
    NIBBLES[digit as usize]
}

static NIBBLES: [u8; 256] = {
    let mut table = [0xf0; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value];
        table[digit as usize] = value as u8;
        table[digit.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    table
};

/// A byte as two lower-case hex digits.
pub(crate) const fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[(byte >> 4) as usize], DIGITS[(byte & 0x0f) as usize]]
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&str> for MessageId {
    type Error = InvalidMessageId;

    fn try_from(text: &str) -> Result<Self, InvalidMessageId> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.encode(&mut [0; MESSAGE_ID_TEXT]))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// A text is not a UUID in its 36-character form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMessageId;

impl fmt::Display for InvalidMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "message id is not a UUID: write it as 8-4-4-4-12 hex digits, such as 550e8400-e29b-41d4-a716-446655440000",
        )
    }
}

impl core::error::Error for InvalidMessageId {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::{String, ToString};

    const TEXT: &str = "550e8400-e29b-41d4-a716-446655440000";

    #[test]
    fn identity_is_by_value() {
        let id: MessageId = TEXT.parse().unwrap();
        assert_eq!(id, TEXT.to_ascii_uppercase().parse().unwrap());
        assert_eq!(id.to_string(), TEXT);
        assert_eq!(
            id.as_bytes(),
            &[
                0x55, 0x0e, 0x84, 0, 0xe2, 0x9b, 0x41, 0xd4, 0xa7, 0x16, 0x44, 0x66, 0x55, 0x44, 0,
                0
            ]
        );
    }

    #[test]
    fn only_the_one_form() {
        for at in 0..36 {
            for wrong in [
                b'g', b' ', b'-', b'0', b'/', b':', b'@', b'G', b'`', 0, 0xff,
            ] {
                let mut text = *TEXT.as_bytes().first_chunk::<36>().unwrap();
                text[at] = wrong;
                let hyphen = HYPHENS.contains(&at);
                let fine = if hyphen { wrong == b'-' } else { wrong == b'0' };
                assert_eq!(MessageId::parse(&text).is_ok(), fine, "{at} {wrong}");
            }
        }
        for text in [
            "",
            &TEXT[1..],
            &(String::from(TEXT) + "0"),
            "{550e8400-e29b-41d4-a716-446655440000}",
        ] {
            assert!(text.parse::<MessageId>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_ids_are_version_4() {
        for fill in [0, 0xff, 0x5a] {
            let text = MessageId::from_random([fill; 16]).to_string();
            assert_eq!(text.as_bytes()[14], b'4');
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
        }
    }
}
