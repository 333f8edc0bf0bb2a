//! Configuration: defaults, then the file, then `TIDEGATE_*` variables, then flags.
//!
//! The structs here are the whole surface: what they hold can be set, and nothing else. Unknown
//! keys are errors. Loading and checking live in [`load()`] and [`check()`].

mod check;
mod check_devices;
mod check_upstreams;
mod document;
mod files;
mod finding;
mod layers;
mod load;
mod log_filter;
mod nearest;
mod place;
mod problem;
mod schema;
mod size;
mod text;
mod updates;
mod words;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use check::check;
pub use files::check_files;
pub use finding::{Finding, Severity};
pub use load::{DEFAULT_FILE, Loaded, Sources, load, load_bytes};
pub(crate) use log_filter::log_filter;
pub use place::{Place, Places};
pub use problem::{ConfigError, Problem};
pub use updates::Updates;

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the gateway keeps its database, certificates and keys.
    pub state_dir: PathBuf,
    /// The key that seals secrets at rest: a file with 32 bytes in hex, mode 0600. Unset: the systemd
    /// credential `tidegate-master-key` if there is one, else `<state_dir>/master.key`, made at the
    /// first start.
    pub master_key_file: Option<PathBuf>,
    pub log: Log,
    pub pki: Pki,
    /// Where devices connect, by a name of your choice. Without any there is one, `devices`, on
    /// 0.0.0.0:8883; whatever is not said about a listener of that name is as in that one.
    pub listeners: BTreeMap<String, Listener>,
    pub api: Api,
    pub limits: Limits,
    pub verification: Verification,
    pub storage: Storage,
    pub updates: Updates,
    /// Who is owed every accepted message, by a name of your choice.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The devices that exist, by device id.
    pub devices: BTreeMap<String, Device>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,tidegate::front=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The journal when systemd connected us to it, text otherwise.
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pki {
    /// The folder of certificates and their keys itself. Unset: `<state_dir>/pki`.
    pub dir: Option<PathBuf>,
    /// A folder whose profiles replace the built-in ones of the same name.
    pub profiles_dir: Option<PathBuf>,
    /// Host names and addresses for the server certificate, in addition to this host's own.
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub address: SocketAddr,
    #[serde(default)]
    pub mode: ListenerMode,
    /// TLS record size offered to small devices, in bytes (512 to 16384). Unset: 16384.
    #[serde(default)]
    pub max_fragment_bytes: Option<u16>,
}

/// How a peer on a listener proves who it is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerMode {
    /// By its client certificate.
    #[default]
    MutualTls,
    /// By user name and password, inside TLS. For devices that cannot hold a certificate.
    ServerTls,
    /// By user name and password, in the clear. For migrations only.
    Plain,
}

impl std::fmt::Display for ListenerMode {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MutualTls => "mutual_tls",
            Self::ServerTls => "server_tls",
            Self::Plain => "plain",
        })
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where backends send commands (HTTPS), or `"off"`.
    #[serde(with = "switchable")]
    pub address: Option<SocketAddr>,
    /// Requests per second allowed per API key, with a burst of twice as many.
    pub requests_per_second: u32,
    /// Largest command body.
    #[serde(serialize_with = "size::exact")]
    pub body_bytes: ByteSize,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest MQTT packet from an authenticated peer.
    #[serde(serialize_with = "size::exact")]
    pub packet_bytes: ByteSize,
    /// Connections in all.
    pub connections: u32,
    /// Connections from one peer address.
    pub connections_per_address: u32,
    /// TLS handshakes under way at once; more wait in the listen queue.
    pub handshakes: u32,
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// From the end of the handshake to a complete CONNECT.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Messages per second per device; a device's own setting goes first.
    pub messages_per_second: u32,
    /// How far a device may run ahead of its rate, in messages.
    pub message_burst: u32,
    /// QoS 1 and 2 messages a peer may have unacknowledged towards us (MQTT 5 Receive Maximum), and
    /// we towards it.
    pub in_flight: u16,
    /// Subscriptions of one session.
    pub subscriptions: u32,
    /// Messages waiting for one session.
    pub queued_messages: u32,
    /// Bytes waiting for one session.
    #[serde(serialize_with = "size::exact")]
    pub queued_bytes: ByteSize,
    /// Longest life of a session without a connection.
    #[serde(with = "humantime_serde")]
    pub session_expiry: Duration,
    /// Sessions kept without a connection, per identity.
    pub sessions_per_identity: u32,
    /// Retained messages in all, and distinct free topics one identity may publish to.
    pub retained_messages: u32,
    pub topics_per_identity: u32,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verification {
    /// How far a message's time may be from ours, either way.
    #[serde(with = "humantime_serde")]
    pub freshness: Duration,
    /// Largest message on a contract topic.
    #[serde(serialize_with = "size::exact")]
    pub message_bytes: ByteSize,
    /// Refuse signatures of version 1 from every device.
    pub require_v2: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Disk space for the database. When it is reached, [`Storage::when_full`] applies.
    #[serde(serialize_with = "size::exact")]
    pub disk_budget: ByteSize,
    pub when_full: WhenFull,
    /// Give up on what an upstream was owed for longer than this. Unset: never.
    #[serde(with = "humantime_serde")]
    pub max_age: Option<Duration>,
    /// Time to gather more messages before a commit. Zero: commit whatever is there.
    #[serde(with = "humantime_serde")]
    pub commit_delay: Duration,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Stop acknowledging: devices keep what they have.
    #[default]
    Refuse,
    /// Let the oldest owed messages expire, and count them.
    DiscardOldest,
}

