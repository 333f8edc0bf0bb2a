//! CONNECT (3.1.1 and 5.0 §3.1).

use crate::error::VersionAnswer;
use crate::read::Reader;
use crate::{DecodeError, Malformed, PropertyScope, QoS, RawProperties, Version, topic};
#[cfg(feature = "client")]
use crate::{
    EncodeError, PacketType, Peer, Role,
    property::Section,
    write::{begin, field_len, put_field, string_len},
};
#[cfg(feature = "client")]
use bytes::{BufMut, BytesMut};

/// Connect flags (§3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 1;
    pub(super) const CLEAN_START: u8 = 1 << 1;
    pub(super) const WILL: u8 = 1 << 2;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_RETAIN: u8 = 1 << 5;
    pub(super) const PASSWORD: u8 = 1 << 6;
    pub(super) const USER_NAME: u8 = 1 << 7;
}

/// The first packet of a client.
///
/// `Debug` leaves the password out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connect<'a> {
    /// The version that the protocol level names.
    pub version: Version,
    /// MQTT 5 Clean Start; 3.1.1 Clean Session, which also ends the session with the connection.
    pub clean_start: bool,
    /// Seconds; 0 turns keep alive off.
    pub keep_alive: u16,
    /// Empty if the client leaves the choice to the server. What else is allowed is for the
    /// session to say; see [`Connect::lacks_client_id`].
    pub client_id: &'a str,
    /// Published when the connection ends other than by a normal DISCONNECT.
    pub will: Option<Will<'a>>,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password; in MQTT 5 possibly without a user name.
    pub password: Option<&'a [u8]>,
    /// Empty in 3.1.1.
    pub properties: RawProperties<'a>,
}

impl core::fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| "…"))
            .field("properties", &self.properties)
            .finish()
    }
}

/// The message published for a client that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Will<'a> {
    /// QoS to publish with.
    pub qos: QoS,
    /// Whether to publish it as a retained message.
    pub retain: bool,
    /// A valid topic name.
    pub topic: &'a str,
    /// Any bytes.
    pub payload: &'a [u8],
    /// Empty in 3.1.1.
    pub properties: RawProperties<'a>,
}

impl Connect<'_> {
    /// 3.1.1 with an empty client identifier and Clean Session 0: a server must refuse it with
    /// return code 0x02 (3.1.1 `[MQTT-3.1.3-8]`). It is valid to decode, so that it can.
    #[must_use]
    pub fn lacks_client_id(&self) -> bool {
        self.version == Version::V311 && !self.clean_start && self.client_id.is_empty()
    }
}

/// Decodes the body of a CONNECT, which says itself what version it is of.
///
/// # Errors
///
/// [`DecodeError::UnsupportedVersion`] for another protocol level or MQTT 3.1's `MQIsdp`, with
/// the form of the answer; [`DecodeError::ProtocolName`]; anything else the version forbids.
/// In 3.1.1, whose CONNACK has no code for a malformed packet, close without an answer.
pub fn decode_connect(body: &[u8]) -> Result<Connect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let version = version(&mut reader)?;
    let flags = reader.u8()?;
    judge_flags(version, flags)?;
    let keep_alive = reader.u16()?;
    let properties = read_properties(&mut reader, version, PropertyScope::Connect)?;
    let client_id = reader.string()?;
    let will = match flags & flag::WILL != 0 {
        true => Some(read_will(&mut reader, version, flags)?),
        false => None,
    };
    let user_name = match flags & flag::USER_NAME != 0 {
        true => Some(reader.string()?),
        false => None,
    };
    let password = match flags & flag::PASSWORD != 0 {
        true => Some(reader.binary()?),
        false => None,
    };
    reader.end()?;
    Ok(Connect {
        version,
        clean_start: flags & flag::CLEAN_START != 0,
        keep_alive,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

/// Protocol name and level (§3.1.2.1, §3.1.2.2). Bridges set the level's top bit; without it,
/// 3 and 4 are 3.x and want to be told so in 3.x.
fn version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8()?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        _ => {
            let v3 = name == b"MQIsdp" || level & 0x7F < 5;
            let answer = if v3 {
                VersionAnswer::V3
            } else {
                VersionAnswer::V5
            };
            Err(DecodeError::UnsupportedVersion { level, answer })
        }
    }
}

