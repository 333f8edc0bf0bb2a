//! An update from the first byte to the confirmation, with the power lost at every flash operation.

extern crate std;

use std::vec::Vec;

use embedded_storage_async::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use embedded_tls::Sha256;
use p256::ecdsa::signature::digest::Digest;

use super::download::{Content, Download};
use super::otadata::Otadata;
use super::record::{Fault, Floor, Phase, Shunned, load};
use super::slots::PartitionSlots;
use super::trial::{activate, begin, confirm, give_up, outcome, told};
use crate::board::{BootReason, BootState, UpdateSlots};
use crate::memory_flash::{MemoryFlash, PAGE, PowerLost, every_power_loss, wait};
use crate::state::State;

/// Pages of the partitions, one after the other.
const STATE: usize = 4;
const OTADATA: usize = 2;
const SLOT: usize = 12;

/// Of more than one note's length, and no multiple of anything.
const SIZE: usize = 9 * PAGE + 1234;

const SEQUENCE: u64 = 7;
const SECURITY: u32 = 3;

/// A part of the one flash, so that the power goes everywhere at once.
#[derive(Debug, Clone)]
struct Part {
    flash: MemoryFlash,
    offset: u32,
    size: usize,
}

impl ErrorType for Part {
    type Error = PowerLost;
}

impl ReadNorFlash for Part {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), PowerLost> {
        self.flash.read(self.offset + at, bytes).await
    }

    fn capacity(&self) -> usize {
        self.size
    }
}

impl NorFlash for Part {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = PAGE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), PowerLost> {
        assert!(to as usize <= self.size);
        self.flash.erase(self.offset + from, self.offset + to).await
    }

    async fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), PowerLost> {
        assert!(at as usize + bytes.len() <= self.size);
        self.flash.write(self.offset + at, bytes).await
    }
}

fn part(flash: &MemoryFlash, before: usize, pages: usize) -> Part {
    Part {
        flash: flash.clone(),
        offset: (before * PAGE) as u32,
        size: pages * PAGE,
    }
}

fn slot(flash: &MemoryFlash, index: u8) -> Part {
    part(flash, STATE + OTADATA + usize::from(index) * SLOT, SLOT)
}

fn old_image() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8).collect()
}

fn new_image() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 241) as u8 ^ 0x55).collect()
}

fn fresh() -> MemoryFlash {
    let flash = MemoryFlash::multiwrite(STATE + OTADATA + 2 * SLOT);
    flash.load((STATE + OTADATA) * PAGE, &old_image());
    flash
}

fn content(flash: &MemoryFlash, index: u8) -> Vec<u8> {
    let at = (STATE + OTADATA + usize::from(index) * SLOT) * PAGE;
    flash.bytes()[at..at + SIZE].to_vec()
}

/// The power is gone, or the device restarts.
#[derive(Debug, PartialEq, Eq)]
struct Off;

struct Device {
    slots: PartitionSlots<Part>,
    state: State<Part>,
    running: u8,
}

/// What a boot loader and the device's first steps do. `None` if it restarts at once.
async fn start(
    flash: &MemoryFlash,
    rolls_back: bool,
    why: BootReason,
) -> Result<Option<(Device, BootState)>, Off> {
    let otadata = part(flash, STATE, OTADATA);
    let booted = Otadata::new(otadata.clone()).boot(rolls_back).await;
    let running = booted.map_err(|_| Off)?;
    let image = content(flash, running);
    assert!(
        image == old_image() || image == new_image(),
        "what starts is a whole image"
    );
    let mut slots = PartitionSlots::new(otadata, slot(flash, 1 - running), running);
    let opened = State::open(part(flash, 0, STATE)).await;
    let mut state = opened.map_err(|_| Off)?;
    assert!(!state.lost());
    let begun = begin(&mut slots, &mut state, why).await.map_err(|_| Off)?;
    if begun.leave {
        return Ok(None);
    }
    let device = Device {
        slots,
        state,
        running,
    };
    Ok(Some((device, begun.state)))
}

