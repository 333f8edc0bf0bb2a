//! Wills: what is published when a connection ends without goodbye.

use bytes::Bytes;
use tidegate_mqtt::{PropertyScope, QoS, RawProperties, Version, Will};
use tidegate_wire::{Channel, DeviceId, Version as Signed};

use super::{
    Shared,
    directory::Principal,
    free::{Plan, route},
    inbound::random_message_id,
    message::{Message, Source, forwarded},
};
use crate::{
    clock::UnixMillis,
    envelope::{self, Context, Kind},
    registry::{Device, Permission, may_publish, operator_may_publish},
    store::{
        Batch,
        sessions::{DueWill, StoredWill},
    },
};

/// A will as it is kept: its properties as a PUBLISH will carry them.
#[must_use]
pub(super) fn to_stored(will: &Will<'_>, version: Version) -> StoredWill {
    let mut properties = tidegate_mqtt::PropertyBuf::new();
    if version == Version::V5 {
        // Under the same limits as they were received.
        let _ = properties.push_forwarded(&will.properties);
        if let Some(seconds) = will.properties.message_expiry_interval() {
            let _ = properties.push(tidegate_mqtt::Property::MessageExpiryInterval(seconds));
        }
    }
    StoredWill {
        delay: will.properties.will_delay_interval().unwrap_or(0),
        qos: will.qos.as_u8(),
        retain: will.retain,
        topic: will.topic.to_owned(),
        payload: will.payload.to_vec(),
        properties: properties.as_raw().as_bytes().to_vec(),
    }
}

/// Whether a principal may leave a will on this topic.
#[must_use]
pub(super) fn may_leave(shared: &Shared, principal: &Principal, topic: &str) -> bool {
    match principal {
        Principal::Operator(_) => operator_may_publish(topic),
        Principal::Device(id) => shared
            .registry
            .get(id)
            .is_some_and(|device| may_publish(&device, topic) != Permission::Denied),
    }
}

/// Learns from its will that a device signs version 2. It is the first thing a device signs, and comes
/// before anything can be sent to it: so its very first command is signed in a version that it takes,
/// if one had been waiting for it or its session had.
pub(super) fn learn_version(shared: &Shared, principal: &Principal, will: &Will<'_>) {
    let (Some(id), Ok(now)) = (principal.device(), shared.clock.now()) else {
        return;
    };
    let Some(device) = shared.registry.get(id) else {
        return;
    };
    let Permission::Contract(channel) = may_publish(&device, will.topic) else {
        return;
    };
    let context = context(shared, Some(&device), id, kind(channel), now);
    let verified = envelope::verify(will.payload, &context);
    if verified.is_ok_and(|verified| verified.version() == Some(Signed::V2)) {
        device.note_v2();
    }
}

fn kind(channel: Channel) -> Kind {
    match channel {
        Channel::Data => Kind::Data,
        Channel::Ack => Kind::Ack,
        Channel::Event | Channel::Command | Channel::Response => Kind::Event,
    }
}

fn context<'c>(
    shared: &'c Shared,
    device: Option<&'c Device>,
    identity: &'c DeviceId,
    kind: Kind,
    now: UnixMillis,
) -> Context<'c> {
    Context {
        device,
        identity,
        kind,
        now,
        freshness: shared.verification.freshness,
        require_v2: shared.verification.require_v2,
        max_bytes: shared.max_message,
        digest_key: &shared.digest_key,
    }
}

/// Publishes a will as its author would have: judged by the rights it has now, and on a contract
/// topic by its signature and time, which a will that waited rarely has.
pub(super) async fn publish(shared: &Shared, due: DueWill) {
    let Some(principal) = Principal::parse(&due.identity) else {
        return;
    };
    let now = shared.clock.unchecked_now();
    let will = due.will;
    let permission = match &principal {
        Principal::Operator(_) if operator_may_publish(&will.topic) => Permission::Free,
        Principal::Operator(_) => Permission::Denied,
        Principal::Device(id) => match shared.registry.get(id) {
            Some(device) if device.enabled => may_publish(&device, &will.topic),
            _ => Permission::Denied,
        },
    };
    let published = match permission {
        Permission::Denied => {
            shared.metrics.publish_denied.increment();
            false
        }
        Permission::Free => free(shared, &will, now).await,
        Permission::Contract(channel) => {
            contract(shared, &principal, &will, Some(kind(channel))).await
        }
        Permission::Telemetry => contract(shared, &principal, &will, None).await,
    };
    if published {
        shared.metrics.wills_published.increment();
    }
}

async fn free(shared: &Shared, will: &StoredWill, now: UnixMillis) -> bool {
    let properties = RawProperties::parse(&will.properties, PropertyScope::PublishFromClient)
        .unwrap_or(RawProperties::EMPTY);
    let (properties, expires_at) = forwarded(properties, now);
    let message = Message {
        topic: will.topic.as_str().into(),
        payload: Bytes::copy_from_slice(&will.payload),
        qos: QoS::from_bits(will.qos).unwrap_or_default(),
        retain: will.retain,
        properties,
        expires_at,
        from: 0,
        source: Source::Client,
    };
    let plan = Plan::new(shared, message, None);
    if plan.needs_commit()
        && let Err(error) = shared.store.write(plan.write()).await
    {
        tracing::error!(topic = %will.topic, %error, "a will was not stored for all its subscribers");
    }
    if let Some(waiting) = plan.finish(shared, now) {
        shared.broker.room().await;
        route(shared, &waiting, now);
    }
    true
}

/// A will on a contract topic (`kind`), or raw telemetry of a device that does not sign.
async fn contract(
    shared: &Shared,
    principal: &Principal,
    will: &StoredWill,
    kind: Option<Kind>,
) -> bool {
    let (Some(id), Ok(now)) = (principal.device(), shared.clock.now()) else {
        return false;
    };
    let device = shared.registry.get(id);
    let data = kind.unwrap_or(Kind::Data);
    let context = context(shared, device.as_deref(), id, data, now);
    let verified = match kind {
        Some(_) => envelope::verify(&will.payload, &context),
        None => envelope::accept_unsigned(&will.payload, &context, random_message_id()),
    };
    let mut batch = Batch::default();
    match verified {
        Ok(verified) => batch.push(&verified, false),
        Err(rejection) => {
            shared.metrics.rejected(rejection.reason).increment();
            tracing::info!("{}", rejection.reason.log_line(Some(id.as_str())));
            return false;
        }
    }
    shared.store.ingest(batch).await.is_ok()
}
