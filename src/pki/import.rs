//! Taking over an existing certificate authority, such as one made with openssl.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::authority::Authority;
use super::certificate::{Certificate, PrivateKey, date};
use super::error::PkiError;
use super::files::{self, PUBLIC, PkiDir};
use super::hosts::Host;
use super::init::{self, Initialised};
use super::issue::{self, ServerKey};
use super::profile::Profiles;
use super::renew;
use super::request::MIN_RSA_BITS;
use super::revocation::{self, Record};

/// What an imported authority does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root above new intermediates. Devices that trust it accept the gateway as it is,
    /// and certificates it issued to devices go on working.
    Root,
    /// Signs device and operator certificates itself.
    DeviceCa,
    /// Signs the gateway's server certificate itself.
    GatewayCa,
    /// Both, as in set-ups with a single authority and no intermediates.
    Both,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "the root",
            Self::DeviceCa => "the device authority",
            Self::GatewayCa => "the gateway authority",
            Self::Both => "the only authority",
        }
    }
}

/// An existing authority and what to make of it.
#[derive(Debug)]
pub struct Import<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub role: Role,
    /// `{name}` in the profiles, for the intermediates; by default the authority's own.
    pub name: Option<&'a str>,
    /// The server certificate's names.
    pub hosts: &'a [Host],
    /// Replace an authority that is here already (for the roles `Root` and `Both`).
    pub force: bool,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub subject: String,
    pub not_after: OffsetDateTime,
    /// Set if the import created everything around the authority too.
    pub initialised: Option<Initialised>,
}

/// Imports an authority with its key.
///
/// # Errors
/// Not an authority, a key that does not match or is encrypted, too weak, expired; for
/// `Root`: no room for intermediates below it.
pub fn import(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &Import<'_>,
    now: OffsetDateTime,
) -> Result<Imported, PkiError> {
    let certificate = Certificate::read(request.certificate)?;
    check(&certificate, request.certificate, request.role, now)?;
    let key = PrivateKey::read(request.key)?;
    if !key.matches(&certificate) {
        return Err(PkiError::KeyMismatch {
            key: request.key.to_path_buf(),
            certificate: request.certificate.to_path_buf(),
        });
    }
    let initialised = match request.role {
        Role::Root => Some(as_root(dir, profiles, request, &certificate, key, now)?),
        Role::Both if !dir.is_initialised() || request.force => {
            Some(as_only(dir, profiles, request, &certificate, &key, now)?)
        }
        role => {
            as_intermediate(dir, profiles, request, role, &certificate, &key, now)?;
            None
        }
    };
    Ok(Imported {
        subject: certificate.subject_text.clone(),
        not_after: certificate.not_after,
        initialised,
    })
}

/// Trusts an authority for client certificates only; its key is not needed.
///
/// Its certificates are revoked with `tidegate pki revoke --cert`. To stop trusting it, delete
/// its file from `pki/imported`.
///
/// # Errors
/// Not an authority, too weak, expired; no authority of the gateway's own yet.
pub fn trust(dir: &PkiDir, path: &Path, now: OffsetDateTime) -> Result<Imported, PkiError> {
    let certificate = Certificate::read(path)?;
    check_strength(&certificate, path, "an authority for clients", now)?;
    // Version 1 has no extensions to say so; such a root was made by `openssl x509 -req`.
    let is_authority = certificate.is_ca || (certificate.is_v1 && certificate.is_self_issued());
    if !is_authority {
        return Err(unsuitable(path, "an authority for clients", NOT_A_CA));
    }
    dir.require()?;
    let lock = dir.lock()?;
    init::add_trusted(dir, &certificate, "imported")?;
    revocation::sign_lists(dir, &mut Record::load(dir)?, now, &lock)?;
    Ok(Imported {
        subject: certificate.subject_text.clone(),
        not_after: certificate.not_after,
        initialised: None,
    })
}

