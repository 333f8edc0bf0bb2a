//! Partitions, plain and encrypted.
//!
//! With flash encryption on, the chip encrypts what is written and decrypts what is read of
//! partitions marked `encrypted`, of images and of `otadata`. Erased flash then reads as noise, and
//! a write replaces a whole page. The device's own stores expect erased bytes to read as 0xFF, so
//! an erased page of `credentials` is filled with that, encrypted; images and `otadata` are written
//! without regard to what was there. `state` and `buffer` depend on pages being changed in place and
//! are not marked: they hold no secrets.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
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
    encrypted: Vec<Range<u32>>,
    /// Those among them that are to read as 0xFF when they are erased.
    blanked: Range<u32>,
}

/// The partitions of the device.
pub(crate) struct Table {
    pub(crate) chip: Shared<Chip>,
    pub(crate) credentials: Partition<Chip>,
    pub(crate) otadata: Partition<Chip>,
    pub(crate) slots: [Partition<Chip>; 2],
    pub(crate) state: Partition<Chip>,
    pub(crate) buffer: Partition<Chip>,
}

/// The partition table is not the device's.
#[derive(Debug, thiserror::Error)]
#[error("flash has no partition {0}: write partitions.csv with the image")]
pub(crate) struct NoPartition(pub(crate) &'static str);

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
    let otadata = find(layout::OTADATA.name)?;
    let [first, second] = [find(layout::SLOTS[0].name)?, find(layout::SLOTS[1].name)?];
    let on = esp_storage::flash_encryption();
    // ESP-IDF encrypts images and otadata whether they are marked or not.
    let encrypted = [
        (credentials, credentials.2),
        (otadata, true),
        (first, true),
        (second, true),
    ];
    let encrypted = encrypted
        .into_iter()
        .filter(|(_, encrypted)| *encrypted && on)
        .map(|((offset, size, _), _)| offset..offset + size)
        .collect();
    let (offset, size, marked) = credentials;
    let blanked = if marked && on {
        offset..offset + size
    } else {
        0..0
    };
    let chip = Rc::new(RefCell::new(Chip {
        storage,
        encrypted,
        blanked,
    }));
    let part = |(offset, size, _), name| {
        Partition::new(Rc::clone(&chip), offset, size).map_err(|_| NoPartition(name))
    };
    Ok(Table {
        credentials: part(credentials, layout::CREDENTIALS.name)?,
        state: part(state, layout::STATE.name)?,
        buffer: part(readings, layout::BUFFER.name)?,
        otadata: part(otadata, layout::OTADATA.name)?,
        slots: [
            part(first, layout::SLOTS[0].name)?,
            part(second, layout::SLOTS[1].name)?,
        ],
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
    fn encrypts(&self, at: u32) -> bool {
        self.encrypted.iter().any(|range| range.contains(&at))
    }

    /// The whole flash, for the partition table.
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
        if self.encrypts(at) {
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
        if self.blanked.contains(&from) {
            let blank = Box::new([0xff; FlashStorage::SECTOR_SIZE as usize]);
            for at in (from..to).step_by(FlashStorage::SECTOR_SIZE as usize) {
                self.storage.write_encrypted(at, &blank[..])?;
            }
        }
        Ok(())
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), ChipError> {
        if self.encrypts(at) {
            self.storage.write_encrypted(at, bytes)?;
        } else {
            self.storage.write_nor(at, bytes)?;
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for Chip {}
