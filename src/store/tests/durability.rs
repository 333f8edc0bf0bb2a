use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::running::{Running, START, batch, open, options, sample, wait};
use crate::{
    clock::UnixMillis,
    envelope::{Kind, tests::unsigned},
    store::{Batch, OpenError, Seq, StoreError, Verdict, Wanted, backup},
};

/// When the copy is put back.
const NOW: UnixMillis = UnixMillis((START + 1) * 1000);

#[test]
fn positions_go_on_without_gaps_across_restarts() {
    let mut running = Running::new();
    let mut next = 1;
    for round in 0..4 {
        for size in [1, 3, 50] {
            let samples: Vec<_> = (0..size).map(|_| sample(round)).collect();
            let verdicts = running.ingest(batch(&samples)).unwrap();
            let expected: Vec<_> = (next..next + size)
                .map(|seq| Verdict::Stored(Seq(seq)))
                .collect();
            assert_eq!(verdicts, expected);
            next += size;
        }
        running = running.restart();
    }
}

#[test]
fn a_message_is_stored_once_whatever_is_sent_again() {
    let mut running = Running::new();
    let first = sample(1);
    let again = super::running::Sample { dup: true, ..first };
    let forged = super::running::Sample {
        bytes: 41,
        dup: true,
        ..first
    };
    let other_device = super::running::Sample { device: 2, ..first };
    // Within one batch, in the next one, and after a restart.
    let verdicts = running
        .ingest(batch(&[first, again, first, forged, other_device]))
        .unwrap();
    let expected = [
        Verdict::Stored(Seq(1)),
        Verdict::Duplicate,
        Verdict::Replayed,
        Verdict::Replayed,
        Verdict::Stored(Seq(2)),
    ];
    assert_eq!(verdicts, expected);
    for _ in 0..2 {
        let verdicts = running.ingest(batch(&[again, first, forged])).unwrap();
        assert_eq!(
            verdicts,
            [Verdict::Duplicate, Verdict::Replayed, Verdict::Replayed]
        );
        running = running.restart();
    }
    // An unsigned message's id is the gateway's own: nothing to remember.
    let mut raw = Batch::default();
    raw.push(&unsigned(1, 7, UnixMillis(1)), false);
    raw.push(&unsigned(1, 7, UnixMillis(1)), false);
    let verdicts = running.ingest(raw).unwrap();
    assert_eq!(verdicts, [Verdict::Stored(Seq(3)), Verdict::Stored(Seq(4))]);
}

#[test]
fn replay_is_refused_across_seals_merges_and_restarts() {
    let mut running = Running::new();
    let upstreams = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: true,
        },
    )];
    running.store.upstreams(&upstreams).unwrap();
    // 40,000 messages: several seals and merges.
    let mut samples = Vec::new();
    for _ in 0..80 {
        let group: Vec<_> = (0..500).map(|n| sample(n % 7)).collect();
        running.ingest(batch(&group)).unwrap();
        samples.extend(group);
    }
    assert!(
        running.store.metrics().remembered_runs.get() > 0,
        "nothing was sealed"
    );
    for _ in 0..2 {
        for chunk in samples.chunks(500) {
            let verdicts = running.ingest(batch(chunk)).unwrap();
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Replayed));
        }
        running = running.restart();
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let running = Arc::new(Running::new());
    let upstreams = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: true,
        },
    )];
    let key = running.store.upstreams(&upstreams).unwrap()[0];
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|device| {
            let (running, stop) = (Arc::clone(&running), Arc::clone(&stop));
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let samples: Vec<_> = (0..5).map(|_| sample(device)).collect();
                    for verdict in running.ingest(batch(&samples)).unwrap() {
                        let Verdict::Stored(seq) = verdict else {
                            panic!("{verdict:?}")
                        };
                        acknowledged.push(seq);
                    }
                }
                acknowledged
            })
        })
        .collect();
    let mut cuts = Vec::new();
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(30));
        // All of this was acknowledged before the cut.
        let end = *running.store.log_end().borrow();
        cuts.push((end, running.after_power_cut()));
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        assert!(!sender.join().unwrap().is_empty());
    }
    for (end, cut) in cuts {
        assert!(end.0 > 0);
        let messages = cut
            .store
            .read_log(key, Seq(0), usize::MAX, usize::MAX)
            .unwrap();
        let found: Vec<u64> = messages.iter().map(|message| message.seq.0).collect();
        let all: Vec<u64> = (1..=found.len() as u64).collect();
        assert_eq!(found, all, "a gap");
        assert!(
            found.len() as u64 >= end.0,
            "{} of {} acknowledged",
            found.len(),
            end.0
        );
        assert!(cut.store.verify_ledger(key).unwrap().holds());
    }
}

