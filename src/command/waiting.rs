//! Who may have commands waiting, in memory.

use std::{collections::HashMap, sync::Arc};

use tidegate_wire::DeviceId;

use super::Inner;
use crate::store::DeviceKey;

/// Devices that may have commands waiting. A device is in here whenever it does, and for a while
/// longer: it spares a query on every connect and disconnect of all others.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) devices: HashMap<DeviceKey, u64>,
    /// Counts marks, so that one set during a query is not taken away for what the query found.
    marks: u64,
}

impl Waiting {
    pub(super) fn mark(&mut self, device: DeviceKey) {
        self.marks += 1;
        self.devices.insert(device, self.marks);
    }
}

/// Tells that a command was stored, when it is dropped. It travels through the store with the write:
/// should the caller be gone by then (its connection ended), the device is told all the same.
pub(super) struct Tell {
    pub(super) inner: Arc<Inner>,
    pub(super) device: DeviceKey,
    pub(super) id: DeviceId,
    pub(super) stored: bool,
}

impl Drop for Tell {
    fn drop(&mut self) {
        if self.stored {
            self.inner.lock_waiting().mark(self.device);
            (self.inner.notify)(&self.id);
        }
    }
}
