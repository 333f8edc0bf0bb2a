//! Renewal: the same holder, new dates.

use std::fs;

use rcgen::{DistinguishedName, DnType};
use tidegate_wire::manifest::PublicKey;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::authority::{Authority, Lifetime};
use super::certificate::{Certificate, PrivateKey, Serial};
use super::error::PkiError;
use super::files::{self, Lock, PUBLIC, PkiDir, SECRET};
use super::hosts::{Endpoint, Host};
use super::identity::Identity;
use super::init;
use super::issue::{
    self, DeviceRequest, IssuedDevice, IssuedOperator, IssuedServer, OperatorRequest, ServerKey,
};
use super::profile::{Kind, Profiles};
use super::request::{SecretSource, SigningRequest};
use super::revocation::{self, Reason, Record};
use super::revoke;

/// How to renew.
#[derive(Debug, Default)]
pub struct RenewOptions {
    /// For a device or operator whose key stays where it is.
    pub csr: Option<SigningRequest>,
    /// For the server and the intermediates, which keep their key otherwise. Devices and
    /// operators always get a new one.
    pub new_key: bool,
    /// What a device's new bundle says about whose firmware to trust.
    pub release_keys: Vec<PublicKey>,
    /// Revoke what is replaced (for devices and operators).
    pub revoke_former: bool,
    pub gateway: Option<Endpoint>,
    /// For the server: other names than the current ones.
    pub hosts: Vec<Host>,
}

/// What was renewed.
#[derive(Debug)]
pub enum Renewed {
    Server(IssuedServer),
    Intermediate {
        kind: Kind,
        not_after: OffsetDateTime,
    },
    /// Its bundle carries no secret: the device keeps the one it has.
    Device(Box<IssuedDevice>),
    Operator(Box<IssuedOperator>),
}

/// Renews `server`, `gateway-ca`, `device-ca`, a device or operator by name, or the holder of
/// a serial number. `device:<id>` and `operator:<name>` are never taken for anything else.
///
/// # Errors
/// Nothing of that name; the issuer's key not here; wrong clock; files.
pub fn renew(
    dir: &PkiDir,
    profiles: &Profiles,
    target: &str,
    options: RenewOptions,
    now: OffsetDateTime,
) -> Result<Renewed, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    settle(dir)?;
    match target {
        "server" => server(dir, profiles, &options, now, &lock).map(Renewed::Server),
        "gateway-ca" => intermediate(dir, profiles, Kind::GatewayCa, options.new_key, now, &lock),
        "device-ca" => intermediate(dir, profiles, Kind::DeviceCa, options.new_key, now, &lock),
        "root" => Err(PkiError::Usage(
            "a root is not renewed: every device holds a copy. Create a new authority with `tidegate pki init --force`, trust the former device-ca.crt with `tidegate pki import --trust-only`, and move the devices over",
        )),
        _ => holder(dir, profiles, target, options, now, &lock),
    }
}

/// Renews the server certificate, with the same key and names, once less than a third of its
/// life is left. Meant for start-up and a daily timer; `None` if it was not due.
///
/// # Errors
/// As [`renew`]; in particular the gateway CA's key may be kept elsewhere.
pub fn renew_server_if_due(
    dir: &PkiDir,
    profiles: &Profiles,
    now: OffsetDateTime,
) -> Result<Option<IssuedServer>, PkiError> {
    dir.require()?;
    let current = Certificate::read(&dir.certificate("server"))?;
    let life = current.not_after - current.not_before;
    if current.not_after - now > life / 3 {
        return Ok(None);
    }
    // An authority that itself ends soon cannot give the server more time.
    let issuer = Certificate::read(&dir.certificate("gateway-ca"))?;
    if issuer.not_after - current.not_after < Duration::DAY {
        return Ok(None);
    }
    let lock = dir.lock()?;
    server(dir, profiles, &RenewOptions::default(), now, &lock).map(Some)
}

