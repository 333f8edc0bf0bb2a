//! A JSON value that was checked, and looking things up in it.

use core::{fmt, str};

use super::fault::{Fault, JsonError};
use super::name::unescaped;
use super::scan::{Scanner, find_close, is_space, skip_space};
use crate::canonical;
use crate::limits::MAX_DEPTH;
use crate::output::{Output, TooSmall};

/// A valid JSON value as its sender wrote it, borrowed, without white space around it.
#[derive(Clone, Copy)]
pub struct Payload<'a> {
    text: &'a str,
    /// There may be insignificant white space inside.
    spaced: bool,
    /// There may be an object with more than one member inside.
    ordered: bool,
}

impl<'a> Payload<'a> {
    /// Checks that `text` is one JSON value, at most 32 deep, and nothing else but white space
    /// around it. See [the module](crate::json) for `slots`.
    ///
    /// # Errors
    ///
    /// [`JsonError`] says what is wrong with it and where.
    pub fn parse(text: &'a [u8], slots: &mut [u64]) -> Result<Self, JsonError> {
        let text = str::from_utf8(text).map_err(|e| JsonError {
            fault: Fault::NotUtf8,
            at: e.valid_up_to(),
        })?;
        let mut scanner = Scanner::new(text, MAX_DEPTH, slots)?;
        scanner.space();
        let payload = Self::scan(text, &mut scanner)?;
        scanner.end()?;
        Ok(payload)
    }

    /// The value `scanner` stands before, in `text`.
    pub(crate) fn scan(text: &'a str, scanner: &mut Scanner<'_, '_>) -> Result<Self, JsonError> {
        let start = scanner.at();
        (scanner.spaced, scanner.ordered) = (false, false);
        scanner.value()?;
        Ok(Self {
            // A value starts and ends with ASCII, so there is no character to be split.
            text: text.get(start..scanner.at()).unwrap_or(""),
            spaced: scanner.spaced,
            ordered: scanner.ordered,
        })
    }

    /// The value exactly as it was written.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The value exactly as it was written.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// Feeds the canonical form, the text without insignificant white space, to `sink`, piece by
    /// piece and without copying; in one piece if there is no such white space.
    #[inline]
    pub fn canonical(&self, mut sink: impl FnMut(&[u8])) {
        if self.spaced {
            canonical::compact(self.as_bytes(), &mut sink);
        } else {
            sink(self.as_bytes());
        }
    }

    /// Feeds the canonical form with the members of every object sorted by the code points of
    /// their unescaped names. Needs two of `slots` for each member in the whole value.
    ///
    /// # Errors
    ///
    /// [`canonical::TooManyMembers`] if there are too few slots; nothing was fed then.
    pub fn sorted(
        &self,
        slots: &mut [u64],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), canonical::TooManyMembers> {
        if self.ordered {
            canonical::sorted(self.as_bytes(), slots, &mut sink)
        } else {
            self.canonical(sink);
            Ok(())
        }
    }

