//! Whether the write-ahead log that a dead process left is whole.
//!
//! SQLite takes the first frame whose checksum is wrong for the end of the log: after a power cut it
//! is. A bit that flipped in the middle looks the same, and everything committed after it would be
//! gone without a word. So the log is read before SQLite does it: a transaction begins only after the
//! one before was synced, hence a bad frame with a commit and then more of the same log behind it is
//! damage. (A bad frame in the very last transaction cannot be told from a power cut.)
//!
//! The format: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

const HEADER: usize = 32;
const FRAME: usize = 24;

/// What begins a log, but for the lowest bit: the order of bytes in its checksums.
const MAGIC: u32 = 0x377f_0682;

/// What a log holds that is whole.
#[derive(Debug, Default)]
pub(in crate::store) struct Found {
    /// Pages of the database after its last commit; `None` if nothing was committed.
    pub(in crate::store) pages: Option<u32>,
    /// The pages it has.
    pub(in crate::store) holds: HashSet<u32>,
}

/// Reads a log to its end. `Ok(Err(…))` says how it is damaged.
pub(in crate::store) fn inspect(path: &Path) -> io::Result<Result<Found, String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ok(Found::default())),
        Err(error) => return Err(error),
    };
    // Larger than a frame, so that each costs no call of its own.
    read(&mut BufReader::with_capacity(1 << 20, file))
}

/// A checksum as the format has it: two running sums over pairs of words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Sum(u32, u32);

impl Sum {
    fn at(bytes: &[u8], from: usize) -> Self {
        Self(word(bytes, from), word(bytes, from + 4))
    }

    fn add(mut self, bytes: &[u8], big_endian: bool) -> Self {
        let number = |word: [u8; 4]| {
            if big_endian {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        };
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            self.0 = self
                .0
                .wrapping_add(number([a, b, c, d]))
                .wrapping_add(self.1);
            self.1 = self
                .1
                .wrapping_add(number([e, f, g, h]))
                .wrapping_add(self.0);
        }
        self
    }
}

/// A number of the format, which are all big-endian; zero past the end.
fn word(bytes: &[u8], from: usize) -> u32 {
    bytes
        .get(from..from + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// Where the reading stands once something was wrong.
#[derive(Clone, Copy)]
struct Bad {
    frame: u64,
    committed_since: bool,
}

fn read(file: &mut impl Read) -> io::Result<Result<Found, String>> {
    let mut header = [0; HEADER];
    if !fill(file, &mut header)? {
        // A process that died before it wrote the first frame.
        return Ok(Ok(Found::default()));
    }
    let big_endian = word(&header, 0) == MAGIC | 1;
    let sound = word(&header, 0) & !1 == MAGIC
        && Sum(0, 0).add(&header[..24], big_endian) == Sum::at(&header, 24);
    let size = usize::try_from(word(&header, 8)).unwrap_or(0);
    let size = if size.is_power_of_two() && (512..=65_536).contains(&size) {
        size
    } else {
        4_096
    };
    let salt = Sum::at(&header, 16);

    let mut wal = Found::default();
    let mut open: Vec<u32> = Vec::new();
    let mut bad: Option<Bad> = None;
    let mut before = Sum::at(&header, 24);
    let mut frame = vec![0; FRAME + size];
    let mut number = 0_u64;
    while fill(file, &mut frame)? {
        number += 1;
        let stored = Sum::at(&frame, 16);
        // Each frame is judged by what the one before says of itself, so that what follows a bad one
        // can be judged as well.
        let chained = before
            .add(&frame[..8], big_endian)
            .add(&frame[FRAME..], big_endian)
            == stored;
        before = stored;
        if !sound {
            if chained {
                return Ok(Err("its header is damaged".to_owned()));
            }
            continue;
        }
        let ours = Sum::at(&frame, 8) == salt;
        let valid = chained && ours;
        let commit = word(&frame, 4);
        match &mut bad {
            None if valid => {
                open.push(word(&frame, 0));
                if commit != 0 {
                    wal.pages = Some(commit);
                    wal.holds.extend(open.drain(..));
                }
            }
            None => {
                bad = Some(Bad {
                    frame: number,
                    committed_since: commit != 0,
                });
            }
            Some(bad) if valid && bad.committed_since => {
                let frame = bad.frame;
                return Ok(Err(format!(
                    "frame {frame} is not what was written, and what was committed after it would be lost"
                )));
            }
            Some(bad) => bad.committed_since |= ours && commit != 0,
        }
    }
    Ok(Ok(wal))
}

/// Fills `buffer`, or says that the file ended.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A log of twenty commits as SQLite writes it, before anything was moved.
    fn log() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn.execute_batch("CREATE TABLE t (a BLOB)").unwrap();
        for _ in 0..20 {
            conn.execute("INSERT INTO t VALUES (randomblob(9000))", [])
                .unwrap();
        }
        std::fs::read(folder.path().join("t.db-wal")).unwrap()
    }

    fn judge(bytes: &[u8]) -> Result<Found, String> {
        read(&mut &*bytes).unwrap()
    }

    /// Where each transaction ends, in bytes.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let frames = bytes[HEADER..].chunks_exact(FRAME + 4_096).enumerate();
        frames
            .filter(|(_, frame)| word(frame, 4) != 0)
            .map(|(at, _)| HEADER + (at + 1) * (FRAME + 4_096))
            .collect()
    }

    #[test]
    fn a_whole_log_is_whole_and_so_is_one_cut_off_anywhere() {
        let whole = log();
        assert!(judge(&whole).unwrap().pages.unwrap() > 20);
        for length in (0..whole.len()).step_by(1_361) {
            judge(&whole[..length]).unwrap();
        }
        // Frames of the last transaction that reached the disk before others did.
        let ends = ends(&whole);
        let last = ends[ends.len() - 2];
        let mut torn = whole.clone();
        torn[last..last + 1_000].fill(0);
        judge(&torn).unwrap();
    }

    #[test]
    fn frames_of_an_earlier_use_of_the_file_are_no_damage() {
        let mut bytes = log();
        let newer = log();
        // A log that started over: a new header, one new transaction, the rest as it was.
        let end = ends(&newer)[1];
        bytes[..end].copy_from_slice(&newer[..end]);
        judge(&bytes).unwrap();
    }

    #[test]
    fn a_flipped_bit_before_the_last_transaction_is_found() {
        let whole = log();
        let ends = ends(&whole);
        let last = ends[ends.len() - 2];
        for at in (0..last).step_by(97) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(judge(&bytes).is_err(), "byte {at} of {last}");
        }
    }
}
