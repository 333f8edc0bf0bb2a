//! The scanner: one pass over a text, deciding whether it is JSON.

use super::fault::{Fault, JsonError};
use super::name::{duplicate, hash, hex4};
use crate::limits::MAX_DEPTH;

/// A member's name in a text: the offsets after its opening and at its closing quote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) escaped: bool,
}

/// A place in a text (known to be UTF-8), and what was learnt on the way there.
#[derive(Debug)]
pub(crate) struct Scanner<'t, 's> {
    text: &'t [u8],
    at: usize,
    slots: &'s mut [u64],
    used: usize,
    max_depth: usize,
    /// Insignificant white space was seen.
    pub(crate) spaced: bool,
    /// An object with more than one member was seen, so order matters.
    pub(crate) ordered: bool,
}

type Scan<T = ()> = Result<T, JsonError>;

impl<'t, 's> Scanner<'t, 's> {
    pub(crate) fn new(text: &'t str, max_depth: usize, slots: &'s mut [u64]) -> Scan<Self> {
        // Slots have 32 bits for an offset.
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError {
                fault: Fault::TooLong,
                at: 0,
            });
        }
        Ok(Self {
            text: text.as_bytes(),
            at: 0,
            slots,
            used: 0,
            max_depth: max_depth.min(MAX_DEPTH),
            spaced: false,
            ordered: false,
        })
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[cold]
    fn fail<T>(&self, fault: Fault) -> Scan<T> {
        Err(JsonError { fault, at: self.at })
    }

    /// A byte stands where it cannot, or the text has ended.
    #[cold]
    pub(crate) fn unexpected<T>(&self) -> Scan<T> {
        self.fail(if self.at < self.text.len() {
            Fault::Unexpected
        } else {
            Fault::Truncated
        })
    }

    #[inline(always)]
    pub(crate) fn space(&mut self) {
        // Hardly ever is there any, and what follows is hardly ever below the space character.
        if let Some(0..=b' ') = self.peek() {
            let end = skip_space(self.text, self.at);
            self.spaced |= end != self.at;
            self.at = end;
        }
    }

    #[inline(always)]
    pub(crate) fn expect(&mut self, byte: u8) -> Scan {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.unexpected()
        }
    }

    /// Takes `byte` if it is next.
    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// White space up to the end of the text, and nothing else.
    pub(crate) fn end(&mut self) -> Scan {
        self.space();
        if self.at < self.text.len() {
            return self.fail(Fault::TrailingBytes);
        }
        Ok(())
    }

    /// A member's name, its colon, and the white space around that.
    #[inline(always)]
    pub(crate) fn name(&mut self) -> Scan<Name> {
        self.expect(b'"')?;
        let start = self.at;
        let escaped = self.string()?;
        let end = self.at - 1;
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(Name {
            start,
            end,
            escaped,
        })
    }

    /// Notes a member of the object that is open, for [`close`](Self::close) to compare.
    #[inline(always)]
    pub(crate) fn note(&mut self, name: Name) -> Scan {
        let hash = hash(self.text, name.start, name.end, name.escaped);
        let Some(slot) = self.slots.get_mut(self.used) else {
            return self.fail(Fault::TooManyMembers);
        };
        *slot = u64::from(hash) << 32 | name.start as u64;
        self.used += 1;
        Ok(())
    }

    /// Closes the object whose members were noted from slot `first` on.
    #[inline(always)]
    pub(crate) fn close(&mut self, first: usize) -> Scan {
        let members = self.slots.get_mut(first..self.used).unwrap_or(&mut []);
        self.used = first;
        if members.len() > 1 {
            self.ordered = true;
            if let Some(at) = duplicate(self.text, members) {
                return Err(JsonError {
                    fault: Fault::DuplicateMember,
                    at,
                });
            }
        }
        Ok(())
    }

    /// One value, whatever it is; white space around it is left to the caller.
    pub(crate) fn value(&mut self) -> Scan {
        // Bit 0 is set if the innermost open container is an object, bit 1 tells of the one
        // around it, and so on.
        let mut objects = 0u64;
        let mut depth = 0;
        let mut firsts = [0usize; MAX_DEPTH];
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b'{') => {
                    if depth >= self.max_depth {
                        return self.fail(Fault::TooDeep);
                    }
                    self.at += 1;
                    self.space();
                    if !self.take(b'}') {
                        if let Some(first) = firsts.get_mut(depth) {
                            *first = self.used;
                        }
                        depth += 1;
                        objects = objects << 1 | 1;
                        let name = self.name()?;
                        self.note(name)?;
                        continue;
                    }
                }
                Some(b'[') => {
                    if depth >= self.max_depth {
                        return self.fail(Fault::TooDeep);
                    }
                    self.at += 1;
                    self.space();
                    if !self.take(b']') {
                        depth += 1;
                        objects <<= 1;
                        continue;
                    }
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return self.unexpected(),
            }
            // A value has ended: close what ends with it, or go on to the next.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.space();
                let in_object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            let name = self.name()?;
                            self.note(name)?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => {
                        let first = firsts.get(depth - 1).copied().unwrap_or(0);
                        self.close(first)?;
                    }
                    Some(b']') if !in_object => {}
                    _ => return self.unexpected(),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// The rest of a string after its opening quote; whether it has escapes.
    #[inline]
    fn string(&mut self) -> Scan<bool> {
        let mut escaped = false;
        loop {
            self.at = find_special(self.text, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail(Fault::ControlCharacter),
                None => return self.fail(Fault::Truncated),
            }
        }
    }

    fn escape(&mut self) -> Scan {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let Some(code) = hex4(self.text, self.at + 2) else {
                    return self.fail(Fault::BadEscape);
                };
                match code {
                    0xd800..=0xdbff => {
                        let pair = self.text.get(self.at + 6..self.at + 8) == Some(br"\u");
                        match hex4(self.text, self.at + 8) {
                            Some(0xdc00..=0xdfff) if pair => self.at += 12,
                            _ => return self.fail(Fault::LoneSurrogate),
                        }
                    }
                    0xdc00..=0xdfff => return self.fail(Fault::LoneSurrogate),
                    _ => self.at += 6,
                }
                Ok(())
            }
            Some(_) => self.fail(Fault::BadEscape),
            None => self.fail(Fault::Truncated),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Scan {
        if self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word))
        {
            self.at += word.len();
            return Ok(());
        }
        self.unexpected()
    }

    #[inline]
    fn number(&mut self) -> Scan {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        } else if let Some(b'0'..=b'9') = self.peek() {
            return self.fail(Fault::BadNumber);
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    #[inline(always)]
    fn digits(&mut self) -> Scan {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return self.fail(Fault::BadNumber);
        }
        Ok(())
    }
}

