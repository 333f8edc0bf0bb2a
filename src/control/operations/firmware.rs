//! What operators do with firmware releases.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{Operations, json};
use crate::{
    command::Order,
    config::Signing,
    control::{
        Caller, Code, Problem,
        answer::Done,
        firmware::{
            BadRelease, Begun, Checked, DeviceFirmware, DeviceProgress, FirmwareRequest, Release,
            Releases, Rolled, RolloutDetail,
        },
    },
    ota::{self, Overview, Step},
    registry::Device,
    store::updates::{self, ProgressRow},
};

/// What tells a device to look for an update now.
const LOOK_NOW: &[u8] = br#"{"action":"update"}"#;
/// A device that was connected and does not take it within this looks by itself soon enough.
const LOOK_TTL: Duration = Duration::from_secs(3600);
/// Releases shown with a device.
const RECENT_UPDATES: usize = 5;

impl Operations {
    pub(super) async fn firmware(
        &self,
        request: FirmwareRequest,
        caller: Caller,
    ) -> Result<serde_json::Value, Problem> {
        let (desk, by) = (&self.desk, caller.to_string());
        let done = || json(Done { done: true });
        match request {
            FirmwareRequest::Begin { manifest } => {
                // Whether a release has expired can only be said by a clock that is to be believed.
                let now = self.clock.now()?;
                let (release, size) = desk.begin(manifest.into_bytes(), now).await?;
                json(Begun { release, size })
            }
            FirmwareRequest::Piece { offset, bytes } => {
                let bytes = BASE64_STANDARD.decode(bytes).map_err(|_| {
                    Problem::new(Code::Invalid, "a piece is not base64", "begin again")
                })?;
                desk.take(offset, bytes).await?;
                done()
            }
            FirmwareRequest::Publish { .. } => {
                let release = desk.finish(&by, self.clock.now()?).await?;
                let (overview, _) = desk.show(&release.name()).await?;
                json(self.shown(overview))
            }
            FirmwareRequest::List => {
                let releases = desk.list().await?;
                let (disk_bytes, disk_budget) = desk.disk().await?;
                json(Releases {
                    releases: releases
                        .into_iter()
                        .map(|overview| self.shown(overview))
                        .collect(),
                    disk_bytes,
                    disk_budget,
                })
            }
            FirmwareRequest::Show { release } => {
                let (overview, progress) = desk.show(&release).await?;
                let progress = progress.into_iter().map(|row| self.progress(row, &release));
                json(RolloutDetail {
                    progress: progress.collect(),
                    release: self.shown(overview),
                })
            }
            FirmwareRequest::Rollout {
                release,
                devices,
                groups,
                percent,
                failure_percent,
                failures_least,
                again,
                now: tell,
            } => {
                let step = Step {
                    devices,
                    groups,
                    percent,
                    failure_percent,
                    failures_least,
                    again,
                };
                let now = self.clock.unchecked_now();
                let rollout = desk.step(&release, step, &by, now).await?;
                let told = match tell && !rollout.paused {
                    true => self.tell(&rollout, &release, &by).await?,
                    false => 0,
                };
                let rolled = self.rolled(&rollout, &release);
                json(Rolled { told, ..rolled })
            }
            FirmwareRequest::Pause { release, reason } => {
                let (now, reason) = (self.clock.unchecked_now(), Some(reason));
                let rollout = desk.pause(&release, true, reason, &by, now).await?;
                json(self.rolled(&rollout, &release))
            }
            FirmwareRequest::Resume { release } => {
                let now = self.clock.unchecked_now();
                let rollout = desk.pause(&release, false, None, &by, now).await?;
                json(self.rolled(&rollout, &release))
            }
            FirmwareRequest::Withdraw { release, reason } => {
                desk.withdraw(&release, reason).await?;
                done()
            }
            FirmwareRequest::Verify => {
                let checked = desk.verify(self.clock.unchecked_now()).await?;
                let bad = checked.bad.into_iter();
                json(Checked {
                    good: checked.good,
                    bad: bad
                        .map(|(release, problem)| BadRelease { release, problem })
                        .collect(),
                    strangers: checked.strangers,
                    disk_bytes: checked.bytes,
                })
            }
        }
    }

