//! An image on its way into the inactive slot.
//!
//! It is written page by page; a page that is not full waits in RAM, so a connection that was cut
//! goes on at the very next byte. Every [`NOTE`] pages the place is noted in flash, so a power cut
//! costs at most that much to be fetched again. What is noted was written before; a page is erased
//! just before it is written. So the slot is right up to the noted place, whatever happens.

use alloc::boxed::Box;
use alloc::vec;

use embedded_storage_async::nor_flash::NorFlash;
use embedded_tls::Sha256;
use p256::ecdsa::signature::digest::Digest;

use super::record::{Progress, load, store};
use crate::board::UpdateSlots;
use crate::state::State;

/// Pages between two notes: 32 KiB with the usual pages, so an image of 1 MiB costs 32 notes.
const NOTE: u32 = 8;

/// Writes are multiples of this ([`UpdateSlots::write`]).
const UNIT: usize = 16;

/// The slot or the state partition failed; the log says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("update cannot be written to flash: it may be worn out")]
pub struct FlashFailed;

/// Whether the image in the slot is the one that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// It is.
    AsSigned,
    /// It is not.
    Other,
}

/// One image, as far as it is there.
#[derive(Debug)]
pub struct Download {
    sha256: [u8; 32],
    size: u32,
    progress: Progress,
    /// Bytes in the slot.
    written: u32,
    /// The page that is being filled.
    page: Box<[u8]>,
    filled: usize,
}

impl Download {
    /// Goes on where an earlier attempt at the same image stopped, or begins.
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn open<S: UpdateSlots, F: NorFlash>(
        sha256: [u8; 32],
        size: u32,
        slots: &S,
        state: &mut State<F>,
    ) -> Result<Self, FlashFailed> {
        let mut image = [0; 16];
        for (to, from) in image.iter_mut().zip(sha256) {
            *to = from;
        }
        let noted: Progress = load(state).await;
        let fits = noted.image == image
            && noted.written <= size
            && (noted.written.is_multiple_of(slots.erase_size()) || noted.written == size);
        let progress = if fits {
            noted
        } else {
            Progress {
                image,
                ..Progress::default()
            }
        };
        if progress != noted {
            note(state, &progress).await?;
        }
        Ok(Self {
            sha256,
            size,
            written: progress.written,
            progress,
            page: vec![0xff; slots.erase_size() as usize].into_boxed_slice(),
            filled: 0,
        })
    }

    /// Whether it is this image.
    #[must_use]
    pub fn is_of(&self, sha256: &[u8; 32]) -> bool {
        self.sha256 == *sha256
    }

    /// The digest in hexadecimal, which is the image's name.
    #[must_use]
    pub fn name(&self) -> [u8; 64] {
        let mut name = [0; 64];
        for (place, byte) in name.chunks_exact_mut(2).zip(self.sha256) {
            let digit = |nibble: u8| {
                let base = if nibble < 10 { b'0' } else { b'a' - 10 };
                base + nibble
            };
            place.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        name
    }

    /// Bytes of the whole.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// The next byte that is wanted.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.written + self.filled as u32
    }

    /// Whether all of it is in the slot.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.written == self.size
    }

    /// Where the next bytes are to be put, and how many fit; then [`took`](Self::took) them.
    pub fn room(&mut self) -> &mut [u8] {
        let left = (self.size - self.written) as usize;
        let end = self.page.len().min(left);
        self.page.get_mut(self.filled..end).unwrap_or(&mut [])
    }

    /// `len` bytes were put into the [room](Self::room).
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn took<S: UpdateSlots, F: NorFlash>(
        &mut self,
        len: usize,
        slots: &mut S,
        state: &mut State<F>,
    ) -> Result<(), FlashFailed> {
        self.filled += len;
        let left = (self.size - self.written) as usize;
        let whole = self.page.len().min(left);
        if self.filled < whole {
            return Ok(());
        }
        let page = slots.erase_size();
        let padded = whole.next_multiple_of(UNIT);
        if let Some(rest) = self.page.get_mut(whole..) {
            rest.fill(0xff);
        }
        slots.erase(self.written, page).await.map_err(logged)?;
        slots
            .write(self.written, self.page.get(..padded).unwrap_or(&[]))
            .await
            .map_err(logged)?;
        self.written += whole as u32;
        self.filled = 0;
        if self.is_complete() || (self.written / page).is_multiple_of(NOTE) {
            self.progress.written = self.written;
            note(state, &self.progress).await?;
        }
        Ok(())
    }

    /// Starts over: what is in the slot is of no use.
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn start_over<F: NorFlash>(
        &mut self,
        state: &mut State<F>,
    ) -> Result<(), FlashFailed> {
        (self.written, self.filled) = (0, 0);
        self.progress.written = 0;
        note(state, &self.progress).await
    }

    /// As [`start_over`](Self::start_over), and the activations that came to nothing are forgotten.
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn forget<F: NorFlash>(&mut self, state: &mut State<F>) -> Result<(), FlashFailed> {
        self.progress.activations = 0;
        self.start_over(state).await
    }

    /// Reads the slot back and compares it with what was signed.
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn verify<S: UpdateSlots>(&mut self, slots: &mut S) -> Result<Content, FlashFailed> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < self.size {
            let len = self.page.len().min((self.size - at) as usize);
            // Reads have units as well; what is read beyond the image is not hashed.
            let padded = len.next_multiple_of(UNIT);
            let page = self.page.get_mut(..padded).unwrap_or(&mut []);
            slots.read(at, page).await.map_err(logged)?;
            hash.update(page.get(..len).unwrap_or(&[]));
            at += len as u32;
            // A megabyte takes a second on a small chip: others have their turn in between.
            embassy_futures::yield_now().await;
        }
        let digest: [u8; 32] = hash.finalize().into();
        Ok(if digest == self.sha256 {
            Content::AsSigned
        } else {
            Content::Other
        })
    }

    /// Notes that the image is activated once more; how often that was before.
    ///
    /// # Errors
    ///
    /// [`FlashFailed`]
    pub async fn activating<F: NorFlash>(
        &mut self,
        state: &mut State<F>,
    ) -> Result<u8, FlashFailed> {
        let before = self.progress.activations;
        self.progress.activations = before.saturating_add(1);
        note(state, &self.progress).await?;
        Ok(before)
    }
}

fn logged(error: impl core::fmt::Debug) -> FlashFailed {
    log::error!("update slot: {error:?}");
    FlashFailed
}

async fn note<F: NorFlash>(state: &mut State<F>, progress: &Progress) -> Result<(), FlashFailed> {
    store(state, progress).await.map_err(|error| {
        log::error!("{error}");
        FlashFailed
    })
}
