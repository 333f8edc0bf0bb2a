//! Free topics between clients: who is subscribed to what, and the fan-out of what is published.
//!
//! rumqttd's router, in process and without sockets, matches topics with filters. It is fed by the
//! rules that keep it sound ([`router`] is the only place that names it):
//!
//! - It has **one** client, this broker, which subscribes once to each distinct filter, whoever
//!   wants it; the fan-out from a filter to its subscribers happens here. So its memory does not
//!   grow with clients that come and go, a slow subscriber cannot make it drop anything, and there
//!   is one link to drain however many sessions there are.
//! - It never holds a message: what travels through it is a token, the message waits here.
//! - It gets a *batch* at a time, small enough to fit into its log of every filter, and the next
//!   one only when all copies of the last have come back: then nothing can be lost in it.
//! - It never frees what it knows of topics and filters, so it is replaced when that passes a bound
//!   ([`Limits::router_topics`], [`Limits::router_filters`]), and when it panics.
//!
//! A client gets what it is subscribed to once, in the order it was published.
//! What is published is matched with the subscriptions made before it. Everything is best effort
//! beyond a client's own queue: durability is for the front and the store.

mod fanout;
mod filter;
mod router;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tidegate_mqtt::{QoS, topic};
use tokio::sync::Notify;

pub use self::router::{RouterError, survives_panic_of};

use self::router::Link;
use crate::{
    app::Tasks,
    metrics::{Counter, Gauge},
};

/// A message on a free topic, as it was published.
#[derive(Clone, Debug)]
pub struct Routed {
    /// Who published it: as given to [`Broker::attach`], or 0 for the gateway itself.
    pub from: u64,
    pub topic: Arc<str>,
    pub payload: Bytes,
    /// The publisher's.
    pub qos: QoS,
    pub retain: bool,
    /// MQTT 5 properties, encoded by whoever published and decoded by whoever receives.
    pub properties: Bytes,
}

/// A subscriber's end.
pub trait Sink: Send + Sync {
    /// Takes a message that matches what it is subscribed to; once, however many filters match. Must
    /// neither block nor call the broker.
    fn receive(&self, routed: Routed);
}

/// Bounds, all of them counted when they are met.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Filters of one client; a backstop, the front has its own limit. (It also limits the distinct
    /// topics that one identity may publish to.)
    pub filters_per_client: usize,
    /// Distinct filters in all.
    pub filters: usize,
    /// Messages and their payload bytes waiting for the router.
    pub queued_messages: usize,
    pub queued_bytes: usize,
    /// Distinct topics and filters after which the router is replaced: it keeps about 440 bytes of
    /// each topic and 6 KiB of each filter, together some 35 MiB at the defaults.
    pub router_topics: usize,
    pub router_filters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            filters_per_client: 1_024,
            filters: 4_096,
            queued_messages: 8_192,
            queued_bytes: 8 * 1024 * 1024,
            router_topics: 50_000,
            router_filters: 2_048,
        }
    }
}

/// Plain atomics.
#[derive(Debug, Default)]
pub struct BrokerMetrics {
    pub published: Counter,
    /// Copies handed to subscribers.
    pub delivered: Counter,
    /// Publishes not taken because too much was waiting, and those lost with a router that panicked.
    pub refused: Counter,
    pub lost: Counter,
    /// Subscriptions not made because of a limit.
    pub refused_filters: Counter,
    pub clients: Gauge,
    pub filters: Gauge,
    /// Routers replaced after a panic, and because of what they never free.
    pub router_panics: Counter,
    pub router_renewals: Counter,
}

/// The subscribers of one filter.
struct Filter {
    /// What the router calls it: from 1 on, as a subscription identifier.
    number: usize,
    text: Arc<str>,
    subscribers: RwLock<Vec<(u64, Arc<dyn Sink>)>>,
}

struct Client {
    sink: Arc<dyn Sink>,
    filters: HashSet<Arc<str>>,
}

/// What waits for the router, in the order it was asked for.
enum Command {
    Subscribe(Arc<Filter>),
    Unsubscribe(Arc<str>),
    Publish(Routed),
}

