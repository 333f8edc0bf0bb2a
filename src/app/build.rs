//! Opens the state and binds every socket, in the order in which things depend on each other.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
};

use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    Ended, Gateway, Handle, Tasks,
    credentials::{self, CredentialsFailed},
    gateway::{Reloading, Running},
    notify, rounds,
    ties::{Known, Owed, ToSessions},
    updates::{self, Updates},
};
use crate::{
    api::{self, Audit, Bounds, Health, KeyError, Keys, REQUEST_TIMEOUT, Recorder},
    broker::{self, Broker, BrokerMetrics, RouterError},
    cli::exit::Exit,
    clock::{self, Clock},
    command::{Commands, Rules},
    config::{self, Config, Sources, Upstream},
    control::{self, Socket, answer::Listener},
    forward::{
        self, ForwardMetrics, Forwarder,
        http::{HttpError, HttpUpstream},
    },
    front::{self, Directory, FrontMetrics},
    outbox,
    pki::{Credentials, CredentialsError, PkiDir, PkiError},
    registry::{self, Rate, Registry, RegistryError},
    seal,
    store::{
        Checkpointer, DATABASE, OpenError, Opened, Options, Store, StoreError, StoreMetrics,
        Wanted, Writer,
    },
    trace,
};

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path}: {source}; state_dir must be a folder this user can write to")]
    StateDir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Credentials(#[from] CredentialsFailed),
    #[error("API: {0}")]
    ApiCredentials(#[from] CredentialsError),
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Front(#[from] front::BindError),
    #[error("the API cannot listen on {address}: {source}; is another program using it?")]
    Api {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("updates: {0}")]
    Updates(CredentialsError),
    #[error("updates cannot be served on {address}: {source}; is another program using it?")]
    UpdateServer { address: String, source: io::Error },
    #[error(transparent)]
    Control(#[from] control::BindError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Forward(#[from] forward::StartError),
    #[error(transparent)]
    Broker(#[from] RouterError),
    #[error("the system refused a thread: {0}; raise the limit on tasks")]
    Thread(io::Error),
}

impl StartError {
    /// The exit status that tells scripts which kind it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Open(OpenError::InUse { .. })
            | Self::Control(control::BindError::InUse(_))
            | Self::Front(front::BindError::Bind { .. })
            | Self::Api { .. }
            | Self::UpdateServer { .. } => Exit::InUse,
            Self::Open(OpenError::FromTheFuture { .. } | OpenError::Damaged { .. }) => {
                Exit::Damaged
            }
            Self::StateDir { .. } | Self::Open(_) | Self::Control(_) | Self::Thread(_) => Exit::Io,
            Self::Http(_) | Self::Registry(RegistryError::Declarations(_)) => Exit::Config,
            _ => Exit::Failure,
        }
    }
}

/// A gateway with everything open that serves nobody yet.
#[expect(
    missing_debug_implementations,
    reason = "a bag of shared parts, most of them large"
)]
pub struct App {
    pub(super) gateway: Arc<Gateway>,
    pub(super) edges: Tasks,
    pub(super) edges_ended: Ended,
    pub(super) core: Tasks,
    pub(super) core_ended: Ended,
    pending: Option<Pending>,
}

/// What [`App::start`] sets in motion.
struct Pending {
    front: Vec<front::Bound>,
    broker: Arc<Broker>,
    api: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    updates: Updates,
    control: Socket,
    credentials: Arc<Credentials>,
    audit: Audit,
    recorder: Recorder,
    upstreams: Vec<(String, Arc<dyn forward::Upstream>)>,
}

