//! The fixed header (3.1.1 and 5.0 §2.2 / §2.1), judged before anything of the body is there.

use crate::read::variable;
use crate::{DecodeError, Malformed, QoS, Version, Violation};

/// Control packet types (§2.2.1 of 3.1.1, §2.1.2 of 5.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PacketType {
    /// Client requests a connection.
    Connect = 1,
    /// Server answers it.
    ConnAck = 2,
    /// A message.
    Publish = 3,
    /// QoS 1 acknowledgement.
    PubAck = 4,
    /// QoS 2, first answer.
    PubRec = 5,
    /// QoS 2, release.
    PubRel = 6,
    /// QoS 2, completion.
    PubComp = 7,
    /// Client subscribes.
    Subscribe = 8,
    /// Server answers it.
    SubAck = 9,
    /// Client unsubscribes.
    Unsubscribe = 10,
    /// Server answers it.
    UnsubAck = 11,
    /// Client keeps the connection alive.
    PingReq = 12,
    /// Server answers it.
    PingResp = 13,
    /// The end of a connection.
    Disconnect = 14,
    /// Extended authentication, MQTT 5 only.
    Auth = 15,
}

impl PacketType {
    /// The type in the upper four bits of a packet's first byte; `None` for 0.
    #[inline]
    #[must_use]
    pub const fn from_first_byte(byte: u8) -> Option<Self> {
        Some(match byte >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type other than PUBLISH.
    #[inline]
    pub(crate) const fn first_byte(self) -> u8 {
        ((self as u8) << 4) | self.flags()
    }

    /// The flag bits [MQTT-2.2.2-1] prescribes; PUBLISH has its own.
    const fn flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// What the receiving end takes at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accept {
    /// A server before CONNECT: CONNECT alone (`[MQTT-3.1.0-1]`).
    Connect,
    /// A server in MQTT 5 extended authentication, after CONNECT and before CONNACK: AUTH or
    /// DISCONNECT (5.0 §4.12, `[MQTT-3.1.2-30]`).
    Authentication,
    /// A server after CONNECT: everything a client may send but CONNECT (`[MQTT-3.1.0-2]`).
    FromClient(Version),
    /// A client before CONNACK: CONNACK, or AUTH in MQTT 5 (`[MQTT-3.2.0-1]`).
    #[cfg(feature = "client")]
    ConnAck(Version),
    /// A client after CONNACK: everything a server may send but CONNACK (`[MQTT-3.2.0-2]`).
    #[cfg(feature = "client")]
    FromServer(Version),
}

impl Accept {
    const fn version(self) -> Option<Version> {
        match self {
            Self::Connect => None,
            Self::Authentication => Some(Version::V5),
            Self::FromClient(version) => Some(version),
            #[cfg(feature = "client")]
            Self::ConnAck(version) | Self::FromServer(version) => Some(version),
        }
    }

    /// Whether a packet of this type may come now.
    const fn admit(self, kind: PacketType) -> Result<(), Violation> {
        use PacketType as P;
        let admitted = match self {
            Self::Connect => {
                if !matches!(kind, P::Connect) {
                    return Err(Violation::ConnectExpected(kind));
                }
                true
            }
            Self::Authentication | Self::FromClient(_) if matches!(kind, P::Connect) => {
                return Err(Violation::SecondConnect);
            }
            Self::Authentication => matches!(kind, P::Auth | P::Disconnect),
            Self::FromClient(version) => match kind {
                P::Publish
                | P::PubAck
                | P::PubRec
                | P::PubRel
                | P::PubComp
                | P::Subscribe
                | P::Unsubscribe
                | P::PingReq
                | P::Disconnect => true,
                P::Auth => matches!(version, Version::V5),
                _ => false,
            },
            #[cfg(feature = "client")]
            Self::ConnAck(version) => match kind {
                P::ConnAck => true,
                P::Auth => matches!(version, Version::V5),
                _ => false,
            },
            #[cfg(feature = "client")]
            Self::FromServer(version) => match kind {
                P::Publish
                | P::PubAck
                | P::PubRec
                | P::PubRel
                | P::PubComp
                | P::SubAck
                | P::UnsubAck
                | P::PingResp => true,
                P::Disconnect | P::Auth => matches!(version, Version::V5),
                _ => false,
            },
        };
        if admitted {
            Ok(())
        } else {
            Err(Violation::UnexpectedPacket(kind))
        }
    }
}

/// A fixed header that was judged and found acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    first_byte: u8,
    header_len: u8,
    kind: PacketType,
    remaining_len: u32,
}

impl Frame {
    /// Type and flag bits as they came.
    #[inline]
    #[must_use]
    pub const fn first_byte(&self) -> u8 {
        self.first_byte
    }

    /// The packet's type.
    #[inline]
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        self.kind
    }

