//! Who is connected, and which sessions live without a connection.
//!
//! Everything here is in memory and behind one lock that is held for look-ups only, never across an
//! await. It is asked on connect, subscribe and for messages towards devices; the way of a
//! message from a device does not come through here.
//!
//! # Takeover
//!
//! Two live connections with one [`Owner`] do not coexist. A connection holds its owner's [`Turn`]
//! from before it opens its session until after everything it had to say about it is on disk; the
//! next one asks it to close and waits for the turn. Of several that wait, only the newest goes on.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tidegate_mqtt::QoS;
use tidegate_wire::{Channel, DeviceId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{
    Why,
    durable::{Durable, Target},
    mailbox::Mailbox,
    message::{Message, Outgoing, ReplyRoute},
    metrics::{Dropped, FrontMetrics},
    rate::Bucket,
    retained::Retained,
    subscription::Subscription,
};
use crate::{
    clock::UnixMillis,
    config::Limits,
    store::sessions::{Dormant, SessionKey},
};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Principal {
    Device(DeviceId),
    /// A person or program looking after the gateway, by the name in the certificate.
    Operator(Arc<str>),
}

impl fmt::Display for Principal {
    /// As sessions are filed under it: `device:<id>` or `operator:<name>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => write!(f, "device:{id}"),
            Self::Operator(name) => write!(f, "operator:{name}"),
        }
    }
}

impl Principal {
    /// Reads what [`fmt::Display`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("device", id) => Some(Self::Device(id.parse().ok()?)),
            ("operator", name) => Some(Self::Operator(name.into())),
            _ => None,
        }
    }

    /// The id, if it is a device.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Device(id) => Some(id),
            Self::Operator(_) => None,
        }
    }
}

/// What at most one live connection has: a device, or one client id of an operator.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Owner {
    Device(DeviceId),
    Operator(Arc<str>, Arc<str>),
}

impl Owner {
    #[must_use]
    pub(super) fn new(principal: &Principal, client_id: &Arc<str>) -> Self {
        match principal {
            Principal::Device(id) => Self::Device(*id),
            Principal::Operator(name) => Self::Operator(name.clone(), client_id.clone()),
        }
    }
}

/// A live connection as others see it.
#[derive(Debug)]
pub(super) struct Live {
    /// Small, from 1, used again after the connection ended: the broker keeps something per number.
    pub(super) number: u64,
    pub(super) principal: Principal,
    pub(super) client_id: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) connected_at: UnixMillis,
    /// `None` if nothing is kept beyond the connection.
    pub(super) session: Option<SessionKey>,
    pub(super) mailbox: Mailbox,
    /// The QoS granted for the device's response topic, plus one; 0 if it is not subscribed.
    reply: AtomicU8,
}

impl Live {
    /// Notes what is granted for the device's response topic.
    pub(super) fn set_reply(&self, granted: Option<QoS>) {
        self.reply
            .store(granted.map_or(0, |qos| qos.as_u8() + 1), Ordering::Relaxed);
    }

    fn reply(&self) -> Option<u8> {
        self.reply.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// The right to be the live connection of an owner. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    ticket: u64,
    queue: Arc<Queue>,
    _held: OwnedMutexGuard<()>,
}

/// Those who want to be the live connection of one owner.
#[derive(Debug, Default)]
struct Queue {
    lock: Arc<AsyncMutex<()>>,
    newest: AtomicU64,
}

impl Turn {
    /// Somebody newer is waiting.
    #[must_use]
    pub(super) fn is_superseded(&self) -> bool {
        self.queue.newest.load(Ordering::SeqCst) != self.ticket
    }
}

/// One line of `tidegate status`.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Listed {
    /// `device:<id>` or `operator:<name>`.
    pub identity: String,
    pub client_id: String,
    pub address: IpAddr,
    /// Milliseconds since 1970.
    pub connected_at: u64,
    /// The session goes on when the connection ends.
    pub durable: bool,
}

/// The live connections and the durable sessions of everybody.
#[derive(Debug)]
pub struct Directory {
    state: Mutex<State>,
    pub(super) retained: Retained,
    metrics: Arc<FrontMetrics>,
    max_topics: usize,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<Owner, Arc<Live>>,
    by_session: HashMap<SessionKey, Arc<Live>>,
    queues: HashMap<Owner, Arc<Queue>>,
    durable: Durable,
    /// Buckets and topics outlive connections, so that reconnecting resets neither.
    traffic: HashMap<Principal, Arc<Traffic>>,
    free_numbers: Vec<u64>,
    last_number: u64,
}

/// What one identity used up.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Of messages.
    pub(super) bucket: Bucket,
    /// Refusals of the storage in a row.
    refusals: AtomicU32,
    topics: Mutex<HashSet<Box<str>>>,
}

