//! Messages of one connection on their way to disk.

use super::segment::{self, Record};
use crate::envelope::Verified;

/// Messages of one connection on their way to disk, in the order they came: their records, encoded as
/// they will lie in a segment, end to end in one allocation.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<u8>,
    /// Where each record ends, and whether its PUBLISH had the DUP flag.
    items: Vec<(u32, bool)>,
}

impl Batch {
    /// Takes a verified message; only these can be stored. `dup` is the PUBLISH packet's DUP flag.
    ///
    /// A batch is for the messages of one read or a few; it may hold up to 4 GiB.
    pub fn push(&mut self, message: &Verified<'_>, dup: bool) {
        segment::encode(message, &mut self.records);
        self.items
            .push((u32::try_from(self.records.len()).unwrap_or(u32::MAX), dup));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes held: of payload, and 44 per message.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (Record<'_>, &[u8], bool)> {
        let mut from = 0;
        self.items.iter().filter_map(move |(end, dup)| {
            let bytes = self.records.get(from..*end as usize)?;
            from = *end as usize;
            let (record, _) = segment::decode(bytes)?;
            Some((record, bytes, *dup))
        })
    }
}
