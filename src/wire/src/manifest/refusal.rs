//! Why a release is not installed, in one word for both sides.

use core::fmt;

use super::MAX_SIGNED;
use crate::json::JsonError;

/// Why a release is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a signed manifest.
    Malformed(Problem),
    /// No key that is trusted is named as its signer.
    UnknownKey,
    /// A trusted key is named, but it has not signed this.
    BadSignature,
    /// It is for another product.
    WrongProduct,
    /// It is for another chip.
    WrongChip,
    /// Its time is over.
    Expired,
    /// Its image is larger than there is room for.
    TooLarge,
    /// Its security version is lower than what the device has confirmed.
    Downgrade,
    /// It is not later than what the device runs.
    NotNewer,
    /// What the device runs is too old to update from.
    FromTooOld,
}

impl Refusal {
    /// The words of all of them, as devices report them.
    pub const CODES: [&'static str; 10] = [
        "malformed",
        "unknown_key",
        "bad_signature",
        "wrong_product",
        "wrong_chip",
        "expired",
        "too_large",
        "downgrade",
        "not_newer",
        "from_too_old",
    ];

    /// The refusal as it is reported and counted, such as `not_newer`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        let [
            malformed,
            unknown_key,
            bad_signature,
            wrong_product,
            wrong_chip,
            expired,
            too_large,
            downgrade,
            not_newer,
            from_too_old,
        ] = Self::CODES;
        match self {
            Self::Malformed(_) => malformed,
            Self::UnknownKey => unknown_key,
            Self::BadSignature => bad_signature,
            Self::WrongProduct => wrong_product,
            Self::WrongChip => wrong_chip,
            Self::Expired => expired,
            Self::TooLarge => too_large,
            Self::Downgrade => downgrade,
            Self::NotNewer => not_newer,
            Self::FromTooOld => from_too_old,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(problem) => return problem.fmt(f),
            Self::UnknownKey => "signed by no key that is trusted: sign it with a release key",
            Self::BadSignature => {
                "the signature does not match: the manifest was changed, or damaged"
            }
            Self::WrongProduct => "it is for another product",
            Self::WrongChip => "it is for another chip",
            Self::Expired => "it has expired: sign the image again with a later expiry",
            Self::TooLarge => "the image is larger than there is room for",
            Self::Downgrade => "its security version is lower than the one that is running",
            Self::NotNewer => "it is not later than what is running: release it as a later version",
            Self::FromTooOld => "what is running is older than it can update from: update in steps",
        })
    }
}

impl core::error::Error for Refusal {}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Malformed(problem)
    }
}

/// What is wrong with a text that should be a signed manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is longer than [`MAX_SIGNED`].
    TooLong,
    /// It is not JSON.
    Json(JsonError),
    /// This member is missing.
    Missing(&'static str),
    /// This has not the form it must have.
    Wrong(&'static str),
    /// This has a member that is not known.
    Unknown(&'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a signed manifest: ")?;
        match self {
            Self::TooLong => write!(f, "longer than {MAX_SIGNED} bytes"),
            Self::Json(error) => error.fmt(f),
            Self::Missing(member) => write!(f, "member `{member}` is missing"),
            Self::Unknown(what) => write!(f, "{what} has a member this version does not know"),
            Self::Wrong(member) => write!(
                f,
                "`{member}` must be {}",
                match *member {
                    "format" => "1",
                    "sequence" | "size" => "a whole number from 1 up",
                    "security_version" | "expires" => "a whole number",
                    "product" | "chip" => "1 to 64 characters of A-Z a-z 0-9 _ -",
                    "version" | "min_version" =>
                        "a semantic version without build part, like 1.2.0",
                    "sha256" => "64 hex digits",
                    "key" => "16 hex digits",
                    "signature" => "128 hex digits",
                    "signatures" => "a list of one or two signatures",
                    _ => "a JSON object",
                }
            ),
        }
    }
}

impl core::error::Error for Problem {}
