//! Properties as bytes: checked once, read on demand.

use core::num::{NonZeroU16, NonZeroU32};

use super::{
    MAX_SUBSCRIPTION_IDENTIFIERS, MAX_USER_PROPERTIES, Property, PropertyId, PropertyScope,
};
use crate::read::Reader;
use crate::{DecodeError, EncodeError, Limit, QoS, Violation};

/// In a presence mask: more than one subscription identifier. No property has this identifier.
pub(super) const SEVERAL_SUBSCRIPTION_IDS: u64 = 1 << 63;

/// The properties of a packet, without their length prefix: valid bytes and what is in them.
/// Empty for MQTT 3.1.1.
///
/// They can only come from [`RawProperties::parse`], a decoded packet or a
/// [`PropertyBuf`](super::PropertyBuf), so
/// reading them cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RawProperties<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) present: u64,
}

impl<'a> RawProperties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self {
        bytes: &[],
        present: 0,
    };

    /// Checks properties given without their length prefix, such as the stored bytes of
    /// [`RawProperties::as_bytes`].
    ///
    /// # Errors
    ///
    /// Malformed values; properties that `scope` does not take, that appear twice, whose value is
    /// forbidden, or that are missing; more than [`MAX_USER_PROPERTIES`] or
    /// [`MAX_SUBSCRIPTION_IDENTIFIERS`].
    pub fn parse(bytes: &'a [u8], scope: PropertyScope) -> Result<Self, DecodeError> {
        let allowed = scope.allowed();
        let mut reader = Reader::new(bytes);
        let mut present = 0;
        let mut user_properties = 0;
        let mut subscription_ids = 0;
        while !reader.is_empty() {
            let id = PropertyId::read(&mut reader)?;
            if allowed & id.bit() == 0 {
                return Err(Violation::PropertyNotAllowed(id).into());
            }
            match id {
                PropertyId::UserProperty => {
                    user_properties += 1;
                    if user_properties > MAX_USER_PROPERTIES {
                        return Err(DecodeError::LimitExceeded(Limit::UserProperties));
                    }
                }
                PropertyId::SubscriptionIdentifier if scope == PropertyScope::PublishFromServer => {
                    subscription_ids += 1;
                    if subscription_ids > MAX_SUBSCRIPTION_IDENTIFIERS {
                        return Err(DecodeError::LimitExceeded(Limit::SubscriptionIdentifiers));
                    }
                    if subscription_ids > 1 {
                        present |= SEVERAL_SUBSCRIPTION_IDS;
                    }
                }
                _ if present & id.bit() != 0 => {
                    return Err(Violation::DuplicateProperty(id).into());
                }
                _ => {}
            }
            present |= id.bit();
            Property::read(id, &mut reader)?;
        }
        match scope.missing(present) {
            Some(id) => Err(Violation::PropertyMissing(id).into()),
            None => Ok(Self { bytes, present }),
        }
    }

    /// Reads a length-prefixed set of properties.
    #[inline]
    pub(crate) fn read(reader: &mut Reader<'a>, scope: PropertyScope) -> Result<Self, DecodeError> {
        let len = reader.variable()?;
        // Most packets have none; AUTH must have some.
        if len == 0 && scope != PropertyScope::Auth {
            return Ok(Self::EMPTY);
        }
        Self::parse(reader.take(len as usize)?, scope)
    }

    /// The bytes, without length prefix.
    #[inline]
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether a property is there; costs a bit test.
    #[inline]
    #[must_use]
    pub const fn contains(&self, id: PropertyId) -> bool {
        self.present & id.bit() != 0
    }

    /// All properties, in the order they were sent.
    #[inline]
    #[must_use]
    pub const fn iter(&self) -> Properties<'a> {
        Properties {
            reader: Reader::new(self.bytes),
        }
    }

    /// The first property with this identifier.
    #[inline]
    #[must_use]
    pub fn get(&self, id: PropertyId) -> Option<Property<'a>> {
        if !self.contains(id) {
            return None;
        }
        self.iter().find(|property| property.id() == id)
    }

    /// Names and values of the user properties, in order (`[MQTT-3.3.2-18]`).
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The subscription identifiers of a PUBLISH or SUBSCRIBE.
    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }

    /// The first property that does not belong in `scope`, was repeated or is missing there.
    pub(crate) fn check(&self, scope: PropertyScope) -> Result<(), EncodeError> {
        let foreign = self.present & !scope.allowed() & !SEVERAL_SUBSCRIPTION_IDS;
        if let Some(id) = PropertyId::first_of(foreign) {
            return Err(EncodeError::PropertyNotAllowed(id));
        }
        if self.present & SEVERAL_SUBSCRIPTION_IDS != 0 && scope != PropertyScope::PublishFromServer
        {
            return Err(EncodeError::DuplicateProperty(
                PropertyId::SubscriptionIdentifier,
            ));
        }
        match scope.missing(self.present) {
            Some(id) => Err(EncodeError::PropertyMissing(id)),
            None => Ok(()),
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $variant:ident => $type:ty,)+) => {
        impl<'a> RawProperties<'a> {
            $($(#[$doc])*
            #[inline]
            #[must_use]
            pub fn $name(&self) -> Option<$type> {
                match self.get(PropertyId::$variant) {
                    Some(Property::$variant(value)) => Some(value),
                    _ => None,
                }
            })+
        }
    };
}

