//! Flash in a file, or in memory: it forgets nothing and behaves like the real one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// An erase page of the usual SPI flash.
const PAGE: usize = 4096;

/// One partition.
#[derive(Debug)]
pub struct Flash {
    bytes: Vec<u8>,
    file: Option<File>,
}

/// Why flash failed.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// Past the end, or not aligned.
    #[error("access outside of the partition or its units")]
    Bounds,
    /// The file failed.
    #[error("flash file failed: {0}")]
    File(#[from] io::Error),
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Bounds => NorFlashErrorKind::OutOfBounds,
            Self::File(_) => NorFlashErrorKind::Other,
        }
    }
}

impl Flash {
    /// A partition that is gone with the process.
    #[must_use]
    pub fn in_memory(pages: usize) -> Self {
        Self {
            bytes: vec![0xff; pages * PAGE],
            file: None,
        }
    }

    /// A partition in a file of its own, which is made if it is not there. Only its owner may
    /// read it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, read or made.
    pub fn in_file(path: &Path, pages: usize) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = vec![0xff; pages * PAGE];
        let len =
            usize::try_from(file.metadata()?.len()).map_or(bytes.len(), |len| len.min(bytes.len()));
        file.read_exact_at(&mut bytes[..len], 0)?;
        file.write_all_at(&bytes, 0)?;
        Ok(Self {
            bytes,
            file: Some(file),
        })
    }

    /// Writes an image, as a flashing tool does.
    ///
    /// # Errors
    ///
    /// It does not fit, or the file failed.
    pub fn load(&mut self, image: &[u8]) -> Result<(), FlashError> {
        self.bytes.fill(0xff);
        self.bytes
            .get_mut(..image.len())
            .ok_or(FlashError::Bounds)?
            .copy_from_slice(image);
        self.save(0, self.bytes.len())
    }

    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0xff)
    }

    fn save(&self, at: usize, len: usize) -> Result<(), FlashError> {
        if let (Some(file), Some(bytes)) = (&self.file, self.bytes.get(at..at + len)) {
            file.write_all_at(bytes, at as u64)?;
        }
        Ok(())
    }
}

impl ErrorType for Flash {
    type Error = FlashError;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        let at = offset as usize;
        let from = self
            .bytes
            .get(at..at + bytes.len())
            .ok_or(FlashError::Bounds)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = PAGE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let (from, to) = (from as usize, to as usize);
        if !from.is_multiple_of(PAGE) || !to.is_multiple_of(PAGE) {
            return Err(FlashError::Bounds);
        }
        self.bytes
            .get_mut(from..to)
            .ok_or(FlashError::Bounds)?
            .fill(0xff);
        self.save(from, to - from)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        let at = offset as usize;
        let to = self
            .bytes
            .get_mut(at..at + bytes.len())
            .ok_or(FlashError::Bounds)?;
        for (to, from) in to.iter_mut().zip(bytes) {
            *to &= from;
        }
        self.save(at, bytes.len())
    }
}

impl MultiwriteNorFlash for Flash {}
