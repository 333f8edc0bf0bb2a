//! CONNACK (3.1.1 and 5.0 §3.2).

use bytes::{BufMut, BytesMut};

use crate::property::Section;
use crate::write::{begin, fit};
#[cfg(feature = "client")]
use crate::{DecodeError, Malformed, Violation, read::Reader};
use crate::{
    EncodeError, PacketType, Peer, PropertyScope, RawProperties, ReasonCode, Role, Version,
};

/// The answer to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnAck<'a> {
    /// The server has a session for this client and goes on with it; `false` in a refusal
    /// (`[MQTT-3.2.2-6]`, 3.1.1 `[MQTT-3.2.2-4]`).
    pub session_present: bool,
    /// Written to 3.1.1 peers as a return code ([`ReasonCode::connect_return_code`]).
    pub reason: ReasonCode,
    /// What the server grants; not written to 3.1.1 peers.
    pub properties: RawProperties<'a>,
}

impl<'a> ConnAck<'a> {
    /// Decodes the body; 3.1.1 return codes become the reason codes that mean the same.
    ///
    /// # Errors
    ///
    /// Reserved flags, unknown codes, session present in a refusal, bad properties.
    #[cfg(feature = "client")]
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let session_present = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::ConnAckFlags.into()),
        };
        let connack = match version {
            Version::V311 => {
                let code = reader.u8()?;
                let reason = ReasonCode::from_connect_return_code(code)
                    .ok_or(Malformed::ReasonCode(code))?;
                Self {
                    session_present,
                    reason,
                    properties: RawProperties::EMPTY,
                }
            }
            Version::V5 => Self {
                session_present,
                reason: super::ack::reason(&mut reader, PacketType::ConnAck, Role::Server)?,
                properties: RawProperties::read(&mut reader, PropertyScope::ConnAck)?,
            },
        };
        reader.end()?;
        if session_present && connack.reason != ReasonCode::Success {
            return Err(Violation::SessionPresentOnError.into());
        }
        Ok(connack)
    }

    /// Appends the packet and returns its size. User properties, then the reason string, are left
    /// out where the client's maximum packet size has no room for them (`[MQTT-3.2.2-19]`, -20).
    ///
    /// # Errors
    ///
    /// [`EncodeError::NotInVersion`] if 3.1.1 has no return code for the reason: close without a
    /// CONNACK then. [`EncodeError::Inconsistent`] for session present in a refusal, or a peer
    /// that is a server. A reason code or property CONNACK does not take; a packet too large.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let refused = self.reason != ReasonCode::Success;
        if (self.session_present && refused) || peer.role == Role::Server {
            return Err(EncodeError::Inconsistent);
        }
        let first_byte = PacketType::ConnAck.first_byte();
        let flags = u8::from(self.session_present);
        if peer.version == Version::V311 {
            let code = self
                .reason
                .connect_return_code()
                .ok_or(EncodeError::NotInVersion)?;
            let size = begin(out, peer, first_byte, 2)?;
            out.put_slice(&[flags, code]);
            return Ok(size);
        }
        if !self.reason.is_allowed(PacketType::ConnAck, Role::Server) {
            return Err(EncodeError::ReasonCode(self.reason.as_u8()));
        }
        let remaining = |section: &Section<'_>| 2 + section.total_len();
        let section = Section::new(self.properties, PropertyScope::ConnAck)?;
        let section = fit(peer, PacketType::ConnAck, section, remaining);
        let size = begin(out, peer, first_byte, remaining(&section))?;
        out.put_slice(&[flags, self.reason.as_u8()]);
        section.put(out);
        Ok(size)
    }
}
