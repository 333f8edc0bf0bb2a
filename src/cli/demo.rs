//! `tidegate demo`: a gateway, a backend and devices in one process, with nothing to configure.
//!
//! Everything is the real thing: its own certificate authority in a state folder, mutual TLS,
//! signatures, the database. The devices are the firmware's application as it runs on the boards
//! (`firmware/app` on `firmware/host`); only what their sensors measure is made up.
//!
//! | module | what it holds |
//! |---|---|
//! | [`devices`] | the devices: enrolled, wired, running in their thread |
//! | [`surroundings`] | what their sensors feel, and what their LED and relays do |
//! | [`tally`] | what they went through, for the live line |
//! | [`backend`] | where messages are delivered |
//! | [`attack`], [`link`] | four attacks with a bare client |
//! | [`update`] | a release, and what becomes of it |
//! | [`introduction`] | what is printed first |
//! | [`story`] | the outage, the attacks, the update, the end |
//! | [`status`] | the live line |

mod attack;
mod backend;
mod devices;
mod introduction;
mod link;
mod status;
mod story;
mod surroundings;
mod tally;
mod update;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use tidegate_host::{bundle::BundleError, fleet::FleetError};
use tidegate_wire::manifest::PublicKey;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{backend::Backend, devices::Devices, tally::Tally, update::Update};
use crate::{
    api::KeyError,
    app::{App, EnrolError, RunError, StartError, Tasks},
    cli::exit::Exit,
    config::{Config, HttpUpstream, Listener, ListenerMode, Upstream},
    control::{Code, Problem},
    ota::signing::SigningError,
    pki::{self, Endpoint, Host},
    store::StoreError,
};

/// Arguments of `tidegate demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// End after this long, with the ledger; fail unless it balances.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub lasting: Option<Duration>,

    /// Take the backend away for this long, in the middle, and bring it back.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub offline: Option<Duration>,

    /// Try a replay, a tampered message, an impersonation and an unknown certificate.
    #[arg(long)]
    pub attack: bool,

    /// Publish a firmware release and move the devices to it; on one of them it crashes, and rolls back.
    /// Fail if it goes otherwise, or is not through when --for is over: 45s are ample for five.
    #[arg(long)]
    pub update: bool,

    /// Devices: dashboards, climate sensors and gates in turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub devices: u16,

    /// Time between two readings of one device.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub every: Duration,

    /// Where devices connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8883")]
    pub mqtt: SocketAddr,

    /// Where commands are taken.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub api: SocketAddr,

    /// Where the demo's backend listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    pub backend: SocketAddr,

    /// Where devices ask for updates with --update, at the address of --mqtt.
    #[arg(long, value_name = "PORT", default_value_t = 8444, value_parser = clap::value_parser!(u16).range(1..))]
    pub update_port: u16,
}

impl DemoArgs {
    /// What the options mean together.
    fn check(&self) -> Result<(), DemoError> {
        if self.every.is_zero() {
            return Err(DemoError::NoPause);
        }
        if let Some(address) = [self.mqtt, self.api].into_iter().find(|a| a.port() == 0) {
            return Err(DemoError::NoPort(address));
        }
        if self.update && self.devices < 2 {
            return Err(DemoError::NobodyLeft);
        }
        match (self.offline, self.lasting) {
            (Some(offline), Some(lasting)) if offline >= lasting => Err(DemoError::NoReturn),
            _ => Ok(()),
        }
    }
}

