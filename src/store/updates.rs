//! Rows of the tables `release`, `rollout`, `firmware` and `update_state`. What they mean is decided in
//! [`crate::ota`]; what devices report is recorded here, in the transaction that accepts the message.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tidegate_wire::{DeviceId, Payload, manifest::Version};

use super::{
    DeviceKey, audit, db,
    devices::{from_sql, to_sql},
    un,
};
use crate::{
    clock::UnixMillis,
    ota::{Progress, Rollout, Standing},
};

/// Longest reason kept of what a device says, in bytes.
const MAX_REASON: usize = 64;
/// Members of an event that are looked at, and some to spare.
const SLOTS: usize = 64;

/// A release as it lies in the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReleaseRow {
    /// 0 before it is inserted.
    pub key: i64,
    pub product: String,
    pub chip: String,
    pub version: String,
    pub sequence: u64,
    pub security_version: u32,
    pub size: u32,
    /// 64 hex digits.
    pub sha256: String,
    /// Seconds since 1970.
    pub expires: u64,
    /// The signed manifest as it was given.
    pub manifest: Vec<u8>,
    pub standing: Standing,
    pub reason: Option<String>,
    pub published_at: UnixMillis,
    pub published_by: String,
}

impl ReleaseRow {
    /// What operators call it: `product/chip/version`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.product, self.chip, self.version)
    }
}

/// What a device said it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirmwareRow {
    pub product: String,
    pub chip: String,
    pub version: String,
    pub security_version: u32,
    pub at: UnixMillis,
}

/// How far a device is with a release.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProgressRow {
    pub release: i64,
    pub device: DeviceKey,
    pub progress: Progress,
    pub reason: Option<String>,
    pub failures: u32,
    pub at: UnixMillis,
}

const RELEASE: &str = "key, product, chip, version, sequence, security_version, size, sha256, expires, manifest, \
     state, reason, published_at, published_by";

fn bad_text(index: usize, what: &str) -> rusqlite::Error {
    let kind = rusqlite::types::Type::Text;
    rusqlite::Error::FromSqlConversionFailure(index, kind, format!("`{what}` is unknown").into())
}

fn release(row: &Row<'_>) -> rusqlite::Result<ReleaseRow> {
    let state: String = row.get(10)?;
    Ok(ReleaseRow {
        key: row.get(0)?,
        product: row.get(1)?,
        chip: row.get(2)?,
        version: row.get(3)?,
        sequence: un(row.get(4)?),
        security_version: row.get(5)?,
        size: row.get(6)?,
        sha256: row.get(7)?,
        expires: un(row.get(8)?),
        manifest: row.get(9)?,
        standing: Standing::from_text(&state).ok_or_else(|| bad_text(10, &state))?,
        reason: row.get(11)?,
        published_at: from_sql(row.get(12)?),
        published_by: row.get(13)?,
    })
}

/// Every release there ever was, oldest first.
///
/// # Errors
/// Any of SQLite's, as of all functions here.
pub fn releases(conn: &Connection) -> rusqlite::Result<Vec<ReleaseRow>> {
    conn.prepare_cached(&format!("SELECT {RELEASE} FROM release ORDER BY key"))?
        .query_map([], release)?
        .collect()
}

/// The published releases for a product and chip, the newest first.
///
/// # Errors
/// See [`releases`].
pub fn published(
    conn: &Connection,
    product: &str,
    chip: &str,
) -> rusqlite::Result<Vec<ReleaseRow>> {
    conn.prepare_cached(&format!(
        "SELECT {RELEASE} FROM release WHERE product = ?1 AND chip = ?2 AND state = 'published' \
         ORDER BY sequence DESC, key DESC"
    ))?
    .query_map([product, chip], release)?
    .collect()
}

