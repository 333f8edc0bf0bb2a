//! The envelope: every signed message of the contract, as it was received.
//!
//! Reading it takes two steps that are kept apart by types: [`Envelope::parse`] says what a message
//! claims, [`Envelope::verify`] turns that into a [`Verified`] envelope. Nothing else makes one.

use core::fmt;
use core::ops::Deref;
use core::str;

use crate::device_id::DeviceId;
use crate::json::{Fault, JsonError, Name, Payload, Scanner, unescaped, unsigned};
use crate::limits::{Limits, SIGNATURE};
use crate::message_id::{MessageId, nibble};
use crate::reason::Reason;
use crate::signing::{Direction, Head, SigningKey, Version};

/// What a message claims, borrowed from its bytes; nothing of it is verified yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    version: Version,
    device_id: &'a str,
    timestamp: u64,
    timestamp_text: &'a str,
    message_id: MessageId,
    message_id_text: &'a str,
    payload: Payload<'a>,
    signature: [u8; SIGNATURE],
}

impl<'a> Envelope<'a> {
    /// Reads a message, up to its signature.
    ///
    /// See [`json`](crate::json) for what is JSON and what `slots` are for. Of the members,
    ///
    /// - unknown ones are ignored, but must be JSON like the rest;
    /// - `device_id`, `message_id` and `signature` are written without escapes: none of their
    ///   characters needs one, and a text that can be written in one way only cannot be read in
    ///   two;
    /// - `timestamp` is digits: no sign, point or exponent;
    /// - `v`, if there is one, is an integer. When it is neither 1 nor 2 the other members are
    ///   not judged: they may well have the form of another version.
    ///
    /// # Errors
    ///
    /// [`ParseError`]: it is too large, it is not JSON, a member is missing or wrong, or its
    /// version is unknown.
    pub fn parse(
        bytes: &'a [u8],
        limits: &Limits,
        slots: &mut [u64],
    ) -> Result<Self, ParseError<'a>> {
        Members::scan(bytes, limits, slots)?.read(None)
    }

    /// Reads a message for a receiver that knows whose it must be: a device reading a command.
    ///
    /// As [`parse`](Self::parse), but `device_id` may be left out and then is `own`: the seed
    /// document's commands have none.
    ///
    /// # Errors
    ///
    /// [`ParseError`], as `parse`.
    pub fn parse_for(
        own: &'a DeviceId,
        bytes: &'a [u8],
        limits: &Limits,
        slots: &mut [u64],
    ) -> Result<Self, ParseError<'a>> {
        Members::scan(bytes, limits, slots)?.read(Some(own.as_str()))
    }

    /// The version it is signed as.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whose message it says it is; a valid [`DeviceId`].
    #[must_use]
    pub const fn device_id(&self) -> &'a str {
        self.device_id
    }

    /// When it says it was signed, in seconds since 1970.
    #[must_use]
    pub const fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// Its id, by value.
    #[must_use]
    pub const fn message_id(&self) -> MessageId {
        self.message_id
    }

    /// Its id, as the sender wrote it.
    #[must_use]
    pub const fn message_id_text(&self) -> &'a str {
        self.message_id_text
    }

    /// What it carries.
    #[must_use]
    pub const fn payload(&self) -> Payload<'a> {
        self.payload
    }

    /// Its signature, as yet unverified.
    #[must_use]
    pub const fn signature(&self) -> &[u8; SIGNATURE] {
        &self.signature
    }

    /// Checks the signature, in constant time.
    ///
    /// In version 1 a signature over the sorted form of the payload is accepted as well. It is
    /// tried only after the other one failed and if there is anything to sort, and needs two of
    /// `slots` for each member of the payload: with fewer, it is not accepted.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if it was not made with `key` over this message in this direction.
    pub fn verify(
        &self,
        key: &SigningKey,
        direction: Direction,
        slots: &mut [u64],
    ) -> Result<Verified<Self>, BadSignature> {
        let head = self.head(direction);
        let mut digest = head.start(key);
        self.payload.canonical(|piece| digest.update(piece));
        if digest.matches(&self.signature) {
            return Ok(Verified(*self));
        }
        if self.version == Version::V1 && self.payload.may_be_unsorted() {
            let mut digest = head.start(key);
            let sorted = self.payload.sorted(slots, |piece| digest.update(piece));
            if sorted.is_ok() && digest.matches(&self.signature) {
                return Ok(Verified(*self));
            }
        }
        Err(BadSignature)
    }

    /// Feeds the signing input to `sink`, piece by piece: for tools that explain a bad signature.
    pub fn signing_input(&self, direction: Direction, mut sink: impl FnMut(&[u8])) {
        self.head(direction).feed(&mut sink);
        self.payload.canonical(sink);
    }

    const fn head(&self, direction: Direction) -> Head<'a> {
        Head {
            version: self.version,
            direction,
            device_id: self.device_id,
            timestamp: self.timestamp_text.as_bytes(),
            message_id: self.message_id_text,
        }
    }
}

