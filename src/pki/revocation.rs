//! What is revoked, and the signed lists (CRLs) that say so to others.
//!
//! `revoked.json` is the record and takes effect in this gateway by itself; `crl.pem` is
//! derived from it, one list per authority whose key is here, for everybody else (nginx,
//! openssl). So a revocation needs no CA key to work, a list that has run out locks nobody
//! out, and a list is never the only place that remembers.

use std::collections::HashSet;

use rcgen::RevocationReason;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::authority::Authority;
use super::certificate::{Certificate, Serial, hex, is_current, pem, unhex};
use super::error::PkiError;
use super::files::{self, Lock, PUBLIC, PkiDir};

/// How long a signed list is good for. It is signed again from half that time on, so a
/// gateway that is off for two weeks still starts with a current one.
const CRL_LIFETIME: Duration = Duration::days(30);

/// The root's list lasts as long as the intermediates it is about, because its key may never
/// come back to this machine, and verifiers such as nginx insist on a current list of every
/// authority in the chain.
const ROOT_CRL_LIFETIME: Duration = Duration::days(3650);

/// Why a certificate was revoked (RFC 5280, section 5.3.1; the ones an operator can mean).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    #[default]
    Unspecified,
    /// The device or its key was lost, stolen or read out.
    KeyCompromise,
    /// A newer certificate replaces it.
    Superseded,
    /// The device is out of service.
    CessationOfOperation,
    PrivilegeWithdrawn,
}

impl Reason {
    /// From the name on the command line.
    ///
    /// # Errors
    /// [`PkiError::BadReason`], which lists the names.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        Ok(match text {
            "unspecified" => Self::Unspecified,
            "key-compromise" => Self::KeyCompromise,
            "superseded" => Self::Superseded,
            "cessation-of-operation" => Self::CessationOfOperation,
            "privilege-withdrawn" => Self::PrivilegeWithdrawn,
            _ => return Err(PkiError::BadReason(super::identity::printable(text))),
        })
    }
}

impl From<Reason> for RevocationReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unspecified => Self::Unspecified,
            Reason::KeyCompromise => Self::KeyCompromise,
            Reason::Superseded => Self::Superseded,
            Reason::CessationOfOperation => Self::CessationOfOperation,
            Reason::PrivilegeWithdrawn => Self::PrivilegeWithdrawn,
        }
    }
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) serial: Serial,
    /// DER of the issuer's name.
    pub(super) issuer: Vec<u8>,
    pub(super) subject: String,
    pub(super) at: OffsetDateTime,
    pub(super) reason: Reason,
}

/// The record `revoked.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// Number of the last list signed; each is higher than the one before, whatever the clock.
    pub(super) crl_number: u64,
    pub(super) revoked: Vec<Revocation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    version: u32,
    crl_number: u64,
    revoked: Vec<RevocationEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationEntry {
    serial: String,
    issuer_der: String,
    subject: String,
    at: String,
    reason: Reason,
}

