//! Update manifests: what a release says of itself, and who signed that.
//!
//! A signed manifest is one JSON text of at most [`MAX_SIGNED`] bytes:
//!
//! ```json
//! {"manifest":{"format":1,"sequence":7,"product":"dashboard","chip":"esp32c3","version":"1.2.0",
//!   "security_version":1,"min_version":"1.0.0","size":812304,"sha256":"<64 hex digits>",
//!   "expires":1798761600},
//!  "signatures":[{"key":"<16 hex digits>","signature":"<128 hex digits>"}]}
//! ```
//!
//! The signature is Ed25519 (RFC 8032) over [`DOMAIN`] followed by the manifest's own text without
//! insignificant white space, as everywhere in this contract: nothing is read and written again
//! before it is checked. One signature or two, so that a key can be replaced: during the change a
//! release carries both, and one good signature by a key the receiver trusts is enough. All members
//! are required but `min_version`; unknown members, and two of one name, are refused, because a
//! member that one side ignores and the other does not is how they come to disagree.
//!
//! [`Signed::verify`] is the only way to a [`Verified`] manifest, and [`Manifest::check`] the one
//! place that decides whether it is for a device: the gateway asks it before offering a release, the
//! device before it touches its flash, and both name a [`Refusal`] with the same word.
//!
//! # Where the information elements of RFC 9124 are
//!
//! | RFC 9124, section 3 | here |
//! |---|---|
//! | 3.1 Version ID of the Manifest Structure | `format` |
//! | 3.2 Monotonic Sequence Number | `sequence`, and `security_version` for what must never run again |
//! | 3.3 Vendor ID | the release key: a vendor is who signs |
//! | 3.4 Class ID | `product` and `chip` together |
//! | 3.5 Precursor Image Digest Condition | none: images are whole, not differences |
//! | 3.6 Required Image Version List | `min_version`: that one and every later one |
//! | 3.7 Expiration Time | `expires` |
//! | 3.8 Payload Format, 3.9 Processing Steps | fixed by `format` 1: the plain image, written to the inactive slot, checked, activated |
//! | 3.10 Storage Location, 3.11 Component Identifier | fixed by `format` 1: one component, the inactive slot |
//! | 3.12 Payload Indicator | `sha256`: the image is at `/v1/image/<sha256>` of the server the manifest came from |
//! | 3.13 Payload Digests | `sha256` |
//! | 3.14 Size | `size` |
//! | 3.15 Manifest Envelope Element: Signature | `signatures` |
//! | 3.16 Additional Installation Instructions | none |
//! | 3.17 Manifest Text Information | `version`, which is for people as well |
//! | 3.18 Aliases, 3.19 Dependencies | none: one image, one server |
//! | 3.20 Encryption Wrapper | none: images travel over mutual TLS, and only to devices they are offered to |
//! | 3.21 XIP Address to 3.23 Run-Time Metadata | in the image, where the chip's boot loader reads them |
//! | 3.24 Payload | none: never inside the manifest |
//! | 3.25 Manifest Envelope Element: Key Claims | `key`: which key, never the key itself |

use crate::device_id::DeviceId;
use crate::envelope::Verified;
use crate::json::Payload;
use crate::message_id::nibble;
use crate::output::{Output, TooSmall};

mod key;
mod refusal;
mod version;

pub use key::{InvalidKey, KeyId, PublicKey};
pub use refusal::{Problem, Refusal};
pub use version::{InvalidVersion, MAX_VERSION, Version};

/// Longest signed manifest, in bytes: 2 KiB.
///
/// With the longest names and versions and two signatures it is about 950 bytes; the rest is room for
/// white space and for a later format. Small enough for a device to hold on its stack.
pub const MAX_SIGNED: usize = 2048;

/// What comes before the manifest in what is signed, so that a signature made for this purpose can
/// serve no other.
pub const DOMAIN: &[u8] = b"tidegate.manifest.v1\n";

/// Most signatures a manifest carries: the old key's and the new one's.
pub const MAX_SIGNATURES: usize = 2;

/// Length of an Ed25519 signature in bytes (RFC 8032).
pub const SIGNATURE: usize = 64;