/// Something whose signature was checked. Only [`Envelope::verify`] and
/// [`Signed::verify`](crate::manifest::Signed::verify) make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// What was just verified, elsewhere in this crate.
    pub(crate) const fn proven(value: T) -> Self {
        Self(value)
    }

    /// The thing itself, no longer known to be verified.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A signature was not made by the device over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSignature;

impl From<BadSignature> for Reason {
    fn from(_: BadSignature) -> Self {
        Self::BadSignature
    }
}

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "signature does not match: check the device's shared secret and its signing input",
        )
    }
}

impl core::error::Error for BadSignature {}

/// The members of an envelope that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// `v`
    V,
    /// `device_id`
    DeviceId,
    /// `timestamp`
    Timestamp,
    /// `message_id`
    MessageId,
    /// `payload`
    Payload,
    /// `signature`
    Signature,
}

impl Member {
    const ALL: [Self; 6] = [
        Self::V,
        Self::DeviceId,
        Self::Timestamp,
        Self::MessageId,
        Self::Payload,
        Self::Signature,
    ];

    /// Its name in the message.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V => "v",
            Self::DeviceId => "device_id",
            Self::Timestamp => "timestamp",
            Self::MessageId => "message_id",
            Self::Payload => "payload",
            Self::Signature => "signature",
        }
    }

    #[inline]
    fn named(text: &[u8], name: Name) -> Option<Self> {
        if name.escaped {
            let said = |member: &Self| unescaped(text, name.start).eq(member.name().bytes());
            return Self::ALL.into_iter().find(said);
        }
        match text.get(name.start..name.end)? {
            b"v" => Some(Self::V),
            b"device_id" => Some(Self::DeviceId),
            b"timestamp" => Some(Self::Timestamp),
            b"message_id" => Some(Self::MessageId),
            b"payload" => Some(Self::Payload),
            b"signature" => Some(Self::Signature),
            _ => None,
        }
    }
}

/// The known members as they stand in the text.
#[derive(Default)]
struct Members<'a> {
    values: [Option<Payload<'a>>; 6],
}