/// The release of this name.
///
/// # Errors
/// See [`releases`].
pub fn find(
    conn: &Connection,
    product: &str,
    chip: &str,
    version: &str,
) -> rusqlite::Result<Option<ReleaseRow>> {
    conn.prepare_cached(&format!(
        "SELECT {RELEASE} FROM release WHERE product = ?1 AND chip = ?2 AND version = ?3"
    ))?
    .query_row([product, chip, version], release)
    .optional()
}

/// Inserts a release and returns its key.
///
/// # Errors
/// See [`releases`]; one is that there is a release of this name.
pub fn insert(conn: &Connection, row: &ReleaseRow) -> rusqlite::Result<i64> {
    conn.prepare_cached(
        "INSERT INTO release (product, chip, version, sequence, security_version, size, sha256, expires, \
         manifest, state, published_at, published_by) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .insert(params![
        row.product,
        row.chip,
        row.version,
        db(row.sequence),
        row.security_version,
        row.size,
        row.sha256,
        db(row.expires),
        row.manifest,
        row.standing.as_str(),
        to_sql(row.published_at),
        row.published_by,
    ])
}

/// Says where a release stands from now on.
///
/// # Errors
/// See [`releases`].
pub fn stand(
    conn: &Connection,
    key: i64,
    standing: Standing,
    reason: Option<&str>,
) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE release SET state = ?2, reason = ?3 WHERE key = ?1")?
        .execute(params![key, standing.as_str(), reason])?;
    Ok(())
}

/// The rollout of a release, if there is one.
///
/// # Errors
/// See [`releases`].
pub fn rollout(conn: &Connection, release: i64) -> rusqlite::Result<Option<Rollout>> {
    let list = |index: usize, text: String| {
        serde_json::from_str(&text).map_err(|_| bad_text(index, &text))
    };
    conn.prepare_cached(
        "SELECT state, reason, devices, groups, percent, failure_percent, failures_least, step, changed_at, \
         changed_by FROM rollout WHERE release = ?1",
    )?
    .query_row([release], |row| {
        Ok(Rollout {
            paused: row.get_ref(0)?.as_str()? == "paused",
            reason: row.get(1)?,
            devices: list(2, row.get(2)?)?,
            groups: list(3, row.get(3)?)?,
            percent: row.get(4)?,
            failure_percent: row.get(5)?,
            failures_least: row.get(6)?,
            step: row.get(7)?,
            changed_at: from_sql(row.get(8)?),
            changed_by: row.get(9)?,
        })
    })
    .optional()
}

/// Writes the rollout of a release.
///
/// # Errors
/// See [`releases`].
pub fn set_rollout(conn: &Connection, release: i64, rollout: &Rollout) -> rusqlite::Result<()> {
    let list = |names: &[String]| serde_json::Value::from(names).to_string();
    conn.prepare_cached(
        "INSERT OR REPLACE INTO rollout (release, state, reason, devices, groups, percent, failure_percent, \
         failures_least, step, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        release,
        if rollout.paused { "paused" } else { "running" },
        rollout.reason,
        list(&rollout.devices),
        list(&rollout.groups),
        rollout.percent,
        rollout.failure_percent,
        rollout.failures_least,
        rollout.step,
        to_sql(rollout.changed_at),
        rollout.changed_by,
    ])?;
    Ok(())
}

/// Forgets that devices failed with a release or rolled it back, so that they are offered it again.
///
/// # Errors
/// See [`releases`].
pub fn try_again(conn: &Connection, release: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "DELETE FROM update_state WHERE release = ?1 AND state IN ('failed', 'rolled_back')",
    )?
    .execute([release])?;
    Ok(())
}

/// What a device runs, as far as it said.
///
/// # Errors
/// See [`releases`].
pub fn firmware(conn: &Connection, device: DeviceKey) -> rusqlite::Result<Option<FirmwareRow>> {
    conn.prepare_cached(
        "SELECT product, chip, version, security_version, at FROM firmware WHERE device = ?1",
    )?
    .query_row([device.0], |row| {
        Ok(FirmwareRow {
            product: row.get(0)?,
            chip: row.get(1)?,
            version: row.get(2)?,
            security_version: row.get(3)?,
            at: from_sql(row.get(4)?),
        })
    })
    .optional()
}

