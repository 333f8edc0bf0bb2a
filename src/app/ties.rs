//! Where one module's trait meets another's type: a forwarder and the store, replies and the front.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_wire::{Channel, DeviceId};

use crate::{
    forward::{Debts, Devices, Replies, Reply, ReplyRoute},
    front::{self, Directory, Outgoing},
    registry::Registry,
    store::{DeviceKey, Message, Seq, Settled, Store, StoreError, UpstreamKey},
};

/// What one upstream is owed.
pub(super) struct Owed {
    pub(super) store: Store,
    pub(super) upstream: UpstreamKey,
}

impl Debts for Owed {
    fn position(&self) -> Result<Seq, StoreError> {
        Ok(self.store.position(self.upstream).unwrap_or_default())
    }

    fn read_log(
        &self,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<Vec<Message>, StoreError> {
        self.store.read_log(self.upstream, after, messages, bytes)
    }

    fn settle(&self, settled: &[Settled]) -> Result<Vec<Option<i64>>, StoreError> {
        let ids = self
            .store
            .settle_blocking(self.upstream, settled.to_vec())?;
        Ok(ids.into_iter().map(|id| (id != 0).then_some(id)).collect())
    }

    fn parked(&self, device: DeviceKey, limit: usize) -> Result<Vec<Message>, StoreError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.store.parked(self.upstream, device, limit)
    }

    fn parked_devices(&self) -> Result<Vec<DeviceKey>, StoreError> {
        let parked = self.store.parked_devices(self.upstream)?;
        Ok(parked.into_iter().map(|parked| parked.device).collect())
    }
}

/// Devices by number.
pub(super) struct Known(pub(super) Arc<Registry>);

impl Devices for Known {
    fn id(&self, device: DeviceKey) -> Option<DeviceId> {
        self.0.by_key(device).map(|device| device.id)
    }
}

/// Replies to the sessions that take them.
pub(super) struct ToSessions(pub(super) Arc<Directory>);

impl Replies for ToSessions {
    fn route(&self, device: &DeviceId) -> Option<ReplyRoute> {
        self.0.reply_route(device).map(|route| match route {
            front::ReplyRoute::Durable { session, qos } => ReplyRoute::Durable { session, qos },
            // The subscription's own QoS caps it.
            front::ReplyRoute::Volatile => ReplyRoute::Volatile { qos: 1 },
        })
    }

    fn deliver(&self, device: &DeviceId, reply: Reply) -> bool {
        let outgoing = Outgoing {
            topic: Channel::Response.topic(device).to_string(),
            payload: reply.payload,
            qos: reply.qos,
            queue_id: reply.queue_id,
            retain: false,
            properties: Bytes::new(),
        };
        self.0.deliver(device, outgoing)
    }
}
