//! Writing into a buffer somebody else owns.

use core::fmt;

use crate::message_id::hex;

/// Appends to a fixed buffer; the first thing that does not fit fails, and nothing is cut short.
#[derive(Debug)]
pub struct Output<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

/// The buffer given is too small for what was to be written into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall {
    /// How many bytes would have been needed at least.
    pub needed: usize,
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "output buffer is too small: give it at least {} bytes",
            self.needed
        )
    }
}

impl core::error::Error for TooSmall {}

impl<'b> Output<'b> {
    /// Writes from the start of `buffer`.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if they do not fit; then none of them is written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), TooSmall> {
        let end = self.len.saturating_add(bytes.len());
        let Some(room) = self.buffer.get_mut(self.len..end) else {
            return Err(TooSmall { needed: end });
        };
        room.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Appends `value` in decimal.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if it does not fit.
    pub fn put_u64(&mut self, value: u64) -> Result<(), TooSmall> {
        self.put(decimal(value, &mut [0; 20]))
    }

    /// Appends `text` as a JSON string: in quotes, with only what must be escaped escaped.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if it does not fit; part of it may have been written.
    pub fn put_json_string(&mut self, text: &str) -> Result<(), TooSmall> {
        self.put(b"\"")?;
        let mut rest = text.as_bytes();
        while let Some(plain) = rest
            .iter()
            .position(|b| *b < 0x20 || matches!(b, b'"' | b'\\'))
        {
            let (before, from) = rest.split_at(plain);
            self.put(before)?;
            if let Some((&byte, after)) = from.split_first() {
                match byte {
                    b'"' => self.put(b"\\\"")?,
                    b'\\' => self.put(b"\\\\")?,
                    b'\n' => self.put(b"\\n")?,
                    b'\r' => self.put(b"\\r")?,
                    b'\t' => self.put(b"\\t")?,
                    _ => {
                        self.put(b"\\u00")?;
                        self.put(&hex(byte))?;
                    }
                }
                rest = after;
            }
        }
        self.put(rest)?;
        self.put(b"\"")
    }

    /// Appends `bytes` as lower-case hex digits.
    pub(crate) fn put_hex(&mut self, bytes: &[u8]) -> Result<(), TooSmall> {
        bytes.iter().try_for_each(|byte| self.put(&hex(*byte)))
    }
}

/// `value` in decimal, at the end of `buffer`.
pub(crate) fn decimal(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        start -= 1;
        if value == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;
    use std::vec;

    #[test]
    fn decimals() {
        for value in [0, 1, 9, 10, 1_727_712_000, u64::MAX] {
            assert_eq!(decimal(value, &mut [0; 20]), value.to_string().as_bytes());
        }
    }

    #[test]
    fn json_strings_read_back() {
        for text in ["", "plain", "a\"b\\c\n\r\t\u{1}\u{1f}", "é☃😀", "\"\""] {
            let mut buffer = [0; 64];
            let mut out = Output::new(&mut buffer);
            out.put_json_string(text).unwrap();
            let len = out.len();
            let read: std::string::String = serde_json::from_slice(&buffer[..len]).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn nothing_is_written_past_the_end() {
        let mut buffer = vec![0; 4];
        let mut out = Output::new(&mut buffer);
        out.put(b"abc").unwrap();
        assert_eq!(out.put(b"de"), Err(TooSmall { needed: 5 }));
        assert_eq!(out.len(), 3);
        out.put(b"d").unwrap();
        assert_eq!(buffer, b"abcd");
    }
}
