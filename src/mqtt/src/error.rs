//! What was wrong with a packet, and what the protocol wants done about it.

use core::fmt;

use crate::{PacketType, PropertyId, ReasonCode};

/// Why received bytes were refused. Every one of them ends the connection (`[MQTT-4.8.0-1]` in
/// 3.1.1, `[MQTT-4.13.1-1]` in 5.0); [`DecodeError::reason`] says what to tell an MQTT 5 peer first.
///
/// The variants carry no text from the peer, so logging one cannot be abused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// The bytes cannot be read as the packet they claim to be: 0x81.
    Malformed(Malformed),
    /// Readable, but forbidden: 0x82.
    Protocol(Violation),
    /// The announced packet is larger than we accept: 0x95. `size` is what is known so far.
    PacketTooLarge {
        /// Whole packet in bytes: exact, or a lower bound while the length is still incomplete.
        size: u32,
        /// The limit given to [`frame()`](crate::frame()).
        max: u32,
    },
    /// A CONNECT for a protocol level other than 4 or 5: 0x84.
    UnsupportedVersion {
        /// The level asked for, such as 3 for MQTT 3.1.
        level: u8,
        /// How the peer expects to be told.
        answer: VersionAnswer,
    },
    /// A CONNECT whose protocol name is not MQTT's: 0x84, but best closed without an answer
    /// (`[MQTT-3.1.2-1]`).
    ProtocolName,
    /// A topic name that is empty, too long or holds a wild card: 0x90.
    TopicNameInvalid,
    /// A topic filter that is empty or misplaces a wild card or `$share`: 0x8F.
    TopicFilterInvalid,
    /// Topic alias 0: 0x94 (`[MQTT-3.3.2-8]`).
    TopicAliasInvalid,
    /// More of something than this implementation takes: 0x97.
    LimitExceeded(Limit),
}

/// Details of a malformed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Packet type 0, which is reserved, or 15 (AUTH) in 3.1.1.
    PacketType(u8),
    /// Flag bits in the first byte other than those the type prescribes (`[MQTT-2.2.2-2]`).
    FixedHeaderFlags(u8),
    /// QoS 3 (`[MQTT-3.3.1-4]`).
    QoS,
    /// DUP set with QoS 0 (`[MQTT-3.3.1-2]`).
    DupWithQoS0,
    /// A variable byte integer of more than four bytes.
    VariableByteInteger,
    /// A variable byte integer in more bytes than its value needs (`[MQTT-1.5.5-1]`).
    OverlongInteger,
    /// A remaining length this packet type cannot have.
    RemainingLength,
    /// The body ends inside a field.
    Truncated,
    /// Bytes follow the last field.
    TrailingBytes,
    /// A string that is not UTF-8 (`[MQTT-1.5.4-1]`, `[MQTT-1.5.3-1]`).
    Utf8,
    /// A string holding U+0000 (`[MQTT-1.5.4-2]`, `[MQTT-1.5.3-2]`).
    NulInString,
    /// Packet identifier 0 (`[MQTT-2.3.1-1]`, `[MQTT-2.2.1-3]`).
    PacketIdZero,
    /// The reserved bit of the connect flags (`[MQTT-3.1.2-3]`).
    ConnectFlagReserved,
    /// Will QoS or will retain without a will (`[MQTT-3.1.2-11]` and following).
    WillFlags,
    /// A password without a user name in 3.1.1 (`[MQTT-3.1.2-22]`).
    PasswordWithoutUserName,
    /// Reserved bits of the subscription options (`[MQTT-3.8.3-5]`).
    SubscriptionOptions,
    /// Reserved bits of the CONNACK flags (`[MQTT-3.2.2-1]`).
    ConnAckFlags,
    /// A property identifier MQTT 5 does not define.
    PropertyId(u32),
    /// A reason or return code this packet cannot carry from this end.
    ReasonCode(u8),
}

/// Details of a protocol error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// The first packet was not CONNECT (`[MQTT-3.1.0-1]`).
    ConnectExpected(PacketType),
    /// A second CONNECT (`[MQTT-3.1.0-2]`).
    SecondConnect,
    /// A packet type this end may not send, or not now.
    UnexpectedPacket(PacketType),
    /// A property this packet does not take.
    PropertyNotAllowed(PropertyId),
    /// A property that may appear once appeared twice.
    DuplicateProperty(PropertyId),
    /// A property with a value its definition forbids.
    PropertyValue(PropertyId),
    /// A property that must be there is not, such as the method of an AUTH.
    PropertyMissing(PropertyId),
    /// An empty topic name without a topic alias.
    EmptyTopicWithoutAlias,
    /// SUBSCRIBE or UNSUBSCRIBE without a filter (`[MQTT-3.8.3-2]`, `[MQTT-3.10.3-2]`).
    NoFilters,
    /// SUBACK or UNSUBACK without a reason code.
    NoReasonCodes,
    /// QoS 3 asked for in a subscription (`[MQTT-3-8.3-4]`).
    SubscriptionQoS,
    /// Retain handling 3 in subscription options.
    RetainHandling,
    /// No Local on a shared subscription (`[MQTT-3.8.3-4]`).
    NoLocalOnShared,
    /// Session present in a CONNACK that refuses (`[MQTT-3.2.2-6]`).
    SessionPresentOnError,
}