/// Devices that said they are another product, or have another chip, than the release of this name is for.
///
/// # Errors
/// See [`releases`].
pub fn strangers(conn: &Connection, release: &str) -> rusqlite::Result<HashSet<DeviceKey>> {
    conn.prepare_cached(
        "SELECT device FROM firmware \
         WHERE substr(?1, 1, length(product) + length(chip) + 2) <> product || '/' || chip || '/'",
    )?
    .query_map([release], |row| row.get(0).map(DeviceKey))?
    .collect()
}

/// Notes what a device runs.
///
/// # Errors
/// See [`releases`].
pub fn set_firmware(
    conn: &Connection,
    device: DeviceKey,
    row: &FirmwareRow,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO firmware (device, product, chip, version, security_version, at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        device.0,
        row.product,
        row.chip,
        row.version,
        row.security_version,
        to_sql(row.at),
    ])?;
    Ok(())
}

const PROGRESS: &str = "release, device, state, reason, failures, at";

fn progress_row(row: &Row<'_>) -> rusqlite::Result<ProgressRow> {
    let state: String = row.get(2)?;
    Ok(ProgressRow {
        release: row.get(0)?,
        device: DeviceKey(row.get(1)?),
        progress: Progress::from_text(&state).ok_or_else(|| bad_text(2, &state))?,
        reason: row.get(3)?,
        failures: row.get(4)?,
        at: from_sql(row.get(5)?),
    })
}

/// How far each device is with a release.
///
/// # Errors
/// See [`releases`].
pub fn progress_of_release(conn: &Connection, release: i64) -> rusqlite::Result<Vec<ProgressRow>> {
    conn.prepare_cached(&format!(
        "SELECT {PROGRESS} FROM update_state WHERE release = ?1 ORDER BY device"
    ))?
    .query_map([release], progress_row)?
    .collect()
}

/// How far a device is with each release, the newest first.
///
/// # Errors
/// See [`releases`].
pub fn progress_of_device(
    conn: &Connection,
    device: DeviceKey,
) -> rusqlite::Result<Vec<ProgressRow>> {
    conn.prepare_cached(&format!(
        "SELECT {PROGRESS} FROM update_state WHERE device = ?1 ORDER BY at DESC, release DESC"
    ))?
    .query_map([device.0], progress_row)?
    .collect()
}

/// How many devices are at each point with a release.
///
/// # Errors
/// See [`releases`].
pub fn counts(conn: &Connection, release: i64) -> rusqlite::Result<Vec<(Progress, u64)>> {
    conn.prepare_cached(
        "SELECT state, count(*) FROM update_state WHERE release = ?1 GROUP BY state",
    )?
    .query_map([release], |row| {
        let state: String = row.get(0)?;
        let progress = Progress::from_text(&state).ok_or_else(|| bad_text(0, &state))?;
        Ok((progress, un(row.get(1)?)))
    })?
    .collect()
}

/// Whether an event may be one of those that [`record_event`] records: a look at its bytes, so that
/// others cost nothing.
#[must_use]
pub(super) fn concerns(payload: &[u8]) -> bool {
    payload.windows(9).any(|bytes| bytes == b"\"version\"")
}

