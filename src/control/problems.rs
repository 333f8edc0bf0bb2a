//! What the modules' errors are to whoever asked: how they sort into codes.

use super::{Code, Problem};
use crate::{
    api::KeyError,
    clock::Untrusted,
    command::CommandError,
    ota::UpdateError,
    registry::RegistryError,
    seal::SealError,
    store::{OpenError, StoreError},
};

impl Problem {
    /// From an error whose text says what is wrong and, after a semicolon, what to do.
    #[must_use]
    pub fn of(code: Code, error: &impl ToString) -> Self {
        let text = error.to_string();
        match text.split_once("; ") {
            Some((message, remedy)) => Self::new(code, message, remedy),
            None => Self::new(code, text, ""),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Full | StoreError::Stopping => Code::Unavailable,
            StoreError::Damaged { .. } => Code::Damaged,
            StoreError::NoSuchUpstream => Code::NotFound,
            StoreError::Sql(_) => Code::Io,
        };
        Self::of(code, &error)
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::InUse { .. } => Code::InUse,
            OpenError::FromTheFuture { .. }
            | OpenError::Damaged { .. }
            | OpenError::Foreign { .. } => Code::Damaged,
            OpenError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Code::Denied
            }
            OpenError::Io { .. } | OpenError::Sql { .. } => Code::Io,
        };
        Self::of(code, &error)
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        Self::of(Code::Config, &error)
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let code = match error {
            RegistryError::Store(error) => return error.into(),
            RegistryError::Seal(error) => return error.into(),
            RegistryError::Unknown(_) => Code::NotFound,
            RegistryError::Exists(_)
            | RegistryError::Declared(_)
            | RegistryError::DisabledByDeclaration(_) => Code::Conflict,
            RegistryError::Declarations(_) => Code::Config,
            RegistryError::Definition(_) => Code::Invalid,
            RegistryError::Damaged { .. } => Code::Damaged,
            RegistryError::Full | RegistryError::Stopping(_) => Code::Unavailable,
            RegistryError::Hash(_) => Code::Internal,
        };
        Self::of(code, &error)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let code = match error {
            KeyError::Store(error) => return error.into(),
            KeyError::Unknown(_) => Code::NotFound,
            KeyError::Full => Code::Unavailable,
            KeyError::Damaged { .. } => Code::Damaged,
            KeyError::NoRandomness => Code::Internal,
            KeyError::Scope(_)
            | KeyError::NoScope
            | KeyError::Name
            | KeyError::Expiry
            | KeyError::EmptyRestriction => Code::Invalid,
        };
        Self::of(code, &error)
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let code = match error {
            CommandError::Store(error) => return error.into(),
            CommandError::Conflict | CommandError::Disabled(_) | CommandError::Unsendable(_) => {
                Code::Conflict
            }
            CommandError::QueueFull(_) => Code::Unavailable,
            CommandError::NoRandomness => Code::Internal,
            CommandError::NotJson(_)
            | CommandError::TooLarge { .. }
            | CommandError::Ttl
            | CommandError::IdempotencyKey => Code::Invalid,
        };
        Self::of(code, &error)
    }
}

impl From<UpdateError> for Problem {
    fn from(error: UpdateError) -> Self {
        let code = match error {
            UpdateError::Store(error) => return error.into(),
            UpdateError::NoKeys => Code::Config,
            UpdateError::Exists(_)
            | UpdateError::Sequence { .. }
            | UpdateError::NotPublished { .. }
            | UpdateError::NoUpload
            | UpdateError::Offset { .. }
            | UpdateError::NotRolledOut(_) => Code::Conflict,
            UpdateError::Refused { .. }
            | UpdateError::Size { .. }
            | UpdateError::Digest { .. }
            | UpdateError::Name(_)
            | UpdateError::OutOfRange { .. } => Code::Invalid,
            UpdateError::Unknown(_) | UpdateError::UnknownDevice(_) => Code::NotFound,
            UpdateError::Budget { .. } => Code::Unavailable,
            UpdateError::Io { .. } => Code::Io,
        };
        Self::of(code, &error)
    }
}

impl From<Untrusted> for Problem {
    fn from(error: Untrusted) -> Self {
        Self::of(Code::Unavailable, &error)
    }
}