impl App {
    /// Opens the state, reconciles the declared devices, brings up the certificates and binds every
    /// socket. Nobody is served yet.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        let (edges, edges_ended) = Tasks::new();
        let (core, core_ended) = Tasks::new();
        match open(config, &edges, &core).await {
            Ok((gateway, pending)) => Ok(Self {
                gateway,
                edges,
                edges_ended,
                core,
                core_ended,
                pending: Some(pending),
            }),
            Err(error) => {
                edges.stop();
                edges.drained().await;
                core.stop();
                core.drained().await;
                Err(error)
            }
        }
    }

    /// Lets SIGHUP and `tidegate reload` read the configuration from here.
    #[must_use]
    pub fn reloading_from(self, sources: Sources, log: trace::Control) -> Self {
        *self
            .gateway
            .reloading
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(Arc::new(Reloading { sources, log }));
        self
    }

    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.gateway))
    }

    /// Starts every task. Connections are accepted from here on.
    pub(super) fn start(&mut self) -> Result<(), StartError> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let (gateway, edges) = (&self.gateway, &self.edges);
        let config = gateway.config();
        let (credentials, current) = watch::channel(Arc::clone(&pending.credentials));
        updates::start(pending.updates, gateway, &config, &current, edges);
        let shared = front::Shared::new(front::Parts {
            registry: Arc::clone(&gateway.registry),
            store: gateway.store.clone(),
            clock: Arc::clone(&gateway.clock),
            metrics: Arc::clone(&gateway.front_metrics),
            directory: Arc::clone(&gateway.directory),
            broker: pending.broker,
            commands: gateway.commands.clone(),
            credentials: current,
            limits: config.limits.clone(),
            verification: config.verification.clone(),
            digest_key: gateway.store.digest_key(),
            stopping: edges.stopping(),
        });
        front::run(pending.front, &shared, edges)?;
        let mut api_tls = None;
        if let Some((listener, tls)) = pending.api {
            let (sender, receiver) = watch::channel(tls);
            api_tls = Some(sender);
            let router = api::router(api::Parts {
                registry: Arc::clone(&gateway.registry),
                commands: gateway.commands.clone(),
                keys: Arc::clone(&gateway.keys),
                audit: pending.audit,
                health: Arc::clone(&gateway.health),
                clock: Arc::clone(&gateway.clock),
                view: Arc::clone(gateway) as Arc<dyn api::View>,
                requests_per_second: config.api.requests_per_second,
                body_bytes: bytes(config.api.body_bytes),
                request_timeout: REQUEST_TIMEOUT,
            });
            edges.spawn(
                "API",
                api::serve(listener, receiver, router, Bounds::default(), edges.clone()),
            );
        }
        let operations = Arc::new(self.handle().operations());
        edges.spawn(
            "control socket",
            control::serve(pending.control, operations, edges.clone()),
        );
        edges.spawn("audit", pending.recorder.run(edges.stopping()));
        edges.spawn(
            "credentials",
            credentials::watch(
                gateway.pki.clone(),
                Arc::clone(&gateway.profiles),
                credentials,
                api_tls,
                edges.stopping(),
            ),
        );
        for (name, upstream) in pending.upstreams {
            self.forward(&config, &name, upstream)?;
        }
        edges.spawn("rounds", rounds::go(Arc::clone(gateway), edges.stopping()));
        let health = Arc::clone(gateway);
        edges.spawn(
            "watchdog",
            notify::feed_watchdog(edges.stopping(), move || health.alive()),
        );
        Ok(())
    }

    fn forward(
        &self,
        config: &Config,
        name: &str,
        upstream: Arc<dyn forward::Upstream>,
    ) -> Result<(), StartError> {
        let (gateway, edges) = (&self.gateway, &self.edges);
        let (Some(running), Some(Upstream::Http(settings))) =
            (gateway.upstreams.get(name), config.upstreams.get(name))
        else {
            return Ok(());
        };
        let forwarder = Forwarder::start(
            forward::Parts {
                name: name.into(),
                settings: outbox::Settings {
                    workers: usize::from(settings.workers),
                    backoff: outbox::Backoff {
                        min: settings.retry_min,
                        max: settings.retry_max,
                    },
                    max_age: config.storage.max_age,
                    events: settings.events,
                    limits: outbox::Limits::default(),
                },
                upstream,
                debts: Arc::new(Owed {
                    store: gateway.store.clone(),
                    upstream: running.key,
                }),
                devices: Arc::new(Known(Arc::clone(&gateway.registry))),
                replies: Arc::new(ToSessions(Arc::clone(&gateway.directory))),
                clock: Arc::clone(&gateway.clock),
                metrics: Arc::clone(&running.metrics),
                log_end: gateway.store.log_end(),
            },
            edges,
        )?;
        // It is set once: names are the keys of a map.
        let _ = running.forwarder.set(forwarder);
        Ok(())
    }
}

