//! virtio-blk as flash: it is erased by pages and written once, as the ESP32's is.

use embedded_storage::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::virtio::Block;

/// The block device. A page is erased sector by sector, so losing power in between leaves it half
/// erased, as on a chip.
pub(crate) struct BlockFlash {
    device: Block,
}

/// An access failed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FlashError {
    Bounds,
    Unaligned,
    Device,
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Bounds => NorFlashErrorKind::OutOfBounds,
            Self::Unaligned => NorFlashErrorKind::NotAligned,
            Self::Device => NorFlashErrorKind::Other,
        }
    }
}

impl From<virtio_drivers::Error> for FlashError {
    fn from(error: virtio_drivers::Error) -> Self {
        log::error!("virtio-blk: {error}");
        Self::Device
    }
}

impl BlockFlash {
    pub(crate) const fn new(device: Block) -> Self {
        Self { device }
    }

    fn check(&self, at: u32, len: usize, unit: usize) -> Result<usize, FlashError> {
        let at = at as usize;
        if !at.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            return Err(FlashError::Unaligned);
        }
        match at.checked_add(len) {
            Some(end) if end <= self.capacity() => Ok(at),
            _ => Err(FlashError::Bounds),
        }
    }
}

impl ErrorType for BlockFlash {
    type Error = FlashError;
}

impl ReadNorFlash for BlockFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        let mut at = self.check(at, bytes.len(), Self::READ_SIZE)?;
        let mut sector = [0; SECTOR_SIZE];
        let mut rest = bytes;
        while !rest.is_empty() {
            let skip = at % SECTOR_SIZE;
            let (part, next) = rest.split_at_mut(rest.len().min(SECTOR_SIZE - skip));
            self.device.read_blocks(at / SECTOR_SIZE, &mut sector)?;
            if let Some(from) = sector.get(skip..skip + part.len()) {
                part.copy_from_slice(from);
            }
            at += part.len();
            rest = next;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        // The image is 4 MiB; a larger one is used as far as 32 bits reach.
        usize::try_from(self.device.capacity())
            .unwrap_or(usize::MAX)
            .saturating_mul(SECTOR_SIZE)
    }
}

impl NorFlash for BlockFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 4096;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let len = to.checked_sub(from).ok_or(FlashError::Bounds)? as usize;
        let at = self.check(from, len, Self::ERASE_SIZE)?;
        for sector in at / SECTOR_SIZE..(at + len) / SECTOR_SIZE {
            self.device.write_blocks(sector, &[0xff; SECTOR_SIZE])?;
        }
        Ok(())
    }

    /// Bits only go from one to zero: what was not erased spoils what is written.
    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let mut at = self.check(at, bytes.len(), Self::WRITE_SIZE)?;
        let mut sector = [0; SECTOR_SIZE];
        let mut rest = bytes;
        while !rest.is_empty() {
            let skip = at % SECTOR_SIZE;
            let (part, next) = rest.split_at(rest.len().min(SECTOR_SIZE - skip));
            self.device.read_blocks(at / SECTOR_SIZE, &mut sector)?;
            for (to, from) in sector.iter_mut().skip(skip).zip(part) {
                *to &= from;
            }
            self.device.write_blocks(at / SECTOR_SIZE, &sector)?;
            at += part.len();
            rest = next;
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for BlockFlash {}
