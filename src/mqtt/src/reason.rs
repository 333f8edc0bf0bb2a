//! Reason codes (5.0 §2.4) and which packet may carry which, sent by whom.

use crate::{PacketType, Role, numbered::numbered};

numbered! {
    /// Every reason code of MQTT 5.0 §2.4. Codes from 0x80 on are failures.
    pub enum ReasonCode {
        /// Success, normal disconnection, or granted QoS 0.
        Success = 0x00,
        /// Subscription granted with QoS 1 at most.
        GrantedQoS1 = 0x01,
        /// Subscription granted with QoS 2 at most.
        GrantedQoS2 = 0x02,
        /// DISCONNECT that asks for the will to be published all the same.
        DisconnectWithWill = 0x04,
        /// Accepted, but nobody subscribes to the topic.
        NoMatchingSubscribers = 0x10,
        /// UNSUBACK: there was no such subscription.
        NoSubscriptionExisted = 0x11,
        /// AUTH: go on with the next step.
        ContinueAuthentication = 0x18,
        /// AUTH: the client starts over.
        ReAuthenticate = 0x19,
        /// No reason is given.
        UnspecifiedError = 0x80,
        /// The packet could not be read.
        MalformedPacket = 0x81,
        /// The packet was not permitted.
        ProtocolError = 0x82,
        /// Valid, but not processed by this implementation.
        ImplementationSpecificError = 0x83,
        /// The protocol version is not spoken here.
        UnsupportedProtocolVersion = 0x84,
        /// The client identifier is not allowed.
        ClientIdentifierNotValid = 0x85,
        /// The credentials were refused.
        BadUserNameOrPassword = 0x86,
        /// The request is not authorised.
        NotAuthorized = 0x87,
        /// The server is unavailable.
        ServerUnavailable = 0x88,
        /// The server is busy: try again later.
        ServerBusy = 0x89,
        /// Banned by administrative action.
        Banned = 0x8A,
        /// The server is shutting down.
        ServerShuttingDown = 0x8B,
        /// The authentication method is unknown or changed.
        BadAuthenticationMethod = 0x8C,
        /// Nothing came for one and a half times the keep alive.
        KeepAliveTimeout = 0x8D,
        /// Another connection uses the same client identifier.
        SessionTakenOver = 0x8E,
        /// The topic filter is not accepted.
        TopicFilterInvalid = 0x8F,
        /// The topic name is not accepted.
        TopicNameInvalid = 0x90,
        /// The packet identifier is in use.
        PacketIdentifierInUse = 0x91,
        /// The packet identifier is not known.
        PacketIdentifierNotFound = 0x92,
        /// More unacknowledged messages than the receive maximum.
        ReceiveMaximumExceeded = 0x93,
        /// Topic alias 0, or over the maximum.
        TopicAliasInvalid = 0x94,
        /// The packet is over the maximum packet size.
        PacketTooLarge = 0x95,
        /// Data comes in too fast.
        MessageRateTooHigh = 0x96,
        /// A limit of the implementation or its administrator was exceeded.
        QuotaExceeded = 0x97,
        /// Closed by administrative action.
        AdministrativeAction = 0x98,
        /// The payload is not what its format indicator says.
        PayloadFormatInvalid = 0x99,
        /// Retained messages are not supported.
        RetainNotSupported = 0x9A,
        /// The QoS is over the server's maximum.
        QoSNotSupported = 0x9B,
        /// Use another server for now.
        UseAnotherServer = 0x9C,
        /// Use another server from now on.
        ServerMoved = 0x9D,
        /// Shared subscriptions are not supported.
        SharedSubscriptionsNotSupported = 0x9E,
        /// Connections come in too fast.
        ConnectionRateExceeded = 0x9F,
        /// The connection lasted as long as it may.
        MaximumConnectTime = 0xA0,
        /// Subscription identifiers are not supported.
        SubscriptionIdentifiersNotSupported = 0xA1,
        /// Wildcard subscriptions are not supported.
        WildcardSubscriptionsNotSupported = 0xA2,
    }
}

impl ReasonCode {
    /// 0x00 as DISCONNECT calls it.
    pub const NORMAL_DISCONNECTION: Self = Self::Success;
    /// 0x00 as SUBACK calls it.
    pub const GRANTED_QOS_0: Self = Self::Success;

    /// The value on the wire.
    #[inline]
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// 0x80 and up: the request failed.
    #[inline]
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// Whether `packet`, sent by `sender`, may carry this code (the reason code tables of 5.0
    /// §3.2 to §3.15; 0x8C in DISCONNECT from §2.4). `false` for packets without a reason code.
    #[must_use]
    pub const fn is_allowed(self, packet: PacketType, sender: Role) -> bool {
        let server = matches!(sender, Role::Server);
        let code = self.as_u8();
        match packet {
            PacketType::ConnAck => {
                server
                    && matches!(
                        code,
                        0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
                    )
            }
            PacketType::PubAck | PacketType::PubRec => match code {
                // "This is sent only by the Server."
                0x10 => server,
                _ => matches!(code, 0x00 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
            },
            PacketType::PubRel | PacketType::PubComp => matches!(code, 0x00 | 0x92),
            PacketType::SubAck => {
                server
                    && matches!(
                        code,
                        0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
                    )
            }
            PacketType::UnsubAck => {
                server && matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            PacketType::Disconnect => match code {
                0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => true,
                0x04 => !server,
                0x87 | 0x89 | 0x8B..=0x8F | 0x9A..=0xA2 => server,
                _ => false,
            },
            PacketType::Auth => match code {
                0x00 => server,
                0x18 => true,
                0x19 => !server,
                _ => false,
            },
            _ => false,
        }
    }

    /// The CONNACK return code with which 3.1.1 says this (§3.2.2.3), or `None` where it has
    /// none; the server then closes without a CONNACK (`[MQTT-3.2.2-6]`).
    #[must_use]
    pub const fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded
            | Self::QuotaExceeded => Some(3),
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => Some(4),
            Self::NotAuthorized | Self::Banned => Some(5),
            _ => None,
        }
    }

    /// What a 3.1.1 CONNACK return code means in MQTT 5's terms.
    #[must_use]
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }
}
