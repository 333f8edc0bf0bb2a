//! Devices side by side in one thread.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use tokio::task::{JoinSet, LocalSet};

use crate::board::Stop;
use crate::pins::World;
use crate::simulate::{Simulation, SimulationError, simulate};

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

/// Runs devices on this thread until `stopping` resolves and each of them has said goodbye, or until
/// one fails. Beside each runs what `around` makes of its world: it moves what the device senses and
/// watches what it drives.
///
/// # Errors
///
/// [`FleetError`]
pub fn run<F: Future<Output = ()> + 'static>(
    simulations: Vec<Simulation>,
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
        for simulation in simulations {
            let world = World::new();
            let surroundings = around(&simulation, world.clone());
            running.spawn_local(one(simulation, world, surroundings, stop.clone()));
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
    simulation: Simulation,
    world: Rc<World>,
    surroundings: impl Future<Output = ()>,
    stop: Rc<Stop>,
) -> Result<(), FleetError> {
    let mut device = pin!(simulate(&simulation, world, stop));
    let ended = tokio::select! {
        ended = &mut device => ended,
        () = surroundings => device.await,
    };
    ended.map_err(|source| FleetError::Device {
        device: simulation.bundle.device_id.clone(),
        source,
    })
}