impl Record {
    /// An empty record if there is none; a damaged one is an error, because carrying on
    /// without it would let revoked devices back in.
    pub(super) fn load(dir: &PkiDir) -> Result<Self, PkiError> {
        let path = dir.revoked();
        let Some(bytes) = files::read_if_exists(&path)? else {
            return Ok(Self::default());
        };
        let bad = |reason: String| PkiError::bad_file(&path, "record of revocations", reason);
        let file: RecordFile =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if file.version != 1 {
            return Err(bad(format!(
                "version {} is of a newer release",
                file.version
            )));
        }
        let revoked = file
            .revoked
            .into_iter()
            .map(|entry| {
                Some(Revocation {
                    serial: Serial::from_hex(&entry.serial)?,
                    issuer: unhex(&entry.issuer_der)?,
                    at: OffsetDateTime::parse(&entry.at, &Rfc3339).ok()?,
                    subject: entry.subject,
                    reason: entry.reason,
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| bad("an entry's serial, issuer or time cannot be read".into()))?;
        Ok(Self {
            crl_number: file.crl_number,
            revoked,
        })
    }

    pub(super) fn save(&self, dir: &PkiDir, _lock: &Lock) -> Result<(), PkiError> {
        let path = dir.revoked();
        let bad = |reason: String| PkiError::bad_file(&path, "record of revocations", reason);
        let revoked = self
            .revoked
            .iter()
            .map(|revocation| {
                Ok(RevocationEntry {
                    serial: revocation.serial.to_string(),
                    issuer_der: hex(&revocation.issuer),
                    subject: revocation.subject.clone(),
                    at: revocation
                        .at
                        .format(&Rfc3339)
                        .map_err(|error| bad(error.to_string()))?,
                    reason: revocation.reason,
                })
            })
            .collect::<Result<_, PkiError>>()?;
        let file = RecordFile {
            version: 1,
            crl_number: self.crl_number,
            revoked,
        };
        let mut text = serde_json::to_vec_pretty(&file).map_err(|error| bad(error.to_string()))?;
        text.push(b'\n');
        files::write(&path, &text, PUBLIC)
    }

    pub(super) fn find(&self, certificate: &Certificate) -> Option<&Revocation> {
        self.revoked
            .iter()
            .find(|r| r.serial == certificate.serial && r.issuer == certificate.issuer)
    }
}

/// Every revoked certificate this gateway knows of, by issuer and serial number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedSet {
    revoked: HashSet<(Vec<u8>, Serial)>,
}

impl RevokedSet {
    /// Whether the certificate with this serial number (INTEGER content), issued under this
    /// name (DER, with its SEQUENCE), is revoked.
    #[must_use]
    pub fn contains(&self, serial: &[u8], issuer: &[u8]) -> bool {
        !self.revoked.is_empty()
            && self
                .revoked
                .contains(&(issuer.to_vec(), Serial::from_bytes(serial)))
    }

    /// How many certificates are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// The record together with what signed lists say; `lists` must have been verified.
    pub(super) fn new(record: &Record, lists: &[SignedList]) -> Self {
        let mut revoked: HashSet<_> = record
            .revoked
            .iter()
            .map(|r| (r.issuer.clone(), r.serial.clone()))
            .collect();
        for list in lists {
            for serial in &list.serials {
                revoked.insert((list.issuer.clone(), serial.clone()));
            }
        }
        Self { revoked }
    }
}

/// One list in `crl.pem` whose signature was verified.
#[derive(Debug, Clone)]
pub(super) struct SignedList {
    der: Vec<u8>,
    issuer: Vec<u8>,
    /// Which authority's key signed it: two can share a name.
    signer: Vec<u8>,
    pub(super) this_update: OffsetDateTime,
    pub(super) next_update: Option<OffsetDateTime>,
    serials: Vec<Serial>,
}

/// Reads `crl.pem` and verifies each list against the authorities.
///
/// # Errors
/// A list that cannot be decoded, or that none of the authorities signed: it was changed, and
/// whoever changed it may want a device back in.
pub(super) fn read_lists(
    dir: &PkiDir,
    authorities: &[Certificate],
) -> Result<Vec<SignedList>, PkiError> {
    let path = dir.crl();
    let Some(text) = files::read_if_exists(&path)? else {
        return Ok(Vec::new());
    };
    let bad = |reason: String| {
        PkiError::bad_file(
            &path,
            "revocation list",
            format!("{reason}; sign it again with `tidegate pki crl`"),
        )
    };
    CertificateRevocationListDer::pem_slice_iter(&text)
        .map(|der| {
            let der = der.map_err(|error| bad(error.to_string()))?;
            verify_list(&der, authorities).map_err(&bad)
        })
        .collect()
}

fn verify_list(der: &[u8], authorities: &[Certificate]) -> Result<SignedList, String> {
    let (rest, list) =
        CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err("there are bytes after a list's end".into());
    }
    let issuer = list.issuer().as_raw();
    let signer = authorities.iter().find(|authority| {
        authority.subject == issuer
            && is_current(&list.signature_algorithm)
            && SubjectPublicKeyInfo::from_der(&authority.public_key)
                .is_ok_and(|(_, key)| list.verify_signature(&key).is_ok())
    });
    let Some(signer) = signer else {
        return Err(format!(
            "the list of `{}` is not signed by an authority of this gateway",
            super::identity::printable(&list.issuer().to_string())
        ));
    };
    let time = |time: x509_parser::time::ASN1Time| {
        OffsetDateTime::from_unix_timestamp(time.timestamp()).map_err(|error| error.to_string())
    };
    Ok(SignedList {
        issuer: issuer.to_vec(),
        signer: signer.public_key.clone(),
        this_update: time(list.last_update())?,
        next_update: list.next_update().map(time).transpose()?,
        serials: list
            .iter_revoked_certificates()
            .map(|revoked| Serial::from_bytes(revoked.raw_serial()))
            .collect(),
        der: der.to_vec(),
    })
}

/// What signing the lists came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CrlUpdate {
    /// Authorities whose list was signed, by subject.
    pub signed: Vec<String>,
    /// Authorities whose list could not be signed because their key is elsewhere (or they may
    /// not sign lists); the list they had is kept.
    pub skipped: Vec<String>,
}

/// The authorities that issue certificates here, and so have a list: the devices' first,
/// because simple tools read only the first.
pub(super) fn stems(dir: &PkiDir) -> Result<Vec<String>, PkiError> {
    let mut stems: Vec<String> = ["device-ca", "gateway-ca", "root"]
        .map(str::to_owned)
        .into();
    stems.extend(dir.stems_in("imported")?);
    stems.extend(dir.stems_in("retired")?);
    Ok(stems)
}

/// The certificates of all authorities, each once.
pub(super) fn authorities(dir: &PkiDir) -> Result<Vec<Certificate>, PkiError> {
    let mut found: Vec<Certificate> = Vec::new();
    for stem in stems(dir)? {
        let certificate = Certificate::read(&dir.certificate(&stem))?;
        if !found
            .iter()
            .any(|known| same_authority(known, &certificate))
        {
            found.push(certificate);
        }
    }
    Ok(found)
}

fn same_authority(a: &Certificate, b: &Certificate) -> bool {
    a.subject == b.subject && a.public_key == b.public_key
}

