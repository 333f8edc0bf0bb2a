//! Secrets at rest: the master key, and sealing under it.
//!
//! The shared secrets of devices must be at hand in the clear to check signatures, so they cannot be
//! hashed; they lie in the database sealed under a master key that does not.
//!
//! # The sealed form
//!
//! `1 ‖ key id (4 bytes) ‖ nonce (12 bytes) ‖ ciphertext ‖ tag (16 bytes)`, AES-256-GCM-SIV (RFC 8452)
//! with the place of the value (table, column, row) as associated data, so that a sealed value moved
//! to another row does not open. GCM-SIV rather than GCM or ChaCha20-Poly1305 because nonces are
//! random: a nonce that repeats, after a virtual machine was rolled back for instance, then only shows
//! that two values are equal, where the other two would give away their key stream. The first byte
//! and the key id make another algorithm and another key possible later.
//!
//! The key file holds 64 hex digits per line. The first line seals; the others only open what was
//! sealed before, which is how a key is rotated: put the new one on top, restart, remove the old one.

mod master;

use std::path::PathBuf;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};
use zeroize::Zeroizing;

pub use master::{Origin, Sources, load};

/// The only form there is so far.
const FORMAT: u8 = 1;
const KEY_ID_LEN: usize = 4;
/// What the sealed form holds before the ciphertext.
const HEAD_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;
/// Length of the authentication tag.
const TAG_LEN: usize = 16;

/// The key everything is sealed under, and older ones that still open.
pub struct MasterKey {
    current: Key,
    older: Vec<Key>,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    aead: LessSafeKey,
    fingerprint: hmac::Key,
}

/// Where a sealed value lives; it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub table: &'a str,
    pub column: &'a str,
    /// The row's lasting name.
    pub row: &'a str,
}

/// Why a secret could not be sealed or opened, or there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "master key {path}: {source}; make it readable for the gateway, or name another file in master_key_file"
    )]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("master key {path} can be read by others; run `chmod 600 {path}`")]
    Exposed { path: PathBuf },
    #[error(
        "master key {path} does not hold 64 hex digits per line, nor 32 bytes; restore it from your backup"
    )]
    Malformed { path: PathBuf },
    #[error(
        "{path} is missing, but the database holds secrets sealed under it; restore it from your backup (a new one could not open them)"
    )]
    Missing { path: PathBuf },
    #[error(
        "this is not the master key that sealed the database; restore that one, or set master_key_file to it"
    )]
    WrongKey,
    #[error(
        "the sealed {table}.{column} of {row} does not open: it was damaged or tampered with; set it anew"
    )]
    Tampered {
        table: String,
        column: String,
        row: String,
    },
    #[error("the system gave no random numbers")]
    NoRandomness,
}

impl MasterKey {
    /// The key with these 32 random bytes, and older ones to open with.
    #[must_use]
    pub fn new(current: &[u8; 32], older: &[Zeroizing<[u8; 32]>]) -> Self {
        Self {
            current: Key::derive(current),
            older: older.iter().map(|k| Key::derive(k)).collect(),
        }
    }

    /// Seals `secret` for `place`.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut body = Zeroizing::new(Vec::with_capacity(secret.len() + TAG_LEN));
        body.extend_from_slice(secret);
        self.current
            .aead
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.associated_data()),
                &mut *body,
            )
            .map_err(|_| SealError::NoRandomness)?;
        let mut sealed = Vec::with_capacity(HEAD_LEN + body.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.current.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what [`MasterKey::seal`] made for the same place.
    ///
    /// # Errors
    /// [`SealError::WrongKey`] if no key at hand has its id, [`SealError::Tampered`] if it is not as it
    /// was sealed, or was sealed for another place.
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let parts = Parts::split(sealed).ok_or_else(|| place.tampered())?;
        let key = self.key(parts.key_id).ok_or(SealError::WrongKey)?;
        let mut body = Zeroizing::new(parts.body.to_vec());
        let len = key
            .aead
            .open_in_place(
                Nonce::assume_unique_for_key(*parts.nonce),
                Aad::from(place.associated_data()),
                &mut body,
            )
            .map_err(|_| place.tampered())?
            .len();
        body.truncate(len);
        Ok(body)
    }

    /// Whether this was sealed under an older key and should be sealed again.
    #[must_use]
    pub fn is_outdated(&self, sealed: &[u8]) -> bool {
        Parts::split(sealed).is_none_or(|parts| *parts.key_id != self.current.id)
    }

    /// A keyed fingerprint: tells whether something is what it was before, without keeping it.
    /// `what` keeps fingerprints of different things apart.
    #[must_use]
    pub fn fingerprint(&self, what: &str, bytes: &[u8]) -> [u8; 32] {
        self.current.fingerprint(what, bytes)
    }

    /// Whether `fingerprint` was made of these bytes, under any of the keys.
    #[must_use]
    pub fn fingerprint_matches(&self, what: &str, bytes: &[u8], fingerprint: &[u8]) -> bool {
        std::iter::once(&self.current)
            .chain(&self.older)
            .any(|key| {
                let own = key.fingerprint(what, bytes);
                aws_lc_rs::constant_time::verify_slices_are_equal(&own, fingerprint).is_ok()
            })
    }

    fn key(&self, id: &[u8; KEY_ID_LEN]) -> Option<&Key> {
        std::iter::once(&self.current)
            .chain(&self.older)
            .find(|key| key.id == *id)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl Key {
    /// Separate keys for sealing, fingerprints and the id, so that none says anything of another.
    /// HMAC over a label is a key derivation function for a key that is uniformly random.
    fn derive(master: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, master);
        let derive = |label: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(hmac::sign(&root, label).as_ref());
            key
        };
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&derive(b"tidegate key id")[..KEY_ID_LEN]);
        #[expect(
            clippy::expect_used,
            reason = "the algorithm's keys have 32 bytes, as this has"
        )]
        let aead = UnboundKey::new(&AES_256_GCM_SIV, derive(b"tidegate seal 1").as_slice())
            .expect("a key of 32 bytes");
        Self {
            id,
            aead: LessSafeKey::new(aead),
            fingerprint: hmac::Key::new(
                hmac::HMAC_SHA256,
                derive(b"tidegate fingerprint").as_slice(),
            ),
        }
    }

    fn fingerprint(&self, what: &str, bytes: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.fingerprint);
        context.update(&(what.len() as u64).to_be_bytes());
        context.update(what.as_bytes());
        context.update(bytes);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.sign().as_ref());
        fingerprint
    }
}

