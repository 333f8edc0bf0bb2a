//! Two places for a set, so that one is whole at every moment.
//!
//! ```text
//!  a partition of two halves, each:
//!  0    header: magic, sequence, length, SHA-256 of all that and the body
//!  64   mark: erased = on trial, anything else = confirmed
//!  96   body
//! ```
//!
//! A half is valid if its digest fits; the header is written last. The confirmed half with the
//! highest sequence is active. A new set goes into the other half and stays on trial until the
//! gateway was reached with it; then its mark is written and the old half erased. Writing the mark
//! has begun only after the decision, so a mark cut short by a power loss counts.
//!
//! Each word is written once between erasures, which encrypted flash and flash with ECC demand.

use alloc::vec;
use alloc::vec::Vec;

use embedded_storage_async::nor_flash::{NorFlash, NorFlashError, NorFlashErrorKind};
use p256::ecdsa::signature::digest::Digest;
use zeroize::Zeroizing;

use super::{Credentials, InvalidCredentials};

/// Names the format and its version.
const MAGIC: [u8; 8] = *b"TGCRED\x00\x01";
/// Offsets are multiples of the largest write unit there is: 32 bytes, on flash with ECC.
const MARK_AT: usize = 64;
const BODY_AT: usize = 96;
const UNIT: usize = 32;
const ERASED: u8 = 0xff;
const CONFIRMED: [u8; UNIT] = [0x5a; UNIT];

/// What went wrong with the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no set.
    #[error("device is not provisioned: write its credentials partition")]
    NotProvisioned,
    /// There is one and it makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidCredentials),
    /// The set is larger than half the partition.
    #[error("credentials take {needed} bytes and half the partition has {capacity}: enlarge it")]
    TooLarge {
        /// Bytes of the set with its header.
        needed: usize,
        /// Bytes of a half.
        capacity: usize,
    },
    /// There is no set on trial to be confirmed.
    #[error("no new credentials are on trial")]
    NoTrial,
    /// The flash failed.
    #[error("credentials partition cannot be accessed ({0:?}): check the partition table")]
    Flash(NorFlashErrorKind),
}

/// The partition, read and in order.
#[derive(Debug)]
pub struct Store<F> {
    flash: F,
    active: Half,
    trial: Option<Half>,
}

#[derive(Debug)]
struct Half {
    index: usize,
    sequence: u32,
    confirmed: bool,
    set: Credentials,
}

impl<F: NorFlash> Store<F> {
    /// Reads the partition, and erases what an interruption left behind.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotProvisioned`], a set that makes no sense, or the flash.
    pub async fn open(mut flash: F) -> Result<Self, StoreError> {
        let mut halves = [None, None];
        let mut invalid = None;
        for (index, half) in halves.iter_mut().enumerate() {
            match read_half(&mut flash, index).await {
                Ok(found) => *half = found,
                Err(StoreError::Invalid(error)) => invalid = Some(error),
                Err(error) => return Err(error),
            }
        }
        // Confirmed before unconfirmed, then the later one.
        let rank = |half: &Option<Half>| half.as_ref().map(|h| (h.confirmed, h.sequence));
        if rank(&halves[0]) < rank(&halves[1]) {
            halves.swap(0, 1);
        }
        let [active, other] = halves;
        let active = active.ok_or(match invalid {
            Some(error) => StoreError::Invalid(error),
            None => StoreError::NotProvisioned,
        })?;
        let trial = other.filter(|half| !half.confirmed && half.sequence > active.sequence);
        let mut store = Self {
            flash,
            active,
            trial,
        };
        if store.trial.is_none() {
            store.erase(1 - store.active.index).await?;
        }
        Ok(store)
    }

    /// The set that is known to work.
    pub const fn active(&self) -> &Credentials {
        &self.active.set
    }

    /// The set that is to be tried.
    pub fn trial(&self) -> Option<&Credentials> {
        self.trial.as_ref().map(|half| &half.set)
    }

    /// Writes a new set beside the active one, to be tried. One that was there is given up.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooLarge`], or the flash; the active set stays either way.
    pub async fn stage(&mut self, set: Credentials) -> Result<(), StoreError> {
        let index = 1 - self.active.index;
        let sequence = self.active.sequence.wrapping_add(1);
        let capacity = self.flash.capacity() / 2;
        let bytes = lay_out(&set, sequence, false, capacity, F::WRITE_SIZE)?;
        self.trial = None;
        self.erase(index).await?;
        let start = offset(&self.flash, index);
        for (at, part) in [(BODY_AT, bytes.get(BODY_AT..)), (0, bytes.get(..MARK_AT))] {
            self.flash
                .write(start + at as u32, part.unwrap_or(&[]))
                .await
                .map_err(failed)?;
        }
        self.trial = Some(Half {
            index,
            sequence,
            confirmed: false,
            set,
        });
        Ok(())
    }

