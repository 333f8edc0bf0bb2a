//! MQTT 5 properties (5.0 §2.2.2).
//!
//! Decoding a packet checks all of its properties once ([`RawProperties::parse`]): which may be
//! there, how often, and with which values. They stay raw bytes, with a mask of what is
//! present, and are read only by who asks. [`PropertyBuf`] makes the same form for sending.

mod build;
mod raw;
mod scope;
mod section;

use core::num::{NonZeroU16, NonZeroU32};

pub use build::PropertyBuf;
pub use raw::{Properties, RawProperties};
pub use scope::PropertyScope;

pub(crate) use section::Section;

use crate::{DecodeError, MAX_REMAINING_LENGTH, Malformed, QoS, Violation, topic};
use crate::{numbered::numbered, read::Reader};

/// Most user properties taken in one set of properties. The specification sets no bound; a
/// packet of 64 KiB could hold 13,000, each of which costs every subscriber. 64 is several times
/// what tracing and routing headers in use need.
pub const MAX_USER_PROPERTIES: usize = 64;

/// Most subscription identifiers in one PUBLISH from a server, one for every overlapping
/// subscription of that client (`[MQTT-3.3.4-3]`).
pub const MAX_SUBSCRIPTION_IDENTIFIERS: usize = 64;

numbered! {
    /// Property identifiers (5.0 §2.2.2.2).
    pub enum PropertyId {
        /// Whether a payload is UTF-8.
        PayloadFormatIndicator = 0x01,
        /// Seconds a message lives.
        MessageExpiryInterval = 0x02,
        /// MIME type of a payload.
        ContentType = 0x03,
        /// Where to answer.
        ResponseTopic = 0x08,
        /// What to send along with the answer.
        CorrelationData = 0x09,
        /// A number the client gave its subscription.
        SubscriptionIdentifier = 0x0B,
        /// Seconds a session outlives its connection.
        SessionExpiryInterval = 0x11,
        /// The client identifier the server chose.
        AssignedClientIdentifier = 0x12,
        /// The keep alive the server chose.
        ServerKeepAlive = 0x13,
        /// Name of the extended authentication method.
        AuthenticationMethod = 0x15,
        /// Data of the extended authentication.
        AuthenticationData = 0x16,
        /// Whether reason strings and user properties are wanted on failures.
        RequestProblemInformation = 0x17,
        /// Seconds before a will is published.
        WillDelayInterval = 0x18,
        /// Whether response information is wanted.
        RequestResponseInformation = 0x19,
        /// Basis for response topics.
        ResponseInformation = 0x1A,
        /// Another server to use.
        ServerReference = 0x1C,
        /// Text for a human reader.
        ReasonString = 0x1F,
        /// Unacknowledged QoS 1 and 2 messages the sender takes at a time.
        ReceiveMaximum = 0x21,
        /// The highest topic alias the sender takes.
        TopicAliasMaximum = 0x22,
        /// A number for a topic name.
        TopicAlias = 0x23,
        /// The highest QoS the server takes.
        MaximumQoS = 0x24,
        /// Whether the server keeps retained messages.
        RetainAvailable = 0x25,
        /// A name and a value; may be repeated.
        UserProperty = 0x26,
        /// The largest packet the sender takes.
        MaximumPacketSize = 0x27,
        /// Whether the server takes wildcard subscriptions.
        WildcardSubscriptionAvailable = 0x28,
        /// Whether the server takes subscription identifiers.
        SubscriptionIdentifierAvailable = 0x29,
        /// Whether the server takes shared subscriptions.
        SharedSubscriptionAvailable = 0x2A,
    }
}

impl PropertyId {
    /// The value on the wire.
    #[inline]
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// This identifier's bit in a mask; identifiers stay below 0x2B.
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        1 << self.as_u8()
    }

    /// The first identifier in a mask.
    pub(crate) fn first_of(mask: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| mask & id.bit() != 0)
    }

    /// Identifiers are variable byte integers, all of one byte so far (5.0 §2.2.2.2).
    #[inline]
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = reader.variable()?;
        u8::try_from(value)
            .ok()
            .and_then(Self::from_u8)
            .ok_or(DecodeError::Malformed(Malformed::PropertyId(value)))
    }
}

