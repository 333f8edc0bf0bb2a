//! Update slots made of flash partitions: what every board has.

use embedded_storage_async::nor_flash::{NorFlash, NorFlashError, NorFlashErrorKind};

use super::otadata::{Otadata, OtadataError};
use crate::board::{BootState, UpdateSlots};

/// A slot or the record of them failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The record.
    #[error(transparent)]
    Otadata(#[from] OtadataError),
    /// The slot.
    #[error("update slot cannot be accessed ({0:?}): check the partition table")]
    Flash(NorFlashErrorKind),
    /// An access that is not within the slot, or not of whole units.
    #[error("access outside of the update slot or its units")]
    Bounds,
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: impl NorFlashError) -> SlotError {
    SlotError::Flash(error.kind())
}

/// Two partitions of the same size and the record of which one starts.
#[derive(Debug)]
pub struct PartitionSlots<F> {
    otadata: Otadata<F>,
    /// The slot that does not run.
    inactive: F,
    running: u8,
}

impl<F: NorFlash> PartitionSlots<F> {
    /// `running` is the slot, 0 or 1, that the program runs from, `inactive` the other one.
    pub const fn new(otadata: F, inactive: F, running: u8) -> Self {
        Self {
            otadata: Otadata::new(otadata),
            inactive,
            running,
        }
    }
}

impl<F: NorFlash> UpdateSlots for PartitionSlots<F> {
    type Error = SlotError;

    fn running(&self) -> u8 {
        self.running
    }

    async fn boot_state(&mut self) -> Result<BootState, SlotError> {
        Ok(self.otadata.state(self.running).await?)
    }

    fn capacity(&self) -> u32 {
        u32::try_from(self.inactive.capacity()).unwrap_or(u32::MAX)
    }

    async fn erase(&mut self, offset: u32, length: u32) -> Result<(), SlotError> {
        let end = offset.checked_add(length).ok_or(SlotError::Bounds)?;
        self.inactive.erase(offset, end).await.map_err(failed)
    }

    fn erase_size(&self) -> u32 {
        F::ERASE_SIZE as u32
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), SlotError> {
        self.inactive.write(offset, bytes).await.map_err(failed)
    }

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), SlotError> {
        self.inactive.read(offset, bytes).await.map_err(failed)
    }

    async fn activate(&mut self) -> Result<(), SlotError> {
        Ok(self.otadata.activate(self.running).await?)
    }

    async fn confirm(&mut self) -> Result<(), SlotError> {
        Ok(self.otadata.confirm(self.running).await?)
    }

    async fn revert(&mut self) -> Result<(), SlotError> {
        Ok(self.otadata.revert(self.running).await?)
    }
}
