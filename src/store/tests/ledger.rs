use std::time::Duration;

use proptest::prelude::*;

use super::running::{Running, START, batch, sample, wait};
use crate::{
    clock::UnixMillis,
    envelope::Kind,
    store::{
        DeadFilter, DeviceKey, DurableReply, Outcome, Seq, Settled, UpstreamKey, Wanted,
        sessions::SessionKey,
    },
};

#[derive(Clone, Debug)]
enum Step {
    Accept {
        device: u32,
        kind: u8,
    },
    /// Settles one of what can be read or is parked, chosen by the number.
    Settle {
        upstream: usize,
        which: u16,
        outcome: u8,
    },
    /// Settles something that may be settled already, or not exist.
    Nonsense {
        upstream: usize,
        seq: u64,
        outcome: u8,
    },
    Retry {
        upstream: usize,
        all: bool,
    },
    Drop {
        upstream: usize,
    },
    Expire {
        age: u64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u32..4, 0_u8..4).prop_map(|(device, kind)| Step::Accept { device, kind }),
        8 => (0_usize..2, any::<u16>(), 0_u8..5)
            .prop_map(|(upstream, which, outcome)| Step::Settle { upstream, which, outcome }),
        2 => (0_usize..2, 0_u64..60, 0_u8..5)
            .prop_map(|(upstream, seq, outcome)| Step::Nonsense { upstream, seq, outcome }),
        1 => (0_usize..2, any::<bool>()).prop_map(|(upstream, all)| Step::Retry { upstream, all }),
        1 => (0_usize..2).prop_map(|upstream| Step::Drop { upstream }),
        1 => (0_u64..30).prop_map(|age| Step::Expire { age }),
        1 => Just(Step::Restart),
    ]
}

fn outcome(number: u8) -> Outcome {
    match number {
        0 => Outcome::Delivered,
        1 => Outcome::Dead {
            status: Some(422),
            reason: "no".to_owned(),
        },
        2 => Outcome::Skipped,
        3 => Outcome::Parked,
        _ => Outcome::Expired,
    }
}

fn names() -> [(String, Wanted); 2] {
    [
        (
            "cloud".to_owned(),
            Wanted {
                data: true,
                events: false,
            },
        ),
        (
            "archive".to_owned(),
            Wanted {
                data: true,
                events: true,
            },
        ),
    ]
}

/// All that is owed: in the log, then parked.
fn owed(running: &Running, key: UpstreamKey) -> Vec<(Seq, DeviceKey)> {
    let store = &running.store;
    let mut owed: Vec<_> = store
        .read_log(key, Seq(0), usize::MAX, usize::MAX)
        .unwrap()
        .iter()
        .map(|message| (message.seq, message.device))
        .collect();
    for parked in store.parked_devices(key).unwrap() {
        let messages = store.parked(key, parked.device, u32::MAX).unwrap();
        assert_eq!(messages.len() as u64, parked.messages);
        owed.extend(messages.iter().map(|message| (message.seq, message.device)));
    }
    owed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_balances_whatever_happens(steps in prop::collection::vec(step(), 1..60)) {
        let mut running = Running::with(|options| options.max_age = Some(Duration::from_secs(10)));
        let keys = running.store.upstreams(&names()).unwrap();
        let mut accepted = [0_u64; 2];
        let mut now = 0;
        for step in steps {
            match step {
                Step::Accept { device, kind } => {
                    let mut message = sample(device);
                    now += 1;
                    message.at = now;
                    message.kind = match kind { 0 => Kind::Ack, 1 => Kind::Event, _ => Kind::Data };
                    running.put(message);
                    accepted[0] += u64::from(kind >= 2);
                    accepted[1] += u64::from(kind >= 1);
                }
                Step::Settle { upstream, which, outcome: number } => {
                    let owed = owed(&running, keys[upstream]);
                    if owed.is_empty() {
                        continue;
                    }
                    let (seq, device) = owed[which as usize % owed.len()];
                    let before = running.store.ledger(keys[upstream]).unwrap();
                    let item = Settled { seq, device, outcome: outcome(number), reply: None };
                    running.store.settle_blocking(keys[upstream], vec![item]).unwrap();
                    let after = running.store.ledger(keys[upstream]).unwrap();
                    let less = before.owed - after.owed;
                    prop_assert_eq!(less, u64::from(number != 3), "{:?} {:?}", before, after);
                    accepted[upstream] -= u64::from(number == 2);
                }
                Step::Nonsense { upstream, seq, outcome: number } => {
                    let owed = owed(&running, keys[upstream]);
                    if owed.iter().any(|(other, _)| other.0 == seq) {
                        continue;
                    }
                    let before = running.store.ledger(keys[upstream]).unwrap();
                    let device = DeviceKey(0);
                    let item =
                        Settled { seq: Seq(seq), device, outcome: outcome(number), reply: None };
                    running.store.settle_blocking(keys[upstream], vec![item]).unwrap();
                    let after = running.store.ledger(keys[upstream]).unwrap();
                    prop_assert_eq!(before, after, "what is not owed cannot be settled");
                }
                Step::Retry { upstream, all } => {
                    let filter =
                        DeadFilter { limit: u32::from(!all), ..DeadFilter::default() };
                    running.store.retry_dead(keys[upstream], filter).unwrap();
                }
                Step::Drop { upstream } => {
                    running.store.drop_dead(keys[upstream], DeadFilter::default()).unwrap();
                }
                Step::Expire { age } => {
                    now += age;
                    let time = UnixMillis::from_seconds(START + now);
                    running.store.expire(time).unwrap();
                    for key in &keys {
                        let cutoff = (START + now).saturating_sub(10) * 1000;
                        for message in running.store.read_log(*key, Seq(0), usize::MAX, usize::MAX).unwrap() {
                            prop_assert!(message.received_at.0 >= cutoff);
                        }
                    }
                }
                Step::Restart => {
                    running = running.restart();
                    prop_assert_eq!(&running.store.upstreams(&names()).unwrap(), &keys);
                }
            }
            for (key, accepted) in keys.iter().zip(accepted) {
                let check = running.store.verify_ledger(*key).unwrap();
                prop_assert!(check.holds(), "{:?}", check);
                prop_assert_eq!(check.ledger, running.store.ledger(*key).unwrap());
                prop_assert_eq!(check.ledger.accepted, accepted);
                prop_assert_eq!(check.ledger.owed, owed(&running, *key).len() as u64);
            }
        }
    }
}

