//! A device's bundle, as `tidegate pki` writes it: a folder or one file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tidegate_app::commands::private_key;
use tidegate_app::credentials::{Credentials, Gateway, MAX_RELEASE_KEYS, Wifi};
use tidegate_wire::manifest::PublicKey;

/// A bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not JSON of the right form.
    #[error("{path} is no device bundle: {source}")]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Something in it is missing or wrong.
    #[error("{path}: {what}: issue the bundle again with `tidegate pki`")]
    Part {
        /// Which.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
}

/// A bundle as it was issued.
#[derive(Clone)]
pub struct Bundle {
    /// Who.
    pub device_id: String,
    /// Where to.
    pub host: String,
    /// MQTT over TLS.
    pub port: u16,
    /// Leaf first, then its issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: std::sync::Arc<PrivateKeyDer<'static>>,
    /// What to trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// What messages are signed with.
    pub secret: Vec<u8>,
    /// Who signs firmware releases; none: no updates.
    pub release_keys: Vec<PublicKey>,
    /// Port of the update server, if not 8444.
    pub update_port: Option<u16>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle")
            .field("device_id", &self.device_id)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Address {
    host: String,
    port: u16,
    update_port: Option<u16>,
}

#[derive(Deserialize)]
struct Folder {
    device_id: String,
    gateway: Address,
}

#[derive(Deserialize)]
struct File {
    device_id: String,
    gateway: Address,
    certificate: String,
    key: Option<String>,
    ca: String,
    secret: Option<String>,
    #[serde(default)]
    release_keys: Vec<String>,
}

impl Bundle {
    /// Reads either form.
    ///
    /// # Errors
    ///
    /// [`BundleError`]
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let file = if path.is_dir() {
            let text = |name: &str| read(&path.join(name));
            let json = path.join("device.json");
            let folder: Folder = parse(&json, &read(&json)?)?;
            File {
                device_id: folder.device_id,
                gateway: folder.gateway,
                certificate: text("device.crt")?,
                key: Some(text("device.key")?),
                ca: text("ca.crt")?,
                secret: Some(text("secret")?.trim_end_matches('\n').to_owned()),
                release_keys: optional(&path.join("release-keys"))?
                    .lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned)
                    .collect(),
            }
        } else {
            parse(path, &read(path)?)?
        };
        let part = |what| BundleError::Part {
            path: path.to_owned(),
            what,
        };
        let certificates = |pem: &str, what| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .ok()
                .filter(|list| !list.is_empty())
                .ok_or_else(|| part(what))
        };
        let key = file.key.ok_or_else(|| part("private key is missing"))?;
        let release_keys = file.release_keys.iter().map(|key| key.parse());
        let release_keys: Vec<PublicKey> = release_keys
            .collect::<Result<_, _>>()
            .map_err(|_| part("release key is not 64 hex digits of an Ed25519 key"))?;
        if release_keys.len() > MAX_RELEASE_KEYS {
            return Err(part("more than two release keys"));
        }
        Ok(Self {
            chain: certificates(&file.certificate, "certificate is not PEM")?,
            roots: certificates(&file.ca, "ca is not PEM")?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| part("private key is not PEM"))?
                .into(),
            secret: file
                .secret
                .ok_or_else(|| part("secret is missing"))?
                .into_bytes(),
            device_id: file.device_id,
            host: file.gateway.host,
            port: file.gateway.port,
            update_port: file.gateway.update_port,
            release_keys,
        })
    }

    /// What the device keeps in its credentials partition.
    ///
    /// # Errors
    ///
    /// [`BundleError::Part`]: the device id or the key is none a device can have.
    pub fn credentials(&self, wifi: Option<Wifi>) -> Result<Credentials, BundleError> {
        let part = |what| BundleError::Part {
            path: self.device_id.clone().into(),
            what,
        };
        let certificate = self
            .chain
            .first()
            .ok_or_else(|| part("certificate is missing"))?;
        let mut gateway = Gateway::new(self.host.clone(), self.port);
        if let Some(port) = self.update_port {
            gateway.update_port = port;
        }
        Ok(Credentials {
            wifi,
            device_id: self
                .device_id
                .as_str()
                .try_into()
                .map_err(|_| part("device id has characters it may not have"))?,
            certificate: certificate.to_vec(),
            key: private_key(self.key.secret_der())
                .ok_or_else(|| part("private key is not P-256"))?,
            roots: self.roots.iter().map(|root| root.to_vec()).collect(),
            secret: self.secret.clone().into(),
            release_keys: self.release_keys.clone(),
            gateway,
        })
    }
}

fn read(path: &Path) -> Result<String, BundleError> {
    fs::read_to_string(path).map_err(|source| BundleError::Read {
        path: path.to_owned(),
        source,
    })
}

/// A file that need not be there.
fn optional(path: &Path) -> Result<String, BundleError> {
    match read(path) {
        Err(BundleError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(String::new())
        }
        text => text,
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, BundleError> {
    serde_json::from_str(text).map_err(|source| BundleError::Json {
        path: path.to_owned(),
        source,
    })
}
