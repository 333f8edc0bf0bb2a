//! What tests of the registry, of commands and of the API have in common.

use std::{
    ops::Deref,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Rate, Registry};
use crate::{
    clock::UnixMillis,
    config::WhenFull,
    seal::MasterKey,
    store::{Opened, Options, Store, StoreMetrics},
};

pub(crate) const RATE: Rate = Rate {
    per_second: 100,
    burst: 1_000,
};

pub(crate) fn master() -> Arc<MasterKey> {
    Arc::new(MasterKey::new(&[7; 32], &[]))
}

/// A store with its threads, in a folder of its own, until it is dropped.
pub(crate) struct TestStore {
    store: Store,
    stopping: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

pub(crate) fn store() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        path: folder.path().join("tidegate.db"),
        disk_budget_bytes: 1 << 30,
        when_full: WhenFull::Refuse,
        commit_delay: Duration::ZERO,
        freshness: Duration::from_secs(300),
        max_age: None,
    };
    let Opened {
        store,
        writer,
        checkpointer,
    } = Store::open(&options, Arc::new(StoreMetrics::default()), UnixMillis(0)).unwrap();
    let stopping = CancellationToken::new();
    let (one, two) = (stopping.clone(), stopping.clone());
    let threads = vec![
        thread::spawn(move || writer.run(&one)),
        thread::spawn(move || checkpointer.run(&two)),
    ];
    TestStore {
        store,
        stopping,
        threads,
        _folder: folder,
    }
}

impl Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.stopping.cancel();
        for thread in self.threads.drain(..) {
            // A panic there has failed the test already, or is about to.
            let _ = thread.join();
        }
    }
}

pub(crate) async fn registry(store: &Store) -> Registry {
    Registry::open(store.clone(), master(), RATE).await.unwrap()
}