    /// Bytes of the fixed header: 2 to 5.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len as usize
    }

    /// Bytes after the fixed header.
    #[inline]
    #[must_use]
    pub const fn remaining_len(&self) -> usize {
        self.remaining_len as usize
    }

    /// Bytes of the whole packet: what to take off the read buffer once it was decoded.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.header_len().saturating_add(self.remaining_len())
    }

    /// The body, if all of it has arrived; `buf` is what was given to [`frame()`].
    #[inline]
    #[must_use]
    pub fn body<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        buf.get(self.header_len()..self.total_len())
    }
}

/// Reads the fixed header at the start of `buf`, which may hold any number of packets or a part
/// of one.
///
/// `Ok(None)`: more bytes are needed to know the header. `Ok(Some(frame))`: the header stands;
/// whether the body is there is for [`Frame::body`] to say, and until it is, read on, letting the
/// buffer grow with what arrives and not with what was announced.
///
/// # Errors
///
/// As early as the first byte: a type that is reserved, unknown to the version or not due
/// (`accept`), flag bits other than prescribed, QoS 3, DUP with QoS 0. As soon as the length
/// shows it: a whole packet over `max_packet_size` bytes, an over-long length, or a length the
/// type cannot have. 3.1.1 does not say in words that the length must be in its shortest form;
/// its table of sizes (§2.2.3) allows no other, and neither do we.
#[inline]
pub fn frame(
    buf: &[u8],
    max_packet_size: u32,
    accept: Accept,
) -> Result<Option<Frame>, DecodeError> {
    let Some((&first_byte, rest)) = buf.split_first() else {
        return Ok(None);
    };
    let kind = judge_first_byte(first_byte, accept)?;
    match variable(rest)? {
        Some((remaining_len, length_len)) => {
            // At most 5 + 268,435,455: neither sum can overflow.
            let header_len = 1 + length_len as u8;
            let size = u32::from(header_len) + remaining_len;
            if size > max_packet_size {
                return Err(DecodeError::PacketTooLarge {
                    size,
                    max: max_packet_size,
                });
            }
            judge_length(kind, remaining_len, accept)?;
            Ok(Some(Frame {
                first_byte,
                header_len,
                kind,
                remaining_len,
            }))
        }
        None => judge_partial_length(rest, max_packet_size).map(|()| None),
    }
}

#[inline]
fn judge_first_byte(byte: u8, accept: Accept) -> Result<PacketType, DecodeError> {
    let kind = PacketType::from_first_byte(byte).ok_or(Malformed::PacketType(0))?;
    if kind == PacketType::Auth && accept.version() == Some(Version::V311) {
        return Err(Malformed::PacketType(15).into());
    }
    accept.admit(kind)?;
    let flags = byte & 0x0F;
    if kind == PacketType::Publish {
        let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(Malformed::QoS)?;
        if qos == QoS::AtMostOnce && flags & 0b1000 != 0 {
            return Err(Malformed::DupWithQoS0.into());
        }
    } else if flags != kind.flags() {
        return Err(Malformed::FixedHeaderFlags(byte).into());
    }
    Ok(kind)
}

/// Lengths that the type alone rules out. Upper bounds only where the type has a fixed size.
#[inline]
fn judge_length(kind: PacketType, len: u32, accept: Accept) -> Result<(), DecodeError> {
    use PacketType as P;
    let v5 = accept.version() == Some(Version::V5);
    let fits = match kind {
        P::PingReq | P::PingResp => len == 0,
        P::PubAck | P::PubRec | P::PubRel | P::PubComp if !v5 => len == 2,
        P::ConnAck | P::UnsubAck if !v5 => len == 2,
        P::Disconnect if !v5 => len == 0,
        P::PubAck
        | P::PubRec
        | P::PubRel
        | P::PubComp
        | P::Subscribe
        | P::Unsubscribe
        | P::SubAck
        | P::UnsubAck
        | P::Publish => len >= 2,
        P::ConnAck => len >= 3,
        // Protocol name and level of the shortest CONNECT worth an answer: "MQTT" and a level.
        P::Connect => len >= 7,
        P::Disconnect | P::Auth => true,
    };
    if fits {
        Ok(())
    } else {
        Err(Malformed::RemainingLength.into())
    }
}

/// Refuses a packet whose length, though incomplete, can only be over the limit: every byte seen
/// has its continuation bit set, so in its shortest form the next digit is at least 1.
#[cold]
fn judge_partial_length(rest: &[u8], max: u32) -> Result<(), DecodeError> {
    let mut least = 0_u32;
    let mut shift = 0;
    for &byte in rest.iter().take(3) {
        least |= u32::from(byte & 0x7F) << shift;
        shift += 7;
    }
    if shift > 0 {
        least |= 1 << shift;
        // Header: first byte, the digits seen and at least one more; at most 5 + 2^21 * 2.
        let size = least + 2 + shift / 7;
        if size > max {
            return Err(DecodeError::PacketTooLarge { size, max });
        }
    }
    Ok(())
}
