//! A whole device on the host, from its bundle.

use std::cell::Cell;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tidegate_app::board::{BootReason, Parts};
use tidegate_app::credentials::{Store, StoreError, image};
use tidegate_app::profile::{
    Actuators, Button, Climate, Dashboard, DhtModel, Gates, Led, Profile, Relay, Sensors,
};
use tidegate_app::tls::Buffers;
use tidegate_app::update::Timing;
use tidegate_app::update::slots::PartitionSlots;
use tidegate_app::{Ended, run};

use crate::board::{Host, HostClock, HostNetwork, HostRandom, HostSystem, Stop, Watcher};
use crate::bundle::{Bundle, BundleError};
use crate::firmware::{Behaviour, Firmware, boot};
use crate::flash::{Flash, FlashError};
use crate::pins::{Dht, Pause, Pwm, RelayInput, Switch, Wiper, World};

/// Erase pages of the partitions, as on the boards.
const CREDENTIALS: usize = 4;
const STATE: usize = 4;
const OTADATA: usize = 2;
/// 512 KiB for an image: those of the host are as large as one wants them.
const SLOT: usize = 128;
/// The watchdog of the boards bites after a minute; nobody waits that long for a simulated one.
const WATCHDOG: Duration = Duration::from_secs(1);
/// A board takes longer to start.
const START: Duration = Duration::from_millis(20);
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

/// How a simulated device is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updating {
    /// When it looks, and how long an image is on trial.
    pub timing: Timing,
    /// Whether its boot loader rolls back, as the one in `firmware/esp32/bootloader` does.
    pub rolls_back: bool,
}

impl Default for Updating {
    fn default() -> Self {
        Self {
            timing: Timing::USUAL,
            rolls_back: true,
        }
    }
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
    simulate_updating(simulation, &Updating::default(), world, stop).await
}

/// As [`simulate`], with updates as `updating` says. Only a device whose flash is kept in a folder
/// can be updated: it restarts into the new image.
///
/// # Errors
///
/// [`SimulationError`]
pub async fn simulate_updating(
    simulation: &Simulation,
    updating: &Updating,
    world: Rc<World>,
    stop: Rc<Stop>,
) -> Result<(), SimulationError> {
    let mut reason = BootReason::PowerOn;
    // 40 KiB that a board has in static memory.
    let mut buffers = Box::new([Buffers::new(), Buffers::new()]);
    loop {
        let (slots, firmware) = open_slots(simulation, updating).await?;
        let behaviour = firmware.behaviour_on(&simulation.bundle.device_id);
        let failed = Rc::new(tokio::sync::Notify::new());
        if behaviour == Behaviour::CrashesAtStart {
            failed.notify_one();
        }
        // Flash in memory is gone with a device that ended: only files outlast a restart.
        let [credentials, state, buffer] = open(simulation).await?;
        let system = HostSystem {
            restarted: Rc::new(Cell::new(false)),
            reason,
            firmware,
            stop: stop.clone(),
            watcher: simulation.watcher.clone(),
        };
        let parts: Parts<Host> = Parts {
            network: HostNetwork {
                gateway: simulation.gateway,
                behaviour,
                failed: failed.clone(),
            },
            clock: HostClock::default(),
            random: HostRandom,
            credentials,
            state,
            buffer,
            slots,
            system,
            timing: updating.timing,
        };
        let world = world.clone();
        let running = async {
            match simulation.kind {
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
            }
        };
        let ended = tokio::select! {
            biased;
            () = failed.notified() => None,
            ended = running => Some(ended),
        };
        reason = match ended {
            _ if stop.asked() => return Ok(()),
            Some(Ended::Restart) => BootReason::Software,
            Some(ended) => return Err(SimulationError::Ended(ended)),
            None if behaviour == Behaviour::Hangs => {
                tokio::time::sleep(WATCHDOG).await;
                BootReason::Watchdog
            }
            None => BootReason::Panic,
        };
        tokio::time::sleep(START).await;
    }
}

async fn device<S: Sensors, A: Actuators>(
    parts: Parts<Host>,
    mut profile: Profile<S, A>,
    simulation: &Simulation,
    buffers: &mut [Buffers; 2],
) -> Ended {
    if let Some(interval) = simulation.interval {
        profile.interval = interval;
    }
    // On the heap: in a debug build it is copied a few times on its way to where it runs.
    Box::pin(run(parts, profile, buffers)).await
}

/// Opens the slots and has the boot stage choose one.
async fn open_slots(
    simulation: &Simulation,
    updating: &Updating,
) -> Result<(PartitionSlots<Flash>, Firmware), SimulationError> {
    let folder = simulation.flash.as_deref();
    // Without a folder there is nothing to restart into.
    let pages = if folder.is_some() { SLOT } else { 0 };
    let open = |name| partition(folder, name, pages);
    let slots = [open("ota_0.flash")?, open("ota_1.flash")?];
    let otadata = || partition(folder, "otadata.flash", OTADATA);
    let (running, firmware) = boot(otadata()?, [&slots[0], &slots[1]], updating.rolls_back).await;
    let [first, second] = slots;
    let inactive = if running == 0 { second } else { first };
    Ok((PartitionSlots::new(otadata()?, inactive, running), firmware))
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
    let update_port = bundle.update_port.unwrap_or(set.gateway.update_port);
    let found = &set.gateway;
    if (found.host.as_str(), found.port, found.update_port)
        != (bundle.host.as_str(), bundle.port, update_port)
    {
        set.gateway.host.clone_from(&bundle.host);
        set.gateway.port = bundle.port;
        set.gateway.update_port = update_port;
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