/// Records what a device says of its firmware: a boot event, or how far it is with an update. What is
/// neither, or says nothing that is understood, is left alone.
pub(super) fn record_event(
    conn: &Connection,
    device: DeviceKey,
    payload: &[u8],
    now: UnixMillis,
) -> rusqlite::Result<()> {
    let mut slots = [0; SLOTS];
    let Ok(event) = Payload::parse(payload, &mut slots) else {
        return Ok(());
    };
    let text = |name| event.member(name).and_then(|value| value.plain_string());
    let Some(version) = text("version").filter(|version| Version::parse(version).is_ok()) else {
        return Ok(());
    };
    match text("event") {
        Some("boot") => {
            let name = |name| text(name).filter(|text| DeviceId::check(text.as_bytes()).is_ok());
            let security = event.member("security_version").and_then(|v| v.unsigned());
            if let (Some(product), Some(chip), Some(Ok(security_version))) =
                (name("product"), name("chip"), security.map(u32::try_from))
            {
                let row = FirmwareRow {
                    product: product.to_owned(),
                    chip: chip.to_owned(),
                    version: version.to_owned(),
                    security_version,
                    at: now,
                };
                set_firmware(conn, device, &row)?;
            }
            Ok(())
        }
        Some("update") => {
            let progress = text("state").and_then(Progress::from_text);
            let known = firmware(conn, device)?;
            let (Some(progress), Some(known)) = (progress, known) else {
                return Ok(());
            };
            let Some(release) = find(conn, &known.product, &known.chip, version)? else {
                return Ok(());
            };
            let reason = text("reason").map(|reason| {
                reason
                    .get(..MAX_REASON.min(reason.len()))
                    .unwrap_or("")
                    .to_owned()
            });
            advance(conn, device, &release, (progress, reason), now)
        }
        _ => Ok(()),
    }
}

/// Writes down how far a device is, what came of it, and pauses a rollout that fails too often.
fn advance(
    conn: &Connection,
    device: DeviceKey,
    release: &ReleaseRow,
    (progress, reason): (Progress, Option<String>),
    now: UnixMillis,
) -> rusqlite::Result<()> {
    let before: Option<String> = conn
        .prepare_cached("SELECT state FROM update_state WHERE release = ?1 AND device = ?2")?
        .query_row(params![release.key, device.0], |row| row.get(0))
        .optional()?;
    conn.prepare_cached(
        "INSERT INTO update_state (release, device, state, reason, failures, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT DO UPDATE SET state = ?3, reason = ?4, failures = failures + ?5, at = ?6",
    )?
    .execute(params![
        release.key,
        device.0,
        progress.as_str(),
        reason,
        u8::from(progress.is_failure()),
        to_sql(now),
    ])?;
    // A device that says the same again and again fills no record.
    if !progress.is_outcome() || before.as_deref() == Some(progress.as_str()) {
        return Ok(());
    }
    let id: Option<String> = conn
        .prepare_cached("SELECT id FROM device WHERE key = ?1")?
        .query_row([device.0], |row| row.get(0))
        .optional()?;
    let entry = audit::Entry {
        at: now,
        actor: format!("device:{}", id.as_deref().unwrap_or("?")),
        peer: None,
        action: format!("firmware.{}", progress.as_str()),
        target: Some(release.name()),
        result: "ok".to_owned(),
        detail: reason,
    };
    audit::append(conn, &[entry], now)?;
    if !progress.is_failure() {
        return Ok(());
    }
    let Some(mut rollout) = rollout(conn, release.key)?.filter(|rollout| !rollout.paused) else {
        return Ok(());
    };
    let counts = counts(conn, release.key)?;
    let Some(why) = rollout.tripped(&counts) else {
        return Ok(());
    };
    let entry = audit::Entry {
        at: now,
        actor: "gateway".to_owned(),
        peer: None,
        action: "firmware.pause".to_owned(),
        target: Some(release.name()),
        result: "ok".to_owned(),
        detail: Some(why.clone()),
    };
    audit::append(conn, &[entry], now)?;
    tracing::warn!(release = release.name(), why, "a rollout was paused");
    rollout.paused = true;
    rollout.reason = Some(why);
    rollout.changed_at = now;
    "gateway".clone_into(&mut rollout.changed_by);
    set_rollout(conn, release.key, &rollout)
}
