//! The load generator: thousands of lean devices in one process.
//!
//! A whole device needs TLS in portable Rust, flash and timers of its own: right for a chip, and a
//! hundred times too slow to find a gateway's limits from the same machine. A lean device does what
//! the gateway sees of one, and nothing else: mutual TLS 1.3 (rustls), MQTT 5 (`tidegate-mqtt`),
//! messages signed one by one (`tidegate-wire`), QoS 1 with a window. Each thread runs its share of
//! them; they share nothing but the counters.
//!
//! Latency is from when a message was *due* to its acknowledgement. At a fixed rate (open loop)
//! it therefore includes the time a message had to wait because the gateway was slow before.

mod connection;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tidegate_wire::{DeviceId, SigningKey};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

pub use report::Report;

use crate::bundle::{Bundle, BundleError};
use connection::{Counters, Shared};

/// Connections that are made at the same time, in each thread: more only wait for the gateway.
const CONNECTING: usize = 32;

/// What the devices do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Publish as fast as the window allows (closed loop).
    Max,
    /// Publish this many messages a second in all (open loop).
    Rate(f64),
    /// Connect and stay.
    Idle,
    /// Connect and disconnect, over and over; `resume` with the last session's ticket.
    Handshakes {
        /// Resume TLS sessions rather than making full handshakes.
        resume: bool,
    },
}

/// A load.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the devices do.
    pub mode: Mode,
    /// How many there are. More than there are bundles share identities, each with a client id of
    /// its own, which a gateway that keeps one session for each identity will not have.
    pub devices: usize,
    /// Their bundles.
    pub bundles: Vec<Bundle>,
    /// Where they connect to, if not where their bundles say.
    pub target: Option<SocketAddr>,
    /// Without TLS.
    pub plain: bool,
    /// Messages in flight for each device.
    pub window: u16,
    /// Bytes of a payload.
    pub size: usize,
    /// 0 or 1.
    pub qos: u8,
    /// Where messages go; `{id}` is the device's.
    pub topic: String,
    /// How messages are signed.
    pub signature: tidegate_wire::Version,
    /// Timestamps go from this much before now to as much after it, over and over, as a gateway sees
    /// them in the course of a whole freshness window. Zero: now.
    pub spread: Duration,
    /// A message is done when the backend's reply to it comes, not when it is acknowledged. The
    /// backend is to answer with an object whose `n` is that of the message it answers.
    pub responses: bool,
    /// Messages each device sends at most.
    pub messages: Option<u64>,
    /// How long is measured.
    pub duration: Duration,
    /// How long it runs before.
    pub warmup: Duration,
    /// Threads.
    pub threads: usize,
}

/// A load cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The folder of bundles.
    #[error("{path} cannot be read as a folder of bundles: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// None.
    #[error("{0} holds no bundles: issue some with `tidegate pki`")]
    Empty(PathBuf),
    /// TLS cannot be set up with a bundle.
    #[error("bundle of {device} is of no use for TLS: {source}")]
    Tls {
        /// Whose.
        device: String,
        /// Why.
        source: rustls::Error,
    },
    /// Something else in a bundle.
    #[error("bundle of {device}: {what}")]
    Part {
        /// Whose.
        device: String,
        /// What.
        what: &'static str,
    },
    /// A name cannot be resolved.
    #[error("{0} has no address: check the bundle's gateway or give a target")]
    Address(String),
    /// A thread or its runtime could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The payload.
    #[error("payload must be 32 bytes or more")]
    Size,
}

/// Reads every bundle in a folder, or the one bundle it is.
///
/// # Errors
///
/// [`LoadError`]
pub fn bundles(path: &Path) -> Result<Vec<Bundle>, LoadError> {
    if path.is_file() || path.join("device.json").exists() {
        return Ok(vec![Bundle::read(path)?]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<_> = entries
        .map_err(|source| LoadError::Folder {
            path: path.to_owned(),
            source,
        })?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| {
            path.join("device.json").exists() || path.extension().is_some_and(|e| e == "json")
        })
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(LoadError::Empty(path.to_owned()));
    }
    Ok(paths
        .iter()
        .map(|path| Bundle::read(path))
        .collect::<Result<_, _>>()?)
}

/// One lean device.
struct Lean {
    id: DeviceId,
    client_id: String,
    topic: String,
    key: SigningKey,
    address: SocketAddr,
    name: ServerName<'static>,
    tls: Option<TlsConnector>,
}

/// When what happens.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// Measuring starts.
    from: Instant,
    /// Measuring ends.
    until: Instant,
}

