//! How many messages per second the store alone takes, and what it keeps up: `cargo bench --bench store`.
//!
//! Fifty sessions with 20 messages of 350 bytes under way each, through the public edge: signed
//! messages are made and verified up front, so that only the store is measured.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate::{
    clock::UnixMillis,
    config::WhenFull,
    envelope::{Context, Kind, verify},
    registry::Device,
    store::{
        Batch, DeviceKey, Opened, Options, Outcome, Seq, Settled, Store, StoreMetrics, Verdict,
        Wanted,
    },
};
use tidegate_wire::{DeviceId, Direction, Draft, MessageId, Payload, SigningKey, Version};
use tokio_util::sync::CancellationToken;

const NOW: UnixMillis = UnixMillis(1_727_712_000_000);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), AnyError> {
    // `cargo test` runs benches as well, and is not to wait for this one.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(
        std::env::var("TIDEGATE_BENCH_DIR").unwrap_or_else(|_| ".".to_owned()),
    )?;
    let options = Options {
        path: folder.path().join("tidegate.db"),
        disk_budget_bytes: 8 << 30,
        when_full: WhenFull::Refuse,
        commit_delay: Duration::ZERO,
        freshness: Duration::from_secs(300),
        max_age: None,
    };
    let metrics = Arc::new(StoreMetrics::default());
    let running = Running::start(&options, &metrics)?;
    let names = [(
        "cloud".to_owned(),
        Wanted {
            data: true,
            events: false,
        },
    )];
    let key = running.store.upstreams(&names)?[0];

    ingest(&running.store, &metrics, 1, 1, 300)?;
    ingest(&running.store, &metrics, 4, 1, 300)?;
    ingest(&running.store, &metrics, 50, 20, 1_200)?;
    // Enough under way that a commit is not what limits it.
    ingest(&running.store, &metrics, 51, 200, 100)?;
    println!(
        "owed: {}",
        running.store.ledger(key).map_or(0, |ledger| ledger.owed)
    );
    running.stop();

    let began = Instant::now();
    let running = Running::start(&options, &metrics)?;
    println!("opened with that in {:?}", began.elapsed());
    drain(&running.store, key)?;
    running.stop();
    Ok(())
}

const WRITER: &str = "writer";

