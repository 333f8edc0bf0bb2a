//! Which image starts: the record that the firmware and the boot loader share.
//!
//! Two pages, an entry at the start of each, in ESP-IDF's format (`esp_ota_select_entry_t`), so that
//! its boot loader reads them and every other board does the same:
//!
//! ```text
//!  0   sequence number, little endian; the slot is (sequence − 1) mod 2
//!  4   20 bytes that nobody reads
//!  24  state of the image
//!  28  CRC-32 of the sequence number
//! ```
//!
//! The entry with the highest sequence number that is whole and not given up decides; without one
//! the first slot starts. A new entry always goes into the page that does not decide, so losing
//! power while it is written leaves what was.

use embedded_storage_async::nor_flash::{NorFlash, NorFlashError, NorFlashErrorKind};

use crate::board::BootState;

/// Bytes of an entry.
const ENTRY: usize = 32;

/// Where in an entry the state is, and the checksum.
const STATE_AT: usize = 24;
const CRC_AT: usize = 28;

/// How many slots there are.
const SLOTS: u32 = 2;

/// What is known of an image (`esp_ota_img_states_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// Activated and not started yet.
    New,
    /// Started once, by a boot loader that rolls back.
    PendingVerify,
    /// It works.
    Valid,
    /// It was given up by itself.
    Invalid,
    /// It was given up by the boot loader.
    Aborted,
    /// Nothing: an image that was written by wire.
    Undefined,
}

impl ImageState {
    const fn number(self) -> u32 {
        match self {
            Self::New => 0,
            Self::PendingVerify => 1,
            Self::Valid => 2,
            Self::Invalid => 3,
            Self::Aborted => 4,
            Self::Undefined => u32::MAX,
        }
    }

    const fn of(number: u32) -> Self {
        match number {
            0 => Self::New,
            1 => Self::PendingVerify,
            2 => Self::Valid,
            3 => Self::Invalid,
            4 => Self::Aborted,
            // ESP-IDF's boot loader starts what is in a state it does not know.
            _ => Self::Undefined,
        }
    }

    const fn starts(self) -> bool {
        !matches!(self, Self::Invalid | Self::Aborted)
    }
}

/// The record cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record of the slots cannot be accessed ({0:?}): check the partition otadata")]
pub struct OtadataError(pub NorFlashErrorKind);

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: impl NorFlashError) -> OtadataError {
    OtadataError(error.kind())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    sequence: u32,
    state: ImageState,
}

impl Entry {
    fn slot(self) -> u8 {
        u8::from(!(self.sequence.wrapping_sub(1)).is_multiple_of(SLOTS))
    }

    /// `None` if it is blank, or was cut short.
    fn decode(bytes: &[u8; ENTRY]) -> Option<Self> {
        let word = |at: usize| {
            let word = bytes.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*word))
        };
        let sequence = word(0)?;
        if sequence == 0 || sequence == u32::MAX || word(CRC_AT)? != crc(sequence) {
            return None;
        }
        Some(Self {
            sequence,
            state: ImageState::of(word(STATE_AT)?),
        })
    }

    fn encode(self) -> [u8; ENTRY] {
        let mut bytes = [0xff; ENTRY];
        for (at, word) in [
            (0, self.sequence),
            (STATE_AT, self.state.number()),
            (CRC_AT, crc(self.sequence)),
        ] {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }
}