/// A limit of this implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// More than [`MAX_FILTERS`](crate::MAX_FILTERS) in one packet.
    Filters,
    /// More than [`MAX_USER_PROPERTIES`](crate::property::MAX_USER_PROPERTIES).
    UserProperties,
    /// More than
    /// [`MAX_SUBSCRIPTION_IDENTIFIERS`](crate::property::MAX_SUBSCRIPTION_IDENTIFIERS).
    SubscriptionIdentifiers,
}

/// The form in which a peer of another version understands "unsupported version".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionAnswer {
    /// A 3.x CONNACK with return code 0x01 (`[MQTT-3.1.2-2]` in 3.1.1).
    V3,
    /// A 5.0 CONNACK with reason code 0x84 (`[MQTT-3.1.2-2]` in 5.0).
    V5,
}

impl VersionAnswer {
    /// The whole CONNACK to send before closing.
    #[must_use]
    pub const fn connack(self) -> &'static [u8] {
        match self {
            Self::V3 => &[0x20, 0x02, 0x00, 0x01],
            Self::V5 => &[0x20, 0x03, 0x00, 0x84, 0x00],
        }
    }
}

impl DecodeError {
    /// The reason code for an MQTT 5 CONNACK (before it was sent) or DISCONNECT (after).
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            // 5.0 §2.2.2.2: an identifier the packet type does not take makes it malformed. The
            // subscription identifier is one PUBLISH takes, only not from a client (§3.3.2.3.8).
            Self::Protocol(Violation::PropertyNotAllowed(property))
                if property as u8 != PropertyId::SubscriptionIdentifier as u8 =>
            {
                ReasonCode::MalformedPacket
            }
            Self::Malformed(_) => ReasonCode::MalformedPacket,
            Self::Protocol(_) => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion { .. } | Self::ProtocolName => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
            Self::TopicFilterInvalid => ReasonCode::TopicFilterInvalid,
            Self::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
            Self::LimitExceeded(_) => ReasonCode::QuotaExceeded,
        }
    }

    /// Whether the connection must be closed: always. A stream that held bytes we refuse cannot
    /// be trusted to be at a packet boundary, and both specifications demand it (3.1.1 §4.8,
    /// 5.0 §4.13). It is a method so that callers state what they rely on.
    #[must_use]
    pub const fn must_close(self) -> bool {
        true
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(detail) => write!(f, "malformed packet: {detail}"),
            Self::Protocol(detail) => write!(f, "protocol error: {detail}"),
            Self::PacketTooLarge { size, max } => {
                write!(
                    f,
                    "packet of at least {size} bytes is over the limit of {max}"
                )
            }
            Self::UnsupportedVersion { level, .. } => {
                write!(
                    f,
                    "protocol level {level} is not supported: use 4 (3.1.1) or 5"
                )
            }
            Self::ProtocolName => f.write_str("CONNECT does not name the protocol \"MQTT\""),
            Self::TopicNameInvalid => {
                f.write_str("topic name is empty, too long or holds a wild card")
            }
            Self::TopicFilterInvalid => {
                f.write_str("topic filter is empty or misplaces a wild card or $share")
            }
            Self::TopicAliasInvalid => f.write_str("topic alias 0 is not permitted"),
            Self::LimitExceeded(limit) => write!(f, "limit exceeded: {limit}"),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::PacketType(n) => return write!(f, "packet type {n} does not exist"),
            Self::FixedHeaderFlags(b) => return write!(f, "flag bits of first byte {b:#04x}"),
            Self::PropertyId(n) => return write!(f, "property {n:#04x} does not exist"),
            Self::ReasonCode(n) => return write!(f, "reason code {n:#04x} is not allowed here"),
            Self::QoS => "QoS 3",
            Self::DupWithQoS0 => "DUP set with QoS 0",
            Self::VariableByteInteger => "variable byte integer longer than four bytes",
            Self::OverlongInteger => "variable byte integer is not in its shortest form",
            Self::RemainingLength => "remaining length does not fit the packet type",
            Self::Truncated => "body ends inside a field",
            Self::TrailingBytes => "bytes follow the last field",
            Self::Utf8 => "string is not UTF-8",
            Self::NulInString => "string holds U+0000",
            Self::PacketIdZero => "packet identifier 0",
            Self::ConnectFlagReserved => "reserved connect flag set",
            Self::WillFlags => "will QoS or will retain without a will",
            Self::PasswordWithoutUserName => "password without user name",
            Self::SubscriptionOptions => "reserved subscription option bits set",
            Self::ConnAckFlags => "reserved CONNACK flag bits set",
        };
        f.write_str(text)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::ConnectExpected(t) => return write!(f, "{t:?} came before CONNECT"),
            Self::UnexpectedPacket(t) => return write!(f, "{t:?} may not be sent by this end now"),
            Self::PropertyNotAllowed(p) => return write!(f, "{p:?} does not belong here"),
            Self::DuplicateProperty(p) => return write!(f, "{p:?} appears twice"),
            Self::PropertyValue(p) => return write!(f, "value of {p:?} is not allowed"),
            Self::PropertyMissing(p) => return write!(f, "{p:?} is missing"),
            Self::SecondConnect => "a second CONNECT",
            Self::EmptyTopicWithoutAlias => "empty topic name without a topic alias",
            Self::NoFilters => "no topic filter",
            Self::NoReasonCodes => "no reason code",
            Self::SubscriptionQoS => "subscription asks for QoS 3",
            Self::RetainHandling => "retain handling 3",
            Self::NoLocalOnShared => "No Local on a shared subscription",
            Self::SessionPresentOnError => "session present in a refusing CONNACK",
        };
        f.write_str(text)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filters => "topic filters in one packet",
            Self::UserProperties => "user properties in one packet",
            Self::SubscriptionIdentifiers => "subscription identifiers in one packet",
        })
    }
}