impl<'a> Members<'a> {
    fn scan(bytes: &'a [u8], limits: &Limits, slots: &mut [u64]) -> Result<Self, ParseError<'a>> {
        if bytes.len() > limits.max_message {
            return Err(ParseError::of(Problem::TooLarge {
                limit: limits.max_message,
            }));
        }
        Self::scan_json(bytes, limits, slots).map_err(|e| ParseError::of(Problem::Json(e)))
    }

    fn scan_json(bytes: &'a [u8], limits: &Limits, slots: &mut [u64]) -> Result<Self, JsonError> {
        let text = str::from_utf8(bytes).map_err(|e| JsonError {
            fault: Fault::NotUtf8,
            at: e.valid_up_to(),
        })?;
        let mut scanner = Scanner::new(text, limits.max_depth, slots)?;
        let mut members = Self::default();
        scanner.space();
        scanner.expect(b'{')?;
        scanner.space();
        if !scanner.take(b'}') {
            loop {
                let name = scanner.name()?;
                let known = Member::named(bytes, name)
                    .and_then(|member| members.values.get_mut(member as usize));
                match known {
                    None => {
                        scanner.note(name)?;
                        scanner.value()?;
                    }
                    Some(Some(_)) => {
                        return Err(JsonError {
                            fault: Fault::DuplicateMember,
                            at: name.start,
                        });
                    }
                    Some(value) => *value = Some(Payload::scan(text, &mut scanner)?),
                }
                scanner.space();
                if !scanner.take(b',') {
                    break;
                }
                scanner.space();
            }
            scanner.expect(b'}')?;
            scanner.close(0)?;
        }
        scanner.end()?;
        Ok(members)
    }

    /// Makes sense of the members. `own` stands in for a missing `device_id`.
    fn read(self, own: Option<&'a str>) -> Result<Envelope<'a>, ParseError<'a>> {
        let [v, device_id, timestamp, message_id, payload, signature] = self.values;
        // Strings are taken as they are written: a backslash is not a character of an id or of
        // hex digits, so what has an escape is refused with everything else that is neither.
        //
        // The id comes first, so that whatever else is wrong can be reported under it.
        let id = message_id.and_then(|value| {
            let text = value.quoted()?;
            Some((text, MessageId::parse(text.as_bytes()).ok()?))
        });
        let error = |problem| ParseError {
            problem,
            message_id: id.map(|(text, _)| text),
        };
        let missing = |member| error(Problem::Missing(member));
        let wrong = |member| error(Problem::Wrong(member));

        let version = match v.map(|value| value.as_bytes()) {
            None | Some(b"1") => Version::V1,
            Some(b"2") => Version::V2,
            Some(other) => {
                let digits = other.strip_prefix(b"-").unwrap_or(other);
                return Err(if digits.iter().all(u8::is_ascii_digit) {
                    error(Problem::UnsupportedVersion)
                } else {
                    wrong(Member::V)
                });
            }
        };
        let device_id = match (device_id, own) {
            (Some(value), _) => value
                .quoted()
                .and_then(|text| DeviceId::check(text.as_bytes()).ok())
                .ok_or_else(|| wrong(Member::DeviceId))?,
            (None, Some(own)) => own,
            (None, None) => return Err(missing(Member::DeviceId)),
        };
        let timestamp_text = timestamp
            .ok_or_else(|| missing(Member::Timestamp))?
            .as_str();
        let timestamp =
            unsigned(timestamp_text.as_bytes()).ok_or_else(|| wrong(Member::Timestamp))?;
        message_id.ok_or_else(|| missing(Member::MessageId))?;
        let (message_id_text, message_id) = id.ok_or_else(|| wrong(Member::MessageId))?;
        let payload = payload.ok_or_else(|| missing(Member::Payload))?;
        let signature = signature
            .ok_or_else(|| missing(Member::Signature))?
            .quoted()
            .and_then(read_signature)
            .ok_or_else(|| wrong(Member::Signature))?;
        Ok(Envelope {
            version,
            device_id,
            timestamp,
            timestamp_text,
            message_id,
            message_id_text,
            payload,
            signature,
        })
    }
}

/// 64 hex digits of either case.
fn read_signature(text: &str) -> Option<[u8; SIGNATURE]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let pairs: &[[u8; 2]; SIGNATURE] = pairs.try_into().ok()?;
    let mut signature = [0; SIGNATURE];
    let mut wrong = 0;
    for (byte, [high, low]) in signature.iter_mut().zip(pairs) {
        let (high, low) = (nibble(*high), nibble(*low));
        wrong |= (high | low) & 0xf0;
        *byte = high << 4 | low & 0x0f;
    }
    (wrong == 0).then_some(signature)
}

/// Why a message is not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError<'a> {
    /// What is wrong.
    pub problem: Problem,
    /// The message's id as the sender wrote it, if that much could be read: to report the
    /// rejection under.
    pub message_id: Option<&'a str>,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is larger than this many bytes.
    TooLarge {
        /// The limit it was held to.
        limit: usize,
    },
    /// It is not JSON, or not an object.
    Json(JsonError),
    /// This member is not there.
    Missing(Member),
    /// This member has not the form it must have.
    Wrong(Member),
    /// Its version is neither 1 nor 2.
    UnsupportedVersion,
}

impl ParseError<'_> {
    const fn of(problem: Problem) -> Self {
        Self {
            problem,
            message_id: None,
        }
    }

    /// The reason to reject the message for.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self.problem {
            Problem::TooLarge { .. } => Reason::PayloadTooLarge,
            Problem::UnsupportedVersion => Reason::UnsupportedVersion,
            Problem::Json(_) | Problem::Missing(_) | Problem::Wrong(_) => Reason::Malformed,
        }
    }
}

impl From<ParseError<'_>> for Reason {
    fn from(error: ParseError<'_>) -> Self {
        error.reason()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => {
                write!(f, "message is larger than {limit} bytes: split it")
            }
            Self::Json(error) => write!(f, "message is not an envelope: {error}"),
            Self::Missing(member) => write!(f, "member `{0}` is missing: add it", member.name()),
            Self::Wrong(member) => write!(
                f,
                "member `{}` must be {}",
                member.name(),
                match member {
                    Member::V => "the integer 1 or 2",
                    Member::DeviceId => "1 to 64 characters of A-Z a-z 0-9 _ -",
                    Member::Timestamp => "whole seconds since 1970, an integer in digits only",
                    Member::MessageId => "a UUID in its 36-character form",
                    Member::Payload => "a JSON value",
                    Member::Signature => "64 hex digits",
                }
            ),
            Self::UnsupportedVersion => {
                f.write_str("envelope version is not supported: send version 1 or 2")
            }
        }
    }
}

impl fmt::Display for ParseError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl core::error::Error for Problem {}
impl core::error::Error for ParseError<'_> {}
