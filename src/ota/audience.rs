//! Who is to have a release, and how far they are with it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{clock::UnixMillis, registry::Device};

/// Where a release stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It can be rolled out.
    Published,
    /// It is never to be installed again.
    Withdrawn,
    /// Its image was deleted to make room.
    Retired,
}

impl Standing {
    pub const ALL: [Self; 3] = [Self::Published, Self::Withdrawn, Self::Retired];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Withdrawn => "withdrawn",
            Self::Retired => "retired",
        }
    }

    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|standing| standing.as_str() == text)
    }
}

/// How far a device is with a release, in its own words.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    Offered,
    Downloading,
    /// Activated; it will restart into it.
    Installed,
    /// It runs, and has reached the gateway.
    Confirmed,
    Failed,
    RolledBack,
}

impl Progress {
    pub const ALL: [Self; 6] = [
        Self::Offered,
        Self::Downloading,
        Self::Installed,
        Self::Confirmed,
        Self::Failed,
        Self::RolledBack,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Downloading => "downloading",
            Self::Installed => "installed",
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|progress| progress.as_str() == text)
    }

    /// Whether it is over, one way or the other.
    #[must_use]
    pub const fn is_outcome(self) -> bool {
        matches!(self, Self::Confirmed | Self::Failed | Self::RolledBack)
    }

    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack)
    }
}

/// Who is to have a release.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rollout {
    pub paused: bool,
    /// Why it is paused.
    pub reason: Option<String>,
    /// Device ids.
    pub devices: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// Of all devices, 0 to 100; see [`place`].
    pub percent: u8,
    /// It pauses by itself once so many of the devices that are through have failed, in percent,
    pub failure_percent: u8,
    /// but not before there are so many failures: one bad card reader stops no fleet.
    pub failures_least: u32,
    /// How often it was changed: 1 is the first step.
    pub step: u32,
    pub changed_at: UnixMillis,
    pub changed_by: String,
}

impl Rollout {
    /// A rollout that nobody is part of yet.
    #[must_use]
    pub fn none(now: UnixMillis, by: &str) -> Self {
        Self {
            paused: false,
            reason: None,
            devices: Vec::new(),
            groups: Vec::new(),
            percent: 0,
            failure_percent: 10,
            failures_least: 2,
            step: 0,
            changed_at: now,
            changed_by: by.to_owned(),
        }
    }

    /// Whether `device` is to have the release called `name`, paused or not.
    #[must_use]
    pub fn includes(&self, device: &Device, name: &str) -> bool {
        place(device.id.as_str(), name) < u64::from(self.percent) * (PLACES / 100)
            || self.devices.iter().any(|id| device.id == **id)
            || self
                .groups
                .iter()
                .any(|group| device.groups.contains(group))
    }

    /// Why it must pause after what devices have reported, if it must.
    #[must_use]
    pub fn tripped(&self, counts: &[(Progress, u64)]) -> Option<String> {
        let sum = |which: fn(Progress) -> bool| -> u64 {
            let counted = counts.iter().filter(|(progress, _)| which(*progress));
            counted.map(|(_, count)| count).sum()
        };
        let (failed, over) = (sum(Progress::is_failure), sum(Progress::is_outcome));
        let trips = failed >= u64::from(self.failures_least)
            && failed * 100 >= u64::from(self.failure_percent) * over;
        trips.then(|| {
            format!(
                "{failed} of {over} devices failed; the threshold is {} %",
                self.failure_percent
            )
        })
    }
}

/// How finely [`place`] spreads devices.
const PLACES: u64 = 10_000;

/// Where a device stands in line for a release, 0 to 9,999: always the same place for the same
/// release, so that a wider rollout takes in everybody it took in before, and another place for
/// another release, so that it is not always the same devices that go first.
fn place(device: &str, release: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(release);
    // Neither has this character.
    hash.update("\n");
    hash.update(device);
    let digest: [u8; 32] = hash.finalize().into();
    let (first, _) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first) % PLACES
}

#[cfg(test)]
mod tests {
    use tidegate_wire::DeviceId;

    use super::*;
    use crate::store::DeviceKey;

    fn device(number: u32) -> Device {
        let id = DeviceId::try_from(format!("sensor_{number}").as_str()).unwrap();
        Device::new(DeviceKey(number), id)
    }

    fn percent(percent: u8) -> Rollout {
        Rollout {
            percent,
            ..Rollout::none(UnixMillis(0), "test")
        }
    }

    #[test]
    fn a_wider_rollout_keeps_whom_it_had_and_is_about_as_wide_as_it_says() {
        let mut had = 0;
        for wide in [0, 1, 10, 50, 99, 100] {
            let (narrow, wider) = (percent(wide), percent((wide + 10).min(100)));
            let mut has = 0;
            for number in 0..10_000 {
                let device = device(number);
                if narrow.includes(&device, "a/b/1.0.0") {
                    has += 1;
                    assert!(wider.includes(&device, "a/b/1.0.0"));
                }
            }
            assert!(has >= had);
            let expected = u32::from(wide) * 100;
            assert!(expected.abs_diff(has) <= 200, "{wide} %: {has}");
            had = has;
        }
        assert_eq!(had, 10_000, "100 % is everybody");
    }

    #[test]
    fn another_release_has_other_first_devices() {
        let rollout = percent(10);
        let first = |name| -> Vec<u32> {
            let numbers = 0..1_000;
            numbers
                .filter(|number| rollout.includes(&device(*number), name))
                .collect()
        };
        assert_ne!(first("a/b/1.0.0"), first("a/b/1.0.1"));
        assert_eq!(first("a/b/1.0.0"), first("a/b/1.0.0"));
    }

    #[test]
    fn devices_and_groups_are_named() {
        let mut named = percent(0);
        named.devices = vec!["sensor_3".into()];
        named.groups = vec!["cellar".into()];
        let mut grouped = device(4);
        assert!(named.includes(&device(3), "r"));
        assert!(!named.includes(&grouped, "r"));
        grouped.groups = vec!["cellar".into()];
        assert!(named.includes(&grouped, "r"));
        assert!(!named.includes(&device(33), "r"));
    }

    #[test]
    fn it_trips_at_its_threshold_and_not_before() {
        let mut rollout = percent(100);
        (rollout.failure_percent, rollout.failures_least) = (20, 2);
        let trips = |confirmed, failed, back| {
            let counts = [
                (Progress::Confirmed, confirmed),
                (Progress::Failed, failed),
                (Progress::RolledBack, back),
                (Progress::Downloading, 1_000),
            ];
            rollout.tripped(&counts).is_some()
        };
        assert!(!trips(0, 1, 0), "one failure is not enough");
        assert!(trips(0, 1, 1));
        assert!(!trips(9, 1, 1), "2 of 11 is less than 20 %");
        assert!(trips(8, 0, 2), "2 of 10 is 20 %");
        assert!(!trips(100, 0, 0));
    }
}
