//! The two images and which one starts, as ESP-IDF's boot loader keeps it.

use alloc::boxed::Box;

use esp_bootloader_esp_idf::ota::OtaImageState;
use esp_bootloader_esp_idf::ota_updater::OtaUpdater;
use esp_bootloader_esp_idf::partitions::{
    Error, FlashRegion, PARTITION_TABLE_MAX_LEN, PartitionType, read_partition_table,
};
use esp_storage::FlashStorage;
use tidegate_app::board::{BootState, UpdateSlots};
use tidegate_embassy::{Shared, layout};

use crate::flash::Chip;

/// The slots and `otadata`.
pub(crate) struct Slots {
    chip: Shared<Chip>,
}

impl Slots {
    pub(crate) const fn new(chip: Shared<Chip>) -> Self {
        Self { chip }
    }

    fn updater<T>(
        &self,
        act: impl FnOnce(&mut OtaUpdater<'_, 'static>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut chip = self.chip.borrow_mut();
        // Three pages' worth of table are too much for the stack.
        let mut table = Box::new([0; PARTITION_TABLE_MAX_LEN]);
        act(&mut OtaUpdater::new(chip.storage(), &mut table)?)
    }

    fn other<T>(
        &self,
        act: impl FnOnce(&mut FlashRegion<'_, 'static>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.updater(|updater| act(&mut updater.next_partition()?.0))
    }

    /// Whether the image that runs is the one that was to start.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is not general enough in its lifetimes"
    )]
    fn runs_as_selected(&self) -> Result<bool, Error> {
        let selected = self.updater(|updater| updater.selected_partition())?;
        let mut chip = self.chip.borrow_mut();
        let mut table = Box::new([0; PARTITION_TABLE_MAX_LEN]);
        let table = read_partition_table(chip.storage(), &mut table[..])?;
        let booted = table
            .booted_partition()?
            .map(|entry| entry.partition_type());
        Ok(booted == Some(PartitionType::App(selected)))
    }
}

impl UpdateSlots for Slots {
    type Error = Error;

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method itself is not general enough in its lifetimes"
    )]
    async fn boot_state(&mut self) -> Result<BootState, Error> {
        let state = match self.updater(|updater| updater.current_ota_state()) {
            // There was never an update.
            Err(Error::InvalidState) => return Ok(BootState::Confirmed),
            state => state?,
        };
        Ok(match state {
            OtaImageState::Aborted | OtaImageState::Invalid => BootState::RolledBack,
            _ if !self.runs_as_selected()? => BootState::RolledBack,
            OtaImageState::New | OtaImageState::PendingVerify => BootState::Trial,
            OtaImageState::Valid | OtaImageState::Undefined => BootState::Confirmed,
        })
    }

    fn capacity(&self) -> u32 {
        let size = self.other(|slot| Ok(slot.partition_size()));
        size.map_or(0, |size| u32::try_from(size).unwrap_or(u32::MAX))
    }

    async fn erase(&mut self, offset: u32, length: u32) -> Result<(), Error> {
        let end = offset.checked_add(length).ok_or(Error::OutOfBounds)?;
        // A page at a time: in between the radio gets its turn.
        for page in (offset..end).step_by(FlashStorage::SECTOR_SIZE as usize) {
            self.other(|slot| slot.erase(page, page + FlashStorage::SECTOR_SIZE))?;
            embassy_futures::yield_now().await;
        }
        Ok(())
    }

    fn erase_size(&self) -> u32 {
        FlashStorage::SECTOR_SIZE
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        self.other(|slot| slot.write(offset, bytes))
    }

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        self.other(|slot| slot.read(offset, bytes))
    }

    async fn activate(&mut self) -> Result<(), Error> {
        self.updater(|updater| {
            updater.activate_next_partition()?;
            updater.set_current_ota_state(OtaImageState::New)
        })
    }

    async fn confirm(&mut self) -> Result<(), Error> {
        self.updater(|updater| match updater.current_ota_state() {
            Ok(OtaImageState::New | OtaImageState::PendingVerify) => {
                updater.set_current_ota_state(OtaImageState::Valid)
            }
            // Confirmed before, or never updated: flash wears.
            Ok(_) | Err(Error::InvalidState) => Ok(()),
            Err(error) => Err(error),
        })
    }
}

/// An image must fit into either slot.
const _: () = assert!(layout::SLOTS[0].size == layout::SLOTS[1].size);
