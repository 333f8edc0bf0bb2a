//! One device, as everyone but the database sees it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
};

use tidegate_wire::{DeviceId, SigningKey, Version};

use super::{RegistryError, credentials, definition::Topics};
use crate::{
    clock::UnixMillis,
    config::Signing,
    seal::MasterKey,
    store::{
        DeviceKey,
        devices::{DeviceRow, SeenRow},
    },
};

/// How many messages a device may send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    pub per_second: u32,
    /// How far it may run ahead of that, in messages.
    pub burst: u32,
}

/// A device: who it is, how it proves that, and what it may do.
#[derive(Clone, Debug)]
pub struct Device {
    pub key: DeviceKey,
    pub id: DeviceId,
    /// Declared or added as enabled, and neither blocked nor removed.
    pub enabled: bool,
    /// From the configuration; otherwise added at run time.
    pub declared: bool,
    /// Kept only because what it sent, and what it is owed, still names it.
    pub removed: bool,
    pub signing: Signing,
    /// What it signs with; none while it was given none.
    pub secret: Option<Arc<SigningKey>>,
    pub rate: Rate,
    /// Filters of free topics it may publish to and subscribe to.
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// With `signing = "none"`: filters of topics whose messages are telemetry.
    pub telemetry: Vec<String>,
    /// With `signing = "none"`: where its commands are published.
    pub command_topic: Option<String>,
    pub groups: Vec<String>,
    pub has_password: bool,
    /// Why an administrator blocked it.
    pub blocked_reason: Option<Box<str>>,
    /// What it was last seen doing.
    pub seen: Seen,
}

impl Device {
    /// An enabled device without credentials or listed topics, to be completed with
    /// `Device { …, ..Device::new(key, id) }`.
    #[must_use]
    pub fn new(key: DeviceKey, id: DeviceId) -> Self {
        Self {
            key,
            id,
            enabled: true,
            declared: false,
            removed: false,
            signing: Signing::Any,
            secret: None,
            rate: Rate {
                per_second: 100,
                burst: 1_000,
            },
            publish: Vec::new(),
            subscribe: Vec::new(),
            telemetry: Vec::new(),
            command_topic: None,
            groups: Vec::new(),
            has_password: false,
            blocked_reason: None,
            seen: Seen::default(),
        }
    }

    pub(super) fn from_row(
        row: &DeviceRow,
        master: &MasterKey,
        default_rate: Rate,
    ) -> Result<Self, RegistryError> {
        let damaged = |detail: String| RegistryError::Damaged {
            id: row.id.clone(),
            detail,
        };
        let id = DeviceId::try_from(row.id.as_str()).map_err(|error| damaged(error.to_string()))?;
        let topics: Topics =
            serde_json::from_str(&row.topics).map_err(|error| damaged(error.to_string()))?;
        let groups =
            serde_json::from_str(&row.groups).map_err(|error| damaged(error.to_string()))?;
        let signing = signing_from_text(&row.signing)
            .ok_or_else(|| damaged(format!("signing is `{}`", row.signing)))?;
        let removed = row.removed_at.is_some();
        Ok(Self {
            key: row.key,
            id,
            enabled: row.enabled && row.blocked_reason.is_none() && !removed,
            declared: row.declared,
            removed,
            signing,
            secret: if removed {
                None
            } else {
                credentials::signing_key(master, row)?
            },
            rate: rate(row.per_second, default_rate),
            publish: topics.publish,
            subscribe: topics.subscribe,
            telemetry: topics.telemetry,
            command_topic: topics.command_topic,
            groups,
            has_password: row.password.is_some(),
            blocked_reason: row.blocked_reason.as_deref().map(Into::into),
            seen: Seen::from_row(row),
        })
    }

    /// Notes an accepted message; cheap enough for each one.
    #[inline]
    pub fn note_accepted(&self, version: Option<Version>, now: UnixMillis) {
        self.seen.note(version, now);
    }

    /// Notes that the device signs version 2, before a message of it was accepted.
    pub fn note_v2(&self) {
        self.seen.note_v2();
    }

    /// What changed since it was last taken, to be persisted.
    pub(super) fn take_seen(&self) -> Option<SeenRow> {
        if !self.seen.changed.swap(false, Ordering::Relaxed) {
            return None;
        }
        Some(SeenRow {
            key: self.key,
            last_version: self.seen.version().map(Version::number),
            last_seen: self.seen.at(),
        })
    }
}

