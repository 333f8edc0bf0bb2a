//! The devices in memory, found by id and by number.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use tidegate_wire::DeviceId;

use super::Device;
use crate::store::DeviceKey;

/// Both indexes hold nothing but a pointer per device: the keys lie in the device itself.
#[derive(Debug, Default)]
pub(super) struct Table {
    ids: HashSet<ById>,
    keys: HashSet<ByKey>,
}

impl Table {
    pub(super) fn get(&self, id: &DeviceId) -> Option<Arc<Device>> {
        self.ids.get(id).map(|found| Arc::clone(&found.0))
    }

    pub(super) fn by_key(&self, key: DeviceKey) -> Option<Arc<Device>> {
        self.keys.get(&key).map(|found| Arc::clone(&found.0))
    }

    pub(super) fn all(&self) -> Vec<Arc<Device>> {
        self.ids.iter().map(|found| Arc::clone(&found.0)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Puts a device in its former state's place. A removed one is found by its number only.
    pub(super) fn put(&mut self, device: Device) {
        if let Some(former) = self.by_key(device.key) {
            device.seen.inherit(&former.seen);
        }
        let device = Arc::new(device);
        if device.removed {
            self.ids.remove(&device.id);
        } else {
            self.ids.replace(ById(Arc::clone(&device)));
        }
        self.keys.replace(ByKey(device));
    }
}

#[derive(Debug)]
struct ById(Arc<Device>);

#[derive(Debug)]
struct ByKey(Arc<Device>);

impl Borrow<DeviceId> for ById {
    fn borrow(&self) -> &DeviceId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Borrow<DeviceKey> for ByKey {
    fn borrow(&self) -> &DeviceKey {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}
