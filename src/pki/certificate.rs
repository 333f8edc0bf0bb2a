//! Reading certificates, private keys and their PEM files.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;
use zeroize::Zeroizing;

use super::error::PkiError;
use super::files::{self, PkiDir};
use super::hosts::Host;
use super::identity::{self, Identity};
use super::profile::Kind;

/// A certificate's serial number: big-endian, without leading zeros. Shown in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// From the content of the INTEGER in the certificate.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().to_vec())
    }

    /// From hex digits, with or without colons, as `openssl x509 -serial` prints them.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        // 20 octets is the longest serial number there is (RFC 5280, section 4.1.2.2).
        if digits.is_empty() || digits.len() > 40 {
            return None;
        }
        let padded = if digits.len() % 2 == 1 {
            format!("0{digits}")
        } else {
            digits
        };
        unhex(&padded).map(|bytes| Self::from_bytes(&bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        f.write_str(&hex(&self.0))
    }
}

/// What the rest of the module wants to know about a certificate, decoded once.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) serial: Serial,
    /// The DER of the issuer's and the subject's name, which is what they are compared by.
    pub(super) issuer: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) subject_text: String,
    /// The DER of the SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) is_ca: bool,
    pub(super) path_length: Option<u32>,
    pub(super) is_v1: bool,
    pub(super) server_auth: bool,
    pub(super) hosts: Vec<Host>,
    pub(super) identity: Option<Identity>,
}

impl Certificate {
    /// Decodes one certificate; the error says why not, in words.
    pub(super) fn from_der(der: CertificateDer<'static>) -> Result<Self, String> {
        let (rest, x509) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there are bytes after its end".into());
        }
        let time = |time: x509_parser::time::ASN1Time| {
            OffsetDateTime::from_unix_timestamp(time.timestamp()).map_err(|error| error.to_string())
        };
        let extended = x509
            .extended_key_usage()
            .map_err(|error| error.to_string())?;
        let constraints = x509
            .basic_constraints()
            .map_err(|error| error.to_string())?;
        let names = x509
            .subject_alternative_name()
            .map_err(|error| error.to_string())?;
        let hosts = names
            .map(|names| names.value.general_names.iter().filter_map(host).collect())
            .unwrap_or_default();
        Ok(Self {
            serial: Serial::from_bytes(x509.raw_serial()),
            issuer: x509.issuer().as_raw().to_vec(),
            subject: x509.subject().as_raw().to_vec(),
            subject_text: identity::printable(&x509.subject().to_string()),
            public_key: x509.public_key().raw.to_vec(),
            not_before: time(x509.validity().not_before)?,
            not_after: time(x509.validity().not_after)?,
            is_ca: constraints
                .as_ref()
                .is_some_and(|constraints| constraints.value.ca),
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            is_v1: x509.version() == X509Version::V1,
            server_auth: extended.is_some_and(|usage| usage.value.server_auth),
            identity: identity::from_parsed(&x509).ok(),
            hosts,
            der,
        })
    }

    /// The first certificate in a PEM file.
    pub(super) fn read(path: &Path) -> Result<Self, PkiError> {
        Self::from_pem(&files::read(path)?, path)
    }

    pub(super) fn from_pem(pem: &[u8], path: &Path) -> Result<Self, PkiError> {
        let bad = |reason: String| PkiError::bad_file(path, "certificate", reason);
        let der = CertificateDer::from_pem_slice(pem).map_err(|error| bad(error.to_string()))?;
        Self::from_der(der).map_err(bad)
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    pub(super) fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// What kind of end-entity certificate this is, as far as it says.
    pub(super) fn kind(&self) -> Kind {
        match &self.identity {
            _ if self.server_auth => Kind::Server,
            Some(Identity::Operator(_)) => Kind::Operator,
            _ => Kind::Device,
        }
    }

    /// Size of an RSA modulus in bits; `None` for other kinds of key.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&self.public_key).ok()?;
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => Some(rsa.key_size()),
            _ => None,
        }
    }

    pub(super) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Whether `self` signed `other`: name and signature, by an algorithm TLS accepts.
    pub(super) fn signed(&self, other: &X509Certificate<'_>) -> bool {
        let Ok((_, key)) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&self.public_key)
        else {
            return false;
        };
        other.issuer().as_raw() == self.subject
            && is_current(&other.signature_algorithm)
            && other.signature_algorithm == other.tbs_certificate.signature
            && other.verify_signature(Some(&key)).is_ok()
    }
}