fn as_root(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &Import<'_>,
    certificate: &Certificate,
    key: PrivateKey,
    now: OffsetDateTime,
) -> Result<Initialised, PkiError> {
    let name = name(request, certificate, profiles);
    init::create(dir, request.force, request.hosts, |staging, lock| {
        let pem = key.pem.clone();
        let root = Authority::new(certificate.clone(), key)?;
        staging.write_pair("root", &certificate.pem(), &pem)?;
        // Devices it certified directly are to get in as before.
        init::add_trusted(staging, certificate, "imported")?;
        init::below_root(staging, profiles, &name, request.hosts, &root, now, lock)
    })
}

fn as_only(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &Import<'_>,
    certificate: &Certificate,
    key: &PrivateKey,
    now: OffsetDateTime,
) -> Result<Initialised, PkiError> {
    init::create(dir, request.force, request.hosts, |staging, lock| {
        files::write(
            &staging.certificate("root"),
            certificate.pem().as_bytes(),
            PUBLIC,
        )?;
        staging.write_pair("gateway-ca", &certificate.pem(), &key.pem)?;
        staging.write_pair("device-ca", &certificate.pem(), &key.pem)?;
        init::finish(staging, profiles, request.hosts, now, lock)
    })
}

fn as_intermediate(
    dir: &PkiDir,
    profiles: &Profiles,
    request: &Import<'_>,
    role: Role,
    certificate: &Certificate,
    key: &PrivateKey,
    now: OffsetDateTime,
) -> Result<(), PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    renew::settle(dir)?;
    if matches!(role, Role::DeviceCa | Role::Both) {
        let current = Certificate::read(&dir.certificate("device-ca"))?;
        renew::retire(dir, &current)?;
        dir.write_pair("device-ca", &certificate.pem(), &key.pem)?;
    }
    if matches!(role, Role::GatewayCa | Role::Both) {
        let current = Certificate::read(&dir.certificate("server"))?.hosts;
        let hosts = if request.hosts.is_empty() {
            &current
        } else {
            request.hosts
        };
        dir.write_pair("gateway-ca", &certificate.pem(), &key.pem)?;
        issue::server(dir, profiles, hosts, ServerKey::Keep, now, &lock)?;
    }
    revocation::sign_lists(dir, &mut Record::load(dir)?, now, &lock)?;
    Ok(())
}

/// The intermediates' `{name}`: as given, or the common name of what is imported.
fn name(request: &Import<'_>, certificate: &Certificate, profiles: &Profiles) -> String {
    let own = certificate
        .subject_text
        .split(", ")
        .find_map(|part| part.strip_prefix("CN="))
        .unwrap_or("Tidegate");
    renew::import_name(request.name.unwrap_or(own), profiles)
}

const NOT_A_CA: &str = "it is not a certificate authority (no basic constraint CA:TRUE); it was probably issued to a server or device. Give the authority's certificate, often named ca.crt";

fn check(
    certificate: &Certificate,
    path: &Path,
    role: Role,
    now: OffsetDateTime,
) -> Result<(), PkiError> {
    check_strength(certificate, path, role.name(), now)?;
    if !certificate.is_ca {
        return Err(unsuitable(path, role.name(), NOT_A_CA));
    }
    if role == Role::Root && certificate.path_length == Some(0) {
        return Err(unsuitable(
            path,
            role.name(),
            "it may not have authorities below it (path length 0); use --role both",
        ));
    }
    if !certificate.is_self_issued() {
        return Err(unsuitable(
            path,
            role.name(),
            "it was issued by another authority; import that one, or only trust this one with --trust-only",
        ));
    }
    Ok(())
}

fn check_strength(
    certificate: &Certificate,
    path: &Path,
    role: &'static str,
    now: OffsetDateTime,
) -> Result<(), PkiError> {
    if let Some(bits) = certificate.rsa_bits().filter(|bits| *bits < MIN_RSA_BITS) {
        return Err(unsuitable(
            path,
            role,
            &format!("its RSA key of {bits} bits is too weak; TLS takes {MIN_RSA_BITS} and up"),
        ));
    }
    if certificate.not_after <= now {
        return Err(unsuitable(
            path,
            role,
            &format!("it ended on {}", date(certificate.not_after)),
        ));
    }
    Ok(())
}

fn unsuitable(path: &Path, role: &'static str, reason: &str) -> PkiError {
    let path: PathBuf = path.to_path_buf();
    PkiError::UnsuitableCa {
        path,
        role,
        reason: reason.into(),
    }
}
