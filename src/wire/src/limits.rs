//! Every bound of the contract, and why it is what it is.

/// Largest whole message, in bytes, unless a setting says otherwise: 64 KiB.
///
/// Telemetry is a few hundred bytes; 64 KiB leaves room for a buffered batch or a small
/// picture, while a thousand devices each sending the largest message at once still cost a
/// Raspberry Pi only 64 MiB.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Deepest nesting of arrays and objects in a member of an envelope: 32.
///
/// No telemetry comes near it, it keeps what every parser down the line has to stack small, and
/// the scanner can hold its whole state in a fixed array, on a microcontroller as well.
pub const MAX_DEPTH: usize = 32;

/// How far a timestamp may be from the receiver's clock, either way, in seconds: 300.
///
/// The seed document's five minutes: generous to a device whose clock drifts between two NTP
/// answers, and short enough that remembering every message id for twice as long is cheap.
pub const FRESHNESS_S: u64 = 300;

/// Longest device id, in characters (all of them ASCII, so bytes as well): 64.
///
/// The longest subject CN that X.509 allows (RFC 5280, `ub-common-name`).
pub const MAX_DEVICE_ID: usize = 64;

/// Length of a message id's text: a UUID as RFC 9562 writes it.
pub const MESSAGE_ID_TEXT: usize = 36;

/// Longest topic of the contract: `device/`, a device id, `/response` or `/command`.
pub const MAX_TOPIC: usize = 7 + MAX_DEVICE_ID + 9;

/// Length of a signature: the output of HMAC-SHA256.
pub const SIGNATURE: usize = 32;

/// Room a rejection notice always fits into: the longest reason and a UUID take 104 bytes.
pub const MAX_REJECTION: usize = 128;

/// What an envelope adds to its payload at most, in bytes.
///
/// The version 2 form with the longest device id and timestamp is
/// `{"v":2,"device_id":"","timestamp":,"message_id":"","payload":,"signature":""}` (77 bytes), and
/// 64 + 20 + 36 + 64 bytes of values.
pub const ENVELOPE_OVERHEAD: usize = 77 + MAX_DEVICE_ID + 20 + MESSAGE_ID_TEXT + 2 * SIGNATURE;

/// What to hold an incoming message to; the settings of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest whole message in bytes. Offsets are 32 bits wide: more than 4 GiB is refused.
    pub max_message: usize,
    /// Deepest nesting of a member's value; values above [`MAX_DEPTH`] mean [`MAX_DEPTH`].
    pub max_depth: usize,
}

impl Limits {
    /// The contract's own limits.
    pub const CONTRACT: Self = Self {
        max_message: MAX_MESSAGE,
        max_depth: MAX_DEPTH,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::CONTRACT
    }
}

/// How many scratch slots (`u64`) serve any message of up to `message` bytes, for parsing and for
/// the sorted form.
///
/// A member takes at least five bytes (`"":0,`), parsing needs a slot for each member of the
/// objects that are open at the same time, and sorting two for each member of the payload. The
/// gateway allocates this once per worker (about 205 KiB for 64 KiB messages). Firmware, which knows what it
/// is sent, may do with far less: `[0; 64]` is plenty for a command. Too few slots are safe: they
/// make a message with more members than that [`Malformed`](crate::Reason::Malformed), or its sorted
/// form not accepted.
#[must_use]
pub const fn slots_for(message: usize) -> usize {
    2 * (message / 5 + 1)
}
