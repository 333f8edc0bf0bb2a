//! Everything a device needs, as a folder or as one file.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use tidegate_wire::manifest::PublicKey;

use super::certificate::{Certificate, PrivateKey};
use super::error::PkiError;
use super::files::{self, SECRET};
use super::hosts::{Endpoint, Host};
use super::identity::Identity;

/// Names the format, and its version, in both forms.
const FORMAT: &str = "tidegate-bundle-1";

/// A device's certificate, key, trust, secret, name and gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    pub device_id: String,
    pub gateway: Endpoint,
    /// PEM: the device's certificate, then its issuer.
    pub certificate: String,
    /// PEM; absent when the key never left the device (a signing request was used).
    pub key: Option<Zeroizing<String>>,
    /// PEM: what the device verifies the gateway with.
    pub ca: String,
    /// The HMAC key is the UTF-8 of this text. Absent when the device keeps the one it has.
    pub secret: Option<Zeroizing<String>>,
    /// Whose firmware releases the device trusts: one key or two; none: it takes no updates.
    pub release_keys: Vec<PublicKey>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("device_id", &self.device_id)
            .field("gateway", &self.gateway)
            .field("key", &self.key.as_ref().map(|_| ".."))
            .field("secret", &self.secret.as_ref().map(|_| ".."))
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayJson {
    host: String,
    port: u16,
}

/// `device.json` in the folder.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderJson {
    format: String,
    device_id: String,
    gateway: GatewayJson,
}

/// The one-file form.
#[derive(Serialize)]
struct FileOut<'a> {
    format: &'a str,
    device_id: &'a str,
    gateway: GatewayJson,
    certificate: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    ca: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    release_keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIn {
    format: String,
    device_id: String,
    gateway: GatewayJson,
    certificate: String,
    #[serde(default)]
    key: Option<String>,
    ca: String,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    release_keys: Vec<String>,
}

/// The files of the folder form.
const CERTIFICATE: &str = "device.crt";
const KEY: &str = "device.key";
const CA: &str = "ca.crt";
const SECRET_FILE: &str = "secret";
const RELEASE_KEYS: &str = "release-keys";
const JSON: &str = "device.json";

impl Bundle {
    /// The paths the folder form consists of, for checking before anything is issued.
    #[must_use]
    pub fn folder_files(folder: &Path) -> Vec<PathBuf> {
        [CERTIFICATE, KEY, CA, SECRET_FILE, RELEASE_KEYS, JSON]
            .map(|name| folder.join(name))
            .into()
    }

    /// Refuses to go on if any of these exists: called before a certificate is issued, so that
    /// none is issued in vain.
    ///
    /// # Errors
    /// [`PkiError::Exists`].
    pub fn refuse_existing(paths: &[PathBuf]) -> Result<(), PkiError> {
        files::refuse_existing(paths)
    }

    /// Writes `device.crt`, `device.key`, `ca.crt`, `secret`, `release-keys` (one per line, in hex; only
    /// if there are any) and `device.json`, each readable by the owner alone. `device.json` comes last: with it the folder is complete.
    ///
    /// # Errors
    /// One of the files exists (without `force`), or cannot be written.
    pub fn write_folder(&self, folder: &Path, force: bool) -> Result<(), PkiError> {
        if !force {
            files::refuse_existing(&Self::folder_files(folder))?;
        }
        files::create_dir(folder)?;
        let json = FolderJson {
            format: FORMAT.into(),
            device_id: self.device_id.clone(),
            gateway: self.gateway_json(),
        };
        let json = to_json(&json, folder)?;
        // A key or secret of an earlier bundle must not stay beside a newer certificate.
        let key = self.key.as_ref().map(|key| key.as_bytes());
        let secret = self
            .secret
            .as_ref()
            .map(|secret| Zeroizing::new(format!("{}\n", **secret)));
        let lines = || {
            self.release_keys
                .iter()
                .map(|key| format!("{key}\n"))
                .collect()
        };
        let release_keys: Option<String> = (!self.release_keys.is_empty()).then(lines);
        for (name, content) in [
            (KEY, key),
            (CERTIFICATE, Some(self.certificate.as_bytes())),
            (CA, Some(self.ca.as_bytes())),
            (SECRET_FILE, secret.as_ref().map(|secret| secret.as_bytes())),
            (RELEASE_KEYS, release_keys.as_ref().map(String::as_bytes)),
            (JSON, Some(json.as_slice())),
        ] {
            let path = folder.join(name);
            match content {
                Some(content) => files::write(&path, content, SECRET)?,
                None => remove_if_exists(&path)?,
            }
        }
        Ok(())
    }

