//! Firmware updates: the section `[updates]`, and what its values mean together.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tidegate_wire::manifest::{MAX_SIGNATURES, PublicKey};

use super::{
    check::{no_store, positive, positive_duration},
    finding::Findings,
    size, switchable,
};

/// Releases of firmware for devices. Without a release key there are no updates, and nothing listens.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Updates {
    /// Where devices ask for updates (HTTPS with client certificates), or `"off"` where nginx listens
    /// in the gateway's place.
    #[serde(with = "switchable")]
    pub address: Option<SocketAddr>,
    /// Unix socket for nginx. Whoever may open it is believed: put it into a folder that only nginx's
    /// group may enter. Unset: none.
    pub socket: Option<PathBuf>,
    /// Where images are kept, and nginx reads them. Unset: `<state_dir>/releases`.
    pub releases_dir: Option<PathBuf>,
    /// Public keys whose releases are trusted, one or two (while one replaces the other): 64 hex
    /// digits, as `tidegate firmware keygen` prints them.
    pub release_keys: Vec<String>,
    /// Disk space for images.
    #[serde(serialize_with = "size::exact")]
    pub disk_budget: ByteSize,
    /// Releases kept per product and chip; older ones that nobody is to have any more are deleted.
    pub keep: u32,
    /// Connections at once, and from one address.
    pub connections: u32,
    pub connections_per_address: u32,
    /// What one download gets, so that a fleet that updates leaves room for messages.
    #[serde(serialize_with = "size::exact")]
    pub bytes_per_second: ByteSize,
    /// A device that takes nothing of what it is sent for so long is left.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// When a device for which there is nothing should ask again.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

impl Default for Updates {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([0, 0, 0, 0], 8444))),
            socket: None,
            releases_dir: None,
            release_keys: Vec::new(),
            disk_budget: ByteSize::mib(512),
            keep: 4,
            connections: 256,
            connections_per_address: 16,
            bytes_per_second: ByteSize::kib(256),
            stall_timeout: Duration::from_secs(30),
            retry_after: Duration::from_secs(3600),
        }
    }
}

impl Updates {
    /// Whether there is anything to serve: without a key, no release can be trusted.
    #[must_use]
    pub fn enabled(&self) -> bool {
        !self.release_keys.is_empty()
    }

    /// The release keys; what is no key is left out, as [`super::check()`] says it.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        self.release_keys
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        let key = "updates.release_keys";
        if self.release_keys.len() > MAX_SIGNATURES {
            findings.error(
                key,
                format!(
                    "{} keys are more than devices hold",
                    self.release_keys.len()
                ),
                "keep the one in use, and the one that replaces it",
            );
        }
        for (at, text) in self.release_keys.iter().enumerate() {
            if text.parse::<PublicKey>().is_err() {
                findings.error(
                    key,
                    format!("{text:?} is no release key"),
                    "write the 64 hex digits that tidegate firmware keygen printed",
                );
            } else if self
                .release_keys
                .iter()
                .take(at)
                .any(|other| other.eq_ignore_ascii_case(text))
            {
                findings.error(key, "the same key is there twice", "write it once");
            }
        }
        for (name, path) in [
            ("socket", &self.socket),
            ("releases_dir", &self.releases_dir),
        ] {
            let name = format!("updates.{name}");
            no_store(&name, path.as_deref(), findings);
            if let Some(path) = path.as_deref().filter(|path| !path.is_absolute()) {
                findings.error(
                    &name,
                    format!("{} is not an absolute path", path.display()),
                    "write the whole path",
                );
            }
        }
        positive("updates.disk_budget", self.disk_budget.as_u64(), findings);
        positive("updates.keep", self.keep, findings);
        positive("updates.connections", self.connections, findings);
        positive(
            "updates.connections_per_address",
            self.connections_per_address,
            findings,
        );
        positive(
            "updates.bytes_per_second",
            self.bytes_per_second.as_u64(),
            findings,
        );
        positive_duration("updates.stall_timeout", self.stall_timeout, findings);
        positive_duration("updates.retry_after", self.retry_after, findings);
        if self.enabled() && self.address.is_none() && self.socket.is_none() {
            findings.warning(
                "updates.address",
                "updates are served to nobody: it is off, and there is no updates.socket",
                "set one of them",
            );
        }
    }
}
