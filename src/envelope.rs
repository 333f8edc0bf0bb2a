//! From the bytes of a PUBLISH to a message that may be stored.
//!
//! [`verify`] and [`accept_unsigned`] are the only makers of [`Verified`], and the store takes nothing
//! else. The order of checks is the wire contract's: the first failure is the one that is logged,
//! counted and reported. Topic rights and rate limits come before this, replay after it
//! ([`crate::replay`]). No clock, no I/O: what they need is in the [`Context`].

use std::{cell::RefCell, hash::Hasher, time::Duration};

use siphasher::sip::SipHasher13;
use tidegate_wire::{
    DeviceId, Direction, Envelope, Limits, MessageId, Reason, Version, fresh,
    limits::{MAX_DEPTH, slots_for},
};

use crate::{clock::UnixMillis, config::Signing, registry::Device, store::DeviceKey};

/// What a message is for, from the topic it came on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Telemetry: owed to every upstream.
    Data,
    /// Boot, health, progress: owed to the upstreams that want events.
    Event,
    /// The outcome of a command: owed to nobody.
    Ack,
}

/// The secret of [`Verified::digest`]; kept in the database so that digests stay comparable across
/// restarts.
#[derive(Clone, Copy)]
pub struct DigestKey(pub [u8; 16]);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

/// What a message is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// The registry's entry for `identity`; none when there is none.
    pub device: Option<&'c Device>,
    /// Who the connection proved to be.
    pub identity: &'c DeviceId,
    pub kind: Kind,
    /// The trusted clock.
    pub now: UnixMillis,
    /// How far the message's time may be from `now`, either way.
    pub freshness: Duration,
    /// Refuse version 1 from every device; a device's own setting can require it as well.
    pub require_v2: bool,
    /// Largest whole message.
    pub max_bytes: usize,
    pub digest_key: &'c DigestKey,
}

/// A message of a known, enabled device, fresh and with a good signature (or of a device that need
/// not sign). Made only in this module.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    device: DeviceKey,
    id: DeviceId,
    kind: Kind,
    message_id: MessageId,
    timestamp: u64,
    received_at: UnixMillis,
    payload: &'a [u8],
    digest: u64,
    signed: Option<Version>,
}

impl<'a> Verified<'a> {
    #[must_use]
    pub fn device_key(&self) -> DeviceKey {
        self.device
    }
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.id
    }
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        self.message_id
    }
    /// When the device signed it, seconds since 1970; for unsigned ones, when it came.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }
    #[must_use]
    pub fn received_at(&self) -> UnixMillis {
        self.received_at
    }
    /// The payload as the device wrote it.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
    /// Keyed hash of the whole message's bytes: equal for a re-delivery, different for a forgery that
    /// borrows the `message_id`.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
    /// The version it was signed as; none if it was not.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.signed
    }
}

/// Why a message is refused, and under which id to report it if that could be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .reason.wording())]
pub struct Rejection {
    pub reason: Reason,
    pub message_id: Option<MessageId>,
}

impl Rejection {
    fn of(reason: Reason) -> Self {
        Self {
            reason,
            message_id: None,
        }
    }
}

thread_local! {
    /// Scratch for the parser, once per thread: members are noted here to find duplicates.
    static SLOTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Judges a signed message.
///
/// # Errors
/// The first check of the wire contract that fails, in its order: too large, malformed or of a
/// version that is not accepted, unknown or disabled device, another device's message, stale, badly
/// signed.
pub fn verify<'a>(raw: &'a [u8], context: &Context<'_>) -> Result<Verified<'a>, Rejection> {
    if raw.len() > context.max_bytes {
        return Err(Rejection::of(Reason::PayloadTooLarge));
    }
    SLOTS.with_borrow_mut(|slots| {
        // The size of the message, not of the limit: a thread that only sees small ones stays small.
        let needed = slots_for(raw.len());
        if slots.len() < needed {
            slots.resize(needed.next_power_of_two(), 0);
        }
        verify_with(raw, context, slots)
    })
}

fn verify_with<'a>(
    raw: &'a [u8],
    context: &Context<'_>,
    slots: &mut [u64],
) -> Result<Verified<'a>, Rejection> {
    let limits = Limits {
        max_message: context.max_bytes,
        max_depth: MAX_DEPTH,
    };
    let envelope = Envelope::parse(raw, &limits, slots).map_err(|error| Rejection {
        reason: error.reason(),
        message_id: error
            .message_id
            .and_then(|text| MessageId::parse(text.as_bytes()).ok()),
    })?;
    let refuse = |reason| {
        Err(Rejection {
            reason,
            message_id: Some(envelope.message_id()),
        })
    };
    let v2_only = context.require_v2
        || context
            .device
            .is_some_and(|device| device.signing == Signing::V2);
    if v2_only && envelope.version() == Version::V1 {
        return refuse(Reason::UnsupportedVersion);
    }
    let Some(device) = context.device else {
        return refuse(Reason::UnknownDevice);
    };
    if !device.enabled {
        return refuse(Reason::DisabledDevice);
    }
    if envelope.device_id() != context.identity.as_str() || device.id != *context.identity {
        return refuse(Reason::IdentityMismatch);
    }
    if !fresh(
        envelope.timestamp(),
        context.now.seconds(),
        context.freshness.as_secs(),
    ) {
        return refuse(Reason::StaleTimestamp);
    }
    // A device without a secret cannot have signed anything.
    let Some(secret) = &device.secret else {
        return refuse(Reason::BadSignature);
    };
    let Ok(envelope) = envelope.verify(secret, Direction::Up, slots) else {
        return refuse(Reason::BadSignature);
    };
    let mut hasher = SipHasher13::new_with_key(&context.digest_key.0);
    hasher.write(raw);
    Ok(Verified {
        device: device.key,
        id: device.id,
        kind: context.kind,
        message_id: envelope.message_id(),
        timestamp: envelope.timestamp(),
        received_at: context.now,
        payload: envelope.payload().as_bytes(),
        digest: hasher.finish(),
        signed: Some(envelope.version()),
    })
}

/// Judges a message of a device that is declared with `signing = "none"`: its identity is the
/// connection's, its time is now, and `message_id` is one the gateway just made.
///
/// # Errors
/// Too large, unknown or disabled device, or a device that has to sign.
pub fn accept_unsigned<'a>(
    raw: &'a [u8],
    context: &Context<'_>,
    message_id: MessageId,
) -> Result<Verified<'a>, Rejection> {
    let refuse = |reason| Err(Rejection::of(reason));
    if raw.len() > context.max_bytes {
        return refuse(Reason::PayloadTooLarge);
    }
    let Some(device) = context.device else {
        return refuse(Reason::UnknownDevice);
    };
    if !device.enabled {
        return refuse(Reason::DisabledDevice);
    }
    if device.id != *context.identity {
        return refuse(Reason::IdentityMismatch);
    }
    if device.signing != Signing::None {
        return refuse(Reason::BadSignature);
    }
    Ok(Verified {
        device: device.key,
        id: device.id,
        kind: context.kind,
        message_id,
        timestamp: context.now.seconds(),
        received_at: context.now,
        payload: raw,
        digest: 0,
        signed: None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
