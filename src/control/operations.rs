//! What operators can do, over an open state: the same code behind the socket of a running gateway
//! and in the command line when none runs.

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tidegate_wire::{DeviceId, MessageId};

use super::{
    Caller, Code, Perform, Performed, Problem, Request, Secret,
    answer::{
        Command, CommandQueued, Commands as CommandList, Device, DeviceCounts, DeviceDetail,
        Devices, Done, Key, KeyCreated, Keys as KeyList, Listener, Reloaded, Status, Upstream,
    },
    audited::audited,
};
use crate::{
    api::{ApiKey, Keys, NewKey},
    clock::{Clock, UnixMillis},
    command::{CommandStatus, Commands, Order},
    config::{self, Signing},
    ota::Desk,
    registry::{self, Registry},
    store::{DeviceKey, Store, StoreError, UpstreamInfo, UpstreamKey, audit},
};

mod firmware;
mod outbox;

/// Commands shown for a device when none is named.
const RECENT_COMMANDS: u32 = 20;

/// What only a running gateway has.
pub trait Live: Send + Sync + 'static {
    /// The time since when the gateway runs; `None`: it does not.
    fn started_at(&self) -> Option<UnixMillis>;
    /// Whether the device has a connection.
    fn connected(&self, device: &DeviceId) -> bool;
    fn listeners(&self) -> Vec<Listener>;
    /// How the forwarder to this upstream does, in a few words.
    fn upstream_state(&self, name: &str) -> Option<String>;
    /// Parked messages were added or dead letters dropped behind the forwarder's back.
    fn outbox_changed(&self, upstream: UpstreamKey);
    /// Reads the configuration again.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<Reloaded, Problem>> + Send + '_>>;
}

/// Carries out requests on an open state.
#[expect(
    missing_debug_implementations,
    reason = "a bag of shared parts, most of them large"
)]
pub struct Operations {
    pub registry: Arc<Registry>,
    pub commands: Commands,
    pub keys: Arc<Keys>,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub live: Arc<dyn Live>,
    pub desk: Arc<Desk>,
    pub state_dir: PathBuf,
}

impl Perform for Operations {
    fn perform(&self, request: Request, caller: Caller) -> Performed<'_> {
        Box::pin(async move {
            let what = audited(&request);
            let result = self.carry_out(request, caller).await;
            if let Some((action, target)) = what {
                self.record(caller, action, target, result.as_ref().err())
                    .await?;
            }
            result
        })
    }
}

fn json(answer: impl Serialize) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(answer).map_err(|error| Problem::of(Code::Internal, &error))
}

fn device_id(text: &str) -> Result<DeviceId, Problem> {
    DeviceId::try_from(text).map_err(|error| {
        let message = format!("{text:?} is no device id: {error}");
        Problem::new(
            Code::Invalid,
            message,
            "use 1 to 64 characters of A-Z a-z 0-9 _ -",
        )
    })
}

