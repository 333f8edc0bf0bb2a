//! The gateway's state: through the running gateway, or, when none runs, opened here under its lock.

use std::{
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
    pin::Pin,
    sync::Arc,
};

use serde::de::DeserializeOwned;
use tidegate_wire::DeviceId;
use tokio::runtime::Runtime;

use crate::{
    api::Keys,
    app::{Tasks, start_store},
    clock::{self, Clock, UnixMillis},
    command::{Commands, Rules},
    config::Config,
    control::{
        CallError, Caller, Client, Code, Live, Operations, Perform as _, Problem, Request,
        answer::{Listener, Reloaded},
    },
    ota,
    registry::{self, Rate, Registry},
    seal,
    store::{DATABASE, Options, Store, StoreMetrics, UpstreamKey},
};

/// Where requests go.
pub(super) struct State<'a> {
    config: &'a Config,
    way: Option<Way>,
}

enum Way {
    Socket(Client),
    Here(Box<Here>),
}

impl<'a> State<'a> {
    /// Finds the running gateway. Without one nothing is opened until something is asked.
    pub(super) fn open(config: &'a Config) -> Result<Self, Problem> {
        let way = match Client::connect(&config.state_dir) {
            Ok(client) => Some(Way::Socket(client)),
            Err(CallError::NotRunning) => None,
            Err(error @ CallError::Denied { .. }) => return Err(Problem::of(Code::Denied, &error)),
            Err(error @ CallError::Io { .. }) => return Err(Problem::of(Code::Io, &error)),
        };
        Ok(Self { config, way })
    }

    /// Has a request carried out.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, Problem> {
        let way = match self.way.take() {
            Some(way) => way,
            None => Way::Here(Box::new(Here::open(self.config, &request)?)),
        };
        let answer = match self.way.insert(way) {
            Way::Socket(client) => client.call(request),
            Way::Here(here) => here.perform(request),
        }?;
        serde_json::from_value(answer).map_err(|error| {
            let message = format!("the gateway's answer is not understood: {error}");
            let remedy =
                "use the tidegate command of the version that runs, or restart the gateway";
            Problem::new(Code::Version, message, remedy)
        })
    }
}

/// The state, open in this process.
struct Here {
    operations: Operations,
    tasks: Tasks,
    /// Dropped last: the rest works on it.
    runtime: Runtime,
}

impl Here {
    fn open(config: &Config, request: &Request) -> Result<Self, Problem> {
        let dir = &config.state_dir;
        if request.needs_gateway() {
            let message = format!("the gateway with state {} does not run", dir.display());
            return Err(Problem::new(
                Code::NotRunning,
                message,
                "start it with tidegate run",
            ));
        }
        prepare(dir, request.only_looks())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Problem::of(Code::Io, &error))?;
        let options = Options::new(config, dir.join(DATABASE));
        let opened = Store::open(
            &options,
            Arc::new(StoreMetrics::default()),
            clock::system_now(),
        )?;
        let (tasks, _) = Tasks::new();
        let store = opened.store;
        start_store(&tasks, opened.writer, opened.checkpointer)
            .map_err(|error| Problem::of(Code::Io, &error))?;
        match runtime.block_on(operations(config, store)) {
            Ok(operations) => Ok(Self {
                operations,
                tasks,
                runtime,
            }),
            Err(problem) => {
                tasks.stop();
                runtime.block_on(tasks.drained());
                Err(problem)
            }
        }
    }

    fn perform(&self, request: Request) -> Result<serde_json::Value, Problem> {
        self.runtime
            .block_on(self.operations.perform(request, caller()))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // What was answered is on disk; this leaves the database tidy and the lock free.
        self.tasks.stop();
        self.runtime.block_on(self.tasks.drained());
    }
}

/// Makes sure that opening the state does not leave files behind that the gateway cannot use.
fn prepare(dir: &Path, only_looks: bool) -> Result<(), Problem> {
    if only_looks && !dir.join(DATABASE).exists() {
        let message = format!(
            "there is no state in {}, and no gateway runs",
            dir.display()
        );
        let remedy = "start it with tidegate run, or name its configuration with --config";
        return Err(Problem::new(Code::NotRunning, message, remedy));
    }
    let failed = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => Code::Denied,
            _ => Code::Io,
        };
        let message = format!("{}: {error}", dir.display());
        Problem::new(
            code,
            message,
            "use sudo, or name another folder with --state-dir",
        )
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let owner = std::fs::metadata(dir).map_err(failed)?.uid();
    if caller().0 == 0 && owner != 0 {
        let message = format!(
            "no gateway runs, and {} belongs to user {owner}: root's files in it would lock it out",
            dir.display()
        );
        let remedy =
            format!("run it as that user: sudo -u '#{owner}' tidegate …, or start the gateway");
        return Err(Problem::new(Code::Denied, message, remedy));
    }
    Ok(())
}

pub(super) fn caller() -> Caller {
    // Always there on Linux; if not, it is nobody in particular.
    Caller(std::fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid()))
}

async fn operations(config: &Config, store: Store) -> Result<Operations, Problem> {
    let clock = Arc::new(Clock::system(store.highest_time()));
    let (master, _) = registry::unlock(&store, seal::Sources::from_config(config)).await?;
    let rate = Rate {
        per_second: config.limits.messages_per_second,
        burst: config.limits.message_burst,
    };
    let registry = Arc::new(Registry::open(store.clone(), Arc::new(master), rate).await?);
    let rules = Rules {
        message_bytes: usize::try_from(config.verification.message_bytes.as_u64())
            .unwrap_or(usize::MAX),
        require_v2: config.verification.require_v2,
    };
    let commands = Commands::open(store.clone(), rules, |_| {}).await?;
    let keys = Arc::new(Keys::open(store.clone()).await?);
    let updates = &config.updates;
    let desk = ota::Desk::new(
        store.clone(),
        Arc::clone(&registry),
        Arc::new(ota::Shelf::of(config)),
        updates.keys(),
        updates.keep as usize,
    );
    Ok(Operations {
        registry,
        commands,
        keys,
        store,
        clock,
        live: Arc::new(NotRunning),
        desk: Arc::new(desk),
        state_dir: config.state_dir.clone(),
    })
}

/// Nothing is connected to a gateway that does not run.
struct NotRunning;

impl Live for NotRunning {
    fn started_at(&self) -> Option<UnixMillis> {
        None
    }
    fn connected(&self, _: &DeviceId) -> bool {
        false
    }
    fn listeners(&self) -> Vec<Listener> {
        Vec::new()
    }
    fn upstream_state(&self, _: &str) -> Option<String> {
        None
    }
    fn outbox_changed(&self, _: UpstreamKey) {}
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Problem>> + Send + '_>> {
        let problem = Problem::new(
            Code::NotRunning,
            "the gateway does not run",
            "start it with tidegate run",
        );
        Box::pin(std::future::ready(Err(problem)))
    }
}
