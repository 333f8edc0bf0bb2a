//! The form of accepted messages on disk.
//!
//! One row per group commit rather than per message: a row of its own costs a message 2.7 µs, and
//! another 2.5 µs for each index on it; a share of a segment costs about 1 µs, index and all. So a
//! segment is one opaque value that is only ever written once, read in order and deleted whole.
//!
//! A segment, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of this form: 1 |
//! | 3 | zero |
//! | 4 | CRC-32 (IEEE) of everything after this field: SQLite has no checksums, SD cards have bit rot |
//! | 4 | number of records |
//! | … | the records, end to end; the first has the row's `first_seq`, each next one more |
//!
//! A record:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload |
//! | 1 | kind (0 data, 1 event, 2 ack), plus 128 if it is not remembered against replay |
//! | 4 | device key |
//! | 16 | message id |
//! | 5 | timestamp, seconds since 1970 |
//! | 6 | received at, milliseconds since 1970 |
//! | 8 | digest of the whole message |
//! | … | the payload as the device wrote it |
//!
//! Records have a fixed header so that sessions can encode them (in [`super::Batch`]) and the writer
//! only copies. Message id and digest are here so that what is remembered against replay, and not yet
//! sealed, can be rebuilt from the log and needs no rows of its own.

use tidegate_wire::MessageId;

use super::{DeviceKey, Message, Seq};
use crate::{
    clock::UnixMillis,
    envelope::{Kind, Verified},
};

const VERSION: u8 = 1;
const HEADER: usize = 12;
const CHECKSUM: std::ops::Range<usize> = 4..8;
const COUNT: std::ops::Range<usize> = 8..12;
pub(super) const RECORD_HEADER: usize = 44;
const NOT_REMEMBERED: u8 = 128;

/// A segment is closed when it is this long: what a reader has to hold at once.
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// One message in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) remembered: bool,
    pub(super) device: DeviceKey,
    pub(super) message_id: MessageId,
    pub(super) timestamp: u64,
    pub(super) received_at: UnixMillis,
    pub(super) digest: u64,
    pub(super) payload: &'a [u8],
}

/// Why a segment cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum SegmentError {
    #[error("form {0} is unknown")]
    Version(u8),
    #[error("checksum does not match")]
    Checksum,
    #[error("it ends too early")]
    Truncated,
}

pub(super) fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::Data => 0,
        Kind::Event => 1,
        Kind::Ack => 2,
    }
}

pub(super) fn kind_of(number: u8) -> Option<Kind> {
    match number {
        0 => Some(Kind::Data),
        1 => Some(Kind::Event),
        2 => Some(Kind::Ack),
        _ => None,
    }
}

/// Appends a message's record.
pub(super) fn encode(message: &Verified<'_>, out: &mut Vec<u8>) {
    let mut kind = kind_number(message.kind());
    if message.version().is_none() {
        // Its id was made by the gateway: nobody can send it again.
        kind |= NOT_REMEMBERED;
    }
    let mut header = [0; RECORD_HEADER];
    let length = u32::try_from(message.payload().len()).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind;
    header[5..9].copy_from_slice(&message.device_key().0.to_le_bytes());
    header[9..25].copy_from_slice(message.message_id().as_bytes());
    // Five bytes reach the year 36812, six the year 10889: freshness keeps both below.
    header[25..30].copy_from_slice(&message.timestamp().to_le_bytes()[..5]);
    header[30..36].copy_from_slice(&message.received_at().0.to_le_bytes()[..6]);
    header[36..].copy_from_slice(&message.digest().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(message.payload());
}

/// Reads the record at the start of `bytes`; the second part is what follows it.
pub(super) fn decode(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER>()?;
    let number = |from: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&header[from..from + length]);
        u64::from_le_bytes(bytes)
    };
    let (payload, rest) = rest.split_at_checked(usize::try_from(number(0, 4)).ok()?)?;
    let mut message_id = [0; 16];
    message_id.copy_from_slice(&header[9..25]);
    let record = Record {
        kind: kind_of(header[4] & !NOT_REMEMBERED)?,
        remembered: header[4] & NOT_REMEMBERED == 0,
        device: DeviceKey(u32::try_from(number(5, 4)).ok()?),
        message_id: MessageId::from_bytes(message_id),
        timestamp: number(25, 5),
        received_at: UnixMillis(number(30, 6)),
        digest: number(36, 8),
        payload,
    };
    Some((record, rest))
}

