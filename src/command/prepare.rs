//! From a stored command to the message a device gets.

use bytes::Bytes;
use tidegate_wire::{
    Channel, DeviceId, Direction, Draft, Payload, SigningKey, TopicBuf, Version,
    limits::{ENVELOPE_OVERHEAD, slots_for},
};

use super::{Pending, raw::raw_form};
use crate::{clock::UnixMillis, config::Signing, registry::Device};

/// A message ready to be published to its device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prepared {
    pub topic: String,
    pub payload: Bytes,
}

/// Why a command cannot be sent to a device as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PrepareError {
    #[error(
        "device {0} has no shared secret to sign commands with; set secret_file or issue it a bundle"
    )]
    NoSecret(DeviceId),
    #[error("device {0} does not sign and has no command_topic; set one to send it commands")]
    NoCommandTopic(DeviceId),
    #[error(
        "the stored command for device {0} is not JSON any more: the database was changed by hand"
    )]
    Damaged(DeviceId),
}

/// How a device is sent commands.
#[derive(Clone, Debug)]
pub enum Route<'a> {
    /// Signed with its key, on its contract topic.
    Signed {
        key: &'a SigningKey,
        topic: TopicBuf,
    },
    /// In raw form, on the topic named for it.
    Raw { topic: &'a str },
}

impl<'a> Route<'a> {
    /// How `device` is sent commands.
    ///
    /// # Errors
    /// [`PrepareError`] if it lacks what that takes.
    pub fn of(device: &'a Device) -> Result<Self, PrepareError> {
        if device.signing == Signing::None {
            let topic = device.command_topic.as_deref();
            return topic
                .map(|topic| Self::Raw { topic })
                .ok_or(PrepareError::NoCommandTopic(device.id));
        }
        let key = device
            .secret
            .as_deref()
            .ok_or(PrepareError::NoSecret(device.id))?;
        Ok(Self::Signed {
            key,
            topic: Channel::Command.topic(&device.id),
        })
    }
}

pub(super) fn prepare(
    pending: &Pending,
    device: &Device,
    require_v2: bool,
    now: UnixMillis,
) -> Result<Prepared, PrepareError> {
    let damaged = || PrepareError::Damaged(device.id);
    let route = Route::of(device)?;
    let mut slots = vec![0; slots_for(pending.payload.len())];
    let payload = Payload::parse(&pending.payload, &mut slots).map_err(|_| damaged())?;
    match route {
        Route::Raw { topic } => Ok(Prepared {
            topic: topic.to_owned(),
            payload: raw_form(&payload).ok_or_else(damaged)?,
        }),
        Route::Signed { key, topic } => {
            let draft = Draft {
                version: version(device, require_v2),
                device_id: &device.id,
                timestamp: now.seconds(),
                message_id: pending.message_id,
                payload,
            };
            let mut message = vec![0; pending.payload.len() + ENVELOPE_OVERHEAD];
            let len = draft
                .sign_into(key, Direction::Down, &mut message)
                .map_err(|_| damaged())?;
            message.truncate(len);
            Ok(Prepared {
                topic: topic.to_string(),
                payload: message.into(),
            })
        }
    }
}

/// Version 2 as soon as the device is known to understand it, or must.
fn version(device: &Device, require_v2: bool) -> Version {
    if require_v2 || device.signing == Signing::V2 {
        return Version::V2;
    }
    device.seen.version().unwrap_or(Version::V1)
}
