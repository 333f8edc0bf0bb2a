//! Who may publish and subscribe where. Pure decisions about topics.

use std::fmt;

use tidegate_mqtt::topic::{TopicFilter, matches, valid_filter, valid_name};
use tidegate_wire::{Channel, DeviceId, Direction, topic};

use super::{Device, definition::DefinitionError};
use crate::config::Signing;

/// First level of every contract topic.
const DEVICE: &str = "device";

/// What a message published on a topic is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Permission {
    /// On the device's own contract topic: a signed envelope.
    Contract(Channel),
    /// Raw telemetry of a device that does not sign.
    Telemetry,
    /// On a free topic it may use.
    Free,
    Denied,
}

/// What a subscription reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// The device's own contract topics, or some of them.
    Own,
    /// Free topics it may read.
    Free,
    Denied,
}

/// What a message from `device` on `topic` is, if it may be sent at all.
#[must_use]
pub fn may_publish(device: &Device, topic: &str) -> Permission {
    let signs = device.signing != Signing::None;
    if signs && let Some((id, channel)) = topic::parse(topic) {
        return if device.id == *id && channel.direction() == Direction::Up {
            Permission::Contract(channel)
        } else {
            Permission::Denied
        };
    }
    if !signs && any_matches(&device.telemetry, topic) {
        Permission::Telemetry
    } else if any_matches(&device.publish, topic) {
        Permission::Free
    } else {
        Permission::Denied
    }
}

/// Whether `device` may subscribe to `filter`, which may be a shared one (`$share/…`).
#[must_use]
pub fn may_subscribe(device: &Device, filter: &str) -> Access {
    let Some(TopicFilter { filter, .. }) = TopicFilter::parse(filter) else {
        return Access::Denied;
    };
    if device.signing != Signing::None && is_own(&device.id, filter) {
        return Access::Own;
    }
    let listed = device
        .subscribe
        .iter()
        .any(|allowed| covers(allowed, filter));
    if listed || device.command_topic.as_deref() == Some(filter) {
        Access::Free
    } else {
        Access::Denied
    }
}

/// Whether an operator may publish on `topic`: on free ones only. What is on a contract topic counts
/// as the device's or the gateway's word, so nobody else writes there.
#[must_use]
pub fn operator_may_publish(topic: &str) -> bool {
    valid_name(topic) && !topic.starts_with('$') && first_level(topic) != DEVICE
}

/// Whether an operator may subscribe to `filter`: to everything.
#[must_use]
pub fn operator_may_subscribe(filter: &str) -> bool {
    TopicFilter::parse(filter).is_some()
}

/// Why a topic or filter cannot be given to a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TopicFault {
    InvalidFilter,
    InvalidTopic,
    Reserved,
    Unbounded,
    NotItsOwn,
}

impl TopicFault {
    pub(super) fn of(
        self,
        device: &DeviceId,
        setting: &'static str,
        topic: &str,
    ) -> DefinitionError {
        DefinitionError::Topic {
            device: *device,
            setting,
            topic: topic.to_owned(),
            fault: self,
        }
    }
}

impl fmt::Display for TopicFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidFilter => "not a topic filter; `+` and `#` stand alone in their level, `#` in the last",
            Self::InvalidTopic => "not a topic name; name one topic, without `+` and `#`",
            Self::Reserved => "topics starting with `$` are the gateway's; choose another",
            Self::Unbounded => "its first level is a wild card, which reaches every device's topics; begin with a name",
            Self::NotItsOwn => "`device/…` belongs to the device named in it; choose another topic",
        })
    }
}

/// Whether a device may be given this filter.
pub(super) fn check_filter(id: &DeviceId, filter: &str) -> Result<(), TopicFault> {
    if !valid_filter(filter) {
        return Err(TopicFault::InvalidFilter);
    }
    if filter.starts_with('$') {
        return Err(TopicFault::Reserved);
    }
    match first_level(filter) {
        "+" | "#" => Err(TopicFault::Unbounded),
        DEVICE => match filter.split('/').nth(1) {
            Some(own) if *id == *own => Ok(()),
            _ => Err(TopicFault::NotItsOwn),
        },
        _ => Ok(()),
    }
}

/// Whether a device may be given this topic.
pub(super) fn check_topic(id: &DeviceId, topic: &str) -> Result<(), TopicFault> {
    if !valid_name(topic) {
        return Err(TopicFault::InvalidTopic);
    }
    check_filter(id, topic)
}

fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or_default()
}

fn any_matches(filters: &[String], topic: &str) -> bool {
    valid_name(topic) && filters.iter().any(|filter| matches(filter, topic))
}

/// Whether a filter reaches only topics under `device/{id}/`.
fn is_own(id: &DeviceId, filter: &str) -> bool {
    let below = filter
        .strip_prefix(DEVICE)
        .and_then(|rest| rest.strip_prefix('/'));
    below
        .and_then(|rest| rest.strip_prefix(id.as_str()))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Whether every topic that `wanted` matches is matched by `allowed`. Both are valid filters, and
/// `allowed` does not begin with a wild card.
fn covers(allowed: &str, wanted: &str) -> bool {
    let mut wanted = wanted.split('/');
    for level in allowed.split('/') {
        // `a/#` matches `a` as well, so it covers it.
        if level == "#" {
            return true;
        }
        match wanted.next() {
            Some("#") | None => return false,
            Some(part) if level == "+" || level == part => {}
            Some(_) => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests;
