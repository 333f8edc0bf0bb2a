//! The serial port: log lines out, what is sensed in.
//!
//! | line | effect |
//! |---|---|
//! | `pot 0..4095` | turns the potentiometer |
//! | `press`, `release` | the switch |
//! | `hang` | the program stops for good: the watchdog's case |
//! | `memory` | logs how much of heap and stack was needed so far |

use core::fmt::Write as _;

use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::signal::Signal;
use embassy_time::{Duration, Instant, Timer};
use log::{LevelFilter, Log, Metadata, Record};
use portable_atomic::{AtomicBool, AtomicU16, Ordering};

use crate::machine::Uart;
use crate::{executor, memory, restart};

/// The 16550's data register, and its line status.
const DATA: *const u8 = 0x1000_0000 as _;
const STATUS: *const u8 = 0x1000_0005 as _;
const RECEIVED: u8 = 1;

/// How often the port is asked for what was typed.
const LOOK: Duration = Duration::from_millis(10);

/// A line that is longer is no command.
const LINE: usize = 32;

/// What the potentiometer is at.
pub(crate) static POTENTIOMETER: AtomicU16 = AtomicU16::new(0);
/// Whether the switch is down.
pub(crate) static PRESSED: AtomicBool = AtomicBool::new(false);
/// The switch moved.
pub(crate) static MOVED: Signal<CriticalSectionRawMutex, ()> = Signal::new();

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    /// Each line says when, in microseconds since start, and how many instructions had run ([`executor::instructions`]).
    fn log(&self, record: &Record<'_>) {
        let _ = writeln!(
            Uart,
            "[{} us, {} instructions] {} {}",
            Instant::now().as_micros(),
            executor::instructions(),
            record.level(),
            record.args()
        );
    }

    fn flush(&self) {}
}

/// Sends log lines to the port.
pub(crate) fn start() {
    static LINES: Lines = Lines;
    // SAFETY: nothing else runs yet.
    let set = unsafe { log::set_logger_racy(&LINES) };
    if set.is_ok() {
        // SAFETY: nothing else runs yet.
        unsafe { log::set_max_level_racy(LevelFilter::Debug) };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "{info}");
    restart::fail(101)
}

/// Carries out what is typed.
#[embassy_executor::task]
pub(crate) async fn listen() {
    let mut line = [0; LINE];
    let mut len = 0;
    loop {
        // SAFETY: these are the port's registers; a byte is there if the status says so.
        while unsafe { STATUS.read_volatile() } & RECEIVED != 0 {
            let byte = unsafe { DATA.read_volatile() };
            if byte == b'\n' || byte == b'\r' {
                let text = line
                    .get(..len)
                    .and_then(|line| core::str::from_utf8(line).ok());
                carry_out(text.unwrap_or(""));
                len = 0;
            } else if let Some(place) = line.get_mut(len) {
                *place = byte;
                len += 1;
            }
        }
        Timer::after(LOOK).await;
    }
}

fn carry_out(line: &str) {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("", "") => {}
        ("pot", value) if value.parse().is_ok_and(|value: u16| value < 4096) => {
            POTENTIOMETER.store(value.parse().unwrap_or(0), Ordering::Relaxed);
        }
        ("press" | "release", "") => {
            PRESSED.store(line == "press", Ordering::Relaxed);
            MOVED.signal(());
        }
        ("hang", "") => loop {
            core::hint::spin_loop();
        },
        ("memory", "") => {
            let (heap, stack) = memory::peak();
            log::info!("memory needed: heap {heap}, stack {stack} bytes");
        }
        _ => log::warn!("{line:?} is not understood: pot 0..4095, press, release, hang, memory"),
    }
}

/// An exception is a fault of the program: it is told, and the board stops.
#[unsafe(export_name = "ExceptionHandler")]
extern "C" fn exception(_: &riscv_rt::TrapFrame) -> ! {
    let _ = writeln!(
        Uart,
        "exception {} at {:#x}, value {:#x}",
        riscv::register::mcause::read().bits(),
        riscv::register::mepc::read(),
        riscv::register::mtval::read()
    );
    restart::fail(102)
}