impl Traffic {
    /// The storage refused messages: how long to leave it alone, doubling from `first` to `most`.
    #[must_use]
    pub(super) fn refused(&self, first: Duration, most: Duration) -> Duration {
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        first.saturating_mul(1 << before.min(16)).min(most)
    }

    /// The storage took messages.
    #[inline]
    pub(super) fn accepted(&self) {
        if self.refusals.load(Ordering::Relaxed) > 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }
}

impl Directory {
    #[must_use]
    pub fn new(limits: &Limits, metrics: Arc<FrontMetrics>) -> Self {
        // Retained messages live in memory: as many bytes as a hundred sessions may have waiting.
        let bytes = usize::try_from(limits.queued_bytes.as_u64().saturating_mul(100));
        let retained = Retained::new(
            limits.retained_messages as usize,
            bytes.unwrap_or(usize::MAX),
        );
        Self {
            state: Mutex::default(),
            retained,
            metrics,
            max_topics: limits.topics_per_identity as usize,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- for the rest of the gateway -------------------------------------------------------------

    /// How a reply to this device travels; `None` if it is not subscribed to its response topic.
    #[must_use]
    pub fn reply_route(&self, id: &DeviceId) -> Option<ReplyRoute> {
        let state = self.lock();
        let live = state.live.get(&Owner::Device(*id));
        if let Some(live) = live
            && let Some(qos) = live.reply()
        {
            return Some(match live.session {
                Some(session) if qos > 0 => ReplyRoute::Durable { session, qos },
                _ => ReplyRoute::Volatile,
            });
        }
        let (session, qos) = state.durable.reply(id)?;
        Some(ReplyRoute::Durable { session, qos })
    }

    /// Hands a message to a device's live connection; never blocks. One with a `queue_id` is in the
    /// session's queue already and is only announced. False: nobody took it and nothing keeps it.
    pub fn deliver(&self, id: &DeviceId, outgoing: Outgoing) -> bool {
        let live = self.lock().live.get(&Owner::Device(*id)).cloned();
        if let Some(queue_id) = outgoing.queue_id {
            if let Some(live) = live.filter(|live| live.session.is_some()) {
                live.mailbox.signal(|signals| signals.queue = true);
            }
            return queue_id > 0;
        }
        let response = Channel::Response.topic(id);
        let Some(live) = live.filter(|live| outgoing.topic != *response || live.reply().is_some())
        else {
            return false;
        };
        let qos = QoS::from_bits(outgoing.qos).unwrap_or_default();
        let message = Message {
            retain: outgoing.retain,
            properties: outgoing.properties,
            ..Message::from_gateway(&outgoing.topic, outgoing.payload, qos)
        };
        let taken = live.mailbox.push(message);
        if !taken {
            self.metrics.dropped(Dropped::QueueFull).increment();
        }
        taken
    }

    /// Commands wait for this device: its live connection, if it has one, fetches and sends them.
    pub fn commands_waiting(&self, id: &DeviceId) {
        if let Some(live) = self.lock().live.get(&Owner::Device(*id)) {
            live.mailbox.signal(|signals| signals.commands = true);
        }
    }

    /// Closes a device's live connection.
    pub fn kick(&self, id: &DeviceId, why: Why) {
        if let Some(live) = self.lock().live.get(&Owner::Device(*id)) {
            live.mailbox.close(why);
        }
    }

    #[must_use]
    pub fn connected(&self, id: &DeviceId) -> bool {
        self.lock().live.contains_key(&Owner::Device(*id))
    }

    /// The live connections, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let listed = |live: &Arc<Live>| Listed {
            identity: live.principal.to_string(),
            client_id: live.client_id.as_ref().to_owned(),
            address: live.address,
            connected_at: live.connected_at.0,
            durable: live.session.is_some(),
        };
        self.lock().live.values().map(listed).collect()
    }

    /// Sessions kept on disk, with and without a connection.
    #[must_use]
    pub fn durable_sessions(&self) -> usize {
        self.lock().durable.len()
    }

    // --- for connections -------------------------------------------------------------------------

    /// Takes part in the queue for being the owner's live connection and asks the one there is to
    /// close. `None` if somebody newer came meanwhile: this connection is of no use any more.
    pub(super) async fn take_turn(&self, owner: &Owner) -> Option<Turn> {
        let (queue, ticket) = {
            let mut state = self.lock();
            let queue = state.queues.entry(owner.clone()).or_default().clone();
            let ticket = queue.newest.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(live) = state.live.get(owner) {
                live.mailbox.close(Why::TakenOver);
            }
            (queue, ticket)
        };
        let held = queue.lock.clone().lock_owned().await;
        let turn = Turn {
            ticket,
            queue,
            _held: held,
        };
        (!turn.is_superseded()).then_some(turn)
    }

    /// Forgets the queue of an owner nobody else waits for; called with the turn given back.
    pub(super) fn end_turn(&self, owner: &Owner, turn: Turn) {
        let mut state = self.lock();
        drop(turn);
        if let Some(queue) = state.queues.get(owner)
            && Arc::strong_count(queue) == 1
        {
            state.queues.remove(owner);
        }
    }

