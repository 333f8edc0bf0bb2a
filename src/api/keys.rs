//! API keys: who may call, and what for.
//!
//! A token is `tg_<id>_<random>`: eight hex digits that name the key, and 32 random bytes in base64url.
//! It is shown once, when it is made; kept is the SHA-256 of the random part. A slow password hash
//! would be of no use there: there are 256 random bits to guess, not a word.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, rand};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tidegate_wire::DeviceId;
use zeroize::Zeroizing;

use crate::{
    clock::UnixMillis,
    registry::Device,
    store::{
        Store, StoreError,
        keys::{self as rows, KeyRow},
    },
};

/// Keys one gateway keeps, revoked ones included; they are all in memory.
pub const MAX_KEYS: usize = 1_000;
/// Longest name of a key.
const MAX_NAME: usize = 64;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Scope {
    #[serde(rename = "command:send")]
    CommandSend,
    #[serde(rename = "command:read")]
    CommandRead,
    #[serde(rename = "device:read")]
    DeviceRead,
    #[serde(rename = "status:read")]
    StatusRead,
    #[serde(rename = "metrics:read")]
    MetricsRead,
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    pub const ALL: [Self; 6] = [
        Self::CommandSend,
        Self::CommandRead,
        Self::DeviceRead,
        Self::StatusRead,
        Self::MetricsRead,
        Self::Admin,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CommandSend => "command:send",
            Self::CommandRead => "command:read",
            Self::DeviceRead => "device:read",
            Self::StatusRead => "status:read",
            Self::MetricsRead => "metrics:read",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| KeyError::Scope(text.to_owned()))
    }
}

/// The only devices a key may see and command: those that any of the lists names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restriction {
    /// Device ids.
    pub ids: Vec<String>,
    /// Beginnings of device ids.
    pub prefixes: Vec<String>,
    /// Groups devices are in.
    pub groups: Vec<String>,
}

impl Restriction {
    fn names(&self, id: &str) -> bool {
        self.ids.iter().any(|own| own == id)
            || self
                .prefixes
                .iter()
                .any(|start| id.starts_with(start.as_str()))
    }
}

/// A key that proved to be one.
#[derive(Debug)]
pub struct ApiKey {
    pub id: String,
    pub name: String,
    pub scopes: Vec<Scope>,
    /// None: all devices.
    pub devices: Option<Restriction>,
    pub created_at: UnixMillis,
    pub created_by: String,
    pub expires_at: Option<UnixMillis>,
    digest: [u8; 32],
    /// When it was revoked, when it was last used, and what of that is in the database; 0: never.
    revoked: AtomicU64,
    last_used: AtomicU64,
    recorded_used: AtomicU64,
}

impl ApiKey {
    /// Whether the key may be used for this.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes
            .iter()
            .any(|own| *own == scope || *own == Scope::Admin)
    }

    /// Whether the key may see and command this device.
    #[must_use]
    pub fn reaches(&self, device: &Device) -> bool {
        self.devices.as_ref().is_none_or(|only| {
            only.names(device.id.as_str())
                || device
                    .groups
                    .iter()
                    .any(|group| only.groups.contains(group))
        })
    }

    /// Whether the key may learn that there is no such device.
    #[must_use]
    pub fn reaches_id(&self, id: &DeviceId) -> bool {
        self.devices
            .as_ref()
            .is_none_or(|only| only.names(id.as_str()))
    }

    /// As it is written into the audit record.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("key:{}", self.id)
    }

    #[must_use]
    pub fn last_used(&self) -> Option<UnixMillis> {
        time(&self.last_used)
    }

    #[must_use]
    pub fn revoked_at(&self) -> Option<UnixMillis> {
        time(&self.revoked)
    }

    fn from_row(row: &KeyRow) -> Result<Self, KeyError> {
        let damaged = |error: serde_json::Error| KeyError::Damaged {
            id: row.id.clone(),
            detail: error.to_string(),
        };
        let used = row.last_used_at.map_or(0, |at| at.0);
        Ok(Self {
            id: row.id.clone(),
            name: row.name.clone(),
            scopes: serde_json::from_str(&row.scopes).map_err(damaged)?,
            devices: row
                .devices
                .as_deref()
                .map(serde_json::from_str)
                .transpose()
                .map_err(damaged)?,
            created_at: row.created_at,
            created_by: row.created_by.clone(),
            expires_at: row.expires_at,
            digest: row.digest,
            revoked: AtomicU64::new(row.revoked_at.map_or(0, |at| at.0)),
            last_used: AtomicU64::new(used),
            recorded_used: AtomicU64::new(used),
        })
    }
}

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    pub scopes: Vec<Scope>,
    pub devices: Option<Restriction>,
    pub expires_at: Option<UnixMillis>,
    /// Who makes it.
    pub by: String,
}

/// All API keys. Share it through an [`Arc`].
#[derive(Debug)]
pub struct Keys {
    store: Store,
    by_id: RwLock<HashMap<String, Arc<ApiKey>>>,
}

/// Why a key was not made, changed or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "`{0}` is no scope; use command:send, command:read, device:read, status:read, metrics:read or admin"
    )]
    Scope(String),
    #[error("a key needs at least one scope, or it could do nothing")]
    NoScope,
    #[error("a key's name has 1 to {MAX_NAME} characters, none of them a control character")]
    Name,
    #[error("the key would expire before it is made; give a later time")]
    Expiry,
    #[error(
        "the restriction names no device, prefix or group, so the key would reach none; name some, or leave it out"
    )]
    EmptyRestriction,
    #[error("there are {MAX_KEYS} keys already, revoked ones included")]
    Full,
    #[error("no key {0}; `tidegate key list` shows those there are")]
    Unknown(String),
    #[error("the database's row for API key {id} is damaged ({detail}); restore a backup")]
    Damaged { id: String, detail: String },
    #[error("the system gave no random numbers")]
    NoRandomness,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token is not accepted. Callers are told one thing for all of them but the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    Malformed,
    Unknown,
    Revoked,
    Expired,
}

