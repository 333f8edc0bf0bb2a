//! What a forwarder asks of the store, for one upstream.

use crate::store::{DeviceKey, Message, Seq, Settled, Store, StoreError, UpstreamKey};

/// The store as one upstream sees it. Every call may block.
pub trait Debts: Send + Sync {
    /// Everything at or below is settled.
    ///
    /// # Errors
    /// All of these fail as the store does.
    fn position(&self) -> Result<Seq, StoreError>;

    /// Owed messages after `after`, in order, without those settled or parked: at most `messages`
    /// and about `bytes` of payload, at least one if there is one.
    fn read_log(
        &self,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<Vec<Message>, StoreError>;

    /// Commits settlements; one id per durable reply, in order, or `None` where the message had
    /// been settled before and so no reply was queued.
    fn settle(&self, settled: &[Settled]) -> Result<Vec<Option<i64>>, StoreError>;

    /// The first parked messages of a device, in order.
    fn parked(&self, device: DeviceKey, limit: usize) -> Result<Vec<Message>, StoreError>;

    /// Devices that have parked messages.
    fn parked_devices(&self) -> Result<Vec<DeviceKey>, StoreError>;
}

/// One upstream's part of the store.
#[derive(Clone, Debug)]
pub struct StoreDebts {
    store: Store,
    upstream: UpstreamKey,
}

impl StoreDebts {
    /// `upstream` is a key that [`Store::upstreams`] gave.
    #[must_use]
    pub fn new(store: Store, upstream: UpstreamKey) -> Self {
        Self { store, upstream }
    }
}

impl Debts for StoreDebts {
    fn position(&self) -> Result<Seq, StoreError> {
        self.store
            .position(self.upstream)
            .ok_or(StoreError::NoSuchUpstream)
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