/// Room for the members of all objects that are open at once: 2 around, and the manifest's 10 or a
/// signature's 2. With more than that something is there that is refused anyway.
const SLOTS: usize = 16;

/// What a release says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest<'a> {
    /// Rises with every release of a product, so that an old manifest cannot be passed off as news.
    pub sequence: u64,
    /// What the firmware is for; the rules of a device id.
    pub product: &'a str,
    /// What it runs on, such as `esp32c3`; the rules of a device id.
    pub chip: &'a str,
    /// Its version.
    pub version: Version<'a>,
    /// Never decreases on a device: raised when what came before must not run again.
    pub security_version: u32,
    /// The oldest version that can be updated from.
    pub min_version: Option<Version<'a>>,
    /// Length of the image in bytes; at least 1.
    pub size: u32,
    /// SHA-256 of the image.
    pub sha256: [u8; 32],
    /// The first second, since 1970, in which it is no longer to be installed.
    pub expires: u64,
}

/// What a release is held against: a device, as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running<'a> {
    /// The product it is.
    pub product: &'a str,
    /// The chip it has.
    pub chip: &'a str,
    /// The version it runs.
    pub version: Version<'a>,
    /// The highest security version it ever confirmed.
    pub security_version: u32,
    /// The sequence number of the release it runs; 0 if that is not known.
    pub sequence: u64,
    /// The largest image it can take, in bytes.
    pub max_size: u32,
}

impl Manifest<'_> {
    /// Whether a device that is `running` should install this at `now` (seconds since 1970).
    ///
    /// A version is only ever replaced by a later one: to bring an older one back, it is released
    /// again under a new version.
    ///
    /// # Errors
    ///
    /// The first [`Refusal`] that applies: `wrong_product`, `wrong_chip`, `expired`, `too_large`,
    /// `downgrade`, `not_newer`, `from_too_old`.
    pub fn check(&self, running: &Running<'_>, now: u64) -> Result<(), Refusal> {
        if self.product != running.product {
            return Err(Refusal::WrongProduct);
        }
        if self.chip != running.chip {
            return Err(Refusal::WrongChip);
        }
        if now >= self.expires {
            return Err(Refusal::Expired);
        }
        if self.size > running.max_size {
            return Err(Refusal::TooLarge);
        }
        if self.security_version < running.security_version {
            return Err(Refusal::Downgrade);
        }
        if self.version <= running.version || self.sequence <= running.sequence {
            return Err(Refusal::NotNewer);
        }
        if self.min_version.is_some_and(|min| running.version < min) {
            return Err(Refusal::FromTooOld);
        }
        Ok(())
    }

    /// Writes the manifest in its canonical form, ready to be signed, and returns its length.
    ///
    /// # Errors
    ///
    /// [`TooSmall`] if `out` is; [`MAX_SIGNED`] bytes always suffice.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, TooSmall> {
        let mut out = Output::new(out);
        out.put(b"{\"format\":1,\"sequence\":")?;
        out.put_u64(self.sequence)?;
        out.put(b",\"product\":")?;
        out.put_json_string(self.product)?;
        out.put(b",\"chip\":")?;
        out.put_json_string(self.chip)?;
        out.put(b",\"version\":")?;
        out.put_json_string(self.version.as_str())?;
        out.put(b",\"security_version\":")?;
        out.put_u64(self.security_version.into())?;
        if let Some(min) = self.min_version {
            out.put(b",\"min_version\":")?;
            out.put_json_string(min.as_str())?;
        }
        out.put(b",\"size\":")?;
        out.put_u64(self.size.into())?;
        out.put(b",\"sha256\":\"")?;
        out.put_hex(&self.sha256)?;
        out.put(b"\",\"expires\":")?;
        out.put_u64(self.expires)?;
        out.put(b"}")?;
        Ok(out.len())
    }
}

