//! PUBLISH (3.1.1 and 5.0 §3.3).

use core::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use super::connect::read_properties;
use crate::property::Section;
use crate::read::Reader;
use crate::write::{begin, put_field};
use crate::{
    DecodeError, EncodeError, Frame, Malformed, PacketType, Peer, PropertyId, PropertyScope, QoS,
    RawProperties, Role, Version, Violation, topic,
};

/// A message, borrowed from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish<'a> {
    /// Possibly delivered before; never set with QoS 0 (`[MQTT-3.3.1-2]`).
    pub dup: bool,
    /// How it is to be acknowledged.
    pub qos: QoS,
    /// Kept for later subscribers (to a server), or kept from earlier (to a client).
    pub retain: bool,
    /// A valid topic name; empty only in MQTT 5 with a topic alias that stands for one.
    pub topic: &'a str,
    /// Present exactly if QoS is above 0 (`[MQTT-2.3.1-1]`, 5.0 `[MQTT-2.2.1-2]`, -3).
    pub packet_id: Option<NonZeroU16>,
    /// Empty in 3.1.1.
    pub properties: RawProperties<'a>,
    /// Any bytes, possibly none.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Decodes the body of a PUBLISH without copying any of it.
    ///
    /// # Errors
    ///
    /// A topic name that is invalid, or empty without alias; packet identifier 0; bad properties,
    /// of which a client may not send subscription identifiers; a body that ends early.
    #[inline]
    pub fn decode(
        version: Version,
        sender: Role,
        frame: Frame,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        if frame.packet_type() != PacketType::Publish {
            return Err(Violation::UnexpectedPacket(frame.packet_type()).into());
        }
        let flags = frame.first_byte();
        let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(Malformed::QoS)?;
        let mut reader = Reader::new(body);
        let topic = reader.topic_name()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let properties = read_properties(&mut reader, version, scope(sender))?;
        if topic.is_empty() && !properties.contains(PropertyId::TopicAlias) {
            return Err(match version {
                Version::V311 => DecodeError::TopicNameInvalid,
                Version::V5 => Violation::EmptyTopicWithoutAlias.into(),
            });
        }
        Ok(Self {
            dup: flags & 0b1000 != 0,
            qos,
            retain: flags & 0b0001 != 0,
            topic,
            packet_id,
            properties,
            payload: reader.rest(),
        })
    }

    /// Appends the packet and returns its size. Properties are not written to a 3.1.1 peer.
    ///
    /// Properties of a received PUBLISH do not fit another connection as they are: see
    /// [`PropertyBuf::push_forwarded`](crate::PropertyBuf::push_forwarded).
    ///
    /// # Errors
    ///
    /// [`EncodeError::TopicNameInvalid`] (an empty one needs a topic alias and MQTT 5),
    /// [`EncodeError::Inconsistent`] (DUP with QoS 0, or a packet identifier that does not go
    /// with the QoS), properties that do not belong, and [`EncodeError::PacketTooLarge`].
    #[inline]
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let acknowledged = self.qos != QoS::AtMostOnce;
        if self.packet_id.is_some() != acknowledged || (self.dup && !acknowledged) {
            return Err(EncodeError::Inconsistent);
        }
        let aliased = peer.version == Version::V5
            && self.topic.is_empty()
            && self.properties.contains(PropertyId::TopicAlias);
        if !aliased && !topic::valid_name(self.topic) {
            return Err(EncodeError::TopicNameInvalid);
        }
        let scope = scope(peer.role.other());
        let section = Section::for_version(peer.version, self.properties, scope)?;
        let remaining = 2
            + self.topic.len()
            + if acknowledged { 2 } else { 0 }
            + section.len_in(peer.version)
            + self.payload.len();
        let first_byte = PacketType::Publish.first_byte()
            | (u8::from(self.dup) << 3)
            | (self.qos.as_u8() << 1)
            | u8::from(self.retain);
        let size = begin(out, peer, first_byte, remaining)?;
        put_field(out, self.topic.as_bytes());
        if let Some(packet_id) = self.packet_id {
            out.put_u16(packet_id.get());
        }
        section.put_in(peer.version, out);
        out.put_slice(self.payload);
        Ok(size)
    }
}

const fn scope(sender: Role) -> PropertyScope {
    match sender {
        Role::Client => PropertyScope::PublishFromClient,
        Role::Server => PropertyScope::PublishFromServer,
    }
}