/// One property, of a type that can only hold what its definition allows; topics, string lengths
/// and the range of subscription identifiers aside, which are checked where it is read or pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Property<'a> {
    /// 0x01: `true` says that the payload is UTF-8 text.
    PayloadFormatIndicator(bool),
    /// 0x02: seconds. 0 is valid: expired unless it can be delivered at once.
    MessageExpiryInterval(u32),
    /// 0x03.
    ContentType(&'a str),
    /// 0x08: a valid topic name (`[MQTT-3.3.2-14]`).
    ResponseTopic(&'a str),
    /// 0x09.
    CorrelationData(&'a [u8]),
    /// 0x0B: 1 to 268,435,455.
    SubscriptionIdentifier(u32),
    /// 0x11: seconds; `u32::MAX` means for ever.
    SessionExpiryInterval(u32),
    /// 0x12.
    AssignedClientIdentifier(&'a str),
    /// 0x13: seconds.
    ServerKeepAlive(u16),
    /// 0x15.
    AuthenticationMethod(&'a str),
    /// 0x16.
    AuthenticationData(&'a [u8]),
    /// 0x17.
    RequestProblemInformation(bool),
    /// 0x18: seconds.
    WillDelayInterval(u32),
    /// 0x19.
    RequestResponseInformation(bool),
    /// 0x1A.
    ResponseInformation(&'a str),
    /// 0x1C.
    ServerReference(&'a str),
    /// 0x1F.
    ReasonString(&'a str),
    /// 0x21.
    ReceiveMaximum(NonZeroU16),
    /// 0x22.
    TopicAliasMaximum(u16),
    /// 0x23.
    TopicAlias(NonZeroU16),
    /// 0x24: QoS 0 or 1; a server that takes QoS 2 sends none.
    MaximumQoS(QoS),
    /// 0x25.
    RetainAvailable(bool),
    /// 0x26: name and value.
    UserProperty(&'a str, &'a str),
    /// 0x27: bytes of a whole packet.
    MaximumPacketSize(NonZeroU32),
    /// 0x28.
    WildcardSubscriptionAvailable(bool),
    /// 0x29.
    SubscriptionIdentifierAvailable(bool),
    /// 0x2A.
    SharedSubscriptionAvailable(bool),
}

impl<'a> Property<'a> {
    /// Which property this is.
    #[must_use]
    pub const fn id(&self) -> PropertyId {
        match self {
            Self::PayloadFormatIndicator(_) => PropertyId::PayloadFormatIndicator,
            Self::MessageExpiryInterval(_) => PropertyId::MessageExpiryInterval,
            Self::ContentType(_) => PropertyId::ContentType,
            Self::ResponseTopic(_) => PropertyId::ResponseTopic,
            Self::CorrelationData(_) => PropertyId::CorrelationData,
            Self::SubscriptionIdentifier(_) => PropertyId::SubscriptionIdentifier,
            Self::SessionExpiryInterval(_) => PropertyId::SessionExpiryInterval,
            Self::AssignedClientIdentifier(_) => PropertyId::AssignedClientIdentifier,
            Self::ServerKeepAlive(_) => PropertyId::ServerKeepAlive,
            Self::AuthenticationMethod(_) => PropertyId::AuthenticationMethod,
            Self::AuthenticationData(_) => PropertyId::AuthenticationData,
            Self::RequestProblemInformation(_) => PropertyId::RequestProblemInformation,
            Self::WillDelayInterval(_) => PropertyId::WillDelayInterval,
            Self::RequestResponseInformation(_) => PropertyId::RequestResponseInformation,
            Self::ResponseInformation(_) => PropertyId::ResponseInformation,
            Self::ServerReference(_) => PropertyId::ServerReference,
            Self::ReasonString(_) => PropertyId::ReasonString,
            Self::ReceiveMaximum(_) => PropertyId::ReceiveMaximum,
            Self::TopicAliasMaximum(_) => PropertyId::TopicAliasMaximum,
            Self::TopicAlias(_) => PropertyId::TopicAlias,
            Self::MaximumQoS(_) => PropertyId::MaximumQoS,
            Self::RetainAvailable(_) => PropertyId::RetainAvailable,
            Self::UserProperty(..) => PropertyId::UserProperty,
            Self::MaximumPacketSize(_) => PropertyId::MaximumPacketSize,
            Self::WildcardSubscriptionAvailable(_) => PropertyId::WildcardSubscriptionAvailable,
            Self::SubscriptionIdentifierAvailable(_) => PropertyId::SubscriptionIdentifierAvailable,
            Self::SharedSubscriptionAvailable(_) => PropertyId::SharedSubscriptionAvailable,
        }
    }

    /// Reads one property and checks its value.
    #[inline]
    fn read(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let forbidden = DecodeError::Protocol(Violation::PropertyValue(id));
        let flag = |reader: &mut Reader<'a>| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(forbidden),
        };
        Ok(match id {
            PropertyId::PayloadFormatIndicator => Self::PayloadFormatIndicator(flag(reader)?),
            PropertyId::MessageExpiryInterval => Self::MessageExpiryInterval(reader.u32()?),
            PropertyId::ContentType => Self::ContentType(reader.string()?),
            PropertyId::ResponseTopic => {
                let name = reader.string()?;
                if !topic::valid_name(name) {
                    return Err(DecodeError::TopicNameInvalid);
                }
                Self::ResponseTopic(name)
            }
            PropertyId::CorrelationData => Self::CorrelationData(reader.binary()?),
            PropertyId::SubscriptionIdentifier => match reader.variable()? {
                0 => return Err(forbidden),
                value => Self::SubscriptionIdentifier(value),
            },
            PropertyId::SessionExpiryInterval => Self::SessionExpiryInterval(reader.u32()?),
            PropertyId::AssignedClientIdentifier => {
                Self::AssignedClientIdentifier(reader.string()?)
            }
            PropertyId::ServerKeepAlive => Self::ServerKeepAlive(reader.u16()?),
            PropertyId::AuthenticationMethod => Self::AuthenticationMethod(reader.string()?),
            PropertyId::AuthenticationData => Self::AuthenticationData(reader.binary()?),
            PropertyId::RequestProblemInformation => Self::RequestProblemInformation(flag(reader)?),
            PropertyId::WillDelayInterval => Self::WillDelayInterval(reader.u32()?),
            PropertyId::RequestResponseInformation => {
                Self::RequestResponseInformation(flag(reader)?)
            }
            PropertyId::ResponseInformation => Self::ResponseInformation(reader.string()?),
            PropertyId::ServerReference => Self::ServerReference(reader.string()?),
            PropertyId::ReasonString => Self::ReasonString(reader.string()?),
            PropertyId::ReceiveMaximum => {
                Self::ReceiveMaximum(NonZeroU16::new(reader.u16()?).ok_or(forbidden)?)
            }
            PropertyId::TopicAliasMaximum => Self::TopicAliasMaximum(reader.u16()?),
            PropertyId::TopicAlias => Self::TopicAlias(
                NonZeroU16::new(reader.u16()?).ok_or(DecodeError::TopicAliasInvalid)?,
            ),
            PropertyId::MaximumQoS => Self::MaximumQoS(if flag(reader)? {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            }),
            PropertyId::RetainAvailable => Self::RetainAvailable(flag(reader)?),
            PropertyId::UserProperty => Self::UserProperty(reader.string()?, reader.string()?),
            PropertyId::MaximumPacketSize => {
                Self::MaximumPacketSize(NonZeroU32::new(reader.u32()?).ok_or(forbidden)?)
            }
            PropertyId::WildcardSubscriptionAvailable => {
                Self::WildcardSubscriptionAvailable(flag(reader)?)
            }
            PropertyId::SubscriptionIdentifierAvailable => {
                Self::SubscriptionIdentifierAvailable(flag(reader)?)
            }
            PropertyId::SharedSubscriptionAvailable => {
                Self::SharedSubscriptionAvailable(flag(reader)?)
            }
        })
    }

    /// Whether a subscription identifier is in range; other types cannot be out of it.
    const fn in_range(&self) -> bool {
        match self {
            Self::SubscriptionIdentifier(id) => *id > 0 && *id <= MAX_REMAINING_LENGTH,
            Self::MaximumQoS(qos) => !matches!(qos, QoS::ExactlyOnce),
            _ => true,
        }
    }
}