impl Operations {
    async fn carry_out(
        &self,
        request: Request,
        caller: Caller,
    ) -> Result<serde_json::Value, Problem> {
        let now = self.clock.unchecked_now();
        match request {
            Request::Status { verify } => json(self.status(verify).await?),
            Request::DeviceList => {
                let mut devices: Vec<Device> = self
                    .registry
                    .all()
                    .iter()
                    .map(|device| self.summary(device))
                    .collect();
                devices.sort_by(|one, other| one.id.cmp(&other.id));
                json(Devices { devices })
            }
            Request::DeviceShow { id } => {
                let device = self.device(&id)?;
                let mut detail = self.detail(&device);
                detail.firmware = self.firmware_of(&device).await?;
                json(detail)
            }
            Request::DeviceAdd {
                id,
                settings,
                secret,
                password,
            } => json(self.add(&id, &settings, secret, password, now).await?),
            Request::DeviceEnrol { id, secret } => {
                let id = device_id(&id)?;
                let secret = secret.expose().as_bytes();
                if self.registry.get(&id).is_some() {
                    self.registry.set_secret(&id, secret, now).await?;
                } else {
                    let settings = config::Device::default();
                    self.registry.add(id, &settings, Some(secret), now).await?;
                }
                json(self.detail(&*self.device(id.as_str())?))
            }
            Request::DeviceSetEnabled {
                id,
                enabled,
                reason,
            } => {
                let id = device_id(&id)?;
                self.registry
                    .set_enabled(&id, enabled, &reason, now)
                    .await?;
                json(self.detail(&*self.device(id.as_str())?))
            }
            Request::DeviceRemove { id } => {
                self.registry.remove(&device_id(&id)?, now).await?;
                json(Done { done: true })
            }
            Request::DeviceSetSecret { id, secret } => {
                let id = device_id(&id)?;
                self.registry
                    .set_secret(&id, secret.expose().as_bytes(), now)
                    .await?;
                json(Done { done: true })
            }
            Request::DeviceSetPassword { id, password } => {
                let id = device_id(&id)?;
                let password = password
                    .as_ref()
                    .map(|password| password.expose().as_bytes());
                self.registry.set_password(&id, password, now).await?;
                json(Done { done: true })
            }
            Request::KeyCreate {
                name,
                scopes,
                devices,
                valid_seconds,
            } => {
                let scopes = scopes
                    .iter()
                    .map(|scope| scope.parse())
                    .collect::<Result<_, _>>()?;
                let expires_at = valid_seconds
                    .map(|seconds| UnixMillis(now.0.saturating_add(seconds.saturating_mul(1000))));
                let new = NewKey {
                    name,
                    scopes,
                    devices,
                    expires_at,
                    by: caller.to_string(),
                };
                let (key, token) = self.keys.create(new, now).await?;
                json(KeyCreated {
                    id: key.id.clone(),
                    token: token.to_string(),
                })
            }
            Request::KeyList => {
                let mut keys: Vec<Key> = self.keys.list().iter().map(|key| shown(key)).collect();
                keys.sort_by(|one, other| {
                    (one.created_at, &one.id).cmp(&(other.created_at, &other.id))
                });
                json(KeyList { keys })
            }
            Request::KeyRevoke { id } => {
                self.keys.revoke(&id, now).await?;
                json(Done { done: true })
            }
            Request::CommandSend {
                device,
                body,
                ttl_seconds,
                idempotency_key,
            } => {
                // Its expiry is counted from now, so now must be true.
                let now = self.clock.now()?;
                let device = self.device(&device)?;
                let by = caller.to_string();
                let order = Order {
                    body: Bytes::from(body),
                    ttl: ttl_seconds.map(Duration::from_secs),
                    idempotency_key: idempotency_key.as_deref(),
                    by: &by,
                };
                let queued = self.commands.queue(&device, order, now).await?;
                let message_id = queued.message_id.to_string();
                json(CommandQueued {
                    message_id,
                    status: "queued".to_owned(),
                })
            }
            Request::CommandStatus { device, message_id } => {
                json(self.command_status(&device, message_id.as_deref()).await?)
            }
            Request::OutboxList { filter } => json(self.outbox(&filter).await?),
            Request::OutboxRetry { filter } => {
                json(self.each_upstream(&filter, Store::retry_dead).await?)
            }
            Request::OutboxDrop { filter } => {
                json(self.each_upstream(&filter, Store::drop_dead).await?)
            }
            Request::Firmware { request } => self.firmware(request, caller).await,
            Request::Reload => json(self.live.reload().await?),
        }
    }

    async fn record(
        &self,
        caller: Caller,
        action: &str,
        target: String,
        problem: Option<&Problem>,
    ) -> Result<(), Problem> {
        let now = self.clock.unchecked_now();
        let entry = audit::Entry {
            at: now,
            actor: caller.to_string(),
            peer: None,
            action: action.to_owned(),
            target: Some(target).filter(|target| !target.is_empty()),
            result: problem.map_or("ok", |_| "failed").to_owned(),
            detail: problem.map(|problem| problem.message.clone()),
        };
        let entries = [entry];
        self.store
            .write(move |conn| audit::append(conn, &entries, now))
            .await?;
        Ok(())
    }

    fn device(&self, id: &str) -> Result<Arc<registry::Device>, Problem> {
        self.registry.get(&device_id(id)?).ok_or_else(|| {
            let remedy = "tidegate device list shows those there are";
            Problem::new(Code::NotFound, format!("no device {id}"), remedy)
        })
    }

    async fn add(
        &self,
        id: &str,
        settings: &config::Device,
        secret: Option<Secret>,
        password: Option<Secret>,
        now: UnixMillis,
    ) -> Result<DeviceDetail, Problem> {
        let id = device_id(id)?;
        let secret = secret.as_ref().map(|secret| secret.expose().as_bytes());
        self.registry.add(id, settings, secret, now).await?;
        if let Some(password) = password {
            self.registry
                .set_password(&id, Some(password.expose().as_bytes()), now)
                .await?;
        }
        Ok(self.detail(&*self.device(id.as_str())?))
    }

