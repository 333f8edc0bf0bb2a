//! Who a client certificate names, read by the gateway and once more by another decoder.
//!
//! Input: a certificate in DER. Allocation: at most 64 KiB and 64 times the input, which a
//! certificate of nothing but empty names comes near.

use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::{rfc4519::CN, rfc5280::ID_CE_SUBJECT_ALT_NAME};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::allocation;
use crate::gateway::pki::identity::{Identity, from_certificate};

/// # Panics
///
/// If something does not hold.
pub fn run(der: &[u8]) {
    let found = allocation::at_most(64 * 1024 + 64 * der.len(), || from_certificate(der));
    match &found {
        Ok(identity) => {
            let name = identity.name();
            assert!((1..=64).contains(&name.len()));
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            );
            assert!(der.windows(name.len()).any(|part| part == name.as_bytes()));
        }
        // Whoever wrote the certificate cannot make a log line long, or more than one.
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.chars().count() < 250, "{text:?}");
        }
    }
    // The other decoder is stricter about DER; what it cannot read it has no opinion on. (It also
    // makes room for whatever length is announced, which is why it reads only what ours accepted.)
    let (Ok(found), Ok(certificate)) = (found, Certificate::from_der(der)) else {
        return;
    };
    if let Some(expected) = model(&certificate) {
        assert_eq!(Some(found), expected);
    }
}

/// The contract's rule: the one URI of ours, or else the one common name. The inner `None` means
/// nobody, the outer that the names cannot be read.
fn model(certificate: &Certificate) -> Option<Option<Identity>> {
    let certificate = &certificate.tbs_certificate;
    let extensions = certificate.extensions.iter().flatten();
    let mut names = extensions.filter(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let mut ours = Vec::new();
    if let Some(extension) = names.next() {
        let names = SubjectAltName::from_der(extension.extn_value.as_bytes()).ok()?;
        for name in names.0 {
            if let GeneralName::UniformResourceIdentifier(uri) = name
                && uri
                    .as_str()
                    .to_ascii_lowercase()
                    .starts_with("urn:tidegate:")
            {
                ours.push(uri.as_str().to_owned());
            }
        }
    }
    if names.next().is_some() {
        return Some(None);
    }
    if let [uri] = ours.as_slice() {
        let device = uri.strip_prefix("urn:tidegate:device:");
        let operator = uri.strip_prefix("urn:tidegate:operator:");
        let device = device
            .filter(|id| valid(id))
            .map(|id| Identity::Device(id.to_owned()));
        let operator = operator
            .filter(|id| valid(id))
            .map(|id| Identity::Operator(id.to_owned()));
        return Some(device.or(operator));
    } else if !ours.is_empty() {
        return Some(None);
    }
    let names: Vec<_> = (certificate.subject.0.iter())
        .flat_map(|relative| relative.0.iter())
        .filter(|attribute| attribute.oid == CN)
        .collect();
    let [name] = names.as_slice() else {
        return Some(None);
    };
    let text = match name.value.tag() {
        Tag::Utf8String => name
            .value
            .decode_as::<Utf8StringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        Tag::PrintableString => name
            .value
            .decode_as::<PrintableStringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        Tag::Ia5String => name
            .value
            .decode_as::<Ia5StringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        _ => return Some(None),
    };
    Some(valid(&text).then_some(Identity::Device(text)))
}

fn valid(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && id
            .chars()
            .all(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-'))
}
