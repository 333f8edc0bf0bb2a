//! What a device can be told besides what its profile knows.
//!
//! | command | effect |
//! |---|---|
//! | `{"action":"reboot"}` | acknowledged, then restarted |
//! | `{"action":"report"}` | a health event, and a reading |
//! | `{"action":"update"}` | looks for an update now |
//! | `{"action":"credentials", …}` | new credentials on trial, see `renewed` |
//!
//! Everything else is for the profile's [`Actuators`](crate::profile::Actuators).

use alloc::boxed::Box;

use base64ct::{Base64, Encoding};
use tidegate_wire::{Payload, SigningKey};
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::profile::Command;

/// What a command asks of the device itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Restart.
    Reboot,
    /// Say how it is.
    Report,
    /// Look for an update.
    Update,
    /// Try these credentials.
    Credentials(Box<Credentials>),
    /// Nothing: it is for the profile.
    ForProfile,
}

/// New credentials make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRenewal {
    /// A member is not what it must be.
    #[error("{0} is not base64 of what it must be")]
    Base64(&'static str),
    /// The secret is empty or has escapes.
    #[error("secret must be plain text of at least 16 characters")]
    Secret,
    /// There is nothing new in it.
    #[error("nothing is new: give certificate, key, root or secret")]
    Nothing,
}

/// A secret shorter than this would be guessed.
const MIN_SECRET: usize = 16;

/// Reads a command.
///
/// # Errors
///
/// [`InvalidRenewal`]
pub fn read(command: &Command<'_>, present: &Credentials) -> Result<Request, InvalidRenewal> {
    Ok(if command.is("reboot") {
        Request::Reboot
    } else if command.is("report") {
        Request::Report
    } else if command.is("update") {
        Request::Update
    } else if command.is("credentials") {
        Request::Credentials(Box::new(renewed(&command.payload, present)?))
    } else {
        Request::ForProfile
    })
}

/// The present credentials with what is new in a command's payload:
///
/// - `certificate`: base64 of the DER; the key stays unless there is a new one;
/// - `key`: base64 of the 32 bytes of a P-256 private key, or of its PKCS #8 or SEC 1 form;
/// - `root`: base64 of the DER of a root to trust besides the present first one;
/// - `secret`: the new shared secret.
///
/// # Errors
///
/// [`InvalidRenewal`]
fn renewed(payload: &Payload<'_>, present: &Credentials) -> Result<Credentials, InvalidRenewal> {
    let binary = |name: &'static str| {
        payload
            .member(name)
            .map(|value| {
                let text = value.plain_string().ok_or(InvalidRenewal::Base64(name))?;
                Base64::decode_vec(text)
                    .map(Zeroizing::new)
                    .map_err(|_| InvalidRenewal::Base64(name))
            })
            .transpose()
    };
    let mut set = present.clone();
    if let Some(certificate) = binary("certificate")? {
        webpki::EndEntityCert::try_from(&certificate.as_slice().into())
            .map_err(|_| InvalidRenewal::Base64("certificate"))?;
        set.certificate = certificate.to_vec();
    }
    if let Some(key) = binary("key")? {
        set.key = private_key(&key).ok_or(InvalidRenewal::Base64("key"))?;
    }
    if let Some(root) = binary("root")? {
        webpki::anchor_from_trusted_cert(&root.as_slice().into())
            .map_err(|_| InvalidRenewal::Base64("root"))?;
        // The present first root stays until the new one has proven itself and replaces it.
        set.roots.truncate(1);
        set.roots.insert(0, root.to_vec());
    }
    if let Some(value) = payload.member("secret") {
        let secret = value.plain_string().ok_or(InvalidRenewal::Secret)?;
        if secret.len() < MIN_SECRET || SigningKey::new(secret.as_bytes()).is_err() {
            return Err(InvalidRenewal::Secret);
        }
        set.secret = Zeroizing::new(secret.as_bytes().to_vec());
    }
    if set == *present {
        return Err(InvalidRenewal::Nothing);
    }
    Ok(set)
}

