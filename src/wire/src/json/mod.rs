//! JSON as the contract reads it: RFC 8259, strictly, without copying and without allocating.
//!
//! Beyond the grammar, what the RFC leaves open is decided so that no two readers of one message
//! can come to different conclusions about it:
//!
//! - The text is valid UTF-8; a byte order mark is not skipped.
//! - `\u` escapes of surrogates come in pairs; a lone one is an error, because it names no
//!   character, and readers disagree about what to put in its place.
//! - A member's name occurs once in its object. Names are compared unescaped: `"a"` and
//!   `"\u0061"` are the same name.
//! - Nesting is bounded, see [`MAX_DEPTH`](crate::limits::MAX_DEPTH).
//! - Nothing follows the value but white space.
//! - Numbers are not evaluated, so none is too large or too precise.
//!
//! # Scratch slots
//!
//! To find duplicates the scanner notes the members of the objects that are open, one `u64` each,
//! in a slice the caller gives, and compares when an object closes: a few with each other, many by
//! sorting them. That costs O(n log n) for any input (what is sorted is a hash, with the name's own
//! order deciding between equal hashes, so there is nothing to gain from colliding ones) and needs no
//! secret. A slice of [`slots_for`](crate::limits::slots_for) slots serves every message of that
//! size; with a shorter one, a text with more members open at once is refused as
//! [`Fault::TooManyMembers`].

mod fault;
mod name;
mod payload;
mod scan;

pub use fault::{Fault, JsonError};
pub use payload::{Moment, Payload, measured_at};

pub(crate) use name::{cmp_names, prefix, unescaped};
pub(crate) use payload::unsigned;
pub(crate) use scan::{Name, Scanner, find_close, is_space, skip_space};
