//! Issuing certificates to devices, operators and the gateway itself.

use std::fmt;
use std::path::{Path, PathBuf};

use tidegate_wire::manifest::PublicKey;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::authority::{Authority, Lifetime};
use super::bundle::Bundle;
use super::certificate::{Certificate, PrivateKey, Serial, date};
use super::error::PkiError;
use super::files::{self, Lock, PUBLIC, PkiDir};
use super::hosts::{Endpoint, Host};
use super::identity::Identity;
use super::profile::{Kind, Profiles};
use super::request::{self, SecretSource, SigningRequest};
use super::revocation::Record;

/// What a new device certificate is to be.
#[derive(Debug)]
pub struct DeviceRequest {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub id: String,
    /// A signing request from the device; without one a key is made here.
    pub csr: Option<SigningRequest>,
    /// Where the device finds the gateway; by default the server certificate's first name.
    pub gateway: Option<Endpoint>,
    pub secret: SecretSource,
    /// Whose firmware releases the device is to trust.
    pub release_keys: Vec<PublicKey>,
    /// Issue even though the device has a certificate that is still valid.
    pub force: bool,
}

/// A device's new certificate, with everything the device needs.
#[derive(Debug)]
pub struct IssuedDevice {
    /// The secret in it must reach the gateway's registry as well; nothing here keeps it.
    pub bundle: Bundle,
    pub serial: Serial,
    pub not_after: OffsetDateTime,
}

/// Issues a certificate to a device.
///
/// # Errors
/// A bad id, a request that does not fit, a valid certificate already there (without
/// `force`), the device CA's key not here, a wrong clock, files.
pub fn issue_device(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &DeviceRequest,
    now: OffsetDateTime,
) -> Result<IssuedDevice, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    device(dir, profiles, request, now, &lock)
}

pub(super) fn device(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &DeviceRequest,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<IssuedDevice, PkiError> {
    request::check_id("a device", &request.id)?;
    let wanted = Identity::Device(request.id.clone());
    if !request.force {
        refuse_second(dir, "device", &wanted, now)?;
    }
    let gateway = match &request.gateway {
        Some(gateway) => gateway.clone(),
        None => default_gateway(dir)?,
    };
    let secret = request.secret.resolve()?;
    let client = client(
        dir,
        profiles,
        Kind::Device,
        &request.id,
        request.csr.as_ref(),
        now,
        lock,
    )?;
    Ok(IssuedDevice {
        serial: client.certificate.serial.clone(),
        not_after: client.certificate.not_after,
        bundle: Bundle {
            device_id: request.id.clone(),
            gateway,
            certificate: client.chain,
            key: client.key,
            ca: server_trust(dir)?,
            secret,
            release_keys: request.release_keys.clone(),
        },
    })
}

/// What a new operator certificate is to be.
#[derive(Debug)]
pub struct OperatorRequest {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    pub csr: Option<SigningRequest>,
    pub force: bool,
}

/// An operator's new certificate.
pub struct IssuedOperator {
    pub name: String,
    /// PEM: the certificate and its issuer.
    pub certificate: String,
    /// PEM; absent if it was a signing request.
    pub key: Option<Zeroizing<String>>,
    /// PEM: what verifies the gateway.
    pub ca: String,
    pub serial: Serial,
    pub not_after: OffsetDateTime,
}

impl fmt::Debug for IssuedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedOperator")
            .field("name", &self.name)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl IssuedOperator {
    /// Refuses to go on if [`IssuedOperator::write`] would overwrite something.
    ///
    /// # Errors
    /// [`PkiError::Exists`].
    pub fn refuse_existing(folder: &Path, name: &str) -> Result<(), PkiError> {
        files::refuse_existing(&[
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
            folder.join("ca.crt"),
        ])
    }

    /// Writes `<name>.crt`, `<name>.key` and `ca.crt` into a folder; the paths written.
    ///
    /// # Errors
    /// A file is already there (without `force`), or cannot be written.
    pub fn write(&self, folder: &Path, force: bool) -> Result<Vec<PathBuf>, PkiError> {
        let certificate = folder.join(format!("{}.crt", self.name));
        let key = folder.join(format!("{}.key", self.name));
        let ca = folder.join("ca.crt");
        if !force {
            Self::refuse_existing(folder, &self.name)?;
        }
        files::create_dir(folder)?;
        let mut written = Vec::new();
        if let Some(text) = &self.key {
            files::write(&key, text.as_bytes(), files::SECRET)?;
            written.push(key);
        }
        files::write(&certificate, self.certificate.as_bytes(), PUBLIC)?;
        files::write(&ca, self.ca.as_bytes(), PUBLIC)?;
        written.extend([certificate, ca]);
        Ok(written)
    }
}

/// Issues a client certificate to an operator.
///
/// # Errors
/// As [`issue_device`].
pub fn issue_operator(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &OperatorRequest,
    now: OffsetDateTime,
) -> Result<IssuedOperator, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    operator(dir, profiles, request, now, &lock)
}

