use super::running::{Running, batch, payload, sample};
use crate::{
    envelope::Kind,
    store::{Outcome, Seq, Settled, UpstreamKey, Wanted},
};

fn upstream(running: &Running, events: bool) -> UpstreamKey {
    let names = [("cloud".to_owned(), Wanted { data: true, events })];
    running.store.upstreams(&names).unwrap()[0]
}

fn delivered(seq: Seq) -> Settled {
    let device = crate::store::DeviceKey(1);
    Settled {
        seq,
        device,
        outcome: Outcome::Delivered,
        reply: None,
    }
}

#[test]
fn reading_gives_what_was_written_in_order_and_by_pieces() {
    let running = Running::new();
    let key = upstream(&running, false);
    let samples: Vec<_> = (0..1000)
        .map(|n| {
            let mut sample = sample(n % 5);
            sample.bytes = (n as usize * 37) % 3000;
            sample
        })
        .collect();
    for group in samples.chunks(170) {
        running.ingest(batch(group)).unwrap();
    }
    for (max_messages, max_bytes) in [(1000, usize::MAX), (7, usize::MAX), (1000, 4000), (1, 0)] {
        let (mut after, mut read) = (Seq(0), Vec::new());
        loop {
            let piece = running
                .store
                .read_log(key, after, max_messages, max_bytes)
                .unwrap();
            assert!(piece.len() <= max_messages);
            let bytes: usize = piece.iter().map(|message| message.payload.len()).sum();
            assert!(piece.len() == 1 || bytes <= max_bytes);
            let Some(last) = piece.last() else { break };
            after = last.seq;
            read.extend(piece);
        }
        assert_eq!(read.len(), samples.len());
        for (message, sample) in read.iter().zip(&samples) {
            assert_eq!(message.payload, payload(sample));
            assert_eq!(message.device.0, sample.device);
            assert_eq!(message.message_id.as_bytes(), &sample.id.to_be_bytes());
        }
    }
}

#[test]
fn what_is_settled_or_not_wanted_is_not_read() {
    let running = Running::new();
    let key = upstream(&running, false);
    let kinds = [
        Kind::Data,
        Kind::Event,
        Kind::Data,
        Kind::Ack,
        Kind::Data,
        Kind::Event,
    ];
    let samples: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let mut sample = sample(1);
            sample.kind = *kind;
            sample
        })
        .collect();
    running.ingest(batch(&samples)).unwrap();
    let read = |after| -> Vec<u64> {
        let messages = running
            .store
            .read_log(key, Seq(after), 100, 1 << 20)
            .unwrap();
        messages.iter().map(|message| message.seq.0).collect()
    };
    assert_eq!(read(0), [1, 3, 5]);
    running
        .store
        .settle_blocking(key, vec![delivered(Seq(3))])
        .unwrap();
    assert_eq!(read(0), [1, 5]);
    assert_eq!(running.store.position(key), Some(Seq(0)));
    running
        .store
        .settle_blocking(key, vec![delivered(Seq(1))])
        .unwrap();
    assert_eq!(
        running.store.position(key),
        Some(Seq(4)),
        "past the event and the ack as well"
    );
    running
        .store
        .settle_blocking(key, vec![delivered(Seq(5))])
        .unwrap();
    assert_eq!(
        running.store.position(key),
        Some(Seq(6)),
        "nothing is owed: the end"
    );
    assert_eq!(read(0), [0_u64; 0]);
    assert!(running.store.verify_ledger(key).unwrap().holds());
}

#[test]
fn a_change_of_what_is_wanted_is_for_later_messages() {
    let running = Running::new();
    let mut event = sample(1);
    event.kind = Kind::Event;
    let key = upstream(&running, true);
    running.put(event);
    let running = running.restart();
    assert_eq!(upstream(&running, false), key);
    event.id += 1 << 64;
    running.put(event);
    running.put(sample(1));
    let running = running.restart();
    assert_eq!(upstream(&running, true), key);
    event.id += 1 << 64;
    running.put(event);
    let messages = running.store.read_log(key, Seq(0), 100, 1 << 20).unwrap();
    let read: Vec<u64> = messages.iter().map(|message| message.seq.0).collect();
    assert_eq!(read, [1, 3, 4], "2 came while events were not wanted");
    let check = running.store.verify_ledger(key).unwrap();
    assert!(check.holds(), "{check:?}");
    assert_eq!(check.ledger.owed, 3);
}

#[test]
fn an_upstream_that_left_keeps_its_debts_until_it_is_dropped() {
    let running = Running::new();
    let key = upstream(&running, false);
    running.put(sample(1));
    let names = [(
        "other".to_owned(),
        Wanted {
            data: true,
            events: false,
        },
    )];
    let other = running.store.upstreams(&names).unwrap()[0];
    running.put(sample(1));
    let list = running.store.list_upstreams();
    let of = |key| list.iter().find(|info| info.key == key).unwrap();
    assert!(!of(key).configured && of(other).configured);
    assert_eq!(
        (of(key).ledger.owed, of(other).ledger.owed),
        (1, 1),
        "no new debts, no old ones"
    );
    // It comes back and goes on where it was.
    assert_eq!(upstream(&running, false), key);
    assert_eq!(
        running
            .store
            .read_log(key, Seq(0), 10, 1 << 20)
            .unwrap()
            .len(),
        1
    );
    running.store.remove_upstream(key).unwrap();
    assert!(running.store.ledger(key).is_none());
    assert!(running.store.read_log(key, Seq(0), 10, 1 << 20).is_err());
}

#[test]
fn a_segment_everybody_settled_is_deleted() {
    let running = Running::new();
    let key = upstream(&running, false);
    let count = |running: &Running| -> i64 {
        running
            .store
            .read_blocking(|conn| {
                conn.query_row("SELECT coalesce(sum(count), 0) FROM segment", [], |row| {
                    row.get(0)
                })
            })
            .unwrap()
    };
    for _ in 0..30 {
        let group: Vec<_> = (0..500).map(|_| sample(1)).collect();
        running.ingest(batch(&group)).unwrap();
    }
    assert_eq!(count(&running), 15_000, "owed");
    let all = (1..=15_000).map(|seq| delivered(Seq(seq))).collect();
    running.store.settle_blocking(key, all).unwrap();
    // What replay has not sealed yet stays, and the newest segment.
    running.put(sample(1));
    running.put(sample(1));
    assert!(count(&running) < 5_000, "{} left", count(&running));
    let running = running.restart();
    assert_eq!(running.put(sample(1)), Seq(15_003));
}