    /// What a device runs, and how its updates went.
    pub(super) async fn firmware_of(
        &self,
        device: &Device,
    ) -> Result<Option<DeviceFirmware>, Problem> {
        let key = device.key;
        let read = self.store.read(move |conn| {
            let Some(runs) = updates::firmware(conn, key)? else {
                return Ok(None);
            };
            let names: BTreeMap<i64, String> = updates::releases(conn)?
                .into_iter()
                .map(|release| (release.key, release.name()))
                .collect();
            Ok(Some((runs, updates::progress_of_device(conn, key)?, names)))
        });
        let Some((runs, progress, names)) = read.await? else {
            return Ok(None);
        };
        let named = |row: ProgressRow| {
            let name = names.get(&row.release).cloned().unwrap_or_default();
            self.progress(row, &name)
        };
        Ok(Some(DeviceFirmware {
            product: runs.product,
            chip: runs.chip,
            version: runs.version,
            security_version: runs.security_version,
            at: runs.at.0,
            updates: progress
                .into_iter()
                .take(RECENT_UPDATES)
                .map(named)
                .collect(),
        }))
    }

    /// Tells the devices of a rollout that are connected to look now; how many were. Those that are known
    /// to be another product are left alone.
    async fn tell(
        &self,
        rollout: &ota::Rollout,
        release: &str,
        by: &str,
    ) -> Result<usize, Problem> {
        let name = release.to_owned();
        let strangers = self
            .store
            .read(move |conn| updates::strangers(conn, &name))
            .await?;
        let mut told = 0;
        for device in self.registry.all() {
            let takes_commands = device.enabled && device.signing != Signing::None;
            if !takes_commands
                || strangers.contains(&device.key)
                || !self.live.connected(&device.id)
                || !rollout.includes(&device, release)
            {
                continue;
            }
            let order = Order {
                body: Bytes::from_static(LOOK_NOW),
                ttl: Some(LOOK_TTL),
                idempotency_key: None,
                by,
            };
            // A device whose queue is full has other worries, and looks by itself later.
            let now = self.clock.unchecked_now();
            told += usize::from(self.commands.queue(&device, order, now).await.is_ok());
        }
        Ok(told)
    }

    fn progress(&self, row: ProgressRow, release: &str) -> DeviceProgress {
        DeviceProgress {
            device: self.name(row.device),
            release: release.to_owned(),
            state: row.progress.as_str().to_owned(),
            reason: row.reason,
            failures: row.failures,
            at: row.at.0,
        }
    }

    fn rolled(&self, rollout: &ota::Rollout, release: &str) -> Rolled {
        let all = self.registry.all();
        let included = all
            .iter()
            .filter(|device| rollout.includes(device, release));
        Rolled {
            paused: rollout.paused,
            reason: rollout.reason.clone(),
            devices: rollout.devices.clone(),
            groups: rollout.groups.clone(),
            percent: rollout.percent,
            failure_percent: rollout.failure_percent,
            failures_least: rollout.failures_least,
            step: rollout.step,
            included: included.count(),
            told: 0,
            changed_at: rollout.changed_at.0,
            changed_by: rollout.changed_by.clone(),
        }
    }

    fn shown(&self, overview: Overview) -> Release {
        let Overview {
            release,
            rollout,
            counts,
        } = overview;
        let name = release.name();
        Release {
            rollout: rollout.map(|rollout| self.rolled(&rollout, &name)),
            release: name,
            sequence: release.sequence,
            security_version: release.security_version,
            size: release.size,
            sha256: release.sha256,
            expires_at: release.expires.saturating_mul(1000),
            state: release.standing.as_str().to_owned(),
            reason: release.reason,
            published_at: release.published_at.0,
            published_by: release.published_by,
            devices: counts
                .into_iter()
                .map(|(progress, count)| (progress.as_str().to_owned(), count))
                .collect(),
        }
    }
}
