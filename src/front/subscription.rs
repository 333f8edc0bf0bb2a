//! The subscriptions of one session, and what they make of a message.

use tidegate_mqtt::{QoS, topic};

use crate::store::sessions::StoredSubscription;

/// One subscription.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Subscription {
    pub(super) filter: Box<str>,
    /// Granted.
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    pub(super) identifier: Option<u32>,
}

/// The bits of the options byte (MQTT 5, section 3.8.3.1) that outlive the SUBSCRIBE.
mod bit {
    pub(super) const QOS: u8 = 0b11;
    pub(super) const NO_LOCAL: u8 = 1 << 2;
    pub(super) const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
}

impl Subscription {
    /// As it was stored.
    #[must_use]
    pub(super) fn from_stored(stored: &StoredSubscription) -> Self {
        Self {
            filter: stored.filter.as_str().into(),
            qos: QoS::from_bits(stored.options & bit::QOS).unwrap_or_default(),
            no_local: stored.options & bit::NO_LOCAL != 0,
            retain_as_published: stored.options & bit::RETAIN_AS_PUBLISHED != 0,
            identifier: stored.identifier,
        }
    }

    /// As it is to be stored.
    #[must_use]
    pub(super) fn to_stored(&self) -> StoredSubscription {
        let mut options = self.qos.as_u8();
        if self.no_local {
            options |= bit::NO_LOCAL;
        }
        if self.retain_as_published {
            options |= bit::RETAIN_AS_PUBLISHED;
        }
        StoredSubscription {
            filter: self.filter.as_ref().to_owned(),
            options,
            identifier: self.identifier,
        }
    }
}

/// How a message goes to a session: once, however many of its subscriptions match (3.3.5 of 3.1.1,
/// 3.3.4 of 5.0).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Match {
    /// The highest granted QoS of those that match.
    pub(super) qos: QoS,
    /// At least one wants the retain flag as it was published.
    pub(super) retain_as_published: bool,
    /// Of all that match and have one.
    pub(super) identifiers: Vec<u32>,
}

impl Match {
    /// Adds one more subscription that matches.
    pub(super) fn add(matched: &mut Option<Self>, subscription: &Subscription) {
        let matched = matched.get_or_insert_default();
        matched.qos = matched.qos.max(subscription.qos);
        matched.retain_as_published |= subscription.retain_as_published;
        matched.identifiers.extend(subscription.identifier);
    }
}

/// The subscriptions of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions(Vec<Subscription>);

impl Subscriptions {
    /// Those of a session that goes on.
    #[must_use]
    pub(super) fn from_stored(stored: &[StoredSubscription]) -> Self {
        Self(stored.iter().map(Subscription::from_stored).collect())
    }

    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter()
    }

    #[must_use]
    pub(super) fn contains(&self, filter: &str) -> bool {
        self.0
            .iter()
            .any(|subscription| *subscription.filter == *filter)
    }

    /// Adds a subscription or replaces the one with the same filter; true if it is new.
    pub(super) fn insert(&mut self, subscription: Subscription) -> bool {
        match self
            .0
            .iter_mut()
            .find(|other| other.filter == subscription.filter)
        {
            Some(existing) => {
                *existing = subscription;
                false
            }
            None => {
                self.0.push(subscription);
                true
            }
        }
    }

    /// Removes the one with this filter; false if there is none.
    pub(super) fn remove(&mut self, filter: &str) -> bool {
        let before = self.0.len();
        self.0
            .retain(|subscription| *subscription.filter != *filter);
        self.0.len() < before
    }

    /// What these make of a message on `topic`; `own`: the session published it itself.
    #[must_use]
    pub(super) fn matching(&self, topic: &str, own: bool) -> Option<Match> {
        let mut matched = None;
        for subscription in &self.0 {
            if !(own && subscription.no_local) && topic::matches(&subscription.filter, topic) {
                Match::add(&mut matched, subscription);
            }
        }
        matched
    }

    /// The QoS granted for exactly this topic name, by whichever filters match it.
    #[must_use]
    pub(super) fn granted(&self, topic: &str) -> Option<QoS> {
        self.0
            .iter()
            .filter(|subscription| topic::matches(&subscription.filter, topic))
            .map(|subscription| subscription.qos)
            .max()
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

    #[test]
    fn overlapping_subscriptions_make_one_copy() {
        let mut all = Subscriptions::default();
        all.insert(Subscription {
            identifier: Some(1),
            ..subscription("a/#", QoS::AtMostOnce)
        });
        all.insert(Subscription {
            identifier: Some(2),
            ..subscription("a/+", QoS::ExactlyOnce)
        });
        all.insert(Subscription {
            no_local: true,
            ..subscription("+/b", QoS::AtLeastOnce)
        });
        let matched = all.matching("a/b", false).unwrap();
        assert_eq!(matched.qos, QoS::ExactlyOnce);
        assert_eq!(matched.identifiers, [1, 2]);
        assert_eq!(all.matching("x/b", true), None, "no local");
        assert!(all.matching("x/b", false).is_some());
    }

    #[test]
    fn stored_and_back() {
        let original = Subscription {
            no_local: true,
            retain_as_published: true,
            identifier: Some(7),
            ..subscription("a", QoS::ExactlyOnce)
        };
        assert_eq!(Subscription::from_stored(&original.to_stored()), original);
    }

    #[test]
    fn one_per_filter() {
        let mut all = Subscriptions::default();
        assert!(all.insert(subscription("a", QoS::AtMostOnce)));
        assert!(!all.insert(subscription("a", QoS::AtLeastOnce)));
        assert_eq!((all.len(), all.granted("a")), (1, Some(QoS::AtLeastOnce)));
        assert!(all.remove("a") && !all.remove("a"));
    }
}
