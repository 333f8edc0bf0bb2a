//! The CLINT's timer as embassy's time driver.

use core::cell::RefCell;
use core::task::Waker;

use critical_section::Mutex;
use embassy_time_queue_utils::Queue;
use portable_atomic::{AtomicU64, Ordering};
use riscv::interrupt::Interrupt;

use crate::restart::{self, Restart};

/// Ticks since start, two words; 10 MHz.
const MTIME: *const u32 = 0x0200_bff8 as _;

/// The first hart's next interrupt, two words.
const MTIMECMP: *mut u32 = 0x0200_4000 as _;

/// Ticks without a sign of life after which the board restarts: a minute, as on the chips.
const WATCHDOG: u64 = 60 * 10_000_000;

/// When the device last gave one.
static FED: AtomicU64 = AtomicU64::new(0);

/// The device is alive.
pub(crate) fn feed() {
    FED.store(now(), Ordering::Relaxed);
}

fn now() -> u64 {
    loop {
        // SAFETY: these are the CLINT's registers, readable at any time.
        let (high, low, again) = unsafe {
            (
                MTIME.add(1).read_volatile(),
                MTIME.read_volatile(),
                MTIME.add(1).read_volatile(),
            )
        };
        if high == again {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

fn wake_at(tick: u64) {
    let tick = tick.min(FED.load(Ordering::Relaxed).saturating_add(WATCHDOG));
    // SAFETY: these are the CLINT's registers. The low word goes up first, so no interrupt comes
    // too early in between.
    unsafe {
        MTIMECMP.add(1).write_volatile(u32::MAX);
        MTIMECMP.write_volatile(tick as u32);
        MTIMECMP.add(1).write_volatile((tick >> 32) as u32);
    }
}

struct Clint {
    queue: Mutex<RefCell<Queue>>,
}

impl embassy_time_driver::Driver for Clint {
    fn now(&self) -> u64 {
        now()
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|cs| {
            let mut queue = self.queue.borrow(cs).borrow_mut();
            if queue.schedule_wake(at, waker) {
                wake_at(queue.next_expiration(now()));
            }
        });
    }
}

embassy_time_driver::time_driver_impl!(static DRIVER: Clint = Clint {
    queue: Mutex::new(RefCell::new(Queue::new())),
});

#[riscv_rt::core_interrupt(Interrupt::MachineTimer)]
fn timer() {
    if now().saturating_sub(FED.load(Ordering::Relaxed)) >= WATCHDOG {
        log::error!("watchdog: no sign of life for a minute");
        restart::restart(Restart::Watchdog);
    }
    critical_section::with(|cs| {
        let next = DRIVER.queue.borrow(cs).borrow_mut().next_expiration(now());
        wake_at(next);
    });
}

/// Turns interrupts on.
pub(crate) fn start() {
    feed();
    wake_at(u64::MAX);
    // SAFETY: everything an interrupt touches is ready.
    unsafe {
        riscv::register::mie::set_mtimer();
        riscv::interrupt::enable();
    }
}
