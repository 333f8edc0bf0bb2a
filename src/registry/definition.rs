//! What a device is to be, checked: from the configuration or from an administrator.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_wire::{DeviceId, device_id::InvalidDeviceId};

use super::{
    credentials::MIN_SECRET,
    device::signing_text,
    rights::{TopicFault, check_filter, check_topic},
};
use crate::{
    clock::UnixMillis,
    config,
    store::{DeviceKey, devices::DeviceRow},
};

/// Why a device cannot be what it is said to be.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("`{id}` is no device id: {fault}")]
    Id { id: String, fault: InvalidDeviceId },
    #[error("device {device}: `{topic}` in {setting}: {fault}")]
    Topic {
        device: DeviceId,
        setting: &'static str,
        topic: String,
        fault: TopicFault,
    },
    #[error(
        "device {device}: {setting} is for devices with signing = \"none\"; this one has its contract topics"
    )]
    OnlyUnsigned {
        device: DeviceId,
        setting: &'static str,
    },
    #[error("device {device}: {setting} has more than {MAX_TOPICS} entries")]
    TooMany {
        device: DeviceId,
        setting: &'static str,
    },
    #[error(
        "device {device}: messages_per_second is 0, so it could send nothing; use enabled = false to keep it out"
    )]
    NoRate { device: DeviceId },
    #[error(
        "device {device}: {setting} {path}: {source}; create it, readable for the gateway alone (chmod 600)"
    )]
    File {
        device: DeviceId,
        setting: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("device {device}: {what} is empty")]
    Empty { device: DeviceId, what: String },
    #[error(
        "device {device}: {what} has {len} bytes, at most {most} are allowed; is it the right file?"
    )]
    TooLong {
        device: DeviceId,
        what: String,
        len: usize,
        most: usize,
    },
    #[error(
        "device {device}: {what} has {len} bytes, at least {MIN_SECRET} are needed; make one with `openssl rand -hex 32`"
    )]
    ShortSecret {
        device: DeviceId,
        what: String,
        len: usize,
    },
}

/// Entries of one list of topics or groups: each is looked at for every message on a free topic.
const MAX_TOPICS: usize = 64;

/// The topics a device has beside its contract's, as they lie in the database.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Topics {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
    pub(super) telemetry: Vec<String>,
    pub(super) command_topic: Option<String>,
}

/// A device's settings, checked and in the form they are stored in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Definition {
    enabled: bool,
    signing: &'static str,
    per_second: Option<u32>,
    topics: String,
    groups: String,
}

impl Definition {
    pub(super) fn check(id: &DeviceId, settings: &config::Device) -> Result<Self, DefinitionError> {
        let signs = settings.signing != config::Signing::None;
        for (setting, used) in [
            ("telemetry", !settings.telemetry.is_empty()),
            ("command_topic", settings.command_topic.is_some()),
        ] {
            if signs && used {
                return Err(DefinitionError::OnlyUnsigned {
                    device: *id,
                    setting,
                });
            }
        }
        if settings.messages_per_second == Some(0) {
            return Err(DefinitionError::NoRate { device: *id });
        }
        for (setting, filters) in [
            ("publish", &settings.publish),
            ("subscribe", &settings.subscribe),
            ("telemetry", &settings.telemetry),
        ] {
            if filters.len() > MAX_TOPICS {
                return Err(DefinitionError::TooMany {
                    device: *id,
                    setting,
                });
            }
            for filter in filters {
                check_filter(id, filter).map_err(|fault| fault.of(id, setting, filter))?;
            }
        }
        if let Some(topic) = &settings.command_topic {
            check_topic(id, topic).map_err(|fault| fault.of(id, "command_topic", topic))?;
        }
        if settings.groups.len() > MAX_TOPICS {
            return Err(DefinitionError::TooMany {
                device: *id,
                setting: "groups",
            });
        }
        let topics = Topics {
            publish: settings.publish.clone(),
            subscribe: settings.subscribe.clone(),
            telemetry: settings.telemetry.clone(),
            command_topic: settings.command_topic.clone(),
        };
        Ok(Self {
            enabled: settings.enabled,
            signing: signing_text(settings.signing),
            per_second: settings.messages_per_second,
            topics: json(&topics),
            groups: json(&settings.groups),
        })
    }

    /// Whether `row` is what this says.
    pub(super) fn is_in(&self, row: &DeviceRow) -> bool {
        row.enabled == self.enabled
            && row.signing == self.signing
            && row.per_second == self.per_second
            && row.topics == self.topics
            && row.groups == self.groups
    }

    /// Makes `row` what this says and returns the names of what was different.
    pub(super) fn apply_to(&self, row: &mut DeviceRow) -> Vec<&'static str> {
        let mut changed = Vec::new();
        if row.enabled != self.enabled {
            row.enabled = self.enabled;
            changed.push("enabled");
        }
        if row.signing != self.signing {
            self.signing.clone_into(&mut row.signing);
            changed.push("signing");
        }
        if row.per_second != self.per_second {
            row.per_second = self.per_second;
            changed.push("messages_per_second");
        }
        if row.topics != self.topics {
            row.topics.clone_from(&self.topics);
            changed.push("topics");
        }
        if row.groups != self.groups {
            row.groups.clone_from(&self.groups);
            changed.push("groups");
        }
        changed
    }
}

/// A row for a device nothing is known of yet.
pub(super) fn blank(id: &DeviceId, now: UnixMillis) -> DeviceRow {
    DeviceRow {
        // The database gives it its number.
        key: DeviceKey(0),
        id: id.to_string(),
        enabled: true,
        declared: false,
        blocked_reason: None,
        removed_at: None,
        signing: String::new(),
        secret: None,
        password: None,
        password_source: None,
        per_second: None,
        topics: String::new(),
        groups: String::new(),
        last_version: None,
        last_seen: None,
        created_at: now,
        updated_at: now,
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // Strings and lists of strings always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}
