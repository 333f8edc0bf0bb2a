//! The whole forwarder, against a store in memory and a backend on a real socket.

pub(crate) mod backend;
mod owed;

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use self::{
    backend::{Act, Backend, Post, answer},
    owed::{Everyone, Held, Owed},
};
use super::{http::HttpUpstream, *};
use crate::{
    clock::UnixMillis,
    config,
    outbox::{Backoff, Limits},
};

struct Running {
    runtime: tokio::runtime::Runtime,
    tasks: Tasks,
    forwarder: Forwarder,
    metrics: Arc<ForwardMetrics>,
}

fn upstream_config(url: &str, workers: u16) -> config::HttpUpstream {
    config::HttpUpstream {
        url: url.to_owned(),
        ca_file: None,
        client_certificate_file: None,
        client_key_file: None,
        bearer_token_file: None,
        timeout: Duration::from_secs(30),
        workers,
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(50),
        events: false,
    }
}

fn start(owed: &Arc<Owed>, everyone: &Arc<Everyone>, url: &str, workers: u16) -> Running {
    let upstream = HttpUpstream::new("backend", &upstream_config(url, workers)).unwrap();
    start_upstream(owed, everyone, Arc::new(upstream), workers)
}

fn start_upstream(
    owed: &Arc<Owed>,
    everyone: &Arc<Everyone>,
    upstream: Arc<dyn Upstream>,
    workers: u16,
) -> Running {
    let backoff = Backoff {
        min: Duration::from_millis(5),
        max: Duration::from_millis(50),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let (tasks, _) = Tasks::new();
    let metrics: Arc<ForwardMetrics> = Arc::default();
    let parts = Parts {
        name: Arc::from("backend"),
        settings: Settings {
            workers: usize::from(workers),
            backoff,
            max_age: None,
            events: false,
            limits: Limits::default(),
        },
        upstream,
        debts: Arc::clone(owed) as Arc<dyn Debts>,
        devices: Arc::clone(everyone) as Arc<dyn Devices>,
        replies: Arc::clone(everyone) as Arc<dyn Replies>,
        clock: Arc::new(Clock::system(UnixMillis(0))),
        metrics: Arc::clone(&metrics),
        log_end: owed.end.subscribe(),
    };
    let guard = runtime.enter();
    let forwarder = Forwarder::start(parts, &tasks).unwrap();
    drop(guard);
    Running {
        runtime,
        tasks,
        forwarder,
        metrics,
    }
}

impl Running {
    fn stop(self) {
        self.tasks.stop();
        self.runtime.block_on(self.tasks.drained());
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The message's number, from the payload that [`Owed`] makes.
fn sequence(post: &Post) -> u64 {
    std::str::from_utf8(&post.body).unwrap()[5..]
        .trim_end_matches('}')
        .parse()
        .unwrap()
}

fn ok(post: &Post) -> Vec<Act> {
    answer("200 OK", "", &sequence(post).to_string())
}

fn device_of(post: &Post) -> String {
    post.line.split('/').nth(2).unwrap().to_owned()
}

/// First attempts of each device's messages are in order, and a message always has the same key.
fn assert_in_order(posts: &[Post]) {
    let mut newest: HashMap<String, u64> = HashMap::new();
    let mut keys: HashMap<u64, String> = HashMap::new();
    for post in posts {
        let (device, seq) = (device_of(post), sequence(post));
        let newest = newest.entry(device.clone()).or_default();
        *newest = seq.max(*newest);
        assert_eq!(*newest, seq, "{device} goes back");
        let key = post.header("idempotency-key").unwrap().to_owned();
        assert!(key.starts_with(&format!("{device}:")));
        assert_eq!(keys.entry(seq).or_insert_with(|| key.clone()), &key);
    }
    assert_eq!(
        keys.values().collect::<HashSet<_>>().len(),
        keys.len(),
        "one key per message"
    );
}

#[test]
fn everything_arrives_in_order_and_replies_come_after_the_commit() {
    let backend = Backend::start(ok);
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append((0..500).map(|n| n % 10));
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("delivered", || owed.owed() == 0);
    owed.append((0..500).map(|n| n % 10));
    until("delivered", || owed.owed() == 0);
    until("replied", || everyone.replies.lock().unwrap().len() == 900);
    assert_in_order(&backend.posts());
    assert_eq!(backend.posts().len(), 1_000);
    let most = backend.most_open.load(Ordering::SeqCst);
    assert!(most <= 4, "{most} connections by 4 workers");
    assert_eq!(
        backend.connections.load(Ordering::SeqCst),
        most,
        "connections are kept"
    );
    assert_eq!(everyone.too_early.load(Ordering::SeqCst), 0);
    assert_eq!(
        owed.tables.lock().unwrap().queued_replies.len(),
        500,
        "even ones are durable"
    );
    for (device, _, queue_id) in everyone.replies.lock().unwrap().iter() {
        assert_eq!(queue_id.is_some(), owed::number(device).is_multiple_of(2));
    }
    assert_eq!(running.metrics.delivered.get(), 1_000);
    assert_eq!(
        running.metrics.replies_dropped.get(),
        100,
        "nobody listens for d9"
    );
    assert!(
        owed.tables.lock().unwrap().settles < 900,
        "settlements are committed in groups"
    );
    running.stop();
}

#[test]
fn a_flapping_backend_gets_everything_in_order() {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = Arc::clone(&up);
    let backend = Backend::start(move |post| {
        if is_up.load(Ordering::SeqCst) {
            return ok(post);
        }
        match post.number % 4 {
            0 => answer("503 x", "Retry-After: 0\r\n", ""),
            1 => answer("500 x", "", "oops"),
            2 => vec![Act::Close],
            _ => vec![Act::Write(b"HTTP/1.1 2".to_vec()), Act::Close],
        }
    });
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    let running = start(&owed, &everyone, &backend.url(), 4);
    for round in 0..20 {
        up.store(round % 2 == 0, Ordering::SeqCst);
        owed.append((0..50).map(|n| n % 7));
        thread::sleep(Duration::from_millis(40));
    }
    up.store(true, Ordering::SeqCst);
    until("delivered", || owed.owed() == 0);
    assert_in_order(&backend.posts());
    assert_eq!(running.metrics.delivered.get(), 1_000);
    assert!(running.metrics.retries_overloaded.get() > 0);
    running.stop();
}

#[test]
fn an_upstream_that_is_away_is_probed_and_caught_up_with() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append((0..2_000).map(|n| n % 100));
    let running = start(&owed, &everyone, &format!("http://{address}"), 8);
    thread::sleep(Duration::from_millis(500));
    let attempts = running.metrics.attempts.get();
    // Half a second at 25 ms on average, and what was under way when it was noticed.
    assert!((2..60).contains(&attempts), "{attempts} attempts");
    assert_eq!(running.metrics.phase.get(), 1);
    assert_eq!(owed.owed(), 2_000);
    let listener = std::net::TcpListener::bind(address).unwrap();
    let backend = Backend::listen(listener, None, Arc::new(ok));
    until("delivered", || owed.owed() == 0);
    assert_in_order(&backend.posts());
    assert_eq!(backend.posts().len(), 2_000, "nothing twice");
    assert_eq!(owed.count(|held| held == Held::Settled("delivered")), 2_000);
    running.stop();
}

#[test]
fn one_devices_trouble_is_its_own() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let backend = Backend::start(move |post| {
        if device_of(post) == "d0" && !is_well.load(Ordering::SeqCst) {
            return answer("500 x", "", "");
        }
        if device_of(post) == "d1" && sequence(post) == 2 {
            return answer("422 x", "", "");
        }
        ok(post)
    });
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append((0..400).map(|n| n % 4));
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("the others", || {
        owed.count(|held| held == Held::Settled("delivered")) == 299
    });
    until("parked", || owed.count(|held| held == Held::Parked) == 100);
    assert_eq!(owed.held(2), Held::Settled("dead"));
    well.store(true, Ordering::SeqCst);
    until("all but the dead letter", || owed.owed() == 0);
    assert_in_order(&backend.posts());

    // The dead letter is retried by an operator, and refused again.
    let before = backend.posts().len();
    owed.retry(2);
    running.forwarder.parked_changed();
    until("sent again", || backend.posts().len() > before);
    until("dead again", || owed.held(2) == Held::Settled("dead"));
    running.stop();
}

#[test]
fn messages_of_devices_that_are_gone_are_dead_letters() {
    let backend = Backend::start(ok);
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append([1, 1_000, 1]);
    let running = start(&owed, &everyone, &backend.url(), 2);
    until("settled", || owed.owed() == 0);
    assert_eq!(owed.held(2), Held::Settled("dead"));
    running.stop();
}

#[test]
fn nothing_counts_as_delivered_before_it_is_committed() {
    let backend = Backend::start(ok);
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.broken.store(true, Ordering::SeqCst);
    owed.append((0..100).map(|n| n % 10));
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("posted", || backend.posts().len() == 100);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(running.metrics.delivered.get(), 0);
    assert!(everyone.replies.lock().unwrap().is_empty());
    assert!(running.metrics.failed_flushes.get() > 0);
    owed.broken.store(false, Ordering::SeqCst);
    until("committed", || owed.owed() == 0);
    until("counted", || running.metrics.delivered.get() == 100);
    assert_eq!(backend.posts().len(), 100, "and nothing is sent again");
    running.stop();
}

#[test]
fn after_a_crash_it_goes_again_under_the_same_key() {
    let backend = Backend::start(ok);
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append((0..200).map(|n| n % 10));
    owed.stopped.store(true, Ordering::SeqCst);
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("posted", || backend.posts().len() >= 4);
    running.stop();
    assert_eq!(owed.owed(), 200);
    owed.stopped.store(false, Ordering::SeqCst);
    let again = backend.posts().len();
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("delivered", || owed.owed() == 0);
    assert_in_order(&backend.posts()[again..]);
    let key = |post: &Post| {
        (
            sequence(post),
            post.header("idempotency-key").unwrap().to_owned(),
        )
    };
    let keys: HashSet<_> = backend.posts().iter().map(key).collect();
    assert_eq!(keys.len(), 200, "the same message, the same key");
    running.stop();
}

#[test]
fn stopping_waits_for_what_is_under_way_and_commits_it() {
    let backend =
        Backend::start(|post| [vec![Act::Sleep(Duration::from_millis(200))], ok(post)].concat());
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    owed.append(0..50);
    let running = start(&owed, &everyone, &backend.url(), 4);
    until("under way", || backend.posts().len() == 4);
    running.stop();
    assert_eq!(
        owed.count(|held| held == Held::Settled("delivered")),
        backend.posts().len()
    );
    assert!(backend.posts().len() <= 8);
}

/// How long one upstream's deliveries took.
struct Timed {
    upstream: HttpUpstream,
    took: Mutex<Vec<Duration>>,
}

impl Upstream for Timed {
    fn deliver(&self, device_id: &DeviceId, message: &Message) -> Answer {
        let began = Instant::now();
        let answer = self.upstream.deliver(device_id, message);
        self.took.lock().unwrap().push(began.elapsed());
        answer
    }
}

/// `cargo test --release forward::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "measures for some seconds"]
fn speed() {
    let backend = Backend::start(|_| answer("200 OK", "", ""));
    let owed = Owed::new();
    let everyone = Everyone::new(&owed);
    for workers in [4, 16, 64] {
        owed.append((0..60_000).map(|n| n % 997));
        let began = Instant::now();
        let running = start(&owed, &everyone, &backend.url(), workers);
        while owed.owed() > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let rate = 60_000.0 / began.elapsed().as_secs_f64();
        println!("{workers} workers, flat out: {rate:.0}/s");
        running.stop();
    }
    let timed = Arc::new(Timed {
        upstream: HttpUpstream::new("backend", &upstream_config(&backend.url(), 16)).unwrap(),
        took: Mutex::default(),
    });
    let running = start_upstream(
        &owed,
        &everyone,
        Arc::clone(&timed) as Arc<dyn Upstream>,
        16,
    );
    // 5,100 per second: half of the goal.
    let began = Instant::now();
    for tick in 0..1_500_u32 {
        owed.append((0..17).map(|n| (tick * 17 + n) % 997));
        let next = Duration::from_secs_f64(f64::from(tick) / 300.0);
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
    while owed.owed() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let rate = 25_500.0 / began.elapsed().as_secs_f64();
    running.stop();
    let mut took = timed.took.lock().unwrap();
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 1_000];
    println!(
        "16 workers at {rate:.0}/s: p50 {:?}, p99 {:?}, p99.9 {:?}",
        at(500),
        at(990),
        at(999)
    );
}
