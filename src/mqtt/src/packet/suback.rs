//! SUBACK and UNSUBACK (3.1.1 and 5.0 §3.9, §3.11).

use core::num::NonZeroU16;

use bytes::{BufMut, BytesMut};

use crate::property::Section;
use crate::write::{begin, fit};
#[cfg(feature = "client")]
use crate::{DecodeError, Malformed, Violation, read::Reader};
use crate::{
    EncodeError, PacketType, Peer, PropertyScope, RawProperties, ReasonCode, Role, Version,
};

/// The answer to SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// Reason string and user properties; not written to 3.1.1 peers.
    pub properties: RawProperties<'a>,
    /// One code per filter, in its order (`[MQTT-3.8.4-6]`). Written to 3.1.1 peers, every failure
    /// becomes 0x80, the only one they know.
    pub codes: &'a [u8],
}

/// The answer to UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnsubAck<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// Reason string and user properties; not written to 3.1.1 peers.
    pub properties: RawProperties<'a>,
    /// One code per filter, in its order (`[MQTT-3.11.3-1]`). 3.1.1 has none: they are not
    /// written there, and may be left off.
    pub codes: &'a [u8],
}

impl<'a> SubAck<'a> {
    /// Decodes the body.
    ///
    /// # Errors
    ///
    /// Packet identifier 0, no codes, codes that SUBACK does not know, bad properties.
    #[cfg(feature = "client")]
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = super::connect::read_properties(&mut reader, version, PropertyScope::Ack)?;
        let codes = reader.rest();
        let unknown = match version {
            Version::V311 => codes.iter().find(|code| !matches!(code, 0..=2 | 0x80)),
            Version::V5 => foreign(codes, PacketType::SubAck),
        };
        judge_codes(codes, unknown)?;
        Ok(Self {
            packet_id,
            properties,
            codes,
        })
    }

    /// Appends the packet and returns its size. User properties, then the reason string, are left
    /// out where the client's maximum packet size has no room for them (`[MQTT-3.9.2-1]`, -2).
    ///
    /// # Errors
    ///
    /// [`EncodeError::Inconsistent`] without codes or to a server; a code SUBACK does not take;
    /// properties that do not belong; a packet too large.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let kind = PacketType::SubAck;
        let size = encode(peer, out, kind, self.packet_id, self.properties, self.codes)?;
        match peer.version {
            Version::V311 => {
                let known = |&code: &u8| if code < 0x80 { code } else { 0x80 };
                out.extend(self.codes.iter().map(known));
            }
            Version::V5 => out.put_slice(self.codes),
        }
        Ok(size)
    }
}

impl<'a> UnsubAck<'a> {
    /// Decodes the body; in 3.1.1 there are no codes.
    ///
    /// # Errors
    ///
    /// Packet identifier 0, no codes in MQTT 5, codes that UNSUBACK does not know, bad properties.
    #[cfg(feature = "client")]
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = super::connect::read_properties(&mut reader, version, PropertyScope::Ack)?;
        let codes = reader.rest();
        match version {
            Version::V311 => reader.end()?,
            Version::V5 => judge_codes(codes, foreign(codes, PacketType::UnsubAck))?,
        }
        Ok(Self {
            packet_id,
            properties,
            codes,
        })
    }

    /// Appends the packet and returns its size. User properties, then the reason string, are left
    /// out where the client's maximum packet size has no room for them (`[MQTT-3.11.2-1]`, -2).
    ///
    /// # Errors
    ///
    /// As for [`SubAck::encode`], but that 3.1.1 needs no codes.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let kind = PacketType::UnsubAck;
        let size = encode(peer, out, kind, self.packet_id, self.properties, self.codes)?;
        if peer.version == Version::V5 {
            out.put_slice(self.codes);
        }
        Ok(size)
    }
}

/// Everything up to the codes.
fn encode(
    peer: &Peer,
    out: &mut BytesMut,
    kind: PacketType,
    packet_id: NonZeroU16,
    properties: RawProperties<'_>,
    codes: &[u8],
) -> Result<usize, EncodeError> {
    let uncoded = kind == PacketType::UnsubAck && peer.version == Version::V311;
    if peer.role == Role::Server || (codes.is_empty() && !uncoded) {
        return Err(EncodeError::Inconsistent);
    }
    if let Some(&code) = foreign(codes, kind) {
        return Err(EncodeError::ReasonCode(code));
    }
    if peer.version == Version::V311 {
        let codes = if kind == PacketType::SubAck {
            codes.len()
        } else {
            0
        };
        let size = begin(out, peer, kind.first_byte(), 2 + codes)?;
        out.put_u16(packet_id.get());
        return Ok(size);
    }
    let remaining = |section: &Section<'_>| 2 + section.total_len() + codes.len();
    let section = Section::new(properties, PropertyScope::Ack)?;
    let section = fit(peer, kind, section, remaining);
    let size = begin(out, peer, kind.first_byte(), remaining(&section))?;
    out.put_u16(packet_id.get());
    section.put(out);
    Ok(size)
}

/// The first code that this packet cannot carry.
fn foreign(codes: &[u8], kind: PacketType) -> Option<&u8> {
    codes.iter().find(|&&code| {
        !ReasonCode::from_u8(code).is_some_and(|reason| reason.is_allowed(kind, Role::Server))
    })
}

#[cfg(feature = "client")]
fn judge_codes(codes: &[u8], unknown: Option<&u8>) -> Result<(), DecodeError> {
    if codes.is_empty() {
        return Err(Violation::NoReasonCodes.into());
    }
    match unknown {
        Some(&code) => Err(Malformed::ReasonCode(code).into()),
        None => Ok(()),
    }
}
