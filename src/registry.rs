//! The devices that exist, their credentials and their rights.
//!
//! The table `device` is the truth; the whole of it is held in memory, so that no lookup touches SQL.
//! At start and on reload it is reconciled with the devices the configuration declares
//! ([`Registry::reconcile`]); devices added at run time live beside the declared ones and are marked.
//!
//! A device that is removed keeps its row and its number: messages it is owed and sent still name it.
//! Declared again, it is the same device, with the same number and the same memory of the message ids
//! it used.

mod credentials;
mod definition;
mod device;
mod passwords;
mod reconcile;
mod rights;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use tidegate_wire::DeviceId;
use tokio::{
    sync::{Mutex, watch},
    task::JoinError,
};

use crate::{
    clock::UnixMillis,
    config,
    seal::{self, MasterKey, Place, SealError},
    store::{
        DeviceKey, Store, StoreError,
        devices::{self as rows, DeviceRow, SeenRow},
    },
};

pub use credentials::MIN_SECRET;
pub use definition::DefinitionError;
pub use device::{Device, Rate, Seen};
pub use reconcile::{Changed, Difference};
pub use rights::{
    Access, Permission, may_publish, may_subscribe, operator_may_publish, operator_may_subscribe,
};

use definition::Definition;
use passwords::Passwords;
use reconcile::{Declared, Plan};
use table::Table;

/// The place of the value that proves the master key.
const CHECK: Place<'static> = Place {
    table: "seal_check",
    column: "sealed",
    row: "1",
};

/// All devices. Share it through an [`Arc`].
#[derive(Debug)]
pub struct Registry {
    store: Store,
    shared: Arc<Shared>,
    /// Held through every change, so that what was decided on is what is changed.
    changing: Mutex<()>,
}

/// What is in memory.
#[derive(Debug)]
struct Shared {
    master: Arc<MasterKey>,
    default_rate: Rate,
    table: RwLock<Table>,
    passwords: Passwords,
    changes: watch::Sender<u64>,
}

/// Rows that were written and are now to be shown to everyone. It travels through the store with the
/// write and does its work when it is dropped at the latest: should the caller be gone by then,
/// memory follows the database all the same.
struct Written {
    shared: Arc<Shared>,
    rows: Vec<DeviceRow>,
}

