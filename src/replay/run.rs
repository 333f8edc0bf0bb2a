//! Entries on disk: a static hash table that is written once, and the filters that stand before it.
//!
//! The keyed 64-bit hash of an entry's key, read as a fraction of one, says which page it is on
//! (`hash * pages / 2^64`). So a lookup reads exactly one page, there is no directory, and runs can be
//! merged piece by piece in the order of hashes. [`PIECE_PAGES`] pages in a row share a filter, which
//! bounds the memory that building one takes.
//!
//! A page: CRC-32 (IEEE) of the rest as a little-endian u32, then per entry, ordered by hash:
//! device u32, `message_id` 16 bytes, digest u64; 28 bytes.

use xorf::{BinaryFuse8, Filter as _};

use super::{Entry, HashKey, Key, Pages, recent::Recent};
use crate::store::DeviceKey;
use tidegate_wire::MessageId;

/// Number of a run; never reused while any page of it exists.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RunId(pub u64);

/// A run's place in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunState {
    /// Output of a merge under way; its inputs are still in use.
    Building,
    Live,
    /// Merged or forgotten; its pages are being deleted.
    Dropping,
}

/// What is persisted of a run besides its pages and filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RunRecord {
    pub id: RunId,
    pub state: RunState,
    /// 0 when sealed; one more than its inputs when merged.
    pub level: u8,
    pub entries: u64,
    pub pages: u32,
    /// Seconds since 1970.
    pub newest_timestamp: u64,
    /// When the oldest and the newest entry were accepted, seconds since 1970.
    pub first_received: u64,
    pub last_received: u64,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) record: RunRecord,
    pub(super) filters: Vec<Filter>,
}

/// Bytes of an entry on disk.
pub(super) const ENTRY_BYTES: usize = 28;

const PAGE_HEADER: usize = 4;

/// Entries per page on average: 3,140 bytes. Pages fill by chance (a standard deviation of eleven);
/// up to 144 entries fit a 4 KiB database page without overflow, which is three deviations away.
pub(super) const PAGE_ENTRIES: u64 = 112;

/// Pages that share a filter.
pub(super) const PIECE_PAGES: u32 = 128;

/// Entries behind one filter on average; also the unit of merge work (one to three milliseconds).
pub(super) const PIECE_ENTRIES: usize = PAGE_ENTRIES as usize * PIECE_PAGES as usize;

/// A stored page or filter is not what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a page of remembered message ids is damaged; restore a backup")]
pub struct FilterError;

impl Run {
    pub(super) fn get<P: Pages>(
        &self,
        pages: &P,
        hash: u64,
        key: &Key,
    ) -> Result<Option<u64>, P::Error> {
        let page = page_of(hash, self.record.pages);
        let piece = (page / PIECE_PAGES) as usize;
        if !self
            .filters
            .get(piece)
            .is_some_and(|filter| filter.may_hold(hash))
        {
            return Ok(None);
        }
        let mut found = None;
        pages.scan(self.record.id, page..page + 1, &mut |bytes| {
            decode_page(bytes, |entry| {
                if entry.key == *key {
                    found = Some(entry.digest);
                }
            })
        })?;
        Ok(found)
    }
}

/// The page of a table of `pages` that an entry with this hash is on.
pub(super) fn page_of(hash: u64, pages: u32) -> u32 {
    // Less than `pages`, so it fits.
    ((u128::from(hash) * u128::from(pages)) >> 64) as u32
}

/// The smallest hash on `page` of a table of `pages`.
pub(super) fn first_hash(page: u32, pages: u32) -> u64 {
    u64::try_from((u128::from(page) << 64).div_ceil(u128::from(pages.max(1)))).unwrap_or(u64::MAX)
}

pub(super) fn pages_for(entries: u64) -> u32 {
    u32::try_from(entries.div_ceil(PAGE_ENTRIES).max(1)).unwrap_or(u32::MAX)
}

/// How many filters a run has.
#[must_use]
pub fn pieces(run: &RunRecord) -> u32 {
    run.pages.div_ceil(PIECE_PAGES)
}

/// Reads a page.
///
/// # Errors
/// When its checksum or length is wrong.
pub(super) fn decode_page(bytes: &[u8], mut each: impl FnMut(Entry)) -> Result<(), FilterError> {
    let (checksum, entries) = bytes
        .split_first_chunk::<PAGE_HEADER>()
        .ok_or(FilterError)?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(entries) {
        return Err(FilterError);
    }
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(FilterError);
    }
    for bytes in entries {
        each(decode_entry(bytes));
    }
    Ok(())
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let (mut device, mut message_id, mut digest) = ([0; 4], [0; 16], [0; 8]);
    device.copy_from_slice(&bytes[..4]);
    message_id.copy_from_slice(&bytes[4..20]);
    digest.copy_from_slice(&bytes[20..]);
    Entry {
        key: Key {
            device: DeviceKey(u32::from_le_bytes(device)),
            message_id: MessageId::from_bytes(message_id),
        },
        digest: u64::from_le_bytes(digest),
    }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.key.device.0.to_le_bytes());
    out.extend_from_slice(entry.key.message_id.as_bytes());
    out.extend_from_slice(&entry.digest.to_le_bytes());
}

