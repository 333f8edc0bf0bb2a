//! An image on trial: what a start means for it, and how it is confirmed or given up.
//!
//! Two parties watch over a new image. A boot loader that rolls back takes the old one when the new
//! one was started once and not confirmed; it also catches an image that never gets as far as this
//! code. And this code does, in the state partition, so that an image which starts and then fails
//! is given up whatever the boot loader.

use embedded_storage_async::nor_flash::NorFlash;

use super::record::{Fault, Floor, Phase, Progress, Shunned, Trial, VersionText, load, store};
use crate::board::{BootReason, BootState, UpdateSlots};
use crate::state::{State, StateError};

/// An image is given up if it was started this often without having been confirmed. More than once
/// because somebody may pull the plug; a crash or the watchdog ends the trial at once.
const STARTS: u8 = 3;

/// An image that is activated and not started this often is given up: the boot loader does not
/// want it.
pub(crate) const ACTIVATIONS: u8 = 3;

/// What a start means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Nothing new.
    Nothing,
    /// The boot loader's record is out of date.
    Acknowledge,
    /// The image that runs is on trial, and this start is one of its chances.
    Trial,
    /// It is confirmed in the boot loader's record, and power was lost before this one said so.
    Confirmed,
    /// The image that runs is to be given up.
    GiveUp(Fault),
    /// The image from before is back.
    Back(Fault),
    /// Power was lost before the new image was activated.
    NotActivated,
}

fn fault(why: BootReason) -> Fault {
    match why {
        BootReason::Panic => Fault::Crashed,
        BootReason::Watchdog => Fault::Watchdog,
        _ => Fault::NotConfirmed,
    }
}

fn judge(trial: &Trial, running: u8, boot: BootState, why: BootReason) -> Meaning {
    let runs = running == trial.slot;
    match (trial.phase, boot) {
        // Confirmed or given up before: told until the gateway has heard it.
        (Phase::RolledBack(fault), _) if runs => Meaning::GiveUp(fault),
        (Phase::RolledBack(_) | Phase::Confirmed, BootState::RolledBack) => Meaning::Acknowledge,
        (Phase::RolledBack(_) | Phase::Confirmed, _) => Meaning::Nothing,
        (Phase::Activated, BootState::Confirmed) if runs => Meaning::Confirmed,
        (Phase::Activated, BootState::Trial) if runs => match why {
            BootReason::Panic | BootReason::Watchdog => Meaning::GiveUp(fault(why)),
            _ if trial.starts >= STARTS => Meaning::GiveUp(Fault::NotConfirmed),
            _ => Meaning::Trial,
        },
        // The boot loader fell back to this very slot, so something else was tried in between.
        (Phase::Activated, BootState::RolledBack) if runs => Meaning::Acknowledge,
        (Phase::Activated, BootState::RolledBack) => Meaning::Back(fault(why)),
        (Phase::Activated, _) => Meaning::NotActivated,
        // This record was lost, or a tool activated the image.
        (Phase::None, BootState::Trial) => Meaning::Trial,
        (Phase::None, BootState::RolledBack) => Meaning::Acknowledge,
        (Phase::None, BootState::Confirmed) => Meaning::Nothing,
    }
}

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The image that runs, as it is reported.
    pub state: BootState,
    /// The image was given up: the board is to restart at once.
    pub leave: bool,
}

/// Looks at the slots at start, before anything else can go wrong.
///
/// # Errors
///
/// [`StateError`]: the state partition cannot be written. A boot loader's record that fails is
/// logged, and the image counts as confirmed: there is nothing else that could start.
pub async fn begin<S: UpdateSlots, F: NorFlash>(
    slots: &mut S,
    state: &mut State<F>,
    why: BootReason,
) -> Result<Begun, StateError> {
    let stays = |state| Begun {
        state,
        leave: false,
    };
    let boot = match slots.boot_state().await {
        Ok(boot) => boot,
        Err(error) => {
            log::error!("update slots: {error:?}");
            return Ok(stays(BootState::Confirmed));
        }
    };
    let running = slots.running();
    let mut trial: Trial = load(state).await;
    let meaning = judge(&trial, running, boot, why);
    Ok(match meaning {
        Meaning::Nothing => stays(match trial.phase {
            // Given up by this code: the boot loader knows nothing of it.
            Phase::RolledBack(_) => BootState::RolledBack,
            _ => boot,
        }),
        Meaning::Acknowledge => {
            logged(slots.confirm().await);
            stays(BootState::RolledBack)
        }
        Meaning::Trial => {
            if trial.phase == Phase::None {
                trial = Trial {
                    phase: Phase::Activated,
                    slot: running,
                    ..Trial::default()
                };
            }
            trial.starts = trial.starts.saturating_add(1);
            store(state, &trial).await?;
            log::warn!("firmware is on trial, start {}", trial.starts);
            stays(BootState::Trial)
        }
        Meaning::Confirmed => {
            confirmed(state, trial).await?;
            stays(BootState::Confirmed)
        }
        Meaning::GiveUp(fault) => {
            log::error!("firmware is given up: {}", fault.as_str());
            give_up(slots, state, fault).await?;
            Begun {
                state: BootState::Trial,
                leave: true,
            }
        }
        Meaning::Back(fault) => {
            log::error!("update was taken back: {}", fault.as_str());
            remember(state, trial, fault).await?;
            logged(slots.confirm().await);
            stays(BootState::RolledBack)
        }
        Meaning::NotActivated => {
            trial.phase = Phase::None;
            store(state, &trial).await?;
            stays(boot)
        }
    })
}