/// Why the registry could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("no device {0}; `tidegate device list` shows those there are")]
    Unknown(String),
    #[error("device {0} exists; change it, or remove it first")]
    Exists(DeviceId),
    #[error("device {0} is declared in the configuration; change it there and reload")]
    Declared(DeviceId),
    #[error("device {0} is disabled in the configuration; enable it there and reload")]
    DisabledByDeclaration(DeviceId),
    #[error("{} of the declared devices cannot be used: {}", .0.len(), summary(.0))]
    Declarations(Vec<DefinitionError>),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("the database's row for device {id} is damaged ({detail}); restore a backup")]
    Damaged { id: String, detail: String },
    #[error("there can be no more than {MAX_DEVICES} devices")]
    Full,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the work was given up because the gateway is stopping")]
    Stopping(#[from] JoinError),
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// Devices one gateway keeps: what a Raspberry Pi holds in memory with room to spare (about 50 MB).
pub const MAX_DEVICES: usize = 100_000;

/// At most this many devices of each kind are named in a log line or an error.
const NAMED: usize = 20;

fn summary(errors: &[DefinitionError]) -> String {
    let mut text = errors
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if errors.len() > NAMED {
        text.push_str("; …");
    }
    text
}

/// Loads the master key and proves that it is the one that sealed this database. At the very first
/// start the proof is made.
///
/// # Errors
/// [`RegistryError::Seal`]: there is no such key, it is unsafe, or it is another one.
pub async fn unlock(
    store: &Store,
    sources: seal::Sources,
) -> Result<(MasterKey, seal::Origin), RegistryError> {
    let (sealed, check) = store
        .read(|conn| Ok((rows::holds_sealed(conn)?, rows::seal_check(conn)?)))
        .await?;
    let (master, origin) =
        tokio::task::spawn_blocking(move || seal::load(&sources, sealed)).await??;
    let outdated = match &check {
        Some(check) => {
            // Whatever the failure, it has one cause an operator can do something about.
            master.open(CHECK, check).map_err(|_| SealError::WrongKey)?;
            master.is_outdated(check)
        }
        None => true,
    };
    if outdated {
        let check = master.seal(CHECK, b"tidegate")?;
        store
            .write(move |conn| rows::set_seal_check(conn, &check))
            .await?;
    }
    Ok((master, origin))
}

impl Registry {
    /// Loads every device. What an older master key sealed is sealed again under the current one.
    ///
    /// # Errors
    /// [`RegistryError::Store`], [`RegistryError::Damaged`].
    pub async fn open(
        store: Store,
        master: Arc<MasterKey>,
        default_rate: Rate,
    ) -> Result<Self, RegistryError> {
        let found = store.read(rows::all).await?;
        let mut table = Table::default();
        let passwords = Passwords::new()?;
        let mut resealed = Vec::new();
        for mut row in found {
            if credentials::reseal(&master, &mut row)? {
                resealed.push(row.clone());
            }
            passwords.set(row.key, row.password.as_deref());
            table.put(Device::from_row(&row, &master, default_rate)?);
        }
        if !resealed.is_empty() {
            let count = resealed.len();
            store
                .write(move |conn| resealed.iter().try_for_each(|row| rows::update(conn, row)))
                .await?;
            tracing::info!(count, "sealed device secrets under the new master key");
        }
        let (table, changes) = (RwLock::new(table), watch::Sender::new(0));
        let shared = Arc::new(Shared {
            master,
            default_rate,
            table,
            passwords,
            changes,
        });
        Ok(Self {
            store,
            shared,
            changing: Mutex::new(()),
        })
    }

    /// The device of this id, enabled or not; none if it was removed.
    #[must_use]
    pub fn get(&self, id: &DeviceId) -> Option<Arc<Device>> {
        self.shared.read().get(id)
    }

    /// The device of this number, also if it was removed: what is owed still names it.
    #[must_use]
    pub fn by_key(&self, key: DeviceKey) -> Option<Arc<Device>> {
        self.shared.read().by_key(key)
    }

    /// All devices but the removed ones, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Device>> {
        self.shared.read().all()
    }

    /// How many devices there are, without the removed ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.read().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes whenever any device did; a session then looks its device up again and ends if it is
    /// gone or disabled.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether this is the device's password. Takes tens of milliseconds and 19 MiB, the same for a
    /// device that does not exist, unless the same password was right before: call it where blocking
    /// is allowed, few at once.
    #[must_use]
    pub fn check_password(&self, id: &DeviceId, password: &[u8]) -> bool {
        self.shared
            .passwords
            .check(self.get(id).map(|device| device.key), password)
    }

    /// Makes the declared devices what the configuration says. Nothing changes if any declaration is
    /// wrong; all that are wrong are named. Doing it again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError::Declarations`], or the store's and the seal's errors.
    pub async fn reconcile(
        &self,
        declared: &BTreeMap<String, config::Device>,
        now: UnixMillis,
    ) -> Result<Difference, RegistryError> {
        let _changing = self.changing.lock().await;
        let found = self.store.read(rows::all).await?;
        let (declared, master) = (declared.clone(), Arc::clone(&self.shared.master));
        let plan = tokio::task::spawn_blocking(move || {
            let declared = Declared::read_all(&declared)?;
            reconcile::plan(found, &declared, &master, now)
        })
        .await??;
        let Plan {
            inserts,
            updates,
            mut difference,
        } = plan;
        if self.len() + inserts.len() > MAX_DEVICES {
            return Err(RegistryError::Full);
        }
        self.commit(inserts, updates).await?;
        difference.run_time = self.all().iter().filter(|device| !device.declared).count();
        difference.log();
        Ok(difference)
    }

    /// Adds a device at run time. One that was removed comes back under its old number.
    ///
    /// # Errors
    /// [`RegistryError::Exists`], [`RegistryError::Definition`].
    pub async fn add(
        &self,
        id: DeviceId,
        settings: &config::Device,
        secret: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<Arc<Device>, RegistryError> {
        let definition = Definition::check(&id, settings)?;
        if let Some(secret) = secret {
            credentials::check_secret(&id, secret)?;
        }
        let _changing = self.changing.lock().await;
        let found = self.row(&id).await?;
        if found.as_ref().is_some_and(|row| row.removed_at.is_none()) {
            return Err(RegistryError::Exists(id));
        }
        if self.len() >= MAX_DEVICES {
            return Err(RegistryError::Full);
        }
        let exists = found.is_some();
        let mut row = found.unwrap_or_else(|| definition::blank(&id, now));
        definition.apply_to(&mut row);
        row.declared = false;
        row.removed_at = None;
        row.blocked_reason = None;
        row.updated_at = now;
        if let Some(secret) = secret {
            row.secret = Some(
                self.shared
                    .master
                    .seal(credentials::place(&row.id), secret)?,
            );
        }
        let (inserts, updates) = if exists {
            (vec![], vec![row])
        } else {
            (vec![row], vec![])
        };
        self.commit(inserts, updates).await?;
        self.get(&id)
            .ok_or_else(|| RegistryError::Unknown(id.to_string()))
    }

    /// Removes a device that was added at run time, and forgets its credentials.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Declared`].
    pub async fn remove(&self, id: &DeviceId, now: UnixMillis) -> Result<(), RegistryError> {
        self.change(id, now, |row| {
            if row.declared {
                return Err(RegistryError::Declared(*id));
            }
            row.removed_at = Some(now);
            (row.secret, row.password, row.password_source) = (None, None, None);
            Ok(())
        })
        .await
    }

    /// Blocks a device or lets it in again. A block outlives reloads and restarts, also for a declared
    /// device.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::DisabledByDeclaration`] when it is the
    /// configuration that disables it.
    pub async fn set_enabled(
        &self,
        id: &DeviceId,
        enabled: bool,
        reason: &str,
        now: UnixMillis,
    ) -> Result<(), RegistryError> {
        self.change(id, now, |row| {
            if enabled && !row.enabled && row.declared {
                return Err(RegistryError::DisabledByDeclaration(*id));
            }
            row.enabled |= enabled;
            row.blocked_reason = (!enabled).then(|| reason.to_owned());
            Ok(())
        })
        .await
    }

    /// Gives a device a shared secret.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::Definition`] if it is too short.
    pub async fn set_secret(
        &self,
        id: &DeviceId,
        secret: &[u8],
        now: UnixMillis,
    ) -> Result<(), RegistryError> {
        credentials::check_secret(id, secret)?;
        let sealed = self
            .shared
            .master
            .seal(credentials::place(id.as_str()), secret)?;
        self.change(id, now, |row| {
            row.secret = Some(sealed);
            Ok(())
        })
        .await
    }

    /// Gives a device a password, or takes it away.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::Definition`] if it is empty.
    pub async fn set_password(
        &self,
        id: &DeviceId,
        password: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<(), RegistryError> {
        let hash = match password {
            None => None,
            Some(password) => {
                credentials::check_password(id, password)?;
                let password = zeroize::Zeroizing::new(password.to_vec());
                Some(tokio::task::spawn_blocking(move || passwords::hash(&password)).await??)
            }
        };
        self.change(id, now, |row| {
            (row.password, row.password_source) = (hash, None);
            Ok(())
        })
        .await
    }

    /// Persists what devices were last seen doing; call it every minute and when stopping. Loses
    /// nothing of consequence when the power is cut.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn record_seen(&self) -> Result<usize, RegistryError> {
        let seen: Vec<SeenRow> = self
            .all()
            .iter()
            .filter_map(|device| device.take_seen())
            .collect();
        let count = seen.len();
        if count > 0 {
            self.store
                .write(move |conn| rows::record_seen(conn, &seen))
                .await?;
        }
        Ok(count)
    }

    async fn row(&self, id: &DeviceId) -> Result<Option<DeviceRow>, RegistryError> {
        let id = *id;
        Ok(self
            .store
            .read(move |conn| rows::by_id(conn, id.as_str()))
            .await?)
    }

    async fn change(
        &self,
        id: &DeviceId,
        now: UnixMillis,
        change: impl FnOnce(&mut DeviceRow) -> Result<(), RegistryError> + Send,
    ) -> Result<(), RegistryError> {
        let _changing = self.changing.lock().await;
        let row = self.row(id).await?.filter(|row| row.removed_at.is_none());
        let mut row = row.ok_or_else(|| RegistryError::Unknown(id.to_string()))?;
        change(&mut row)?;
        row.updated_at = now;
        self.commit(vec![], vec![row]).await
    }

    /// Writes rows in one transaction, and only then shows them to everyone.
    async fn commit(
        &self,
        mut inserts: Vec<DeviceRow>,
        updates: Vec<DeviceRow>,
    ) -> Result<(), RegistryError> {
        if inserts.is_empty() && updates.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let mut written = self
            .store
            .write(move |conn| {
                for row in &mut inserts {
                    row.key = rows::insert(conn, row)?;
                }
                updates.iter().try_for_each(|row| rows::update(conn, row))?;
                inserts.extend(updates);
                Ok(Written {
                    shared,
                    rows: inserts,
                })
            })
            .await?;
        written.show()
    }
}

impl Shared {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        // Every change to the table is one insertion after everything that can fail.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn show(&mut self) -> Result<(), RegistryError> {
        let rows = std::mem::take(&mut self.rows);
        let shared = &self.shared;
        let devices = rows
            .iter()
            .map(|row| Device::from_row(row, &shared.master, shared.default_rate))
            .collect::<Result<Vec<_>, _>>()?;
        for row in &rows {
            let kept = row
                .removed_at
                .is_none()
                .then_some(row.password.as_deref())
                .flatten();
            shared.passwords.set(row.key, kept);
        }
        {
            let mut table = shared.table.write().unwrap_or_else(PoisonError::into_inner);
            devices.into_iter().for_each(|device| table.put(device));
        }
        shared.changes.send_modify(|generation| *generation += 1);
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.rows.is_empty()
            && let Err(error) = self.show()
        {
            tracing::error!(%error, "a change to devices is on disk but not in force; restart the gateway");
        }
    }
}

#[cfg(test)]
mod tests;