    /// Writes the canonical form and returns its length.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `out` is; the length of the value as written always suffices.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, TooSmall> {
        let mut out = Output::new(out);
        self.put(&mut out)?;
        Ok(out.len())
    }

    pub(crate) fn put(&self, out: &mut Output<'_>) -> Result<(), TooSmall> {
        let mut result = Ok(());
        self.canonical(|piece| {
            if result.is_ok() {
                result = out.put(piece);
            }
        });
        result
    }

    /// Whether sorting may change the canonical form.
    pub(crate) const fn may_be_unsorted(&self) -> bool {
        self.ordered
    }

    /// The value of the member called `name`, if this is an object that has one.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Self> {
        Some(Self {
            text: member(self.text, name)?,
            ..*self
        })
    }

    /// The members of an object, their names as they are written: they may have escapes. `None` if
    /// this is no object.
    pub(crate) fn members(self) -> Option<impl Iterator<Item = (&'a str, Self)>> {
        let places = Places::of(self.text, b'{')?;
        Some(places.filter_map(move |place| {
            let close = find_close(self.as_bytes(), place.name);
            Some((self.text.get(place.name..close)?, self.piece(&place)?))
        }))
    }

    /// The elements of an array. `None` if this is none.
    pub(crate) fn elements(self) -> Option<impl Iterator<Item = Self>> {
        let places = Places::of(self.text, b'[')?;
        Some(places.filter_map(move |place| self.piece(&place)))
    }

    fn piece(self, place: &Place) -> Option<Self> {
        let text = self.text.get(place.value..place.end)?;
        Some(Self { text, ..self })
    }

    /// The text of a string that has no escapes.
    ///
    /// For comparing with a fixed text use [`is_string`](Self::is_string), which reads escapes.
    #[must_use]
    pub fn plain_string(&self) -> Option<&'a str> {
        self.quoted().filter(|inner| !inner.contains('\\'))
    }

    /// The text between the quotes of a string, as written: it may have escapes.
    #[inline]
    pub(crate) fn quoted(&self) -> Option<&'a str> {
        self.text.strip_prefix('"')?.strip_suffix('"')
    }

    /// Whether this is a string that says `text`, however it is escaped.
    #[must_use]
    pub fn is_string(&self, text: &str) -> bool {
        self.text.starts_with('"') && unescaped(self.as_bytes(), 1).eq(text.bytes())
    }

    /// The value of an integer that is not negative, written without point or exponent.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        unsigned(self.as_bytes())
    }

    /// The value of `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// When the payload says it was measured: its member `measured_at`, seconds since 1970 as an
    /// integer or a decimal. `None` without such a member, or if it is anything else (an exponent
    /// is neither).
    #[must_use]
    pub fn measured_at(&self) -> Option<Moment> {
        measured_at(self.text)
    }
}

impl PartialEq for Payload<'_> {
    /// Equal if written the same way, character by character.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Payload<'_> {}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({})", self.text)
    }
}

impl fmt::Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text)
    }
}

/// As [`Payload::measured_at`], for a payload that was checked some time ago and is stored since:
/// needs no scratch slots. What it says of a text that is not JSON means nothing.
#[must_use]
pub fn measured_at(payload: &str) -> Option<Moment> {
    Moment::read(member(payload.trim_ascii_start(), "measured_at")?.as_bytes())
}

/// A point in time, exact to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Whole seconds since 1970; rounded down, so before 1970 too `nanos` counts forwards.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000. Finer digits are dropped.
    pub nanos: u32,
}

impl Moment {
    /// Reads a JSON integer or decimal number.
    fn read(number: &[u8]) -> Option<Self> {
        let (negative, number) = match number.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let point = number.iter().position(|byte| *byte == b'.');
        let (whole, fraction) = match point {
            Some(at) => (number.get(..at)?, number.get(at + 1..)?),
            None => (number, &[][..]),
        };
        let seconds = i64::try_from(unsigned(whole)?).ok()?;
        if !fraction.iter().all(u8::is_ascii_digit) || (point.is_some() && fraction.is_empty()) {
            return None;
        }
        let nanos = (0..9).fold(0, |nanos, digit| {
            nanos * 10
                + fraction
                    .get(digit)
                    .map_or(0, |digit| u32::from(digit - b'0'))
        });
        Some(match (negative, nanos) {
            (false, _) => Self { seconds, nanos },
            (true, 0) => Self {
                seconds: -seconds,
                nanos,
            },
            (true, _) => Self {
                seconds: -seconds - 1,
                nanos: 1_000_000_000 - nanos,
            },
        })
    }
}

/// The number written as these digits: no sign, point, exponent or leading zero.
pub(crate) fn unsigned(digits: &[u8]) -> Option<u64> {
    match digits {
        [] | [b'0', _, ..] => None,
        _ => digits.iter().try_fold(0u64, |value, digit| {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value.checked_mul(10)?.checked_add(u64::from(digit))
        }),
    }
}

/// The text of the value of the member `name` of `object`, which is valid JSON.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let found = |member: &Place| unescaped(object.as_bytes(), member.name).eq(name.bytes());
    let member = Places::of(object, b'{')?.find(found)?;
    object.get(member.value..member.end)
}

/// Where a member or an element is: the offset after its name's opening quote (0 for an element),
/// and where its value starts and ends.
struct Place {
    name: usize,
    value: usize,
    end: usize,
}

