//! Two extensions of a certificate that webpki has already read: what it may be used for.

/// Object identifiers as they are encoded (RFC 5280, sections 4.2.1.3 and 4.2.1.12).
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[3] EXPLICIT` in TBSCertificate.
const EXTENSIONS: u8 = 0xa3;

/// What a certificate says about its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// It has the extension extended key usage; which ones webpki judges.
    pub(super) extended: bool,
    /// With the extension key usage: whether it may sign, which is all TLS 1.3 does with it.
    pub(super) digital_signature: Option<bool>,
}

/// Reads both; `None` if this is no certificate.
pub(super) fn usage(certificate: &[u8]) -> Option<Usage> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (mut tbs, _) = take(certificate, SEQUENCE)?;
    let mut usage = Usage {
        extended: false,
        digital_signature: None,
    };
    while !tbs.is_empty() {
        let (tag, value, rest) = element(tbs)?;
        tbs = rest;
        if tag != EXTENSIONS {
            continue;
        }
        let (mut list, _) = take(value, SEQUENCE)?;
        while !list.is_empty() {
            let (extension, rest) = take(list, SEQUENCE)?;
            list = rest;
            let (id, mut extension) = take(extension, OBJECT_IDENTIFIER)?;
            if let Some((_critical, rest)) = take(extension, BOOLEAN) {
                extension = rest;
            }
            let (value, _) = take(extension, OCTET_STRING)?;
            if id == EXTENDED_KEY_USAGE {
                usage.extended = true;
            } else if id == KEY_USAGE {
                let (bits, _) = take(value, BIT_STRING)?;
                // The first byte counts unused bits; digitalSignature is the first bit after it.
                usage.digital_signature = Some(bits.get(1).is_some_and(|bits| bits & 0x80 != 0));
            }
        }
    }
    Some(usage)
}

/// The value of the element at the start, which must have this tag, and what follows.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = element(bytes)?;
    (found == tag).then_some((value, rest))
}

/// Tag, value and what follows (X.690, section 8.1); lengths up to three bytes.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (len, bytes) = match first {
        0..=0x7f => (usize::from(first), bytes),
        0x81..=0x83 => {
            let (digits, rest) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            let len = digits
                .iter()
                .fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, rest)
        }
        _ => return None,
    };
    let (value, rest) = bytes.split_at_checked(len)?;
    Some((tag, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, ExtendedKeyUsagePurpose as Extended, KeyPair, KeyUsagePurpose as Key,
    };

    fn certificate(key: &[Key], extended: &[Extended]) -> alloc::vec::Vec<u8> {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["gateway.lan".into()]).unwrap();
        params.key_usages = key.to_vec();
        params.extended_key_usages = extended.to_vec();
        params.self_signed(&pair).unwrap().der().to_vec()
    }

    #[test]
    fn usages_are_found() {
        let of = |key: &[Key], extended: &[Extended]| usage(&certificate(key, extended)).unwrap();
        for (extended, expected) in [(&[][..], false), (&[Extended::ServerAuth][..], true)] {
            for (key, digital_signature) in [
                (&[][..], None),
                (&[Key::DigitalSignature, Key::KeyAgreement][..], Some(true)),
                (&[Key::KeyEncipherment][..], Some(false)),
            ] {
                assert_eq!(
                    of(key, extended),
                    Usage {
                        extended: expected,
                        digital_signature
                    }
                );
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = usage(&bytes);
        }

        #[test]
        fn nothing_panics_on_damage(at in 0usize..200, byte: u8, cut in 0usize..400) {
            let mut bytes = certificate(&[Key::DigitalSignature], &[Extended::ServerAuth]);
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = usage(&bytes);
        }
    }
}
