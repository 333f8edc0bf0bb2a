//! What operators do with releases: publish, roll out, pause, withdraw, check.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_wire::manifest::{Manifest, PublicKey, Refusal, Signed};

use super::{Progress, Rollout, Shelf, Standing, UpdateError, shelf::hex};
use crate::{
    clock::UnixMillis,
    registry::Registry,
    store::{
        Store, StoreError,
        updates::{self, ReleaseRow},
    },
};

/// Key of a release that is not in the database yet.
const NEW: i64 = 0;

/// One step of a rollout: who is to have the release in addition to those who are. Unset: as it is.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub devices: Vec<String>,
    pub groups: Vec<String>,
    pub percent: Option<u8>,
    pub failure_percent: Option<u8>,
    pub failures_least: Option<u32>,
    /// Devices that failed are to try again.
    pub again: bool,
}

impl Step {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
            && self.groups.is_empty()
            && self.percent.is_none()
            && self.failure_percent.is_none()
            && self.failures_least.is_none()
            && !self.again
    }
}

/// A release with its rollout and how many devices are where.
#[derive(Clone, Debug)]
pub struct Overview {
    pub release: ReleaseRow,
    pub rollout: Option<Rollout>,
    pub counts: Vec<(Progress, u64)>,
}

/// What a check of everything found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Published releases that are as they should be.
    pub good: usize,
    /// A release and what is wrong with it.
    pub bad: Vec<(String, String)>,
    /// Files that belong to no release.
    pub strangers: Vec<String>,
    pub bytes: u64,
}

/// Releases in the hands of operators.
#[expect(missing_debug_implementations, reason = "a bag of shared parts")]
pub struct Desk {
    store: Store,
    registry: Arc<Registry>,
    shelf: Arc<Shelf>,
    keys: Vec<PublicKey>,
    /// Releases kept per product and chip.
    keep: usize,
}

impl Desk {
    #[must_use]
    pub fn new(
        store: Store,
        registry: Arc<Registry>,
        shelf: Arc<Shelf>,
        keys: Vec<PublicKey>,
        keep: usize,
    ) -> Self {
        Self {
            store,
            registry,
            shelf,
            keys,
            keep,
        }
    }

