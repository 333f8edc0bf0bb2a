//! Checked reads: every one returns what it asked for or an error; nothing is indexed.

use core::num::NonZeroU16;
use core::str;

use crate::{DecodeError, Malformed, topic};

/// The unread rest of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A packet identifier, which is never 0 (`[MQTT-2.3.1-1]`).
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.u16()?).ok_or(DecodeError::Malformed(Malformed::PacketIdZero))
    }

    /// Variable byte integer in its shortest form (5.0 §1.5.5, `[MQTT-1.5.5-1]`).
    #[inline]
    pub(crate) fn variable(&mut self) -> Result<u32, DecodeError> {
        match variable(self.rest)? {
            Some((value, len)) => {
                self.take(len)?;
                Ok(value)
            }
            None => Err(Malformed::Truncated.into()),
        }
    }

    /// Two-byte length and that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// UTF-8 string without U+0000. Control characters and non-characters, which both
    /// specifications let a receiver refuse, are accepted: they are well-formed, and what a
    /// string may hold is for the layer that uses it to say.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let text = self.utf8()?;
        if has_nul(text.as_bytes()) {
            return Err(Malformed::NulInString.into());
        }
        Ok(text)
    }

    /// Topic name, or an empty string for the caller to judge.
    #[inline]
    pub(crate) fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        let name = self.utf8()?;
        // One pass finds wild cards and U+0000; which it was matters only in the failure.
        if name.is_empty() || topic::valid_name(name) {
            Ok(name)
        } else if has_nul(name.as_bytes()) {
            Err(Malformed::NulInString.into())
        } else {
            Err(DecodeError::TopicNameInvalid)
        }
    }

    #[inline]
    fn utf8(&mut self) -> Result<&'a str, DecodeError> {
        str::from_utf8(self.binary()?).map_err(|_| Malformed::Utf8.into())
    }

    /// Nothing may follow the last field.
    #[inline]
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::TrailingBytes.into())
        }
    }
}

/// Whole-slice scans use a fold without early exit, which compiles to vector instructions.
#[inline]
pub(crate) fn has_nul(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, &byte| found | (byte == 0))
}

/// Reads a variable byte integer from the start of `bytes`: value and encoded length, or `None`
/// while it is incomplete.
#[inline]
pub(crate) fn variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0_u32;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return Err(Malformed::OverlongInteger.into());
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        Err(Malformed::VariableByteInteger.into())
    } else {
        Ok(None)
    }
}
