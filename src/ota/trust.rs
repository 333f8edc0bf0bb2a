//! Whose releases are trusted, and which manifests have been found to be theirs.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use sha2::{Digest, Sha256};
use tidegate_wire::manifest::{Manifest, PublicKey, Refusal, Signed};

/// Manifests remembered as verified: far more than are ever on offer at once.
const MOST: usize = 256;

/// The release keys, fixed for the life of the process. A signature is checked once, not for each of a
/// thousand devices that ask about the same release: it is remembered by the digest of the whole text.
#[derive(Debug, Default)]
pub struct Trust {
    keys: Vec<PublicKey>,
    verified: RwLock<HashSet<[u8; 32]>>,
}

impl Trust {
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self {
            keys,
            verified: RwLock::default(),
        }
    }

    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// The manifest in a signed text, if one of the keys has signed it.
    ///
    /// # Errors
    /// [`Refusal`], as [`Signed::verify`].
    pub fn manifest<'t>(&self, text: &'t [u8]) -> Result<Manifest<'t>, Refusal> {
        let signed = Signed::parse(text)?;
        let digest: [u8; 32] = Sha256::digest(text).into();
        let known = self.verified.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&digest) {
            return Ok(signed.claims()?);
        }
        drop(known);
        let manifest = signed.verify(&self.keys)?.into_inner();
        let mut known = self
            .verified
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(digest);
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_verified_is_known_by_every_byte_of_it() {
        let vectors = include_str!("../../tests/vectors/manifest.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let vector = &vectors["signed"][0];
        let text = vector["signed"].as_str().unwrap();
        let key = vector["trusted"][0].as_str().unwrap().parse().unwrap();
        let trust = Trust::new(vec![key]);
        let changed = text.replace("1.2.0", "1.2.1");
        let refused = |text: &str| {
            trust
                .manifest(text.as_bytes())
                .map(|_| ())
                .unwrap_err()
                .code()
        };
        assert_eq!(refused(&changed), "bad_signature");
        for _ in 0..2 {
            let manifest = trust.manifest(text.as_bytes()).unwrap();
            assert_eq!(manifest.version.as_str(), "1.2.0");
            assert_eq!(refused(&changed), "bad_signature");
        }
        let nobody = Trust::new(Vec::new());
        assert_eq!(
            nobody.manifest(text.as_bytes()).unwrap_err().code(),
            "unknown_key"
        );
    }
}