/// Whether a byte is one of JSON's four insignificant white space characters.
#[inline(always)]
pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The first offset from `at` on that is not white space.
pub(crate) fn skip_space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|byte| is_space(*byte)) {
        at += 1;
    }
    at
}

/// The offset of the closing quote of a valid string, given the offset after its opening one.
pub(crate) fn find_close(text: &[u8], mut at: usize) -> usize {
    loop {
        at = find_special(text, at);
        match text.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') | None => return at,
            Some(_) => at += 1,
        }
    }
}

/// The first offset from `at` on of a quote, a backslash or a control character.
#[inline(always)]
fn find_special(text: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = special_bytes(u64::from_le_bytes(*chunk));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = text.get(at) {
        if *byte < 0x20 || matches!(byte, b'"' | b'\\') {
            break;
        }
        at += 1;
    }
    at
}

/// Eight bytes at once: the lowest bit set is in the first byte that is a quote, a backslash or a
/// control character. (Bytes above that one may be marked wrongly: a borrow runs upwards.)
#[inline(always)]
const fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let found = quote.wrapping_sub(ONES) & !quote
        | backslash.wrapping_sub(ONES) & !backslash
        | word.wrapping_sub(ONES * 0x20) & !word;
    found & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_is_found_wherever_it_is() {
        for special in 0..=255u8 {
            let is_special = special < 0x20 || special == b'"' || special == b'\\';
            for position in 0..20 {
                for filler in [b'a', b'!', b'#', b'[', b']', 0x20, 0x7f, 0x80, 0xff] {
                    let mut text = [filler; 20];
                    text[position] = special;
                    let expected = if is_special { position } else { 20 };
                    assert_eq!(find_special(&text, 0), expected, "{special} at {position}");
                    // A match above must not hide or move it.
                    text[19] = b'"';
                    assert_eq!(find_special(&text, 0), expected.min(19));
                }
            }
        }
    }
}
