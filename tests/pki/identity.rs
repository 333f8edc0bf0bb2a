//! The identity in a certificate, and that no bytes whatever confuse it.

use proptest::prelude::*;
use rcgen::string::BmpString;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType,
};
use tidegate::pki::identity::{Identity, IdentityError, from_certificate};

fn certificate(common_names: &[DnValue], uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in common_names {
        params
            .distinguished_name
            .push(DnType::CommonName, name.clone());
    }
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into().unwrap()));
    }
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn utf8(name: &str) -> Vec<DnValue> {
    vec![DnValue::Utf8String(name.into())]
}

fn device(id: &str) -> Result<Identity, IdentityError> {
    Ok(Identity::Device(id.into()))
}

#[test]
fn the_uri_comes_first_and_the_common_name_second() {
    let uri = "urn:tidegate:device:sensor_001";
    assert_eq!(
        from_certificate(&certificate(&utf8("other"), &[uri])),
        device("sensor_001")
    );
    assert_eq!(
        from_certificate(&certificate(&[], &[uri])),
        device("sensor_001")
    );
    assert_eq!(
        from_certificate(&certificate(&utf8("sensor-2"), &[])),
        device("sensor-2")
    );
    let foreign = ["https://example.org/x", "urn:uuid:1"];
    assert_eq!(
        from_certificate(&certificate(&utf8("sensor-2"), &foreign)),
        device("sensor-2")
    );
    let printable = DnValue::PrintableString("sensor".try_into().unwrap());
    assert_eq!(
        from_certificate(&certificate(&[printable], &[])),
        device("sensor")
    );
    assert_eq!(
        from_certificate(&certificate(&utf8("x"), &["urn:tidegate:operator:ada"])),
        Ok(Identity::Operator("ada".into()))
    );
    let longest = "x".repeat(64);
    assert_eq!(
        from_certificate(&certificate(&utf8(&longest), &[])),
        device(&longest)
    );
}

#[test]
fn anything_doubtful_is_nobody() {
    let refused =
        |names: &[DnValue], uris: &[&str]| from_certificate(&certificate(names, uris)).unwrap_err();
    let a = "urn:tidegate:device:a";
    assert_eq!(refused(&[], &[]), IdentityError::Nobody);
    assert_eq!(refused(&[], &[a, a]), IdentityError::SeveralUris(2));
    assert_eq!(
        refused(&[], &[a, "urn:tidegate:operator:b"]),
        IdentityError::SeveralUris(2)
    );
    for uri in [
        "urn:tidegate:device:",
        "urn:tidegate:device:a/b",
        "urn:tidegate:device:a\0",
        "urn:tidegate:device:\u{1}",
        "urn:tidegate:Device:a",
        "URN:tidegate:device:a",
        "urn:Tidegate:device:a",
        "urn:tidegate:gateway:a",
        "urn:tidegate:",
    ] {
        // Not the common name instead: it was meant as one of ours.
        assert!(
            matches!(refused(&utf8("a"), &[uri]), IdentityError::BadUri(_)),
            "{uri:?}"
        );
    }
    for name in [
        "",
        "a b",
        "a\0b",
        "raspberrypi.local",
        "a/b",
        "a#",
        "+",
        "é",
        "a\n",
    ] {
        assert!(
            matches!(refused(&utf8(name), &[]), IdentityError::BadCommonName(_)),
            "{name:?}"
        );
    }
    assert!(matches!(
        refused(&utf8(&"x".repeat(65)), &[]),
        IdentityError::BadCommonName(_)
    ));
    // UTF-16 whose bytes are not the name's.
    let bmp = DnValue::BmpString(BmpString::try_from("ab").unwrap());
    assert!(matches!(
        refused(&[bmp], &[]),
        IdentityError::BadCommonName(_)
    ));
}

/// Two common names: in one certificate as two RDNs, built by hand because rcgen keeps one.
#[test]
fn two_common_names_are_one_too_many() {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "aaaa");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "bbbb");
    let mut der = params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec();
    // 2.5.4.10 (organization) becomes 2.5.4.3 (common name), in issuer and subject.
    let organization = [0x06, 3, 0x55, 4, 10];
    let places: Vec<_> = (0..der.len() - 5)
        .filter(|at| der[*at..at + 5] == organization)
        .collect();
    assert_eq!(places.len(), 2);
    for at in places {
        der[at + 4] = 3;
    }
    assert_eq!(
        from_certificate(&der),
        Err(IdentityError::SeveralCommonNames(2))
    );
}

/// The tag's number alone does not make a string: its class and form count as well.
#[test]
fn a_common_name_that_only_resembles_a_string_is_nobody() {
    let der = certificate(&utf8("sensor_001"), &[]);
    let name = [&[0x0c, 10][..], b"sensor_001"].concat();
    let at = der
        .windows(name.len())
        .rposition(|part| part == name)
        .unwrap();
    assert_eq!(from_certificate(&der), device("sensor_001"));
    // Application, context-specific, private; and constructed.
    for tag in [0x4c, 0x8c, 0xcc, 0x2c, 0xec] {
        let mut der = der.clone();
        der[at] = tag;
        assert!(from_certificate(&der).is_err(), "{tag:#x}");
    }
}

#[test]
fn a_damaged_or_repeated_name_extension_does_not_fall_back_to_the_common_name() {
    let san = |content: &[u8]| CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
    let with = |extensions: Vec<CustomExtension>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "victim");
        params.custom_extensions = extensions;
        from_certificate(
            params
                .self_signed(&KeyPair::generate().unwrap())
                .unwrap()
                .der(),
        )
    };
    let uri = |id: u8| [&[0x30, 23, 0x86, 21][..], b"urn:tidegate:device:", &[id]].concat();
    assert_eq!(with(vec![san(&uri(b'a'))]), device("a"));
    assert_eq!(
        with(vec![san(&uri(b'a')), san(&uri(b'b'))]),
        Err(IdentityError::Malformed)
    );
    assert_eq!(
        with(vec![san(b"\x30\x05\x86")]),
        Err(IdentityError::Malformed)
    );
    // A URI that is not UTF-8.
    assert_eq!(
        with(vec![san(&[0x30, 4, 0x86, 2, 0xff, 0xfe])]),
        Err(IdentityError::Malformed)
    );
    assert_eq!(with(vec![san(&uri(0xff))]), Err(IdentityError::Malformed));
}

#[test]
fn a_certificate_with_something_after_it_is_malformed() {
    let mut der = certificate(&utf8("a"), &[]);
    der.push(0);
    assert_eq!(from_certificate(&der), Err(IdentityError::Malformed));
    assert_eq!(from_certificate(&[]), Err(IdentityError::Malformed));
}

fn is_valid(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = from_certificate(&bytes);
    }

    #[test]
    fn a_mutated_certificate_never_panics_and_never_names_an_invalid_device(
        uri in any::<bool>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        static BASES: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| [
            certificate(&utf8("sensor_001"), &[]),
            certificate(&utf8("sensor_001"), &["urn:tidegate:device:sensor_002"]),
        ]);
        let mut der = BASES[usize::from(uri)].clone();
        for (at, value) in &changes {
            let at = at.index(der.len());
            der[at] = *value;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        if let Ok(identity) = from_certificate(&der) {
            prop_assert!(is_valid(identity.name()));
        }
    }

    #[test]
    fn only_valid_ids_pass(id in "\\PC{0,70}") {
        let from_name = from_certificate(&certificate(&utf8(&id), &[]));
        prop_assert_eq!(from_name.is_ok(), is_valid(&id));
    }
}
