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
mod error;
mod memory;
mod passwords;
mod reconcile;
mod rights;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod unlock;

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use tidegate_wire::DeviceId;
use tokio::sync::{Mutex, watch};

use crate::{
    clock::UnixMillis,
    config,
    seal::MasterKey,
    store::{
        DeviceKey, Store,
        devices::{self as rows, DeviceRow, SeenRow},
    },
};

pub use credentials::MIN_SECRET;
pub use definition::DefinitionError;
pub use device::{Device, Rate, Seen};
pub use error::RegistryError;
pub use reconcile::{Changed, Difference};
pub use rights::{
    Access, Permission, may_publish, may_subscribe, operator_may_publish, operator_may_subscribe,
};
pub use unlock::unlock;

use definition::Definition;
use memory::{Shared, Written};
use passwords::Passwords;
use reconcile::{Declared, Plan, Unreconciled};
use table::Table;

/// All devices. Share it through an [`Arc`].
#[derive(Debug)]
pub struct Registry {
    store: Store,
    shared: Arc<Shared>,
    /// Held through every change, so that what was decided on is what is changed.
    changing: Mutex<()>,
}

/// Devices one gateway keeps: what a Raspberry Pi holds in memory with room to spare (about 50 MB).
pub const MAX_DEVICES: usize = 100_000;

/// At most this many devices of each kind are named in a log line or an error.
const NAMED: usize = 20;

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
        let passwords = Passwords::new()?;
        let opening = Arc::clone(&master);
        // Row by row: together they take several times what is kept of them.
        let read = store.read(move |conn| {
            let (mut table, mut resealed) = (Table::default(), Vec::new());
            let taken = rows::each(conn, |mut row| {
                if credentials::reseal(&opening, &mut row)? {
                    resealed.push(row.clone());
                }
                passwords.set(row.key, row.password.as_deref());
                table.put(Device::from_row(&row, &opening, default_rate)?);
                Ok::<_, RegistryError>(())
            })?;
            Ok(taken.map(|()| (table, passwords, resealed)))
        });
        let (table, passwords, resealed) = read.await??;
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
        declared: BTreeMap<String, config::Device>,
        now: UnixMillis,
    ) -> Result<Difference, RegistryError> {
        let _changing = self.changing.lock().await;
        let declared = tokio::task::spawn_blocking(move || Declared::read_all(&declared)).await??;
        let master = Arc::clone(&self.shared.master);
        // At nearly every start nearly all of them are as declared: those are not collected.
        let read = self.store.read(move |conn| {
            let mut left = Unreconciled::new(declared);
            let taken = rows::each(conn, |row| left.take(row, &master))?;
            Ok(taken.map(|()| left))
        });
        let (left, master) = (read.await??, Arc::clone(&self.shared.master));
        let plan = tokio::task::spawn_blocking(move || left.plan(&master, now)).await??;
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

#[cfg(test)]
mod tests;