#[test]
fn a_closure_that_fails_takes_back_itself_and_nothing_else() {
    let running = Running::new();
    let store = &running.store;
    let made = store.write_blocking(|conn| {
        conn.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")?;
        conn.execute("INSERT INTO t VALUES (1)", [])
    });
    assert_eq!(made.unwrap(), 1);
    let (good, bad, also) = wait(async {
        tokio::join!(
            store.write(|conn| conn.execute("INSERT INTO t VALUES (2)", [])),
            store.write(|conn| {
                conn.execute("INSERT INTO t VALUES (3)", [])?;
                conn.execute("INSERT INTO t VALUES (1)", [])
            }),
            store.ingest(batch(&[sample(1)])),
        )
    });
    assert_eq!(good.unwrap(), 1);
    assert!(matches!(bad, Err(StoreError::Sql(_))), "{bad:?}");
    assert_eq!(also.unwrap(), [Verdict::Stored(Seq(1))]);
    let rows: Vec<i64> = store
        .read_blocking(|conn| {
            conn.prepare("SELECT n FROM t")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
        .unwrap();
    assert_eq!(rows, [1, 2], "3 was taken back");
}

#[test]
fn a_stopped_store_says_so() {
    let running = Running::new();
    let store = running.store.clone();
    drop(running);
    assert!(matches!(
        wait(store.ingest(batch(&[sample(1)]))),
        Err(crate::store::IngestError::Stopping)
    ));
    assert!(matches!(
        store.write_blocking(|_| Ok(())),
        Err(StoreError::Stopping)
    ));
}

#[test]
fn opening_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let first = open(&options).unwrap();
    assert!(matches!(open(&options), Err(OpenError::InUse { .. })));
    drop(first);

    let conn = rusqlite::Connection::open(&options.path).unwrap();
    let version: i64 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    conn.pragma_update(None, "user_version", version + 1)
        .unwrap();
    conn.close().unwrap();
    assert!(matches!(
        open(&options),
        Err(OpenError::FromTheFuture { .. })
    ));

    let whole = fs::read(&options.path).unwrap();
    fs::write(&options.path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(open(&options), Err(OpenError::Damaged { .. })));
    fs::write(
        &options.path,
        b"not a database, but long enough to look like something",
    )
    .unwrap();
    assert!(matches!(open(&options), Err(OpenError::Damaged { .. })));
    let kept = fs::read(&options.path).unwrap();
    assert!(
        kept.starts_with(b"not a database"),
        "a damaged file is kept as it is"
    );

    fs::remove_file(&options.path).unwrap();
    rusqlite::Connection::open(&options.path)
        .unwrap()
        .execute_batch("CREATE TABLE somebody_elses (a)")
        .unwrap();
    assert!(matches!(open(&options), Err(OpenError::Foreign { .. })));
}

#[test]
fn a_damaged_segment_is_reported_and_not_skipped() {
    let running = Running::new();
    let upstreams = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: false,
        },
    )];
    let key = running.store.upstreams(&upstreams).unwrap()[0];
    running.put(sample(1));
    running
        .store
        .write_blocking(|conn| {
            conn.execute(
                "UPDATE segment SET records = CAST(records || x'00' AS BLOB) WHERE first_seq = 1",
                [],
            )
        })
        .unwrap();
    let read = running.store.read_log(key, Seq(0), 10, 1 << 20);
    assert!(
        matches!(read, Err(StoreError::Damaged { seq: 1, .. })),
        "{read:?}"
    );
}

