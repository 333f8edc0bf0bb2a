//! What requests are answered with. The command line prints these as they are with `--json`: names
//! and meanings are kept.
//!
//! Times are milliseconds since 1970, durations seconds, sizes bytes.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::Restriction;

/// How the gateway is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    pub running: bool,
    pub version: String,
    pub state_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// Whether the clock can be believed; without it nothing is accepted.
    pub clock_trusted: bool,
    pub listeners: Vec<Listener>,
    pub devices: DeviceCounts,
    /// By name.
    pub upstreams: BTreeMap<String, Upstream>,
}

/// Where peers connect.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listener {
    pub name: String,
    pub address: String,
    pub mode: String,
}

/// How many devices there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct DeviceCounts {
    pub total: usize,
    pub enabled: usize,
    pub connected: usize,
}

/// An upstream's ledger: `accepted = delivered + owed + dead + expired`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Upstream {
    pub accepted: u64,
    pub delivered: u64,
    pub owed: u64,
    pub dead: u64,
    pub expired: u64,
    /// Of what is owed: waits on its own because its device is in trouble there.
    pub parked: u64,
    /// False: it left the configuration but is still owed something.
    pub configured: bool,
    /// What the forwarder says about it; unset when it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether the tables hold what the ledger says; only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
}

/// All devices, by id.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Devices {
    pub devices: Vec<Device>,
}

/// One device.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Device {
    pub id: String,
    pub enabled: bool,
    /// Why it is blocked, if an operator did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
    /// By the configuration; otherwise at run time.
    pub declared: bool,
    pub signing: String,
    pub has_secret: bool,
    pub has_password: bool,
    pub connected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<u64>,
    pub groups: Vec<String>,
}

/// One device with its rights.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub device: Device,
    pub messages_per_second: u32,
    pub message_burst: u32,
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    pub telemetry: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_topic: Option<String>,
    /// What it runs; unset: it never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<super::firmware::DeviceFirmware>,
}

/// The only time the token is shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyCreated {
    pub id: String,
    pub token: String,
}

/// All API keys.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Keys {
    pub keys: Vec<Key>,
}

/// One API key.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Key {
    pub id: String,
    pub name: String,
    pub scopes: Vec<String>,
    /// Unset: all devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Restriction>,
    pub created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
}

/// A command on its way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CommandQueued {
    pub message_id: String,
    /// `queued`
    pub status: String,
}

/// Commands of one device, newest first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Commands {
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Command {
    pub message_id: String,
    /// `queued`, `sent`, `delivered`, `done`, `failed`, `expired`
    pub status: String,
    /// What the device said about the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
    pub attempts: u32,
    pub queued_at: u64,
    pub expires_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
}

/// What is not on its ordinary way to an upstream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Outbox {
    /// Refused for good by the upstream.
    pub dead: Vec<DeadLetter>,
    /// Devices whose messages wait on their own.
    pub parked: Vec<Parked>,
}

/// A message that an upstream refused for good.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeadLetter {
    pub upstream: String,
    pub seq: u64,
    pub device_id: String,
    pub message_id: String,
    /// The upstream's HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub reason: String,
    pub died_at: u64,
    pub received_at: u64,
    pub bytes: usize,
}

/// A device whose messages wait on their own.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Parked {
    pub upstream: String,
    pub device_id: String,
    pub messages: u64,
    pub oldest_seq: u64,
}

/// How many messages it was about.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Count {
    pub messages: u64,
}

/// What reading the configuration again came to.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reloaded {
    /// What changed, for people.
    pub changes: Vec<String>,
    /// Settings that are different now but need a restart.
    pub needs_restart: Vec<String>,
}

/// Done; nothing more to say.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Done {
    pub done: bool,
}
