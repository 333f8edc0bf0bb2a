//! What can be asked about firmware releases, and the answers.
//!
//! An image is larger than a request may be, so it is published in pieces: [`FirmwareRequest::Begin`],
//! [`FirmwareRequest::Piece`] as often as needed, [`FirmwareRequest::Publish`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes of an image in one [`FirmwareRequest::Piece`]: as base64 it is two thirds of what a request may
/// hold.
pub const PIECE_BYTES: usize = 512 * 1024;

/// What can be asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum FirmwareRequest {
    /// [`Begun`]
    Begin {
        /// The signed manifest.
        manifest: String,
    },
    /// [`super::answer::Done`]
    Piece {
        offset: u64,
        /// In base64.
        bytes: String,
    },
    /// [`Release`]
    Publish {
        /// What is being published, for the audit record.
        release: String,
    },
    /// [`Releases`]
    List,
    /// [`RolloutDetail`]
    Show { release: String },
    /// [`Rolled`]
    Rollout {
        release: String,
        devices: Vec<String>,
        groups: Vec<String>,
        percent: Option<u8>,
        failure_percent: Option<u8>,
        failures_least: Option<u32>,
        /// Devices that failed are to try again.
        again: bool,
        /// Devices that are connected are told to look now.
        now: bool,
    },
    /// [`Rolled`]
    Pause { release: String, reason: String },
    /// [`Rolled`]
    Resume { release: String },
    /// [`super::answer::Done`]
    Withdraw { release: String, reason: String },
    /// [`Checked`]
    Verify,
}

impl FirmwareRequest {
    #[must_use]
    pub fn only_looks(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. } | Self::Verify)
    }

    /// Its name in the audit record and what it is done to; none if it changes nothing.
    #[must_use]
    pub fn audited(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Publish { release } => Some(("firmware.publish", release.clone())),
            Self::Rollout {
                release,
                devices,
                groups,
                percent,
                again,
                ..
            } => {
                let mut target = release.clone();
                let mut say = |text: String| target.push_str(&text);
                devices.iter().for_each(|id| say(format!(" device={id}")));
                groups.iter().for_each(|name| say(format!(" group={name}")));
                percent
                    .iter()
                    .for_each(|percent| say(format!(" percent={percent}")));
                if *again {
                    say(" again".to_owned());
                }
                Some(("firmware.rollout", target))
            }
            Self::Pause { release, .. } => Some(("firmware.pause", release.clone())),
            Self::Resume { release } => Some(("firmware.resume", release.clone())),
            Self::Withdraw { release, reason } => {
                Some(("firmware.withdraw", format!("{release} ({reason})")))
            }
            Self::Begin { .. }
            | Self::Piece { .. }
            | Self::List
            | Self::Show { .. }
            | Self::Verify => None,
        }
    }
}

/// A release is being taken in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Begun {
    pub release: String,
    pub size: u64,
}

/// All releases, newest first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Releases {
    pub releases: Vec<Release>,
    /// What the images take.
    pub disk_bytes: u64,
    pub disk_budget: u64,
}

/// One release.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Release {
    /// `product/chip/version`
    pub release: String,
    pub sequence: u64,
    pub security_version: u32,
    pub size: u32,
    pub sha256: String,
    /// Milliseconds since 1970, as every time.
    pub expires_at: u64,
    /// `published`, `withdrawn`, `retired`
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub published_at: u64,
    pub published_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rolled>,
    /// How many devices are at each point: `offered`, `downloading`, `installed`, `confirmed`,
    /// `failed`, `rolled_back`.
    pub devices: BTreeMap<String, u64>,
}

/// A rollout.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rolled {
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub devices: Vec<String>,
    pub groups: Vec<String>,
    pub percent: u8,
    pub failure_percent: u8,
    pub failures_least: u32,
    pub step: u32,
    /// Registered devices of any kind that are part of it.
    pub included: usize,
    /// Devices that were told to look now.
    #[serde(default)]
    pub told: usize,
    pub changed_at: u64,
    pub changed_by: String,
}

/// A release with each device that said something about it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RolloutDetail {
    #[serde(flatten)]
    pub release: Release,
    pub progress: Vec<DeviceProgress>,
}

/// How far a device is with a release.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceProgress {
    pub device: String,
    pub release: String,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub failures: u32,
    pub at: u64,
}

/// What a device runs, as it said last, and how its updates went.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceFirmware {
    pub product: String,
    pub chip: String,
    pub version: String,
    pub security_version: u32,
    pub at: u64,
    /// Newest first.
    pub updates: Vec<DeviceProgress>,
}

/// What a check of everything found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Checked {
    /// Published releases that are as they should be.
    pub good: usize,
    pub bad: Vec<BadRelease>,
    /// Files in the release folder that belong to no release.
    pub strangers: Vec<String>,
    pub disk_bytes: u64,
}

/// A published release that is not as it should be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BadRelease {
    pub release: String,
    pub problem: String,
}
