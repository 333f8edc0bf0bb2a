//! One flash, cut into partitions.
//!
//! The flash itself blocks, as that of the ESP32 does: while it writes nothing else can run, because
//! the program is in it. An operation takes at most one page's erasure, about 50 ms.

extern crate alloc;

use alloc::rc::Rc;
use core::cell::RefCell;

use embedded_storage::nor_flash as blocking;
use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// A flash with several users, all in one task.
pub type Shared<F> = Rc<RefCell<F>>;

/// A part of a flash, with addresses of its own.
#[derive(Debug)]
pub struct Partition<F> {
    flash: Shared<F>,
    offset: u32,
    size: u32,
}

impl<F> Clone for Partition<F> {
    fn clone(&self) -> Self {
        Self {
            flash: Rc::clone(&self.flash),
            ..*self
        }
    }
}

/// An access failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// Past the end.
    #[error("access past the end of the partition: check the partition table")]
    Bounds,
    /// Not whole pages or words.
    #[error("access that is not whole pages or words")]
    Unaligned,
    /// The flash said no.
    #[error("flash failed ({0:?}): the chip may be worn out")]
    Flash(NorFlashErrorKind),
}

impl NorFlashError for PartitionError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Bounds => NorFlashErrorKind::OutOfBounds,
            Self::Unaligned => NorFlashErrorKind::NotAligned,
            Self::Flash(kind) => *kind,
        }
    }
}

impl<F: blocking::NorFlash> Partition<F> {
    /// The `size` bytes of `flash` from `offset` on.
    ///
    /// # Errors
    ///
    /// Not whole pages, or not within the flash.
    pub fn new(flash: Shared<F>, offset: u32, size: u32) -> Result<Self, PartitionError> {
        let page = F::ERASE_SIZE as u32;
        if !offset.is_multiple_of(page) || !size.is_multiple_of(page) {
            return Err(PartitionError::Unaligned);
        }
        let end = offset.checked_add(size).ok_or(PartitionError::Bounds)?;
        if end as usize > flash.borrow().capacity() {
            return Err(PartitionError::Bounds);
        }
        Ok(Self {
            flash,
            offset,
            size,
        })
    }

    /// The address in the flash of these bytes of the partition.
    fn place(&self, at: u32, len: usize) -> Result<u32, PartitionError> {
        let end = u32::try_from(len).ok().and_then(|len| at.checked_add(len));
        match end {
            Some(end) if end <= self.size => Ok(self.offset + at),
            _ => Err(PartitionError::Bounds),
        }
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// Past the end, or the flash failed.
    pub fn read_now(&self, at: u32, bytes: &mut [u8]) -> Result<(), PartitionError> {
        let place = self.place(at, bytes.len())?;
        self.flash.borrow_mut().read(place, bytes).map_err(failed)
    }

    /// Writes erased bytes.
    ///
    /// # Errors
    ///
    /// Past the end, or the flash failed.
    pub fn write_now(&self, at: u32, bytes: &[u8]) -> Result<(), PartitionError> {
        let place = self.place(at, bytes.len())?;
        self.flash.borrow_mut().write(place, bytes).map_err(failed)
    }

    /// Erases whole pages.
    ///
    /// # Errors
    ///
    /// Past the end, not whole pages, or the flash failed.
    pub fn erase_now(&self, from: u32, to: u32) -> Result<(), PartitionError> {
        let len = to.checked_sub(from).ok_or(PartitionError::Bounds)?;
        let place = self.place(from, len as usize)?;
        self.flash
            .borrow_mut()
            .erase(place, place + len)
            .map_err(failed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: impl NorFlashError) -> PartitionError {
    use embedded_storage::nor_flash::NorFlashErrorKind as Kind;
    PartitionError::Flash(match error.kind() {
        Kind::NotAligned => NorFlashErrorKind::NotAligned,
        Kind::OutOfBounds => NorFlashErrorKind::OutOfBounds,
        _ => NorFlashErrorKind::Other,
    })
}

impl<F> ErrorType for Partition<F> {
    type Error = PartitionError;
}

impl<F: blocking::NorFlash> ReadNorFlash for Partition<F> {
    const READ_SIZE: usize = F::READ_SIZE;

    async fn read(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), PartitionError> {
        self.read_now(at, bytes)
    }

    fn capacity(&self) -> usize {
        self.size as usize
    }
}

impl<F: blocking::NorFlash> NorFlash for Partition<F> {
    const WRITE_SIZE: usize = F::WRITE_SIZE;
    const ERASE_SIZE: usize = F::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), PartitionError> {
        self.erase_now(from, to)
    }

    async fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), PartitionError> {
        self.write_now(at, bytes)
    }
}

impl<F: blocking::MultiwriteNorFlash> MultiwriteNorFlash for Partition<F> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages between two others, which must not change.
    struct Four(Vec<u8>);

    #[derive(Debug)]
    struct Never;

    impl NorFlashError for Never {
        fn kind(&self) -> NorFlashErrorKind {
            NorFlashErrorKind::Other
        }
    }

    impl ErrorType for Four {
        type Error = Never;
    }

    impl blocking::ReadNorFlash for Four {
        const READ_SIZE: usize = 1;
        fn read(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), Never> {
            bytes.copy_from_slice(&self.0[at as usize..][..bytes.len()]);
            Ok(())
        }
        fn capacity(&self) -> usize {
            self.0.len()
        }
    }

    impl blocking::NorFlash for Four {
        const WRITE_SIZE: usize = 4;
        const ERASE_SIZE: usize = 4096;
        fn erase(&mut self, from: u32, to: u32) -> Result<(), Never> {
            self.0[from as usize..to as usize].fill(0xff);
            Ok(())
        }
        fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Never> {
            self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn a_partition_stays_within_its_bounds() {
        let flash = Rc::new(RefCell::new(Four(vec![0x11; 4 * 4096])));
        let part = Partition::new(Rc::clone(&flash), 4096, 8192).unwrap();
        part.erase_now(0, 8192).unwrap();
        part.write_now(8188, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 8];
        part.read_now(8184, &mut back).unwrap();
        assert_eq!(back, [0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]);
        let past = Err(PartitionError::Bounds);
        assert_eq!(part.write_now(8192, &[0; 4]), past);
        assert_eq!(part.write_now(u32::MAX - 1, &[0; 4]), past);
        assert_eq!(part.read_now(8188, &mut back), past);
        assert_eq!(part.erase_now(4096, 12288), past);
        assert_eq!(part.erase_now(4096, 0), past);
        let flash = &flash.borrow().0;
        assert!(
            flash[..4096]
                .iter()
                .chain(&flash[12288..])
                .all(|byte| *byte == 0x11)
        );
    }

    #[test]
    fn a_partition_must_be_whole_pages_of_the_flash() {
        let flash = Rc::new(RefCell::new(Four(vec![0xff; 4 * 4096])));
        let new = |offset, size| Partition::new(Rc::clone(&flash), offset, size).err();
        assert_eq!(new(0, 4 * 4096), None);
        assert_eq!(new(4096, 4 * 4096), Some(PartitionError::Bounds));
        assert_eq!(new(0xffff_f000, 8192), Some(PartitionError::Bounds));
        assert_eq!(new(100, 4096), Some(PartitionError::Unaligned));
    }
}