impl Place<'_> {
    /// NUL cannot occur in any of the names, so no two places read the same.
    fn associated_data(&self) -> Vec<u8> {
        [self.table, self.column, self.row].join("\0").into_bytes()
    }

    fn tampered(&self) -> SealError {
        SealError::Tampered {
            table: self.table.to_owned(),
            column: self.column.to_owned(),
            row: self.row.to_owned(),
        }
    }
}

struct Parts<'a> {
    key_id: &'a [u8; KEY_ID_LEN],
    nonce: &'a [u8; NONCE_LEN],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(sealed: &'a [u8]) -> Option<Self> {
        let (&FORMAT, rest) = sealed.split_first()? else {
            return None;
        };
        let (key_id, rest) = rest.split_first_chunk()?;
        let (nonce, body) = rest.split_first_chunk()?;
        Some(Self {
            key_id,
            nonce,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place {
        table: "device",
        column: "secret",
        row: "sensor_001",
    };

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let key = MasterKey::new(&[7; 32], &[]);
        let sealed = key.seal(PLACE, b"supersecretkey123").unwrap();
        assert_eq!(&**key.open(PLACE, &sealed).unwrap(), b"supersecretkey123");
        assert!(!sealed.windows(5).any(|w| w == b"super"));
        for elsewhere in [
            Place {
                row: "sensor_002",
                ..PLACE
            },
            Place {
                column: "password",
                ..PLACE
            },
            Place {
                table: "api_key",
                ..PLACE
            },
        ] {
            assert!(matches!(
                key.open(elsewhere, &sealed),
                Err(SealError::Tampered { .. })
            ));
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let key = MasterKey::new(&[7; 32], &[]);
        let sealed = key.seal(PLACE, b"secret").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(PLACE, &changed).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(key.open(PLACE, &sealed[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn another_key_says_so() {
        let sealed = MasterKey::new(&[7; 32], &[])
            .seal(PLACE, b"secret")
            .unwrap();
        let other = MasterKey::new(&[8; 32], &[]);
        assert!(matches!(
            other.open(PLACE, &sealed),
            Err(SealError::WrongKey)
        ));
    }

    #[test]
    fn a_rotated_key_opens_what_the_older_one_sealed() {
        let sealed = MasterKey::new(&[7; 32], &[])
            .seal(PLACE, b"secret")
            .unwrap();
        let rotated = MasterKey::new(&[8; 32], &[Zeroizing::new([7; 32])]);
        assert_eq!(&**rotated.open(PLACE, &sealed).unwrap(), b"secret");
        assert!(rotated.is_outdated(&sealed));
        let again = rotated.seal(PLACE, b"secret").unwrap();
        assert!(!rotated.is_outdated(&again));
        assert_ne!(again, sealed, "nonces are fresh");
        let fingerprint = MasterKey::new(&[7; 32], &[]).fingerprint("password", b"x");
        assert!(rotated.fingerprint_matches("password", b"x", &fingerprint));
        assert!(!rotated.fingerprint_matches("password", b"y", &fingerprint));
        assert!(!rotated.fingerprint_matches("secret", b"x", &fingerprint));
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        assert_eq!(
            format!("{:?}", MasterKey::new(&[7; 32], &[])),
            "MasterKey(..)"
        );
    }
}
