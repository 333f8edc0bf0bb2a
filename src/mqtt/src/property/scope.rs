//! Which properties belong where (5.0 §2.2.2.2, table 2-4, with the direction rules of §3).

use super::PropertyId;

/// A place for properties: a packet type, by sender where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropertyScope {
    /// CONNECT (§3.1.2.11).
    Connect,
    /// The will inside CONNECT (§3.1.3.2).
    Will,
    /// CONNACK (§3.2.2.3).
    ConnAck,
    /// PUBLISH to a server: no subscription identifier (`[MQTT-3.3.4-6]`).
    PublishFromClient,
    /// PUBLISH to a client: subscription identifiers, any number of them.
    PublishFromServer,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK: reason string and user properties.
    Ack,
    /// SUBSCRIBE (§3.8.2.1).
    Subscribe,
    /// UNSUBSCRIBE (§3.10.2.1).
    Unsubscribe,
    /// DISCONNECT to a server: no server reference.
    DisconnectFromClient,
    /// DISCONNECT to a client: no session expiry interval (`[MQTT-3.14.2-2]`).
    DisconnectFromServer,
    /// AUTH (§3.15.2.2).
    Auth,
}

impl PropertyScope {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Connect,
        Self::Will,
        Self::ConnAck,
        Self::PublishFromClient,
        Self::PublishFromServer,
        Self::Ack,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::DisconnectFromClient,
        Self::DisconnectFromServer,
        Self::Auth,
    ];

    /// The allow-mask, by [`PropertyId::bit`].
    pub(crate) const fn allowed(self) -> u64 {
        use PropertyId as P;
        const MESSAGE: u64 = mask(&[
            P::PayloadFormatIndicator,
            P::MessageExpiryInterval,
            P::ContentType,
            P::ResponseTopic,
            P::CorrelationData,
            P::UserProperty,
        ]);
        const ACK: u64 = mask(&[P::ReasonString, P::UserProperty]);
        const AUTH: u64 = mask(&[P::AuthenticationMethod, P::AuthenticationData]);
        const CONNECT: u64 = AUTH
            | mask(&[
                P::SessionExpiryInterval,
                P::RequestProblemInformation,
                P::RequestResponseInformation,
                P::ReceiveMaximum,
                P::TopicAliasMaximum,
                P::UserProperty,
                P::MaximumPacketSize,
            ]);
        const CONNACK: u64 = ACK
            | AUTH
            | mask(&[
                P::SessionExpiryInterval,
                P::AssignedClientIdentifier,
                P::ServerKeepAlive,
                P::ResponseInformation,
                P::ServerReference,
                P::ReceiveMaximum,
                P::TopicAliasMaximum,
                P::MaximumQoS,
                P::RetainAvailable,
                P::MaximumPacketSize,
                P::WildcardSubscriptionAvailable,
                P::SubscriptionIdentifierAvailable,
                P::SharedSubscriptionAvailable,
            ]);
        match self {
            Self::Connect => CONNECT,
            Self::Will => MESSAGE | P::WillDelayInterval.bit(),
            Self::ConnAck => CONNACK,
            Self::PublishFromClient => MESSAGE | P::TopicAlias.bit(),
            Self::PublishFromServer => {
                MESSAGE | P::TopicAlias.bit() | P::SubscriptionIdentifier.bit()
            }
            Self::Ack => ACK,
            Self::Subscribe => P::SubscriptionIdentifier.bit() | P::UserProperty.bit(),
            Self::Unsubscribe => P::UserProperty.bit(),
            Self::DisconnectFromClient => ACK | P::SessionExpiryInterval.bit(),
            Self::DisconnectFromServer => ACK | P::ServerReference.bit(),
            Self::Auth => ACK | AUTH,
        }
    }

    /// The property that is needed, given those present: AUTH must name its method, and
    /// authentication data anywhere belong to a method (§3.1.2.11.10, §3.15.2.2.2).
    pub(crate) const fn missing(self, present: u64) -> Option<PropertyId> {
        let method = present & PropertyId::AuthenticationMethod.bit() != 0;
        let data = present & PropertyId::AuthenticationData.bit() != 0;
        if !method && (data || matches!(self, Self::Auth)) {
            return Some(PropertyId::AuthenticationMethod);
        }
        None
    }
}

const fn mask(ids: &[PropertyId]) -> u64 {
    let mut rest = ids;
    let mut mask = 0;
    while let [id, tail @ ..] = rest {
        mask |= id.bit();
        rest = tail;
    }
    mask
}
