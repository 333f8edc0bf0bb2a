//! The running gateway as the rest of the process sees it: what the API, the control socket, signals
//! and the demo ask of it.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_wire::DeviceId;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{credentials, exposition};
use crate::{
    api::{Health, KeyError, Keys, NewKey, Scope, View},
    broker::BrokerMetrics,
    clock::{Clock, UnixMillis},
    command::Commands,
    config::{self, Config, Sources},
    control::{
        Caller, Code, Live, Operations, Perform as _, Problem, Request,
        answer::{Listener, Reloaded},
    },
    forward::{ForwardMetrics, Forwarder},
    front::{Directory, FrontMetrics},
    metrics::Page,
    ota::{Desk, UpdateMetrics},
    pki::{self, Bundle, DeviceRequest, Endpoint, PkiDir, PkiError, Profiles, SecretSource},
    registry::{Registry, RegistryError},
    store::{Ledger, LedgerCheck, Store, StoreError, StoreMetrics, UpstreamKey},
    trace,
};

/// An upstream with its running forwarder.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) key: UpstreamKey,
    pub(super) metrics: Arc<ForwardMetrics>,
    pub(super) forwarder: std::sync::OnceLock<Forwarder>,
}

/// What a reload needs.
pub(super) struct Reloading {
    pub(super) sources: Sources,
    pub(super) log: trace::Control,
}

/// Everything that lives as long as the gateway does.
#[expect(
    missing_debug_implementations,
    reason = "a bag of shared parts, most of them large"
)]
pub struct Gateway {
    pub(super) state_dir: PathBuf,
    /// Without its devices: the registry has those.
    pub(super) config: Mutex<Config>,
    pub(super) registry: Arc<Registry>,
    pub(super) commands: Commands,
    pub(super) keys: Arc<Keys>,
    pub(super) desk: Arc<Desk>,
    pub(super) store: Store,
    pub(super) clock: Arc<Clock>,
    pub(super) health: Arc<Health>,
    pub(super) directory: Arc<Directory>,
    pub(super) pki: PkiDir,
    pub(super) profiles: Arc<Profiles>,
    pub(super) upstreams: BTreeMap<String, Running>,
    pub(super) listeners: Vec<Listener>,
    pub(super) started_at: UnixMillis,
    pub(super) store_metrics: Arc<StoreMetrics>,
    pub(super) front_metrics: Arc<FrontMetrics>,
    pub(super) broker_metrics: Arc<BrokerMetrics>,
    pub(super) update_metrics: Arc<UpdateMetrics>,
    pub(super) reloading: Mutex<Option<Arc<Reloading>>>,
    pub(super) stop: CancellationToken,
}

/// A hold on a running gateway. Cheap to clone.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "as what it holds")]
pub struct Handle(pub(super) Arc<Gateway>);

/// Why a device was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{0:?} is no device id: use 1 to 64 characters of A-Z a-z 0-9 _ -")]
    Id(String),
}

impl Gateway {
    /// One line that says how it is, for the log and the service manager.
    pub(super) fn greeting(&self) -> String {
        let listeners: Vec<String> = self
            .listeners
            .iter()
            .map(|listener| listener.address.clone())
            .collect();
        let upstreams = match self.upstreams.len() {
            1 => "1 upstream".to_owned(),
            count => format!("{count} upstreams"),
        };
        let devices = match self.registry.len() {
            1 => "1 device".to_owned(),
            count => format!("{count} devices"),
        };
        format!(
            "ready: {devices}, {upstreams}, listening on {}",
            listeners.join(", ")
        )
    }

