//! Checking passwords, for devices that cannot hold a certificate.

use std::{
    collections::HashMap,
    fmt,
    sync::{OnceLock, PoisonError, RwLock},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand};

use super::RegistryError;
use crate::{seal::SealError, store::DeviceKey};

/// The password hashes of the devices that have one.
///
/// A thousand devices that reconnect at once would keep a Raspberry Pi hashing for a minute, so a
/// password that was right is remembered, as a keyed digest under a key that lives as long as this
/// process, and recognised without hashing. Whoever can read the process's memory has the devices'
/// secrets anyway; on disk there is only the slow hash.
pub(super) struct Passwords {
    by_device: RwLock<HashMap<DeviceKey, Password>>,
    digest_key: hmac::Key,
    /// A hash nobody has the password to: it is compared with when there is none to compare with.
    nobodys: OnceLock<Option<PasswordHash>>,
}

struct Password {
    hash: Box<str>,
    right: Option<[u8; 32]>,
}

impl Passwords {
    pub(super) fn new() -> Result<Self, SealError> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| SealError::NoRandomness)?;
        Ok(Self {
            by_device: RwLock::default(),
            digest_key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            nobodys: OnceLock::new(),
        })
    }

    /// Sets or removes a device's hash.
    pub(super) fn set(&self, device: DeviceKey, hash: Option<&str>) {
        let mut by_device = self
            .by_device
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match hash {
            Some(hash) if by_device.get(&device).is_some_and(|p| *p.hash == *hash) => {}
            Some(hash) => {
                by_device.insert(
                    device,
                    Password {
                        hash: hash.into(),
                        right: None,
                    },
                );
            }
            None => {
                by_device.remove(&device);
            }
        }
    }

    pub(super) fn check(&self, device: Option<DeviceKey>, password: &[u8]) -> bool {
        let known = device.and_then(|device| {
            let by_device = self
                .by_device
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            by_device
                .get(&device)
                .map(|p| (device, p.hash.clone(), p.right))
        });
        let Some((device, hash, right)) = known else {
            if let Some(nobodys) = self
                .nobodys
                .get_or_init(|| hash_with(b"nobody's", params()).ok())
            {
                let _ = Argon2::default().verify_password(password, nobodys);
            }
            return false;
        };
        let digest = self.digest(device, password);
        if right.is_some_and(|right| verify_slices_are_equal(&right, &digest).is_ok()) {
            return true;
        }
        let is_right = PasswordHash::new(&hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        if is_right {
            let mut by_device = self
                .by_device
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            // It may have been changed while we were hashing.
            if let Some(entry) = by_device
                .get_mut(&device)
                .filter(|entry| entry.hash == hash)
            {
                entry.right = Some(digest);
            }
        }
        is_right
    }

    fn digest(&self, device: DeviceKey, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.digest_key);
        context.update(&device.0.to_be_bytes());
        context.update(password);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords(..)")
    }
}

/// argon2id with the parameters OWASP recommends (19 MiB, 2 passes), in PHC string form.
pub(super) fn hash(password: &[u8]) -> Result<String, RegistryError> {
    Ok(hash_with(password, params())?.to_string())
}

fn hash_with(password: &[u8], params: Params) -> Result<PasswordHash, RegistryError> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password)
        .map_err(|error| RegistryError::Hash(error.to_string()))
}

/// A hash carries its parameters, so these can change without a migration.
#[cfg(not(test))]
fn params() -> Params {
    Params::DEFAULT
}

/// An unoptimised build takes a second for the real ones.
#[cfg(test)]
fn params() -> Params {
    Params::new(64, 1, 1, None).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_the_right_device_is_right() {
        let passwords = Passwords::new().unwrap();
        let hash = hash(b"correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        passwords.set(DeviceKey(1), Some(&hash));
        for _ in 0..2 {
            assert!(
                passwords.check(Some(DeviceKey(1)), b"correct horse"),
                "hashed, then remembered"
            );
            assert!(!passwords.check(Some(DeviceKey(1)), b"battery staple"));
            assert!(!passwords.check(Some(DeviceKey(2)), b"correct horse"));
            assert!(!passwords.check(None, b"nobody's"));
        }
        passwords.set(DeviceKey(1), Some(&super::hash(b"new").unwrap()));
        assert!(
            !passwords.check(Some(DeviceKey(1)), b"correct horse"),
            "not remembered too long"
        );
        assert!(passwords.check(Some(DeviceKey(1)), b"new"));
        passwords.set(DeviceKey(1), None);
        assert!(!passwords.check(Some(DeviceKey(1)), b"new"));
    }
}
