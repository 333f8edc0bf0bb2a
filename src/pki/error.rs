//! What can go wrong in the PKI, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on the certificate authority did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "another command is changing {}; wait for it to finish and try again", .0.display()
    )]
    Locked(PathBuf),
    #[error(
        "there is no certificate authority in {} yet; create one with `tidegate pki init`, or bring an existing one with `tidegate pki import`", .0.display()
    )]
    NotInitialised(PathBuf),
    #[error(
        "{} already holds a certificate authority; nothing was changed. With --force it is moved aside and every device needs a new certificate", .0.display()
    )]
    AlreadyInitialised(PathBuf),
    #[error("{} already exists and was not overwritten; choose another place or add --force", .0.display())]
    Exists(PathBuf),
    #[error(
        "the private key {} is not on this machine; put it back to {purpose}, then take it away again", path.display()
    )]
    KeyOffline {
        path: PathBuf,
        purpose: &'static str,
    },
    #[error(
        "the private key in {} does not belong to the certificate {}; use the pair that was made together", key.display(), certificate.display()
    )]
    KeyMismatch { key: PathBuf, certificate: PathBuf },
    #[error(
        "the private key in {path} is protected by a passphrase; write a copy without one with `openssl pkey -in {path} -out plain.key` and use that", path = .0.display()
    )]
    EncryptedKey(PathBuf),
    #[error("{} holds no usable {what}: {reason}", path.display())]
    BadFile {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    #[error("profile {file}: {problem}")]
    Profile { file: String, problem: String },
    #[error(
        "`{value}` cannot be the name of {what}: use 1 to 64 of the characters A-Z a-z 0-9 _ -"
    )]
    BadId { what: &'static str, value: String },
    #[error("`{0}` is neither a DNS name nor an IP address")]
    BadHost(String),
    #[error("`{0}` is not HOST:PORT, such as gateway.local:8883 or [fd00::1]:8883")]
    BadEndpoint(String),
    #[error("the certificate signing request {}: {reason}", path.display())]
    BadRequest { path: PathBuf, reason: String },
    #[error("{} cannot be used as {role}: {reason}", path.display())]
    UnsuitableCa {
        path: PathBuf,
        role: &'static str,
        reason: String,
    },
    #[error("the {what} certificate ended on {on}; renew it with `tidegate pki renew {what}`")]
    IssuerExpired { what: String, on: String },
    #[error(
        "this machine's clock says {0}, which cannot be right; set the time first, or the certificate's dates will be wrong"
    )]
    ClockNotSet(String),
    #[error(
        "{what} `{id}` already has a certificate that is valid until {until}; use `tidegate pki renew {id}`, or add --force to issue a second one"
    )]
    AlreadyIssued {
        what: &'static str,
        id: String,
        until: String,
    },
    #[error(
        "no certificate for `{0}` was issued here; `tidegate pki list` shows them. One issued elsewhere is revoked with --cert FILE"
    )]
    UnknownTarget(String),
    #[error("`{0}` has no certificate left to revoke: all are revoked or expired already")]
    NothingToRevoke(String),
    #[error(
        "the certificate in {} was issued by none of the authorities this gateway trusts for clients, so it is refused already", .0.display()
    )]
    ForeignCertificate(PathBuf),
    #[error(
        "`{0}` is not a reason; use one of unspecified, key-compromise, superseded, cessation-of-operation, privilege-withdrawn"
    )]
    BadReason(String),
    #[error("the shared secret in {}: {reason}", path.display())]
    BadSecret { path: PathBuf, reason: &'static str },
    #[error("the bundle {}: {reason}", path.display())]
    BadBundle { path: PathBuf, reason: String },
    #[error("{0}")]
    Usage(&'static str),
    #[error("no random numbers from the system; the system's random source is broken")]
    NoRandomness,
    #[error("cannot create the certificate: {0}")]
    Signing(#[from] rcgen::Error),
}

impl PkiError {
    /// Wraps an I/O error with the action (an infinitive) and the path it concerned.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// A file that was read but whose content is of no use as `what`.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors and literals are passed alike"
    )]
    pub(super) fn bad_file(path: &Path, what: &'static str, reason: impl ToString) -> Self {
        Self::BadFile {
            path: path.to_path_buf(),
            what,
            reason: reason.to_string(),
        }
    }
}