/// The places in a container, which is valid JSON and starts with `open`.
struct Places<'a> {
    text: &'a [u8],
    at: usize,
    open: u8,
}

impl<'a> Places<'a> {
    fn of(container: &'a str, open: u8) -> Option<Self> {
        let text = container.as_bytes();
        (text.first() == Some(&open)).then_some(Self { text, at: 1, open })
    }
}

impl Iterator for Places<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let (text, mut at) = (self.text, skip_space(self.text, self.at));
        let mut name = 0;
        if self.open == b'{' {
            if text.get(at) != Some(&b'"') {
                return None;
            }
            name = at + 1;
            // Past the closing quote, to the colon and over it.
            at = skip_space(text, find_close(text, name) + 1);
            at = skip_space(text, at + 1);
        } else if matches!(text.get(at), None | Some(b']')) {
            return None;
        }
        let end = skip_value(text, at);
        // Past the comma, if there is another.
        self.at = skip_space(text, end) + 1;
        Some(Place {
            name,
            value: at,
            end,
        })
    }
}

/// The offset after the value that starts at `at`, in valid JSON.
fn skip_value(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at = find_close(text, at + 1) + 1;
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ if depth == 0 && is_space(byte) => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Payload<'_> {
        Payload::parse(text.as_bytes(), &mut [0; 64]).unwrap()
    }

    #[test]
    fn members_are_found_by_what_their_names_say() {
        let value =
            payload(r#" { "a" : [ 1 , {"b":"}]"} ] , "\u0062":-0.5e3 ,"c":{ },"d":"x\"y" } "#);
        let text = |name| value.member(name).map(|v| v.as_str());
        assert_eq!(text("a"), Some(r#"[ 1 , {"b":"}]"} ]"#));
        assert_eq!(text("b"), Some("-0.5e3"));
        assert_eq!(text("c"), Some("{ }"));
        assert_eq!(text("d"), Some(r#""x\"y""#));
        assert_eq!(text("e"), None);
        assert!(value.member("d").unwrap().is_string("x\"y"));
        assert_eq!(value.member("d").unwrap().plain_string(), None);
        for other in ["{}", "[\"a\",1]", "\"a\"", "1", "null"] {
            assert_eq!(payload(other).member("a"), None);
        }
    }

    #[test]
    fn scalars() {
        assert_eq!(payload("\"on\"").plain_string(), Some("on"));
        assert_eq!(payload("1").plain_string(), None);
        assert_eq!(payload("18446744073709551615").unsigned(), Some(u64::MAX));
        for none in ["18446744073709551616", "-1", "-0", "1.0", "1e3", "\"1\""] {
            assert_eq!(payload(none).unsigned(), None, "{none}");
        }
        assert_eq!(payload("true").boolean(), Some(true));
        assert_eq!(payload("0").boolean(), None);
    }

    #[test]
    fn moments() {
        let at = |number: &str| {
            let mut text = [0; 128];
            let mut out = Output::new(&mut text);
            out.put(b"{\"t\":1, \"measured_at\" : ").unwrap();
            out.put(number.as_bytes()).unwrap();
            out.put(b" }").unwrap();
            let len = out.len();
            Payload::parse(&text[..len], &mut [0; 8])
                .unwrap()
                .measured_at()
                .map(|m| (m.seconds, m.nanos))
        };
        assert_eq!(at("1727712000"), Some((1_727_712_000, 0)));
        assert_eq!(at("1727712000.25"), Some((1_727_712_000, 250_000_000)));
        assert_eq!(at("0.123456789987"), Some((0, 123_456_789)));
        assert_eq!(at("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at("-3"), Some((-3, 0)));
        assert_eq!(at("-0"), Some((0, 0)));
        assert_eq!(
            at("9223372036854775807.999999999"),
            Some((i64::MAX, 999_999_999))
        );
        for none in [
            "9223372036854775808",
            "1e9",
            "1.5e9",
            "\"1727712000\"",
            "null",
            "[1]",
        ] {
            assert_eq!(at(none), None, "{none}");
        }
    }
}
