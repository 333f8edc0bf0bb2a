//! A gateway's front with everything behind it, in a folder that can be started again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread::JoinHandle,
};

use tempfile::TempDir;
use tidegate_wire::{Direction, Draft, MessageId, Payload, SigningKey, Version as Signed};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Directory, FrontMetrics, Parts, Principal, Shared,
        connect::{self, Arrival},
        housekeeping, recover,
    },
    client::Client,
};
use crate::{
    app::Tasks,
    broker::Broker,
    clock::{Clock, UnixMillis, system_now},
    command::{Commands, Rules},
    config::{self, Limits, Verification, WhenFull},
    pki::{self, Credentials, PkiDir, Profiles},
    registry::{Rate, Registry},
    seal::MasterKey,
    store::{Opened, Options, Store, StoreMetrics},
};

pub(super) const SECRET: &str = "supersecretkey123";

pub(super) struct World {
    pub(super) folder: Arc<TempDir>,
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) registry: Arc<Registry>,
    pub(super) commands: Commands,
    pub(super) directory: Arc<Directory>,
    pub(super) credentials: watch::Sender<Arc<Credentials>>,
    pub(super) tasks: Tasks,
    limits: Limits,
    store_stopping: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// Like the default, but nothing in a test waits long.
pub(super) fn limits() -> Limits {
    Limits {
        in_flight: 8,
        ..Limits::default()
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(limits()).await
    }

    pub(super) async fn with(limits: Limits) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let profiles = Profiles::embedded().unwrap();
        let hosts = [pki::Host::parse("localhost").unwrap()];
        let dir = PkiDir::new(folder.path());
        pki::init(
            &dir,
            &profiles,
            "test",
            &hosts,
            false,
            OffsetDateTime::now_utc(),
        )
        .unwrap();
        Self::start(folder, limits).await
    }

    async fn start(folder: Arc<TempDir>, limits: Limits) -> Self {
        let options = Options {
            path: folder.path().join("tidegate.db"),
            disk_budget_bytes: 1 << 30,
            when_full: WhenFull::Refuse,
            commit_delay: std::time::Duration::ZERO,
            freshness: std::time::Duration::from_secs(300),
            max_age: None,
        };
        let Opened {
            store,
            writer,
            checkpointer,
        } = Store::open(&options, Arc::new(StoreMetrics::default()), system_now()).unwrap();
        let store_stopping = CancellationToken::new();
        let (one, two) = (store_stopping.clone(), store_stopping.clone());
        let threads = vec![
            std::thread::spawn(move || writer.run(&one)),
            std::thread::spawn(move || checkpointer.run(&two)),
        ];
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let device = config::Device {
            secret_file: Some(secret),
            publish: vec!["home/#".to_owned()],
            subscribe: vec!["home/#".to_owned()],
            ..config::Device::default()
        };
        let raw = config::Device {
            signing: config::Signing::None,
            telemetry: vec!["sensors/+".to_owned()],
            command_topic: Some("gates/gate1/control".to_owned()),
            ..config::Device::default()
        };
        let declared = BTreeMap::from([
            ("a".to_owned(), device.clone()),
            ("b".to_owned(), device),
            ("raw".to_owned(), raw),
        ]);
        let rate = Rate {
            per_second: limits.messages_per_second,
            burst: limits.message_burst,
        };
        let master = Arc::new(MasterKey::new(&[7; 32], &[]));
        let registry = Arc::new(Registry::open(store.clone(), master, rate).await.unwrap());
        registry
            .reconcile(declared.clone(), system_now())
            .await
            .unwrap();
        let metrics = Arc::new(FrontMetrics::default());
        let directory = Arc::new(Directory::new(&limits, metrics.clone()));
        let told = directory.clone();
        let rules = Rules {
            message_bytes: 65_536,
            require_v2: false,
        };
        let commands = Commands::open(store.clone(), rules, move |id| told.commands_waiting(id))
            .await
            .unwrap();
        let loaded = pki::credentials::load(&PkiDir::new(folder.path()), OffsetDateTime::now_utc());
        let (credentials, watched) = watch::channel(Arc::new(loaded.unwrap()));
        recover(&store, &directory, system_now()).await.unwrap();
        let (tasks, _ended) = Tasks::new();
        let broker = Broker::new(&tasks, crate::broker::Limits::default(), Arc::default()).unwrap();
        let shared = Shared::new(Parts {
            registry: registry.clone(),
            store: store.clone(),
            clock: Arc::new(Clock::system(UnixMillis(0))),
            metrics,
            directory: directory.clone(),
            broker: Arc::new(broker),
            commands: commands.clone(),
            credentials: watched,
            limits: limits.clone(),
            verification: Verification::default(),
            digest_key: store.digest_key(),
            stopping: tasks.stopping(),
        });
        tasks.connection(housekeeping::keep(shared.clone()));
        tasks.connection(housekeeping::watch(shared.clone()));
        Self {
            folder,
            shared,
            store,
            registry,
            commands,
            directory,
            credentials,
            tasks,
            limits,
            store_stopping,
            threads,
        }
    }

    /// Stops as the daemon does: connections first, then the store.
    pub(super) async fn stop(&mut self) {
        self.tasks.stop();
        self.tasks.drained().await;
        self.store_stopping.cancel();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }

    /// Stops, and starts again on what is in the folder.
    pub(super) async fn restart(mut self) -> Self {
        self.stop().await;
        let (folder, limits) = (self.folder.clone(), self.limits.clone());
        drop(self);
        Self::start(folder, limits).await
    }

    /// A connection that is `principal`'s beyond doubt; nothing was said on it yet.
    pub(super) fn dial(&self, principal: Principal) -> Client {
        self.dial_with(principal, 1 << 20)
    }

    /// With so many bytes on the way at most.
    pub(super) fn dial_with(&self, principal: Principal, buffer: usize) -> Client {
        let (ours, theirs) = tokio::io::duplex(buffer);
        let arrival = Arrival {
            io: theirs,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: None,
            principal: Some(principal),
        };
        self.tasks
            .connection(connect::serve(self.shared.clone(), arrival));
        Client::new(ours)
    }

    pub(super) fn device(&self, id: &str) -> Client {
        self.dial(device(id))
    }

    pub(super) fn operator(&self, name: &str) -> Client {
        self.dial(Principal::Operator(name.into()))
    }

    /// Messages in the log.
    pub(super) fn stored(&self) -> u64 {
        self.store.log_end().borrow().0
    }
}

pub(super) fn device(id: &str) -> Principal {
    Principal::Device(id.parse().unwrap())
}

/// A signed message of device `id`, distinct for each `number`.
pub(super) fn signed(id: &str, number: u8, payload: &str) -> Vec<u8> {
    signed_at(id, number, payload, system_now().seconds())
}

pub(super) fn signed_at(id: &str, number: u8, payload: &str, timestamp: u64) -> Vec<u8> {
    let mut slots = [0; 256];
    let draft = Draft {
        version: Signed::V2,
        device_id: &id.parse().unwrap(),
        timestamp,
        message_id: MessageId::from_bytes([number; 16]),
        payload: Payload::parse(payload.as_bytes(), &mut slots).unwrap(),
    };
    let mut out = vec![0; payload.len() + 512];
    let key = SigningKey::new(SECRET.as_bytes()).unwrap();
    let len = draft.sign_into(&key, Direction::Up, &mut out).unwrap();
    out.truncate(len);
    out
}
