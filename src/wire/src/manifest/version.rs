//! Versions: Semantic Versioning 2.0.0 without build metadata.

use core::cmp::Ordering;
use core::fmt;

/// Longest version in characters: 64. Long enough for `18446744073709551615.0.0-rc.1`, short enough
/// for a manifest, a query and a log line.
pub const MAX_VERSION: usize = 64;

/// A version, borrowed from the text it stands in. It orders by precedence (Semantic Versioning 2.0.0,
/// section 11); without build metadata, versions of equal precedence are the same text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version<'a> {
    text: &'a str,
    core: [u64; 3],
    /// The pre-release part without its hyphen; empty for a release.
    pre: &'a str,
}

impl<'a> Version<'a> {
    /// Reads a version such as `1.2.0` or `2.0.0-rc.1`.
    ///
    /// # Errors
    ///
    /// [`InvalidVersion`] for everything else, build metadata (`+…`) included: two builds of one
    /// version would have the same precedence, and neither could replace the other.
    pub fn parse(text: &'a str) -> Result<Self, InvalidVersion> {
        if text.len() > MAX_VERSION {
            return Err(InvalidVersion);
        }
        let (numbers, pre) = match text.split_once('-') {
            Some((_, "")) => return Err(InvalidVersion),
            Some((numbers, pre)) => (numbers, pre),
            None => (text, ""),
        };
        let mut core = [0; 3];
        let mut parts = numbers.split('.');
        for number in &mut core {
            let part = parts.next().ok_or(InvalidVersion)?;
            *number = crate::json::unsigned(part.as_bytes()).ok_or(InvalidVersion)?;
        }
        let identifiers = pre.is_empty() || pre.split('.').all(identifier);
        if parts.next().is_some() || !identifiers {
            return Err(InvalidVersion);
        }
        Ok(Self { text, core, pre })
    }

    /// The version as it was written.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }
}

/// Whether this is a pre-release identifier: not empty, and no number with leading zeros.
fn identifier(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty()
        && text.bytes().all(allowed)
        && !(numeric(text) && text.len() > 1 && text.starts_with('0'))
}

fn numeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.core
            .cmp(&other.core)
            // A release comes after all of its pre-releases.
            .then_with(|| self.pre.is_empty().cmp(&other.pre.is_empty()))
            .then_with(|| {
                let identifiers = self.pre.split('.').map(Identifier);
                identifiers.cmp(other.pre.split('.').map(Identifier))
            })
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One part of a pre-release: numbers by value and before words, words by their characters.
#[derive(PartialEq, Eq)]
struct Identifier<'a>(&'a str);

impl Ord for Identifier<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (numeric(self.0), numeric(other.0)) {
            // Without leading zeros, the longer number is the larger one, however long.
            (true, true) => (self.0.len(), self.0).cmp(&(other.0.len(), other.0)),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.0.cmp(other.0),
        }
    }
}

impl PartialOrd for Identifier<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text)
    }
}

impl fmt::Debug for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.text)
    }
}

/// A text is not a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidVersion;

impl fmt::Display for InvalidVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a version: write it like 1.2.0 or 1.2.0-rc.1, without a build part")
    }
}

impl core::error::Error for InvalidVersion {}