/// A segment being filled; reused from group to group.
#[derive(Debug)]
pub(super) struct Builder {
    bytes: Vec<u8>,
    count: u32,
    newest_received: UnixMillis,
}

impl Default for Builder {
    fn default() -> Self {
        let mut builder = Self {
            bytes: Vec::new(),
            count: 0,
            newest_received: UnixMillis::default(),
        };
        builder.clear();
        builder
    }
}

impl Builder {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEADER, 0);
        self.bytes[0] = VERSION;
        self.count = 0;
        self.newest_received = UnixMillis::default();
    }

    /// Appends `count` encoded records.
    pub(super) fn extend(&mut self, records: &[u8], count: u32, newest_received: UnixMillis) {
        self.bytes.extend_from_slice(records);
        self.count += count;
        self.newest_received = self.newest_received.max(newest_received);
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn newest_received(&self) -> UnixMillis {
        self.newest_received
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished segment.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.bytes[COUNT].copy_from_slice(&self.count.to_le_bytes());
        let checksum = crc32fast::hash(&self.bytes[CHECKSUM.end..]);
        self.bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }
}

/// A segment as it was read, its checksum verified.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: Seq,
    pub(super) count: u64,
    bytes: Vec<u8>,
}

impl Segment {
    pub(super) fn parse(first: Seq, bytes: Vec<u8>) -> Result<Self, SegmentError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(SegmentError::Truncated)?;
        let number = |range: std::ops::Range<usize>| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[range]);
            u32::from_le_bytes(bytes)
        };
        if header[0] != VERSION {
            return Err(SegmentError::Version(header[0]));
        }
        if number(CHECKSUM) != crc32fast::hash(&bytes[CHECKSUM.end..]) {
            return Err(SegmentError::Checksum);
        }
        let count = u64::from(number(COUNT));
        // A record has a header at least, so a wrong count cannot make anybody loop for long.
        if count * RECORD_HEADER as u64 > rest.len() as u64 {
            return Err(SegmentError::Truncated);
        }
        Ok(Self {
            first,
            count,
            bytes,
        })
    }

    pub(super) fn last(&self) -> Seq {
        Seq(self.first.0 + self.count.saturating_sub(1))
    }

    pub(super) fn records(&self) -> Records<'_> {
        self.records_from(Cursor {
            seq: self.first,
            at: HEADER,
        })
    }

    /// The records from a place that [`Records::cursor`] gave.
    pub(super) fn records_from(&self, cursor: Cursor) -> Records<'_> {
        Records {
            segment: self,
            cursor,
        }
    }
}

/// A place in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) seq: Seq,
    at: usize,
}

#[derive(Debug)]
pub(super) struct Records<'a> {
    segment: &'a Segment,
    cursor: Cursor,
}

impl Records<'_> {
    /// Where the next record is.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (Seq, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.seq > self.segment.last() {
            return None;
        }
        let bytes = self.segment.bytes.get(self.cursor.at..)?;
        let (record, rest) = decode(bytes)?;
        let seq = self.cursor.seq;
        self.cursor = Cursor {
            seq: Seq(seq.0 + 1),
            at: self.segment.bytes.len() - rest.len(),
        };
        Some((seq, record))
    }
}

impl Record<'_> {
    pub(super) fn to_message(self, seq: Seq) -> Message {
        Message {
            seq,
            device: self.device,
            kind: self.kind,
            message_id: self.message_id,
            timestamp: self.timestamp,
            received_at: self.received_at,
            payload: bytes::Bytes::copy_from_slice(self.payload),
        }
    }
}
