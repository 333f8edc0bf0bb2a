//! Publishes from a peer: whether they may be, what they are, and what is said about them.

use std::{num::NonZeroU16, time::Duration};

use aws_lc_rs::rand;
use bytes::Bytes;
use tidegate_mqtt::{Publish, QoS, ReasonCode, Version};
use tidegate_wire::{Channel, MessageId, Reason, limits::MAX_REJECTION, rejection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    connection::{Connection, End},
    directory::Principal,
    free::{Plan, route},
    message::{Message, Source, forwarded},
    session::Inbound,
    stage::Deferred,
};
use crate::{
    clock::UnixMillis,
    config::Signing,
    envelope::{self, Context, Kind},
    registry::{Device, Permission, may_publish, operator_may_publish},
    store::{Verdict, sessions},
    trace::Decision,
};

/// Messages over the rate in a row before reading pauses: up to here each is answered with its
/// rejection; a device that goes on is slowed down by TCP, which costs us nothing.
const OVER_RATE_MAXIMUM: u32 = 64;
/// The shortest pause, so that it is worth it.
const PAUSE_MINIMUM: Duration = Duration::from_millis(100);
/// Rejection notices waiting for one device; more tell it nothing new.
const MAX_NOTICES: usize = 64;

/// What a publish is, by who sends it and its topic.
enum Class {
    Contract(Kind),
    Telemetry,
    Free,
    Denied,
}