impl Refusal {
    /// For the audit record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "no token of ours",
            Self::Unknown => "unknown key",
            Self::Revoked => "revoked key",
            Self::Expired => "expired key",
        }
    }
}

impl Keys {
    /// Loads every key.
    ///
    /// # Errors
    /// [`KeyError::Store`], [`KeyError::Damaged`].
    pub async fn open(store: Store) -> Result<Self, KeyError> {
        let found = store.read(rows::all).await?;
        let keys = found
            .iter()
            .map(|row| Ok((row.id.clone(), Arc::new(ApiKey::from_row(row)?))))
            .collect::<Result<_, KeyError>>()?;
        Ok(Self {
            store,
            by_id: RwLock::new(keys),
        })
    }

    /// Makes a key. The token is returned here and nowhere else.
    ///
    /// # Errors
    /// [`KeyError`]; nothing is stored then.
    pub async fn create(
        &self,
        new: NewKey,
        now: UnixMillis,
    ) -> Result<(Arc<ApiKey>, Zeroizing<String>), KeyError> {
        let NewKey {
            name,
            mut scopes,
            devices,
            expires_at,
            by,
        } = new;
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control)
        {
            return Err(KeyError::Name);
        }
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            return Err(KeyError::NoScope);
        }
        if expires_at.is_some_and(|at| at <= now) {
            return Err(KeyError::Expiry);
        }
        if devices.as_ref() == Some(&Restriction::default()) {
            return Err(KeyError::EmptyRestriction);
        }
        if self.read().len() >= MAX_KEYS {
            return Err(KeyError::Full);
        }
        let (mut id, mut secret) = ([0; 4], Zeroizing::new([0; 32]));
        rand::fill(&mut id).map_err(|_| KeyError::NoRandomness)?;
        rand::fill(secret.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
        let id = format!("{:08x}", u32::from_be_bytes(id));
        let secret = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(secret.as_slice()));
        let row = KeyRow {
            id: id.clone(),
            name,
            digest: sha256(secret.as_bytes()),
            scopes: serde_json::to_string(&scopes).unwrap_or_default(),
            devices: devices
                .as_ref()
                .map(|only| serde_json::to_string(only).unwrap_or_default()),
            created_at: now,
            created_by: by,
            expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        let key = Arc::new(ApiKey::from_row(&row)?);
        self.store
            .write(move |conn| rows::insert(conn, &row))
            .await?;
        self.write().insert(id.clone(), Arc::clone(&key));
        let token = Zeroizing::new(format!("tg_{id}_{}", secret.as_str()));
        Ok((key, token))
    }

    /// Revokes a key: it is refused from now on, also when this fails half-way.
    ///
    /// # Errors
    /// [`KeyError::Unknown`], [`KeyError::Store`].
    pub async fn revoke(&self, id: &str, now: UnixMillis) -> Result<(), KeyError> {
        // In memory first: it is refused at once, whatever becomes of the write or of the caller.
        match self.read().get(id) {
            None => return Err(KeyError::Unknown(id.to_owned())),
            // One that was revoked before keeps its time.
            Some(key) => {
                let _ = key.revoked.compare_exchange(
                    0,
                    now.0.max(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
        let id = id.to_owned();
        Ok(self
            .store
            .write(move |conn| rows::revoke(conn, &id, now))
            .await?)
    }

    /// All keys, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ApiKey>> {
        self.read().values().cloned().collect()
    }

    /// The key this token is of.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(&self, token: &str, now: UnixMillis) -> Result<Arc<ApiKey>, Refusal> {
        let (id, secret) = token
            .strip_prefix("tg_")
            .and_then(|rest| rest.split_once('_'))
            .filter(|(id, secret)| id.len() == 8 && secret.len() == 43)
            .ok_or(Refusal::Malformed)?;
        // Ids are no secret (they are in the audit record), so that one is unknown may show.
        let key = self.read().get(id).cloned().ok_or(Refusal::Unknown)?;
        verify_slices_are_equal(&sha256(secret.as_bytes()), &key.digest)
            .map_err(|_| Refusal::Unknown)?;
        if key.revoked_at().is_some() {
            return Err(Refusal::Revoked);
        }
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(Refusal::Expired);
        }
        key.last_used.fetch_max(now.0, Ordering::Relaxed);
        Ok(key)
    }

    /// Persists when keys were last used; call it every minute and when stopping.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record_used(&self) -> Result<(), StoreError> {
        let used: Vec<(String, UnixMillis)> = self
            .list()
            .iter()
            .filter_map(|key| {
                let at = key.last_used.load(Ordering::Relaxed);
                (key.recorded_used.swap(at, Ordering::Relaxed) != at)
                    .then(|| (key.id.clone(), UnixMillis(at)))
            })
            .collect();
        if used.is_empty() {
            return Ok(());
        }
        self.store
            .write(move |conn| rows::record_used(conn, &used))
            .await
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<ApiKey>>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<ApiKey>>> {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn time(at: &AtomicU64) -> Option<UnixMillis> {
    match at.load(Ordering::Relaxed) {
        0 => None,
        at => Some(UnixMillis(at)),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
mod tests;
