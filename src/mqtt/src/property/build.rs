//! Properties for sending.

use bytes::{BufMut, BytesMut};

use super::raw::SEVERAL_SUBSCRIPTION_IDS;
use super::{
    MAX_SUBSCRIPTION_IDENTIFIERS, MAX_USER_PROPERTIES, Property, PropertyId, RawProperties,
};
use crate::write::{field_len, put_field, put_variable, string_len, variable_len};
use crate::{EncodeError, Limit, topic};

/// Builds properties for sending. [`PropertyBuf::clear`] keeps its memory for the next packet.
#[derive(Debug, Clone, Default)]
pub struct PropertyBuf {
    bytes: BytesMut,
    present: u64,
    user_properties: usize,
    subscription_ids: usize,
}

impl PropertyBuf {
    /// An empty set; allocates on the first push.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a property. Whether the packet takes it is checked when that is encoded.
    ///
    /// # Errors
    ///
    /// [`EncodeError::FieldTooLong`], [`EncodeError::NulInString`],
    /// [`EncodeError::TopicNameInvalid`] (response topic), [`EncodeError::PropertyValue`]
    /// (subscription identifier 0 or over 268,435,455, maximum QoS 2),
    /// [`EncodeError::DuplicateProperty`] (any but user properties and subscription identifiers),
    /// [`EncodeError::LimitExceeded`]. Nothing is appended then.
    pub fn push(&mut self, property: Property<'_>) -> Result<(), EncodeError> {
        let id = property.id();
        let len = value_len(&property)?;
        match id {
            PropertyId::UserProperty => {
                if self.user_properties == MAX_USER_PROPERTIES {
                    return Err(EncodeError::LimitExceeded(Limit::UserProperties));
                }
                self.user_properties += 1;
            }
            PropertyId::SubscriptionIdentifier => {
                if self.subscription_ids == MAX_SUBSCRIPTION_IDENTIFIERS {
                    return Err(EncodeError::LimitExceeded(Limit::SubscriptionIdentifiers));
                }
                self.subscription_ids += 1;
                if self.subscription_ids > 1 {
                    self.present |= SEVERAL_SUBSCRIPTION_IDS;
                }
            }
            _ if self.present & id.bit() != 0 => return Err(EncodeError::DuplicateProperty(id)),
            _ => {}
        }
        self.present |= id.bit();
        self.bytes.reserve(1 + len);
        put(&mut self.bytes, &property);
        Ok(())
    }

    /// Appends what a server passes on with a message unaltered and in order: payload format,
    /// content type, response topic, correlation data and user properties (`[MQTT-3.3.2-4]`,
    /// -15 to -20). Left out are the topic alias and subscription identifiers, which belong to
    /// one connection, and the message expiry, which shrinks while the message waits
    /// (`[MQTT-3.3.2-6]`).
    ///
    /// # Errors
    ///
    /// As [`PropertyBuf::push`]; none if `self` was empty.
    pub fn push_forwarded(&mut self, properties: &RawProperties<'_>) -> Result<(), EncodeError> {
        for property in properties {
            match property {
                Property::PayloadFormatIndicator(_)
                | Property::ContentType(_)
                | Property::ResponseTopic(_)
                | Property::CorrelationData(_)
                | Property::UserProperty(..) => self.push(property)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.present = 0;
        self.user_properties = 0;
        self.subscription_ids = 0;
    }

    /// The properties, to put into a packet.
    #[inline]
    #[must_use]
    pub fn as_raw(&self) -> RawProperties<'_> {
        RawProperties {
            bytes: &self.bytes,
            present: self.present,
        }
    }
}

/// Size of a property without its identifier; checks the value.
pub(super) fn value_len(property: &Property<'_>) -> Result<usize, EncodeError> {
    if !property.in_range() {
        return Err(EncodeError::PropertyValue(property.id()));
    }
    Ok(match *property {
        Property::PayloadFormatIndicator(_)
        | Property::RequestProblemInformation(_)
        | Property::RequestResponseInformation(_)
        | Property::MaximumQoS(_)
        | Property::RetainAvailable(_)
        | Property::WildcardSubscriptionAvailable(_)
        | Property::SubscriptionIdentifierAvailable(_)
        | Property::SharedSubscriptionAvailable(_) => 1,
        Property::ServerKeepAlive(_)
        | Property::ReceiveMaximum(_)
        | Property::TopicAliasMaximum(_)
        | Property::TopicAlias(_) => 2,
        Property::MessageExpiryInterval(_)
        | Property::SessionExpiryInterval(_)
        | Property::WillDelayInterval(_)
        | Property::MaximumPacketSize(_) => 4,
        Property::SubscriptionIdentifier(value) => variable_len(value as usize),
        Property::ResponseTopic(name) => {
            if !topic::valid_name(name) {
                return Err(EncodeError::TopicNameInvalid);
            }
            field_len(name.as_bytes())?
        }
        Property::ContentType(text)
        | Property::AssignedClientIdentifier(text)
        | Property::AuthenticationMethod(text)
        | Property::ResponseInformation(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => string_len(text)?,
        Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => field_len(bytes)?,
        Property::UserProperty(name, value) => string_len(name)? + string_len(value)?,
    })
}

/// Writes a property that [`value_len`] has checked.
pub(super) fn put(out: &mut BytesMut, property: &Property<'_>) {
    out.put_u8(property.id().as_u8());
    match *property {
        Property::PayloadFormatIndicator(flag)
        | Property::RequestProblemInformation(flag)
        | Property::RequestResponseInformation(flag)
        | Property::RetainAvailable(flag)
        | Property::WildcardSubscriptionAvailable(flag)
        | Property::SubscriptionIdentifierAvailable(flag)
        | Property::SharedSubscriptionAvailable(flag) => out.put_u8(u8::from(flag)),
        Property::MaximumQoS(qos) => out.put_u8(qos.as_u8()),
        Property::ServerKeepAlive(value) | Property::TopicAliasMaximum(value) => {
            out.put_u16(value);
        }
        Property::ReceiveMaximum(value) | Property::TopicAlias(value) => out.put_u16(value.get()),
        Property::MessageExpiryInterval(value)
        | Property::SessionExpiryInterval(value)
        | Property::WillDelayInterval(value) => out.put_u32(value),
        Property::MaximumPacketSize(value) => out.put_u32(value.get()),
        Property::SubscriptionIdentifier(value) => put_variable(out, value),
        Property::ContentType(text)
        | Property::ResponseTopic(text)
        | Property::AssignedClientIdentifier(text)
        | Property::AuthenticationMethod(text)
        | Property::ResponseInformation(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => put_field(out, text.as_bytes()),
        Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => {
            put_field(out, bytes);
        }
        Property::UserProperty(name, value) => {
            put_field(out, name.as_bytes());
            put_field(out, value.as_bytes());
        }
    }
}