    #[must_use]
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Runs what blocks on files off the runtime's threads.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T, UpdateError> + Send + 'static,
    ) -> Result<T, UpdateError> {
        let shelf = Arc::clone(&self.shelf);
        tokio::task::spawn_blocking(move || work(&shelf))
            .await
            .map_err(|_| StoreError::Stopping)?
    }

    /// Begins to publish: everything that can be judged by the manifest alone is, and room is made.
    /// The release's name and the image's length. A release that is published already and whose image is
    /// lost or damaged, as after a restore without images, can be published again with the same manifest.
    ///
    /// # Errors
    /// [`UpdateError`]: the manifest is refused, the release or a newer one is there, no room.
    pub async fn begin(
        &self,
        manifest: Vec<u8>,
        now: UnixMillis,
    ) -> Result<(String, u64), UpdateError> {
        let row = self.judge(&manifest, now).await?;
        let (sha256, size) = (row.sha256.clone(), u64::from(row.size));
        if row.key != NEW {
            let image = sha256.clone();
            let fault = self.on_disk(move |shelf| shelf.check(&image, size)).await?;
            fault.ok_or_else(|| UpdateError::Exists(row.name()))?;
        }
        let asked = sha256.clone();
        let mut excess = self
            .on_disk(move |shelf| shelf.excess(&asked, size))
            .await?;
        if excess > 0 {
            // What nobody is to have any more goes first.
            self.retire(0, &row.name()).await?;
            let asked = sha256.clone();
            excess = self
                .on_disk(move |shelf| shelf.excess(&asked, size))
                .await?;
        }
        if excess > 0 {
            return Err(self.on_disk(move |shelf| shelf.over_budget(size)).await?);
        }
        self.on_disk(move |shelf| shelf.begin(manifest, sha256, size))
            .await?;
        Ok((row.name(), size))
    }

    /// Takes in the next piece of the image.
    ///
    /// # Errors
    /// See [`Shelf::take`].
    pub async fn take(&self, offset: u64, piece: Vec<u8>) -> Result<(), UpdateError> {
        self.on_disk(move |shelf| shelf.take(offset, &piece)).await
    }

    /// Publishes what was taken in, if it is what the manifest says. Nobody is offered it yet.
    ///
    /// # Errors
    /// [`UpdateError`]; nothing is published then.
    pub async fn finish(&self, by: &str, now: UnixMillis) -> Result<ReleaseRow, UpdateError> {
        let manifest = self.on_disk(Shelf::finish).await?;
        // Once more: something may have been published or have expired since.
        let mut row = match self.judge(&manifest, now).await {
            Ok(row) => row,
            Err(error) => {
                self.tidy().await?;
                return Err(error);
            }
        };
        if row.key == NEW {
            by.clone_into(&mut row.published_by);
            let inserted = row.clone();
            row.key = self
                .store
                .write(move |conn| updates::insert(conn, &inserted))
                .await?;
        }
        self.retire(self.keep, &row.name()).await?;
        Ok(row)
    }

    /// The release that a manifest would be, or that it is.
    async fn judge(&self, text: &[u8], now: UnixMillis) -> Result<ReleaseRow, UpdateError> {
        if self.keys.is_empty() {
            return Err(UpdateError::NoKeys);
        }
        let signed = Signed::parse(text).map_err(Refusal::from)?;
        let manifest = signed.verify(&self.keys)?;
        if manifest.expires <= now.seconds() {
            return Err(Refusal::Expired.into());
        }
        let row = row(&manifest, text, now);
        let (all, name) = (self.releases().await?, row.name());
        let same = |other: &&ReleaseRow| other.product == row.product && other.chip == row.chip;
        if let Some(there) = all.iter().find(|other| other.name() == name) {
            let same = there.standing == Standing::Published && there.manifest == text;
            return match same {
                true => Ok(there.clone()),
                false => Err(UpdateError::Exists(name)),
            };
        }
        let newest = all.iter().filter(same).max_by_key(|other| other.sequence);
        if let Some(newest) = newest.filter(|newest| newest.sequence >= row.sequence) {
            return Err(UpdateError::Sequence {
                given: row.sequence,
                newest: newest.sequence,
                name: newest.name(),
            });
        }
        Ok(row)
    }

    async fn releases(&self) -> Result<Vec<ReleaseRow>, UpdateError> {
        Ok(self.store.read(updates::releases).await?)
    }

    /// Retires all but the newest `keep` releases of each product and chip. `spare` stays in any case,
    /// and so does what is rolled out while no newer release is rolled out to everybody.
    async fn retire(&self, keep: usize, spare: &str) -> Result<(), UpdateError> {
        #[derive(Default)]
        struct Line {
            seen: usize,
            /// Everybody is to have a newer one.
            covered: bool,
        }
        let spare = spare.to_owned();
        self.store
            .write(move |conn| {
                let mut lines: BTreeMap<(String, String), Line> = BTreeMap::new();
                for release in updates::releases(conn)?.into_iter().rev() {
                    if release.standing != Standing::Published {
                        continue;
                    }
                    let of = (release.product.clone(), release.chip.clone());
                    let line = lines.entry(of).or_default();
                    line.seen += 1;
                    let rollout = updates::rollout(conn, release.key)?;
                    let wanted = rollout.is_some() && !line.covered;
                    line.covered |= rollout.is_some_and(|r| !r.paused && r.percent == 100);
                    if line.seen > keep.max(1) && !wanted && release.name() != spare {
                        updates::stand(conn, release.key, Standing::Retired, None)?;
                        tracing::info!(release = release.name(), "retired: newer ones are kept");
                    }
                }
                Ok(())
            })
            .await?;
        self.tidy().await
    }

    /// Deletes images of releases that are not published any more.
    async fn tidy(&self) -> Result<(), UpdateError> {
        let wanted: Vec<String> = self
            .releases()
            .await?
            .into_iter()
            .filter(|release| release.standing == Standing::Published)
            .map(|release| release.sha256)
            .collect();
        self.on_disk(move |shelf| {
            let images = shelf.look()?.images.into_keys();
            images
                .filter(|image| !wanted.contains(image))
                .try_for_each(|image| shelf.remove(&image))
        })
        .await
    }

    /// What the images take, and what they may take, in bytes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn disk(&self) -> Result<(u64, u64), UpdateError> {
        self.on_disk(|shelf| Ok((shelf.look()?.bytes(), shelf.budget())))
            .await
    }

    /// Every release, newest first.
    ///
    /// # Errors
    /// [`UpdateError::Store`].
    pub async fn list(&self) -> Result<Vec<Overview>, UpdateError> {
        Ok(self.store.read(overviews).await?)
    }

    /// [`Desk::list`], and what the images take on disk in bytes, on a thread where blocking is allowed.
    ///
    /// # Errors
    /// [`UpdateError::Store`]; the folder cannot be read.
    pub fn survey_blocking(&self) -> Result<(Vec<Overview>, u64), UpdateError> {
        let overviews = self.store.read_blocking(overviews)?;
        Ok((overviews, self.shelf.look()?.bytes()))
    }

    /// The release called `name`.
    ///
    /// # Errors
    /// [`UpdateError::Name`], [`UpdateError::Unknown`].
    pub async fn find(&self, name: &str) -> Result<ReleaseRow, UpdateError> {
        let mut parts = name.split('/').map(str::to_owned);
        let (Some(product), Some(chip), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(UpdateError::Name(name.to_owned()));
        };
        let found = self
            .store
            .read(move |conn| updates::find(conn, &product, &chip, &version));
        found
            .await?
            .ok_or_else(|| UpdateError::Unknown(name.to_owned()))
    }

    /// The release called `name`, its rollout, and how far each device is.
    ///
    /// # Errors
    /// As [`Desk::find`].
    pub async fn show(
        &self,
        name: &str,
    ) -> Result<(Overview, Vec<updates::ProgressRow>), UpdateError> {
        let release = self.find(name).await?;
        let read = self.store.read(move |conn| {
            let overview = overview(conn, release)?;
            let progress = updates::progress_of_release(conn, overview.release.key)?;
            Ok((overview, progress))
        });
        Ok(read.await?)
    }

    /// Takes a rollout one step further.
    ///
    /// # Errors
    /// The release is not published, a device is unknown, a number makes no sense.
    pub async fn step(
        &self,
        name: &str,
        step: Step,
        by: &str,
        now: UnixMillis,
    ) -> Result<Rollout, UpdateError> {
        let release = self.published(name).await?;
        let range =
            |what, given: Option<u64>, range: std::ops::RangeInclusive<u64>, text| match given
                .filter(|given| !range.contains(given))
            {
                Some(given) => Err(UpdateError::OutOfRange {
                    what,
                    given,
                    range: text,
                }),
                None => Ok(()),
            };
        range(
            "--percent",
            step.percent.map(Into::into),
            0..=100,
            "0 to 100",
        )?;
        let failures = step.failure_percent.map(Into::into);
        range("--max-failure-percent", failures, 1..=100, "1 to 100")?;
        let least = step.failures_least.map(Into::into);
        range("--min-failures", least, 1..=1_000_000, "1 or more")?;
        for id in &step.devices {
            let known = self.registry.all().iter().any(|device| device.id == **id);
            if !known {
                return Err(UpdateError::UnknownDevice(id.clone()));
            }
        }
        let by = by.to_owned();
        let changed = self.store.write(move |conn| {
            let mut rollout =
                updates::rollout(conn, release.key)?.unwrap_or_else(|| Rollout::none(now, &by));
            merge(&mut rollout.devices, step.devices);
            merge(&mut rollout.groups, step.groups);
            rollout.percent = step.percent.unwrap_or(rollout.percent);
            rollout.failure_percent = step.failure_percent.unwrap_or(rollout.failure_percent);
            rollout.failures_least = step.failures_least.unwrap_or(rollout.failures_least);
            rollout.step += 1;
            rollout.changed_at = now;
            rollout.changed_by = by;
            if step.again {
                updates::try_again(conn, release.key)?;
            }
            updates::set_rollout(conn, release.key, &rollout)?;
            Ok(rollout)
        });
        Ok(changed.await?)
    }

    /// Pauses a rollout, or lets it go on.
    ///
    /// # Errors
    /// There is no such rollout.
    pub async fn pause(
        &self,
        name: &str,
        paused: bool,
        reason: Option<String>,
        by: &str,
        now: UnixMillis,
    ) -> Result<Rollout, UpdateError> {
        let release = if paused {
            self.find(name).await?
        } else {
            self.published(name).await?
        };
        let by = by.to_owned();
        let changed = self.store.write(move |conn| {
            let Some(mut rollout) = updates::rollout(conn, release.key)? else {
                return Ok(None);
            };
            rollout.paused = paused;
            rollout.reason = reason;
            rollout.changed_at = now;
            rollout.changed_by = by;
            updates::set_rollout(conn, release.key, &rollout)?;
            Ok(Some(rollout))
        });
        changed
            .await?
            .ok_or_else(|| UpdateError::NotRolledOut(name.to_owned()))
    }

    /// Withdraws a release for good and deletes its image.
    ///
    /// # Errors
    /// There is no such release.
    pub async fn withdraw(&self, name: &str, reason: String) -> Result<(), UpdateError> {
        let release = self.find(name).await?;
        self.store
            .write(move |conn| {
                updates::stand(conn, release.key, Standing::Withdrawn, Some(&reason))
            })
            .await?;
        self.tidy().await
    }

    async fn published(&self, name: &str) -> Result<ReleaseRow, UpdateError> {
        let release = self.find(name).await?;
        if release.standing == Standing::Published {
            return Ok(release);
        }
        Err(UpdateError::NotPublished {
            name: name.to_owned(),
            standing: release.standing.as_str(),
        })
    }

    /// Checks every published release again: signature, expiry, image.
    ///
    /// # Errors
    /// What cannot be read at all.
    pub async fn verify(&self, now: UnixMillis) -> Result<Checked, UpdateError> {
        let (releases, keys) = (self.releases().await?, self.keys.clone());
        self.on_disk(move |shelf| {
            let shelved = shelf.look()?;
            let mut checked = Checked {
                bytes: shelved.bytes(),
                strangers: shelved.strangers,
                ..Checked::default()
            };
            let published: Vec<_> = releases
                .iter()
                .filter(|release| release.standing == Standing::Published)
                .collect();
            for release in &published {
                let signed = Signed::parse(&release.manifest)
                    .map_err(Refusal::from)
                    .and_then(|signed| signed.verify(&keys).map(|_| ()));
                let fault = shelf.check(&release.sha256, release.size.into())?;
                let wrong = match (signed, fault) {
                    (Err(refusal), _) => Some(format!("{}: {refusal}", refusal.code())),
                    (_, Some(fault)) => Some(fault.as_str().to_owned()),
                    (Ok(()), None) if release.expires <= now.seconds() => {
                        Some(format!("expired: {}", Refusal::Expired))
                    }
                    (Ok(()), None) => None,
                };
                match wrong {
                    Some(wrong) => checked.bad.push((release.name(), wrong)),
                    None => checked.good += 1,
                }
            }
            let unknown = shelved.images.into_keys();
            let unknown = unknown.filter(|image| published.iter().all(|r| r.sha256 != *image));
            checked.strangers.extend(unknown);
            Ok(checked)
        })
        .await
    }
}

fn overviews(conn: &rusqlite::Connection) -> rusqlite::Result<Vec<Overview>> {
    updates::releases(conn)?
        .into_iter()
        .rev()
        .map(|release| overview(conn, release))
        .collect()
}

fn overview(conn: &rusqlite::Connection, release: ReleaseRow) -> rusqlite::Result<Overview> {
    Ok(Overview {
        rollout: updates::rollout(conn, release.key)?,
        counts: updates::counts(conn, release.key)?,
        release,
    })
}

fn merge(names: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

fn row(manifest: &Manifest<'_>, text: &[u8], now: UnixMillis) -> ReleaseRow {
    ReleaseRow {
        key: NEW,
        product: manifest.product.to_owned(),
        chip: manifest.chip.to_owned(),
        version: manifest.version.to_string(),
        sequence: manifest.sequence,
        security_version: manifest.security_version,
        size: manifest.size,
        sha256: hex(&manifest.sha256),
        expires: manifest.expires,
        manifest: text.to_vec(),
        standing: Standing::Published,
        reason: None,
        published_at: now,
        published_by: String::new(),
    }
}