/// Runs a load and says how it went. Blocks; makes threads and runtimes of its own.
///
/// # Errors
///
/// [`LoadError`]: it could not be started. What the gateway does wrong is in the report.
pub fn run(options: &Options) -> Result<Report, LoadError> {
    if options.size < connection::MIN_PAYLOAD {
        return Err(LoadError::Size);
    }
    let devices = devices(options)?;
    let threads = options.threads.clamp(1, options.devices.max(1));
    let mut shares: Vec<Vec<Lean>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, device) in devices.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index % threads) {
            share.push(device);
        }
    }
    let connected = Arc::new(std::sync::Barrier::new(threads));
    let start = Instant::now();
    let handles: Vec<_> = shares
        .into_iter()
        .map(|share| {
            let options = options.clone();
            let connected = connected.clone();
            thread::Builder::new()
                .name("load".into())
                .spawn(move || share_of_load(&options, share, &connected))
                .map_err(LoadError::Thread)
        })
        .collect::<Result<_, _>>()?;
    let mut report = Report::new(options);
    for handle in handles {
        match handle.join() {
            Ok(Ok(outcome)) => report.add(&outcome, start),
            Ok(Err(error)) => return Err(LoadError::Thread(error)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(report)
}

/// What one thread found.
struct Outcome {
    counters: Shared,
    ready: Instant,
    /// How long was measured.
    measured: Duration,
    /// Processor time of the whole process meanwhile.
    cpu: Duration,
}

fn share_of_load(
    options: &Options,
    share: Vec<Lean>,
    all_connected: &std::sync::Barrier,
) -> std::io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Hundreds of sockets are ready at a time: look for more only after dealing with them.
        .event_interval(128)
        .build()?;
    let counters = Counters::default();
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let share: Vec<_> = share.into_iter().map(std::rc::Rc::new).collect();
        let gate = std::rc::Rc::new(Semaphore::new(CONNECTING));
        if let Mode::Handshakes { .. } = options.mode {
            let schedule = schedule(options);
            let mut tasks = JoinSet::new();
            for device in share {
                let (counters, gate) = (counters.clone(), gate.clone());
                tasks.spawn_local(async move {
                    connection::shake_hands(&device, &gate, schedule, &counters).await;
                });
            }
            let (measured, cpu) = finish(tasks, schedule).await;
            return Ok(Outcome {
                counters: counters.finish(),
                ready: Instant::now(),
                measured,
                cpu,
            });
        }
        let mut connecting = JoinSet::new();
        for device in share {
            let (counters, gate) = (counters.clone(), gate.clone());
            connecting.spawn_local(async move {
                let connected = connection::connect(&device, &gate, &counters).await;
                connected.map(|stream| (device, stream))
            });
        }
        let connected: Vec<_> = connecting.join_all().await.into_iter().flatten().collect();
        let ready = Instant::now();
        // Every thread starts at the same time; its connections wait with nothing to do.
        tokio::task::yield_now().await;
        all_connected.wait();
        let schedule = schedule(options);
        let mut tasks = JoinSet::new();
        let count = connected.len();
        for (index, (device, stream)) in connected.into_iter().enumerate() {
            let (counters, options) = (counters.clone(), options.clone());
            tasks.spawn_local(async move {
                let phase = index as f64 / count as f64;
                connection::publish(&device, stream, &options, schedule, phase, &counters).await;
            });
        }
        let (measured, cpu) = finish(tasks, schedule).await;
        Ok(Outcome {
            counters: counters.finish(),
            ready,
            measured,
            cpu,
        })
    }))
}

fn schedule(options: &Options) -> Schedule {
    let from = Instant::now() + options.warmup;
    Schedule {
        from,
        until: from + options.duration,
    }
}

/// Lets `tasks` finish, and measures how much of the schedule they took, which is less when all had
/// a number of messages to send, and the processor time of this process meanwhile.
async fn finish(tasks: JoinSet<()>, schedule: Schedule) -> (Duration, Duration) {
    let ended = async {
        tasks.join_all().await;
    };
    tokio::pin!(ended);
    let mut over = tokio::select! {
        () = tokio::time::sleep_until(schedule.from.into()) => false,
        () = &mut ended => true,
    };
    let (began, before) = (Instant::now(), cpu_time());
    if !over {
        over = tokio::select! {
            () = tokio::time::sleep_until(schedule.until.into()) => false,
            () = &mut ended => true,
        };
    }
    let (measured, cpu) = (began.elapsed(), cpu_time().saturating_sub(before));
    if !over {
        ended.await;
    }
    (measured, cpu)
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn devices(options: &Options) -> Result<Vec<Lean>, LoadError> {
    let resume = matches!(options.mode, Mode::Handshakes { resume: true });
    let mut roots: Option<(Vec<_>, Arc<RootCertStore>)> = None;
    (0..options.devices)
        .map(|index| {
            let count = options.bundles.len();
            let bundle = index
                .checked_rem(count)
                .and_then(|index| options.bundles.get(index))
                .ok_or_else(|| LoadError::Empty(PathBuf::new()))?;
            let part = |what| LoadError::Part {
                device: bundle.device_id.clone(),
                what,
            };
            let tls = |source| LoadError::Tls {
                device: bundle.device_id.clone(),
                source,
            };
            // Usually the same for all of them.
            let store = match &roots {
                Some((ders, store)) if *ders == bundle.roots => store.clone(),
                _ => {
                    let mut store = RootCertStore::empty();
                    for root in &bundle.roots {
                        store.add(root.clone()).map_err(tls)?;
                    }
                    let store = Arc::new(store);
                    roots = Some((bundle.roots.clone(), store.clone()));
                    store
                }
            };
            let connector = if options.plain {
                None
            } else {
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let mut config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .and_then(|builder| {
                        builder
                            .with_root_certificates(store)
                            .with_client_auth_cert(bundle.chain.clone(), bundle.key.clone_key())
                    })
                    .map_err(tls)?;
                config.resumption = if resume {
                    Resumption::in_memory_sessions(4)
                } else {
                    Resumption::disabled()
                };
                Some(TlsConnector::from(Arc::new(config)))
            };
            let address = match options.target {
                Some(target) => target,
                None => resolve(&bundle.host, bundle.port)?,
            };
            let id = bundle.device_id.as_str();
            Ok(Lean {
                id: id.try_into().map_err(|_| part("device id is not valid"))?,
                client_id: if index < count {
                    id.to_owned()
                } else {
                    format!("{id}-{index}")
                },
                topic: options.topic.replace("{id}", id),
                key: SigningKey::new(&bundle.secret).map_err(|_| part("secret is empty"))?,
                address,
                name: bundle
                    .host
                    .clone()
                    .try_into()
                    .map_err(|_| part("gateway host is no host name"))?,
                tls: connector,
            })
        })
        .collect()
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, LoadError> {
    use std::net::ToSocketAddrs;
    (host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| LoadError::Address(format!("{host}:{port}")))
}
