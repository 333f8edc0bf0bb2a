//! The way of a message on a free topic: to durable sessions through the store, to live subscribers
//! through the broker, and into the retained messages.
//!
//! The publisher's acknowledgement waits for the store, so that a message of QoS 1 or 2 is in every
//! durable session's queue before its publisher may forget it; the broker never holds the only copy.

use bytes::Bytes;
use tidegate_mqtt::{Property, PropertyBuf, PropertyScope, QoS, RawProperties};

use super::{
    Shared,
    durable::Target,
    message::{Message, Source, forwarded},
};
use crate::{
    broker::{Routed, Sink},
    clock::UnixMillis,
    store::sessions::{self, Queued, SessionKey},
};

/// A publish and where it goes.
#[derive(Debug)]
pub(super) struct Plan {
    message: Message,
    targets: Vec<Target>,
    /// The retained messages change: there is something to write.
    retain: bool,
}

impl Plan {
    /// Decides where `message` goes. With the retain flag it is retained right away, in memory; a
    /// message there is no room for is passed on all the same and counted.
    pub(super) fn new(shared: &Shared, message: Message, from: Option<SessionKey>) -> Self {
        let targets = shared
            .directory
            .durable_targets(&message.topic, message.qos, from);
        let mut retain = false;
        if message.retain {
            retain = shared.directory.retained.set(&message);
            if !retain {
                shared.metrics.retained_refused.increment();
            }
            shared
                .metrics
                .retained_messages
                .set(shared.directory.retained.len() as u64);
        }
        Self {
            message,
            targets,
            retain,
        }
    }

    /// Something must be on disk before the publisher is answered.
    pub(super) fn needs_commit(&self) -> bool {
        self.retain || !self.targets.is_empty()
    }

    /// What is to be written.
    pub(super) fn write(
        &self,
    ) -> impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send + 'static {
        let (message, targets, retain) = (self.message.clone(), self.targets.clone(), self.retain);
        move |conn| {
            for target in &targets {
                let properties = with_identifiers(&message.properties, &target.matched.identifiers);
                let queued = Queued {
                    qos: target.qos.as_u8(),
                    retain: message.retain && target.matched.retain_as_published,
                    properties: &properties,
                    ..queued(&message)
                };
                sessions::enqueue_message(conn, target.session, &queued)?;
            }
            match retain {
                true if message.payload.is_empty() => {
                    sessions::clear_retained(conn, &message.topic)
                }
                true => sessions::retain(conn, &queued(&message)),
                false => Ok(()),
            }
        }
    }

    /// What remains when it is written: live subscribers get it. The message comes back if the broker
    /// has no room for it.
    pub(super) fn finish(self, shared: &Shared, now: UnixMillis) -> Option<Message> {
        shared
            .directory
            .queues_grew(self.targets.iter().map(|target| target.session));
        let routed = !shared.broker.wants(&self.message.topic) || route(shared, &self.message, now);
        (!routed).then_some(self.message)
    }
}

/// Gives a message to the broker; false if that has no room.
pub(super) fn route(shared: &Shared, message: &Message, now: UnixMillis) -> bool {
    let properties = match message.expires_at {
        None => message.properties.clone(),
        Some(at) => {
            let mut properties = PropertyBuf::new();
            let left = at.0.saturating_sub(now.0).div_ceil(1000);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            // Into an empty set, then what was received under the same limits.
            let _ = properties.push(Property::MessageExpiryInterval(left));
            if let Ok(kept) =
                RawProperties::parse(&message.properties, PropertyScope::PublishFromClient)
            {
                let _ = properties.push_forwarded(&kept);
            }
            Bytes::copy_from_slice(properties.as_raw().as_bytes())
        }
    };
    shared.broker.publish(
        message.from,
        &message.topic,
        message.payload.clone(),
        message.qos,
        message.retain,
        properties,
    )
}

fn queued(message: &Message) -> Queued<'_> {
    Queued {
        qos: message.qos.as_u8(),
        retain: message.retain,
        topic: &message.topic,
        payload: &message.payload,
        properties: &message.properties,
        expires_at: expires_at(message),
    }
}

pub(super) fn expires_at(message: &Message) -> Option<i64> {
    message
        .expires_at
        .map(|at| i64::try_from(at.0).unwrap_or(i64::MAX))
}

/// Kept properties with subscription identifiers added.
pub(super) fn with_identifiers(kept: &Bytes, identifiers: &[u32]) -> Bytes {
    if identifiers.is_empty() {
        return kept.clone();
    }
    let mut properties = PropertyBuf::new();
    if let Ok(kept) = RawProperties::parse(kept, PropertyScope::PublishFromClient) {
        let _ = properties.push_forwarded(&kept);
    }
    for identifier in identifiers {
        let _ = properties.push(Property::SubscriptionIdentifier(*identifier));
    }
    Bytes::copy_from_slice(properties.as_raw().as_bytes())
}

/// Where the broker leaves messages for a live connection.
#[derive(Debug)]
pub(super) struct LiveSink {
    pub(super) shared: std::sync::Arc<Shared>,
    pub(super) live: std::sync::Arc<super::directory::Live>,
}

impl Sink for LiveSink {
    fn receive(&self, routed: Routed) {
        let now = self.shared.clock.unchecked_now();
        let properties = RawProperties::parse(&routed.properties, PropertyScope::PublishFromClient)
            .unwrap_or(RawProperties::EMPTY);
        let (properties, expires_at) = forwarded(properties, now);
        let message = Message {
            topic: routed.topic,
            payload: routed.payload,
            qos: routed.qos,
            retain: routed.retain,
            properties,
            expires_at,
            from: routed.from,
            source: Source::Client,
        };
        // What is queued on disk is not queued here as well.
        if !self.live.mailbox.push(message) {
            self.shared
                .metrics
                .dropped(super::metrics::Dropped::QueueFull)
                .increment();
        }
    }
}

/// The stored retained messages, back in memory.
pub(super) fn retained_message(stored: sessions::StoredRetained) -> Message {
    Message {
        topic: stored.topic.into(),
        payload: stored.payload.into(),
        qos: QoS::from_bits(stored.qos).unwrap_or_default(),
        retain: true,
        properties: stored.properties.into(),
        expires_at: stored
            .expires_at
            .map(|at| UnixMillis(u64::try_from(at).unwrap_or_default())),
        from: 0,
        source: Source::Client,
    }
}