/// What the router is busy with.
struct Outstanding {
    messages: Arc<[Routed]>,
    /// Answers to pings in a row with no sign that it had to pause.
    quiet: u8,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    clients: HashMap<u64, Client>,
    filters: HashMap<Arc<str>, Arc<Filter>>,
    by_number: HashMap<usize, Arc<Filter>>,
    last_number: usize,
    queue: VecDeque<Command>,
    queued_messages: usize,
    queued_bytes: usize,
    outstanding: Option<Outstanding>,
    /// What this router has seen, in hashes; what it will never free.
    seen_topics: HashSet<u64>,
    seen_filters: usize,
}

struct Shared {
    state: Mutex<State>,
    limits: Limits,
    metrics: Arc<BrokerMetrics>,
    hasher: RandomState,
    /// Filters that may match contract topics, and how many there are.
    contract: RwLock<Vec<Arc<str>>>,
    contract_count: AtomicUsize,
    room: Notify,
}

/// The broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Starts the router and the one task that drains it; it ends when `tasks` is stopped.
    ///
    /// # Errors
    /// [`RouterError`] when the router does not start.
    pub fn new(
        tasks: &Tasks,
        limits: Limits,
        metrics: Arc<BrokerMetrics>,
    ) -> Result<Self, RouterError> {
        let (link, receiver) = router::start()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                link: Some(link),
                ..State::default()
            }),
            limits,
            metrics,
            hasher: RandomState::new(),
            contract: RwLock::default(),
            contract_count: AtomicUsize::new(0),
            room: Notify::new(),
        });
        let (draining, stopping) = (Arc::clone(&shared), tasks.stopping());
        tasks.spawn("broker", async move {
            fanout::run(&draining, receiver, stopping).await;
        });
        Ok(Self { shared })
    }

    /// A client is there. Attaching an id again replaces its sink and forgets its subscriptions.
    pub fn attach(&self, id: u64, sink: Arc<dyn Sink>) {
        self.detach(id);
        let mut state = self.shared.lock();
        let client = Client {
            sink,
            filters: HashSet::new(),
        };
        state.clients.insert(id, client);
        self.shared.count(&state);
    }

    /// A client is gone, with its subscriptions. When this returns its sink is not called any more.
    pub fn detach(&self, id: u64) {
        let mut state = self.shared.lock();
        let Some(client) = state.clients.remove(&id) else {
            return;
        };
        for text in &client.filters {
            self.shared.leave(&mut state, id, text);
        }
        self.shared.count(&state);
        self.shared.feed(&mut state);
    }

    /// Subscribes; what is published from now on and matches goes to the client's sink. False if it is
    /// not attached, the filter is not valid or a shared one, or a limit is reached.
    pub fn subscribe(&self, id: u64, text: &str) -> bool {
        if !filter::is_valid(text) {
            return false;
        }
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(client) = state.clients.get_mut(&id) else {
            return false;
        };
        if client.filters.contains(text) {
            return true;
        }
        let limits = &self.shared.limits;
        let known = state.filters.get(text);
        if client.filters.len() >= limits.filters_per_client
            || (known.is_none() && state.filters.len() >= limits.filters)
        {
            self.shared.metrics.refused_filters.increment();
            return false;
        }
        let subscriber = (id, Arc::clone(&client.sink));
        if let Some(known) = known {
            client.filters.insert(Arc::clone(&known.text));
            write(&known.subscribers).push(subscriber);
            return true;
        }
        let text: Arc<str> = Arc::from(text);
        client.filters.insert(Arc::clone(&text));
        state.last_number += 1;
        let known = Arc::new(Filter {
            number: state.last_number,
            text: Arc::clone(&text),
            subscribers: RwLock::new(vec![subscriber]),
        });
        state.by_number.insert(known.number, Arc::clone(&known));
        state.filters.insert(Arc::clone(&text), Arc::clone(&known));
        if filter::may_match_contract(&text) {
            let mut contract = write(&self.shared.contract);
            contract.push(text);
            self.shared
                .contract_count
                .store(contract.len(), Ordering::Release);
        }
        state.queue.push_back(Command::Subscribe(known));
        self.shared.count(state);
        self.shared.feed(state);
        true
    }

    /// Ends a subscription; true if there was one.
    pub fn unsubscribe(&self, id: u64, text: &str) -> bool {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(client) = state.clients.get_mut(&id) else {
            return false;
        };
        let Some(text) = client.filters.take(text) else {
            return false;
        };
        self.shared.leave(state, id, &text);
        self.shared.count(state);
        self.shared.feed(state);
        true
    }

    /// Publishes to whoever is subscribed. Never blocks. False if it was not taken: the topic is not
    /// valid, or too much is waiting, and then [`Broker::room`] tells when to try again.
    pub fn publish(
        &self,
        from: u64,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: bool,
        properties: Bytes,
    ) -> bool {
        if !topic::valid_name(topic) {
            return false;
        }
        let mut state = self.shared.lock();
        let state = &mut *state;
        self.shared.metrics.published.increment();
        if state.filters.is_empty() {
            return true;
        }
        let limits = &self.shared.limits;
        if state.queued_messages >= limits.queued_messages
            || state.queued_bytes >= limits.queued_bytes
        {
            self.shared.metrics.refused.increment();
            return false;
        }
        state.queued_messages += 1;
        state.queued_bytes += payload.len();
        let topic = Arc::from(topic);
        let message = Routed {
            from,
            topic,
            payload,
            qos,
            retain,
            properties,
        };
        state.queue.push_back(Command::Publish(message));
        self.shared.feed(state);
        true
    }

    /// Waits until there is room again after [`Broker::publish`] took nothing.
    pub async fn room(&self) {
        loop {
            let notified = self.shared.room.notified();
            if self.shared.has_room(&self.shared.lock()) {
                return;
            }
            notified.await;
        }
    }

    /// Whether anybody may be subscribed to this topic: for contract topics (`device/…`) exactly, and
    /// nearly free while nobody has a filter that could match one; for others whether there are
    /// subscriptions at all, which the router then matches.
    #[must_use]
    pub fn wants(&self, topic: &str) -> bool {
        if !topic.starts_with(filter::CONTRACT) {
            return self.shared.metrics.filters.get() > 0;
        }
        if self.shared.contract_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let contract = self
            .shared
            .contract
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        contract.iter().any(|filter| topic::matches(filter, topic))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a client out of a filter, and the filter out of the router with its last one.
    fn leave(&self, state: &mut State, id: u64, text: &Arc<str>) {
        let Some(known) = state.filters.get(text) else {
            return;
        };
        let mut subscribers = write(&known.subscribers);
        subscribers.retain(|(other, _)| *other != id);
        if !subscribers.is_empty() {
            return;
        }
        drop(subscribers);
        let number = known.number;
        state.filters.remove(text);
        state.by_number.remove(&number);
        state
            .queue
            .push_back(Command::Unsubscribe(Arc::clone(text)));
        if filter::may_match_contract(text) {
            let mut contract = write(&self.contract);
            contract.retain(|other| other != text);
            self.contract_count.store(contract.len(), Ordering::Release);
        }
    }

    fn count(&self, state: &State) {
        let gauge = |value| u64::try_from(value).unwrap_or(u64::MAX);
        self.metrics.clients.set(gauge(state.clients.len()));
        self.metrics.filters.set(gauge(state.filters.len()));
    }

    /// Half empty: one message's room is not worth waking for.
    fn has_room(&self, state: &State) -> bool {
        state.queued_messages <= self.limits.queued_messages / 2
            && state.queued_bytes <= self.limits.queued_bytes / 2
    }

    /// Gives the router its next batch, if it is done with the last.
    fn feed(&self, state: &mut State) {
        if state.outstanding.is_some() || state.queue.is_empty() {
            return;
        }
        let Some(link) = &mut state.link else { return };
        let mut messages = Vec::new();
        let mut room = router::BATCH_BYTES;
        while let Some(command) = state.queue.pop_front() {
            match command {
                Command::Subscribe(known) => {
                    state.seen_filters += 1;
                    link.subscribe(&filter::encode(&known.text), known.number);
                }
                Command::Unsubscribe(text) => link.unsubscribe(&filter::encode(&text)),
                Command::Publish(message) => {
                    let topic = filter::encode(&message.topic);
                    let size = router::size(&topic);
                    if size > room && !messages.is_empty() {
                        state.queue.push_front(Command::Publish(message));
                        break;
                    }
                    room = room.saturating_sub(size);
                    state.queued_messages -= 1;
                    state.queued_bytes -= message.payload.len();
                    state
                        .seen_topics
                        .insert(self.hasher.hash_one(&*message.topic));
                    link.publish(&topic, messages.len());
                    messages.push(message);
                }
            }
        }
        state.outstanding = Some(Outstanding {
            messages: messages.into(),
            quiet: 0,
        });
        // If the router is gone, whoever drains it notices as well, and replaces it.
        link.ping();
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
