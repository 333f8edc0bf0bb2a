//! What tests of the registry, of commands and of the API have in common.

use std::sync::Arc;

use super::{Rate, Registry};
use crate::{seal::MasterKey, store::Store};

pub(crate) const RATE: Rate = Rate {
    per_second: 100,
    burst: 1_000,
};

pub(crate) fn master() -> Arc<MasterKey> {
    Arc::new(MasterKey::new(&[7; 32], &[]))
}

pub(crate) fn store() -> Store {
    Store::in_memory()
}

pub(crate) async fn registry(store: &Store) -> Registry {
    Registry::open(store.clone(), master(), RATE).await.unwrap()
}
