//! The little that must outlast a power loss besides credentials and readings.

use embedded_storage_async::nor_flash::NorFlash;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapStorage};

/// What is kept under which key. Keys from [`EXECUTED`](key::EXECUTED) on are executed commands.
pub mod key {
    /// The last time that was known, seconds since 1970.
    pub const TIME: u8 = 0;
    /// How often the device started.
    pub const BOOTS: u8 = 1;
    /// Readings lost and not yet reported.
    pub const LOST: u8 = 2;
    /// How far an update was downloaded; this and what follows: [`record`](crate::update::record).
    pub const UPDATE_PROGRESS: u8 = 0x10;
    /// The update that was activated last.
    pub const UPDATE_TRIAL: u8 = 0x11;
    /// Its version.
    pub const UPDATE_VERSION: u8 = 0x12;
    /// What the device never goes below.
    pub const UPDATE_FLOOR: u8 = 0x13;
    /// The release that was given up last.
    pub const UPDATE_SHUNNED: u8 = 0x14;
    /// The first of the slots for executed commands.
    pub const EXECUTED: u8 = 0x40;
}

/// Room for the largest entry and its key, in the flash's largest unit.
const BUFFER: usize = VALUE + 32;

/// Most bytes of a value: a version is the longest.
pub const VALUE: usize = 64;

/// A map in flash: small values by number, each replaced whole or not at all.
#[expect(missing_debug_implementations, reason = "the map has none")]
pub struct State<F: NorFlash> {
    map: MapStorage<u8, F, Cache<Uncached, Uncached, Uncached, u8>>,
    /// The partition could not be read and was erased.
    lost: bool,
}

/// The state partition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is too small, or not made of whole pages.
    #[error("state partition must be two erase pages or more: check the partition table")]
    Partition,
    /// It cannot be read or written.
    #[error("state partition cannot be accessed: the flash may be worn out")]
    Flash,
}

impl<F: NorFlash> State<F> {
    /// Opens the partition. One that makes no sense is erased, and [`lost`](Self::lost) says so.
    ///
    /// # Errors
    ///
    /// [`StateError`]
    pub async fn open(flash: F) -> Result<Self, StateError> {
        let end = flash.capacity() - flash.capacity() % F::ERASE_SIZE;
        let config = MapConfig::try_new(0..end as u32).map_err(|_| StateError::Partition)?;
        let mut state = Self {
            map: MapStorage::new(flash, config, Cache::new_uncached()),
            lost: false,
        };
        if state.read(key::TIME).await.is_err() {
            state.map.erase_all().await.map_err(|_| StateError::Flash)?;
            state.lost = true;
        }
        Ok(state)
    }

    /// Whether it had to be erased when it was opened.
    pub const fn lost(&self) -> bool {
        self.lost
    }

    async fn read(&mut self, key: u8) -> Result<Option<Value>, StateError> {
        let mut buffer = [0; BUFFER];
        let value: Option<&[u8]> = self
            .map
            .fetch_item(&mut buffer, &key)
            .await
            .map_err(|_| StateError::Flash)?;
        Ok(value.map(Value::new))
    }

    /// The value under `key`.
    pub async fn get(&mut self, key: u8) -> Option<Value> {
        self.read(key).await.ok().flatten()
    }

    /// The number under `key`.
    pub async fn number(&mut self, key: u8) -> Option<u64> {
        let value = self.get(key).await?;
        Some(u64::from_le_bytes(value.bytes().try_into().ok()?))
    }

    /// Replaces the value under `key`; at most [`VALUE`] bytes.
    ///
    /// # Errors
    ///
    /// [`StateError::Flash`]: the old value is still there.
    pub async fn set(&mut self, key: u8, value: &[u8]) -> Result<(), StateError> {
        let mut buffer = [0; BUFFER];
        self.map
            .store_item(&mut buffer, &key, &value)
            .await
            .map_err(|_| StateError::Flash)
    }

    /// Replaces the number under `key`.
    ///
    /// # Errors
    ///
    /// [`StateError::Flash`]: the old value is still there.
    pub async fn set_number(&mut self, key: u8, value: u64) -> Result<(), StateError> {
        self.set(key, &value.to_le_bytes()).await
    }
}

/// A value read from flash, held inline.
#[derive(Debug, Clone, Copy)]
pub struct Value {
    bytes: [u8; VALUE],
    len: usize,
}

impl Value {
    fn new(value: &[u8]) -> Self {
        let mut bytes = [0; VALUE];
        let len = value.len().min(bytes.len());
        for (to, from) in bytes.iter_mut().zip(value) {
            *to = *from;
        }
        Self { bytes, len }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_flash::{MemoryFlash, every_power_loss, wait};

    /// Enough to fill a page and move its values to the next.
    const BEFORE: u64 = 60;
    const ROUNDS: u64 = 80;

    async fn fill(
        flash: MemoryFlash,
        rounds: core::ops::RangeInclusive<u64>,
    ) -> Result<(), StateError> {
        let mut state = State::open(flash).await?;
        for round in rounds {
            state.set_number(key::TIME, round).await?;
            state.set(key::EXECUTED, &[round as u8; 25]).await?;
        }
        Ok(())
    }

    #[test]
    fn values_are_whole_at_every_moment() {
        // The map writes a page marker again that was cut short, with the same bits.
        let filled = MemoryFlash::multiwrite(2);
        wait(fill(filled.clone(), 1..=BEFORE)).unwrap();
        every_power_loss(
            || filled.copy(),
            async |flash| fill(flash, BEFORE + 1..=ROUNDS).await,
            |flash| {
                wait(async {
                    let mut state = State::open(flash).await.unwrap();
                    assert!(!state.lost());
                    let time = state.number(key::TIME).await.unwrap_or(0);
                    let executed = state.get(key::EXECUTED).await;
                    let executed = executed.map_or(0, |value| {
                        assert_eq!(value.bytes(), [value.bytes()[0]; 25], "not torn");
                        value.bytes()[0]
                    });
                    let behind = time.checked_sub(executed.into());
                    assert!(matches!(behind, Some(0 | 1)), "{time} {executed}");
                    state.set_number(key::TIME, 999).await.unwrap();
                    assert_eq!(state.number(key::TIME).await, Some(999));
                });
            },
        );
    }
}
