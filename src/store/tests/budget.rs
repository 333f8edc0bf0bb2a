use super::running::{Running, batch, sample};
use crate::{
    config::WhenFull,
    store::{IngestError, Outcome, Seq, Settled, UpstreamKey, Verdict, Wanted},
};

const BUDGET: u64 = 24 << 20;

fn upstream(running: &Running) -> UpstreamKey {
    let names = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: false,
        },
    )];
    running.store.upstreams(&names).unwrap()[0]
}

/// Messages of 4 KiB, a hundred at a time; how many were stored before the first refusal.
fn fill(running: &Running, most: u64) -> (u64, Option<IngestError>) {
    let mut stored = 0;
    while stored < most {
        let group: Vec<_> = (0..100)
            .map(|_| {
                let mut sample = sample(1);
                sample.bytes = 4096;
                sample
            })
            .collect();
        match running.ingest(batch(&group)) {
            Ok(verdicts) => {
                assert!(
                    verdicts
                        .iter()
                        .all(|verdict| matches!(verdict, Verdict::Stored(_)))
                );
                stored += 100;
            }
            Err(error) => return (stored, Some(error)),
        }
    }
    (stored, None)
}

fn disk(running: &Running) -> u64 {
    running.store.metrics().disk_bytes.get()
}

#[test]
fn at_the_budget_messages_are_refused_and_nothing_is_lost() {
    let running = Running::with(|options| options.disk_budget_bytes = BUDGET);
    let key = upstream(&running);
    let (stored, error) = fill(&running, 100_000);
    assert_eq!(error, Some(IngestError::Full));
    assert!(
        stored > 2000,
        "{stored} messages of 4 KiB in {BUDGET} bytes"
    );
    assert!(disk(&running) <= BUDGET, "{} bytes used", disk(&running));
    assert_eq!(running.store.ledger(key).unwrap().owed, stored);
    // Settling and other writes still work, and make room.
    running
        .store
        .write_blocking(|conn| conn.execute("CREATE TABLE t (a)", []))
        .unwrap();
    let mut after = Seq(0);
    let mut delivered = 0;
    loop {
        let messages = running.store.read_log(key, after, 500, 4 << 20).unwrap();
        let Some(last) = messages.last() else { break };
        after = last.seq;
        delivered += messages.len() as u64;
        let items = messages
            .iter()
            .map(|message| Settled {
                seq: message.seq,
                device: message.device,
                outcome: Outcome::Delivered,
                reply: None,
            })
            .collect();
        running.store.settle_blocking(key, items).unwrap();
        assert!(disk(&running) <= BUDGET, "{} bytes used", disk(&running));
    }
    assert_eq!(delivered, stored, "all that was acknowledged was there");
    // Deleting is spread over groups.
    for _ in 0..50 {
        running.store.write_blocking(|_| Ok(())).unwrap();
    }
    let (again, _) = fill(&running, 1000);
    assert_eq!(again, 1000, "there is room again");
    assert!(running.store.verify_ledger(key).unwrap().holds());
}

#[test]
fn told_to_discard_the_oldest_it_goes_on_within_the_budget() {
    let running = Running::with(|options| {
        options.disk_budget_bytes = BUDGET;
        options.when_full = WhenFull::DiscardOldest;
    });
    let key = upstream(&running);
    let (stored, error) = fill(&running, 30_000);
    assert_eq!(
        (stored, error),
        (30_000, None),
        "120 MB through a budget of 24 MiB"
    );
    assert!(disk(&running) <= BUDGET, "{} bytes used", disk(&running));
    let check = running.store.verify_ledger(key).unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!(check.ledger.expired + check.ledger.owed, 30_000);
    assert!(check.ledger.owed > 1000, "{check:?}");
    let first = running.store.read_log(key, Seq(0), 1, 1).unwrap()[0].seq;
    // A checkpoint that ends meanwhile may let some more go.
    let later = running.store.ledger(key).unwrap().expired;
    assert!(
        (check.ledger.expired + 1..=later + 1).contains(&first.0),
        "the oldest went: {first:?}, {check:?}, {later}"
    );
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let running = Running::new();
    let key = upstream(&running);
    let kept = running.put(sample(1));
    // SQLite reports this limit as it reports a full disk.
    let limit = |pages: i64| {
        running
            .store
            .write_blocking(move |conn| {
                conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| {
                    row.get::<_, i64>(0)
                })
            })
            .unwrap()
    };
    limit(200);
    let (stored, error) = fill(&running, 100_000);
    assert_eq!(error, Some(IngestError::Full));
    let read = running
        .store
        .read_log(key, Seq(0), usize::MAX, usize::MAX)
        .unwrap();
    assert_eq!(read.len() as u64, stored + 1);
    assert_eq!(read[0].seq, kept);
    assert_eq!(running.store.metrics().full.get(), 1);
    let before = *running.store.log_end().borrow();

    limit(1 << 30);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(
        running.put(sample(1)),
        Seq(before.0 + 1),
        "no gap, nothing half stored"
    );
    // The writer answers first and counts then.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while running.store.metrics().full.get() != 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(running.store.metrics().full.get(), 0);
    assert!(running.store.verify_ledger(key).unwrap().holds());
}
