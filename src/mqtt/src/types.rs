//! The few values every packet shares.

/// The largest value of a remaining length, and of any variable byte integer: 256 MiB less one
/// (3.1.1 §2.2.3, 5.0 §1.5.5).
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;

/// Protocol versions spoken here. `MQIsdp` level 3 (MQTT 3.1) is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol version 5.
    V5,
}

/// Delivery guarantee of a message (3.1.1 and 5.0 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum QoS {
    /// Delivered at most once, not acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once, acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// Delivered exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of a two-bit field; `None` for 3, which is reserved (`[MQTT-3.3.1-4]`).
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// 0, 1 or 2.
    #[inline]
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// The two ends of a connection. A proxy or bridge that connects is a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end that sent CONNECT.
    Client,
    /// The end that answers with CONNACK.
    Server,
}

impl Role {
    /// The end at the other side of the connection.
    #[inline]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What an encoder must know about the end it writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The version that CONNECT named.
    pub version: Version,
    /// Which end it is; a server writes to a [`Role::Client`].
    pub role: Role,
    /// The largest whole packet it takes, in bytes, from its Maximum Packet Size property (5.0
    /// §3.1.2.11.4, §3.2.2.3.6); `u32::MAX` when it gave none.
    pub max_packet_size: u32,
    /// `false` after a CONNECT with Request Problem Information 0: reason strings and user
    /// properties are then left out of everything but PUBLISH, CONNACK and DISCONNECT
    /// (`[MQTT-3.1.2-29]`).
    pub problem_information: bool,
}

impl Peer {
    /// A client without limits of its own.
    #[must_use]
    pub const fn client(version: Version) -> Self {
        Self {
            version,
            role: Role::Client,
            max_packet_size: u32::MAX,
            problem_information: true,
        }
    }

    /// A server without limits of its own.
    #[must_use]
    pub const fn server(version: Version) -> Self {
        Self {
            version,
            role: Role::Server,
            max_packet_size: u32::MAX,
            problem_information: true,
        }
    }
}
