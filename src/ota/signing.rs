//! Making release keys and signing releases: offline, on the machine where releases are built.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest, Sha256};
use tidegate_wire::{
    Payload,
    manifest::{
        DOMAIN, KeyId, MAX_SIGNATURES, MAX_SIGNED, Manifest, Problem, PublicKey, Signature, Signed,
        signing_input, write_signed,
    },
};
use zeroize::Zeroizing;

/// How much of an image is read at once.
const CHUNK: usize = 64 * 1024;
/// A key file is far smaller.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// Why a release was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is there already; name another file, a key is never overwritten")]
    Exists(PathBuf),
    #[error("{0} holds no Ed25519 private key (PKCS #8, PEM); tidegate firmware keygen makes one")]
    Key(PathBuf),
    #[error(
        "{0} holds no release key: 64 hex digits; tidegate firmware keygen writes them beside the key"
    )]
    PublicKey(PathBuf),
    #[error("{0} is empty or larger than 4 GiB; is it the image?")]
    Image(PathBuf),
    #[error("the generator of random numbers failed; try again")]
    NoRandomness,
    #[error("{0}")]
    Manifest(Problem),
    #[error("a manifest carries at most {MAX_SIGNATURES} signatures; sign the image anew")]
    TooMany,
    #[error("the manifest has more than {MAX_SIGNED} bytes; shorten its names")]
    TooLarge,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SigningError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => SigningError::Exists(path),
        _ => SigningError::Io { path, source },
    }
}

/// A key that signs releases.
#[expect(missing_debug_implementations, reason = "secret")]
pub struct ReleaseKey(Ed25519KeyPair);

impl ReleaseKey {
    /// Makes a key and writes it to `path` (PKCS #8, PEM, for its owner alone) and its public half to
    /// `path` with `.pub` appended.
    ///
    /// # Errors
    /// Either file exists or cannot be written.
    pub fn generate(path: &Path) -> Result<(PublicKey, PathBuf), SigningError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| SigningError::NoRandomness)?;
        let key = Self(pair);
        let public = key.public()?;
        let beside = PathBuf::from(format!("{}.pub", path.display()));
        if beside.exists() {
            return Err(SigningError::Exists(beside));
        }
        let der = key.0.to_pkcs8v1().map_err(|_| SigningError::NoRandomness)?;
        let text = Zeroizing::new(BASE64_STANDARD.encode(der.as_ref()));
        let pem = Zeroizing::new(format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            *text
        ));
        create(path, pem.as_bytes(), 0o600)?;
        create(&beside, format!("{public}\n").as_bytes(), 0o644)?;
        Ok((public, beside))
    }

    /// Reads a key, made by [`ReleaseKey::generate`] or `openssl genpkey -algorithm ed25519`.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let mut pem = Zeroizing::new(Vec::new());
        File::open(path)
            .and_then(|file| file.take(MAX_KEY_BYTES).read_to_end(&mut pem))
            .map_err(failed(path))?;
        let bad = || SigningError::Key(path.to_owned());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| bad())?;
        Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map(Self)
            .map_err(|_| bad())
    }

    /// Its public half.
    ///
    /// # Errors
    /// None in practice: keys that are made as they should be are strong.
    pub fn public(&self) -> Result<PublicKey, SigningError> {
        let bytes = self.0.public_key().as_ref().try_into().ok();
        bytes
            .and_then(|bytes| PublicKey::from_bytes(bytes).ok())
            .ok_or(SigningError::NoRandomness)
    }

    fn sign(&self, input: &[u8]) -> Result<Signature, SigningError> {
        let signature = self.0.sign(input);
        Ok(Signature {
            key: self.public()?.id(),
            bytes: signature
                .as_ref()
                .try_into()
                .map_err(|_| SigningError::NoRandomness)?,
        })
    }
}

/// Reads a release key's public half: 64 hex digits.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read_public(path: &Path) -> Result<PublicKey, SigningError> {
    let text = fs::read_to_string(path).map_err(failed(path))?;
    let bad = |_| SigningError::PublicKey(path.to_owned());
    text.trim().parse().map_err(bad)
}

/// Length and SHA-256 of an image.
///
/// # Errors
/// It cannot be read, is empty or too large.
pub fn measure(path: &Path) -> Result<(u32, [u8; 32]), SigningError> {
    let mut file = File::open(path).map_err(failed(path))?;
    let (mut digest, mut length) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = file.read(&mut buffer).map_err(failed(path))?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        digest.update(piece);
        length += read as u64;
    }
    match u32::try_from(length) {
        Ok(length) if length > 0 => Ok((length, digest.finalize().into())),
        _ => Err(SigningError::Image(path.to_owned())),
    }
}

/// Signs a manifest with one key or two; the signed manifest.
///
/// # Errors
/// [`SigningError::TooMany`], [`SigningError::TooLarge`].
pub fn sign(manifest: &Manifest<'_>, keys: &[ReleaseKey]) -> Result<Vec<u8>, SigningError> {
    let mut text = [0; MAX_SIGNED];
    let length = manifest
        .write(&mut text)
        .map_err(|_| SigningError::TooLarge)?;
    let text = text.get(..length).unwrap_or_default();
    let payload = Payload::parse(text, &mut [0; 32])
        .map_err(|error| SigningError::Manifest(Problem::Json(error)))?;
    assemble(&payload, Vec::new(), keys)
}

/// Adds a signature to a signed manifest, by another key; the new text.
///
/// # Errors
/// It is no signed manifest, or carries two signatures by other keys already.
pub fn add(signed: &[u8], keys: &[ReleaseKey]) -> Result<Vec<u8>, SigningError> {
    let signed = Signed::parse(signed).map_err(SigningError::Manifest)?;
    signed.claims().map_err(SigningError::Manifest)?;
    let new: Vec<KeyId> = keys
        .iter()
        .map(|key| Ok(key.public()?.id()))
        .collect::<Result<_, SigningError>>()?;
    let kept = signed.signatures().filter(|old| !new.contains(&old.key));
    assemble(&signed.manifest(), kept.copied().collect(), keys)
}

fn assemble(
    manifest: &Payload<'_>,
    mut signatures: Vec<Signature>,
    keys: &[ReleaseKey],
) -> Result<Vec<u8>, SigningError> {
    let mut input = [0; DOMAIN.len() + MAX_SIGNED];
    let length = signing_input(manifest, &mut input).map_err(|_| SigningError::TooLarge)?;
    let input = input.get(..length).unwrap_or_default();
    for key in keys {
        signatures.push(key.sign(input)?);
    }
    if signatures.len() > MAX_SIGNATURES {
        return Err(SigningError::TooMany);
    }
    let mut out = vec![0; MAX_SIGNED];
    let length =
        write_signed(manifest, &signatures, &mut out).map_err(|_| SigningError::TooLarge)?;
    out.truncate(length);
    Ok(out)
}

/// Writes a file that is not there yet.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), SigningError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed(path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed(path))
}
