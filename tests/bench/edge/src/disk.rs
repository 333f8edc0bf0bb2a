//! What the disk itself takes for a synced commit, on the file system that is measured.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::{Fallible, results::median};

/// Median microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commits {
    /// One row of a message's size in one transaction of SQLite: WAL, `synchronous=FULL`.
    pub(crate) sqlite: f64,
    /// A message's size appended to a file that has the room already, then fdatasync.
    pub(crate) fdatasync: f64,
    /// One of a hundred of these takes longer.
    pub(crate) fdatasync_p99: f64,
}

/// Measures both for `each`.
pub(crate) fn commits(folder: &Path, size: usize, each: Duration) -> Fallible<Commits> {
    let row = vec![b'x'; size];
    let conn = Connection::open(folder.join("commits.db"))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    )?;
    let sqlite = {
        let mut insert = conn.prepare("INSERT INTO message (body) VALUES (?)")?;
        timed(each, || Ok(insert.execute([&row]).map(drop)?))?.0
    };
    let mut file: File = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(folder.join("commits.bin"))?;
    // A log grows into room it has, as SQLite's WAL does: appending proper would have the file
    // system write its own log as well.
    file.write_all(&vec![0; 16 << 20])?;
    file.sync_all()?;
    let mut at = 0;
    let (fdatasync, fdatasync_p99) = timed(each, || {
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(&row, at)?;
        at = (at + size as u64) % (15 << 20);
        Ok(file.sync_data()?)
    })?;
    Ok(Commits {
        sqlite,
        fdatasync,
        fdatasync_p99,
    })
}

/// The median and the 99th percentile in microseconds.
fn timed(each: Duration, mut once: impl FnMut() -> Fallible<()>) -> Fallible<(f64, f64)> {
    let (mut took, began) = (Vec::new(), Instant::now());
    while began.elapsed() < each {
        let start = Instant::now();
        once()?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let p99 = took.get(took.len() * 99 / 100).copied();
    median(&took)
        .zip(p99)
        .ok_or_else(|| "no commit at all".into())
}
