//! Restarting the board, and why it started.

use tidegate_app::board::BootReason;

use crate::machine::{SLOT, WORDS, exit, finish};

/// Not by chance in memory.
const SOFTWARE: u32 = 0x50f7_0001;
const PANIC: u32 = 0x50f7_0002;
const WATCHDOG: u32 = 0x50f7_0003;
const RUNNING: u32 = 0x50f7_0004;

/// Why the board is restarted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Restart {
    Software,
    Panic,
    Watchdog,
}

/// Restarts the board.
pub(crate) fn restart(why: Restart) -> ! {
    let word = match why {
        Restart::Software => SOFTWARE,
        Restart::Panic => PANIC,
        Restart::Watchdog => WATCHDOG,
    };
    // SAFETY: nothing else uses these words.
    unsafe { WORDS.write_volatile(word) };
    finish(None)
}

/// The program failed. On a board that was started by its boot stage it restarts, as a chip does;
/// a program that QEMU was given as its kernel ends with this status.
pub(crate) fn fail(status: u16) -> ! {
    match slot() {
        Some(_) => restart(Restart::Panic),
        None => exit(status),
    }
}

/// Why the board started. To be asked once.
pub(crate) fn reason() -> BootReason {
    // SAFETY: nothing else uses these words.
    let word = unsafe {
        let word = WORDS.read_volatile();
        WORDS.write_volatile(RUNNING);
        word
    };
    match word {
        0 => BootReason::PowerOn,
        SOFTWARE => BootReason::Software,
        PANIC => BootReason::Panic,
        WATCHDOG => BootReason::Watchdog,
        _ => BootReason::Unknown,
    }
}

/// The slot that was started; `None` if there was no boot stage.
pub(crate) fn slot() -> Option<u8> {
    // SAFETY: nothing else uses these words.
    match unsafe { WORDS.add(1).read_volatile() } ^ SLOT {
        slot @ (0 | 1) => Some(slot as u8),
        _ => None,
    }
}
