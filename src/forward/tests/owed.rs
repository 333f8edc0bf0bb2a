//! A store in memory, and devices that take replies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tidegate_wire::{DeviceId, MessageId};
use tokio::sync::watch;

use crate::{
    clock::system_now,
    envelope::Kind,
    forward::{Debts, Devices, Replies, Reply, ReplyRoute},
    store::{DeviceKey, Message, Outcome, Seq, Settled, StoreError, sessions::SessionKey},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Held {
    Log,
    Parked,
    Settled(&'static str),
}

#[derive(Default)]
pub(super) struct Tables {
    pub(super) log: Vec<(Message, Held)>,
    first_owed: usize,
    parked: BTreeMap<DeviceKey, BTreeSet<Seq>>,
    pub(super) queued_replies: Vec<(Seq, Bytes)>,
    pub(super) settles: usize,
}

/// The store.
pub(super) struct Owed {
    pub(super) tables: Mutex<Tables>,
    pub(super) end: watch::Sender<Seq>,
    /// Commits fail while this is set.
    pub(super) broken: AtomicBool,
    /// Commits answer that the store has stopped while this is set.
    pub(super) stopped: AtomicBool,
}

impl Owed {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::default(),
            end: watch::Sender::new(Seq(0)),
            broken: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    pub(super) fn append(&self, devices: impl IntoIterator<Item = u32>) {
        let mut tables = self.tables.lock().unwrap();
        for device in devices {
            let seq = u64::try_from(tables.log.len()).unwrap() + 1;
            let message = Message {
                seq: Seq(seq),
                device: DeviceKey(device),
                kind: Kind::Data,
                message_id: MessageId::from_bytes(u128::from(seq).to_be_bytes()),
                timestamp: system_now().seconds(),
                received_at: system_now(),
                payload: Bytes::from(format!("{{\"n\":{seq}}}")),
            };
            tables.log.push((message, Held::Log));
        }
        let end = tables.log.last().map_or(Seq(0), |(message, _)| message.seq);
        drop(tables);
        self.end.send_replace(end);
    }

    pub(super) fn held(&self, seq: u64) -> Held {
        self.tables.lock().unwrap().log[usize::try_from(seq).unwrap() - 1].1
    }

    pub(super) fn count(&self, wanted: impl Fn(Held) -> bool) -> usize {
        self.tables
            .lock()
            .unwrap()
            .log
            .iter()
            .filter(|(_, held)| wanted(*held))
            .count()
    }

    pub(super) fn owed(&self) -> usize {
        self.count(|held| matches!(held, Held::Log | Held::Parked))
    }

    /// What `dead retry` does.
    pub(super) fn retry(&self, seq: u64) {
        let mut tables = self.tables.lock().unwrap();
        let (message, held) = &mut tables.log[usize::try_from(seq).unwrap() - 1];
        assert_eq!(*held, Held::Settled("dead"));
        *held = Held::Parked;
        let device = message.device;
        tables.parked.entry(device).or_default().insert(Seq(seq));
    }
}

impl Debts for Owed {
    fn position(&self) -> Result<Seq, StoreError> {
        let tables = self.tables.lock().unwrap();
        Ok(Seq(u64::try_from(tables.first_owed).unwrap()))
    }

    fn read_log(
        &self,
        after: Seq,
        messages: usize,
        _bytes: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let tables = self.tables.lock().unwrap();
        let from = usize::try_from(after.0).unwrap();
        let owed = tables.log[from..]
            .iter()
            .filter(|(_, held)| *held == Held::Log);
        Ok(owed
            .take(messages)
            .map(|(message, _)| message.clone())
            .collect())
    }

    fn settle(&self, settled: &[Settled]) -> Result<Vec<Option<i64>>, StoreError> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(StoreError::Stopping);
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Full);
        }
        let mut tables = self.tables.lock().unwrap();
        tables.settles += 1;
        let mut ids = Vec::new();
        for settled in settled {
            let (message, held) = &mut tables.log[usize::try_from(settled.seq.0).unwrap() - 1];
            let (device, was) = (message.device, *held);
            *held = match settled.outcome {
                Outcome::Delivered => Held::Settled("delivered"),
                Outcome::Dead { .. } => Held::Settled("dead"),
                Outcome::Expired => Held::Settled("expired"),
                Outcome::Skipped => Held::Settled("skipped"),
                Outcome::Parked => Held::Parked,
            };
            assert!(
                !matches!(was, Held::Settled(_)),
                "{message:?} settled twice"
            );
            let parked = tables.parked.entry(device).or_default();
            if settled.outcome_is_parked() {
                parked.insert(settled.seq);
            } else {
                parked.remove(&settled.seq);
            }
            if parked.is_empty() {
                tables.parked.remove(&device);
            }
            if let Some(reply) = &settled.reply {
                tables
                    .queued_replies
                    .push((settled.seq, reply.payload.clone()));
                ids.push(Some(i64::try_from(tables.queued_replies.len()).unwrap()));
            }
        }
        while tables
            .log
            .get(tables.first_owed)
            .is_some_and(|(_, held)| *held != Held::Log)
        {
            tables.first_owed += 1;
        }
        Ok(ids)
    }

    fn parked(&self, device: DeviceKey, limit: usize) -> Result<Vec<Message>, StoreError> {
        let tables = self.tables.lock().unwrap();
        let seqs = tables.parked.get(&device).into_iter().flatten().take(limit);
        Ok(seqs
            .map(|seq| tables.log[usize::try_from(seq.0).unwrap() - 1].0.clone())
            .collect())
    }

    fn parked_devices(&self) -> Result<Vec<DeviceKey>, StoreError> {
        Ok(self.tables.lock().unwrap().parked.keys().copied().collect())
    }
}

