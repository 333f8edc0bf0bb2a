//! Signing: a certificate authority's certificate with its private key.

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair,
    PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::certificate::{Certificate, PrivateKey, Serial, date};
use super::error::PkiError;
use super::files::PkiDir;
use super::hosts::Host;
use super::profile::{Kind, Profiles};
use super::revocation::Revocation;

/// The dates of what is about to be issued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

/// Before this the clock is wrong: 1 January 2025, older than any release of this program.
/// A Raspberry Pi without network starts in 1970 or at its last shutdown.
const EARLIEST: i64 = 1_735_689_600;

impl Lifetime {
    pub(super) fn from_now(
        profiles: &Profiles,
        kind: Kind,
        now: OffsetDateTime,
    ) -> Result<Self, PkiError> {
        if now.unix_timestamp() < EARLIEST {
            return Err(PkiError::ClockNotSet(date(now)));
        }
        // X.509 dates have no fractions of a second.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        Ok(Self {
            not_before: now - profiles.backdate(kind),
            not_after: now + profiles.lifetime(kind),
        })
    }
}

/// A certificate authority that can sign.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    subject_key_id: Option<Vec<u8>>,
}

impl Authority {
    pub(super) fn new(certificate: Certificate, key: PrivateKey) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key.pair)?;
        let subject_key_id = subject_key_id(&certificate.der);
        Ok(Self {
            certificate,
            issuer,
            subject_key_id,
        })
    }

    /// Reads `<stem>.crt` and its key.
    pub(super) fn load(dir: &PkiDir, stem: &str, purpose: &'static str) -> Result<Self, PkiError> {
        let certificate = Certificate::read(&dir.certificate(stem))?;
        let key = PrivateKey::of(dir, stem, &certificate, purpose)?;
        Self::new(certificate, key)
    }

    /// A self-signed authority of its own making.
    pub(super) fn create_root(
        mut params: CertificateParams,
        key: PrivateKey,
        lifetime: Lifetime,
    ) -> Result<Self, PkiError> {
        finish(&mut params, lifetime)?;
        let der = params.self_signed(&key.pair)?.der().clone();
        let certificate = decode(der)?;
        Self::new(certificate, key)
    }

    /// Signs a certificate for `public_key`. It ends no later than the authority itself, so a
    /// chain never outlives its issuer.
    pub(super) fn issue(
        &self,
        mut params: CertificateParams,
        hosts: &[Host],
        public_key: &impl PublicKeyData,
        mut lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> Result<Certificate, PkiError> {
        if self.certificate.not_after <= now {
            return Err(PkiError::IssuerExpired {
                what: self.certificate.subject_text.clone(),
                on: date(self.certificate.not_after),
            });
        }
        lifetime.not_after = lifetime.not_after.min(self.certificate.not_after);
        for host in hosts {
            params.subject_alt_names.push(match host {
                Host::Ip(ip) => SanType::IpAddress(*ip),
                Host::Dns(name) => SanType::DnsName(
                    name.clone()
                        .try_into()
                        .map_err(|_| PkiError::BadHost(name.clone()))?,
                ),
            });
        }
        finish(&mut params, lifetime)?;
        let certificate = decode(params.signed_by(public_key, &self.issuer)?.der().clone())?;
        // An imported authority's name can have parts that are not reproduced byte for byte
        // (a repeated attribute, an unusual string type); what was signed would then belong
        // to no chain, so it must not leave this function.
        if certificate.issuer != self.certificate.subject {
            return Err(PkiError::Signing(rcgen::Error::X509(format!(
                "the authority's name ({}) cannot be reproduced in what it signs",
                self.certificate.subject_text
            ))));
        }
        Ok(certificate)
    }

    /// Signs a revocation list over `revoked`; its PEM text.
    pub(super) fn sign_crl(
        &self,
        revoked: &[&Revocation],
        number: u64,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + lifetime,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|revocation| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(revocation.serial.as_bytes()),
                    revocation_time: revocation.at,
                    reason_code: Some(RevocationReason::from(revocation.reason)),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: match &self.subject_key_id {
                Some(id) => KeyIdMethod::PreSpecified(id.clone()),
                None => KeyIdMethod::Sha256,
            },
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// Dates and a random serial number, which every certificate gets.
fn finish(params: &mut CertificateParams, lifetime: Lifetime) -> Result<(), PkiError> {
    params.not_before = lifetime.not_before;
    params.not_after = lifetime.not_after;
    params.serial_number = Some(SerialNumber::from_slice(random_serial()?.as_bytes()));
    Ok(())
}

/// 128 random bits. The first byte is kept between 1 and 127, so the number is positive
/// and always 16 octets long.
fn random_serial() -> Result<Serial, PkiError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::NoRandomness)?;
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f).max(1);
    Ok(Serial::from_bytes(&bytes))
}

fn decode(der: CertificateDer<'static>) -> Result<Certificate, PkiError> {
    Certificate::from_der(der).map_err(|reason| PkiError::Signing(rcgen::Error::X509(reason)))
}

fn subject_key_id(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}
