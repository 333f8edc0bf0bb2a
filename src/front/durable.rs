//! Sessions that outlive their connection, by what they subscribe to.

use std::collections::HashMap;

use tidegate_mqtt::{QoS, topic::matches};
use tidegate_wire::{Channel, DeviceId};

use super::{
    directory::Principal,
    subscription::{Match, Subscription},
};
use crate::store::sessions::SessionKey;

/// A session that a message goes to, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) session: SessionKey,
    /// Capped by the message's.
    pub(super) qos: QoS,
    pub(super) matched: Match,
}

/// The durable sessions.
#[derive(Debug, Default)]
pub(super) struct Durable {
    sessions: HashMap<SessionKey, Entry>,
    names: HashMap<(Principal, Box<str>), SessionKey>,
    /// By device, the one used last at the end.
    of_device: HashMap<DeviceId, Vec<SessionKey>>,
    /// By the first level of their filters, so that a message looks at few; filters that begin with a
    /// wild card under `None`.
    by_level: HashMap<Option<Box<str>>, Vec<(SessionKey, Subscription)>>,
}

#[derive(Debug)]
struct Entry {
    principal: Principal,
    client_id: Box<str>,
    filters: Vec<Box<str>>,
    /// Granted for the device's response topic, by filter.
    replies: Vec<(Box<str>, QoS)>,
}

fn level(filter: &str) -> Option<Box<str>> {
    let first = filter.split('/').next().unwrap_or(filter);
    (first != "+" && first != "#").then(|| first.into())
}

impl Durable {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn contains(&self, principal: &Principal, client_id: &str) -> bool {
        self.names
            .contains_key(&(principal.clone(), client_id.into()))
    }

    /// A session is connected, or was found at the start.
    pub(super) fn connect(&mut self, session: SessionKey, principal: &Principal, client_id: &str) {
        self.names
            .insert((principal.clone(), client_id.into()), session);
        self.sessions.entry(session).or_insert_with(|| Entry {
            principal: principal.clone(),
            client_id: client_id.into(),
            filters: Vec::new(),
            replies: Vec::new(),
        });
        if let Principal::Device(id) = principal {
            let sessions = self.of_device.entry(*id).or_default();
            sessions.retain(|other| *other != session);
            sessions.push(session);
        }
    }