    /// The set on trial works: it takes the place of the active one, which is erased.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoTrial`], or the flash.
    pub async fn confirm(&mut self) -> Result<(), StoreError> {
        let half = self.trial.as_ref().ok_or(StoreError::NoTrial)?;
        let at = offset(&self.flash, half.index) + MARK_AT as u32;
        self.flash.write(at, &CONFIRMED).await.map_err(failed)?;
        if let Some(half) = self.trial.take() {
            let old = core::mem::replace(&mut self.active, half);
            self.active.confirmed = true;
            self.erase(old.index).await?;
        }
        Ok(())
    }

    /// The set on trial does not work: it is erased.
    ///
    /// # Errors
    ///
    /// The flash.
    pub async fn discard(&mut self) -> Result<(), StoreError> {
        self.trial = None;
        self.erase(1 - self.active.index).await
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// Erases a half, unless it is erased already: flash wears.
    async fn erase(&mut self, index: usize) -> Result<(), StoreError> {
        let start = offset(&self.flash, index);
        let end = start + half_size(&self.flash) as u32;
        let mut chunk = [0; 64];
        let mut at = start;
        while at < end {
            let len = chunk.len().min((end - at) as usize);
            let part = chunk.get_mut(..len).unwrap_or(&mut []);
            self.flash.read(at, part).await.map_err(failed)?;
            if part.iter().any(|byte| *byte != ERASED) {
                return self.flash.erase(start, end).await.map_err(failed);
            }
            at += len as u32;
        }
        Ok(())
    }
}

/// The partition's first bytes as provisioning writes them: one confirmed set. The rest of the
/// partition is to be erased.
///
/// `capacity` is the partition's size.
///
/// # Errors
///
/// [`StoreError::TooLarge`]
pub fn image(set: &Credentials, capacity: usize) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    lay_out(set, 1, true, capacity / 2, UNIT)
}

fn lay_out(
    set: &Credentials,
    sequence: u32,
    confirmed: bool,
    capacity: usize,
    write_size: usize,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let body = set.encode();
    let needed = (BODY_AT + body.len()).next_multiple_of(write_size.max(UNIT));
    if needed > capacity {
        return Err(StoreError::TooLarge { needed, capacity });
    }
    let length = (body.len() as u32).to_le_bytes();
    let sequence = sequence.to_le_bytes();
    let digest = digest(sequence, length, &body);
    let mut bytes = Zeroizing::new(vec![ERASED; needed]);
    let mark: &[u8] = if confirmed { &CONFIRMED } else { &[] };
    for (at, part) in [
        (0, &MAGIC[..]),
        (8, &sequence),
        (12, &length),
        (16, &digest),
        (MARK_AT, mark),
        (BODY_AT, &body),
    ] {
        if let Some(place) = bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
    }
    Ok(bytes)
}

fn digest(sequence: [u8; 4], length: [u8; 4], body: &[u8]) -> [u8; 32] {
    let mut hash = embedded_tls::Sha256::new();
    hash.update(MAGIC);
    hash.update(sequence);
    hash.update(length);
    hash.update(body);
    hash.finalize().into()
}

async fn read_half<F: NorFlash>(flash: &mut F, index: usize) -> Result<Option<Half>, StoreError> {
    let start = offset(flash, index);
    let mut header = [0; BODY_AT];
    flash.read(start, &mut header).await.map_err(failed)?;
    let (fields, mark) = header.split_at(MARK_AT);
    let field = |at: usize| -> [u8; 4] {
        fields
            .get(at..)
            .and_then(|rest| rest.first_chunk().copied())
            .unwrap_or_default()
    };
    let (sequence, length) = (field(8), field(12));
    let len = u32::from_le_bytes(length) as usize;
    if !fields.starts_with(&MAGIC) || len > half_size(flash).saturating_sub(BODY_AT) {
        return Ok(None);
    }
    // Reads have a unit as well; what is read beyond the body is padding.
    let padded = len.next_multiple_of(F::READ_SIZE.max(1));
    let mut body = Zeroizing::new(vec![0; padded]);
    flash
        .read(start + BODY_AT as u32, &mut body)
        .await
        .map_err(failed)?;
    let body = body.get(..len).unwrap_or(&[]);
    if fields.get(16..48) != Some(&digest(sequence, length, body)[..]) {
        return Ok(None);
    }
    Ok(Some(Half {
        index,
        sequence: u32::from_le_bytes(sequence),
        confirmed: mark.iter().any(|byte| *byte != ERASED),
        set: Credentials::decode(body)?,
    }))
}

