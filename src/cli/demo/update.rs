//! `--update`: a release for every product, signed, published and rolled out as the commands do it, and
//! what becomes of it by the devices' own signed events. On one device it crashes, which must be back on
//! what it ran before; all others must move.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    slice,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tidegate_host::{Behaviour, Firmware, Timing, Updating};
use tidegate_wire::manifest::{Manifest, Version};
use tokio::time::{Instant, sleep, timeout_at};

use super::{DemoError, devices, status};
use crate::{
    app::Handle,
    cli::state::caller,
    clock::system_now,
    control::{
        FirmwareRequest, Request,
        answer::{DeviceDetail, Done},
        firmware::{Begun, PIECE_BYTES, Release, Releases, Rolled, RolloutDetail},
    },
    ota::{
        Progress,
        signing::{self, ReleaseKey},
    },
};

/// The release key in the state folder.
const KEY: &str = "release.key";

/// What the demo's devices run on.
const CHIP: &str = "host";

/// Bytes of an image: at [`BYTES_PER_SECOND`], a download can be watched.
const IMAGE: usize = 128 * 1024;
pub(super) const BYTES_PER_SECOND: u64 = 64 * 1024;

/// For how long a release can be installed: nobody looks at it for longer.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// How often it is looked whether something happened: a restart on this machine takes little longer.
/// With many devices it takes longer to look, and less is told.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_MANY: Duration = Duration::from_millis(500);

/// Devices that are told of one by one; of more than these only those that fail are.
const TOLD: usize = 12;

/// How the devices are updated. They are told to look when there is something; by themselves they look
/// the more seldom the more they are, because all of them share two processors or so with the gateway.
pub(super) fn updating(update: bool, devices: u16) -> Updating {
    let timing = if update {
        Timing {
            first: Duration::from_secs(5) + Duration::from_millis(20) * devices.into(),
            interval: Duration::from_secs(15) + Duration::from_millis(40) * devices.into(),
            // One that crashes is back at once; those that wait for each other's handshakes have time.
            trial: Duration::from_secs(60) + Duration::from_millis(250) * devices.into(),
        }
    } else {
        // Nobody serves updates: not within ten years.
        let never = Duration::from_secs(10 * 365 * 24 * 3600);
        Timing {
            first: never,
            interval: never,
            ..Timing::USUAL
        }
    };
    Updating {
        timing,
        ..Updating::default()
    }
}

/// The key that signs the demo's releases; made at the first start.
///
/// # Errors
/// It cannot be made, or what is there is none.
pub(super) fn release_key(state_dir: &Path) -> Result<ReleaseKey, DemoError> {
    let path = state_dir.join(KEY);
    if !path.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|source| DemoError::State {
                path: state_dir.to_owned(),
                source,
            })?;
        ReleaseKey::generate(&path)?;
    }
    Ok(ReleaseKey::read(&path)?)
}

/// The update of one demo.
pub(super) struct Update {
    key: ReleaseKey,
    /// What is released, once it is.
    version: OnceLock<String>,
    confirmed: AtomicUsize,
    over: AtomicBool,
}