/// Signs every list whose authority's key is here, and keeps the others as they are.
pub(super) fn sign_lists(
    dir: &PkiDir,
    record: &mut Record,
    now: OffsetDateTime,
    lock: &Lock,
) -> Result<CrlUpdate, PkiError> {
    let mut update = CrlUpdate::default();
    let mut text = String::new();
    let mut done: Vec<Certificate> = Vec::new();
    // A damaged list of an absent authority is dropped here: the record remembers.
    let former = read_lists(dir, &authorities(dir)?).unwrap_or_default();
    let number = record.crl_number.saturating_add(1);
    for stem in stems(dir)? {
        let certificate = Certificate::read(&dir.certificate(&stem))?;
        if done.iter().any(|known| same_authority(known, &certificate)) {
            continue;
        }
        done.push(certificate.clone());
        let subject = certificate.subject_text.clone();
        let revoked: Vec<_> = record
            .revoked
            .iter()
            .filter(|r| r.issuer == certificate.subject)
            .collect();
        let lifetime = if stem == "root" {
            ROOT_CRL_LIFETIME
        } else {
            CRL_LIFETIME
        };
        let signed = Authority::load(dir, &stem, "sign its revocation list")
            .and_then(|authority| authority.sign_crl(&revoked, number, now, lifetime));
        match signed {
            Ok(pem) => {
                text.push_str(&pem);
                update.signed.push(subject);
            }
            Err(
                PkiError::KeyOffline { .. } | PkiError::Signing(rcgen::Error::IssuerNotCrlSigner),
            ) => {
                if let Some(list) = former
                    .iter()
                    .find(|list| list.signer == certificate.public_key)
                {
                    text.push_str(&pem("X509 CRL", &list.der));
                }
                update.skipped.push(subject);
            }
            Err(error) => return Err(error),
        }
    }
    record.crl_number = number;
    record.save(dir, lock)?;
    files::write(&dir.crl(), text.as_bytes(), PUBLIC)?;
    files::write(&dir.clients(), client_trust(dir)?.as_bytes(), PUBLIC)?;
    Ok(update)
}

/// PEM of what other servers on this machine (nginx) need to verify clients: the device
/// authorities, imported ones, and the root, without which openssl builds no chain.
fn client_trust(dir: &PkiDir) -> Result<String, PkiError> {
    let mut found: Vec<Certificate> = Vec::new();
    for stem in stems(dir)?.iter().filter(|stem| *stem != "gateway-ca") {
        let certificate = Certificate::read(&dir.certificate(stem))?;
        if !found.iter().any(|known| known.der == certificate.der) {
            found.push(certificate);
        }
    }
    Ok(found.iter().map(Certificate::pem).collect())
}

/// Signs the revocation lists again, now.
///
/// # Errors
/// No authority, another command running, or unreadable files.
pub fn sign_crl(dir: &PkiDir, now: OffsetDateTime) -> Result<CrlUpdate, PkiError> {
    dir.require()?;
    let lock = dir.lock()?;
    sign_lists(dir, &mut Record::load(dir)?, now, &lock)
}

/// Signs the lists again if any that can be signed here is missing, unreadable, incomplete,
/// past half its life, or dated in the future. Meant for start-up and a daily timer; `None` if nothing was
/// due.
///
/// # Errors
/// As [`sign_crl`].
pub fn refresh_crl(dir: &PkiDir, now: OffsetDateTime) -> Result<Option<CrlUpdate>, PkiError> {
    dir.require()?;
    if is_due(dir, now)? {
        sign_crl(dir, now).map(Some)
    } else {
        Ok(None)
    }
}

fn is_due(dir: &PkiDir, now: OffsetDateTime) -> Result<bool, PkiError> {
    let record = Record::load(dir)?;
    let authorities = authorities(dir)?;
    let Ok(lists) = read_lists(dir, &authorities) else {
        return Ok(true);
    };
    for stem in stems(dir)? {
        if !dir.key_candidates(&stem).iter().any(|key| key.exists()) {
            continue;
        }
        let certificate = Certificate::read(&dir.certificate(&stem))?;
        let fresh = lists
            .iter()
            .filter(|list| list.signer == certificate.public_key)
            .any(|list| is_fresh(list, &record, now));
        if !fresh {
            return Ok(true);
        }
    }
    Ok(false)
}

/// In the first half of its life, and complete: a revocation can have been recorded without its
/// list being signed, if the power went in between.
fn is_fresh(list: &SignedList, record: &Record, now: OffsetDateTime) -> bool {
    list.this_update <= now + Duration::HOUR
        && now < list.this_update + CRL_LIFETIME / 2
        && record
            .revoked
            .iter()
            .filter(|revocation| revocation.issuer == list.issuer)
            .all(|revocation| list.serials.contains(&revocation.serial))
}

/// When the soonest of the signed lists runs out, of those whose key is here.
pub(super) fn next_update(dir: &PkiDir) -> Result<Option<OffsetDateTime>, PkiError> {
    let lists = read_lists(dir, &authorities(dir)?)?;
    Ok(lists.iter().filter_map(|list| list.next_update).min())
}
