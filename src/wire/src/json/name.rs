//! Names of members: compared, ordered and hashed by what they say, not by how they are escaped.
//!
//! Everything here reads a text in which strings are known to be valid; on any other it stops
//! early, it does not panic.

use core::cmp::Ordering;

use crate::message_id::nibble;

/// The UTF-8 bytes of a string, unescaped. Their order is the order of the code points.
#[derive(Debug, Clone)]
pub(crate) struct Unescaped<'t> {
    text: &'t [u8],
    at: usize,
    // What is left of a character that was written as an escape.
    pending: [u8; 4],
    next: u8,
    len: u8,
}

/// The string whose first byte after the quote is at `at`, up to its closing quote.
pub(crate) fn unescaped(text: &[u8], at: usize) -> Unescaped<'_> {
    Unescaped {
        text,
        at,
        pending: [0; 4],
        next: 0,
        len: 0,
    }
}

impl Unescaped<'_> {
    fn escape(&mut self) -> Option<u8> {
        let letter = *self.text.get(self.at + 1)?;
        self.at += 2;
        let plain = match letter {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.code_point(),
            other => other,
        };
        Some(plain)
    }

    fn code_point(&mut self) -> Option<u8> {
        let mut code = hex4(self.text, self.at)?;
        self.at += 4;
        if (0xd800..0xdc00).contains(&code) {
            let low = hex4(self.text, self.at + 2)?;
            self.at += 6;
            code = 0x10000 + ((code - 0xd800) << 10 | (low & 0x3ff));
        }
        let character = char::from_u32(code)?;
        self.len = character.encode_utf8(&mut self.pending).len() as u8;
        self.next = 1;
        Some(self.pending[0])
    }
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        if self.next < self.len {
            let byte = self.pending.get(usize::from(self.next)).copied();
            self.next += 1;
            return byte;
        }
        match *self.text.get(self.at)? {
            b'"' => None,
            b'\\' => self.escape(),
            byte => {
                self.at += 1;
                Some(byte)
            }
        }
    }
}

/// The value of four hex digits at `at`.
pub(crate) fn hex4(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..)?.first_chunk::<4>()?;
    let mut code = 0;
    for digit in digits {
        let value = nibble(*digit);
        if value > 0x0f {
            return None;
        }
        code = code << 4 | u32::from(value);
    }
    Some(code)
}

/// Compares two names by their code points; `a` and `b` are the offsets after their quotes.
///
/// Long common beginnings are skipped eight bytes at a time, so that sorting names made to be
/// slow to tell apart stays cheap.
pub(crate) fn cmp_names(text: &[u8], mut a: usize, mut b: usize) -> Ordering {
    let chunk = |at: usize| text.get(at..).and_then(|rest| rest.first_chunk::<8>());
    while let (Some(left), Some(right)) = (chunk(a), chunk(b)) {
        if left != right || left.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            break;
        }
        a += 8;
        b += 8;
    }
    unescaped(text, a).cmp(unescaped(text, b))
}

/// The first four bytes of a name, as a number that orders as they do; shorter names are padded
/// with zeros, so equal numbers decide nothing.
pub(crate) fn prefix(text: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(unescaped(text, at)) {
        *to = from;
    }
    u32::from_be_bytes(bytes)
}

/// An odd constant with well mixed bits (the fractional part of the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of what a name says, 32 bits. Not a secret one: whoever uses it must not mind
/// collisions made on purpose.
#[inline]
pub(crate) fn hash(text: &[u8], start: usize, end: usize, escaped: bool) -> u32 {
    let mut state = 0u64;
    if escaped {
        let mut chunk = [0u8; 8];
        let mut used = 0;
        for byte in unescaped(text, start) {
            if used == chunk.len() {
                state = mix(state, u64::from_le_bytes(chunk));
                (chunk, used) = ([0; 8], 0);
            }
            if let Some(to) = chunk.get_mut(used) {
                *to = byte;
            }
            used += 1;
        }
        state = mix(state, u64::from_le_bytes(chunk));
    } else {
        let mut at = start;
        while end - at > 8 {
            state = mix(state, word(text, at, 8));
            at += 8;
        }
        state = mix(state, word(text, at, end - at));
    }
    (state >> 32) as u32
}

#[inline]
fn mix(state: u64, chunk: u64) -> u64 {
    let product = (state ^ chunk).wrapping_mul(MIX);
    product ^ product >> 32
}

