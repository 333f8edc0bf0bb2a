//! Update manifests: every vector in `tests/vectors/manifest.json`, which was made independently of
//! this crate, and properties that hold for any manifest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::Value;
use tidegate_wire::Payload;
use tidegate_wire::manifest::{
    DOMAIN, KeyId, MAX_SIGNED, Manifest, PublicKey, Refusal, Running, Signature, Signed, Version,
    signing_input, write_signed,
};

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/manifest.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn keys(list: &Value) -> Vec<PublicKey> {
    let list = list.as_array().unwrap().iter();
    list.map(|key| key.as_str().unwrap().parse().unwrap())
        .collect()
}

/// The word for how a signed manifest is judged.
fn verdict(text: &[u8], trusted: &[PublicKey]) -> &'static str {
    let verified = Signed::parse(text)
        .map_err(Refusal::from)
        .and_then(|signed| signed.verify(trusted).map(|_| ()));
    verified.map_or_else(Refusal::code, |()| "ok")
}

#[test]
fn every_signed_vector_is_judged_as_it_says() {
    let vectors = vectors();
    let list = vectors["signed"].as_array().unwrap();
    assert!(list.len() >= 90, "vectors were lost: {}", list.len());
    for vector in list {
        let name = vector["name"].as_str().unwrap();
        let text = vector["signed"].as_str().unwrap();
        assert_eq!(
            verdict(text.as_bytes(), &keys(&vector["trusted"])),
            vector["verdict"].as_str().unwrap(),
            "{name}"
        );
        if let Some(input) = vector["input"].as_str() {
            let signed = Signed::parse(text.as_bytes()).unwrap();
            let mut out = [0; MAX_SIGNED];
            let len = signing_input(&signed.manifest(), &mut out).unwrap();
            assert_eq!(str::from_utf8(&out[..len]), Ok(input), "{name}");
        }
    }
}

#[test]
fn every_device_is_judged_as_the_vectors_say() {
    let vectors = vectors();
    let list = vectors["checks"].as_array().unwrap();
    assert!(list.len() >= 24, "vectors were lost: {}", list.len());
    for vector in list {
        let text = |name: &str| vector["running"][name].as_str().unwrap();
        let number = |name: &str| vector["running"][name].as_u64().unwrap();
        let running = Running {
            product: text("product"),
            chip: text("chip"),
            version: Version::parse(text("version")).unwrap(),
            security_version: number("security_version").try_into().unwrap(),
            sequence: number("sequence"),
            max_size: number("max_size").try_into().unwrap(),
        };
        let signed = format!(
            r#"{{"manifest":{},"signatures":[{{"key":"{:016}","signature":"{:0128}"}}]}}"#,
            vector["manifest"].as_str().unwrap(),
            0,
            0
        );
        let signed = Signed::parse(signed.as_bytes()).unwrap();
        let manifest = signed.claims().unwrap();
        let result = manifest.check(&running, vector["now"].as_u64().unwrap());
        assert_eq!(
            result.map_or_else(Refusal::code, |()| "ok"),
            vector["verdict"].as_str().unwrap(),
            "{}",
            vector["name"]
        );
    }
}

#[test]
fn keys_are_called_what_the_vectors_call_them() {
    for key in vectors()["keys"].as_array().unwrap() {
        let public: PublicKey = key["public"].as_str().unwrap().parse().unwrap();
        assert_eq!(public.id().to_string(), key["id"].as_str().unwrap());
        assert_eq!(public.to_string(), key["public"].as_str().unwrap());
    }
}

#[test]
fn what_is_no_key_is_not_taken_for_one() {
    let good = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert!(good.parse::<PublicKey>().is_ok());
    // The eight points of small order, under which anybody can sign (RFC 7748, section 7 has the
    // like for X25519), and texts that are no point at all.
    let weak = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    ];
    let no_point = "0200000000000000000000000000000000000000000000000000000000000000";
    for text in weak.into_iter().chain([no_point, "", &good[2..]]) {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
}

#[test]
fn codes_are_distinct_and_as_declared() {
    let codes = Refusal::CODES;
    let distinct: std::collections::BTreeSet<_> = codes.into_iter().collect();
    assert_eq!(distinct.len(), codes.len());
    assert_eq!(Refusal::FromTooOld.code(), "from_too_old");
    assert_eq!(Refusal::WrongChip.code(), "wrong_chip");
}

fn version() -> impl Strategy<Value = String> {
    // Few different ones, so that equal parts are common.
    let number = prop_oneof![
        Just("0"),
        Just("1"),
        Just("2"),
        Just("10"),
        Just("18446744073709551615")
    ];
    let identifier = prop_oneof![
        Just("0"),
        Just("1"),
        Just("9"),
        Just("10"),
        Just("99999999999999999999999"),
        Just("a"),
        Just("A"),
        Just("a-"),
        Just("-"),
        Just("rc"),
        Just("0a"),
        Just("a0"),
    ];
    (
        prop::collection::vec(number, 3),
        prop::collection::vec(identifier, 0..4),
    )
        .prop_map(|(core, pre)| match pre[..] {
            [] => core.join("."),
            _ => format!("{}-{}", core.join("."), pre.join(".")),
        })
        .prop_filter("longer than allowed", |text| text.len() <= 64)
}