#[test]
fn a_reply_is_queued_with_what_it_answers_and_only_once() {
    let running = Running::new();
    let key = running.store.upstreams(&names()).unwrap()[0];
    running.ingest(batch(&[sample(1), sample(1)])).unwrap();
    // A session that does not exist: nothing to queue, but the message is settled all the same.
    let answered = |seq| Settled {
        seq: Seq(seq),
        device: DeviceKey(1),
        outcome: Outcome::Delivered,
        reply: Some(DurableReply {
            session: SessionKey(0),
            qos: 1,
            topic: "device/sensor_001/response".to_owned(),
            payload: bytes::Bytes::from_static(b"{}"),
        }),
    };
    assert_eq!(
        running
            .store
            .settle_blocking(key, vec![answered(1)])
            .unwrap(),
        [0]
    );
    assert_eq!(running.store.ledger(key).unwrap().owed, 1);
}

#[test]
fn one_stuck_device_does_not_keep_the_log() {
    let running = Running::new();
    let key = running.store.upstreams(&names()[..1]).unwrap()[0];
    let stuck = running.put(sample(7));
    for _ in 0..20 {
        let group: Vec<_> = (0..500).map(|_| sample(1)).collect();
        running.ingest(batch(&group)).unwrap();
    }
    let settle = |seq, device, outcome| Settled {
        seq: Seq(seq),
        device: DeviceKey(device),
        outcome,
        reply: None,
    };
    let mut items: Vec<_> = (2..=10_001)
        .map(|seq| settle(seq, 1, Outcome::Delivered))
        .collect();
    running
        .store
        .settle_blocking(key, std::mem::take(&mut items))
        .unwrap();
    assert_eq!(running.store.position(key), Some(Seq(0)));
    running
        .store
        .settle_blocking(key, vec![settle(stuck.0, 7, Outcome::Parked)])
        .unwrap();
    assert_eq!(running.store.position(key), Some(Seq(10_001)));
    let parked = running.store.parked(key, DeviceKey(7), 10).unwrap();
    assert_eq!(parked.len(), 1);
    assert_eq!(running.store.ledger(key).unwrap().owed, 1);

    // Refused, looked at, tried again, delivered.
    let dead = Outcome::Dead {
        status: Some(400),
        reason: "schema".to_owned(),
    };
    running
        .store
        .settle_blocking(key, vec![settle(stuck.0, 7, dead)])
        .unwrap();
    let letters = running.store.dead(key, DeadFilter::default()).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].status, letters[0].reason.as_str()),
        (Some(400), "schema")
    );
    assert_eq!(letters[0].message, parked[0]);
    let filter = DeadFilter {
        seq: Some(stuck),
        ..DeadFilter::default()
    };
    assert_eq!(running.store.retry_dead(key, filter).unwrap(), 1);
    assert_eq!(running.store.parked(key, DeviceKey(7), 10).unwrap(), parked);
    running
        .store
        .settle_blocking(key, vec![settle(stuck.0, 7, Outcome::Delivered)])
        .unwrap();
    let ledger = running.store.ledger(key).unwrap();
    assert_eq!((ledger.owed, ledger.dead, ledger.delivered), (0, 0, 10_001));
}

#[test]
fn forwarders_are_woken_by_commits() {
    let running = Running::new();
    let mut end = running.store.log_end();
    assert_eq!(*end.borrow_and_update(), Seq(0));
    running.put(sample(1));
    wait(end.changed()).unwrap();
    assert_eq!(*end.borrow_and_update(), Seq(1));
}
