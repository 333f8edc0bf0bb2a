//! Control packets: one file per type, decoding and encoding side by side.

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod ping;
pub mod publish;
pub mod suback;
pub mod subscribe;

use crate::{
    Ack, AckKind, Auth, DecodeError, Disconnect, Frame, Malformed, PacketType, Publish, Role,
    Subscribe, Unsubscribe, Version, Violation,
};
#[cfg(feature = "client")]
use crate::{ConnAck, SubAck, UnsubAck};

/// What a client may send after CONNECT, which [`decode_connect`](crate::decode_connect) reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientPacket<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP: see [`Ack::kind`].
    Ack(Ack<'a>),
    /// Filters to subscribe to.
    Subscribe(Subscribe<'a>),
    /// Filters to unsubscribe from.
    Unsubscribe(Unsubscribe<'a>),
    /// To be answered with PINGRESP (`[MQTT-3.12.4-1]`).
    PingReq,
    /// The client is about to close.
    Disconnect(Disconnect<'a>),
    /// MQTT 5 only.
    Auth(Auth<'a>),
}

/// What a server may send.
#[cfg(feature = "client")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPacket<'a> {
    /// The answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP: see [`Ack::kind`].
    Ack(Ack<'a>),
    /// The answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// The answer to UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// The answer to PINGREQ.
    PingResp,
    /// MQTT 5 only.
    Disconnect(Disconnect<'a>),
    /// MQTT 5 only.
    Auth(Auth<'a>),
}

/// Decodes what a client sent after CONNECT. `frame` is from [`frame()`](crate::frame()) with the
/// same version in its `accept`, and `body` from [`Frame::body`].
///
/// # Errors
///
/// Whatever the specification of `version` forbids; a server closes the connection then.
#[inline]
pub fn decode<'a>(
    version: Version,
    frame: Frame,
    body: &'a [u8],
) -> Result<ClientPacket<'a>, DecodeError> {
    let kind = frame.packet_type();
    Ok(match kind {
        PacketType::Publish => {
            ClientPacket::Publish(Publish::decode(version, Role::Client, frame, body)?)
        }
        PacketType::PubAck => ack(version, AckKind::PubAck, body)?,
        PacketType::PubRec => ack(version, AckKind::PubRec, body)?,
        PacketType::PubRel => ack(version, AckKind::PubRel, body)?,
        PacketType::PubComp => ack(version, AckKind::PubComp, body)?,
        PacketType::Subscribe => ClientPacket::Subscribe(Subscribe::decode(version, body)?),
        PacketType::Unsubscribe => ClientPacket::Unsubscribe(Unsubscribe::decode(version, body)?),
        PacketType::PingReq => {
            must_be_empty(body)?;
            ClientPacket::PingReq
        }
        PacketType::Disconnect => {
            ClientPacket::Disconnect(Disconnect::decode(version, Role::Client, body)?)
        }
        PacketType::Auth => ClientPacket::Auth(Auth::decode(version, Role::Client, body)?),
        PacketType::Connect => return Err(Violation::SecondConnect.into()),
        PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
            return Err(Violation::UnexpectedPacket(kind).into());
        }
    })
}

/// Decodes what a server sent. `frame` is from [`frame()`](crate::frame()) with the same version in
/// its `accept`, and `body` from [`Frame::body`].
///
/// # Errors
///
/// Whatever the specification of `version` forbids; a client closes the connection then.
#[cfg(feature = "client")]
pub fn decode_from_server<'a>(
    version: Version,
    frame: Frame,
    body: &'a [u8],
) -> Result<ServerPacket<'a>, DecodeError> {
    let kind = frame.packet_type();
    let ack = |kind| Ack::decode(version, kind, Role::Server, body).map(ServerPacket::Ack);
    Ok(match kind {
        PacketType::ConnAck => ServerPacket::ConnAck(ConnAck::decode(version, body)?),
        PacketType::Publish => {
            ServerPacket::Publish(Publish::decode(version, Role::Server, frame, body)?)
        }
        PacketType::PubAck => ack(AckKind::PubAck)?,
        PacketType::PubRec => ack(AckKind::PubRec)?,
        PacketType::PubRel => ack(AckKind::PubRel)?,
        PacketType::PubComp => ack(AckKind::PubComp)?,
        PacketType::SubAck => ServerPacket::SubAck(SubAck::decode(version, body)?),
        PacketType::UnsubAck => ServerPacket::UnsubAck(UnsubAck::decode(version, body)?),
        PacketType::PingResp => {
            must_be_empty(body)?;
            ServerPacket::PingResp
        }
        PacketType::Disconnect => {
            ServerPacket::Disconnect(Disconnect::decode(version, Role::Server, body)?)
        }
        PacketType::Auth => ServerPacket::Auth(Auth::decode(version, Role::Server, body)?),
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::PingReq => return Err(Violation::UnexpectedPacket(kind).into()),
    })
}

#[inline]
fn ack(version: Version, kind: AckKind, body: &[u8]) -> Result<ClientPacket<'_>, DecodeError> {
    Ack::decode(version, kind, Role::Client, body).map(ClientPacket::Ack)
}

fn must_be_empty(body: &[u8]) -> Result<(), DecodeError> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(Malformed::RemainingLength.into())
    }
}
