//! PUBACK, PUBREC, PUBREL, PUBCOMP (3.1.1 and 5.0 §3.4 to §3.7): one form for four.

use core::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use crate::property::Section;
use crate::read::Reader;
use crate::write::{begin, fit};
use crate::{
    DecodeError, EncodeError, Malformed, PacketType, Peer, PropertyScope, RawProperties,
    ReasonCode, Role, Version,
};

/// Which of the four acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// QoS 1.
    PubAck,
    /// QoS 2, from the receiver.
    PubRec,
    /// QoS 2, from the sender.
    PubRel,
    /// QoS 2, from the receiver.
    PubComp,
}

impl AckKind {
    /// As a packet type.
    #[inline]
    #[must_use]
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ack<'a> {
    /// Which.
    pub kind: AckKind,
    /// Of the PUBLISH.
    pub packet_id: NonZeroU16,
    /// [`ReasonCode::Success`] in 3.1.1.
    pub reason: ReasonCode,
    /// Reason string and user properties.
    pub properties: RawProperties<'a>,
}

impl<'a> Ack<'a> {
    /// A success without properties.
    #[inline]
    #[must_use]
    pub const fn success(kind: AckKind, packet_id: NonZeroU16) -> Self {
        Self {
            kind,
            packet_id,
            reason: ReasonCode::Success,
            properties: RawProperties::EMPTY,
        }
    }

    /// Decodes the body. In MQTT 5 reason code and properties may be left off (§3.4.2.1,
    /// §3.4.2.2.1).
    ///
    /// # Errors
    ///
    /// Packet identifier 0, a reason code the sender may not give, bad properties, a wrong length.
    #[inline]
    pub fn decode(
        version: Version,
        kind: AckKind,
        sender: Role,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut ack = Self::success(kind, reader.packet_id()?);
        if version == Version::V5 && !reader.is_empty() {
            ack.reason = reason(&mut reader, kind.packet_type(), sender)?;
            if !reader.is_empty() {
                ack.properties = RawProperties::read(&mut reader, PropertyScope::Ack)?;
            }
        }
        reader.end()?;
        Ok(ack)
    }

    /// Appends the packet and returns its size, 4 bytes for a success. Reason code and properties
    /// are not written to a 3.1.1 peer; user properties, then the reason string, are left out
    /// where the peer's maximum packet size has no room for them.
    ///
    /// # Errors
    ///
    /// [`EncodeError::ReasonCode`], [`EncodeError::PropertyNotAllowed`], and
    /// [`EncodeError::PacketTooLarge`] if not even the bare packet fits.
    #[inline]
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let bare = self.reason == ReasonCode::Success && self.properties.is_empty();
        if (bare || peer.version == Version::V311) && peer.max_packet_size >= 4 {
            let [high, low] = self.packet_id.get().to_be_bytes();
            out.put_slice(&[self.kind.packet_type().first_byte(), 2, high, low]);
            return Ok(4);
        }
        self.encode_long(peer, out)
    }

    fn encode_long(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let packet_type = self.kind.packet_type();
        if !self.reason.is_allowed(packet_type, peer.role.other()) {
            return Err(EncodeError::ReasonCode(self.reason.as_u8()));
        }
        let success = self.reason == ReasonCode::Success;
        let remaining = |section: &Section<'_>| match section.is_empty() {
            true if success => 2,
            true => 3,
            false => 3 + section.total_len(),
        };
        let section = Section::new(self.properties, PropertyScope::Ack)?;
        let section = fit(peer, packet_type, section, remaining);
        let size = begin(out, peer, packet_type.first_byte(), remaining(&section))?;
        out.put_u16(self.packet_id.get());
        if !(success && section.is_empty()) {
            out.put_u8(self.reason.as_u8());
        }
        if !section.is_empty() {
            section.put(out);
        }
        Ok(size)
    }
}

/// Reads a reason code and checks that `sender` may give it in this packet.
#[inline]
pub(super) fn reason(
    reader: &mut Reader<'_>,
    packet: PacketType,
    sender: Role,
) -> Result<ReasonCode, DecodeError> {
    let code = reader.u8()?;
    ReasonCode::from_u8(code)
        .filter(|reason| reason.is_allowed(packet, sender))
        .ok_or(DecodeError::Malformed(Malformed::ReasonCode(code)))
}
