//! Who a certificate says its holder is (the wire contract, "Identity").

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Everything of ours in a certificate's URI names starts with this.
const OURS: &str = "urn:tidegate:";
pub(super) const DEVICE: &str = "urn:tidegate:device:";
pub(super) const OPERATOR: &str = "urn:tidegate:operator:";

/// The tag of a URI in a GeneralName (RFC 5280, section 4.2.1.6).
const URI_TAG: Tag = Tag(6);

/// Whom a verified certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A device, by its `device_id`: 1 to 64 of `A-Z a-z 0-9 _ -`.
    Device(String),
    /// A person or program looking after the gateway; the same characters.
    Operator(String),
}

impl Identity {
    /// The name without its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Device(name) | Self::Operator(name) => name,
        }
    }
}

/// A certificate that names nobody, or more than one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be decoded; issue a new one with `tidegate pki issue device`")]
    Malformed,
    #[error("the certificate carries {0} Tidegate names; exactly one is allowed")]
    SeveralUris(usize),
    #[error("the certificate's Tidegate name `{0}` is neither a valid device nor operator name")]
    BadUri(String),
    #[error("the certificate has no Tidegate name and no common name to take the identity from")]
    Nobody,
    #[error("the certificate has {0} common names; exactly one is allowed")]
    SeveralCommonNames(usize),
    #[error("the certificate's common name `{0}` is not a device id (1 to 64 of A-Z a-z 0-9 _ -)")]
    BadCommonName(String),
}

/// The identity in a DER certificate: the one SAN URI `urn:tidegate:device:<id>` (or
/// `urn:tidegate:operator:<name>`) if there is one, otherwise the one subject common name,
/// which always means a device.
///
/// This reads; it does not verify. Call it only on a certificate the TLS layer accepted.
///
/// # Errors
/// Whenever there is not exactly one candidate, or it is not a valid name. A URI that looks
/// like one of ours without being exactly one is refused rather than skipped, so that a
/// misspelt name never falls back to the common name.
pub fn from_certificate(der: &[u8]) -> Result<Identity, IdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    from_parsed(&certificate)
}

pub(super) fn from_parsed(certificate: &X509Certificate<'_>) -> Result<Identity, IdentityError> {
    match from_uris(certificate)? {
        Some(identity) => Ok(identity),
        None => from_common_name(certificate),
    }
}

fn from_uris(certificate: &X509Certificate<'_>) -> Result<Option<Identity>, IdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?;
    let Some(names) = names else { return Ok(None) };

    let mut ours = Vec::new();
    for name in &names.value.general_names {
        match name {
            // Case is ignored only to notice an imitation; see below.
            GeneralName::URI(uri)
                if uri
                    .get(..OURS.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(OURS)) =>
            {
                ours.push(*uri);
            }
            GeneralName::Invalid(URI_TAG, _) => return Err(IdentityError::Malformed),
            _ => {}
        }
    }
    let uri = match ours.as_slice() {
        [] => return Ok(None),
        [uri] => *uri,
        several => return Err(IdentityError::SeveralUris(several.len())),
    };
    let bad = || IdentityError::BadUri(printable(uri));
    if let Some(id) = uri.strip_prefix(DEVICE).filter(|id| is_valid_id(id)) {
        Ok(Some(Identity::Device(id.to_owned())))
    } else if let Some(name) = uri.strip_prefix(OPERATOR).filter(|id| is_valid_id(id)) {
        Ok(Some(Identity::Operator(name.to_owned())))
    } else {
        Err(bad())
    }
}

fn from_common_name(certificate: &X509Certificate<'_>) -> Result<Identity, IdentityError> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().ok_or(IdentityError::Nobody)?;
    let others = names.count();
    if others > 0 {
        return Err(IdentityError::SeveralCommonNames(others + 1));
    }
    let value = name.attr_value();
    // UTF-16 and UTF-32 strings, and Latin-1 in disguise, have no business in an ASCII name.
    let ascii_compatible = matches!(
        value.tag(),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String
    );
    // A tag says what it says in the universal class only: [PRIVATE 12] is no UTF-8 string.
    let a_string = value.header.is_universal() && value.header.is_primitive();
    match std::str::from_utf8(value.data) {
        Ok(id) if a_string && ascii_compatible && is_valid_id(id) => {
            Ok(Identity::Device(id.to_owned()))
        }
        _ => Err(IdentityError::BadCommonName(printable(
            &String::from_utf8_lossy(value.data),
        ))),
    }
}

/// Whether `id` is 1 to 64 of `A-Z a-z 0-9 _ -`.
pub(super) fn is_valid_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// At most 80 characters, none of which can disturb a terminal or a log: whoever wrote the
/// certificate is not trusted.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