prop_compose! {
    fn texts()(
        product in "[A-Za-z0-9_-]{1,64}",
        chip in "[A-Za-z0-9_-]{1,64}",
        version in version(),
        min_version in prop::option::of(version()),
    ) -> (String, String, String, Option<String>) {
        (product, chip, version, min_version)
    }
}

prop_compose! {
    fn numbers()(
        sequence in 1..=u64::MAX,
        security_version: u32,
        size in 1..=u32::MAX,
        sha256: [u8; 32],
        expires: u64,
    ) -> (u64, u32, u32, [u8; 32], u64) {
        (sequence, security_version, size, sha256, expires)
    }
}

fn sign(manifest: &Manifest<'_>, seeds: &[[u8; 32]]) -> Vec<u8> {
    let mut text = [0; MAX_SIGNED];
    let len = manifest.write(&mut text).unwrap();
    let payload = Payload::parse(&text[..len], &mut [0; 16]).unwrap();
    let mut input = [0; DOMAIN.len() + MAX_SIGNED];
    let len = signing_input(&payload, &mut input).unwrap();
    let signatures: Vec<_> = seeds
        .iter()
        .map(|seed| {
            let key = SigningKey::from_bytes(seed);
            Signature {
                key: KeyId::of(key.verifying_key().as_bytes()),
                bytes: key.sign(&input[..len]).to_bytes(),
            }
        })
        .collect();
    let mut out = vec![0; MAX_SIGNED];
    let len = write_signed(&payload, &signatures, &mut out).unwrap();
    out.truncate(len);
    out
}

fn public(seed: &[u8; 32]) -> PublicKey {
    PublicKey::from_bytes(SigningKey::from_bytes(seed).verifying_key().as_bytes()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_and_signed_reads_back(
        (product, chip, version, min_version) in texts(),
        (sequence, security_version, size, sha256, expires) in numbers(),
        old: [u8; 32],
        new: [u8; 32],
        stranger: [u8; 32],
    ) {
        prop_assume!(old != new && old != stranger && new != stranger);
        let manifest = Manifest {
            sequence,
            product: &product,
            chip: &chip,
            version: Version::parse(&version).unwrap(),
            security_version,
            min_version: min_version.as_deref().map(|text| Version::parse(text).unwrap()),
            size,
            sha256,
            expires,
        };
        let text = sign(&manifest, &[old, new]);
        let signed = Signed::parse(&text).unwrap();
        // Either key is enough; neither is not.
        for trusted in [vec![public(&old)], vec![public(&stranger), public(&new)]] {
            let verified = signed.verify(&trusted).unwrap();
            prop_assert_eq!(*verified, manifest);
        }
        prop_assert_eq!(signed.verify(&[public(&stranger)]).unwrap_err(), Refusal::UnknownKey);
    }

    #[test]
    fn no_single_byte_can_be_changed(at in any::<prop::sample::Index>(), change in 1..=255u8) {
        let manifest = Manifest {
            sequence: 7,
            product: "dashboard",
            chip: "esp32c3",
            version: Version::parse("1.2.0").unwrap(),
            security_version: 1,
            min_version: None,
            size: 812_304,
            sha256: [0x5a; 32],
            expires: 1_798_761_600,
        };
        let seed = [7; 32];
        let text = sign(&manifest, &[seed]);
        prop_assert_eq!(verdict(&text, &[public(&seed)]), "ok");
        let mut changed = text.clone();
        *at.get_mut(&mut changed) ^= change;
        // The case of a hex digit outside of what is signed is the one thing that says the same.
        if !changed.eq_ignore_ascii_case(&text) {
            prop_assert_ne!(verdict(&changed, &[public(&seed)]), "ok");
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..MAX_SIGNED + 8)) {
        prop_assert_eq!(verdict(&bytes, &[public(&[1; 32])]), "malformed");
    }

    #[test]
    fn versions_read_and_order_as_the_semver_crate_has_it(a in version(), b in version()) {
        let (ours, theirs) = (Version::parse(&a).unwrap(), semver::Version::parse(&a).unwrap());
        let other = (Version::parse(&b).unwrap(), semver::Version::parse(&b).unwrap());
        prop_assert_eq!(ours.cmp(&other.0), theirs.cmp(&other.1), "{} and {}", a, b);
        prop_assert_eq!(ours == other.0, theirs == other.1);
        prop_assert_eq!(ours.as_str(), &a);
    }

    #[test]
    fn what_is_a_version_is_what_the_semver_crate_takes(text in "[0-2]{0,2}[.][0-2]{0,2}[.+]?[0-2]?[-+.a]{0,2}[a0.+-]{0,3}") {
        let theirs = semver::Version::parse(&text).is_ok_and(|version| version.build.is_empty());
        prop_assert_eq!(Version::parse(&text).is_ok(), theirs, "{}", text);
    }
}
