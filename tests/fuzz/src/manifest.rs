//! The signed update manifest: what is one, and that what it says is what it says to others.
//!
//! Input: the text. It is read a second time by serde_json with the same rules written down as types.
//! No key is trusted, so none of them verifies; what it claims must be what the second reading says.
//! Allocation: none.

use serde::Deserialize;
use tidegate_wire::manifest::{MAX_SIGNED, Refusal, Signed};

use crate::allocation;
use crate::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    manifest: Manifest,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u64,
    sequence: u64,
    product: String,
    chip: String,
    version: String,
    security_version: u32,
    #[serde(default)]
    min_version: Option<String>,
    size: u32,
    sha256: String,
    expires: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    key: String,
    signature: String,
}

/// # Panics
///
/// If something does not hold.
pub fn run(text: &[u8]) {
    let signed = allocation::at_most(0, || Signed::parse(text));
    let Ok(signed) = signed else {
        return;
    };
    assert!(text.len() <= MAX_SIGNED, "longer than anybody may send");
    assert!(
        json::read(text, 32).is_some(),
        "accepted what another reader does not take for JSON"
    );
    assert!((1..=2).contains(&signed.signatures().count()));
    let verified = allocation::at_most(0, || signed.verify(&[]).map(|_| ()));
    assert_eq!(verified, Err(Refusal::UnknownKey), "verified by nobody");
    let claims = allocation::at_most(0, || signed.claims());
    let Ok(claims) = claims else {
        return;
    };
    let Ok(model) = serde_json::from_slice::<Outer>(text) else {
        panic!("accepted what another reader refuses: {claims:?}");
    };
    let Manifest {
        format,
        sequence,
        product,
        chip,
        version,
        security_version,
        min_version,
        size,
        sha256,
        expires,
    } = model.manifest;
    assert_eq!(
        (format, sequence, expires),
        (1, claims.sequence, claims.expires)
    );
    assert_eq!(
        (product.as_str(), chip.as_str()),
        (claims.product, claims.chip)
    );
    assert_eq!(
        (version.as_str(), security_version),
        (claims.version.as_str(), claims.security_version)
    );
    assert_eq!(
        min_version.as_deref(),
        claims.min_version.map(|version| version.as_str())
    );
    assert_eq!(size, claims.size);
    assert!(sha256.eq_ignore_ascii_case(&hex(&claims.sha256)));
    assert_eq!(model.signatures.len(), signed.signatures().count());
    for (model, ours) in model.signatures.iter().zip(signed.signatures()) {
        assert!(model.key.eq_ignore_ascii_case(&ours.key.to_string()));
        assert!(model.signature.eq_ignore_ascii_case(&hex(&ours.bytes)));
    }
    // What is written again reads the same.
    let mut written = [0; MAX_SIGNED];
    let length = claims
        .write(&mut written)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(length <= text.len(), "the canonical form is never longer");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