/// Writes the recent entries as a run of level 0.
pub(super) fn write<P: Pages>(
    pages: &mut P,
    key: &HashKey,
    id: RunId,
    recent: &Recent,
) -> Result<Run, P::Error> {
    let mut hashed: Vec<(u64, u32)> = (0u32..)
        .zip(recent.entries())
        .map(|(position, entry)| (key.hash(&entry.key), position))
        .collect();
    hashed.sort_unstable();
    let (first_received, last_received) = recent.received();
    let record = RunRecord {
        id,
        state: RunState::Live,
        level: 0,
        entries: hashed.len() as u64,
        pages: pages_for(hashed.len() as u64),
        newest_timestamp: recent.newest_timestamp(),
        first_received,
        last_received,
    };
    let mut filters = Vec::new();
    let mut rest = hashed.as_slice();
    for piece in 0..pieces(&record) {
        let end =
            rest.partition_point(|(hash, _)| page_of(*hash, record.pages) / PIECE_PAGES <= piece);
        let (now, later) = rest.split_at(end);
        rest = later;
        let entries = now
            .iter()
            .map(|(hash, position)| (*hash, recent.entries()[*position as usize]));
        filters.push(write_piece(pages, &record, piece, entries)?);
    }
    Ok(Run { record, filters })
}

/// Writes the pages and the filter of one piece; `entries` ordered by hash.
pub(super) fn write_piece<P: Pages>(
    pages: &mut P,
    run: &RunRecord,
    piece: u32,
    entries: impl Iterator<Item = (u64, Entry)>,
) -> Result<Filter, P::Error> {
    let mut hashes = Vec::with_capacity(PIECE_ENTRIES + PIECE_ENTRIES / 16);
    let mut bytes = Vec::with_capacity(PAGE_HEADER + 160 * ENTRY_BYTES);
    let mut open = None;
    let mut flush = |page: Option<u32>, bytes: &mut Vec<u8>| -> Result<(), P::Error> {
        if let (Some(page), Some((header, entries))) =
            (page, bytes.split_first_chunk_mut::<PAGE_HEADER>())
        {
            *header = crc32fast::hash(entries).to_le_bytes();
            pages.put_page(run.id, page, bytes)?;
        }
        bytes.clear();
        bytes.resize(PAGE_HEADER, 0);
        Ok(())
    };
    for (hash, entry) in entries {
        let page = page_of(hash, run.pages);
        if open != Some(page) {
            flush(open, &mut bytes)?;
            open = Some(page);
        }
        encode_entry(&entry, &mut bytes);
        hashes.push(hash);
    }
    flush(open, &mut bytes)?;
    let filter = Filter::build(&mut hashes);
    pages.put_filter(run.id, piece, &filter.encode())?;
    Ok(filter)
}

/// A set of hashes that may say yes in one of 256 cases too many, and never no wrongly.
#[derive(Debug)]
pub struct Filter(BinaryFuse8);

/// CRC-32 of the rest, then the descriptor: seed u64, segment length, segments' length in all.
const FILTER_HEADER: usize = 4 + 8 + 4 + 4;

impl Filter {
    /// `hashes`: ordered.
    pub(super) fn build(hashes: &mut Vec<u64>) -> Self {
        hashes.dedup();
        match BinaryFuse8::try_from_iterator(hashes.iter().copied()) {
            Ok(filter) => Self(filter),
            // A thousand seeds failed, which distinct keys do not do. Still never wrong: a filter that
            // says yes to everything costs page reads only.
            Err(_) => Self(Self::everything()),
        }
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.0.fingerprints.is_empty() || self.0.contains(&hash)
    }

    fn everything() -> BinaryFuse8 {
        BinaryFuse8 {
            descriptor: xorf::Descriptor {
                seed: 0,
                segment_length: 0,
                segment_length_mask: 0,
                segment_count_length: 0,
            },
            fingerprints: Box::from([]),
        }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.fingerprints.len()
    }

    /// The form on disk: nine bits per entry, so that a start reads 1/25 of what rebuilding would.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let descriptor = &self.0.descriptor;
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&descriptor.seed.to_le_bytes());
        bytes.extend_from_slice(&descriptor.segment_length.to_le_bytes());
        bytes.extend_from_slice(&descriptor.segment_count_length.to_le_bytes());
        bytes.extend_from_slice(&self.0.fingerprints);
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the form on disk.
    ///
    /// # Errors
    /// When it is not what [`Filter::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FilterError> {
        let (header, fingerprints) = bytes
            .split_first_chunk::<FILTER_HEADER>()
            .ok_or(FilterError)?;
        let number = |from: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[from..from + 4]);
            u32::from_le_bytes(bytes)
        };
        if number(0) != crc32fast::hash(&bytes[4..]) {
            return Err(FilterError);
        }
        let (segment_length, segment_count_length) = (number(12), number(16));
        let expected = u64::from(segment_count_length) + 2 * u64::from(segment_length);
        let sound = segment_length == 0 || segment_length.is_power_of_two();
        if expected != fingerprints.len() as u64 || !sound {
            return Err(FilterError);
        }
        Ok(Self(BinaryFuse8 {
            descriptor: xorf::Descriptor {
                seed: u64::from(number(4)) | u64::from(number(8)) << 32,
                segment_length,
                segment_length_mask: segment_length.saturating_sub(1),
                segment_count_length,
            },
            fingerprints: Box::from(fingerprints),
        }))
    }
}