/// The ROM's CRC-32 of a word, started at zero as ESP-IDF does.
fn crc(word: u32) -> u32 {
    let mut crc = 0_u32;
    for byte in word.to_le_bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The partition `otadata`: two erase pages.
#[derive(Debug, Clone)]
pub struct Otadata<F> {
    flash: F,
}

impl<F: NorFlash> Otadata<F> {
    /// Over a partition of two erase pages.
    pub const fn new(flash: F) -> Self {
        Self { flash }
    }

    async fn entries(&mut self) -> Result<[Option<Entry>; 2], OtadataError> {
        let mut entries = [None; 2];
        for (page, entry) in (0..).zip(&mut entries) {
            let mut bytes = [0; ENTRY];
            let at = page * F::ERASE_SIZE as u32;
            self.flash.read(at, &mut bytes).await.map_err(failed)?;
            *entry = Entry::decode(&bytes);
        }
        Ok(entries)
    }

    async fn put(&mut self, page: usize, entry: Entry) -> Result<(), OtadataError> {
        let size = F::ERASE_SIZE as u32;
        let at = page as u32 * size;
        self.flash.erase(at, at + size).await.map_err(failed)?;
        self.flash.write(at, &entry.encode()).await.map_err(failed)
    }

    /// Has the next start take `slot`, which is in this state.
    async fn select(&mut self, slot: u8, state: ImageState) -> Result<(), OtadataError> {
        let entries = self.entries().await?;
        let last = entries.iter().flatten().map(|entry| entry.sequence).max();
        let mut entry = Entry {
            sequence: last.unwrap_or(0).saturating_add(1),
            state,
        };
        if entry.slot() != slot {
            entry.sequence = entry.sequence.saturating_add(1);
        }
        let page = deciding(&entries).map_or(0, |page| 1 - page);
        self.put(page, entry).await
    }

    /// Has the next start take the slot that does not run, on trial.
    ///
    /// # Errors
    ///
    /// [`OtadataError`]: then what started before starts again.
    pub async fn activate(&mut self, running: u8) -> Result<(), OtadataError> {
        let entries = self.entries().await?;
        let stays = deciding(&entries).and_then(|page| *entries.get(page)?);
        // Whoever falls back must find something to fall back to.
        if stays.is_none_or(|entry| entry.slot() != running) {
            self.select(running, ImageState::Valid).await?;
        }
        self.select(1 - running, ImageState::New).await
    }

    /// The slot that runs works: it starts from now on.
    ///
    /// # Errors
    ///
    /// [`OtadataError`]: then it is on trial still.
    pub async fn confirm(&mut self, running: u8) -> Result<(), OtadataError> {
        // Flash wears: what is confirmed is left alone.
        if self.state(running).await? == BootState::Confirmed {
            return Ok(());
        }
        self.select(running, ImageState::Valid).await
    }

    /// The slot that runs does not work: the other one starts from now on.
    ///
    /// # Errors
    ///
    /// [`OtadataError`]: then the slot that runs starts again.
    pub async fn revert(&mut self, running: u8) -> Result<(), OtadataError> {
        self.select(1 - running, ImageState::Valid).await
    }

    /// What this record says of the slot that runs.
    ///
    /// # Errors
    ///
    /// [`OtadataError`]
    pub async fn state(&mut self, running: u8) -> Result<BootState, OtadataError> {
        let entries = self.entries().await?;
        let last = entries.iter().flatten().max_by_key(|entry| entry.sequence);
        Ok(match last {
            // Never updated.
            None => BootState::Confirmed,
            Some(entry) if entry.slot() != running || !entry.state.starts() => {
                BootState::RolledBack
            }
            Some(entry) => match entry.state {
                ImageState::New | ImageState::PendingVerify => BootState::Trial,
                _ => BootState::Confirmed,
            },
        })
    }

    /// What a boot loader does: decides which slot starts. One that rolls back gives up an image
    /// that was started on trial and not confirmed, as ESP-IDF's does when it is configured to.
    ///
    /// # Errors
    ///
    /// [`OtadataError`]
    pub async fn boot(&mut self, rolls_back: bool) -> Result<u8, OtadataError> {
        let mut entries = self.entries().await?;
        for (page, place) in entries.iter_mut().enumerate() {
            if let Some(entry) = place
                && rolls_back
                && entry.state == ImageState::PendingVerify
            {
                entry.state = ImageState::Aborted;
                self.put(page, *entry).await?;
            }
        }
        let Some((page, mut entry)) =
            deciding(&entries).and_then(|page| Some((page, (*entries.get(page)?)?)))
        else {
            return Ok(0);
        };
        if rolls_back && entry.state == ImageState::New {
            entry.state = ImageState::PendingVerify;
            self.put(page, entry).await?;
        }
        Ok(entry.slot())
    }
}

/// The page whose entry decides.
fn deciding(entries: &[Option<Entry>; 2]) -> Option<usize> {
    let starts = |entry: &Option<Entry>| {
        entry
            .filter(|entry| entry.state.starts())
            .map(|entry| entry.sequence)
    };
    let [first, second] = entries;
    match (starts(first), starts(second)) {
        (None, None) => None,
        (first, second) => Some(usize::from(second > first)),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::memory_flash::{MemoryFlash, PAGE, every_power_loss, wait};
    use proptest::prelude::*;

    fn blank() -> MemoryFlash {
        MemoryFlash::new(2)
    }

    #[test]
    fn entries_are_esp_idfs() {
        // As esp_ota_ops.c writes them.
        for (sequence, crc) in [(1, 0x4743_989a), (2, 0x55f6_3774)] {
            let entry = Entry {
                sequence,
                state: ImageState::New,
            };
            let mut expected = [0xff; ENTRY];
            expected[..4].copy_from_slice(&sequence.to_le_bytes());
            expected[24..28].fill(0);
            expected[28..].copy_from_slice(&u32::to_le_bytes(crc));
            assert_eq!(entry.encode(), expected);
            assert_eq!(Entry::decode(&expected), Some(entry));
        }
    }

    #[test]
    fn an_update_confirmed() {
        for rolls_back in [false, true] {
            let mut data = Otadata::new(blank());
            wait(async {
                let mut running = data.boot(rolls_back).await.unwrap();
                assert_eq!(running, 0);
                for _ in 0..5 {
                    assert_eq!(data.state(running).await, Ok(BootState::Confirmed));
                    data.activate(running).await.unwrap();
                    let next = data.boot(rolls_back).await.unwrap();
                    assert_eq!(next, 1 - running);
                    running = next;
                    assert_eq!(data.state(running).await, Ok(BootState::Trial));
                    data.confirm(running).await.unwrap();
                    assert_eq!(data.boot(rolls_back).await, Ok(running));
                    assert_eq!(data.boot(rolls_back).await, Ok(running));
                }
            });
        }
    }

    #[test]
    fn an_update_that_does_not_confirm_itself() {
        let mut data = Otadata::new(blank());
        wait(async {
            for _ in 0..3 {
                data.activate(0).await.unwrap();
                assert_eq!(data.boot(true).await, Ok(1));
                assert_eq!(data.boot(true).await, Ok(0), "taken back");
                assert_eq!(data.state(0).await, Ok(BootState::RolledBack));
                assert_eq!(data.boot(true).await, Ok(0));
                data.confirm(0).await.unwrap();
                assert_eq!(data.state(0).await, Ok(BootState::Confirmed));
            }
            // A boot loader that does not roll back.
            data.activate(0).await.unwrap();
            assert_eq!(data.boot(false).await, Ok(1));
            assert_eq!(data.boot(false).await, Ok(1));
            data.revert(1).await.unwrap();
            assert_eq!(data.boot(false).await, Ok(0));
            assert_eq!(data.state(0).await, Ok(BootState::Confirmed));
        });
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Activate,
        Confirm,
        Revert,
        Boot,
    }

    /// Each step, with the power lost at each of its operations: a slot that holds a good image is
    /// what starts, and what was confirmed stays.
    #[test]
    fn a_good_image_starts_after_every_power_loss() {
        for rolls_back in [false, true] {
            for (before, step, allowed) in [
                (&[][..], Step::Activate, &[0, 1][..]),
                (&[Step::Activate], Step::Boot, &[0, 1]),
                (&[Step::Activate, Step::Boot], Step::Confirm, &[0, 1]),
                (&[Step::Activate, Step::Boot], Step::Revert, &[0, 1]),
                (
                    &[Step::Activate, Step::Boot, Step::Confirm],
                    Step::Boot,
                    &[1],
                ),
                (
                    &[Step::Activate, Step::Boot, Step::Confirm],
                    Step::Activate,
                    &[0, 1],
                ),
                (
                    &[Step::Activate, Step::Boot, Step::Revert],
                    Step::Activate,
                    &[0, 1],
                ),
            ] {
                let take =
                    async |data: &mut Otadata<MemoryFlash>, running: &mut u8, step| match step {
                        Step::Activate => data.activate(*running).await,
                        Step::Confirm => data.confirm(*running).await,
                        Step::Revert => data.revert(*running).await,
                        Step::Boot => data.boot(rolls_back).await.map(|slot| *running = slot),
                    };
                let start = blank();
                let mut running = 0;
                wait(async {
                    for step in before {
                        take(&mut Otadata::new(start.clone()), &mut running, *step)
                            .await
                            .unwrap();
                    }
                });
                if matches!(step, Step::Boot) && !rolls_back {
                    // It writes nothing.
                    continue;
                }
                if matches!(step, Step::Boot) && matches!(before, [.., Step::Confirm]) {
                    continue;
                }
                every_power_loss(
                    || start.copy(),
                    async |flash| {
                        let mut running = running;
                        take(&mut Otadata::new(flash), &mut running, step).await
                    },
                    |flash| {
                        let mut data = Otadata::new(flash);
                        let slot = wait(data.boot(rolls_back)).unwrap();
                        assert!(allowed.contains(&slot), "{before:?} {step:?}: {slot}");
                        // And it goes on from there.
                        wait(async {
                            data.confirm(slot).await.unwrap();
                            assert_eq!(data.boot(rolls_back).await, Ok(slot));
                            data.activate(slot).await.unwrap();
                            assert_eq!(data.boot(rolls_back).await, Ok(1 - slot));
                        });
                    },
                );
            }
        }
    }

    proptest! {
        /// Whatever is in the flash, something starts and updates go on.
        #[test]
        fn damage_stops_nothing(first: [u8; 32], second: [u8; 32], rolls_back: bool) {
            let flash = blank();
            flash.load(0, &first);
            flash.load(PAGE, &second);
            let mut data = Otadata::new(flash);
            wait(async {
                let slot = data.boot(rolls_back).await.unwrap();
                data.confirm(slot).await.unwrap();
                data.activate(slot).await.unwrap();
                assert_eq!(data.boot(rolls_back).await, Ok(1 - slot));
            });
        }
    }
}
