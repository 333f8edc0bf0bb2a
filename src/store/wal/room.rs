//! The WAL's file: how much of it is in use, and room ahead of what is written.
//!
//! A commit into room that the file has already is two to four times as fast as one that makes it
//! longer, and costs the system half the processor time: the file system then has nothing to note in
//! its own log. So the file is not made shorter when the WAL starts over, and while it grows it grows
//! by many commits' worth at a time.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::Connection;

/// A page and the header of its frame (SQLite file format, 4.1).
const FRAME_BYTES: u64 = 4_096 + 24;

/// Room is made at the end of a WAL that is longer than this: what is written now and then needs none.
const IN_USE: u64 = 1 << 20;

/// Most room that is made at a time. It is written with the next commit, which takes longer for it.
const ROOM_MAX: u64 = 4 << 20;

/// Share of the WAL's target that is made at a time, if that is less.
const ROOM_SHARE: u64 = 8;

/// Belongs to the writer: nobody else writes to the WAL, and nobody at all does while room is made.
#[derive(Debug)]
pub(in crate::store) struct Wal {
    path: PathBuf,
    /// Frames in use, as the last commit left them.
    frames: Arc<AtomicU64>,
    room: u64,
}

impl Wal {
    /// Follows what commits of `conn`, the only connection that writes, leave in the WAL.
    pub(in crate::store) fn watch(
        conn: &mut Connection,
        path: PathBuf,
        target: u64,
    ) -> rusqlite::Result<Self> {
        let frames = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&frames);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            seen.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            path,
            frames,
            room: (target / ROOM_SHARE).min(ROOM_MAX),
        })
    }

    /// Bytes of the file that hold frames.
    pub(in crate::store) fn used(&self) -> u64 {
        self.frames.load(Ordering::Relaxed) * FRAME_BYTES
    }

    /// Bytes of the file.
    pub(in crate::store) fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Makes room at the end if there is little left. Zeros are no frames: after a power cut SQLite
    /// takes them for the end of the WAL.
    pub(in crate::store) fn make_room(&self) {
        let (used, size) = (self.used(), self.size());
        let begun = used >= IN_USE.min(self.room);
        // Less than is in use: it was truncated since, or cannot be looked at.
        if !begun || size < used || used + self.room / 4 < size {
            return;
        }
        if let Err(error) = self.extend(size) {
            // Then commits take longer, and if it is the disk that is full they will say so.
            tracing::debug!(%error, "no room made in the WAL");
        }
    }

    fn extend(&self, end: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 1 << 16];
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let mut at = end;
        while at < end + self.room {
            file.write_all_at(ZEROS, at)?;
            at += ZEROS.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn room_is_made_ahead_and_is_the_end_to_who_recovers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let mut conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn.execute_batch("CREATE TABLE t (a)").unwrap();
        let wal = Wal::watch(&mut conn, folder.path().join("a.db-wal"), 8 << 20).unwrap();
        assert_eq!((wal.used(), wal.room), (0, 1 << 20));
        wal.make_room();
        assert!(wal.size() < 1 << 20, "a WAL hardly in use gets no room");
        let mut grew = 0;
        let mut last = wal.size();
        for _ in 0..600 {
            conn.execute("INSERT INTO t VALUES (zeroblob(3500))", [])
                .unwrap();
            grew += u32::from(wal.size() > last);
            wal.make_room();
            last = wal.size();
            assert!(wal.used() < last);
        }
        assert!(wal.used() > 2 << 20);
        assert!(grew < 350, "commits made the file longer {grew} times");

        // The plug is pulled: what is in the files is all there is.
        let copy = folder.path().join("b.db");
        fs::copy(&path, &copy).unwrap();
        fs::copy(&wal.path, folder.path().join("b.db-wal")).unwrap();
        let recovered = Connection::open(&copy).unwrap();
        assert_eq!(rows(&recovered), 600);
        let check: String = recovered
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        drop(recovered);

        // A WAL that was truncated, or is gone, is left alone.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        wal.make_room();
        assert_eq!(wal.size(), 0);
        conn.execute("INSERT INTO t VALUES (1)", []).unwrap();
        assert_eq!(rows(&conn), 601);
    }
}