    pub(super) fn remove(&mut self, session: SessionKey) {
        let Some(entry) = self.sessions.remove(&session) else {
            return;
        };
        for filter in &entry.filters {
            self.unindex(session, filter);
        }
        let name = (entry.principal.clone(), entry.client_id);
        // A newer session may have the name by now.
        if self.names.get(&name) == Some(&session) {
            self.names.remove(&name);
        }
        if let Principal::Device(id) = &entry.principal
            && let Some(sessions) = self.of_device.get_mut(id)
        {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.of_device.remove(id);
            }
        }
    }

    pub(super) fn subscribe(&mut self, session: SessionKey, subscription: Subscription) {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        let filter = subscription.filter.clone();
        let known = entry.filters.contains(&filter);
        entry.replies.retain(|(other, _)| *other != filter);
        if let Principal::Device(id) = &entry.principal
            && matches(&filter, &Channel::Response.topic(id))
        {
            entry.replies.push((filter.clone(), subscription.qos));
        }
        if known {
            self.unindex(session, &filter);
        } else {
            entry.filters.push(filter);
        }
        let level = level(&subscription.filter);
        self.by_level
            .entry(level)
            .or_default()
            .push((session, subscription));
    }

    pub(super) fn unsubscribe(&mut self, session: SessionKey, filter: &str) {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        entry.filters.retain(|other| **other != *filter);
        entry.replies.retain(|(other, _)| **other != *filter);
        self.unindex(session, filter);
    }

    fn unindex(&mut self, session: SessionKey, filter: &str) {
        let level = level(filter);
        if let Some(entries) = self.by_level.get_mut(&level) {
            entries.retain(|(other, subscription)| {
                *other != session || *subscription.filter != *filter
            });
            if entries.is_empty() {
                self.by_level.remove(&level);
            }
        }
    }

    /// The session that a reply for a device waits in: of those subscribed with QoS 1 or 2, the one
    /// used last.
    pub(super) fn reply(&self, id: &DeviceId) -> Option<(SessionKey, u8)> {
        self.of_device.get(id)?.iter().rev().find_map(|session| {
            let replies = &self.sessions.get(session)?.replies;
            let qos = replies.iter().map(|(_, qos)| *qos).max()?;
            (qos > QoS::AtMostOnce).then(|| (*session, qos.as_u8()))
        })
    }

    /// The sessions whose subscriptions match with an effective QoS of 1 or 2.
    pub(super) fn targets(&self, topic: &str, qos: QoS, from: Option<SessionKey>) -> Vec<Target> {
        let mut targets: Vec<(SessionKey, Option<Match>)> = Vec::new();
        if qos == QoS::AtMostOnce || self.by_level.is_empty() {
            return Vec::new();
        }
        for level in [level(topic), None] {
            for (session, subscription) in self.by_level.get(&level).into_iter().flatten() {
                let own = from == Some(*session) && subscription.no_local;
                if own || !matches(&subscription.filter, topic) {
                    continue;
                }
                match targets.iter_mut().find(|(other, _)| other == session) {
                    Some((_, matched)) => Match::add(matched, subscription),
                    None => {
                        let mut matched = None;
                        Match::add(&mut matched, subscription);
                        targets.push((*session, matched));
                    }
                }
            }
        }
        let target = |(session, matched): (SessionKey, Option<Match>)| {
            let matched = matched?;
            let qos = matched.qos.min(qos);
            (qos > QoS::AtMostOnce).then_some(Target {
                session,
                qos,
                matched,
            })
        };
        targets.into_iter().filter_map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(filter: &str, qos: QoS) -> Subscription {
        Subscription {
            filter: filter.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            identifier: None,
        }
    }

    fn device(name: &str) -> Principal {
        Principal::Device(name.parse().unwrap())
    }

    #[test]
    fn replies_wait_in_the_session_used_last() {
        let id: DeviceId = "a".parse().unwrap();
        let mut durable = Durable::default();
        for key in [1, 2] {
            durable.connect(SessionKey(key), &device("a"), &key.to_string());
            durable.subscribe(
                SessionKey(key),
                subscription("device/a/#", QoS::ExactlyOnce),
            );
        }
        assert_eq!(durable.reply(&id), Some((SessionKey(2), 2)));
        durable.connect(SessionKey(1), &device("a"), "1");
        assert_eq!(durable.reply(&id), Some((SessionKey(1), 2)));
        durable.unsubscribe(SessionKey(1), "device/a/#");
        assert_eq!(durable.reply(&id), Some((SessionKey(2), 2)));
        durable.subscribe(SessionKey(2), subscription("device/a/#", QoS::AtMostOnce));
        assert_eq!(durable.reply(&id), None, "QoS 0 is not worth a queue");
        durable.remove(SessionKey(1));
        durable.remove(SessionKey(2));
        assert_eq!(
            (
                durable.len(),
                durable.by_level.len(),
                durable.of_device.len()
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn one_copy_per_session_at_the_lower_qos() {
        let mut durable = Durable::default();
        for key in [1, 2, 3] {
            durable.connect(SessionKey(key), &device("a"), &key.to_string());
        }
        durable.subscribe(SessionKey(1), subscription("home/+", QoS::AtLeastOnce));
        durable.subscribe(SessionKey(1), subscription("#", QoS::ExactlyOnce));
        durable.subscribe(SessionKey(2), subscription("home/door", QoS::AtMostOnce));
        let local = Subscription {
            no_local: true,
            ..subscription("home/#", QoS::AtLeastOnce)
        };
        durable.subscribe(SessionKey(3), local);
        let sessions = |qos, from| {
            durable
                .targets("home/door", qos, from)
                .into_iter()
                .map(|target| (target.session.0, target.qos.as_u8()))
                .collect::<Vec<_>>()
        };
        assert_eq!(sessions(QoS::ExactlyOnce, None), [(1, 2), (3, 1)]);
        assert_eq!(sessions(QoS::AtLeastOnce, Some(SessionKey(3))), [(1, 1)]);
        assert_eq!(sessions(QoS::AtMostOnce, None), []);
    }
}