fn server(
    dir: &PkiDir,
    profiles: &Profiles,
    options: &RenewOptions,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<IssuedServer, PkiError> {
    let key = if options.new_key {
        ServerKey::New
    } else {
        ServerKey::Keep
    };
    let current;
    let hosts = if options.hosts.is_empty() {
        current = Certificate::read(&dir.certificate("server"))?.hosts;
        &current
    } else {
        &options.hosts
    };
    issue::server(dir, profiles, hosts, key, now, lock)
}

/// With its own key and name, an intermediate's certificates stay valid as they are. With a
/// new key it gets a new name too; the former device CA goes on vouching for its devices until
/// their certificates end.
fn intermediate(
    dir: &PkiDir,
    profiles: &Profiles,
    kind: Kind,
    new_key: bool,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<Renewed, PkiError> {
    let stem = kind.name();
    let current = Certificate::read(&dir.certificate(stem))?;
    if current.is_self_issued() {
        return Err(PkiError::Usage(
            "this authority was imported and signs itself; renew it where it was made and import it again",
        ));
    }
    let root = Authority::load(dir, "root", "renew an intermediate")?;
    let certificate = if new_key {
        let name = installation_name(&root.certificate, profiles)?;
        if kind == Kind::DeviceCa {
            retire(dir, &current)?;
        }
        init::create_intermediate(dir, profiles, kind, &name, &root, now)?
    } else {
        let key = PrivateKey::of(dir, stem, &current, "renew it")?;
        let mut params = profiles.params(kind, &[("name", "x"), ("tag", "x")])?;
        params.distinguished_name = subject_of(&current)?;
        let lifetime = Lifetime::from_now(profiles, kind, now)?;
        let certificate = root.issue(params, &[], &key.pair, lifetime, now)?;
        if certificate.subject != current.subject {
            return Err(PkiError::Signing(rcgen::Error::X509(
                "the authority's name cannot be reproduced; renew it with --new-key".into(),
            )));
        }
        // The key stays as it is, so replacing the certificate is a single step.
        files::write(&dir.certificate(stem), certificate.pem().as_bytes(), PUBLIC)?;
        certificate
    };
    if kind == Kind::GatewayCa {
        // The server sends this intermediate along.
        server(dir, profiles, &RenewOptions::default(), now, lock)?;
    }
    revocation::sign_lists(dir, &mut Record::load(dir)?, now, lock)?;
    Ok(Renewed::Intermediate {
        kind,
        not_after: certificate.not_after,
    })
}

/// Copies the device CA to `retired/`, where it is still trusted for clients and still signs
/// its revocation list.
pub(super) fn retire(dir: &PkiDir, current: &Certificate) -> Result<(), PkiError> {
    let stem = init::add_trusted(dir, current, "retired")?;
    match PrivateKey::of(dir, "device-ca", current, "retire it") {
        Ok(key) => files::write(&dir.key(&stem), key.pem.as_bytes(), SECRET),
        Err(PkiError::KeyOffline { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The `{name}` the authority was created with, read back from the root's common name; an
/// imported root has its common name for it.
fn installation_name(root: &Certificate, profiles: &Profiles) -> Result<String, PkiError> {
    let (_, x509) = X509Certificate::from_der(&root.der)
        .map_err(|error| PkiError::Signing(rcgen::Error::X509(error.to_string())))?;
    let common_name = x509
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .unwrap_or("Tidegate")
        .to_owned();
    let name = match common_name.split_once(" Root CA ") {
        Some((name, _)) => name.to_owned(),
        None => common_name,
    };
    Ok(import_name(&name, profiles))
}

/// A name short enough for the profiles' common names.
pub(super) fn import_name(name: &str, profiles: &Profiles) -> String {
    let fits = |name: &str| {
        [Kind::GatewayCa, Kind::DeviceCa].iter().all(|kind| {
            profiles
                .params(*kind, &[("name", name), ("tag", "000000")])
                .is_ok()
        })
    };
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while !fits(&name) && name.pop().is_some() {}
    if name.trim().is_empty() {
        "Tidegate".into()
    } else {
        name
    }
}

fn subject_of(certificate: &Certificate) -> Result<DistinguishedName, PkiError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        PkiError::Signing(rcgen::Error::X509(format!("the authority's name: {error}")))
    };
    let (_, x509) =
        X509Certificate::from_der(&certificate.der).map_err(|error| unreadable(&error))?;
    let mut name = DistinguishedName::new();
    for attribute in x509.subject().iter_attributes() {
        let oid: Vec<u64> = attribute
            .attr_type()
            .iter()
            .ok_or_else(|| unreadable(&"an attribute type is too large"))?
            .collect();
        let value = attribute.as_str().map_err(|error| unreadable(&error))?;
        name.push(DnType::from_oid(&oid), value);
    }
    Ok(name)
}

fn holder(
    dir: &PkiDir,
    profiles: &Profiles,
    target: &str,
    options: RenewOptions,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<Renewed, PkiError> {
    let holder = find_holder(dir, target)?;
    let former = issue::usable(dir, &holder, now)?;
    let renewed = match holder {
        Identity::Device(id) => {
            let request = DeviceRequest {
                id,
                csr: options.csr,
                gateway: options.gateway,
                secret: SecretSource::None,
                release_keys: options.release_keys,
                force: true,
            };
            Renewed::Device(Box::new(issue::device(dir, profiles, &request, now, lock)?))
        }
        Identity::Operator(name) => {
            let request = OperatorRequest {
                name,
                csr: options.csr,
                force: true,
            };
            Renewed::Operator(Box::new(issue::operator(
                dir, profiles, &request, now, lock,
            )?))
        }
    };
    if options.revoke_former && !former.is_empty() {
        revoke::record(dir, &former, Reason::Superseded, now, lock)?;
    }
    Ok(renewed)
}

/// Whom a name or serial number on the command line means, among those issued to here.
///
/// # Errors
/// [`PkiError::UnknownTarget`], or unreadable files.
pub fn find_holder(dir: &PkiDir, target: &str) -> Result<Identity, PkiError> {
    let issued: Vec<_> = issue::issued(dir)?
        .into_iter()
        .filter(|certificate| certificate.kind() != Kind::Server)
        .collect();
    let known = |identity: &Identity| {
        issued
            .iter()
            .any(|certificate| certificate.identity.as_ref() == Some(identity))
    };
    let device = |id: &str| Some(Identity::Device(id.to_owned())).filter(known);
    let operator = |name: &str| Some(Identity::Operator(name.to_owned())).filter(known);
    let by_serial = |text: &str| {
        let serial = Serial::from_hex(text)?;
        issued
            .iter()
            .find(|certificate| certificate.serial == serial)?
            .identity
            .clone()
    };
    let found = if let Some(id) = target.strip_prefix("device:") {
        device(id)
    } else if let Some(name) = target.strip_prefix("operator:") {
        operator(name)
    } else {
        device(target)
            .or_else(|| operator(target))
            .or_else(|| by_serial(target))
    };
    found.ok_or_else(|| PkiError::UnknownTarget(super::identity::printable(target)))
}

/// Finishes an interrupted exchange of a pair: a pending key that belongs to the certificate
/// in force gets its name, any other is removed.
pub(super) fn settle(dir: &PkiDir) -> Result<(), PkiError> {
    for stem in ["root", "gateway-ca", "device-ca", "server"] {
        let [key, pending] = dir.key_candidates(stem);
        if !pending.exists() {
            continue;
        }
        let certificate = Certificate::read(&dir.certificate(stem))?;
        let in_force = PrivateKey::read(&pending).is_ok_and(|key| key.matches(&certificate));
        let settled = PrivateKey::read(&key).is_ok_and(|key| key.matches(&certificate));
        if in_force && !settled {
            dir.promote_key(stem)?;
        } else {
            fs::remove_file(&pending).map_err(PkiError::io("remove", &pending))?;
        }
    }
    Ok(())
}