    pub(super) fn config(&self) -> Config {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn reload(&self) -> Result<Reloaded, Problem> {
        let reloading = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(reloading) = reloading else {
            let message = "this gateway was not started from a configuration file";
            return Err(Problem::new(
                Code::Conflict,
                message,
                "stop it and start it again",
            ));
        };
        let sources = reloading.sources.clone();
        let loaded = config::load(&sources).map_err(|error| {
            Problem::new(
                Code::Config,
                error.to_string(),
                "correct it; what runs goes on unchanged",
            )
        })?;
        let mut new = loaded.config;
        if let Some(finding) = config::check(&new)
            .into_iter()
            .find(|f| f.severity == config::Severity::Error)
        {
            let message = format!("{}: {}", finding.key, finding.message);
            return Err(Problem::new(Code::Config, message, finding.remedy));
        }
        let difference = self
            .registry
            .reconcile(std::mem::take(&mut new.devices), self.clock.unchecked_now())
            .await?;
        reloading
            .log
            .reload(&new.log)
            .map_err(|error| Problem::new(Code::Config, error.to_string(), ""))?;
        let old = std::mem::replace(
            &mut *self.config.lock().unwrap_or_else(PoisonError::into_inner),
            new.clone(),
        );
        let restart = needs_restart(&old, &new);
        if !restart.is_empty() {
            tracing::warn!(
                settings = restart.join(", "),
                "these changes take effect at the next start"
            );
        }
        Ok(reloaded(&difference, restart))
    }
}

/// Settings other than devices and logging that differ, by their top-level name.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (serde_json::to_value(old), serde_json::to_value(new));
    let (Ok(serde_json::Value::Object(old)), Ok(serde_json::Value::Object(new))) = (old, new)
    else {
        return Vec::new();
    };
    old.iter()
        .filter(|(key, _)| !matches!(key.as_str(), "devices" | "log"))
        .filter(|(key, value)| new.get(*key) != Some(value))
        .map(|(key, _)| key.clone())
        .collect()
}

fn reloaded(difference: &crate::registry::Difference, needs_restart: Vec<String>) -> Reloaded {
    let added = difference
        .added
        .iter()
        .map(|id| format!("added device {id}"));
    let changed = difference.changed.iter().map(|change| {
        format!(
            "changed device {} ({})",
            change.id,
            change.settings.join(", ")
        )
    });
    let removed = difference
        .removed
        .iter()
        .map(|id| format!("removed device {id}"));
    Reloaded {
        changes: added.chain(changed).chain(removed).collect(),
        needs_restart,
    }
}

impl Live for Gateway {
    fn started_at(&self) -> Option<UnixMillis> {
        Some(self.started_at)
    }

    fn connected(&self, device: &DeviceId) -> bool {
        self.directory.connected(device)
    }

    fn listeners(&self) -> Vec<Listener> {
        self.listeners.clone()
    }

    fn upstream_state(&self, name: &str) -> Option<String> {
        let running = self.upstreams.get(name)?;
        Some(running.forwarder.get()?.counts().to_string())
    }

    fn outbox_changed(&self, upstream: UpstreamKey) {
        for running in self
            .upstreams
            .values()
            .filter(|running| running.key == upstream)
        {
            if let Some(forwarder) = running.forwarder.get() {
                forwarder.parked_changed();
            }
        }
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Problem>> + Send + '_>> {
        Box::pin(self.reload())
    }
}

impl View for Gateway {
    fn connected(&self, device: &DeviceId) -> bool {
        self.directory.connected(device)
    }

    fn status(&self) -> serde_json::Value {
        let upstreams: BTreeMap<&str, Option<Ledger>> = self
            .upstreams
            .iter()
            .map(|(name, running)| (name.as_str(), self.store.ledger(running.key)))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": self.started_at.0,
            "clock_trusted": self.clock.now().is_ok(),
            "devices": { "total": self.registry.len(), "connected": self.directory.list().len() },
            "upstreams": upstreams,
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        exposition::store(&mut page, &self.store_metrics);
        exposition::front(&mut page, &self.front_metrics);
        exposition::broker(&mut page, &self.broker_metrics);
        exposition::updates(&mut page, &self.update_metrics);
        match self.desk.survey_blocking() {
            Ok((releases, bytes)) => {
                exposition::releases(&mut page, &releases, bytes, self.desk.shelf().budget());
            }
            // The rest of the page is needed most when something is wrong.
            Err(error) => tracing::warn!(%error, "the metrics page leaves out releases"),
        }
        let forward: Vec<_> = self
            .upstreams
            .iter()
            .map(|(name, running)| {
                let ledger = self.store.ledger(running.key).unwrap_or_default();
                (name.as_str(), &*running.metrics, ledger)
            })
            .collect();
        exposition::forward(&mut page, &forward);
        page.text()
    }
}