pub(super) fn operator(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &OperatorRequest,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<IssuedOperator, PkiError> {
    request::check_id("an operator", &request.name)?;
    let wanted = Identity::Operator(request.name.clone());
    if !request.force {
        refuse_second(dir, "operator", &wanted, now)?;
    }
    let client = client(
        dir,
        profiles,
        Kind::Operator,
        &request.name,
        request.csr.as_ref(),
        now,
        lock,
    )?;
    Ok(IssuedOperator {
        name: request.name.clone(),
        ca: server_trust(dir)?,
        serial: client.certificate.serial.clone(),
        not_after: client.certificate.not_after,
        certificate: client.chain,
        key: client.key,
    })
}

struct Client {
    certificate: Certificate,
    chain: String,
    key: Option<Zeroizing<String>>,
}

fn client(
    dir: &PkiDir,
    profiles: &Profiles,
    kind: Kind,
    id: &str,
    csr: Option<&SigningRequest>,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<Client, PkiError> {
    let lifetime = Lifetime::from_now(profiles, kind, now)?;
    let params = profiles.params(kind, &[("id", id)])?;
    let issuer = Authority::load(dir, "device-ca", "issue client certificates")?;
    let (certificate, key) = match csr {
        Some(csr) => {
            csr.check_name(id)?;
            (
                issuer.issue(params, &[], &csr.public_key, lifetime, now)?,
                None,
            )
        }
        None => {
            let key = PrivateKey::generate()?;
            let certificate = issuer.issue(params, &[], &key.pair, lifetime, now)?;
            (certificate, Some(key.pem))
        }
    };
    record(dir, &certificate, lock)?;
    let chain = chain(&certificate, &issuer.certificate);
    Ok(Client {
        certificate,
        chain,
        key,
    })
}

/// The gateway's own new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedServer {
    pub hosts: Vec<Host>,
    pub serial: Serial,
    pub not_after: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKey {
    New,
    Keep,
}

/// Issues a new server certificate with a new key. A running gateway takes it up by itself.
/// Without `hosts` it has the names of the current one.
///
/// # Errors
/// The gateway CA's key not here, a wrong clock, files.
pub fn issue_server(
    dir: &PkiDir,
    profiles: &Profiles,
    hosts: &[Host],
    now: OffsetDateTime,
) -> Result<IssuedServer, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    let current;
    let hosts = if hosts.is_empty() {
        current = Certificate::read(&dir.certificate("server"))?.hosts;
        &current
    } else {
        hosts
    };
    server(dir, profiles, hosts, ServerKey::New, now, &lock)
}

pub(super) fn server(
    dir: &PkiDir,
    profiles: &Profiles,
    hosts: &[Host],
    key: ServerKey,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<IssuedServer, PkiError> {
    // The common name is for eyes only and at most 64 characters long.
    let names: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let name = names
        .iter()
        .find(|name| name.len() <= 64)
        .ok_or(PkiError::Usage(
            "the server certificate needs a name or address: add --host",
        ))?;
    let lifetime = Lifetime::from_now(profiles, Kind::Server, now)?;
    let params = profiles.params(Kind::Server, &[("host", name)])?;
    let issuer = Authority::load(dir, "gateway-ca", "issue the server certificate")?;
    let key = match key {
        ServerKey::New => PrivateKey::generate()?,
        ServerKey::Keep => {
            let current = Certificate::read(&dir.certificate("server"))?;
            PrivateKey::of(dir, "server", &current, "renew the server certificate")?
        }
    };
    let certificate = issuer.issue(params, hosts, &key.pair, lifetime, now)?;
    record(dir, &certificate, lock)?;
    dir.write_pair(
        "server",
        &chain(&certificate, &issuer.certificate),
        &key.pem,
    )?;
    Ok(IssuedServer {
        hosts: hosts.to_vec(),
        serial: certificate.serial,
        not_after: certificate.not_after,
    })
}

/// The leaf and, unless everybody has it as a trust anchor, its issuer.
fn chain(certificate: &Certificate, issuer: &Certificate) -> String {
    let mut chain = certificate.pem();
    if !issuer.is_self_issued() {
        chain.push_str(&issuer.pem());
    }
    chain
}

/// What a client trusts to verify the gateway: where the server's chain ends.
pub(super) fn server_trust(dir: &PkiDir) -> Result<String, PkiError> {
    let gateway_ca = Certificate::read(&dir.certificate("gateway-ca"))?;
    if gateway_ca.is_self_issued() {
        return Ok(gateway_ca.pem());
    }
    Ok(Certificate::read(&dir.certificate("root"))?.pem())
}

fn default_gateway(dir: &PkiDir) -> Result<Endpoint, PkiError> {
    let server = Certificate::read(&dir.certificate("server"))?;
    let host = server.hosts.into_iter().next().ok_or(PkiError::Usage(
        "say where devices find the gateway: add --gateway HOST:PORT",
    ))?;
    Ok(Endpoint {
        host,
        port: Endpoint::MQTTS,
    })
}

/// Keeps a copy of everything issued, before it is handed out: what is not recorded could not
/// be revoked.
fn record(dir: &PkiDir, certificate: &Certificate, _lock: &Lock) -> Result<(), PkiError> {
    files::create_dir(&dir.issued())?;
    let path = dir.issued().join(format!("{}.pem", certificate.serial));
    files::write(&path, certificate.pem().as_bytes(), PUBLIC)
}

/// Everything issued here, by file name.
pub(super) fn issued(dir: &PkiDir) -> Result<Vec<Certificate>, PkiError> {
    let mut paths: Vec<_> = files::list(&dir.issued())?
        .into_iter()
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "pem")
                && path
                    .file_name()
                    .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| Certificate::read(path)).collect()
}

/// The certificates of one holder that can still be used.
pub(super) fn usable(
    dir: &PkiDir,
    holder: &Identity,
    now: OffsetDateTime,
) -> Result<Vec<Certificate>, PkiError> {
    let record = Record::load(dir)?;
    Ok(issued(dir)?
        .into_iter()
        .filter(|certificate| {
            certificate.kind() != Kind::Server
                && certificate.identity.as_ref() == Some(holder)
                && certificate.not_after > now
                && record.find(certificate).is_none()
        })
        .collect())
}

fn refuse_second(
    dir: &PkiDir,
    what: &'static str,
    holder: &Identity,
    now: OffsetDateTime,
) -> Result<(), PkiError> {
    match usable(dir, holder, now)?
        .iter()
        .map(|certificate| certificate.not_after)
        .max()
    {
        None => Ok(()),
        Some(until) => Err(PkiError::AlreadyIssued {
            what,
            id: holder.name().to_owned(),
            until: date(until),
        }),
    }
}