impl<'a> Manifest<'a> {
    /// Reads the members of `manifest`.
    fn read(manifest: Payload<'a>) -> Result<Self, Problem> {
        let mut members = [None; MEMBERS.len()];
        take(manifest, &MEMBERS, &mut members, "manifest")?;
        let [
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
        ] = members;
        // First, so that a later format is not judged by the rules of this one.
        if unsigned(format, "format")? != 1 {
            return Err(Problem::Wrong("format"));
        }
        let small =
            |value, name| u32::try_from(unsigned(value, name)?).map_err(|_| Problem::Wrong(name));
        let min_version = match min_version {
            None => None,
            Some(_) => Some(version_of(min_version, "min_version")?),
        };
        let manifest = Self {
            sequence: unsigned(sequence, "sequence")?,
            product: named(product, "product")?,
            chip: named(chip, "chip")?,
            version: version_of(version, "version")?,
            security_version: small(security_version, "security_version")?,
            min_version,
            size: small(size, "size")?,
            sha256: hex(sha256, "sha256")?,
            expires: unsigned(expires, "expires")?,
        };
        if manifest.size == 0 {
            return Err(Problem::Wrong("size"));
        }
        if manifest.sequence == 0 {
            return Err(Problem::Wrong("sequence"));
        }
        Ok(manifest)
    }
}

const MEMBERS: [&str; 10] = [
    "format",
    "sequence",
    "product",
    "chip",
    "version",
    "security_version",
    "min_version",
    "size",
    "sha256",
    "expires",
];

/// A signed manifest as it was received: what it claims is not verified yet.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    manifest: Payload<'a>,
    signatures: [Option<Signature>; MAX_SIGNATURES],
}

/// Who says to have signed, and the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The key it is said to be made with.
    pub key: KeyId,
    /// The signature.
    pub bytes: [u8; SIGNATURE],
}

impl<'a> Signed<'a> {
    /// Reads a signed manifest as far as is needed to check its signatures.
    ///
    /// # Errors
    ///
    /// [`Problem`]: too long, not JSON, members missing, unknown or not of their form.
    pub fn parse(text: &'a [u8]) -> Result<Self, Problem> {
        if text.len() > MAX_SIGNED {
            return Err(Problem::TooLong);
        }
        let signed = Payload::parse(text, &mut [0; SLOTS]).map_err(Problem::Json)?;
        let mut members = [None; 2];
        take(
            signed,
            &["manifest", "signatures"],
            &mut members,
            "the text",
        )?;
        let [manifest, list] = members;
        let manifest = manifest.ok_or(Problem::Missing("manifest"))?;
        let list = list.ok_or(Problem::Missing("signatures"))?;
        let mut signatures = [None; MAX_SIGNATURES];
        let mut places = signatures.iter_mut();
        for element in list.elements().ok_or(Problem::Wrong("signatures"))? {
            let mut members = [None; 2];
            take(element, &["key", "signature"], &mut members, "a signature")?;
            let [key, bytes] = members;
            // More signatures than there are places for.
            *places.next().ok_or(Problem::Wrong("signatures"))? = Some(Signature {
                key: KeyId::from_bytes(hex(key, "key")?),
                bytes: hex(bytes, "signature")?,
            });
        }
        if signatures.iter().all(Option::is_none) {
            return Err(Problem::Wrong("signatures"));
        }
        Ok(Self {
            manifest,
            signatures,
        })
    }

    /// Checks the signatures against the keys that are trusted, and only then reads the manifest.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownKey`] if no trusted key is named, [`Refusal::BadSignature`] if one is but
    /// has not signed this, [`Refusal::Malformed`] if what was signed is not a manifest.
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<Verified<Manifest<'a>>, Refusal> {
        self.signer(trusted)?;
        let manifest = Manifest::read(self.manifest).map_err(Refusal::Malformed)?;
        Ok(Verified::proven(manifest))
    }

    /// Which of the trusted keys has signed this.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify), except that the manifest itself is not read.
    pub fn signer(&self, trusted: &[PublicKey]) -> Result<KeyId, Refusal> {
        let mut input = [0; DOMAIN.len() + MAX_SIGNED];
        let len = signing_input(&self.manifest, &mut input)
            .map_err(|_| Refusal::Malformed(Problem::TooLong))?;
        let input = input.get(..len).unwrap_or(&[]);
        let mut refusal = Refusal::UnknownKey;
        for signature in self.signatures() {
            // Two keys with one id are as good as impossible, and harmless: each is tried.
            for key in trusted.iter().filter(|key| key.id() == signature.key) {
                if key.verifies(input, &signature.bytes) {
                    return Ok(signature.key);
                }
                refusal = Refusal::BadSignature;
            }
        }
        Err(refusal)
    }

    /// What the manifest says, whoever signed it: for showing it, never for acting on it.
    ///
    /// # Errors
    ///
    /// [`Problem`] if it is not a manifest.
    pub fn claims(&self) -> Result<Manifest<'a>, Problem> {
        Manifest::read(self.manifest)
    }

    /// The signatures it carries.
    pub fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.signatures.iter().flatten()
    }

    /// The manifest as it was written.
    #[must_use]
    pub const fn manifest(&self) -> Payload<'a> {
        self.manifest
    }
}