/// SHA-1 and MD5 signatures are not accepted, though the decoder could verify the former.
pub(super) fn is_current(algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>) -> bool {
    use x509_parser::oid_registry::{
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
    };
    [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    ]
    .contains(&algorithm.algorithm)
}

fn host(name: &GeneralName<'_>) -> Option<Host> {
    match name {
        GeneralName::DNSName(name) => Host::parse(name).ok(),
        GeneralName::IPAddress(octets) => {
            let ip = <[u8; 4]>::try_from(*octets)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from));
            ip.ok().map(Host::Ip)
        }
        _ => None,
    }
}

/// A private key together with the PEM text it came from or goes to.
pub(super) struct PrivateKey {
    pub(super) pair: KeyPair,
    pub(super) pem: Zeroizing<String>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// A new ECDSA P-256 key.
    pub(super) fn generate() -> Result<Self, PkiError> {
        let pair = KeyPair::generate()?;
        let pem = Zeroizing::new(pair.serialize_pem());
        Ok(Self { pair, pem })
    }

    /// PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`), not encrypted.
    pub(super) fn read(path: &Path) -> Result<Self, PkiError> {
        let bytes = Zeroizing::new(files::read(path)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            PkiError::bad_file(
                path,
                "private key",
                "it is not PEM text; convert it with `openssl pkey`",
            )
        })?;
        Self::parse(text, path)
    }

    /// [`PrivateKey::read`] on text that is said to come from `path`.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, PkiError> {
        let bad = |reason: &dyn fmt::Display| PkiError::bad_file(path, "private key", reason);
        // `BEGIN ENCRYPTED PRIVATE KEY` (PKCS#8) and `Proc-Type: 4,ENCRYPTED` (the older form).
        if text.contains("ENCRYPTED") {
            return Err(PkiError::EncryptedKey(path.to_path_buf()));
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| bad(&error))?;
        let pair = KeyPair::try_from(&der).map_err(|_| {
            bad(&"use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits")
        })?;
        let label = match &der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let pem = Zeroizing::new(pem(label, der.secret_der()));
        Ok(Self { pair, pem })
    }

    pub(super) fn matches(&self, certificate: &Certificate) -> bool {
        self.pair.subject_public_key_info() == certificate.public_key
    }

    /// The private key of a certificate in the authority's directory, wherever an interrupted
    /// write may have left it.
    pub(super) fn of(
        dir: &PkiDir,
        stem: &str,
        certificate: &Certificate,
        purpose: &'static str,
    ) -> Result<Self, PkiError> {
        let mut found = false;
        for path in dir.key_candidates(stem) {
            if !path.exists() {
                continue;
            }
            found = true;
            let key = Self::read(&path)?;
            if key.matches(certificate) {
                return Ok(key);
            }
        }
        let path = dir.key(stem);
        Err(if found {
            PkiError::KeyMismatch {
                key: path,
                certificate: dir.certificate(stem),
            }
        } else {
            PkiError::KeyOffline { path, purpose }
        })
    }
}

/// RFC 7468 text: 64 characters per line.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    // Reserved at once: growing would leave copies of a private key behind in memory.
    text.reserve_exact(body.len() + body.len() / 64 + label.len() + 32);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            // `from_str_radix` would take a sign.
            let pair = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| !pair.starts_with('+'))?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

/// `2027-03-01`, for messages.
pub(super) fn date(time: OffsetDateTime) -> String {
    time.date().to_string()
}
