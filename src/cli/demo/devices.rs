//! The demo's devices: the firmware's own application on this machine, in a thread of their own.
//!
//! Each has a folder under the state folder: its bundle as `tidegate pki` issues it, and its flash,
//! so that it goes on where it was.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use tidegate_host::{Bundle, Kind, Simulation, Updating, fleet, fleet::FleetError};
use tidegate_wire::manifest::PublicKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{DemoArgs, DemoError, endpoint, surroundings, tally::Tally};
use crate::app::{Handle, Tasks};

/// The folder of devices in the state folder.
pub(super) const FOLDER: &str = "devices";

/// One that is enrolled as the others are, and that an attacker has got hold of.
pub(super) const STOLEN: &str = "sensor_stolen";

/// A device's flash in its folder.
const FLASH: &str = "flash";

/// 32 KiB of readings each: here the gateway is never away for longer than a restart, and a thousand
/// devices share one machine.
const BUFFER_PAGES: usize = 8;

/// What is wired to the device of this number, counted from 1: the kinds in turn.
pub(super) fn kind(number: u16) -> Kind {
    match number % 3 {
        1 => Kind::Dashboard,
        2 => Kind::Climate,
        _ => Kind::Gates,
    }
}

pub(super) fn name(number: u16) -> String {
    format!("sensor_{number:03}")
}

/// What its firmware calls itself: what releases are made for.
pub(super) const fn product(kind: Kind) -> &'static str {
    match kind {
        Kind::Dashboard => "dashboard",
        Kind::Climate => "climate",
        Kind::Gates => "gates",
    }
}

/// Bundles for `names` in the state folder, kept between starts; those that are not there, are not
/// known any more, or could not be updated although that is wanted, are issued anew. Fewer of them when `interrupted`.
///
/// # Errors
/// When one cannot be issued or read.
pub(super) async fn enrol(
    args: &DemoArgs,
    handle: &Handle,
    state_dir: &Path,
    release_key: &PublicKey,
    names: impl Iterator<Item = String>,
    interrupted: &CancellationToken,
) -> Result<Vec<Bundle>, DemoError> {
    let gateway = endpoint(args.mqtt);
    let updatable = |bundle: &Bundle| !args.update || bundle.release_keys.contains(release_key);
    let mut bundles = Vec::new();
    for name in names {
        if interrupted.is_cancelled() {
            break;
        }
        let folder = state_dir.join(FOLDER).join(&name);
        let mut bundle = match Bundle::read(&folder) {
            Ok(bundle) if handle.knows(&name) && updatable(&bundle) => bundle,
            _ => {
                // What an earlier device of this name had in its flash is not this one's.
                let flash = folder.join(FLASH);
                forget(&flash).map_err(|source| DemoError::State {
                    path: flash,
                    source,
                })?;
                handle.enrol(&name, &folder, gateway.clone()).await?;
                Bundle::read(&folder)?
            }
        };
        // It may have been issued for a demo with other ports.
        bundle.host = gateway.host.to_string();
        bundle.port = gateway.port;
        bundle.update_port = Some(args.update_port);
        bundles.push(bundle);
    }
    Ok(bundles)
}

fn forget(flash: &Path) -> io::Result<()> {
    match fs::remove_dir_all(flash) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The running devices.
#[derive(Debug)]
pub(super) struct Devices {
    tasks: Tasks,
    failed: mpsc::Receiver<FleetError>,
}

impl Devices {
    /// Starts a device for each bundle.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(super) fn start(
        bundles: Vec<Bundle>,
        state_dir: &Path,
        every: Duration,
        updating: Updating,
        tally: &Arc<Tally>,
    ) -> io::Result<Self> {
        let simulations = (1..)
            .zip(bundles)
            .map(|(number, bundle)| simulation(bundle, kind(number), state_dir, every, tally))
            .collect();
        let (tasks, _) = Tasks::new();
        let (failing, failed) = mpsc::channel(1);
        let stopping = tasks.stopping();
        tasks.thread("demo devices", move || {
            let around = |device: &Simulation, world| {
                surroundings::live(device.bundle.device_id.clone(), world)
            };
            let ended = fleet::run(simulations, updating, stopping.cancelled_owned(), around);
            if let Err(error) = ended {
                // Nobody listens any more once the demo ends.
                let _ = failing.try_send(error);
            }
        })?;
        Ok(Self { tasks, failed })
    }

    /// Waits until one of them cannot go on.
    pub(super) async fn failed(&mut self) -> DemoError {
        match self.failed.recv().await {
            Some(error) => error.into(),
            None => DemoError::Failed("the devices came to a sudden end".to_owned()),
        }
    }

    /// Lets them send what they have and say goodbye.
    pub(super) async fn stop(&self) {
        self.tasks.stop();
        self.tasks.drained().await;
    }
}

/// One device as it is built and wired, with its flash beside its bundle.
fn simulation(
    bundle: Bundle,
    kind: Kind,
    state_dir: &Path,
    every: Duration,
    tally: &Arc<Tally>,
) -> Simulation {
    let flash = state_dir.join(FOLDER).join(&bundle.device_id).join(FLASH);
    Simulation {
        bundle,
        kind,
        flash: Some(flash),
        buffer_pages: BUFFER_PAGES,
        interval: Some(every),
        gateway: None,
        watcher: tally.watcher(),
    }
}
