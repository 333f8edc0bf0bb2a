//! Messages on their way to peers.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_mqtt::{Property, PropertyBuf, PropertyScope, QoS, RawProperties};
use tidegate_wire::MessageId;

use crate::{clock::UnixMillis, command::Prepared, store::sessions::SessionKey};

/// A message from the gateway to one device, given to [`super::Directory::deliver`].
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Bytes,
    /// 0, 1 or 2; the subscription's QoS caps it.
    pub qos: u8,
    /// Its number in the queue of the session that [`ReplyRoute::Durable`] named, if it was put there
    /// ([`crate::store::sessions::enqueue`]).
    pub queue_id: Option<i64>,
    pub retain: bool,
    /// MQTT 5 properties in PUBLISH's encoding, or nothing.
    pub properties: Bytes,
}

/// How a reply reaches a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyRoute {
    /// Through this session's queue, so that it survives both ends.
    Durable { session: SessionKey, qos: u8 },
    /// Only as long as the connection lasts.
    Volatile,
}

/// A message in memory.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// What travels with the message in PUBLISH's encoding; without message expiry, alias and
    /// subscription identifiers.
    pub(super) properties: Bytes,
    pub(super) expires_at: Option<UnixMillis>,
    /// The connection that published it; 0 for none.
    pub(super) from: u64,
    pub(super) source: Source,
}

impl Message {
    /// A message of the gateway's own.
    #[must_use]
    pub(super) fn from_gateway(topic: &str, payload: Bytes, qos: QoS) -> Self {
        Self {
            topic: topic.into(),
            payload,
            qos,
            retain: false,
            properties: Bytes::new(),
            expires_at: None,
            from: 0,
            source: Source::Gateway,
        }
    }

    /// A command that was signed just now.
    #[must_use]
    pub(super) fn command(id: MessageId, prepared: Prepared) -> Self {
        let message = Self::from_gateway(&prepared.topic, prepared.payload, QoS::AtLeastOnce);
        Self {
            source: Source::Command(id),
            ..message
        }
    }
}

/// Where a message towards a peer comes from, which decides how it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// The gateway itself: a reply, a rejection notice.
    Gateway,
    /// A command, by its id; sent with QoS 1 at most, since devices know commands again by their id.
    Command(MessageId),
    /// Another client, through the broker.
    Client,
    /// The retained messages, for a subscription just made with this QoS and identifier.
    Retained {
        granted: QoS,
        identifier: Option<u32>,
    },
}

/// The properties a server passes on, and when the message expires.
///
/// Message expiry counts from `now` on, so what is passed on later is the rest of it.
#[must_use]
pub(super) fn forwarded(
    properties: RawProperties<'_>,
    now: UnixMillis,
) -> (Bytes, Option<UnixMillis>) {
    if properties.is_empty() {
        return (Bytes::new(), None);
    }
    let mut kept = PropertyBuf::new();
    // It cannot fail: the properties were decoded under the same limits.
    let complete = kept.push_forwarded(&properties).is_ok();
    let expires_at = properties
        .message_expiry_interval()
        .map(|seconds| UnixMillis(now.0.saturating_add(u64::from(seconds) * 1000)));
    let bytes = if complete {
        Bytes::copy_from_slice(kept.as_raw().as_bytes())
    } else {
        Bytes::new()
    };
    (bytes, expires_at)
}

/// The properties of a PUBLISH to a subscriber, or `None` if the message is past its time.
#[must_use]
pub(super) fn properties_for(
    kept: &[u8],
    expires_at: Option<UnixMillis>,
    identifiers: &[u32],
    now: UnixMillis,
) -> Option<PropertyBuf> {
    let mut properties = PropertyBuf::new();
    if let Some(at) = expires_at {
        let left = at.0.checked_sub(now.0).filter(|left| *left > 0)?;
        let seconds = u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX);
        // Into an empty set.
        let _ = properties.push(Property::MessageExpiryInterval(seconds));
    }
    if !kept.is_empty()
        && let Ok(kept) = RawProperties::parse(kept, PropertyScope::PublishFromServer)
    {
        // Within the limits they were received under.
        let _ = properties.push_forwarded(&kept);
        for identifier in kept.subscription_identifiers() {
            let _ = properties.push(Property::SubscriptionIdentifier(identifier));
        }
    }
    for identifier in identifiers {
        // More than the codec's limit are left out: the peer could not read them.
        let _ = properties.push(Property::SubscriptionIdentifier(*identifier));
    }
    Some(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_what_is_left() {
        let mut sent = PropertyBuf::new();
        sent.push(Property::MessageExpiryInterval(10)).unwrap();
        sent.push(Property::ContentType("text/plain")).unwrap();
        sent.push(Property::UserProperty("a", "1")).unwrap();
        let (kept, expires_at) = forwarded(sent.as_raw(), UnixMillis(1_000));
        let later = properties_for(&kept, expires_at, &[5], UnixMillis(4_500)).unwrap();
        let read = later.as_raw();
        assert_eq!(read.message_expiry_interval(), Some(7), "6.5 s are left");
        assert_eq!(read.content_type(), Some("text/plain"));
        assert_eq!(read.user_properties().collect::<Vec<_>>(), [("a", "1")]);
        assert_eq!(read.subscription_identifiers().collect::<Vec<_>>(), [5]);
        assert!(
            properties_for(&kept, expires_at, &[], UnixMillis(11_000)).is_none(),
            "past it"
        );
    }
}