impl Update {
    pub(super) fn new(key: ReleaseKey) -> Self {
        Self {
            key,
            version: OnceLock::new(),
            confirmed: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Devices that run the release.
    pub(super) fn confirmed(&self) -> usize {
        self.confirmed.load(Relaxed)
    }

    /// The version that is on its way to devices.
    pub(super) fn under_way(&self) -> Option<&str> {
        let version = self.version.get()?;
        (!self.over.load(Relaxed)).then_some(version)
    }

    /// Releases something to all devices once they are connected, and waits for what becomes of it.
    ///
    /// # Errors
    /// [`DemoError::Unfinished`] when it is not through at `end`, [`DemoError::Failed`] when something
    /// else came of it than should.
    pub(super) async fn run(
        &self,
        handle: &Handle,
        names: &[String],
        end: Option<Instant>,
    ) -> Result<(), DemoError> {
        let told = match end {
            Some(end) => timeout_at(end, self.go(handle, names)).await,
            None => Ok(self.go(handle, names).await),
        };
        told.unwrap_or_else(|_| {
            let (through, all) = (self.confirmed(), names.len());
            let how_far = match self.version.get() {
                Some(version) => format!("{through} of {all} devices run {version}"),
                None => "not all devices had connected".to_owned(),
            };
            Err(DemoError::Unfinished(how_far))
        })
    }

    async fn go(&self, handle: &Handle, names: &[String]) -> Result<(), DemoError> {
        while !names.iter().all(|name| handle.connected(name)) {
            sleep(LOOK).await;
        }
        let Some(fails) = names.last() else {
            return Ok(());
        };
        let releases = self.release(handle, names, fails).await?;
        let version = self.version.get().map_or("", String::as_str);
        let ends = self.watch(handle, names, &releases, version).await?;
        let verdict = verdict(version, fails, &ends).map_err(DemoError::Failed)?;
        self.over.store(true, Relaxed);
        status::note(&verdict);
        Ok(())
    }

    /// Signs, publishes and rolls out one release for each product; their names.
    async fn release(
        &self,
        handle: &Handle,
        names: &[String],
        fails: &str,
    ) -> Result<Vec<String>, DemoError> {
        let known: Releases = ask(handle, FirmwareRequest::List).await?;
        let versions = known.releases.iter().filter_map(|known| version_of(known));
        let firmware = Firmware {
            version: next_version(&Firmware::built_in().version, versions),
            behaviour: Behaviour::Crashes,
            only_on: Some(fails.to_owned()),
            ..Firmware::built_in()
        };
        let sequences = known
            .releases
            .iter()
            .map(|known| known.sequence.saturating_add(1));
        let sequence = sequences.fold(system_now().seconds(), u64::max);
        let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
        let products: BTreeSet<&str> = (1..=count)
            .map(|number| devices::product(devices::kind(number)))
            .collect();
        let mut releases = Vec::new();
        for product in &products {
            releases.push(self.publish(handle, product, &firmware, sequence).await?);
        }
        let version = self.version.get_or_init(|| firmware.version.clone());
        let products: Vec<&str> = products.into_iter().collect();
        status::note(&format!(
            "update: {version} for {} is signed and published; it is made to crash on {fails}",
            products.join(", ")
        ));
        for release in &releases {
            let request = FirmwareRequest::Rollout {
                release: release.clone(),
                devices: Vec::new(),
                groups: Vec::new(),
                percent: Some(100),
                failure_percent: None,
                failures_least: None,
                again: false,
                now: true,
            };
            let _: Rolled = ask(handle, request).await?;
        }
        status::note(&format!("update: {version} is rolled out to all devices"));
        Ok(releases)
    }

    /// Publishes an image, as `tidegate firmware sign` and `publish` do; the release's name.
    async fn publish(
        &self,
        handle: &Handle,
        product: &str,
        firmware: &Firmware,
        sequence: u64,
    ) -> Result<String, DemoError> {
        let image = firmware.image(IMAGE);
        let manifest = Manifest {
            sequence,
            product,
            chip: CHIP,
            version: Version::parse(&firmware.version)
                .map_err(|error| DemoError::Failed(format!("{}: {error}", firmware.version)))?,
            security_version: firmware.security_version,
            min_version: None,
            size: u32::try_from(image.len()).unwrap_or(u32::MAX),
            sha256: Sha256::digest(&image).into(),
            expires: system_now().seconds().saturating_add(VALID.as_secs()),
        };
        let signed = signing::sign(&manifest, slice::from_ref(&self.key))?;
        let manifest = String::from_utf8_lossy(&signed).into_owned();
        let begun: Begun = ask(handle, FirmwareRequest::Begin { manifest }).await?;
        let mut offset = 0;
        for piece in image.chunks(PIECE_BYTES) {
            let bytes = BASE64_STANDARD.encode(piece);
            let _: Done = ask(handle, FirmwareRequest::Piece { offset, bytes }).await?;
            offset += piece.len() as u64;
        }
        let release = begun.release;
        let published: Release = ask(handle, FirmwareRequest::Publish { release }).await?;
        Ok(published.release)
    }

    /// Tells what devices say about the releases until each has kept or rolled back its own; how that
    /// ended for each.
    async fn watch(
        &self,
        handle: &Handle,
        names: &[String],
        releases: &[String],
        version: &str,
    ) -> Result<BTreeMap<String, End>, DemoError> {
        let few = names.len() <= TOLD;
        let look = if few { LOOK } else { LOOK_AT_MANY };
        let ours: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut seen: BTreeMap<String, (Progress, String)> = BTreeMap::new();
        loop {
            for release in releases {
                let release = release.clone();
                let detail: RolloutDetail = ask(handle, FirmwareRequest::Show { release }).await?;
                for row in detail.progress {
                    let Some(progress) = Progress::from_text(&row.state) else {
                        continue;
                    };
                    let now = (progress, row.reason.unwrap_or_default());
                    if !ours.contains(row.device.as_str()) || seen.get(&row.device) == Some(&now) {
                        continue;
                    }
                    if few || progress.is_failure() {
                        status::note(&line(&row.device, version, progress, &now.1));
                    }
                    seen.insert(row.device, now);
                }
                if let Some(rollout) = detail.release.rollout.filter(|rollout| rollout.paused) {
                    return Err(DemoError::Failed(format!(
                        "the rollout of {} paused: {}",
                        detail.release.release,
                        rollout.reason.unwrap_or_default()
                    )));
                }
            }
            let count = |of| seen.values().filter(|(now, _)| *now == of).count();
            let confirmed = count(Progress::Confirmed);
            self.confirmed.store(confirmed, Relaxed);
            if confirmed + count(Progress::RolledBack) >= names.len() {
                break;
            }
            sleep(look).await;
        }
        let mut ends = BTreeMap::new();
        for (device, (progress, reason)) in seen {
            let request = Request::DeviceShow { id: device.clone() };
            let detail: DeviceDetail = handle.ask(request, caller()).await?;
            let runs = detail.firmware.map(|firmware| firmware.version);
            let end = End {
                progress,
                reason,
                runs: runs.unwrap_or_default(),
            };
            ends.insert(device, end);
        }
        Ok(ends)
    }
}

/// How the update ended for a device.
#[derive(Clone, Debug)]
struct End {
    progress: Progress,
    reason: String,
    /// The version that it says it runs.
    runs: String,
}

async fn ask<T: DeserializeOwned>(
    handle: &Handle,
    request: FirmwareRequest,
) -> Result<T, DemoError> {
    Ok(handle.ask(Request::Firmware { request }, caller()).await?)
}

/// What a device said, in words.
fn line(device: &str, version: &str, progress: Progress, reason: &str) -> String {
    match progress {
        Progress::Offered => format!("{device}: is offered {version}"),
        Progress::Downloading => format!("{device}: downloads {version}"),
        Progress::Installed => format!("{device}: restarts into {version}"),
        Progress::Confirmed => format!("{device}: runs {version} and keeps it"),
        Progress::Failed => format!("{device}: failed to get {version} ({reason})"),
        Progress::RolledBack => format!("{device}: rolled {version} back ({reason})"),
    }
}

/// Whether everybody runs the new version but the one that is to fail, which is back where it was
/// because the new one crashed.
fn verdict(version: &str, fails: &str, ends: &BTreeMap<String, End>) -> Result<String, String> {
    let mut back = String::new();
    for (device, end) in ends {
        let End {
            progress,
            reason,
            runs,
        } = end;
        let as_it_should = if device == fails {
            back.clone_from(runs);
            *progress == Progress::RolledBack && reason == "crashed" && runs != version
        } else {
            *progress == Progress::Confirmed && runs == version
        };
        if !as_it_should {
            let state = progress.as_str().replace('_', " ");
            let should = if device == fails {
                "crash with it and roll back"
            } else {
                "run it"
            };
            return Err(format!(
                "update {version}: {device} should {should}, but is: {state} {reason}, and runs {runs}"
            ));
        }
    }
    let (moved, all) = (ends.len().saturating_sub(1), ends.len());
    Ok(format!(
        "update: {moved} of {all} devices run {version}; {fails} crashed with it, rolled back and runs {back} as before"
    ))
}

/// The version in a release's name.
fn version_of(release: &Release) -> Option<&str> {
    release.release.rsplit('/').next()
}

/// The next minor version after all of these.
fn next_version<'a>(built_in: &'a str, published: impl Iterator<Item = &'a str>) -> String {
    let numbers = |text: &'a str| -> Option<(u64, u64)> {
        Version::parse(text).ok()?;
        let mut numbers = text.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let all = published.chain([built_in]).filter_map(numbers);
    let (major, minor) = all.max().unwrap_or_default();
    match minor.checked_add(1) {
        Some(minor) => format!("{major}.{minor}.0"),
        None => format!("{}.0.0", major.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_version_is_newer_than_all() {
        let next = |published: &[&'static str]| next_version("0.1.0", published.iter().copied());
        assert_eq!(next(&[]), "0.2.0");
        assert_eq!(next(&["0.2.0", "0.10.0", "0.9.3"]), "0.11.0");
        assert_eq!(next(&["1.3.0-rc.1", "what"]), "1.4.0");
        assert_eq!(next(&["3.18446744073709551615.0"]), "4.0.0");
    }

    #[test]
    fn the_verdict_is_good_only_if_one_rolled_back_and_all_others_moved() {
        let end = |progress, reason: &str, runs: &str| End {
            progress,
            reason: reason.to_owned(),
            runs: runs.to_owned(),
        };
        let moved = end(Progress::Confirmed, "", "0.2.0");
        let back = end(Progress::RolledBack, "crashed", "0.1.0");
        let judge = |first: &End, second: &End| {
            let ends = [("a", first), ("b", second)];
            let ends = ends.map(|(name, end)| (name.to_owned(), end.clone()));
            verdict("0.2.0", "b", &ends.into())
        };
        let good = judge(&moved, &back).unwrap();
        assert!(good.contains("1 of 2 devices run 0.2.0"), "{good}");
        assert!(good.contains("runs 0.1.0 as before"), "{good}");
        for (first, second, named) in [
            (&back, &back, "a should run it"),
            (&moved, &moved, "b should crash"),
            (&end(Progress::Confirmed, "", "0.1.0"), &back, "runs 0.1.0"),
            (
                &moved,
                &end(Progress::RolledBack, "watchdog", "0.1.0"),
                "watchdog",
            ),
            (
                &moved,
                &end(Progress::RolledBack, "crashed", "0.2.0"),
                "runs 0.2.0",
            ),
        ] {
            let bad = judge(first, second).unwrap_err();
            assert!(bad.contains(named), "{named}: {bad}");
        }
    }
}