async fn open(
    mut config: Config,
    edges: &Tasks,
    core: &Tasks,
) -> Result<(Arc<Gateway>, Pending), StartError> {
    let state_dir = config.state_dir.clone();
    make_private(&state_dir)?;
    let store_metrics = Arc::new(StoreMetrics::default());
    let store = open_store(&config, &store_metrics, core)?;
    let clock = Arc::new(Clock::system(store.highest_time().max(clock::RELEASED)));
    let control = Socket::bind(&state_dir)?;

    let (master, origin) = registry::unlock(&store, seal::Sources::from_config(&config)).await?;
    if let seal::Origin::Created(path) = &origin {
        tracing::info!(path = %path.display(), "made a master key: without it, device secrets in backups cannot be read");
    }
    let rate = Rate {
        per_second: config.limits.messages_per_second,
        burst: config.limits.message_burst,
    };
    let registry = Arc::new(Registry::open(store.clone(), Arc::new(master), rate).await?);
    registry
        .reconcile(std::mem::take(&mut config.devices), clock.unchecked_now())
        .await?;
    let keys = Arc::new(Keys::open(store.clone()).await?);

    let pki = PkiDir::of(&config);
    let profiles = Arc::new(credentials::profiles(&config.pki)?);
    let (dir, settings) = (pki.clone(), config.pki.clone());
    let opening = tokio::task::spawn_blocking(move || {
        credentials::open(&dir, &settings, OffsetDateTime::now_utc())
    });
    let credentials = Arc::new(opening.await.map_err(|_| StoreError::Stopping)??);

    let front_metrics = Arc::new(FrontMetrics::default());
    let directory = Arc::new(Directory::new(&config.limits, Arc::clone(&front_metrics)));
    front::recover(&store, &directory, clock.unchecked_now()).await?;
    let rules = Rules {
        message_bytes: bytes(config.verification.message_bytes),
        require_v2: config.verification.require_v2,
    };
    let waiting = Arc::clone(&directory);
    let commands =
        Commands::open(store.clone(), rules, move |id| waiting.commands_waiting(id)).await?;
    let broker_metrics = Arc::new(BrokerMetrics::default());
    let broker = Arc::new(Broker::new(
        edges,
        broker_limits(&config.limits),
        Arc::clone(&broker_metrics),
    )?);

    let bound = front::bind(&config.listeners)?;
    let api = match config.api.address {
        Some(address) => Some((bind(address).await?, credentials::api_tls(&credentials)?)),
        None => None,
    };
    let updates = updates::open(&config, &credentials).await?;
    let desk = Arc::new(updates::desk(&config, &store, &registry));
    let (upstreams, running) = upstreams(&config, &store).await?;
    let (audit, recorder) = Audit::new(store.clone(), Arc::clone(&clock));
    let gateway = Arc::new(Gateway {
        listeners: listeners(&bound, api.as_ref().map(|(listener, _)| listener), &updates),
        started_at: clock.unchecked_now(),
        health: Arc::new(Health::new(Arc::clone(&clock))),
        config: Mutex::new(config),
        upstreams: running,
        reloading: Mutex::new(None),
        stop: CancellationToken::new(),
        state_dir,
        registry,
        commands,
        keys,
        desk,
        store,
        clock,
        directory,
        pki,
        profiles,
        store_metrics,
        front_metrics,
        broker_metrics,
        update_metrics: Arc::default(),
    });
    let pending = Pending {
        front: bound,
        broker,
        api,
        updates,
        control,
        credentials,
        audit,
        recorder,
        upstreams,
    };
    Ok((gateway, pending))
}

