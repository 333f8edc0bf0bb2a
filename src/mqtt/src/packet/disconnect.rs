//! DISCONNECT (3.1.1 and 5.0 §3.14).

use bytes::{BufMut, BytesMut};

use super::ack::reason;
use crate::property::Section;
use crate::read::Reader;
use crate::write::{begin, fit};
use crate::{
    DecodeError, EncodeError, PacketType, Peer, PropertyScope, RawProperties, ReasonCode, Role,
    Version,
};

/// The last packet on a connection. In 3.1.1 only a client sends it, and it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Disconnect<'a> {
    /// [`ReasonCode::NORMAL_DISCONNECTION`] in 3.1.1.
    pub reason: ReasonCode,
    /// Reason string, user properties; a client's session expiry, a server's reference to another.
    pub properties: RawProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// Without properties.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: RawProperties::EMPTY,
        }
    }

    /// Decodes the body. In MQTT 5 reason code and properties may be left off (§3.14.2.1,
    /// §3.14.2.2.1).
    ///
    /// # Errors
    ///
    /// A reason code the sender may not give, bad properties, a wrong length.
    pub fn decode(version: Version, sender: Role, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Self::new(ReasonCode::NORMAL_DISCONNECTION);
        if version == Version::V5 && !reader.is_empty() {
            disconnect.reason = reason(&mut reader, PacketType::Disconnect, sender)?;
            if !reader.is_empty() {
                disconnect.properties = RawProperties::read(&mut reader, scope(sender))?;
            }
        }
        reader.end()?;
        Ok(disconnect)
    }

    /// Appends the packet and returns its size. User properties, then the reason string, are left
    /// out where the peer's maximum packet size has no room for them (`[MQTT-3.14.2-3]`, -4).
    ///
    /// # Errors
    ///
    /// [`EncodeError::NotInVersion`] for a server's DISCONNECT in 3.1.1: just close. A reason code
    /// or property we may not give; a packet too large.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let sender = peer.role.other();
        let first_byte = PacketType::Disconnect.first_byte();
        if peer.version == Version::V311 {
            return match sender {
                Role::Client => begin(out, peer, first_byte, 0),
                Role::Server => Err(EncodeError::NotInVersion),
            };
        }
        if !self.reason.is_allowed(PacketType::Disconnect, sender) {
            return Err(EncodeError::ReasonCode(self.reason.as_u8()));
        }
        let normal = self.reason == ReasonCode::NORMAL_DISCONNECTION;
        let remaining = |section: &Section<'_>| match section.is_empty() {
            true if normal => 0,
            true => 1,
            false => 1 + section.total_len(),
        };
        let section = Section::new(self.properties, scope(sender))?;
        let section = fit(peer, PacketType::Disconnect, section, remaining);
        let size = begin(out, peer, first_byte, remaining(&section))?;
        if !(normal && section.is_empty()) {
            out.put_u8(self.reason.as_u8());
        }
        if !section.is_empty() {
            section.put(out);
        }
        Ok(size)
    }
}

const fn scope(sender: Role) -> PropertyScope {
    match sender {
        Role::Client => PropertyScope::DisconnectFromClient,
        Role::Server => PropertyScope::DisconnectFromServer,
    }
}
