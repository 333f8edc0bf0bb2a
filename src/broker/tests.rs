//! The broker with a real router.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::*;

struct Running {
    runtime: tokio::runtime::Runtime,
    tasks: Tasks,
    broker: Broker,
    metrics: Arc<BrokerMetrics>,
}

fn start_with(limits: Limits) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let (tasks, _) = Tasks::new();
    let metrics: Arc<BrokerMetrics> = Arc::default();
    let guard = runtime.enter();
    let broker = Broker::new(&tasks, limits, Arc::clone(&metrics)).unwrap();
    drop(guard);
    Running {
        runtime,
        tasks,
        broker,
        metrics,
    }
}

fn start() -> Running {
    start_with(Limits::default())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.stop();
        self.runtime.block_on(self.tasks.drained());
        if let Some(mut link) = self.broker.shared.lock().link.take() {
            link.retire();
        }
    }
}

struct Channel(mpsc::Sender<Routed>);

impl Sink for Channel {
    fn receive(&self, routed: Routed) {
        let _ = self.0.send(routed);
    }
}

impl Running {
    fn client(&self, id: u64, filters: &[&str]) -> mpsc::Receiver<Routed> {
        let (sender, receiver) = mpsc::channel();
        self.broker.attach(id, Arc::new(Channel(sender)));
        for filter in filters {
            assert!(self.broker.subscribe(id, filter), "{filter}");
        }
        receiver
    }

    fn publish(&self, topic: &str, payload: &str) {
        while !self.try_publish(topic, payload) {
            self.runtime.block_on(self.broker.room());
        }
    }

    fn try_publish(&self, topic: &str, payload: &str) -> bool {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let properties = Bytes::from_static(b"beside it");
        self.broker
            .publish(7, topic, payload, QoS::AtLeastOnce, true, properties)
    }
}

fn next(receiver: &mpsc::Receiver<Routed>) -> Routed {
    receiver.recv_timeout(Duration::from_secs(10)).unwrap()
}

fn topics(receiver: &mpsc::Receiver<Routed>, last: &str) -> Vec<String> {
    let mut topics = Vec::new();
    loop {
        let message = next(receiver);
        if *message.topic == *last {
            return topics;
        }
        topics.push(message.topic.to_string());
    }
}

#[test]
fn filters_match_as_they_should() {
    let running = start();
    let published = [
        "a/b",
        "a",
        "a/",
        "a/b/c",
        "/a",
        "é/日本",
        "é",
        "%C3%A9",
        "$SYS/x",
        "$SYS",
        "a b/c%",
    ];
    let cases: [(&str, &[&str]); 11] = [
        (
            "#",
            &[
                "a/b",
                "a",
                "a/",
                "a/b/c",
                "/a",
                "é/日本",
                "é",
                "%C3%A9",
                "a b/c%",
            ],
        ),
        ("+", &["a", "é", "%C3%A9"]),
        ("a/#", &["a/b", "a", "a/", "a/b/c"]),
        ("a/+", &["a/b", "a/"]),
        ("+/+", &["a/b", "a/", "/a", "é/日本", "a b/c%"]),
        ("é/+", &["é/日本"]),
        ("é", &["é"]),
        ("+/日本", &["é/日本"]),
        ("$SYS/#", &["$SYS/x", "$SYS"]),
        ("$SYS/+", &["$SYS/x"]),
        ("a b/c%", &["a b/c%"]),
    ];
    let clients: Vec<_> = (1..)
        .zip(&cases)
        .map(|(id, (filter, _))| running.client(id, &[filter, "the/end"]))
        .collect();
    for topic in published {
        running.publish(topic, "x");
    }
    running.publish("the/end", "x");
    for ((filter, expected), client) in cases.iter().zip(&clients) {
        let mut got = topics(client, "the/end");
        let mut expected: Vec<String> = expected.iter().map(|&topic| topic.to_owned()).collect();
        got.sort();
        expected.sort();
        assert_eq!(got, expected, "{filter}");
    }
}

#[test]
fn everything_about_a_message_arrives() {
    let running = start();
    let client = running.client(1, &["a/+"]);
    running.publish("a/b", "");
    let message = next(&client);
    assert_eq!((&*message.topic, &message.payload[..]), ("a/b", &b""[..]));
    assert_eq!(
        (message.from, message.qos, message.retain),
        (7, QoS::AtLeastOnce, true)
    );
    assert_eq!(&message.properties[..], b"beside it");
}