/// What a device was last seen doing. Updated in place while everything else about a device is
/// replaced as a whole; the numbers stand for themselves, so no ordering among them is needed.
#[derive(Debug, Default)]
pub struct Seen {
    /// 0: never.
    version: AtomicU8,
    changed: AtomicBool,
    /// Seconds since 1970, good until 2106; 0: never.
    at: AtomicU32,
}

impl Seen {
    /// The envelope version of the last accepted message, or of the will of a later CONNECT if that
    /// was 2.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self.version.load(Ordering::Relaxed) {
            1 => Some(Version::V1),
            2 => Some(Version::V2),
            _ => None,
        }
    }

    /// When the last message was accepted, to the second.
    #[must_use]
    pub fn at(&self) -> Option<UnixMillis> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(UnixMillis::from_seconds(at.into())),
        }
    }

    /// Writes only when something differs, so that a busy device's line stays shared among caches.
    #[inline]
    fn note(&self, version: Option<Version>, now: UnixMillis) {
        let at = u32::try_from(now.seconds()).unwrap_or(u32::MAX);
        let version = version.map_or(0, Version::number);
        let same_version = version == 0 || self.version.load(Ordering::Relaxed) == version;
        if same_version && self.at.load(Ordering::Relaxed) == at {
            return;
        }
        if !same_version {
            self.version.store(version, Ordering::Relaxed);
        }
        self.at.store(at, Ordering::Relaxed);
        self.changed.store(true, Ordering::Relaxed);
    }

    fn note_v2(&self) {
        let v2 = Version::V2.number();
        if self.version.swap(v2, Ordering::Relaxed) != v2 {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    fn from_row(row: &DeviceRow) -> Self {
        let at = row
            .last_seen
            .map_or(0, |at| u32::try_from(at.seconds()).unwrap_or(u32::MAX));
        Self {
            version: AtomicU8::new(row.last_version.unwrap_or(0)),
            changed: AtomicBool::new(false),
            at: AtomicU32::new(at),
        }
    }

    /// Takes over what `older`, a former state of the same device, noted in the meantime.
    pub(super) fn inherit(&self, older: &Self) {
        if older.at.load(Ordering::Relaxed) >= self.at.load(Ordering::Relaxed) {
            self.version
                .store(older.version.load(Ordering::Relaxed), Ordering::Relaxed);
            self.at
                .store(older.at.load(Ordering::Relaxed), Ordering::Relaxed);
            self.changed
                .store(older.changed.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl Clone for Seen {
    fn clone(&self) -> Self {
        let clone = Self::default();
        clone.inherit(self);
        clone
    }
}

/// A device with a rate of its own may burst in the same proportion as the others.
fn rate(own: Option<u32>, default: Rate) -> Rate {
    let Some(per_second) = own else {
        return default;
    };
    let burst =
        u64::from(per_second) * u64::from(default.burst) / u64::from(default.per_second.max(1));
    Rate {
        per_second,
        burst: u32::try_from(burst)
            .unwrap_or(u32::MAX)
            .max(per_second)
            .max(1),
    }
}

pub(super) fn signing_text(signing: Signing) -> &'static str {
    match signing {
        Signing::Any => "any",
        Signing::V2 => "v2",
        Signing::None => "none",
    }
}

fn signing_from_text(text: &str) -> Option<Signing> {
    [Signing::Any, Signing::V2, Signing::None]
        .into_iter()
        .find(|s| signing_text(*s) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_its_own_keeps_the_proportion() {
        let default = Rate {
            per_second: 100,
            burst: 1_000,
        };
        assert_eq!(rate(None, default), default);
        assert_eq!(
            rate(Some(5), default),
            Rate {
                per_second: 5,
                burst: 50
            }
        );
        assert_eq!(
            rate(
                Some(7),
                Rate {
                    per_second: 100,
                    burst: 1
                }
            )
            .burst,
            7
        );
        assert_eq!(rate(Some(0), default).burst, 1);
        assert_eq!(rate(Some(u32::MAX), default).burst, u32::MAX);
    }

    #[test]
    fn what_was_seen_is_taken_once() {
        let device = Device::new(DeviceKey(1), "a".parse().unwrap());
        assert_eq!(device.take_seen(), None);
        device.note_accepted(Some(Version::V2), UnixMillis(5_999));
        device.note_accepted(None, UnixMillis(6_000));
        let seen = device.take_seen().unwrap();
        assert_eq!(
            (seen.last_version, seen.last_seen),
            (Some(2), Some(UnixMillis(6_000)))
        );
        assert_eq!(device.take_seen(), None);
        device.note_accepted(Some(Version::V2), UnixMillis(6_500));
        assert_eq!(device.take_seen(), None, "the same second again");
    }
}