/// The image that runs works. Returns its version.
///
/// # Errors
///
/// [`StateError`]: then it is confirmed for the boot loader at most, and this is finished at the
/// next start.
pub async fn confirm<S: UpdateSlots, F: NorFlash>(
    slots: &mut S,
    state: &mut State<F>,
) -> Result<(), StateError> {
    if let Err(error) = slots.confirm().await {
        log::error!("firmware could not be confirmed: {error:?}");
        return Ok(());
    }
    let trial = load(state).await;
    confirmed(state, trial).await
}

async fn confirmed<F: NorFlash>(state: &mut State<F>, mut trial: Trial) -> Result<(), StateError> {
    let floor: Floor = load(state).await;
    let raised = Floor {
        sequence: floor.sequence.max(trial.sequence),
        security_version: floor.security_version.max(trial.security_version),
    };
    if raised != floor {
        store(state, &raised).await?;
    }
    trial.phase = Phase::Confirmed;
    store(state, &trial).await
}

/// The image that runs does not work: at the next start the one from before is back.
///
/// # Errors
///
/// [`StateError`]: nothing has changed.
pub async fn give_up<S: UpdateSlots, F: NorFlash>(
    slots: &mut S,
    state: &mut State<F>,
    fault: Fault,
) -> Result<(), StateError> {
    let trial: Trial = load(state).await;
    if trial.phase != Phase::RolledBack(fault) {
        remember(state, trial, fault).await?;
    }
    logged(slots.revert().await);
    Ok(())
}

async fn remember<F: NorFlash>(
    state: &mut State<F>,
    mut trial: Trial,
    fault: Fault,
) -> Result<(), StateError> {
    let shunned: Shunned = load(state).await;
    store(state, &shunned.failed(trial.sequence, 0)).await?;
    // What is in the slot is of no use: it is not activated again.
    store(state, &Progress::default()).await?;
    trial.phase = Phase::RolledBack(fault);
    store(state, &trial).await
}

fn logged<E: core::fmt::Debug>(done: Result<(), E>) {
    if let Err(error) = done {
        log::error!("record of the slots could not be written: {error:?}");
    }
}

/// Activates the image in the inactive slot, after having noted what it is.
///
/// # Errors
///
/// `Ok(false)` if the boot loader's record could not be written; [`StateError`].
pub async fn activate<S: UpdateSlots, F: NorFlash>(
    slots: &mut S,
    state: &mut State<F>,
    sequence: u64,
    security_version: u32,
    version: &str,
) -> Result<bool, StateError> {
    store(state, &VersionText::new(version)).await?;
    let trial = Trial {
        phase: Phase::Activated,
        slot: 1 - slots.running(),
        starts: 0,
        security_version,
        sequence,
    };
    store(state, &trial).await?;
    if let Err(error) = slots.activate().await {
        log::error!("image could not be activated: {error:?}");
        store(state, &Trial::default()).await?;
        return Ok(false);
    }
    Ok(true)
}

/// What is to be told of the last update, and of which version.
pub async fn outcome<F: NorFlash>(state: &mut State<F>) -> Option<(Phase, VersionText)> {
    let trial: Trial = load(state).await;
    match trial.phase {
        Phase::None | Phase::Activated => None,
        phase => Some((phase, load(state).await)),
    }
}

/// The gateway has heard it.
///
/// # Errors
///
/// [`StateError`]: it will be told again.
pub async fn told<F: NorFlash>(state: &mut State<F>) -> Result<(), StateError> {
    let mut trial: Trial = load(state).await;
    trial.phase = Phase::None;
    store(state, &trial).await
}
