//! What the peer sends: messages of QoS 1 and 2, their answers and release, topic aliases.

use std::{num::NonZeroU16, sync::Arc};

use bytes::BytesMut;
use tidegate_mqtt::{Ack, AckKind, Property, PropertyBuf, Publish, QoS, ReasonCode, Version};

use super::{Breach, Session, TOPIC_ALIAS_MAXIMUM};

/// QoS 2 messages a 3.1.1 peer, which knows no receive maximum, may leave unreleased.
const UNRELEASED_MAXIMUM: usize = 4_096;

/// What a PUBLISH is, apart from its topic and payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::front) enum Inbound {
    /// To be taken. The topic an alias stands for, if the packet has none itself.
    New(Option<Arc<str>>),
    /// A QoS 2 message that was taken before: PUBREC again, if it was answered already.
    Again { answered: bool },
}

/// What to do about a PUBREL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::front) enum Release {
    /// PUBCOMP at once.
    Now(ReasonCode),
    /// PUBCOMP when [`Progress::released`](crate::store::sessions::Progress::released) is on disk.
    AfterCommit,
}

/// A QoS 2 message taken from the peer and not released.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Its identifier is on disk.
    stored: bool,
    answered: bool,
    /// Counts against our receive maximum.
    counted: bool,
}

impl Taken {
    /// On an earlier connection of the session.
    pub(super) const RESUMED: Self = Self {
        stored: true,
        answered: true,
        counted: false,
    };
}

/// The acknowledgement a PUBLISH is answered with.
const fn answer_to(qos: QoS) -> AckKind {
    match qos {
        QoS::ExactlyOnce => AckKind::PubRec,
        _ => AckKind::PubAck,
    }
}

impl Session {
    /// Judges a PUBLISH and counts it.
    ///
    /// # Errors
    /// [`Breach`]: close the connection.
    #[inline]
    pub(in crate::front) fn publish(&mut self, publish: &Publish<'_>) -> Result<Inbound, Breach> {
        let topic = match publish.properties.topic_alias() {
            None => None,
            Some(alias) => self.resolve(alias, publish.topic)?,
        };
        let Some(id) = publish.packet_id else {
            return Ok(Inbound::New(topic));
        };
        if publish.qos == QoS::ExactlyOnce {
            if let Some(taken) = self.taken.get_mut(&id) {
                let (answered, count) = (taken.answered, !taken.counted);
                taken.counted = true;
                if count {
                    self.count()?;
                }
                return Ok(Inbound::Again { answered });
            }
            if self.taken.len() >= UNRELEASED_MAXIMUM {
                return Err(Breach::ReceiveMaximum);
            }
            let taken = Taken {
                stored: false,
                answered: false,
                counted: true,
            };
            self.taken.insert(id, taken);
        }
        self.count()?;
        Ok(Inbound::New(topic))
    }

    fn count(&mut self) -> Result<(), Breach> {
        self.incoming = self.incoming.saturating_add(1);
        if self.terms.version == Version::V5 && self.incoming > self.terms.receive_maximum {
            return Err(Breach::ReceiveMaximum);
        }
        Ok(())
    }

    /// Looks up or defines a topic alias; `None` if the packet's own topic counts.
    fn resolve(&mut self, alias: NonZeroU16, topic: &str) -> Result<Option<Arc<str>>, Breach> {
        if alias.get() > TOPIC_ALIAS_MAXIMUM {
            return Err(Breach::TopicAlias);
        }
        let at = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            return match self.aliases.get(at) {
                Some(Some(known)) => Ok(Some(known.clone())),
                // 5.0, section 3.3.2.3.4: unlike one that is out of range, a protocol error.
                _ => Err(Breach::UnknownTopicAlias),
            };
        }
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        if let Some(slot) = self.aliases.get_mut(at) {
            *slot = Some(topic.into());
        }
        Ok(None)
    }

    /// Notes that the identifier of a QoS 2 message is on disk with the message.
    pub(in crate::front) fn taken_on_disk(&mut self, id: NonZeroU16) {
        if let Some(taken) = self.taken.get_mut(&id) {
            taken.stored = true;
        }
    }

    /// Answers a PUBLISH: PUBACK for QoS 1, PUBREC for QoS 2.
    #[inline]
    pub(in crate::front) fn answer(
        &mut self,
        id: NonZeroU16,
        qos: QoS,
        reason: ReasonCode,
        out: &mut BytesMut,
    ) {
        let ack = Ack {
            reason,
            ..Ack::success(answer_to(qos), id)
        };
        self.write_ack(&ack, out);
        self.answered(id, qos, reason);
    }

    /// [`Session::answer`] with a reason string, for a peer that reads them.
    pub(in crate::front) fn refuse(
        &mut self,
        id: NonZeroU16,
        qos: QoS,
        reason: ReasonCode,
        text: &str,
        out: &mut BytesMut,
    ) {
        let mut properties = PropertyBuf::new();
        // The texts are short and ours.
        let _ = properties.push(Property::ReasonString(text));
        let ack = Ack {
            kind: answer_to(qos),
            packet_id: id,
            reason,
            properties: properties.as_raw(),
        };
        self.write_ack(&ack, out);
        self.answered(id, qos, reason);
    }

    fn answered(&mut self, id: NonZeroU16, qos: QoS, reason: ReasonCode) {
        if qos == QoS::AtLeastOnce {
            self.incoming = self.incoming.saturating_sub(1);
        } else if self.terms.version == Version::V5 && reason.is_failure() {
            // The exchange ends here (5.0, figure 4.3); 3.1.1 goes on to PUBREL all the same.
            self.forget_taken(id);
        } else if let Some(taken) = self.taken.get_mut(&id) {
            taken.answered = true;
        }
    }

    fn forget_taken(&mut self, id: NonZeroU16) -> Option<Taken> {
        let taken = self.taken.remove(&id)?;
        if taken.counted {
            self.incoming = self.incoming.saturating_sub(1);
        }
        Some(taken)
    }

    /// Takes a PUBREL.
    ///
    /// # Errors
    /// [`Breach::EarlyRelease`].
    pub(in crate::front) fn pubrel(&mut self, id: NonZeroU16) -> Result<Release, Breach> {
        match self.taken.get(&id) {
            None => Ok(Release::Now(ReasonCode::PacketIdentifierNotFound)),
            Some(taken) if !taken.answered => Err(Breach::EarlyRelease),
            Some(taken) if taken.stored => {
                self.progress.released.push(id.get());
                Ok(Release::AfterCommit)
            }
            Some(_) => Ok(Release::Now(ReasonCode::Success)),
        }
    }

    /// Writes PUBCOMP: the identifier is free again.
    pub(in crate::front) fn pubcomp(
        &mut self,
        id: NonZeroU16,
        reason: ReasonCode,
        out: &mut BytesMut,
    ) {
        self.forget_taken(id);
        self.write_ack(
            &Ack {
                reason,
                ..Ack::success(AckKind::PubComp, id)
            },
            out,
        );
    }
}
