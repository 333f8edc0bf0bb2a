//! Partitions, plain and encrypted.
//!
//! With flash encryption on, the chip encrypts what is written and decrypts what is read of
//! partitions marked `encrypted`, of images and of `otadata`. Erased flash then reads as noise, and
//! a write replaces a whole page. The device's own stores expect erased bytes to read as 0xFF, so
//! an erased page is filled with that, encrypted. Only `credentials` is marked: it never depends on
//! a page being changed in place, as `state` and `buffer` do, which hold no secrets.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::ops::Range;

use embedded_storage::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use esp_bootloader_esp_idf::partitions::{PARTITION_TABLE_MAX_LEN, read_partition_table};
use esp_hal::peripherals::FLASH;
use esp_storage::{FlashStorage, FlashStorageError};
use tidegate_embassy::{Partition, Shared, layout};

/// The flash chip.
pub(crate) struct Chip {
    storage: FlashStorage<'static>,
    /// Addresses that are encrypted.
    encrypted: Range<u32>,
}

/// The partitions of the device.
pub(crate) struct Table {
    pub(crate) chip: Shared<Chip>,
    pub(crate) credentials: Partition<Chip>,
    pub(crate) state: Partition<Chip>,
    pub(crate) buffer: Partition<Chip>,
}

/// The partition table is not the device's.
#[derive(Debug, thiserror::Error)]
#[error("flash has no partition {0}: write partitions.csv with the image")]
pub(crate) struct NoPartition(&'static str);

/// Finds the partitions by their names, so a table for a larger flash serves as well.
pub(crate) fn open(flash: FLASH<'static>) -> Result<Table, NoPartition> {
    let mut storage = FlashStorage::new(flash);
    let mut buffer = Box::new([0; PARTITION_TABLE_MAX_LEN]);
    let table =
        read_partition_table(&mut storage, &mut buffer[..]).map_err(|_| NoPartition("table"))?;
    let find = |name: &'static str| {
        table
            .iter()
            .find(|entry| entry.label_as_str() == name)
            .map(|entry| (entry.offset(), entry.len(), entry.is_encrypted()))
            .ok_or(NoPartition(name))
    };
    let credentials = find(layout::CREDENTIALS.name)?;
    let state = find(layout::STATE.name)?;
    let readings = find(layout::BUFFER.name)?;
    let (offset, size, encrypted) = credentials;
    let encrypted = if encrypted && esp_storage::flash_encryption() {
        offset..offset + size
    } else {
        0..0
    };
    let chip = Rc::new(RefCell::new(Chip { storage, encrypted }));
    let part = |(offset, size, _), name| {
        Partition::new(Rc::clone(&chip), offset, size).map_err(|_| NoPartition(name))
    };
    Ok(Table {
        credentials: part(credentials, layout::CREDENTIALS.name)?,
        state: part(state, layout::STATE.name)?,
        buffer: part(readings, layout::BUFFER.name)?,
        chip,
    })
}

/// An access failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChipError(NorFlashErrorKind);

impl NorFlashError for ChipError {
    fn kind(&self) -> NorFlashErrorKind {
        self.0
    }
}

impl From<FlashStorageError> for ChipError {
    fn from(error: FlashStorageError) -> Self {
        Self(error.kind())
    }
}

impl Chip {
    /// The whole flash, for the boot loader's record and the images.
    pub(crate) fn storage(&mut self) -> &mut FlashStorage<'static> {
        &mut self.storage
    }
}

impl ErrorType for Chip {
    type Error = ChipError;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = <FlashStorage<'static> as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), ChipError> {
        if self.encrypted.contains(&at) {
            self.storage.read_encrypted(at, bytes)?;
        } else {
            self.storage.read_nor(at, bytes)?;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.storage.capacity()
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = <FlashStorage<'static> as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <FlashStorage<'static> as NorFlash>::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), ChipError> {
        self.storage.erase(from, to)?;
        if self.encrypted.contains(&from) {
            let blank = Box::new([0xff; FlashStorage::SECTOR_SIZE as usize]);
            for at in (from..to).step_by(FlashStorage::SECTOR_SIZE as usize) {
                self.storage.write_encrypted(at, &blank[..])?;
            }
        }
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), ChipError> {
        if self.encrypted.contains(&at) {
            self.storage.write_encrypted(at, bytes)?;
        } else {
            self.storage.write_nor(at, bytes)?;
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for Chip {}
