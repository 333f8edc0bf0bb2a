//! `tidegate demo`: a gateway, a backend and devices in one process, with nothing to configure.
//!
//! Everything is the real thing: its own certificate authority in a state folder, mutual TLS,
//! signatures, the database. Only the devices' sensors are made up.

mod attack;
mod backend;
mod device;
mod link;
mod status;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tidegate_wire::{DeviceId, SigningKey};
use tokio::time::{Instant, sleep_until};

use self::{
    attack::ClientConfigParts,
    backend::Backend,
    device::{Device, Identity, Tally},
};
use crate::{
    api::{KeyError, Scope},
    app::{App, EnrolError, Handle, RunError, StartError, Tasks},
    config::{Config, HttpUpstream, Listener, ListenerMode, Upstream},
    pki::{self, Bundle, Endpoint, Host},
    store::{LedgerCheck, StoreError},
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

    /// Simulated devices.
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
}

impl DemoArgs {
    /// What the options mean together.
    fn check(&self) -> Result<(), DemoError> {
        if self.every.is_zero() {
            return Err(DemoError::NoPause);
        }
        if self.attack && self.devices < 2 {
            return Err(DemoError::TooFew);
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
    #[error(
        "{address} is in use, or not ours to use ({source}); choose another one with --backend"
    )]
    Backend {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot issue certificates for the simulated devices: {0}")]
    Pki(#[from] pki::PkiError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot enrol a simulated device: {0}")]
    Enrol(#[from] EnrolError),
    #[error("cannot make an API key: {0}")]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot set up a simulated device: {0}")]
    Device(String),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("--every must be longer than zero")]
    NoPause,
    #[error(
        "--attack needs at least two devices, one to attack and one to attack as; leave --devices away"
    )]
    TooFew,
    #[error("--offline must be shorter than --for, so that what waited can still be delivered")]
    NoReturn,
}

/// Longest wait for the last deliveries at the end.
const SETTLE: Duration = Duration::from_secs(20);

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

/// Runs the demo until its time is over or Ctrl-C.
///
/// # Errors
/// When it cannot start; with [`DemoError::Failed`] when an attack succeeded or the ledger does not
/// balance at the end.
pub async fn run(args: &DemoArgs, state_dir: PathBuf) -> Result<(), DemoError> {
    args.check()?;
    let (tasks, _) = Tasks::new();
    let (devices, _) = Tasks::new();
    let backend = Backend::start(args.backend, &tasks).map_err(|source| DemoError::Backend {
        address: args.backend,
        source,
    })?;
    let app = App::build(config(args, &backend, state_dir.clone())).await?;
    let handle = app.handle();
    let tally = Arc::new(Tally::default());
    let identities = identities(args, &handle, &state_dir).await?;
    for identity in &identities {
        let device = Device::new(identity.clone(), args.every, Arc::clone(&tally));
        devices.connection(device.run(devices.stopping()));
    }
    introduce(args, &handle, &backend, &state_dir).await?;

    let mut gateway = std::pin::pin!(app.run());
    let verdict = tokio::select! {
        ended = &mut gateway => ended.map_err(DemoError::from),
        verdict = async {
            act(args, &handle, &backend, &identities, &tally, &state_dir).await?;
            status::note("no more readings; waiting for the last deliveries");
            devices.stop();
            devices.drained().await;
            settle(&handle, &backend).await
        } => verdict,
    };
    devices.stop();
    devices.drained().await;
    tasks.stop();
    tasks.drained().await;
    handle.stop();
    if verdict.is_ok() {
        gateway.await?;
    }
    verdict
}

fn config(args: &DemoArgs, backend: &Backend, state_dir: PathBuf) -> Config {
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
    config.log.level = "warn".to_owned();
    let upstream = Upstream::Http(HttpUpstream {
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(2),
        ..HttpUpstream::to(backend.url())
    });
    config.upstreams.insert("backend".to_owned(), upstream);
    config
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        host: Host::Ip(address.ip()),
        port: address.port(),
    }
}