    /// Writes the one-file form, readable by the owner alone.
    ///
    /// # Errors
    /// The file exists (without `force`), or cannot be written.
    pub fn write_file(&self, path: &Path, force: bool) -> Result<(), PkiError> {
        if !force {
            files::refuse_existing([&path.to_path_buf()])?;
        }
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            files::create_dir(parent)?;
        }
        let file = FileOut {
            format: FORMAT,
            device_id: &self.device_id,
            gateway: self.gateway_json(),
            certificate: &self.certificate,
            key: self.key.as_ref().map(|key| key.as_str()),
            ca: &self.ca,
            secret: self.secret.as_ref().map(|secret| secret.as_str()),
            release_keys: self.release_keys.iter().map(ToString::to_string).collect(),
        };
        files::write(path, &to_json(&file, path)?, SECRET)
    }

    /// Reads either form.
    ///
    /// # Errors
    /// Missing or unreadable parts, a certificate of another device, a key that does not
    /// belong to the certificate.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let bundle = if path.is_dir() {
            Self::read_folder(path)
        } else {
            Self::read_file(path)
        }?;
        bundle.check(path)?;
        Ok(bundle)
    }

    fn read_folder(folder: &Path) -> Result<Self, PkiError> {
        let json: FolderJson = from_json(&files::read(&folder.join(JSON))?, folder)?;
        check_format(&json.format, folder)?;
        let text = |name: &str| -> Result<Option<String>, PkiError> {
            files::read_if_exists(&folder.join(name))?
                .map(|bytes| String::from_utf8(bytes).map_err(|_| bad(folder, "it is not text")))
                .transpose()
        };
        let required =
            |name: &str| text(name)?.ok_or_else(|| bad(folder, format!("{name} is missing")));
        Ok(Self {
            device_id: json.device_id,
            gateway: gateway(&json.gateway, folder)?,
            certificate: required(CERTIFICATE)?,
            key: text(KEY)?.map(Zeroizing::new),
            ca: required(CA)?,
            secret: text(SECRET_FILE)?
                .map(Zeroizing::new)
                .map(|text| Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            release_keys: release_keys(text(RELEASE_KEYS)?.unwrap_or_default().lines(), folder)?,
        })
    }

    fn read_file(path: &Path) -> Result<Self, PkiError> {
        let bytes = Zeroizing::new(files::read(path)?);
        let file: FileIn = from_json(&bytes, path)?;
        check_format(&file.format, path)?;
        Ok(Self {
            gateway: gateway(&file.gateway, path)?,
            device_id: file.device_id,
            certificate: file.certificate,
            key: file.key.map(Zeroizing::new),
            ca: file.ca,
            secret: file.secret.map(Zeroizing::new),
            release_keys: release_keys(file.release_keys.iter().map(String::as_str), path)?,
        })
    }

    fn check(&self, path: &Path) -> Result<(), PkiError> {
        super::request::check_id("a device", &self.device_id)?;
        let certificate = Certificate::from_pem(self.certificate.as_bytes(), path)?;
        if certificate.identity != Some(Identity::Device(self.device_id.clone())) {
            return Err(bad(
                path,
                format!("its certificate is not that of {}", self.device_id),
            ));
        }
        CertificateDer::from_pem_slice(self.ca.as_bytes())
            .map_err(|error| bad(path, format!("its CA certificate cannot be read: {error}")))?;
        if let Some(key) = &self.key
            && !PrivateKey::parse(key, path)?.matches(&certificate)
        {
            return Err(bad(path, "its key does not belong to its certificate"));
        }
        if self.secret.as_ref().is_some_and(|secret| secret.is_empty()) {
            return Err(bad(path, "its secret is empty"));
        }
        Ok(())
    }

    fn gateway_json(&self) -> GatewayJson {
        GatewayJson {
            host: self.gateway.host.to_string(),
            port: self.gateway.port,
        }
    }
}

fn gateway(json: &GatewayJson, path: &Path) -> Result<Endpoint, PkiError> {
    if json.port == 0 {
        return Err(bad(path, "its gateway port is 0"));
    }
    Ok(Endpoint {
        host: Host::parse(&json.host)?,
        port: json.port,
    })
}

fn release_keys<'a>(
    lines: impl Iterator<Item = &'a str>,
    path: &Path,
) -> Result<Vec<PublicKey>, PkiError> {
    lines
        .map(|line| {
            line.trim()
                .parse()
                .map_err(|error| bad(path, format!("release keys: {error}")))
        })
        .collect()
}

fn check_format(format: &str, path: &Path) -> Result<(), PkiError> {
    if format == FORMAT {
        Ok(())
    } else {
        Err(bad(path, format!("its format is not {FORMAT}")))
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "errors and literals are passed alike"
)]
fn bad(path: &Path, reason: impl ToString) -> PkiError {
    PkiError::BadBundle {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn from_json<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &Path) -> Result<T, PkiError> {
    serde_json::from_slice(bytes).map_err(|error| bad(path, error))
}

fn to_json(value: &impl Serialize, path: &Path) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| bad(path, error))?;
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}

fn remove_if_exists(path: &Path) -> Result<(), PkiError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PkiError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
