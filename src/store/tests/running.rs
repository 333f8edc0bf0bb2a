//! A store with its threads, in a folder of its own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::UnixMillis,
    config::WhenFull,
    envelope::{Kind, tests as envelope},
    store::{Batch, IngestError, OpenError, Opened, Options, Seq, Store, StoreMetrics, Verdict},
};

/// When the tests take place: 2024-09-30.
pub(super) const START: u64 = 1_727_712_000;

#[derive(Debug)]
pub(super) struct Running {
    pub(super) store: Store,
    stopping: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    options: Options,
    _folder: Option<TempDir>,
}

pub(super) fn options(folder: &Path) -> Options {
    Options {
        path: folder.join("tidegate.db"),
        disk_budget_bytes: 1 << 30,
        when_full: WhenFull::Refuse,
        commit_delay: Duration::ZERO,
        freshness: Duration::from_secs(300),
        max_age: None,
    }
}

pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    Store::open(
        options,
        Arc::new(StoreMetrics::default()),
        UnixMillis::from_seconds(START),
    )
}

impl Running {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        change(&mut options);
        let mut running = Self::start(&options);
        running._folder = Some(folder);
        running
    }

    /// On a database that another owner cleans up.
    pub(super) fn start(options: &Options) -> Self {
        let Opened {
            store,
            writer,
            checkpointer,
        } = open(options).unwrap();
        let stopping = CancellationToken::new();
        let (one, two) = (stopping.clone(), stopping.clone());
        let threads = vec![
            thread::spawn(move || writer.run(&one)),
            thread::spawn(move || checkpointer.run(&two)),
        ];
        Self {
            store,
            stopping,
            threads,
            options: options.clone(),
            _folder: None,
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.options.path.clone()
    }

    fn stop(&mut self) {
        self.stopping.cancel();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }

    /// Stops and opens again.
    pub(super) fn restart(mut self) -> Self {
        self.stop();
        let (folder, options) = (self._folder.take(), self.options.clone());
        drop(self);
        let mut again = Self::start(&options);
        again._folder = folder;
        again
    }

    pub(super) fn ingest(&self, batch: Batch) -> Result<Vec<Verdict>, IngestError> {
        wait(self.store.ingest(batch))
    }

    /// Stores one message that was not seen before.
    pub(super) fn put(&self, message: Sample) -> Seq {
        match self.ingest(batch(&[message])).unwrap()[..] {
            [Verdict::Stored(seq)] => seq,
            ref other => panic!("{other:?}"),
        }
    }

    /// A copy of the files as a power cut now would leave them, opened.
    pub(super) fn after_power_cut(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for suffix in ["", "-wal"] {
            let mut from = self.options.path.clone().into_os_string();
            from.push(suffix);
            let mut to = folder.path().join("tidegate.db").into_os_string();
            to.push(suffix);
            if Path::new(&from).exists() {
                std::fs::copy(from, to).unwrap();
            }
        }
        let options = Options {
            path: folder.path().join("tidegate.db"),
            ..self.options.clone()
        };
        let mut running = Self::start(&options);
        running._folder = Some(folder);
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for a future, on a runtime of its own.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// What distinguishes a message in these tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) device: u32,
    pub(super) id: u128,
    pub(super) kind: Kind,
    /// Seconds after [`START`] at which it was signed and came.
    pub(super) at: u64,
    pub(super) bytes: usize,
    pub(super) dup: bool,
}

/// A telemetry message with an id of its own.
pub(super) fn sample(device: u32) -> Sample {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    Sample {
        device,
        id,
        kind: Kind::Data,
        at: 0,
        bytes: 40,
        dup: false,
    }
}

pub(super) fn payload(sample: &Sample) -> Vec<u8> {
    let mut payload = format!("{{\"n\":{}}}", sample.id).into_bytes();
    payload.resize(sample.bytes.max(payload.len()), b' ');
    payload
}

pub(super) fn batch(samples: &[Sample]) -> Batch {
    let mut batch = Batch::default();
    for sample in samples {
        let time = START + sample.at;
        let payload = payload(sample);
        let message = envelope::verified(
            sample.device,
            sample.id,
            time,
            UnixMillis::from_seconds(time),
            sample.kind,
            &payload,
        );
        batch.push(&message, sample.dup);
    }
    batch
}