/// Why the demo did not start, or what it found wrong.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the backend cannot listen on {address}: {source}; is another program using it?")]
    Backend {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot issue an operator's certificate: {0}")]
    Pki(#[from] pki::PkiError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot enrol a device: {0}")]
    Enrol(#[from] EnrolError),
    #[error("cannot read what was issued to a device: {0}")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("cannot make an API key: {0}")]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an attack cannot be tried: {0}")]
    Attack(String),
    #[error("release key: {0}")]
    Release(#[from] SigningError),
    #[error("{}", .0.message)]
    Update(#[from] Problem),
    #[error("--for was over before the update was: {0}; give it longer, such as --for 45s")]
    Unfinished(String),
    #[error("{path}: {source}; the demo keeps its state there")]
    State { path: PathBuf, source: io::Error },
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("ended at once: the last deliveries were not waited for; the next start makes them")]
    Interrupted,
    #[error("--every must be longer than zero")]
    NoPause,
    #[error("{0} has no port; give one that devices and commands can be sent to")]
    NoPort(SocketAddr),
    #[error("--update needs two devices or more: one of them fails with the release")]
    NobodyLeft,
    #[error("--offline must be shorter than --for, so that what waited can still be delivered")]
    NoReturn,
}

/// Where the demo keeps its state unless `--state-dir` says otherwise.
#[must_use]
pub fn default_state_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("tidegate/demo")
}

impl DemoError {
    /// What to tell the user: what went wrong and what helps.
    pub(super) fn problem(&self) -> Problem {
        let start = |error: &StartError| match error.exit() {
            Exit::InUse => Code::InUse,
            Exit::Damaged => Code::Damaged,
            Exit::Io => Code::Io,
            Exit::Config => Code::Config,
            _ => Code::Invalid,
        };
        let (code, remedy) = match self {
            Self::Backend { .. } => (Code::InUse, "choose another one with --backend".to_owned()),
            Self::Start(error @ StartError::Api { .. }) => {
                (start(error), "choose another one with --api".to_owned())
            }
            Self::Start(error @ StartError::Front(_)) => {
                (start(error), "choose another one with --mqtt".to_owned())
            }
            Self::Start(error @ StartError::UpdateServer { .. }) => (
                start(error),
                "choose another one with --update-port".to_owned(),
            ),
            Self::Start(error @ (StartError::StateDir { .. } | StartError::Open(_))) => (
                start(error),
                "give the demo another folder: tidegate --state-dir FOLDER demo".to_owned(),
            ),
            Self::Start(error) => (start(error), String::new()),
            Self::Fleet(FleetError::Device { device, .. }) => (
                Code::Damaged,
                format!(
                    "remove {}/{device} in the state folder: it is enrolled anew then",
                    devices::FOLDER
                ),
            ),
            Self::Release(_) => (
                Code::Damaged,
                "remove release.key and release.key.pub in the state folder: they are made anew then"
                    .to_owned(),
            ),
            Self::Update(problem) => return problem.clone(),
            Self::State { .. } => (
                Code::Io,
                "give the demo another folder: tidegate --state-dir FOLDER demo".to_owned(),
            ),
            _ => (Code::Invalid, String::new()),
        };
        Problem::new(code, self.to_string(), remedy)
    }
}

/// Runs the demo until its time is over, or Ctrl-C or SIGTERM; a second one ends it at once.
///
/// # Errors
/// When it cannot start; with [`DemoError::Failed`] when an attack succeeded or the ledger does not
/// balance at the end.
pub async fn run(args: &DemoArgs, state_dir: PathBuf) -> Result<(), DemoError> {
    args.check()?;
    let mut stops = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    let interrupted = CancellationToken::new();
    let state_dir = std::path::absolute(state_dir)?;
    tokio::select! {
        verdict = play(args, &state_dir, &interrupted) => verdict,
        () = async {
            next(&mut stops).await;
            interrupted.cancel();
            next(&mut stops).await;
        } => Err(DemoError::Interrupted),
    }
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn play(
    args: &DemoArgs,
    state_dir: &Path,
    interrupted: &CancellationToken,
) -> Result<(), DemoError> {
    let (tasks, _) = Tasks::new();
    let backend = Backend::start(args.backend, &tasks).map_err(|source| DemoError::Backend {
        address: args.backend,
        source,
    })?;
    let key = update::release_key(state_dir)?;
    let public = key.public()?;
    let app = App::build(config(args, &backend, &public, state_dir.to_owned())).await?;
    let handle = app.handle();
    let names: Vec<String> = (1..=args.devices).map(devices::name).collect();
    let stolen = args.attack.then(|| devices::STOLEN.to_owned());
    let wanted = names.iter().cloned().chain(stolen);
    let mut bundles =
        devices::enrol(args, &handle, state_dir, &public, wanted, interrupted).await?;
    if interrupted.is_cancelled() {
        return Ok(());
    }
    let attack = args
        .attack
        .then(|| bundles.pop())
        .flatten()
        .and_then(|stolen| {
            let victim = bundles.first()?.clone();
            Some(story::Attack {
                stolen,
                victim,
                gateway: args.mqtt,
            })
        });
    let tally = Arc::new(Tally::default());
    introduction::print(args, &handle, &backend, state_dir).await?;
    let updating = update::updating(args.update, args.devices);
    let mut devices = Devices::start(bundles, state_dir, args.every, updating, &tally)?;
    let update = args.update.then(|| Update::new(key));

    let story = story::Story {
        args,
        handle: &handle,
        backend: &backend,
        names: &names,
        tally: &tally,
        update: update.as_ref(),
        interrupted,
    };
    let mut gateway = std::pin::pin!(app.run());
    let verdict = tokio::select! {
        ended = &mut gateway => ended.map_err(DemoError::from),
        verdict = async {
            tokio::select! {
                told = story.tell(attack) => told?,
                failed = devices.failed() => return Err(failed),
            }
            status::note(if interrupted.is_cancelled() {
                "no more readings; waiting for the last deliveries (Ctrl-C again ends it at once)"
            } else {
                "no more readings; waiting for the last deliveries"
            });
            devices.stop().await;
            story.settle().await
        } => verdict,
    };
    devices.stop().await;
    tasks.stop();
    tasks.drained().await;
    handle.stop();
    if verdict.is_ok() {
        gateway.await?;
    }
    verdict
}

fn config(
    args: &DemoArgs,
    backend: &Backend,
    release_key: &PublicKey,
    state_dir: PathBuf,
) -> Config {
    let mut config = Config {
        state_dir,
        ..Config::default()
    };
    let listener = Listener {
        address: args.mqtt,
        mode: ListenerMode::MutualTls,
        max_fragment_bytes: None,
    };
    config.listeners.insert("devices".to_owned(), listener);
    config.api.address = Some(args.api);
    let updates = &mut config.updates;
    // With the key in any case: what is enrolled now can be updated at a later start.
    updates.release_keys = vec![release_key.to_string()];
    updates.address = args
        .update
        .then(|| SocketAddr::new(args.mqtt.ip(), args.update_port));
    updates.bytes_per_second = ByteSize(update::BYTES_PER_SECOND);
    // All devices are on this machine.
    updates.connections_per_address = updates.connections;
    config.log.level = "warn".to_owned();
    let upstream = Upstream::Http(HttpUpstream {
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(2),
        ..HttpUpstream::to(backend.url())
    });
    config.upstreams.insert("backend".to_owned(), upstream);
    config
}

/// Where devices on this machine find `address`.
fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        host: Host::Ip(reachable(address).ip()),
        port: address.port(),
    }
}

/// An address to connect to for one to listen on: "all of them" is none.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
