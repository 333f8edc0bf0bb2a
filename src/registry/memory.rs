//! What everyone looks at, and how it follows the database.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::{Device, Rate, RegistryError, passwords::Passwords, table::Table};
use crate::{seal::MasterKey, store::devices::DeviceRow};

/// What is in memory.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) master: Arc<MasterKey>,
    pub(super) default_rate: Rate,
    pub(super) table: RwLock<Table>,
    pub(super) passwords: Passwords,
    pub(super) changes: watch::Sender<u64>,
}

/// Rows that were written and are now to be shown to everyone. It travels through the store with the
/// write and does its work when it is dropped at the latest: should the caller be gone by then,
/// memory follows the database all the same.
pub(super) struct Written {
    pub(super) shared: Arc<Shared>,
    pub(super) rows: Vec<DeviceRow>,
}

impl Shared {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        // Every change to the table is one insertion after everything that can fail.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    pub(super) fn show(&mut self) -> Result<(), RegistryError> {
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