/// One upstream. `type` names the kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Upstream {
    Http(HttpUpstream),
}

/// An HTTP backend: one POST per message.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HttpUpstream {
    /// `http://host:port` or `https://host:port/path`; `/device/{id}/data` is appended.
    pub url: String,
    /// PEM file of the CA to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub client_certificate_file: Option<PathBuf>,
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
    /// File with a bearer token to send.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// From the start of a request to the end of its answer.
    #[serde(default = "defaults::upstream_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Requests under way at once.
    #[serde(default = "defaults::upstream_workers")]
    pub workers: u16,
    /// First and longest wait between attempts.
    #[serde(default = "defaults::retry_min", with = "humantime_serde")]
    pub retry_min: Duration,
    #[serde(default = "defaults::retry_max", with = "humantime_serde")]
    pub retry_max: Duration,
    /// Deliver events (boot, health) as well, to `/device/{id}/event`.
    #[serde(default)]
    pub events: bool,
}

impl HttpUpstream {
    /// A backend at `url` with everything else as it is by default.
    #[must_use]
    pub fn to(url: String) -> Self {
        Self {
            url,
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
            bearer_token_file: None,
            timeout: defaults::upstream_timeout(),
            workers: defaults::upstream_workers(),
            retry_min: defaults::retry_min(),
            retry_max: defaults::retry_max(),
            events: false,
        }
    }
}

/// One declared device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    pub enabled: bool,
    pub signing: Signing,
    /// File with the shared secret. Unset: the secret made when its bundle was issued.
    pub secret_file: Option<PathBuf>,
    /// File with the password for listeners without client certificates.
    pub password_file: Option<PathBuf>,
    /// Messages per second. Unset: [`Limits::messages_per_second`].
    pub messages_per_second: Option<u32>,
    /// Free topics it may publish to and subscribe to (filters). A device that signs has its contract
    /// topics beside these.
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// For `signing = "none"`: the free topics whose messages are telemetry for upstreams.
    pub telemetry: Vec<String>,
    /// For `signing = "none"`: the topic that commands are published on, in their raw form.
    pub command_topic: Option<String>,
    pub groups: Vec<String>,
}

/// What a device's messages must carry.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signing {
    /// A signature of version 1 or 2.
    #[default]
    Any,
    /// A signature of version 2.
    V2,
    /// None: raw bodies on the topics listed for it.
    None,
}

/// An address that can be switched off, as `"off"`: TOML has no null, and unset means the default.
mod switchable {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

mod defaults {
    use std::time::Duration;

    pub(super) fn upstream_timeout() -> Duration {
        Duration::from_secs(30)
    }
    pub(super) fn upstream_workers() -> u16 {
        16
    }
    pub(super) fn retry_min() -> Duration {
        Duration::from_millis(500)
    }
    pub(super) fn retry_max() -> Duration {
        Duration::from_secs(60)
    }
}

impl Default for Config {
    fn default() -> Self {
        let devices = Listener {
            address: SocketAddr::from(([0, 0, 0, 0], 8883)),
            mode: ListenerMode::MutualTls,
            max_fragment_bytes: None,
        };
        Self {
            state_dir: PathBuf::from("/var/lib/tidegate"),
            master_key_file: None,
            log: Log::default(),
            pki: Pki::default(),
            listeners: BTreeMap::from([("devices".to_owned(), devices)]),
            api: Api::default(),
            limits: Limits::default(),
            verification: Verification::default(),
            storage: Storage::default(),
            updates: Updates::default(),
            upstreams: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([0, 0, 0, 0], 8443))),
            requests_per_second: 50,
            body_bytes: ByteSize::kib(64),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes: ByteSize::kib(128),
            connections: 12_000,
            connections_per_address: 4_000,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            messages_per_second: 100,
            message_burst: 1_000,
            in_flight: 64,
            subscriptions: 64,
            queued_messages: 1_000,
            queued_bytes: ByteSize::mib(1),
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            sessions_per_identity: 4,
            retained_messages: 10_000,
            topics_per_identity: 256,
        }
    }
}

impl Default for Verification {
    fn default() -> Self {
        Self {
            freshness: Duration::from_secs(300),
            message_bytes: ByteSize::kib(64),
            require_v2: false,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            disk_budget: ByteSize::gib(1),
            when_full: WhenFull::Refuse,
            max_age: None,
            commit_delay: Duration::ZERO,
        }
    }
}

impl Default for Device {
    fn default() -> Self {
        Self {
            enabled: true,
            signing: Signing::Any,
            secret_file: None,
            password_file: None,
            messages_per_second: None,
            publish: Vec::new(),
            subscribe: Vec::new(),
            telemetry: Vec::new(),
            command_topic: None,
            groups: Vec::new(),
        }
    }
}