/// Fetches, verifies and activates; how many bytes were fetched.
async fn install(device: &mut Device) -> Result<usize, Off> {
    let image = new_image();
    let sha256: [u8; 32] = Sha256::digest(&image).into();
    let Device { slots, state, .. } = device;
    let opened = Download::open(sha256, SIZE as u32, slots, state).await;
    let mut download = opened.map_err(|_| Off)?;
    let mut fetched = 0;
    while !download.is_complete() {
        // As it comes over the network: in pieces that fit nothing.
        let from = download.place() as usize;
        let room = download.room();
        let len = room.len().min(1000);
        room[..len].copy_from_slice(&image[from..from + len]);
        download.took(len, slots, state).await.map_err(|_| Off)?;
        fetched += len;
    }
    assert_eq!(download.verify(slots).await, Ok(Content::AsSigned));
    download.activating(state).await.map_err(|_| Off)?;
    let activated = activate(slots, state, SEQUENCE, SECURITY, "1.1.0").await;
    match activated {
        Ok(true) => Ok(fetched),
        _ => Err(Off),
    }
}

/// Goes on from wherever it is until the new image is confirmed and that was told.
async fn update(flash: &MemoryFlash, rolls_back: bool, mut why: BootReason) -> Result<usize, Off> {
    let mut fetched = 0;
    for _ in 0..8 {
        let started = start(flash, rolls_back, why).await?;
        why = BootReason::Software;
        let Some((mut device, state)) = started else {
            continue;
        };
        if state == BootState::Trial {
            assert_eq!(content(flash, device.running), new_image());
            let Device { slots, state, .. } = &mut device;
            confirm(slots, state).await.map_err(|_| Off)?;
            if slots.boot_state().await.map_err(|_| Off)? != BootState::Confirmed {
                return Err(Off);
            }
        }
        if content(flash, device.running) == new_image() {
            if let Some((phase, version)) = outcome(&mut device.state).await {
                assert_eq!((phase, version.as_str()), (Phase::Confirmed, "1.1.0"));
                told(&mut device.state).await.map_err(|_| Off)?;
            }
            let floor: Floor = load(&mut device.state).await;
            let raised = Floor {
                sequence: SEQUENCE,
                security_version: SECURITY,
            };
            assert_eq!(floor, raised);
            return Ok(fetched);
        }
        fetched += install(&mut device).await?;
    }
    panic!("the update came to no end");
}

#[test]
fn an_update_survives_a_power_loss_at_every_flash_operation() {
    for rolls_back in [false, true] {
        let mut most = 0;
        every_power_loss(
            fresh,
            async |flash| {
                update(&flash, rolls_back, BootReason::PowerOn)
                    .await
                    .map(drop)
            },
            |flash| {
                // Whatever was lost: it starts, goes on, and arrives.
                let fetched = wait(update(&flash, rolls_back, BootReason::PowerOn)).unwrap();
                most = most.max(fetched);
                assert_eq!(wait(update(&flash, rolls_back, BootReason::PowerOn)), Ok(0));
            },
        );
        assert!(most >= SIZE, "it was lost before the first note, too");
    }
}

#[test]
fn a_download_goes_on_at_the_last_note() {
    let flash = fresh();
    wait(async {
        let (mut device, _) = start(&flash, true, BootReason::PowerOn)
            .await
            .unwrap()
            .unwrap();
        let sha256: [u8; 32] = Sha256::digest(new_image()).into();
        let Device { slots, state, .. } = &mut device;
        let mut download = Download::open(sha256, SIZE as u32, slots, state)
            .await
            .unwrap();
        let until = 8 * PAGE + 500;
        while (download.place() as usize) < until {
            let from = download.place() as usize;
            let room = download.room();
            let len = room.len().min(until - from);
            room[..len].copy_from_slice(&new_image()[from..from + len]);
            download.took(len, slots, state).await.unwrap();
        }
        assert_eq!(download.place() as usize, until);
        let again = Download::open(sha256, SIZE as u32, slots, state)
            .await
            .unwrap();
        assert_eq!(again.place() as usize, 8 * PAGE, "after a power loss");
        let other = Download::open([9; 32], SIZE as u32, slots, state)
            .await
            .unwrap();
        assert_eq!(other.place(), 0, "another image starts over");
    });
    assert_eq!(content(&flash, 0), old_image());
}