/// `len` (up to 8) bytes at `at`, padded with zeros.
#[inline]
fn word(text: &[u8], at: usize, len: usize) -> u64 {
    // Most names have at least eight bytes of text behind them; taking those and masking is
    // several times faster than copying a few bytes.
    if let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        return if len >= 8 {
            word
        } else {
            word & !(u64::MAX << (8 * len))
        };
    }
    let mut chunk = [0; 8];
    for (to, from) in chunk.iter_mut().zip(text.get(at..at + len).unwrap_or(&[])) {
        *to = *from;
    }
    u64::from_le_bytes(chunk)
}

/// Two members of one name, if there are any: the offset of one of them.
///
/// `members` are slots of one object, hash in the upper half and offset (after the quote) in the
/// lower; they are left in any order.
pub(crate) fn duplicate(text: &[u8], members: &mut [u64]) -> Option<usize> {
    /// Up to here comparing all pairs (at most 66) beats sorting.
    const FEW: usize = 12;
    let hash = |slot: u64| slot >> 32;
    let at = |slot: u64| slot as u32 as usize;
    if members.len() <= FEW {
        let mut rest = &*members;
        while let Some((first, others)) = rest.split_first() {
            for other in others {
                if hash(*first) == hash(*other) && cmp_names(text, at(*first), at(*other)).is_eq() {
                    return Some(at(*other));
                }
            }
            rest = others;
        }
        return None;
    }
    members.sort_unstable();
    for run in members.chunk_by_mut(|a, b| hash(*a) == hash(*b)) {
        if run.len() > 1 {
            run.sort_unstable_by(|a, b| cmp_names(text, at(*a), at(*b)));
            for pair in run.windows(2) {
                if let [a, b] = *pair
                    && cmp_names(text, at(a), at(b)).is_eq()
                {
                    return Some(at(a.max(b)));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    fn hash_of(name: &str) -> u32 {
        let text = std::format!("\"{name}\"");
        let escaped = name.contains('\\');
        hash(text.as_bytes(), 1, text.len() - 1, escaped)
    }

    fn said(name: &str) -> String {
        let text = std::format!("\"{name}\"");
        String::from_utf8(unescaped(text.as_bytes(), 1).collect()).unwrap()
    }

    #[test]
    fn escapes_say_what_json_says_they_do() {
        for name in [
            "",
            "a",
            "\\u0061",
            "\\n\\t\\r\\b\\f\\/\\\\\\\"",
            "caf\\u00e9",
            "\\ud83d\\ude00",
            "\\uD83D\\uDE00x",
            "😀é",
            "\\u0000",
            "12345678\\u00399",
        ] {
            let text = std::format!("\"{name}\"");
            let expected: String = serde_json::from_str(&text).unwrap();
            assert_eq!(said(name), expected);
            // However it is written, it hashes as the plain text does.
            if !expected.contains(['"', '\\']) {
                assert_eq!(hash_of(name), hash_of(&expected), "{name}");
            }
        }
    }

    #[test]
    fn names_order_by_code_point_not_by_utf16() {
        // In UTF-16 the surrogates of U+1F600 come before U+FFFD.
        let text = br#""\ud83d\ude00","\ufffd","#;
        assert_eq!(cmp_names(text, 1, 16), Ordering::Greater);
        // What follows a name has no say, and an escape is not taken apart.
        let text = br#""abc":0,"abc":0,"d":[]"#;
        assert_eq!(cmp_names(text, 1, 9), Ordering::Equal);
        let text = br#""abcdefg\n","abcdefg\\","#;
        assert_eq!(cmp_names(text, 1, 13), Ordering::Less);
        let text = br#""abcdefghijklmnop1","abcdefghijklmnop\u0031","#;
        assert_eq!(cmp_names(text, 1, 21), Ordering::Equal);
    }

    #[test]
    fn duplicates_hide_neither_among_many_nor_behind_equal_hashes() {
        for count in [2usize, 12, 13, 200] {
            let mut text = String::new();
            let mut members: Vec<u64> = Vec::new();
            for n in 0..count {
                text.push('"');
                // All hashes equal: the worst a hostile sender can do.
                members.push(7 << 32 | text.len() as u64);
                text += &std::format!("member{n}\"");
            }
            assert_eq!(duplicate(text.as_bytes(), &mut members), None);
            text.push('"');
            members.push(7 << 32 | text.len() as u64);
            text += "\\u006dember1\"";
            assert!(
                duplicate(text.as_bytes(), &mut members).is_some(),
                "{count}"
            );
        }
    }
}