trait IsParked {
    fn outcome_is_parked(&self) -> bool;
}

impl IsParked for Settled {
    fn outcome_is_parked(&self) -> bool {
        matches!(self.outcome, Outcome::Parked)
    }
}

/// Devices `d0`, `d1` and so on; from 1,000 on they are no longer registered. Even ones have a
/// durable session, odd ones a volatile one, `d9` none.
pub(super) struct Everyone {
    pub(super) owed: Arc<Owed>,
    pub(super) replies: Mutex<Vec<(DeviceId, Bytes, Option<i64>)>>,
    pub(super) too_early: AtomicUsize,
}

impl Everyone {
    pub(super) fn new(owed: &Arc<Owed>) -> Arc<Self> {
        Arc::new(Self {
            owed: Arc::clone(owed),
            replies: Mutex::default(),
            too_early: AtomicUsize::new(0),
        })
    }
}

pub(super) fn number(device: &DeviceId) -> u32 {
    device.as_str()[1..].parse().unwrap()
}

impl Devices for Everyone {
    fn id(&self, device: DeviceKey) -> Option<DeviceId> {
        (device.0 < 1_000).then(|| format!("d{}", device.0).parse().unwrap())
    }
}

impl Replies for Everyone {
    fn route(&self, device: &DeviceId) -> Option<ReplyRoute> {
        match number(device) {
            9 => None,
            even if even % 2 == 0 => Some(ReplyRoute::Durable {
                session: SessionKey(1),
                qos: 1,
            }),
            _ => Some(ReplyRoute::Volatile { qos: 0 }),
        }
    }

    fn deliver(&self, device: &DeviceId, reply: Reply) -> bool {
        // The backends of these tests reply with the message's number.
        let seq: u64 = std::str::from_utf8(&reply.payload)
            .unwrap()
            .parse()
            .unwrap();
        if self.owed.held(seq) != Held::Settled("delivered") {
            self.too_early.fetch_add(1, Ordering::SeqCst);
        }
        self.replies
            .lock()
            .unwrap()
            .push((*device, reply.payload, reply.queue_id));
        true
    }
}