/// A P-256 private key in any of the forms it comes in: the bare scalar, SEC 1 (RFC 5915), or
/// PKCS #8 (RFC 5958), which wraps SEC 1.
#[must_use]
pub fn private_key(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let scalar: [u8; 32] = match bytes.try_into() {
        Ok(scalar) => scalar,
        // version INTEGER 1, then the key as an OCTET STRING of 32 bytes: the start of SEC 1's
        // sequence, wherever it is wrapped.
        Err(_) => {
            let start = [0x02, 0x01, 0x01, 0x04, 0x20];
            let at = bytes
                .windows(start.len())
                .position(|window| window == start)?;
            *bytes.get(at + start.len()..)?.first_chunk()?
        }
    };
    p256::SecretKey::from_slice(&scalar).ok()?;
    Some(Zeroizing::new(scalar))
}

/// Scratch slots for a command's members; see [`tidegate_wire::limits::slots_for`]. No command
/// has half as many.
pub(crate) const SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::credentials::tests::sample;
    use rcgen::{CertificateParams, KeyPair};
    use std::format;
    use std::string::String;

    fn ask(text: &str) -> Result<Request, InvalidRenewal> {
        let payload = Payload::parse(text.as_bytes(), &mut [0; SLOTS]).unwrap();
        read(&Command { payload }, &sample(1))
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(ask(r#"{"action":"reboot"}"#), Ok(Request::Reboot));
        assert_eq!(ask(r#"{"action":"report"}"#), Ok(Request::Report));
        assert_eq!(ask(r#"{"action":"update"}"#), Ok(Request::Update));
        for other in [
            r#"{"action":"led","value":80}"#,
            r#""turn_on""#,
            "{}",
            "null",
        ] {
            assert_eq!(ask(other), Ok(Request::ForProfile));
        }
    }

    #[test]
    fn renewal_replaces_what_is_given_and_nothing_else() {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let (der, pkcs8) = (certificate.der().to_vec(), pair.serialize_der());
        let text = format!(
            r#"{{"action":"credentials","certificate":"{}","key":"{}","root":"{0}","secret":"0123456789abcdef"}}"#,
            Base64::encode_string(&der),
            Base64::encode_string(&pkcs8),
        );
        let Ok(Request::Credentials(set)) = ask(&text) else {
            panic!("not taken");
        };
        assert_eq!(set.certificate, der);
        assert_eq!(set.roots, [der, sample(1).roots.remove(0)]);
        assert_eq!(set.secret.as_slice(), b"0123456789abcdef");
        assert_eq!((set.wifi, set.gateway), (sample(1).wifi, sample(1).gateway));
        let key = p256::SecretKey::from_slice(set.key.as_slice()).unwrap();
        let public = p256::ecdsa::VerifyingKey::from(p256::ecdsa::SigningKey::from(key));
        let public = public.to_encoded_point(false);
        assert_eq!(
            pair.public_key_raw(),
            public.as_bytes(),
            "the key of that certificate"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let short = Base64::encode_string(&[7; 31]);
        for (members, expected) in [
            (String::new(), InvalidRenewal::Nothing),
            (r#","secret":"short""#.into(), InvalidRenewal::Secret),
            (r#","secret":1"#.into(), InvalidRenewal::Secret),
            (r#","key":"!""#.into(), InvalidRenewal::Base64("key")),
            (
                format!(r#","key":"{short}""#),
                InvalidRenewal::Base64("key"),
            ),
            (
                format!(r#","certificate":"{short}""#),
                InvalidRenewal::Base64("certificate"),
            ),
            (
                format!(r#","root":"{short}""#),
                InvalidRenewal::Base64("root"),
            ),
        ] {
            let text = format!(r#"{{"action":"credentials"{members}}}"#);
            assert_eq!(ask(&text), Err(expected), "{text}");
        }
    }
}
