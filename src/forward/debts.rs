//! What a forwarder asks of the store, for one upstream.

use crate::store::{DeviceKey, Message, Seq, Settled, StoreError};

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