/// Time the writer's thread spent on a processor, from Linux' accounts: what a busy machine does not
/// distort.
fn writer_cpu() -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let nanos = tasks
        .flatten()
        .filter(|task| read(task.path().join("comm")).trim() == WRITER)
        .filter_map(|task| {
            read(task.path().join("schedstat"))
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    Duration::from_nanos(nanos)
}

struct Running {
    store: Store,
    stopping: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Running {
    fn start(options: &Options, metrics: &Arc<StoreMetrics>) -> Result<Self, AnyError> {
        let Opened {
            store,
            writer,
            checkpointer,
        } = Store::open(options, Arc::clone(metrics), NOW)?;
        let stopping = CancellationToken::new();
        let (one, two) = (stopping.clone(), stopping.clone());
        let threads = vec![
            thread::Builder::new()
                .name(WRITER.to_owned())
                .spawn(move || writer.run(&one))?,
            thread::Builder::new()
                .name("checkpoints".to_owned())
                .spawn(move || checkpointer.run(&two))?,
        ];
        Ok(Self {
            store,
            stopping,
            threads,
        })
    }

    fn stop(self) {
        self.stopping.cancel();
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Raw signed messages of one session.
fn messages(session: u64, count: u64, at: u64) -> Result<Vec<Vec<u8>>, AnyError> {
    let device_id = DeviceId::try_from("sensor_001")?;
    let key = SigningKey::new(b"supersecretkey123")?;
    let text = format!("{{\"temperature\":22.5,\"note\":\"{}\"}}", "x".repeat(310));
    let mut slots = [0; 64];
    let payload = Payload::parse(text.as_bytes(), &mut slots)?;
    let mut buffer = [0; 1024];
    (0..count)
        .map(|n| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&session.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            id[8..].copy_from_slice(&(at << 32 | n).to_be_bytes());
            let message_id = MessageId::from_random(id);
            let draft = Draft {
                version: Version::V2,
                device_id: &device_id,
                timestamp: NOW.seconds(),
                message_id,
                payload,
            };
            let len = draft.sign_into(&key, Direction::Up, &mut buffer)?;
            Ok(buffer[..len].to_vec())
        })
        .collect()
}

/// Each of `sessions` sends `rounds` batches of `window` messages, one after the other is answered.
fn ingest(
    store: &Store,
    metrics: &StoreMetrics,
    sessions: u64,
    window: u64,
    rounds: u64,
) -> Result<(), AnyError> {
    let digest_key = store.digest_key();
    let mut queues = Vec::new();
    for session in 0..sessions {
        let identity = DeviceId::try_from("sensor_001")?;
        let mut device = Device::new(DeviceKey(session as u32), identity);
        device.secret = Some(Arc::new(SigningKey::new(b"supersecretkey123")?));
        let context = Context {
            device: Some(&device),
            identity: &identity,
            kind: Kind::Data,
            now: NOW,
            freshness: Duration::from_secs(300),
            require_v2: false,
            max_bytes: 65_536,
            digest_key: &digest_key,
        };
        let raw = messages(session, window * rounds, sessions)?;
        let batches: Vec<Batch> = raw
            .chunks(window as usize)
            .map(|chunk| {
                let mut batch = Batch::default();
                for raw in chunk {
                    batch.push(&verify(raw, &context)?, false);
                }
                Ok::<_, AnyError>(batch)
            })
            .collect::<Result<_, _>>()?;
        queues.push(batches);
    }
    let before = Snapshot::of(metrics);
    let cpu = writer_cpu();
    let began = Instant::now();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?
        .block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for batches in queues {
                let store = store.clone();
                tasks.spawn(async move {
                    for batch in batches {
                        for verdict in store.ingest(batch).await? {
                            assert!(matches!(verdict, Verdict::Stored(_)), "{verdict:?}");
                        }
                    }
                    Ok::<_, AnyError>(())
                });
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            Ok::<_, AnyError>(())
        })?;
    let took = began.elapsed();
    let cpu = writer_cpu() - cpu;
    let after = Snapshot::of(metrics);
    let total = sessions * window * rounds;
    let commits = after.commits - before.commits;
    let commit = (after.commit_micros - before.commit_micros) as f64 / commits as f64;
    let group = (after.group_micros - before.group_micros) as f64 / commits as f64;
    println!(
        "{sessions} sessions, window {window}: {:.0} messages/s ({total} in {took:.2?}); {commits} commits, \
         {:.1} messages each, COMMIT {commit:.0} us, rest of the group {:.0} us, in groups {:.0} % of the time; \
         writer {:.2} us of processor per message; \
         {:.2} of sessions × window per COMMIT time; slowest COMMIT {} us; {} runs, {} KiB for replay",
        total as f64 / took.as_secs_f64(),
        total as f64 / commits as f64,
        group - commit,
        (after.group_micros - before.group_micros) as f64 / took.as_micros() as f64 * 100.0,
        cpu.as_micros() as f64 / total as f64,
        total as f64 / took.as_secs_f64() * commit / 1e6 / (sessions * window) as f64,
        metrics.slowest_commit_micros.get(),
        metrics.remembered_runs.get(),
        metrics.remembered_memory_bytes.get() / 1024,
    );
    Ok(())
}

struct Snapshot {
    commits: u64,
    commit_micros: u64,
    group_micros: u64,
}

impl Snapshot {
    fn of(metrics: &StoreMetrics) -> Self {
        Self {
            commits: metrics.commits.get(),
            commit_micros: metrics.commit_micros.get(),
            group_micros: metrics.group_micros.get(),
        }
    }
}

/// Reads and settles all that is owed, a thousand at a time.
fn drain(store: &Store, key: tidegate::store::UpstreamKey) -> Result<(), AnyError> {
    let began = Instant::now();
    let (mut after, mut total) = (Seq(0), 0_u64);
    let mut reading = Duration::ZERO;
    loop {
        let read = Instant::now();
        let messages = store.read_log(key, after, 1_000, 1 << 20)?;
        reading += read.elapsed();
        let Some(last) = messages.last() else { break };
        after = last.seq;
        total += messages.len() as u64;
        let items = messages
            .iter()
            .map(|message| Settled {
                seq: message.seq,
                device: message.device,
                outcome: Outcome::Delivered,
                reply: None,
            })
            .collect();
        store.settle_blocking(key, items)?;
    }
    println!(
        "drained {total} in {:.2?}, of which reading {reading:.2?}; owed now: {}",
        began.elapsed(),
        store.ledger(key).map_or(0, |ledger| ledger.owed)
    );
    Ok(())
}