impl Handle {
    /// Asks the gateway to stop; [`super::App::run`] returns when it has.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    pub(super) fn greeting(&self) -> String {
        self.0.greeting()
    }

    /// What operators can do.
    pub(super) fn operations(&self) -> Operations {
        let gateway = &self.0;
        Operations {
            registry: Arc::clone(&gateway.registry),
            commands: gateway.commands.clone(),
            keys: Arc::clone(&gateway.keys),
            store: gateway.store.clone(),
            clock: Arc::clone(&gateway.clock),
            live: Arc::clone(gateway) as Arc<dyn Live>,
            desk: Arc::clone(&gateway.desk),
            state_dir: gateway.state_dir.clone(),
        }
    }

    /// Carries out a request as if it came over the control socket, the audit record included.
    ///
    /// # Errors
    /// The gateway's problem with it.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        request: Request,
        caller: Caller,
    ) -> Result<T, Problem> {
        let answer = self.operations().perform(request, caller).await?;
        serde_json::from_value(answer).map_err(|error| Problem::of(Code::Internal, &error))
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// When it is wrong; nothing changes then.
    pub async fn reload(&self) -> Result<Reloaded, Problem> {
        self.0.reload().await
    }

    /// The balance of an upstream; all zero if there is none of this name.
    #[must_use]
    pub fn ledger(&self, upstream: &str) -> Ledger {
        let running = self.0.upstreams.get(upstream);
        running
            .and_then(|running| self.0.store.ledger(running.key))
            .unwrap_or_default()
    }

    /// The balance of an upstream beside what its tables hold. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn verify_ledger(&self, upstream: &str) -> Result<Option<LedgerCheck>, StoreError> {
        let running = self.0.upstreams.get(upstream);
        running
            .map(|running| self.0.store.verify_ledger(running.key))
            .transpose()
    }

    /// Whether there is a device of this id, enabled or not.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        DeviceId::try_from(id).is_ok_and(|id| self.0.registry.get(&id).is_some())
    }

    /// Whether the device of this id is connected.
    #[must_use]
    pub fn connected(&self, id: &str) -> bool {
        DeviceId::try_from(id).is_ok_and(|id| self.0.directory.connected(&id))
    }

    /// Messages refused so far, for whatever reason.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        tidegate_wire::Reason::ALL
            .iter()
            .map(|reason| self.0.front_metrics.rejected(*reason).get())
            .sum()
    }

    /// Issues a certificate and a secret to a device, makes it known, and writes its bundle to `folder`.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn enrol(
        &self,
        id: &str,
        folder: &Path,
        gateway: Endpoint,
    ) -> Result<Bundle, EnrolError> {
        let known = DeviceId::try_from(id).map_err(|_| EnrolError::Id(id.to_owned()))?;
        let request = DeviceRequest {
            id: id.to_owned(),
            csr: None,
            gateway: Some(gateway),
            secret: SecretSource::Generate,
            release_keys: self.0.desk.keys().to_vec(),
            force: true,
        };
        let (now, time) = (self.0.clock.unchecked_now(), OffsetDateTime::now_utc());
        let issued = pki::issue_device(&self.0.pki, &self.0.profiles, &request, time)?;
        let registry = &self.0.registry;
        let secret = issued
            .bundle
            .secret
            .as_ref()
            .map(|secret| secret.as_bytes());
        if registry.get(&known).is_none() {
            registry
                .add(known, &config::Device::default(), secret, now)
                .await?;
        } else if let Some(secret) = secret {
            registry.set_secret(&known, secret, now).await?;
        }
        issued.bundle.write_folder(folder, true)?;
        Ok(issued.bundle)
    }

    /// Issues an operator's certificate into `folder`, unless one is there.
    ///
    /// # Errors
    /// As the certificate authority says.
    pub fn operator(&self, name: &str, folder: &Path) -> Result<(), PkiError> {
        if folder.join(format!("{name}.crt")).exists() {
            return Ok(());
        }
        let request = pki::OperatorRequest {
            name: name.to_owned(),
            csr: None,
            force: true,
        };
        let profiles = credentials::profiles(&self.0.config().pki)?;
        pki::issue_operator(&self.0.pki, &profiles, &request, OffsetDateTime::now_utc())?
            .write(folder, true)
            .map(drop)
    }

    /// Creates an API key and returns its token, which is shown only now.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create_key(
        &self,
        name: &str,
        scopes: &[Scope],
    ) -> Result<Zeroizing<String>, KeyError> {
        let key = NewKey {
            name: name.to_owned(),
            scopes: scopes.to_vec(),
            devices: None,
            expires_at: None,
            by: "local".to_owned(),
        };
        let (_, token) = self
            .0
            .keys
            .create(key, self.0.clock.unchecked_now())
            .await?;
        Ok(token)
    }
}
