//! Runs the tasks, and knows how much of the time it had nothing to do.

use embassy_executor::{Spawner, raw};
use portable_atomic::{AtomicBool, AtomicU64, Ordering};
use riscv::register::minstret;
use static_cell::StaticCell;

/// A task wants to go on.
static WORK: AtomicBool = AtomicBool::new(false);

/// Instructions that would have run while the hart waited.
static IDLE: AtomicU64 = AtomicU64::new(0);

#[unsafe(export_name = "__pender")]
fn pender(_: *mut ()) {
    WORK.store(true, Ordering::SeqCst);
}

/// Instructions that the program ran. QEMU counts the waiting as well, so that is taken off; the
/// numbers mean something only with `-icount`.
pub(crate) fn instructions() -> u64 {
    minstret::read64().wrapping_sub(IDLE.load(Ordering::Relaxed))
}

/// Runs for good what `start` spawns.
pub(crate) fn run(start: impl FnOnce(Spawner)) -> ! {
    static EXECUTOR: StaticCell<raw::Executor> = StaticCell::new();
    let executor = EXECUTOR.init(raw::Executor::new(core::ptr::null_mut()));
    start(executor.spawner());
    loop {
        // SAFETY: this is the executor's only poll, and not within itself.
        unsafe { executor.poll() };
        critical_section::with(|_| {
            // With interrupts off: one that comes now ends the wait, and none is lost.
            if !WORK.swap(false, Ordering::SeqCst) {
                let before = minstret::read64();
                riscv::asm::wfi();
                let waited = minstret::read64().wrapping_sub(before);
                IDLE.fetch_add(waited, Ordering::Relaxed);
            }
        });
    }
}
