//! What can be wrong with a JSON text.

use core::fmt;

/// What is wrong with a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A byte is not part of valid UTF-8.
    NotUtf8,
    /// A byte cannot stand here.
    Unexpected,
    /// The text ends inside a value.
    Truncated,
    /// A control character stands unescaped in a string.
    ControlCharacter,
    /// A backslash is not followed by an escape.
    BadEscape,
    /// A `\u` escape is half of a surrogate pair without the other half.
    LoneSurrogate,
    /// A number is not written as JSON has it.
    BadNumber,
    /// Arrays and objects are nested deeper than allowed.
    TooDeep,
    /// More members are open at once than the receiver has scratch slots for.
    TooManyMembers,
    /// An object has two members of one name.
    DuplicateMember,
    /// Something follows the value.
    TrailingBytes,
    /// The text is longer than 4 GiB.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "not valid UTF-8: encode the whole text as UTF-8",
            Self::Unexpected => "unexpected character: the text is not JSON (RFC 8259)",
            Self::Truncated => "the text ends inside a value: send all of it",
            Self::ControlCharacter => "control character in a string: write it as an escape",
            Self::BadEscape => "unknown escape in a string: use those of RFC 8259",
            Self::LoneSurrogate => "lone surrogate escape: write characters past U+FFFF as a pair",
            Self::BadNumber => "number is not written as in JSON: no leading zeros, no bare points",
            Self::TooDeep => "nested too deeply: flatten the value",
            Self::TooManyMembers => "more members than this receiver can check: send fewer",
            Self::DuplicateMember => "an object has two members of one name: send each once",
            Self::TrailingBytes => "something follows the value: send exactly one value",
            Self::TooLong => "the text is longer than 4 GiB: split it",
        })
    }
}

/// A [`Fault`] and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub fault: Fault,
    /// Where, as a byte offset. For a duplicate, where its name begins.
    pub at: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.fault, self.at)
    }
}

impl core::error::Error for JsonError {}
