//! Why something about releases was not done.

use std::{io, path::PathBuf};

use bytesize::ByteSize;
use tidegate_wire::manifest::Refusal;

use crate::store::StoreError;

/// Why something about releases was not done.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error(
        "no release key is trusted; set updates.release_keys to what `tidegate firmware keygen` printed"
    )]
    NoKeys,
    #[error("the manifest is refused ({code}): {refusal}", code = .refusal.code())]
    Refused { refusal: Refusal },
    #[error("release {0} is there already; release the new image as a later version")]
    Exists(String),
    #[error(
        "sequence {given} is not above {newest}, which {name} has; sign it with a higher --sequence"
    )]
    Sequence {
        given: u64,
        newest: u64,
        name: String,
    },
    #[error(
        "the image has {found} bytes and the manifest says {wanted}; was another image signed?"
    )]
    Size { wanted: u64, found: u64 },
    #[error(
        "the image's SHA-256 is {found} and the manifest says {wanted}; was another image signed?"
    )]
    Digest { wanted: String, found: String },
    #[error(
        "{needed} more do not fit into updates.disk_budget = {budget}, of which {used} are used; withdraw a release, or raise the budget"
    )]
    Budget {
        needed: ByteSize,
        used: ByteSize,
        budget: ByteSize,
    },
    #[error("no release is being published; begin again")]
    NoUpload,
    #[error("the upload goes on at byte {expected}, not {given}; begin again")]
    Offset { expected: u64, given: u64 },
    #[error("no release {0}; tidegate firmware list shows those there are")]
    Unknown(String),
    #[error("{0:?} is no release; write it as PRODUCT/CHIP/VERSION")]
    Name(String),
    #[error("release {name} is {standing}; only a published one can be rolled out")]
    NotPublished {
        name: String,
        standing: &'static str,
    },
    #[error("release {0} is not rolled out; tidegate firmware rollout starts that")]
    NotRolledOut(String),
    #[error("no device {0}; tidegate device list shows those there are")]
    UnknownDevice(String),
    #[error("{what} is {given}; write {range}")]
    OutOfRange {
        what: &'static str,
        given: u64,
        range: &'static str,
    },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UpdateError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl From<Refusal> for UpdateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal }
    }
}
