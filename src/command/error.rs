//! Why a command was not stored.

use tidegate_wire::{DeviceId, json::JsonError};

use super::{MAX_IDEMPOTENCY_KEY, MAX_WAITING, PrepareError};
use crate::store::StoreError;

/// Why a command was not stored.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the body is not acceptable JSON: {0}")]
    NotJson(JsonError),
    #[error("the command has {len} bytes; at most {most} fit into a message for a device")]
    TooLarge { len: usize, most: usize },
    #[error("ttl must be from 1 second to 30 days")]
    Ttl,
    #[error("an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters")]
    IdempotencyKey,
    #[error("this idempotency key was used for a different command; use a new one")]
    Conflict,
    #[error("device {0} is disabled; enable it first")]
    Disabled(DeviceId),
    #[error(transparent)]
    Unsendable(#[from] PrepareError),
    #[error(
        "{MAX_WAITING} commands are waiting for device {0} already; wait until it has taken some, or until they expire"
    )]
    QueueFull(DeviceId),
    #[error("the system gave no random numbers")]
    NoRandomness,
    #[error(transparent)]
    Store(#[from] StoreError),
}