impl core::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    #[inline]
    fn from(detail: Malformed) -> Self {
        Self::Malformed(detail)
    }
}

impl From<Violation> for DecodeError {
    #[inline]
    fn from(detail: Violation) -> Self {
        Self::Protocol(detail)
    }
}

/// Why a packet was not written. The output buffer is then as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncodeError {
    /// Over the peer's maximum packet size even without reason string and user properties; for a
    /// PUBLISH, 5.0 `[MQTT-3.1.2-25]` says to act as if it had been sent.
    PacketTooLarge {
        /// Whole packet in bytes.
        size: usize,
        /// The peer's limit.
        max: u32,
    },
    /// A string or binary field over 65,535 bytes.
    FieldTooLong,
    /// A string holding U+0000.
    NulInString,
    /// A topic name the peer would have to refuse.
    TopicNameInvalid,
    /// A topic filter the peer would have to refuse.
    TopicFilterInvalid,
    /// The version has no way to say this: a server's DISCONNECT or an AUTH in 3.1.1, or a CONNACK
    /// reason without a 3.1.1 return code; close the connection instead (`[MQTT-3.2.2-6]`).
    NotInVersion,
    /// A reason code this packet cannot carry from this end.
    ReasonCode(u8),
    /// A property this packet does not take from this end.
    PropertyNotAllowed(PropertyId),
    /// A second value for a property that may appear once.
    DuplicateProperty(PropertyId),
    /// A property value its definition forbids.
    PropertyValue(PropertyId),
    /// A property that must be there is not.
    PropertyMissing(PropertyId),
    /// Too many of something the peer's decoder may cap.
    LimitExceeded(Limit),
    /// Fields that contradict each other, such as DUP with QoS 0, a packet identifier with QoS 0,
    /// session present in a refusal, or an empty list of filters or reason codes.
    Inconsistent,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PacketTooLarge { size, max } => {
                write!(
                    f,
                    "packet of {size} bytes is over the peer's limit of {max}"
                )
            }
            Self::FieldTooLong => f.write_str("string or binary field is over 65535 bytes"),
            Self::NulInString => f.write_str("string holds U+0000"),
            Self::TopicNameInvalid => f.write_str("topic name is not valid"),
            Self::TopicFilterInvalid => f.write_str("topic filter is not valid"),
            Self::NotInVersion => {
                f.write_str("the protocol version cannot express this: close the connection")
            }
            Self::ReasonCode(code) => write!(f, "reason code {code:#04x} does not belong here"),
            Self::PropertyNotAllowed(p) => write!(f, "{p:?} does not belong here"),
            Self::DuplicateProperty(p) => write!(f, "{p:?} given twice"),
            Self::PropertyValue(p) => write!(f, "value of {p:?} is not allowed"),
            Self::PropertyMissing(p) => write!(f, "{p:?} is missing"),
            Self::LimitExceeded(limit) => write!(f, "limit exceeded: {limit}"),
            Self::Inconsistent => f.write_str("fields of the packet contradict each other"),
        }
    }
}

impl core::error::Error for EncodeError {}
