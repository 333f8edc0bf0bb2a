//! Revoking: recorded first, which is what takes effect; signed into the lists second.

use std::path::PathBuf;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::{Certificate, Serial};
use super::error::PkiError;
use super::files::{Lock, PkiDir};
use super::issue;
use super::profile::Kind;
use super::renew;
use super::revocation::{self, CrlUpdate, Reason, Record, Revocation};

/// What to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeTarget {
    /// A device or operator (all its certificates that are still usable), or the serial
    /// number of one certificate; issued here.
    Name(String),
    /// A certificate file, also one issued elsewhere by an imported authority.
    File(PathBuf),
}

/// What was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub serials: Vec<Serial>,
    /// The subjects, in the same order.
    pub subjects: Vec<String>,
    /// How the signed lists came out. The revocation holds in this gateway whatever this says.
    pub crl: CrlUpdate,
}

/// Revokes certificates. From then on the gateway refuses them; a running one takes it up
/// within a second and closes their sessions.
///
/// # Errors
/// Nothing of that name, nothing left to revoke, a certificate of an unknown authority, files.
pub fn revoke(
    dir: &PkiDir,
    target: &RevokeTarget,
    reason: Reason,
    now: OffsetDateTime,
) -> Result<Revoked, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    let certificates = match target {
        RevokeTarget::File(path) => {
            let certificate = Certificate::read(path)?;
            if !is_ours(dir, &certificate)? {
                return Err(PkiError::ForeignCertificate(path.clone()));
            }
            vec![certificate]
        }
        RevokeTarget::Name(name) => match by_serial(dir, name)? {
            Some(certificate) => vec![certificate],
            None => {
                let holder = renew::find_holder(dir, name)?;
                issue::usable(dir, &holder, now)?
            }
        },
    };
    let record = Record::load(dir)?;
    let fresh: Vec<_> = certificates
        .into_iter()
        .filter(|c| record.find(c).is_none())
        .collect();
    if fresh.is_empty() {
        let name = match target {
            RevokeTarget::Name(name) => super::identity::printable(name),
            RevokeTarget::File(path) => path.display().to_string(),
        };
        return Err(PkiError::NothingToRevoke(name));
    }
    let crl = self::record(dir, &fresh, reason, now, &lock)?;
    Ok(Revoked {
        serials: fresh
            .iter()
            .map(|certificate| certificate.serial.clone())
            .collect(),
        subjects: fresh
            .iter()
            .map(|certificate| certificate.subject_text.clone())
            .collect(),
        crl,
    })
}

/// Puts certificates on the record and signs the lists.
pub(super) fn record(
    dir: &PkiDir,
    certificates: &[Certificate],
    reason: Reason,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<CrlUpdate, PkiError> {
    let mut record = Record::load(dir)?;
    let at = now.replace_nanosecond(0).unwrap_or(now);
    for certificate in certificates {
        if record.find(certificate).is_none() {
            record.revoked.push(Revocation {
                serial: certificate.serial.clone(),
                issuer: certificate.issuer.clone(),
                subject: certificate.subject_text.clone(),
                at,
                reason,
            });
        }
    }
    // Saved before anything is signed: from here on it is revoked, whatever happens next.
    record.save(dir, lock)?;
    revocation::sign_lists(dir, &mut record, now, lock)
}

/// One of the certificates issued here, the server's included, unless a device bears the text
/// as its name.
fn by_serial(dir: &PkiDir, text: &str) -> Result<Option<Certificate>, PkiError> {
    let Some(serial) = Serial::from_hex(text) else {
        return Ok(None);
    };
    let issued = issue::issued(dir)?;
    let is_a_name = issued.iter().any(|certificate| {
        certificate.kind() != Kind::Server
            && certificate
                .identity
                .as_ref()
                .is_some_and(|identity| identity.name() == text)
    });
    if is_a_name {
        return Ok(None);
    }
    Ok(issued
        .into_iter()
        .find(|certificate| certificate.serial == serial))
}

fn is_ours(dir: &PkiDir, certificate: &Certificate) -> Result<bool, PkiError> {
    let Ok((_, x509)) = X509Certificate::from_der(&certificate.der) else {
        return Ok(false);
    };
    Ok(revocation::authorities(dir)?
        .iter()
        .any(|authority| authority.signed(&x509)))
}