/// Connect flags that contradict each other (`[MQTT-3.1.2-3]` and 3.1.1 -11 to -22, 5.0 -11 to
/// -15).
fn judge_flags(version: Version, flags: u8) -> Result<(), Malformed> {
    if flags & flag::RESERVED != 0 {
        return Err(Malformed::ConnectFlagReserved);
    }
    let will_qos = (flags >> flag::WILL_QOS_SHIFT) & 0b11;
    if QoS::from_bits(will_qos).is_none() {
        return Err(Malformed::QoS);
    }
    if flags & flag::WILL == 0 && (will_qos != 0 || flags & flag::WILL_RETAIN != 0) {
        return Err(Malformed::WillFlags);
    }
    let password_alone = flags & (flag::USER_NAME | flag::PASSWORD) == flag::PASSWORD;
    if password_alone && version == Version::V311 {
        return Err(Malformed::PasswordWithoutUserName);
    }
    Ok(())
}

fn read_will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    flags: u8,
) -> Result<Will<'a>, DecodeError> {
    let properties = read_properties(reader, version, PropertyScope::Will)?;
    let topic = reader.string()?;
    if !topic::valid_name(topic) {
        return Err(DecodeError::TopicNameInvalid);
    }
    Ok(Will {
        qos: QoS::from_bits((flags >> flag::WILL_QOS_SHIFT) & 0b11).ok_or(Malformed::QoS)?,
        retain: flags & flag::WILL_RETAIN != 0,
        topic,
        payload: reader.binary()?,
        properties,
    })
}

/// Properties in MQTT 5, nothing in 3.1.1.
#[inline]
pub(super) fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    scope: PropertyScope,
) -> Result<RawProperties<'a>, DecodeError> {
    match version {
        Version::V311 => Ok(RawProperties::EMPTY),
        Version::V5 => RawProperties::read(reader, scope),
    }
}

#[cfg(feature = "client")]
impl Connect<'_> {
    /// Appends the packet, in the version it names, and returns its size. Properties are not
    /// written in 3.1.1.
    ///
    /// # Errors
    ///
    /// Fields too long or invalid, properties that do not belong, a packet too large;
    /// [`EncodeError::Inconsistent`] for a password without a user name in 3.1.1, or a `peer` that
    /// is no server or of another version.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let v5 = self.version == Version::V5;
        let password_alone = self.password.is_some() && self.user_name.is_none();
        if peer.role == Role::Client || peer.version != self.version || (password_alone && !v5) {
            return Err(EncodeError::Inconsistent);
        }
        let section = Section::for_version(self.version, self.properties, PropertyScope::Connect)?;
        let mut remaining = 10 + section.len_in(self.version) + string_len(self.client_id)?;
        let mut flags = if self.clean_start {
            flag::CLEAN_START
        } else {
            0
        };
        let mut will_section = None;
        if let Some(will) = &self.will {
            if !topic::valid_name(will.topic) {
                return Err(EncodeError::TopicNameInvalid);
            }
            let section = Section::for_version(self.version, will.properties, PropertyScope::Will)?;
            remaining += section.len_in(self.version)
                + field_len(will.topic.as_bytes())?
                + field_len(will.payload)?;
            will_section = Some(section);
            flags |= flag::WILL | (will.qos.as_u8() << flag::WILL_QOS_SHIFT);
            flags |= if will.retain { flag::WILL_RETAIN } else { 0 };
        }
        if let Some(user_name) = self.user_name {
            remaining += string_len(user_name)?;
            flags |= flag::USER_NAME;
        }
        if let Some(password) = self.password {
            remaining += field_len(password)?;
            flags |= flag::PASSWORD;
        }
        let size = begin(out, peer, PacketType::Connect.first_byte(), remaining)?;
        put_field(out, b"MQTT");
        out.put_slice(&[if v5 { 5 } else { 4 }, flags]);
        out.put_u16(self.keep_alive);
        section.put_in(self.version, out);
        put_field(out, self.client_id.as_bytes());
        if let (Some(will), Some(section)) = (&self.will, will_section) {
            section.put_in(self.version, out);
            put_field(out, will.topic.as_bytes());
            put_field(out, will.payload);
        }
        if let Some(user_name) = self.user_name {
            put_field(out, user_name.as_bytes());
        }
        if let Some(password) = self.password {
            put_field(out, password);
        }
        Ok(size)
    }
}