/// Writes what is signed for `manifest` and returns its length: [`DOMAIN`] and the canonical form.
///
/// # Errors
///
/// [`TooSmall`] if `out` is; [`DOMAIN`] and [`MAX_SIGNED`] bytes suffice for what fits into a signed
/// manifest.
pub fn signing_input(manifest: &Payload<'_>, out: &mut [u8]) -> Result<usize, TooSmall> {
    let mut out = Output::new(out);
    out.put(DOMAIN)?;
    manifest.put(&mut out)?;
    Ok(out.len())
}

/// Writes a signed manifest and returns its length.
///
/// # Errors
///
/// [`TooSmall`] if `out` is; give it [`MAX_SIGNED`] bytes: what does not fit is not valid either.
pub fn write_signed(
    manifest: &Payload<'_>,
    signatures: &[Signature],
    out: &mut [u8],
) -> Result<usize, TooSmall> {
    let mut out = Output::new(out);
    out.put(b"{\"manifest\":")?;
    manifest.put(&mut out)?;
    out.put(b",\"signatures\":[")?;
    for (place, signature) in signatures.iter().enumerate() {
        out.put(if place == 0 {
            b"{\"key\":\""
        } else {
            b",{\"key\":\""
        })?;
        out.put_hex(signature.key.as_bytes())?;
        out.put(b"\",\"signature\":\"")?;
        out.put_hex(&signature.bytes)?;
        out.put(b"\"}")?;
    }
    out.put(b"]}")?;
    Ok(out.len())
}

/// Puts the values of the members called `names` in their places; no other member may be there.
/// Names are taken as they are written: one with an escape is another name.
fn take<'a>(
    object: Payload<'a>,
    names: &[&'static str],
    values: &mut [Option<Payload<'a>>],
    what: &'static str,
) -> Result<(), Problem> {
    for (name, value) in object.members().ok_or(Problem::Wrong(what))? {
        let place = names.iter().position(|known| *known == name);
        *place
            .and_then(|place| values.get_mut(place))
            .ok_or(Problem::Unknown(what))? = Some(value);
    }
    Ok(())
}

type Value<'a> = Option<Payload<'a>>;

fn unsigned(value: Value<'_>, name: &'static str) -> Result<u64, Problem> {
    let value = value.ok_or(Problem::Missing(name))?;
    value.unsigned().ok_or(Problem::Wrong(name))
}

fn plain<'a>(value: Value<'a>, name: &'static str) -> Result<&'a str, Problem> {
    let value = value.ok_or(Problem::Missing(name))?;
    value.plain_string().ok_or(Problem::Wrong(name))
}

fn named<'a>(value: Value<'a>, name: &'static str) -> Result<&'a str, Problem> {
    DeviceId::check(plain(value, name)?.as_bytes()).map_err(|_| Problem::Wrong(name))
}

fn version_of<'a>(value: Value<'a>, name: &'static str) -> Result<Version<'a>, Problem> {
    Version::parse(plain(value, name)?).map_err(|_| Problem::Wrong(name))
}

fn hex<const N: usize>(value: Value<'_>, name: &'static str) -> Result<[u8; N], Problem> {
    unhex(plain(value, name)?).ok_or(Problem::Wrong(name))
}

/// The bytes that twice `N` hex digits of either case spell.
fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let pairs: &[[u8; 2]; N] = pairs.try_into().ok()?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (nibble(*high), nibble(*low));
        if (high | low) & 0xf0 != 0 {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some(bytes)
}
