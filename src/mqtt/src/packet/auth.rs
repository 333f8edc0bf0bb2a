//! AUTH (5.0 §3.15): extended authentication.

use bytes::{BufMut, BytesMut};

use super::ack::reason;
use crate::property::Section;
use crate::read::Reader;
use crate::write::{begin, fit};
use crate::{
    DecodeError, EncodeError, Malformed, PacketType, Peer, PropertyScope, RawProperties,
    ReasonCode, Role, Version,
};

/// AUTH, in MQTT 5 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Auth<'a> {
    /// Success (from a server), continue, or re-authenticate (from a client).
    pub reason: ReasonCode,
    /// The method, which must be there, data, reason string, user properties.
    pub properties: RawProperties<'a>,
}

impl<'a> Auth<'a> {
    /// Decodes the body. An empty one means success without properties (§3.15.2.1), which only a
    /// server may say; it is the one AUTH without a method.
    ///
    /// # Errors
    ///
    /// MQTT 3.1.1, a reason code the sender may not give, a missing method, bad properties.
    pub fn decode(version: Version, sender: Role, body: &'a [u8]) -> Result<Self, DecodeError> {
        if version == Version::V311 {
            return Err(Malformed::PacketType(15).into());
        }
        let mut reader = Reader::new(body);
        if reader.is_empty() {
            return match sender {
                Role::Server => Ok(Self {
                    reason: ReasonCode::Success,
                    properties: RawProperties::EMPTY,
                }),
                Role::Client => Err(Malformed::ReasonCode(0).into()),
            };
        }
        let reason = reason(&mut reader, PacketType::Auth, sender)?;
        let properties = RawProperties::read(&mut reader, PropertyScope::Auth)?;
        reader.end()?;
        Ok(Self { reason, properties })
    }

    /// Appends the packet and returns its size. Success without properties takes the short form.
    ///
    /// # Errors
    ///
    /// [`EncodeError::NotInVersion`] in 3.1.1, a reason code we may not give, properties that do
    /// not belong or are missing, [`EncodeError::PacketTooLarge`].
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        if peer.version == Version::V311 {
            return Err(EncodeError::NotInVersion);
        }
        if !self.reason.is_allowed(PacketType::Auth, peer.role.other()) {
            return Err(EncodeError::ReasonCode(self.reason.as_u8()));
        }
        let first_byte = PacketType::Auth.first_byte();
        if self.reason == ReasonCode::Success && self.properties.is_empty() {
            return begin(out, peer, first_byte, 0);
        }
        let remaining = |section: &Section<'_>| 1 + section.total_len();
        let section = Section::new(self.properties, PropertyScope::Auth)?;
        let section = fit(peer, PacketType::Auth, section, remaining);
        let size = begin(out, peer, first_byte, remaining(&section))?;
        out.put_u8(self.reason.as_u8());
        section.put(out);
        Ok(size)
    }
}
