//! Shared secrets and passwords: read from files, checked, sealed.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use tidegate_wire::{DeviceId, SigningKey};
use zeroize::Zeroizing;

use super::{DefinitionError, RegistryError};
use crate::{
    seal::{MasterKey, Place, SealError},
    store::devices::DeviceRow,
};

/// Shortest shared secret, in bytes. 16 random bytes are beyond guessing; shorter ones are words.
pub const MIN_SECRET: usize = 16;
/// Longest secret or password, in bytes: longer ones are another file given by mistake.
const MAX_CREDENTIAL: usize = 1024;

/// Where a device's sealed secret lives.
pub(super) fn place(id: &str) -> Place<'_> {
    Place {
        table: "device",
        column: "secret",
        row: id,
    }
}

/// The content of a secret's or password's file without its last line break.
pub(super) fn read_file(
    device: &DeviceId,
    setting: &'static str,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, DefinitionError> {
    let failed = |source: io::Error| DefinitionError::File {
        device: *device,
        setting,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.mode() & 0o007 != 0 {
        // Not refused: a file placed by another tool may be group-readable on purpose, and one device
        // out of a thousand should not keep the gateway down.
        tracing::warn!(device = %device, file = %path.display(), "everyone can read {setting}; run chmod 600 on it");
    }
    let mut content = Zeroizing::new(Vec::with_capacity(2 * MAX_CREDENTIAL));
    file.take(2 * MAX_CREDENTIAL as u64)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.ends_with(b"\n") {
        content.pop();
        if content.ends_with(b"\r") {
            content.pop();
        }
    }
    let what = format!("{setting} {}", path.display());
    match setting {
        "secret_file" => check(device, &what, &content, MIN_SECRET)?,
        _ => check(device, &what, &content, 1)?,
    }
    // All devices' are held at once: each in the room it needs.
    Ok(Zeroizing::new(content.to_vec()))
}

/// Whether this will do as a shared secret.
pub(super) fn check_secret(device: &DeviceId, secret: &[u8]) -> Result<(), DefinitionError> {
    check(device, "the secret", secret, MIN_SECRET)
}

/// Whether this will do as a password. Its strength is the operator's choice: guessing is slowed down
/// by the hash and by the front.
pub(super) fn check_password(device: &DeviceId, password: &[u8]) -> Result<(), DefinitionError> {
    check(device, "the password", password, 1)
}

fn check(
    device: &DeviceId,
    what: &str,
    content: &[u8],
    least: usize,
) -> Result<(), DefinitionError> {
    let (device, what, len) = (*device, what.to_owned(), content.len());
    if len == 0 {
        Err(DefinitionError::Empty { device, what })
    } else if len < least {
        Err(DefinitionError::ShortSecret { device, what, len })
    } else if len > MAX_CREDENTIAL {
        Err(DefinitionError::TooLong {
            device,
            what,
            len,
            most: MAX_CREDENTIAL,
        })
    } else {
        Ok(())
    }
}

/// The key a device signs with. One whose sealed secret was damaged gets none: it is locked out, and
/// all others are not.
pub(super) fn signing_key(
    master: &MasterKey,
    row: &DeviceRow,
) -> Result<Option<Arc<SigningKey>>, RegistryError> {
    let Some(sealed) = &row.secret else {
        return Ok(None);
    };
    match master.open(place(&row.id), sealed) {
        Ok(secret) => Ok(SigningKey::new(&secret).ok().map(Arc::new)),
        Err(error @ SealError::Tampered { .. }) => {
            tracing::error!(device = row.id, %error, "a device is locked out");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Seals the secret again if it was sealed under an older key; tells whether it did.
pub(super) fn reseal(master: &MasterKey, row: &mut DeviceRow) -> Result<bool, RegistryError> {
    let Some(sealed) = row
        .secret
        .as_ref()
        .filter(|sealed| master.is_outdated(sealed))
    else {
        return Ok(false);
    };
    match master.open(place(&row.id), sealed) {
        Ok(secret) => row.secret = Some(master.seal(place(&row.id), &secret)?),
        // `signing_key` will say so.
        Err(SealError::Tampered { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}
