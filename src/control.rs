//! The local socket that the subcommands use to talk to a running gateway.
//!
//! `<state_dir>/control.sock`, mode 0600: one JSON [`Call`] per line, one JSON [`Reply`] per line.
//! Only root and the gateway's own user get an answer. What can be asked is [`Request`]; it is carried
//! out by [`Operations`], which works the same on an open state without a running gateway, so that
//! the command line can do most things offline (under the state's lock, so there are never two
//! writers).

pub mod answer;
mod audited;
mod client;
pub mod firmware;
mod operations;
mod problems;
mod server;

use std::{fmt, future::Future, path::Path, path::PathBuf, pin::Pin};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{api::Restriction, config};

pub use client::{CallError, Client};
pub use firmware::FirmwareRequest;
pub use operations::{Live, Operations};
pub use server::{BindError, Socket, serve};

/// Counted up when a request or answer changes its meaning. Both sides say theirs.
pub const PROTOCOL: u32 = 1;

/// Longest request: a command's body (at most 16 MiB by `limits.packet_bytes`) is larger than any
/// operator types, so this is lower and says so.
pub(crate) const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Longest answer: 100,000 devices of about 500 bytes.
pub(crate) const MAX_REPLY_BYTES: usize = 64 << 20;

/// Where the socket of the gateway with this state folder is.
#[must_use]
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// One line from the client.
#[derive(Debug, Deserialize, Serialize)]
pub struct Call {
    pub protocol: u32,
    pub request: Request,
}

/// One line from the gateway: its version and either an answer or a problem.
#[derive(Debug, Deserialize, Serialize)]
pub struct Reply {
    pub protocol: u32,
    /// The gateway's version, such as `0.1.0`.
    pub gateway: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What can be asked. The answers are in [`answer`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// [`answer::Status`]
    Status {
        /// Count what the tables hold and compare it with the ledgers; takes a scan.
        verify: bool,
    },
    /// [`answer::Devices`]
    DeviceList,
    /// [`answer::DeviceDetail`]
    DeviceShow { id: String },
    /// [`answer::DeviceDetail`]
    DeviceAdd {
        id: String,
        settings: Box<config::Device>,
        secret: Option<Secret>,
        password: Option<Secret>,
    },
    /// Puts the secret of a freshly issued bundle into the registry; adds the device if there is
    /// none. [`answer::DeviceDetail`]
    DeviceEnrol { id: String, secret: Secret },
    /// [`answer::DeviceDetail`]
    DeviceSetEnabled {
        id: String,
        enabled: bool,
        reason: String,
    },
    /// [`answer::Done`]
    DeviceRemove { id: String },
    /// [`answer::Done`]
    DeviceSetSecret { id: String, secret: Secret },
    /// Unset: takes it away. [`answer::Done`]
    DeviceSetPassword {
        id: String,
        password: Option<Secret>,
    },
    /// [`answer::KeyCreated`]
    KeyCreate {
        name: String,
        scopes: Vec<String>,
        /// Unset: all devices.
        devices: Option<Restriction>,
        /// Unset: until it is revoked.
        valid_seconds: Option<u64>,
    },
    /// [`answer::Keys`]
    KeyList,
    /// [`answer::Done`]
    KeyRevoke { id: String },
    /// [`answer::CommandQueued`]
    CommandSend {
        device: String,
        /// JSON as it is to reach the device.
        body: String,
        ttl_seconds: Option<u64>,
        idempotency_key: Option<String>,
    },
    /// One command, or without an id the device's newest. [`answer::Commands`]
    CommandStatus {
        device: String,
        message_id: Option<String>,
    },
    /// [`answer::Outbox`]
    OutboxList { filter: OutboxFilter },
    /// Dead letters are owed again. [`answer::Count`]
    OutboxRetry { filter: OutboxFilter },
    /// Dead letters are given up for good. [`answer::Count`]
    OutboxDrop { filter: OutboxFilter },
    /// Releases of firmware.
    Firmware { request: FirmwareRequest },
    /// [`answer::Reloaded`]
    Reload,
}

/// Which messages of the outbox.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OutboxFilter {
    /// Unset: every upstream.
    pub upstream: Option<String>,
    /// Unset: every device.
    pub device: Option<String>,
    /// Position in the log; unset: any.
    pub seq: Option<u64>,
    /// At most so many; 0: all.
    pub limit: u32,
}

impl Request {
    /// Whether it only makes sense while the gateway runs.
    #[must_use]
    pub fn needs_gateway(&self) -> bool {
        matches!(self, Self::Reload)
    }

    /// Whether it only looks, so that without any state there is nothing to look at.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        if let Self::Firmware { request } = self {
            return request.only_looks();
        }
        matches!(
            self,
            Self::Status { .. }
                | Self::DeviceList
                | Self::DeviceShow { .. }
                | Self::KeyList
                | Self::CommandStatus { .. }
                | Self::OutboxList { .. }
        )
    }
}

/// Text that is never shown and is wiped from memory.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What kind of problem; scripts may tell them apart.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What was asked does not make sense.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It is there already, or is not in a state that allows this.
    Conflict,
    /// Not for this user.
    Denied,
    /// The gateway does not run, and it would have to.
    NotRunning,
    /// The gateway runs, and must not, or somebody else has the state open.
    InUse,
    /// Stored data cannot be read.
    Damaged,
    /// Too full or too busy now.
    Unavailable,
    /// The gateway and this program do not speak the same protocol.
    Version,
    /// The configuration does not allow it to work.
    Config,
    /// Files, sockets.
    Io,
    /// A fault of the program.
    #[serde(other)]
    Internal,
}

/// Why something was not done.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub code: Code,
    pub message: String,
    /// What to do about it; may be empty when the message says it.
    #[serde(default)]
    pub remedy: String,
}

impl Problem {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// The answer to a request, one of the structs in [`answer`] as JSON.
pub type Performed<'a> =
    Pin<Box<dyn Future<Output = Result<serde_json::Value, Problem>> + Send + 'a>>;

/// Who asks: the user id of the calling process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller(pub u32);

/// As it is written into the audit record.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("local:root"),
            user => write!(f, "local:{user}"),
        }
    }
}

/// Carries out requests.
pub trait Perform: Send + Sync + 'static {
    fn perform(&self, request: Request, caller: Caller) -> Performed<'_>;
}

#[cfg(test)]
mod tests;
