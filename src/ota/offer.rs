//! Which release a device is offered: one decision, whoever asks and however the answer travels.

use rusqlite::Connection;
use tidegate_wire::manifest::{PublicKey, Running, Signed, Version};

use crate::{
    clock::UnixMillis,
    registry::Device,
    store::updates::{self, FirmwareRow, ReleaseRow},
};

use super::Progress;

/// How often a device may fail with a release before it is left alone: a download that breaks off is
/// worth another try, an image that never fits is not.
pub const MAX_FAILURES: u32 = 5;

/// A device that asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub device: &'a Device,
    /// What it says it runs, now or when it last asked.
    pub runs: &'a FirmwareRow,
    /// The keys whose releases are trusted.
    pub keys: &'a [PublicKey],
    pub now: UnixMillis,
}

/// The newest release that `asking` is to have now, if there is one.
///
/// It is published and signed by a key that is trusted now, fits the device, is newer than what it
/// runs, is rolled out to it and not paused, and the device has neither rolled it back nor failed with
/// it too often.
///
/// # Errors
/// Any of SQLite's.
pub fn offer(conn: &Connection, asking: &Asking<'_>) -> rusqlite::Result<Option<ReleaseRow>> {
    let Asking {
        device,
        runs,
        keys,
        now,
    } = *asking;
    let Ok(version) = Version::parse(&runs.version) else {
        return Ok(None);
    };
    if !device.enabled {
        return Ok(None);
    }
    let running = Running {
        product: &runs.product,
        chip: &runs.chip,
        version,
        security_version: runs.security_version,
        // The device knows what it installed last and checks that itself.
        sequence: 0,
        max_size: u32::MAX,
    };
    let progress = updates::progress_of_device(conn, device.key)?;
    for release in updates::published(conn, &runs.product, &runs.chip)? {
        let rolled_out = updates::rollout(conn, release.key)?
            .is_some_and(|rollout| !rollout.paused && rollout.includes(device, &release.name()));
        let given_up = progress.iter().any(|row| {
            row.release == release.key
                && (row.progress == Progress::RolledBack || row.failures >= MAX_FAILURES)
        });
        if !rolled_out || given_up {
            continue;
        }
        let fits = Signed::parse(&release.manifest)
            .map_err(Into::into)
            .and_then(|signed| signed.verify(keys))
            .and_then(|manifest| manifest.check(&running, now.seconds()));
        match fits {
            Ok(()) => return Ok(Some(release)),
            Err(refusal) => {
                tracing::debug!(device = %device.id, release = release.name(), refusal = refusal.code(), "not offered");
            }
        }
    }
    Ok(None)
}
