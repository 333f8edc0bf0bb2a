//! A whole device on the host, from its bundle.

use std::cell::Cell;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tidegate_app::board::{NoSlots, Parts};
use tidegate_app::credentials::{Store, StoreError, image};
use tidegate_app::profile::{
    Actuators, Button, Climate, Dashboard, DhtModel, Gates, Led, Profile, Relay, Sensors,
};
use tidegate_app::tls::Buffers;
use tidegate_app::{Ended, run};

use crate::board::{Host, HostClock, HostNetwork, HostRandom, HostSystem, Stop, Watcher};
use crate::bundle::{Bundle, BundleError};
use crate::flash::{Flash, FlashError};
use crate::pins::{Dht, Pause, Pwm, RelayInput, Switch, Wiper, World};

/// Erase pages of the partitions, as on the boards.
const CREDENTIALS: usize = 4;
const STATE: usize = 4;
/// 256 KiB of readings: two hours of the dashboard's.
pub const BUFFER: usize = 64;

/// Which device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "live", derive(clap::ValueEnum))]
pub enum Kind {
    /// Potentiometer, switch, LED.
    Dashboard,
    /// Temperature and humidity.
    Climate,
    /// Two relays.
    Gates,
}

/// What a simulated device is to be.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Its bundle.
    pub bundle: Bundle,
    /// What is wired to it.
    pub kind: Kind,
    /// Where its flash is kept; in memory without.
    pub flash: Option<PathBuf>,
    /// Erase pages of the partition for readings; [`BUFFER`] as on the boards, two at least.
    pub buffer_pages: usize,
    /// Time between readings, if not the profile's.
    pub interval: Option<Duration>,
    /// Where the gateway is, if not where the bundle says.
    pub gateway: Option<IpAddr>,
    /// Who is told what happens to the device.
    pub watcher: Watcher,
}

/// A device cannot be simulated, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its credentials do not fit.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// Its flash.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// Its flash's folder.
    #[error("{path} cannot be used as flash: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its flash is another device's.
    #[error(
        "the flash is {found}'s and the bundle {expected}'s: give each device a folder of its own"
    )]
    OtherDevice {
        /// Whose flash it is.
        found: String,
        /// Whose bundle it is.
        expected: String,
    },
    /// It ended.
    #[error(transparent)]
    Ended(Ended),
}

/// Runs a device until it is told to `stop`, or fails; a restart it is told of starts it anew on
/// the same flash.
///
/// It is one task that is not `Send`: run it in a [`tokio::task::LocalSet`] or on a current-thread
/// runtime, many of them side by side.
///
/// # Errors
///
/// [`SimulationError`]
pub async fn simulate(
    simulation: &Simulation,
    world: Rc<World>,
    stop: Rc<Stop>,
) -> Result<(), SimulationError> {
    let mut after_restart = false;
    // 20 KiB that a board has in static memory.
    let mut buffers = Box::new(Buffers::new());
    loop {
        // Flash in memory is gone with a device that ended: only files outlast a restart.
        let [credentials, state, buffer] = open(simulation).await?;
        let system = HostSystem {
            restarted: Rc::new(Cell::new(false)),
            after_restart,
            stop: stop.clone(),
            watcher: simulation.watcher.clone(),
        };
        let parts: Parts<Host> = Parts {
            network: HostNetwork {
                gateway: simulation.gateway,
            },
            clock: HostClock::default(),
            random: HostRandom,
            credentials,
            state,
            buffer,
            slots: NoSlots,
            system,
        };
        let world = world.clone();
        let ended = match simulation.kind {
            Kind::Dashboard => {
                let button = Button::new(Switch(world.clone()), Pause);
                let led = Led::new(Pwm(world.clone()));
                let profile = Dashboard::profile(Wiper(world), button, led);
                device(parts, profile, simulation, &mut buffers).await
            }
            Kind::Climate => {
                let sensor = Dht::new(world);
                let profile = Climate::profile(DhtModel::Dht22, sensor.clone(), sensor);
                device(parts, profile, simulation, &mut buffers).await
            }
            Kind::Gates => {
                let relay = |index, name| {
                    let world = world.clone();
                    Relay::new(name, RelayInput { world, index }, true)
                };
                let profile = Gates::profile([relay(0, "gate1"), relay(1, "gate2")]);
                device(parts, profile, simulation, &mut buffers).await
            }
        };
        match ended {
            Ended::Restart if stop.asked() => return Ok(()),
            Ended::Restart => after_restart = true,
            ended => return Err(SimulationError::Ended(ended)),
        }
    }
}

async fn device<S: Sensors, A: Actuators>(
    parts: Parts<Host>,
    mut profile: Profile<S, A>,
    simulation: &Simulation,
    buffers: &mut Buffers,
) -> Ended {
    if let Some(interval) = simulation.interval {
        profile.interval = interval;
    }
    run(parts, profile, buffers).await
}

/// Opens the partitions; a blank credentials partition is provisioned from the bundle. A gateway that
/// moved is taken from the bundle too: the rest may have been renewed over the air since.
async fn open(simulation: &Simulation) -> Result<[Flash; 3], SimulationError> {
    let folder = simulation.flash.as_deref();
    let mut credentials = partition(folder, "credentials.flash", CREDENTIALS)?;
    if credentials.is_blank() {
        let set = simulation.bundle.credentials(None)?;
        credentials.load(&image(&set, CREDENTIALS * 4096)?)?;
    }
    let mut set = Store::open(&mut credentials).await?.active().clone();
    let bundle = &simulation.bundle;
    if set.device_id != *bundle.device_id {
        return Err(SimulationError::OtherDevice {
            found: set.device_id.as_str().into(),
            expected: bundle.device_id.clone(),
        });
    }
    if (set.gateway.host.as_str(), set.gateway.port) != (bundle.host.as_str(), bundle.port) {
        set.gateway.host.clone_from(&bundle.host);
        set.gateway.port = bundle.port;
        credentials.load(&image(&set, CREDENTIALS * 4096)?)?;
    }
    Ok([
        credentials,
        partition(folder, "state.flash", STATE)?,
        partition(folder, "buffer.flash", simulation.buffer_pages)?,
    ])
}

fn partition(folder: Option<&Path>, name: &str, pages: usize) -> Result<Flash, SimulationError> {
    let Some(folder) = folder else {
        return Ok(Flash::in_memory(pages));
    };
    fs::create_dir_all(folder)
        .and_then(|()| Flash::in_file(&folder.join(name), pages))
        .map_err(|source| SimulationError::Folder {
            path: folder.to_owned(),
            source,
        })
}