/// Whole erase pages only.
fn half_size<F: NorFlash>(flash: &F) -> usize {
    let half = flash.capacity() / 2;
    half - half % F::ERASE_SIZE
}

fn offset<F: NorFlash>(flash: &F, index: usize) -> u32 {
    (index * half_size(flash)) as u32
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: impl NorFlashError) -> StoreError {
    StoreError::Flash(error.kind())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::tests::sample;
    use super::*;
    use crate::memory_flash::{MemoryFlash, every_power_loss, wait};

    const PAGES: usize = 4;

    fn provisioned() -> MemoryFlash {
        let flash = MemoryFlash::new(PAGES);
        flash.load(0, &image(&sample(1), flash.capacity()).unwrap());
        flash
    }

    fn erased(flash: &MemoryFlash, half: usize) -> bool {
        let half_len = flash.capacity() / 2;
        flash.bytes()[half * half_len..][..half_len]
            .iter()
            .all(|byte| *byte == ERASED)
    }

    #[test]
    fn a_blank_partition_says_so() {
        let opened = wait(Store::open(MemoryFlash::new(PAGES)));
        assert_eq!(opened.err(), Some(StoreError::NotProvisioned));
    }

    #[test]
    fn a_damaged_set_is_not_used() {
        let flash = provisioned();
        for at in [0, 9, 13, 20, BODY_AT + 5, BODY_AT + 900] {
            let flash = flash.copy();
            flash.load(at, &[flash.bytes()[at] ^ 0x10]);
            assert!(wait(Store::open(flash)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn rotation() {
        let flash = provisioned();
        wait(async {
            let mut store = Store::open(flash.clone()).await.unwrap();
            assert_eq!(store.active(), &sample(1));
            assert_eq!(store.trial(), None);
            for mark in 2..7 {
                store.stage(sample(mark)).await.unwrap();
                assert_eq!(store.active(), &sample(mark - 1));
                let mut again = Store::open(flash.clone()).await.unwrap();
                assert_eq!(again.active(), &sample(mark - 1));
                assert_eq!(again.trial(), Some(&sample(mark)));
                again.confirm().await.unwrap();
                store = Store::open(flash.clone()).await.unwrap();
                assert_eq!((store.active(), store.trial()), (&sample(mark), None));
                assert!(erased(&flash, usize::from(mark) % 2), "the old set is gone");
            }
            store.stage(sample(9)).await.unwrap();
            store.discard().await.unwrap();
            assert_eq!(store.active(), &sample(6));
            assert!(erased(&flash, 0) || erased(&flash, 1));
            assert_eq!(store.confirm().await, Err(StoreError::NoTrial));
        });
    }

    #[test]
    fn a_set_too_large_changes_nothing() {
        let flash = provisioned();
        wait(async {
            let mut store = Store::open(flash.clone()).await.unwrap();
            let mut large = sample(2);
            large.certificate = vec![0; flash.capacity()];
            assert!(matches!(
                store.stage(large).await,
                Err(StoreError::TooLarge { .. })
            ));
            assert_eq!(Store::open(flash).await.unwrap().active(), &sample(1));
        });
    }

    /// Staging and confirming, with the power lost at each of the operations in turn.
    #[test]
    fn a_set_is_whole_at_every_moment() {
        let mut seen = [false; 3];
        every_power_loss(
            provisioned,
            async |flash| {
                let mut store = Store::open(flash).await?;
                store.stage(sample(2)).await?;
                store.confirm().await
            },
            |flash| {
                wait(async {
                    let mut store = Store::open(flash.clone())
                        .await
                        .expect("a valid set is left");
                    let trial = store.trial().cloned();
                    if store.active() == &sample(2) {
                        seen[2] = true;
                        assert_eq!(trial, None);
                    } else {
                        assert_eq!(store.active(), &sample(1));
                        assert!(trial.is_none() || trial == Some(sample(2)));
                        seen[usize::from(trial.is_some())] = true;
                    }
                    // Only what is in use is left in the flash.
                    if store.trial().is_none() {
                        assert!(erased(&flash, 0) || erased(&flash, 1));
                    }
                    // And it goes on from there.
                    store.stage(sample(3)).await.unwrap();
                    store.confirm().await.unwrap();
                    assert_eq!(Store::open(flash).await.unwrap().active(), &sample(3));
                });
            },
        );
        assert_eq!(seen, [true; 3], "before, on trial, after");
    }
}