/// Starts the new image, has it fail in a way, and returns what the old image then has to tell.
async fn fail(flash: &MemoryFlash, rolls_back: bool, why: BootReason) -> Result<Fault, Off> {
    let mut reason = BootReason::Software;
    for start_number in 0..8 {
        let started = start(flash, rolls_back, reason).await?;
        let Some((mut device, state)) = started else {
            // The image gave itself up: its own restart.
            reason = BootReason::Software;
            continue;
        };
        if content(flash, device.running) == old_image() {
            let shunned: Shunned = load(&mut device.state).await;
            assert_eq!(shunned.sequence, SEQUENCE, "start {start_number}");
            let floor: Floor = load(&mut device.state).await;
            assert_eq!(floor, Floor::default(), "nothing was confirmed");
            assert_eq!(state, BootState::RolledBack);
            let (phase, version) = outcome(&mut device.state).await.unwrap();
            assert_eq!(version.as_str(), "1.1.0");
            let Phase::RolledBack(fault) = phase else {
                panic!("{phase:?}");
            };
            return Ok(fault);
        }
        assert_eq!(state, BootState::Trial);
        reason = why;
    }
    panic!("it was never given up");
}

#[test]
fn an_image_that_fails_is_given_up_whatever_the_boot_loader() {
    for rolls_back in [false, true] {
        for (why, fault) in [
            (BootReason::Panic, Fault::Crashed),
            (BootReason::Watchdog, Fault::Watchdog),
            (BootReason::PowerOn, Fault::NotConfirmed),
            (BootReason::Software, Fault::NotConfirmed),
        ] {
            let flash = fresh();
            wait(async {
                let started = start(&flash, rolls_back, BootReason::PowerOn).await;
                let (mut device, _) = started.unwrap().unwrap();
                install(&mut device).await.unwrap();
                assert_eq!(fail(&flash, rolls_back, why).await, Ok(fault));
            });
        }
    }
}

/// An image that gives itself up because the gateway was not reached, with the power lost at each
/// operation of doing so.
#[test]
fn giving_up_survives_a_power_loss_at_every_flash_operation() {
    for rolls_back in [false, true] {
        let trial = || {
            let flash = fresh();
            wait(async {
                let started = start(&flash, rolls_back, BootReason::PowerOn).await;
                let (mut device, _) = started.unwrap().unwrap();
                install(&mut device).await.unwrap();
                let started = start(&flash, rolls_back, BootReason::Software).await;
                assert_eq!(started.unwrap().unwrap().1, BootState::Trial);
            });
            flash.copy()
        };
        every_power_loss(
            trial,
            async |flash| {
                let otadata = part(&flash, STATE, OTADATA);
                let mut slots = PartitionSlots::new(otadata, slot(&flash, 0), 1);
                let mut state = State::open(part(&flash, 0, STATE)).await.unwrap();
                give_up(&mut slots, &mut state, Fault::NotConfirmed)
                    .await
                    .map_err(|_| Off)?;
                match slots.boot_state().await {
                    Ok(BootState::Trial) | Err(_) => Err(Off),
                    Ok(_) => Ok(()),
                }
            },
            |flash| {
                let fault = wait(fail(&flash, rolls_back, BootReason::PowerOn));
                assert_eq!(fault, Ok(Fault::NotConfirmed));
                assert_eq!(content(&flash, 0), old_image());
            },
        );
    }
}

#[test]
fn looks_are_spread_and_servers_obeyed_within_reason() {
    use super::{jittered, retry_after};
    use core::time::Duration;
    let hour = Duration::from_secs(3600);
    assert_eq!(jittered(hour, 0), hour * 3 / 4);
    assert_eq!(jittered(hour, u32::MAX), hour * 5 / 4);
    assert_eq!(retry_after(0, hour), Duration::from_secs(60));
    assert_eq!(retry_after(600, hour), Duration::from_secs(600));
    assert_eq!(retry_after(u32::MAX, hour), hour);
}
