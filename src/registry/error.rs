//! Why the registry could not be opened or changed.

use tidegate_wire::DeviceId;
use tokio::task::JoinError;

use super::{DefinitionError, MAX_DEVICES, NAMED};
use crate::{seal::SealError, store::StoreError};

/// Why the registry could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("no device {0}; `tidegate device list` shows those there are")]
    Unknown(String),
    #[error("device {0} exists; change it, or remove it first")]
    Exists(DeviceId),
    #[error("device {0} is declared in the configuration; change it there and reload")]
    Declared(DeviceId),
    #[error("device {0} is disabled in the configuration; enable it there and reload")]
    DisabledByDeclaration(DeviceId),
    #[error("{} of the declared devices cannot be used: {}", .0.len(), summary(.0))]
    Declarations(Vec<DefinitionError>),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("the database's row for device {id} is damaged ({detail}); restore a backup")]
    Damaged { id: String, detail: String },
    #[error("there can be no more than {MAX_DEVICES} devices")]
    Full,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the work was given up because the gateway is stopping")]
    Stopping(#[from] JoinError),
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

fn summary(errors: &[DefinitionError]) -> String {
    let mut text = errors
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if errors.len() > NAMED {
        text.push_str("; …");
    }
    text
}
