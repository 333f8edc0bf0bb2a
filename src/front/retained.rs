//! Retained messages in memory; the store has the same on disk.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tidegate_mqtt::topic::matches;

use super::message::Message;
use crate::clock::UnixMillis;

/// All retained messages, bounded in number and bytes.
#[derive(Debug)]
pub(super) struct Retained {
    kept: RwLock<Kept>,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    messages: HashMap<Arc<str>, Message>,
    bytes: usize,
}

impl Retained {
    #[must_use]
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            kept: RwLock::default(),
            max_messages,
            max_bytes,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.read().messages.len()
    }

    /// Retains `message` in place of any on its topic; without a payload there is then none
    /// (section 3.3.1.3). False if there is no room.
    pub(super) fn set(&self, message: &Message) -> bool {
        let mut kept = self.write();
        let before = kept.messages.get(&message.topic).map_or(0, size);
        if message.payload.is_empty() {
            kept.messages.remove(&message.topic);
            kept.bytes -= before;
            return true;
        }
        let bytes = kept.bytes - before + size(message);
        if bytes > self.max_bytes || (before == 0 && kept.messages.len() >= self.max_messages) {
            return false;
        }
        kept.bytes = bytes;
        kept.messages.insert(message.topic.clone(), message.clone());
        true
    }

    /// Those on topics that `filter` matches and that have not expired.
    #[must_use]
    pub(super) fn matching(&self, filter: &str, now: UnixMillis) -> Vec<Message> {
        let kept = self.read();
        let fresh = |message: &&Message| message.expires_at.is_none_or(|at| at > now);
        if !filter.contains(['+', '#']) {
            return kept
                .messages
                .get(filter)
                .filter(fresh)
                .cloned()
                .into_iter()
                .collect();
        }
        kept.messages
            .values()
            .filter(|message| matches(filter, &message.topic))
            .filter(fresh)
            .cloned()
            .collect()
    }

    /// Forgets what has expired and returns the topics.
    pub(super) fn expire(&self, now: UnixMillis) -> Vec<Arc<str>> {
        let mut kept = self.write();
        let mut gone = Vec::new();
        let mut bytes = 0;
        kept.messages.retain(|topic, message| {
            let stays = message.expires_at.is_none_or(|at| at > now);
            if !stays {
                gone.push(topic.clone());
                bytes += size(message);
            }
            stays
        });
        kept.bytes -= bytes;
        gone
    }
}

/// Never 0: a retained message has a topic.
fn size(message: &Message) -> usize {
    message.topic.len() + message.payload.len() + message.properties.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidegate_mqtt::QoS;

    use super::{super::message::Source, *};

    fn message(topic: &str, payload: &'static str) -> Message {
        Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: QoS::AtMostOnce,
            retain: true,
            properties: Bytes::new(),
            expires_at: None,
            from: 0,
            source: Source::Client,
        }
    }

    #[test]
    fn set_replace_clear() {
        let retained = Retained::new(2, 1000);
        assert!(retained.set(&message("a", "1")) && retained.set(&message("b", "1")));
        assert!(
            !retained.set(&message("c", "1")),
            "two topics are the limit"
        );
        assert!(
            retained.set(&message("a", "22")),
            "a replacement needs no room"
        );
        assert_eq!(retained.matching("+", UnixMillis(0)).len(), 2);
        assert_eq!(retained.matching("a", UnixMillis(0))[0].payload, "22");
        assert!(retained.set(&message("a", "")));
        assert!(retained.matching("a", UnixMillis(0)).is_empty());
        assert!(retained.set(&message("c", "1")));
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let retained = Retained::new(10, 10);
        assert!(retained.set(&message("a", "12345")));
        assert!(!retained.set(&message("b", "12345")));
        let short = Message {
            expires_at: Some(UnixMillis(5)),
            ..message("a", "12")
        };
        assert!(retained.set(&short));
        assert!(retained.matching("#", UnixMillis(5)).is_empty(), "expired");
        assert_eq!(retained.expire(UnixMillis(5)).len(), 1);
        assert!(retained.set(&message("b", "123456789")));
    }
}