fn device_name(number: u16) -> String {
    format!("sensor_{number:03}")
}

/// Certificates and secrets for every simulated device, kept in the state folder between starts.
async fn identities(
    args: &DemoArgs,
    handle: &Handle,
    state_dir: &Path,
) -> Result<Vec<Identity>, DemoError> {
    let mut identities = Vec::new();
    for number in 1..=args.devices {
        let name = device_name(number);
        let folder = state_dir.join("devices").join(&name);
        let bundle = match Bundle::read(&folder) {
            Ok(bundle) if handle.knows(&name) => bundle,
            _ => handle.enrol(&name, &folder, endpoint(args.mqtt)).await?,
        };
        identities.push(identity(&bundle, args.mqtt)?);
    }
    Ok(identities)
}

fn identity(bundle: &Bundle, address: SocketAddr) -> Result<Identity, DemoError> {
    let wrong = |error: &dyn std::fmt::Display| DemoError::Device(error.to_string());
    let key = bundle
        .key
        .as_ref()
        .ok_or_else(|| wrong(&"its bundle has no key"))?;
    let secret = bundle
        .secret
        .as_ref()
        .ok_or_else(|| wrong(&"its bundle has no secret"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| wrong(&e))?;
    let chain = certificates(&bundle.certificate)?;
    let tls = trusting(bundle)?
        .with_client_auth_cert(chain, key)
        .map_err(|e| wrong(&e))?;
    Ok(Identity {
        id: DeviceId::try_from(bundle.device_id.as_str()).map_err(|e| wrong(&e))?,
        key: SigningKey::new(secret.as_bytes()).map_err(|e| wrong(&e))?,
        tls: Arc::new(tls),
        address,
        name: ServerName::IpAddress(address.ip().into()),
    })
}

/// A client configuration that trusts the gateway's root and shows nothing yet.
fn trusting(bundle: &Bundle) -> Result<ClientConfigParts, DemoError> {
    let wrong = |error: rustls::Error| DemoError::Device(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&bundle.ca)? {
        roots.add(certificate).map_err(wrong)?;
    }
    Ok(
        ClientConfig::builder_with_provider(Arc::new(pki::credentials::provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots),
    )
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, DemoError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| DemoError::Device(error.to_string()))
}

/// Says where everything is and how to try it.
async fn introduce(
    args: &DemoArgs,
    handle: &Handle,
    backend: &Backend,
    state_dir: &Path,
) -> Result<(), DemoError> {
    let key = api_key(handle, state_dir).await?;
    handle.operator("operator", &state_dir.join("operator"))?;
    let state = state_dir.display();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "Tidegate demo: {} devices, a reading every {}",
        args.devices,
        humantime::format_duration(args.every)
    )?;
    writeln!(out)?;
    writeln!(out, "  devices   mqtts://{}  (mutual TLS)", args.mqtt)?;
    writeln!(out, "  commands  https://{}/command/{{device}}", args.api)?;
    writeln!(out, "  backend   {}", backend.url())?;
    writeln!(out, "  state     {state}")?;
    writeln!(out)?;
    writeln!(
        out,
        "Watch a device's messages, and set its LED, from another terminal:"
    )?;
    writeln!(out)?;
    writeln!(out, "  cd {state}")?;
    writeln!(
        out,
        "  mosquitto_sub -h {} -p {} --cafile pki/root.crt --cert operator/operator.crt --key operator/operator.key -v -t 'device/#'",
        args.mqtt.ip(),
        args.mqtt.port()
    )?;
    writeln!(
        out,
        "  curl --cacert pki/root.crt -H 'Authorization: Bearer {key}' -d '{{\"action\":\"led\",\"value\":80}}' https://{}:{}/command/sensor_001",
        args.api.ip(),
        args.api.port()
    )?;
    writeln!(out)?;
    Ok(())
}