#[test]
fn a_hundred_subscribers_get_every_message_in_order() {
    let running = start();
    let clients: Vec<_> = (1..=100).map(|id| running.client(id, &["fan/#"])).collect();
    for n in 0..2_000 {
        running.publish(&format!("fan/{}", n % 10), &n.to_string());
    }
    for client in &clients {
        for n in 0..2_000 {
            assert_eq!(next(client).payload, n.to_string());
        }
    }
    assert_eq!(running.metrics.delivered.get(), 200_000);
}

#[test]
fn a_client_gets_everything_in_the_order_it_was_published() {
    let running = start();
    let client = running.client(1, &["b", "c/#", "a"]);
    for n in 0..3_000 {
        running.publish(["a", "b", "c/d"][n * 7 % 3], &n.to_string());
    }
    for n in 0..3_000 {
        assert_eq!(next(&client).payload, n.to_string());
    }
}

#[test]
fn overlapping_filters_give_one_copy() {
    let running = start();
    let (client, other) = (
        running.client(1, &["a/b", "a/+", "#"]),
        running.client(2, &["a/+"]),
    );
    for n in 0..1_000 {
        running.publish(if n % 2 == 0 { "a/b" } else { "c" }, &n.to_string());
    }
    for n in 0..1_000 {
        assert_eq!(next(&client).payload, n.to_string());
        if n % 2 == 0 {
            assert_eq!(next(&other).payload, n.to_string());
        }
    }
    assert!(client.try_recv().is_err(), "nothing twice");
}

#[test]
fn many_filters_that_all_match_lose_nothing() {
    let running = start();
    // Every filter matches every message, and the router pauses after 200 notifications.
    let level = |n: u64, bit: u64| if n >> bit & 1 == 1 { "+" } else { "x" };
    let filter = |n: u64| {
        (0..9)
            .map(|bit| level(n, bit))
            .collect::<Vec<_>>()
            .join("/")
    };
    let clients: Vec<_> = (0..512).map(|n| running.client(n, &[&filter(n)])).collect();
    let topic = ["x"; 9].join("/");
    for n in 0..400 {
        running.publish(&topic, &n.to_string());
    }
    for client in &clients {
        for n in 0..400 {
            assert_eq!(next(client).payload, n.to_string());
        }
    }
}

#[test]
fn a_slow_client_holds_back_no_other() {
    struct Slow(mpsc::SyncSender<()>);
    impl Sink for Slow {
        fn receive(&self, _: Routed) {
            // Its own bounded queue is full and nobody reads it.
            let _ = self.0.try_send(());
        }
    }
    let running = start();
    let (full, _kept) = mpsc::sync_channel(1);
    running.broker.attach(1, Arc::new(Slow(full)));
    assert!(running.broker.subscribe(1, "#"));
    let client = running.client(2, &["#"]);
    for n in 0..20_000 {
        running.publish("a", &n.to_string());
    }
    for n in 0..20_000 {
        assert_eq!(next(&client).payload, n.to_string());
    }
}

#[test]
fn leaving_ends_it_and_leaves_nothing_behind() {
    let running = start();
    let (first, second) = (
        running.client(1, &["a", "b"]),
        running.client(2, &["a", "end"]),
    );
    assert!(running.broker.unsubscribe(1, "a"));
    assert!(!running.broker.unsubscribe(1, "a"));
    running.broker.detach(2);
    running.publish("a", "x");
    running.publish("b", "x");
    assert_eq!(&*next(&first).topic, "b");
    assert!(second.recv().is_err(), "its sink is dropped");
    assert_eq!(
        (running.metrics.clients.get(), running.metrics.filters.get()),
        (1, 1)
    );
    // And it may come back.
    assert!(running.broker.subscribe(1, "a"));
    running.publish("a", "again");
    assert_eq!(next(&first).payload, "again");
    running.broker.detach(1);
    let state = running.broker.shared.lock();
    assert!(state.clients.is_empty() && state.filters.is_empty() && state.by_number.is_empty());
}