/// An id for a message that came without one.
pub(super) fn random_message_id() -> MessageId {
    let mut bytes = [0; 16];
    // The generator fails only before the system has gathered randomness, when no TLS works either;
    // an id of zeros then repeats and is refused as replayed.
    let _ = rand::fill(&mut bytes);
    MessageId::from_random(bytes)
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    #[inline]
    pub(super) fn take_publish(
        &mut self,
        publish: &Publish<'_>,
        now: UnixMillis,
        tick: u64,
    ) -> Result<(), End> {
        let alias = match self.session.publish(publish)? {
            Inbound::New(alias) => alias,
            Inbound::Again { answered: false } => return Ok(()),
            Inbound::Again { answered: true } => {
                if let Some(id) = publish.packet_id {
                    let (qos, reason) = (publish.qos, ReasonCode::Success);
                    self.defer(Deferred::Answer { id, qos, reason });
                }
                return Ok(());
            }
        };
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let class = self.classify(topic);
        self.rate_limit(tick);
        match class {
            _ if self.over_rate > 0 => self.reject(publish, Reason::RateLimited, None),
            Class::Contract(kind) => self.take_signed(publish, topic, kind, now),
            Class::Telemetry => self.take_raw(publish, topic, now),
            Class::Free => self.take_free(publish, topic, now),
            Class::Denied => {
                self.shared.metrics.publish_denied.increment();
                self.reject(publish, Reason::TopicNotAllowed, None);
            }
        }
        Ok(())
    }

    #[inline]
    fn classify(&self, topic: &str) -> Class {
        let device = match (&self.live.principal, &self.device) {
            (Principal::Device(_), Some(device)) => device,
            // Gone from the registry: whoever it is has no rights, and certainly not an operator's.
            (Principal::Device(_), None) => return Class::Denied,
            (Principal::Operator(_), _) if operator_may_publish(topic) => return Class::Free,
            (Principal::Operator(_), _) => return Class::Denied,
        };
        // Nearly every message is telemetry of a device that signs.
        if device.signing != Signing::None
            && self
                .data_topic
                .as_ref()
                .is_some_and(|own| own.as_str() == topic)
        {
            return Class::Contract(Kind::Data);
        }
        match may_publish(device, topic) {
            Permission::Contract(Channel::Data) => Class::Contract(Kind::Data),
            Permission::Contract(Channel::Event) => Class::Contract(Kind::Event),
            Permission::Contract(Channel::Ack) => Class::Contract(Kind::Ack),
            Permission::Contract(_) | Permission::Denied => Class::Denied,
            Permission::Telemetry => Class::Telemetry,
            Permission::Free => Class::Free,
        }
    }

    /// Takes a message out of the device's bucket. One that keeps asking for more than there is is
    /// not read from until a tenth of its burst is there again.
    #[inline]
    fn rate_limit(&mut self, tick: u64) {
        let rate = self.rate;
        if self.traffic.bucket.take(rate, tick) {
            self.over_rate = 0;
            return;
        }
        self.over_rate += 1;
        if self.over_rate > OVER_RATE_MAXIMUM {
            let pause = self.traffic.bucket.recovery(rate, tick).max(PAUSE_MINIMUM);
            self.paused_until = Some(Instant::now() + pause);
            self.shared.metrics.reading_paused.increment();
        }
    }

    #[inline]
    fn take_signed(&mut self, publish: &Publish<'_>, topic: &str, kind: Kind, now: UnixMillis) {
        // Put back below: cheaper than counting another owner for every message.
        let device = self.device.take();
        let judged = match self.context(device.as_deref(), kind, now) {
            Some(context) => envelope::verify(publish.payload, &context),
            None => return self.reject(publish, Reason::UnknownDevice, None),
        };
        match judged {
            Ok(verified) => {
                if let Some(device) = &device {
                    device.note_accepted(verified.version(), now);
                }
                self.burst.batch.push(&verified, publish.dup);
                self.stored(publish, topic, verified.message_id());
            }
            Err(refused) => self.reject(publish, refused.reason, refused.message_id),
        }
        self.device = device;
    }

    fn take_raw(&mut self, publish: &Publish<'_>, topic: &str, now: UnixMillis) {
        let device = self.device.take();
        let judged = match self.context(device.as_deref(), Kind::Data, now) {
            Some(context) => {
                envelope::accept_unsigned(publish.payload, &context, random_message_id())
            }
            None => return self.reject(publish, Reason::UnknownDevice, None),
        };
        match judged {
            Ok(verified) => {
                if let Some(device) = &device {
                    device.note_accepted(None, now);
                }
                self.burst.batch.push(&verified, false);
                self.stored(publish, topic, verified.message_id());
                // Raw telemetry carries no id to know it again by, so the packet identifier must do.
                self.remember(publish);
            }
            Err(refused) => self.reject(publish, refused.reason, refused.message_id),
        }
        self.device = device;
    }

    fn context<'c>(
        &'c self,
        device: Option<&'c Device>,
        kind: Kind,
        now: UnixMillis,
    ) -> Option<Context<'c>> {
        let Principal::Device(identity) = &self.live.principal else {
            return None;
        };
        Some(Context {
            device,
            identity,
            kind,
            now,
            freshness: self.shared.verification.freshness,
            require_v2: self.shared.verification.require_v2,
            max_bytes: self.shared.max_message,
            digest_key: &self.shared.digest_key,
        })
    }

    /// A message is in the batch: what is to be done when that is on disk.
    #[inline]
    fn stored(&mut self, publish: &Publish<'_>, topic: &str, message_id: MessageId) {
        let copy = self.shared.broker.wants(topic).then(|| {
            let payload = Bytes::copy_from_slice(publish.payload);
            let message = Message::from_gateway(topic, payload, QoS::AtMostOnce);
            Box::new(Message {
                from: self.live.number,
                source: Source::Client,
                ..message
            })
        });
        let (id, qos) = (publish.packet_id, publish.qos);
        self.defer(Deferred::Stored {
            id,
            qos,
            message_id,
            copy,
        });
    }

    fn take_free(&mut self, publish: &Publish<'_>, topic: &str, now: UnixMillis) {
        self.shared.metrics.free_received.increment();
        if !self.shared.directory.may_use_topic(&self.traffic, topic) {
            // A new topic too many: the limit on topics, not on messages.
            return self.reject(publish, Reason::RateLimited, None);
        }
        let (properties, expires_at) = forwarded(publish.properties, now);
        let message = Message {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(publish.payload),
            qos: publish.qos,
            retain: publish.retain,
            properties,
            expires_at,
            from: self.live.number,
            source: Source::Client,
        };
        let plan = Plan::new(&self.shared, message, self.live.session);
        if plan.needs_commit() {
            self.burst.writes.push(Box::new(plan.write()));
        }
        self.remember(publish);
        self.defer(Deferred::Routed(Box::new(plan)));
        if let Some(id) = publish.packet_id {
            let (qos, reason) = (publish.qos, ReasonCode::Success);
            self.defer(Deferred::Answer { id, qos, reason });
        }
    }

    /// Has a QoS 2 message's packet identifier written with it, so that its re-delivery is known as
    /// such on the session's next connection as well.
    fn remember(&mut self, publish: &Publish<'_>) {
        if let (QoS::ExactlyOnce, Some(id), Some(session)) =
            (publish.qos, publish.packet_id, self.live.session)
        {
            self.session.taken_on_disk(id);
            let id = id.get();
            self.burst.writes.push(Box::new(move |conn| {
                sessions::take_inbound(conn, session, id)
            }));
        }
    }

    fn reject(&mut self, publish: &Publish<'_>, reason: Reason, message_id: Option<MessageId>) {
        self.note_rejection(reason, message_id);
        self.defer(Deferred::Rejected {
            id: publish.packet_id,
            qos: publish.qos,
            reason,
        });
    }

    /// Counts and logs a rejection and leaves a notice for the device.
    fn note_rejection(&mut self, reason: Reason, message_id: Option<MessageId>) {
        self.shared.metrics.rejected(reason).increment();
        let Some(device) = self.live.principal.device() else {
            return;
        };
        let decision = self.shared.rejection_log().line(
            device.as_str(),
            reason.code(),
            std::time::Instant::now(),
        );
        if decision != Decision::Suppress {
            let line = reason.log_line(Some(device.as_str()));
            let last = decision == Decision::LogAsLast;
            let rest = if last {
                "; more of these are counted for a minute"
            } else {
                ""
            };
            tracing::warn!(device = %device, reason = reason.code(), "{line}{rest}");
        }
        let topic = Channel::Response.topic(device);
        if self.session.mailbox().len() < MAX_NOTICES
            && let Some(granted) = self.session.subscriptions.granted(&topic)
        {
            let mut text = [0; MAX_REJECTION];
            let id = message_id.map(|id| id.to_string());
            // The buffer is made for the longest notice.
            let Ok(len) = rejection(reason, id.as_deref(), &mut text) else {
                return;
            };
            let payload = Bytes::copy_from_slice(text.get(..len).unwrap_or_default());
            let notice = Message::from_gateway(&topic, payload, granted);
            self.session.mailbox().push_back(notice);
        }
    }

    /// Says what became of a burst that is on disk.
    pub(super) fn settle(&mut self, verdicts: &[Verdict], deferred: &mut Vec<Deferred>) {
        let mut verdicts = verdicts.iter();
        let (mut received, mut accepted, mut duplicate) = (0, 0, 0);
        for deferred in deferred.drain(..) {
            match deferred {
                Deferred::Stored {
                    id,
                    qos,
                    message_id,
                    copy,
                } => {
                    received += 1;
                    let rejected = match verdicts.next() {
                        Some(Verdict::Stored(_)) => {
                            accepted += 1;
                            if let Some(copy) = copy {
                                // A copy for who looks on: without room there is none.
                                route(&self.shared, &copy, self.shared.clock.unchecked_now());
                            }
                            None
                        }
                        Some(Verdict::Duplicate) => {
                            duplicate += 1;
                            None
                        }
                        Some(Verdict::Stale) => Some(Reason::StaleTimestamp),
                        // The store answers for each message; without an answer there is none here.
                        Some(Verdict::Replayed) | None => Some(Reason::Replayed),
                    };
                    match rejected {
                        None => self.answer(id, qos),
                        Some(reason) => {
                            self.note_rejection(reason, Some(message_id));
                            self.refuse(id, qos, reason);
                        }
                    }
                }
                Deferred::Rejected { id, qos, reason } => {
                    received += 1;
                    self.refuse(id, qos, reason);
                }
                Deferred::Routed(plan) => {
                    let now = self.shared.clock.unchecked_now();
                    let waiting = plan.finish(&self.shared, now);
                    // QoS 0 is not worth waiting for.
                    self.unrouted
                        .extend(waiting.filter(|left| left.qos > QoS::AtMostOnce));
                }
                Deferred::Answer { id, qos, reason } => {
                    let (session, out) = self.output();
                    session.answer(id, qos, reason, out);
                }
                Deferred::PubRel { id, reason } => {
                    let (session, out) = self.output();
                    session.release(id, reason, out);
                }
                Deferred::PubComp { id, reason } => {
                    let (session, out) = self.output();
                    session.pubcomp(id, reason, out);
                }
                Deferred::SubAck(subscribed) => self.write_suback(*subscribed),
                Deferred::UnsubAck { id, codes } => self.write_unsuback(id, &codes),
            }
        }
        if accepted > 0 {
            self.traffic.accepted();
        }
        let metrics = &self.shared.metrics;
        metrics.messages_received.add(received);
        metrics.messages_accepted.add(accepted);
        metrics.messages_duplicate.add(duplicate);
    }

    #[inline]
    fn answer(&mut self, id: Option<NonZeroU16>, qos: QoS) {
        if let Some(id) = id {
            let (session, out) = self.output();
            session.answer(id, qos, ReasonCode::Success, out);
        }
    }

    /// Acknowledges a rejected message, so that it is not sent for ever.
    fn refuse(&mut self, id: Option<NonZeroU16>, qos: QoS, reason: Reason) {
        let Some(id) = id else { return };
        let (session, out) = self.output();
        match session.version() {
            Version::V311 => session.answer(id, qos, ReasonCode::Success, out),
            Version::V5 => {
                let code = ReasonCode::from_u8(reason.mqtt())
                    .unwrap_or(ReasonCode::ImplementationSpecificError);
                session.refuse(id, qos, code, reason.code(), out);
            }
        }
    }
}

/// Keeps the type's size in view: one of these is held for every message on its way to disk.
const _: () = assert!(size_of::<Deferred>() <= 40);