#[test]
fn a_backup_is_taken_while_messages_come_and_can_be_put_back() {
    let running = Running::new();
    let upstreams = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: false,
        },
    )];
    let key = running.store.upstreams(&upstreams).unwrap()[0];
    let before: Vec<_> = (0..300).map(|_| sample(1)).collect();
    running.ingest(batch(&before)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let mut told = Vec::new();
    let contents = backup::backup(&running.path(), &copy, |done, all| {
        told.push((done, all));
        running.put(sample(2));
    })
    .unwrap();
    assert_eq!(contents.messages, 300, "the copy is of one moment");
    assert!(told.iter().all(|(done, all)| done <= all) && !told.is_empty());
    assert!(matches!(
        backup::backup(&running.path(), &copy, |_, _| {}),
        Err(backup::BackupError::Exists { .. })
    ));

    let state = folder.path().join("state");
    let options = options(&state);
    backup::restore(&copy, &options.path, false, NOW).unwrap();
    assert!(matches!(
        backup::restore(&copy, &options.path, false, NOW),
        Err(backup::BackupError::NotEmpty { .. })
    ));
    {
        let restored = Running::start(&options);
        assert!(matches!(
            backup::restore(&copy, &options.path, true, NOW),
            Err(backup::BackupError::InUse { .. })
        ));
        assert_eq!(restored.store.ledger(key).unwrap().owed, 300);
        assert_eq!(restored.store.id(), running.store.id());
        let verdicts = restored.ingest(batch(&before)).unwrap();
        assert!(
            verdicts.iter().all(|verdict| *verdict == Verdict::Stale),
            "signed before"
        );
        let mut later = sample(1);
        later.at = 2;
        restored.put(later);
    }
    backup::restore(&copy, &options.path, true, NOW).unwrap();

    let mut bytes = fs::read(&copy).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    let broken = folder.path().join("broken.db");
    fs::write(&broken, bytes).unwrap();
    assert!(backup::restore(&broken, &options.path, true, NOW).is_err());
    assert_eq!(
        Running::start(&options).store.ledger(key).unwrap().owed,
        300,
        "left as it was"
    );
}

#[test]
fn time_that_was_seen_is_remembered() {
    let running = Running::new();
    let certain = UnixMillis::from_seconds(START + 86_400);
    running.store.note_time(certain);
    running.put(sample(1));
    let running = running.restart();
    assert_eq!(running.store.highest_time(), certain);
}

#[test]
fn the_time_of_a_message_is_not_certain() {
    let running = Running::new();
    let mut late = sample(1);
    late.at = 86_400;
    late.kind = Kind::Event;
    running.put(late);
    let running = running.restart();
    assert_eq!(
        running.store.highest_time(),
        UnixMillis(0),
        "the clock may have jumped ahead when it came"
    );
}

#[test]
fn what_is_gone_is_not_taken_for_what_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    // A process that died before it wrote the first page.
    fs::write(&options.path, b"").unwrap();
    let running = Running::start(&options);
    running.put(sample(1));
    let wal = options.path.with_extension("db-wal");
    let wal_bytes = fs::read(&wal).unwrap();
    drop(running);
    fs::write(&options.path, b"").unwrap();
    assert!(matches!(open(&options), Err(OpenError::Damaged { .. })));
    fs::remove_file(&options.path).unwrap();
    fs::write(&wal, wal_bytes).unwrap();
    assert!(matches!(open(&options), Err(OpenError::Damaged { .. })));
    // Moved away, both of them: whoever does that wants to begin anew.
    fs::remove_file(&wal).unwrap();
    assert!(open(&options).is_ok());
}
