//! Devices side by side in one thread.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_app::board::Notice;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, LocalSet};

use crate::board::Stop;
use crate::pins::World;
use crate::simulate::{Simulation, SimulationError, Updating, simulate_updating};

/// Devices that start at the same time. They share a thread: if all of them did, each handshake would
/// take nearly as long as all of them together.
const STARTING: usize = 16;

/// A device is past its start when the gateway let it in, or after this long: one that reaches nobody
/// must not hold up the others.
const START: Duration = Duration::from_secs(1);

/// The devices could not go on.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// There is nothing to run them on.
    #[error("devices have nothing to run on: {0}")]
    Runtime(#[source] io::Error),
    /// One of them.
    #[error("{device} cannot run: {source}")]
    Device {
        /// Which.
        device: String,
        /// Why.
        source: SimulationError,
    },
    /// One of them panicked, and said where.
    #[error("a device came to a sudden end: {0}")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs devices on this thread, a few of them starting at a time, until `stopping` resolves and each
/// of them has said goodbye, or until one fails. All are updated as `updating` says. Beside each runs
/// what `around` makes of its world: it moves what the device senses and watches what it drives.
///
/// # Errors
///
/// [`FleetError`]
pub fn run<F: Future<Output = ()> + 'static>(
    simulations: Vec<Simulation>,
    updating: Updating,
    stopping: impl Future<Output = ()>,
    around: impl Fn(&Simulation, Rc<World>) -> F,
) -> Result<(), FleetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FleetError::Runtime)?;
    let stop = Rc::<Stop>::default();
    let fleet = async {
        let mut running = JoinSet::new();
        let starting = Rc::new(Semaphore::new(STARTING));
        for simulation in simulations {
            let world = World::new();
            let surroundings = around(&simulation, world.clone());
            let turn = starting.clone();
            let device = one(
                simulation,
                updating,
                world,
                surroundings,
                stop.clone(),
                turn,
            );
            running.spawn_local(device);
        }
        tokio::select! {
            () = stopping => stop.ask(),
            ended = all(&mut running) => return ended,
        }
        all(&mut running).await
    };
    LocalSet::new().block_on(&runtime, fleet)
}

/// Waits until all devices ended, or one failed.
async fn all(running: &mut JoinSet<Result<(), FleetError>>) -> Result<(), FleetError> {
    while let Some(ended) = running.join_next().await {
        ended.map_err(FleetError::Panicked)??;
    }
    Ok(())
}

async fn one(
    mut simulation: Simulation,
    updating: Updating,
    world: Rc<World>,
    surroundings: impl Future<Output = ()>,
    stop: Rc<Stop>,
    turn: Rc<Semaphore>,
) -> Result<(), FleetError> {
    let permit = tokio::select! {
        permit = turn.acquire() => permit,
        () = stop.wait() => return Ok(()),
    };
    let connected = Arc::new(Notify::new());
    let telling = connected.clone();
    simulation.watcher = simulation.watcher.after(move |notice| {
        if notice == Notice::Connected {
            telling.notify_one();
        }
    });
    let mut device = pin!(simulate_updating(&simulation, &updating, world, stop));
    let beside = async {
        let started = async {
            // Connected or not: the next one may start.
            let _ = tokio::time::timeout(START, connected.notified()).await;
            drop(permit);
        };
        tokio::join!(started, surroundings);
    };
    let ended = tokio::select! {
        ended = &mut device => ended,
        () = beside => device.await,
    };
    ended.map_err(|source| FleetError::Device {
        device: simulation.bundle.device_id.clone(),
        source,
    })
}