getters! {
    /// 0x01: `true` says that the payload is UTF-8 text.
    payload_format_indicator: PayloadFormatIndicator => bool,
    /// 0x02, seconds.
    message_expiry_interval: MessageExpiryInterval => u32,
    /// 0x03.
    content_type: ContentType => &'a str,
    /// 0x08.
    response_topic: ResponseTopic => &'a str,
    /// 0x09.
    correlation_data: CorrelationData => &'a [u8],
    /// 0x11, seconds.
    session_expiry_interval: SessionExpiryInterval => u32,
    /// 0x12.
    assigned_client_identifier: AssignedClientIdentifier => &'a str,
    /// 0x13, seconds.
    server_keep_alive: ServerKeepAlive => u16,
    /// 0x15.
    authentication_method: AuthenticationMethod => &'a str,
    /// 0x16.
    authentication_data: AuthenticationData => &'a [u8],
    /// 0x17; absent means `true` (§3.1.2.11.7).
    request_problem_information: RequestProblemInformation => bool,
    /// 0x18, seconds.
    will_delay_interval: WillDelayInterval => u32,
    /// 0x19; absent means `false` (§3.1.2.11.6).
    request_response_information: RequestResponseInformation => bool,
    /// 0x1A.
    response_information: ResponseInformation => &'a str,
    /// 0x1C.
    server_reference: ServerReference => &'a str,
    /// 0x1F.
    reason_string: ReasonString => &'a str,
    /// 0x21; absent means 65,535 (§3.1.2.11.3).
    receive_maximum: ReceiveMaximum => NonZeroU16,
    /// 0x22; absent means 0 (§3.1.2.11.5).
    topic_alias_maximum: TopicAliasMaximum => u16,
    /// 0x23.
    topic_alias: TopicAlias => NonZeroU16,
    /// 0x24; absent means QoS 2 (§3.2.2.3.4).
    maximum_qos: MaximumQoS => QoS,
    /// 0x25; absent means `true`.
    retain_available: RetainAvailable => bool,
    /// 0x27, bytes; absent means no limit.
    maximum_packet_size: MaximumPacketSize => NonZeroU32,
    /// 0x28; absent means `true`.
    wildcard_subscription_available: WildcardSubscriptionAvailable => bool,
    /// 0x29; absent means `true`.
    subscription_identifier_available: SubscriptionIdentifierAvailable => bool,
    /// 0x2A; absent means `true`.
    shared_subscription_available: SharedSubscriptionAvailable => bool,
}

impl<'a> IntoIterator for &RawProperties<'a> {
    type Item = Property<'a>;
    type IntoIter = Properties<'a>;

    fn into_iter(self) -> Properties<'a> {
        self.iter()
    }
}

/// Iterator over [`RawProperties`].
#[derive(Debug, Clone)]
pub struct Properties<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    #[inline]
    fn next(&mut self) -> Option<Property<'a>> {
        // The bytes were checked when the `RawProperties` came to be, so `ok` hides no error.
        let id = PropertyId::read(&mut self.reader).ok()?;
        Property::read(id, &mut self.reader).ok()
    }
}