    /// Whether a session of this identity and client id is kept.
    pub(super) fn has_session(&self, principal: &Principal, client_id: &str) -> bool {
        self.lock().durable.contains(principal, client_id)
    }

    /// How many connections an identity has.
    pub(super) fn connections_of(&self, principal: &Principal) -> usize {
        self.lock()
            .live
            .values()
            .filter(|live| live.principal == *principal)
            .count()
    }

    /// Makes a connection known. Its owner's turn is held, so there is no other.
    pub(super) fn register(&self, owner: &Owner, new: NewLive) -> Arc<Live> {
        let mut state = self.lock();
        let number = state.free_numbers.pop().unwrap_or_else(|| {
            state.last_number += 1;
            state.last_number
        });
        let live = Arc::new(Live {
            number,
            principal: new.principal,
            client_id: new.client_id,
            address: new.address,
            connected_at: new.connected_at,
            session: new.session,
            mailbox: new.mailbox,
            reply: AtomicU8::new(0),
        });
        state.live.insert(owner.clone(), live.clone());
        if let Some(session) = live.session {
            state.by_session.insert(session, live.clone());
            state
                .durable
                .connect(session, &live.principal, &live.client_id);
        }
        live
    }

    /// Takes a connection out; with `keep`, its session lives on.
    pub(super) fn unregister(&self, owner: &Owner, live: &Arc<Live>, keep: bool) {
        live.mailbox.shut();
        let mut state = self.lock();
        if state
            .live
            .get(owner)
            .is_some_and(|other| Arc::ptr_eq(other, live))
        {
            state.live.remove(owner);
        }
        if let Some(session) = live.session {
            state.by_session.remove(&session);
            if !keep {
                state.durable.remove(session);
            }
        }
        state.free_numbers.push(live.number);
    }

    /// What an identity used up so far.
    pub(super) fn traffic(&self, principal: &Principal) -> Arc<Traffic> {
        self.lock()
            .traffic
            .entry(principal.clone())
            .or_default()
            .clone()
    }

    /// Whether an identity may publish to this free topic, as one of the few it may use.
    pub(super) fn may_use_topic(&self, traffic: &Traffic, topic: &str) -> bool {
        let mut topics = traffic
            .topics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if topics.contains(topic) {
            return true;
        }
        topics.len() < self.max_topics && topics.insert(topic.into())
    }

    /// Adds or replaces subscriptions of a durable session.
    pub(super) fn subscribed(&self, session: SessionKey, subscriptions: &[Subscription]) {
        let mut state = self.lock();
        for subscription in subscriptions {
            state.durable.subscribe(session, subscription.clone());
        }
    }

    pub(super) fn unsubscribed(&self, session: SessionKey, filter: &str) {
        self.lock().durable.unsubscribe(session, filter);
    }

    /// The durable sessions that a message of QoS 1 or 2 on a free topic must be queued for.
    pub(super) fn durable_targets(
        &self,
        topic: &str,
        qos: QoS,
        from: Option<SessionKey>,
    ) -> Vec<Target> {
        self.lock().durable.targets(topic, qos, from)
    }

    /// Tells live connections that their session's queue has grown.
    pub(super) fn queues_grew(&self, sessions: impl Iterator<Item = SessionKey>) {
        let state = self.lock();
        for session in sessions {
            if let Some(live) = state.by_session.get(&session) {
                live.mailbox.signal(|signals| signals.queue = true);
            }
        }
    }

    /// Has every live connection look whether it is still welcome.
    pub(super) fn recheck_all(&self) {
        for live in self.lock().live.values() {
            live.mailbox.signal(|signals| signals.recheck = true);
        }
    }

    /// Closes every live connection.
    pub(super) fn close_all(&self, why: Why) {
        for live in self.lock().live.values() {
            live.mailbox.close(why);
        }
    }

    /// Learns the sessions found at the start.
    pub(super) fn load(&self, dormant: &[Dormant]) {
        let mut state = self.lock();
        for session in dormant {
            let Some(principal) = Principal::parse(&session.identity) else {
                continue;
            };
            state
                .durable
                .connect(session.key, &principal, &session.client_id);
            for stored in &session.subscriptions {
                state
                    .durable
                    .subscribe(session.key, Subscription::from_stored(stored));
            }
        }
    }

    /// Forgets sessions that ended.
    pub(super) fn forget(&self, sessions: &[SessionKey]) {
        let mut state = self.lock();
        for session in sessions {
            state.durable.remove(*session);
        }
    }
}

/// What makes a [`Live`].
#[derive(Debug)]
pub(super) struct NewLive {
    pub(super) principal: Principal,
    pub(super) client_id: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) connected_at: UnixMillis,
    pub(super) session: Option<SessionKey>,
    pub(super) mailbox: Mailbox,
}
