//! SUBSCRIBE and UNSUBSCRIBE.

use std::{num::NonZeroU16, sync::Arc};

use tidegate_mqtt::{
    QoS, RawProperties, ReasonCode, RetainHandling, SubAck, Subscribe, UnsubAck, Unsubscribe,
    topic::SHARE_PREFIX,
};
use tidegate_wire::Channel;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::Connection,
    directory::Principal,
    free::{LiveSink, expires_at, with_identifiers},
    message::{Message, Source},
    stage::{Deferred, Subscribed},
    subscription::Subscription,
};
use crate::{
    broker::Sink,
    clock::UnixMillis,
    registry::{Access, may_subscribe, operator_may_subscribe},
    store::sessions::{self, Queued, SessionKey},
};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Makes the subscriptions of a session that goes on known again.
    pub(super) fn resubscribe(&mut self) {
        let filters: Vec<Box<str>> = self
            .session
            .subscriptions
            .iter()
            .map(|subscription| subscription.filter.clone())
            .collect();
        for filter in filters {
            // Without room at the broker, what is queued on disk still arrives.
            if !self.join(&filter) {
                tracing::warn!(
                    identity = %self.live.principal, %filter, "a subscription found no room again"
                );
            }
        }
        self.note_reply();
    }

    pub(super) fn take_subscribe(&mut self, subscribe: &Subscribe<'_>, now: UnixMillis) {
        let identifier = subscribe.properties.subscription_identifiers().next();
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let (mut made, mut retained, mut queued) = (Vec::new(), Vec::new(), Vec::new());
        for wanted in subscribe.filters.iter() {
            if let Err(reason) = self.may_subscribe(wanted.filter) {
                self.shared.metrics.subscribe_denied.increment();
                codes.push(reason.as_u8());
                continue;
            }
            let subscription = Subscription {
                filter: wanted.filter.into(),
                qos: wanted.qos,
                no_local: wanted.no_local,
                retain_as_published: wanted.retain_as_published,
                identifier,
            };
            if !self.join(wanted.filter) {
                self.shared.metrics.subscribe_denied.increment();
                codes.push(ReasonCode::QuotaExceeded.as_u8());
                continue;
            }
            let new = self.session.subscriptions.insert(subscription.clone());
            let send = match wanted.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => new,
                RetainHandling::DoNotSend => false,
            };
            if send {
                let granted = wanted.qos;
                for message in self.shared.directory.retained.matching(wanted.filter, now) {
                    let message = Message {
                        source: Source::Retained {
                            granted,
                            identifier,
                        },
                        ..message
                    };
                    let in_queue =
                        self.session.is_durable() && message.qos.min(granted) > QoS::AtMostOnce;
                    if in_queue {
                        queued.push(message);
                    } else {
                        retained.push(message);
                    }
                }
            }
            made.push(subscription);
            codes.push(wanted.qos.as_u8());
        }
        self.note_reply();
        let grew = !queued.is_empty();
        if let Some(session) = self.live.session
            && !made.is_empty()
        {
            self.shared.directory.subscribed(session, &made);
            let stored: Vec<_> = made.iter().map(Subscription::to_stored).collect();
            self.burst.writes.push(Box::new(move |conn| {
                sessions::subscribe(conn, session, &stored)?;
                queued
                    .iter()
                    .try_for_each(|message| enqueue_retained(conn, session, message))
            }));
        }
        let id = subscribe.packet_id;
        self.defer(Deferred::SubAck(Box::new(Subscribed {
            id,
            codes,
            retained,
            grew,
        })));
        self.fetch_commands();
    }

    fn may_subscribe(&self, filter: &str) -> Result<(), ReasonCode> {
        if filter.starts_with(SHARE_PREFIX) {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        let permitted = match (&self.live.principal, &self.device) {
            (Principal::Device(_), Some(device)) => may_subscribe(device, filter) != Access::Denied,
            (Principal::Device(_), None) => false,
            (Principal::Operator(_), _) => operator_may_subscribe(filter),
        };
        if !permitted {
            return Err(ReasonCode::NotAuthorized);
        }
        let subscriptions = &self.session.subscriptions;
        if subscriptions.len() >= self.shared.limits.subscriptions as usize
            && !subscriptions.contains(filter)
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(())
    }

    /// Subscribes at the broker, unless only the gateway itself publishes on what the filter names.
    /// False if the broker has no room for another filter.
    fn join(&mut self, filter: &str) -> bool {
        if !self.is_shared_with_others(filter) {
            return true;
        }
        if !self.attached {
            let sink: Arc<dyn Sink> = Arc::new(LiveSink {
                shared: self.shared.clone(),
                live: self.live.clone(),
            });
            self.shared.broker.attach(self.live.number, sink);
            self.attached = true;
        }
        self.shared.broker.subscribe(self.live.number, filter)
    }

    fn is_shared_with_others(&self, filter: &str) -> bool {
        if filter.starts_with('$') {
            return false;
        }
        let Some(device) = self.live.principal.device() else {
            return true;
        };
        *filter != *Channel::Response.topic(device) && *filter != *Channel::Command.topic(device)
    }

    /// Tells the directory whether replies are wanted.
    fn note_reply(&self) {
        if let Some(device) = self.live.principal.device() {
            let topic = Channel::Response.topic(device);
            self.live
                .set_reply(self.session.subscriptions.granted(&topic));
        }
    }

    pub(super) fn take_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut gone: Vec<String> = Vec::new();
        for filter in unsubscribe.filters.iter() {
            if !self.session.subscriptions.remove(filter) {
                codes.push(ReasonCode::NoSubscriptionExisted.as_u8());
                continue;
            }
            codes.push(ReasonCode::Success.as_u8());
            gone.push(filter.to_owned());
            if self.attached && self.is_shared_with_others(filter) {
                self.shared.broker.unsubscribe(self.live.number, filter);
            }
        }
        self.note_reply();
        if let Some(session) = self.live.session
            && !gone.is_empty()
        {
            for filter in &gone {
                self.shared.directory.unsubscribed(session, filter);
            }
            self.burst.writes.push(Box::new(move |conn| {
                sessions::unsubscribe(conn, session, &gone)
            }));
        }
        self.defer(Deferred::UnsubAck {
            id: unsubscribe.packet_id,
            codes: codes.into(),
        });
    }

    pub(super) fn write_suback(&mut self, subscribed: Subscribed) {
        let Subscribed {
            id,
            codes,
            retained,
            grew,
        } = subscribed;
        let (session, out) = self.output();
        let suback = SubAck {
            packet_id: id,
            properties: RawProperties::EMPTY,
            codes: &codes,
        };
        // It fails only for a peer that takes no packet of this size: it then waits in vain.
        let _ = suback.encode(session.peer(), out);
        session.mailbox().extend(retained);
        if grew {
            self.live.mailbox.signal(|signals| signals.queue = true);
        }
    }

    pub(super) fn write_unsuback(&mut self, id: NonZeroU16, codes: &[u8]) {
        let (session, out) = self.output();
        let unsuback = UnsubAck {
            packet_id: id,
            properties: RawProperties::EMPTY,
            codes,
        };
        let _ = unsuback.encode(session.peer(), out);
    }
}

fn enqueue_retained(
    conn: &rusqlite::Connection,
    session: SessionKey,
    message: &Message,
) -> rusqlite::Result<()> {
    let Source::Retained {
        granted,
        identifier,
    } = message.source
    else {
        return Ok(());
    };
    let identifiers: Vec<u32> = identifier.into_iter().collect();
    let properties = with_identifiers(&message.properties, &identifiers);
    let queued = Queued {
        qos: message.qos.min(granted).as_u8(),
        retain: true,
        topic: &message.topic,
        payload: &message.payload,
        properties: &properties,
        expires_at: expires_at(message),
    };
    sessions::enqueue_message(conn, session, &queued).map(drop)
}