    fn summary(&self, device: &registry::Device) -> Device {
        Device {
            id: device.id.to_string(),
            enabled: device.enabled,
            blocked_reason: device.blocked_reason.as_deref().map(str::to_owned),
            declared: device.declared,
            signing: match device.signing {
                Signing::Any => "any",
                Signing::V2 => "v2",
                Signing::None => "none",
            }
            .to_owned(),
            has_secret: device.secret.is_some(),
            has_password: device.has_password,
            connected: self.live.connected(&device.id),
            last_seen_at: device.seen.at().map(|at| at.0),
            groups: device.groups.clone(),
        }
    }

    fn detail(&self, device: &registry::Device) -> DeviceDetail {
        DeviceDetail {
            device: self.summary(device),
            messages_per_second: device.rate.per_second,
            message_burst: device.rate.burst,
            publish: device.publish.clone(),
            subscribe: device.subscribe.clone(),
            telemetry: device.telemetry.clone(),
            command_topic: device.command_topic.clone(),
            firmware: None,
        }
    }

    async fn status(&self, verify: bool) -> Result<Status, Problem> {
        let all = self.registry.all();
        let count = |which: &dyn Fn(&registry::Device) -> bool| {
            all.iter().filter(|device| which(device)).count()
        };
        let devices = DeviceCounts {
            total: all.len(),
            enabled: count(&|device| device.enabled),
            connected: count(&|device| self.live.connected(&device.id)),
        };
        let started_at = self.live.started_at();
        let mut status = Status {
            running: started_at.is_some(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state_dir: self.state_dir.clone(),
            pid: started_at.map(|_| std::process::id()),
            started_at: started_at.map(|at| at.0),
            clock_trusted: self.clock.now().is_ok(),
            listeners: self.live.listeners(),
            devices,
            upstreams: std::collections::BTreeMap::new(),
        };
        for info in self.store.list_upstreams() {
            let key = info.key;
            let verified = if verify {
                Some(
                    self.blocking(move |store| store.verify_ledger(key))
                        .await?
                        .holds(),
                )
            } else {
                None
            };
            let UpstreamInfo {
                name,
                configured,
                ledger,
                parked,
                ..
            } = info;
            let state = self.live.upstream_state(&name);
            let upstream = Upstream {
                accepted: ledger.accepted,
                delivered: ledger.delivered,
                owed: ledger.owed,
                dead: ledger.dead,
                expired: ledger.expired,
                parked,
                configured,
                state,
                verified,
            };
            status.upstreams.insert(name, upstream);
        }
        Ok(status)
    }

    async fn command_status(
        &self,
        device: &str,
        message_id: Option<&str>,
    ) -> Result<CommandList, Problem> {
        let device = self.device(device)?;
        let Some(text) = message_id else {
            let recent = self.commands.recent(device.key, RECENT_COMMANDS).await?;
            return Ok(CommandList {
                commands: recent.into_iter().map(command).collect(),
            });
        };
        let id = MessageId::parse(text.as_bytes()).map_err(|_| {
            let message = format!("{text:?} is no message id");
            Problem::new(Code::Invalid, message, "write it as send printed it")
        })?;
        let Some(status) = self.commands.status(device.key, id).await? else {
            let remedy = "settled commands are forgotten after 30 days";
            return Err(Problem::new(
                Code::NotFound,
                format!("no command {text}"),
                remedy,
            ));
        };
        Ok(CommandList {
            commands: vec![command(status)],
        })
    }

    /// A device's id; that of a removed one too, as far as it is known.
    fn name(&self, key: DeviceKey) -> String {
        let device = self.registry.by_key(key);
        device.map_or_else(|| format!("#{}", key.0), |device| device.id.to_string())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::Stopping.into()),
        }
    }
}

fn command(status: CommandStatus) -> Command {
    Command {
        message_id: status.message_id.to_string(),
        status: status.state.as_str().to_owned(),
        detail: status.detail.map(|detail| {
            // What is stored is JSON; if it were not, its text is still worth showing.
            serde_json::from_str(&detail).unwrap_or(serde_json::Value::String(detail))
        }),
        attempts: status.attempts,
        queued_at: status.queued_at.0,
        expires_at: status.expires_at.0,
        finished_at: status.finished_at.map(|at| at.0),
    }
}

fn shown(key: &ApiKey) -> Key {
    Key {
        id: key.id.clone(),
        name: key.name.clone(),
        scopes: key
            .scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect(),
        devices: key.devices.clone(),
        created_at: key.created_at.0,
        expires_at: key.expires_at.map(|at| at.0),
        last_used_at: key.last_used().map(|at| at.0),
        revoked_at: key.revoked_at().map(|at| at.0),
    }
}
