//! What comes in with an order: a secret that exists already, a signing request.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use super::certificate::{hex, is_current};
use super::error::PkiError;
use super::files;
use super::identity;

/// Where the secret that signs the device's messages comes from.
#[derive(Clone, Default)]
pub enum SecretSource {
    /// 32 random bytes as 64 hex digits; the HMAC key is the UTF-8 of that text.
    #[default]
    Generate,
    Given(Zeroizing<String>),
    /// The device has one already.
    None,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generate => "Generate",
            Self::Given(_) => "Given(..)",
            Self::None => "None",
        })
    }
}

/// Checks a name before it goes into a certificate.
pub(super) fn check_id(what: &'static str, id: &str) -> Result<(), PkiError> {
    if identity::is_valid_id(id) {
        Ok(())
    } else {
        Err(PkiError::BadId {
            what,
            value: identity::printable(id),
        })
    }
}

/// The longest secret taken from a file: HMAC-SHA256 hashes anything longer than 64 bytes down
/// to 32, so more would only look stronger.
const MAX_SECRET: usize = 256;

impl SecretSource {
    /// A secret from a text file; the line end is not part of it.
    ///
    /// # Errors
    /// Unreadable, empty, too long (over 256 bytes), or more than one line.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let bytes = Zeroizing::new(files::read(path)?);
        let bad = |reason| PkiError::BadSecret {
            path: path.to_path_buf(),
            reason,
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is not UTF-8 text"))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text.len() > MAX_SECRET {
            return Err(bad("it is longer than 256 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(bad(
                "it must be one line of text without control characters",
            ));
        }
        Ok(Self::Given(Zeroizing::new(text.to_owned())))
    }

    pub(super) fn resolve(&self) -> Result<Option<Zeroizing<String>>, PkiError> {
        match self {
            Self::None => Ok(None),
            Self::Given(secret) => Ok(Some(secret.clone())),
            Self::Generate => {
                let mut bytes = Zeroizing::new([0_u8; 32]);
                aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| PkiError::NoRandomness)?;
                Ok(Some(Zeroizing::new(hex(bytes.as_ref()))))
            }
        }
    }
}

/// A certificate signing request (PKCS#10) whose signature was verified: whoever made it holds
/// the private key. Only its public key is used; names and extensions come from the profile.
#[derive(Debug)]
pub struct SigningRequest {
    path: PathBuf,
    pub(super) public_key: SubjectPublicKeyInfo,
    common_names: Vec<String>,
}

impl SigningRequest {
    /// Reads a PEM or DER file.
    ///
    /// # Errors
    /// Not a request, a wrong signature, or a key that TLS would not take.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let bytes = files::read(path)?;
        Self::parse(&bytes, path).map_err(|reason| PkiError::BadRequest {
            path: path.to_path_buf(),
            reason,
        })
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, String> {
        let der = match bytes.first() {
            // A SEQUENCE: DER as it is.
            Some(0x30) => CertificateSigningRequestDer::from(bytes.to_vec()),
            _ => CertificateSigningRequestDer::from_pem_slice(bytes)
                .map_err(|error| format!("it holds no request: {error}"))?,
        };
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there are bytes after its end".into());
        }
        if !is_current(&request.signature_algorithm) {
            return Err("it is signed with an outdated algorithm; use SHA-256".into());
        }
        let info = &request.certification_request_info;
        if let Ok(PublicKey::RSA(rsa)) = info.subject_pki.parsed()
            && rsa.key_size() < MIN_RSA_BITS
        {
            return Err(format!("its RSA key is shorter than {MIN_RSA_BITS} bits"));
        }
        request
            .verify_signature()
            .map_err(|_| "its signature is wrong: it was changed, or made with another key")?;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|_| "its key is of an unsupported kind; use ECDSA P-256")?;
        let common_names = info
            .subject
            .iter_common_name()
            .map(|name| String::from_utf8_lossy(name.attr_value().data).into_owned())
            .collect();
        Ok(Self {
            path: path.to_path_buf(),
            public_key,
            common_names,
        })
    }

    /// A request that names somebody else is most likely the wrong file.
    pub(super) fn check_name(&self, id: &str) -> Result<(), PkiError> {
        match self
            .common_names
            .iter()
            .find(|name| !name.is_empty() && *name != id)
        {
            None => Ok(()),
            Some(other) => Err(PkiError::BadRequest {
                path: self.path.clone(),
                reason: format!(
                    "it was made for `{}`, not for `{id}`",
                    identity::printable(other)
                ),
            }),
        }
    }
}

/// What rustls accepts at least.
pub(super) const MIN_RSA_BITS: usize = 2048;