fn make_private(dir: &Path) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StartError::StateDir {
            path: dir.to_path_buf(),
            source,
        })
}

fn open_store(
    config: &Config,
    metrics: &Arc<StoreMetrics>,
    core: &Tasks,
) -> Result<Store, StartError> {
    let options = Options::new(config, config.state_dir.join(DATABASE));
    let Opened {
        store,
        writer,
        checkpointer,
    } = Store::open(&options, Arc::clone(metrics), clock::system_now())?;
    start_store(core, writer, checkpointer).map_err(StartError::Thread)?;
    Ok(store)
}

/// Starts the store's two threads.
pub(crate) fn start_store(
    tasks: &Tasks,
    writer: Writer,
    checkpointer: Checkpointer,
) -> io::Result<()> {
    let stopping = tasks.stopping();
    tasks.thread("writer", move || writer.run(&stopping))?;
    let stopping = tasks.stopping();
    tasks.thread("checkpointer", move || checkpointer.run(&stopping))?;
    Ok(())
}

pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Api { address, source })
}

type Upstreams = (
    Vec<(String, Arc<dyn forward::Upstream>)>,
    BTreeMap<String, Running>,
);

/// Makes the store's upstreams those of the configuration, and what delivers to them.
async fn upstreams(config: &Config, store: &Store) -> Result<Upstreams, StartError> {
    let mut deliver: Vec<(String, Arc<dyn forward::Upstream>)> = Vec::new();
    let mut wanted = Vec::new();
    for (name, upstream) in &config.upstreams {
        let Upstream::Http(settings) = upstream;
        deliver.push((name.clone(), Arc::new(HttpUpstream::new(name, settings)?)));
        wanted.push((
            name.clone(),
            Wanted {
                data: true,
                events: settings.events,
            },
        ));
    }
    if wanted.is_empty() {
        tracing::warn!("no upstream is configured: what is accepted is owed to nobody");
    }
    let (of, names) = (store.clone(), wanted.clone());
    let reconciled = tokio::task::spawn_blocking(move || of.upstreams(&names)).await;
    let keys = reconciled.map_err(|_| StoreError::Stopping)??;
    let running = wanted
        .into_iter()
        .zip(keys)
        .map(|((name, _), key)| {
            let metrics = Arc::new(ForwardMetrics::default());
            (
                name,
                Running {
                    key,
                    metrics,
                    forwarder: OnceLock::new(),
                },
            )
        })
        .collect();
    Ok((deliver, running))
}

fn broker_limits(limits: &config::Limits) -> broker::Limits {
    let filters_per_client = usize::try_from(limits.subscriptions).unwrap_or(usize::MAX);
    broker::Limits {
        filters_per_client,
        ..broker::Limits::default()
    }
}

fn listeners(
    front: &[front::Bound],
    api: Option<&TcpListener>,
    updates: &Updates,
) -> Vec<Listener> {
    let shown =
        |address: io::Result<SocketAddr>| address.map_or_else(|e| e.to_string(), |a| a.to_string());
    let front = front.iter().map(|bound| Listener {
        name: bound.name().to_owned(),
        address: shown(bound.address()),
        mode: bound.mode().to_string(),
    });
    let api = api.map(|listener| Listener {
        name: "api".to_owned(),
        address: shown(listener.local_addr()),
        mode: "https".to_owned(),
    });
    front.chain(api).chain(updates.listeners()).collect()
}

fn bytes(size: bytesize::ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}