/// The demo's API key, kept between starts.
async fn api_key(handle: &Handle, state_dir: &Path) -> Result<String, DemoError> {
    let path = state_dir.join("demo.key");
    if let Ok(key) = std::fs::read_to_string(&path) {
        return Ok(key);
    }
    let key = handle
        .create_key("demo", &[Scope::CommandSend, Scope::CommandRead])
        .await?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(key.as_bytes())?;
    Ok(key.to_string())
}

/// The script of the demo: the outage, the attacks, the status line, the end.
async fn act(
    args: &DemoArgs,
    handle: &Handle,
    backend: &Backend,
    identities: &[Identity],
    tally: &Tally,
    state_dir: &Path,
) -> Result<(), DemoError> {
    let started = Instant::now();
    let end = args.lasting.map(|lasting| started + lasting);
    // With an end, the outage lies in the middle; without, it begins when there is something to see.
    let outage = args.offline.map(|length| {
        let lead = args.lasting.map_or(Duration::from_secs(10), |all| {
            all.saturating_sub(length) / 2
        });
        (started + lead, started + lead + length)
    });
    let story = async {
        if args.attack {
            let trust = trusting(&Bundle::read(
                &state_dir.join("devices").join(device_name(1)),
            )?)?;
            attack(identities, trust, started + Duration::from_secs(2)).await?;
        }
        if let Some((from, to)) = outage {
            sleep_until(from).await;
            backend.set_up(false);
            status::note("the backend is away; what is accepted waits on disk");
            sleep_until(to).await;
            backend.set_up(true);
            status::note("the backend is back");
        }
        match end {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
        Ok::<(), DemoError>(())
    };
    tokio::select! {
        () = status::lines(handle, tally) => {}
        told = story => told?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

async fn attack(
    identities: &[Identity],
    trust: ClientConfigParts,
    at: Instant,
) -> Result<(), DemoError> {
    sleep_until(at).await;
    let (Some(first), Some(last)) = (identities.first(), identities.last()) else {
        return Ok(());
    };
    let stranger = attack::stranger(last.id.as_str(), trust).map_err(DemoError::Device)?;
    // The attacker works with a connection of the last device, whose own session it takes over.
    let reports = attack::run(last, first, stranger).await;
    let mut succeeded = 0;
    for report in &reports {
        match &report.outcome {
            Ok(answer) => status::note(&format!("attack refused  {} ({answer})", report.attack)),
            Err(what) => {
                succeeded += 1;
                status::note(&format!("ATTACK NOT REFUSED  {}: {what}", report.attack));
            }
        }
    }
    if succeeded == 0 {
        Ok(())
    } else {
        Err(DemoError::Failed(format!(
            "{succeeded} of {} attacks were not refused",
            reports.len()
        )))
    }
}

/// Waits for the last deliveries, prints the ledger and judges it.
async fn settle(handle: &Handle, backend: &Backend) -> Result<(), DemoError> {
    backend.set_up(true);
    let deadline = Instant::now() + SETTLE;
    while handle.ledger("backend").owed > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let of = handle.clone();
    let verifying = tokio::task::spawn_blocking(move || of.verify_ledger("backend"));
    let checked: Option<LedgerCheck> = verifying.await.map_err(|_| StoreError::Stopping)??;
    let Some(checked) = checked else {
        return Err(DemoError::Failed("there is no ledger".to_owned()));
    };
    let ledger = checked.ledger;
    let seen = backend.seen();
    status::note(&format!(
        "ledger: accepted {} = delivered {} + owed {} + dead {} + expired {}",
        ledger.accepted, ledger.delivered, ledger.owed, ledger.dead, ledger.expired
    ));
    status::note(&format!(
        "backend: {} messages took effect, {} deliveries repeated",
        seen.effects, seen.repeats
    ));
    if !checked.holds() {
        return Err(DemoError::Failed(format!(
            "the ledger does not balance: {checked:?}"
        )));
    }
    if ledger.owed != 0 {
        return Err(DemoError::Failed(format!(
            "{} messages were not delivered in time",
            ledger.owed
        )));
    }
    Ok(())
}