#[test]
fn a_router_that_panics_is_replaced_with_all_subscriptions() {
    let running = start();
    let (first, second) = (
        running.client(1, &["a/+", "é"]),
        running.client(2, &["a/+"]),
    );
    running.publish("a/1", "before");
    assert_eq!(next(&first).payload, "before");
    for round in 1..=3 {
        if let Some(link) = &mut running.broker.shared.lock().link {
            link.retire();
        }
        let began = Instant::now();
        while running.metrics.router_panics.get() < round {
            assert!(began.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        // What is published while it is being replaced may be lost; afterwards nothing is.
        thread::sleep(Duration::from_millis(50));
        running.publish("a/2", "after");
        running.publish("é", "after");
        assert_eq!(next(&first).payload, "after");
        assert_eq!(&*next(&first).topic, "é");
    }
    assert_eq!(second.iter().take(4).count(), 4);
}

#[test]
fn a_router_that_remembers_too_much_is_replaced_without_loss() {
    let limits = Limits {
        router_topics: 100,
        router_filters: 50,
        ..Limits::default()
    };
    let running = start_with(limits);
    let client = running.client(1, &["t/#"]);
    for n in 0..5_000 {
        running.publish(&format!("t/{n}"), &n.to_string());
    }
    for n in 0..5_000 {
        assert_eq!(next(&client).payload, n.to_string());
    }
    let renewals = running.metrics.router_renewals.get();
    assert!((5..=60).contains(&renewals), "{renewals}");
    for n in 0..500 {
        running.client(2, &[&format!("churn/{n}")]);
        running.publish("t/x", &n.to_string());
        assert_eq!(next(&client).payload, n.to_string());
    }
    assert!(running.metrics.router_renewals.get() > renewals + 5);
    assert_eq!(running.metrics.lost.get(), 0);
    assert_eq!(running.metrics.router_panics.get(), 0);
}

#[test]
fn everything_is_bounded() {
    let limits = Limits {
        filters_per_client: 2,
        filters: 3,
        queued_messages: 10,
        ..Limits::default()
    };
    let running = start_with(limits);
    let _first = running.client(7, &["a", "b"]);
    let broker = &running.broker;
    assert!(!broker.subscribe(7, "c"), "too many for one client");
    assert!(broker.subscribe(7, "a"), "it has that");
    let _second = running.client(8, &["a", "c"]);
    let _third = running.client(9, &["a"]);
    assert!(!broker.subscribe(9, "d"), "too many in all");
    assert_eq!(running.metrics.refused_filters.get(), 2);
    assert!(!broker.subscribe(10, "a"), "not attached");
    for invalid in ["$share/g/a", "a#", "", "+x"] {
        assert!(!broker.subscribe(9, invalid), "{invalid}");
    }
    for invalid in ["", "a/+", "#"] {
        assert!(!running.try_publish(invalid, ""), "{invalid}");
    }
    assert!(
        !(0..100_000).all(|_| running.try_publish("a", "")),
        "the queue is bounded"
    );
    running.runtime.block_on(broker.room());
    assert!(running.try_publish("a", ""));
}

#[test]
fn copies_of_telemetry_are_wanted_only_when_somebody_may_listen() {
    let running = start();
    let wants = |topic: &str| running.broker.wants(topic);
    let _other = running.client(1, &["sensors/#", "gates/+"]);
    assert!(!wants("device/d1/data"));
    assert!(wants("anything/else"), "the router knows");
    let _one = running.client(2, &["device/d1/#"]);
    assert!(wants("device/d1/data") && !wants("device/d2/data"));
    let _all = running.client(3, &["+/+/data"]);
    assert!(wants("device/d2/data") && !wants("device/d2/event"));
    running.broker.detach(2);
    running.broker.detach(3);
    assert!(!wants("device/d1/data"));
}

#[test]
fn only_the_routers_thread_may_panic() {
    let running = start();
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect();
    assert!(
        names.iter().any(|name| survives_panic_of(name.trim_end())),
        "{names:?}"
    );
    for other in ["main", "forward", "router", "tokio-runtime-worker"] {
        assert!(!survives_panic_of(other));
    }
    drop(running);
}

/// `cargo test --release broker::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "measures for some seconds"]
fn speed() {
    struct Count(AtomicUsize);
    impl Sink for Count {
        fn receive(&self, _: Routed) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for (subscribers, messages) in [(1, 200_000), (100, 50_000)] {
        let running = start();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        for id in 1..=subscribers {
            running
                .broker
                .attach(id, Arc::clone(&count) as Arc<dyn Sink>);
            assert!(running.broker.subscribe(id, "fan/#"));
        }
        let began = Instant::now();
        for n in 0..messages {
            running.publish(["fan/1", "fan/2"][n % 2], "0123456789");
        }
        let copies = messages * usize::try_from(subscribers).unwrap();
        while count.0.load(Ordering::Relaxed) < copies {
            thread::sleep(Duration::from_millis(1));
        }
        let seconds = began.elapsed().as_secs_f64();
        let millions = |count: usize| f64::from(u32::try_from(count).unwrap()) / seconds / 1e6;
        println!(
            "{subscribers} subscribers: {:.3} M messages/s, {:.3} M copies/s",
            millions(messages),
            millions(copies)
        );
    }
}
