//! The board's boot stage: picks the slot, loads its image into RAM, and starts it.
//!
//! It runs from the board's ROM (QEMU's first flash device) and does what ESP-IDF's boot loader does
//! when it is configured to roll back, with the same record. An image that is damaged is passed
//! over.
//!
//! ```text
//!  an image in a slot:
//!  0   magic
//!  8   length of the program, little endian
//!  12  SHA-256 of the program
//!  64  the program, which is loaded to the start of RAM and entered there
//! ```

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "registers, and memory that the program is loaded to; each use says why it is sound"
)]

extern crate alloc;

mod flash;
mod machine;
mod virtio;

use alloc::rc::Rc;
use core::cell::RefCell;
use core::fmt::Write as _;

use embedded_alloc::LlffHeap;
use sha2::{Digest, Sha256};
use tidegate_app::update::otadata::Otadata;
use tidegate_embassy::{Partition, Shared, layout};

use flash::BlockFlash;
use machine::{SLOT, Uart, WORDS, exit};

const MAGIC: [u8; 8] = *b"TGVIRT\x00\x01";

/// Bytes before the program.
const HEADER: u32 = 64;

/// Where the program goes, and how much room there is (memory.x).
const PROGRAM: *mut u8 = 0x8000_0000_usize as _;
const ROOM: u32 = 1920 * 1024;

/// Bytes that are read at once.
const CHUNK: usize = 4096;

#[global_allocator]
static HEAP: LlffHeap = LlffHeap::empty();

unsafe extern "C" {
    static __sheap: u8;
    static __eheap: u8;
}

#[riscv_rt::entry]
fn main() -> ! {
    let (start, end) = (&raw const __sheap as usize, &raw const __eheap as usize);
    // SAFETY: the linker script sets this memory aside for the heap, and this runs once.
    unsafe { HEAP.init(start, end - start) };
    static LINES: Lines = Lines;
    // SAFETY: nothing else runs.
    if unsafe { log::set_logger_racy(&LINES) }.is_ok() {
        // SAFETY: nothing else runs.
        unsafe { log::set_max_level_racy(log::LevelFilter::Warn) };
    }
    let virtio::Devices {
        network,
        block,
        entropy,
    } = virtio::find();
    // These are the firmware's.
    drop((network, entropy));
    let flash = Rc::new(RefCell::new(BlockFlash::new(block)));
    let chosen = embassy_futures::block_on(Otadata::new(open(&flash, layout::OTADATA)).boot(true));
    let chosen = chosen.unwrap_or_else(|error| {
        let _ = writeln!(Uart, "boot: {error}");
        0
    });
    for slot in [chosen, 1 - chosen] {
        if let Some(place) = layout::SLOTS.get(usize::from(slot))
            && load(&open(&flash, *place)).is_some()
        {
            let _ = writeln!(Uart, "boot: {} starts", place.name);
            // SAFETY: the word is nobody else's; a program that is whole was loaded, and it sets up
            // everything itself.
            unsafe {
                WORDS.add(1).write_volatile(SLOT | u32::from(slot));
                core::arch::asm!("fence.i", "jr {0}", in(reg) PROGRAM, options(noreturn));
            }
        }
        let _ = writeln!(Uart, "boot: slot {slot} has no image that can be started");
    }
    exit(1)
}

fn open(flash: &Shared<BlockFlash>, place: layout::Place) -> Partition<BlockFlash> {
    Partition::new(Rc::clone(flash), place.offset, place.size).unwrap_or_else(|error| {
        let _ = writeln!(Uart, "boot: {}: {error}", place.name);
        exit(1)
    })
}

/// Loads the program of a slot; `None` if there is none, or it is damaged.
fn load(slot: &Partition<BlockFlash>) -> Option<()> {
    let mut header = [0; HEADER as usize];
    slot.read_now(0, &mut header).ok()?;
    let (magic, rest) = header.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let digest = rest.first_chunk::<32>()?;
    let length = u32::from_le_bytes(*length);
    if *magic != MAGIC || length > ROOM {
        return None;
    }
    let mut hash = Sha256::new();
    let mut at = 0;
    let mut chunk = [0; CHUNK];
    while at < length {
        let len = CHUNK.min((length - at) as usize);
        let part = chunk.get_mut(..len)?;
        slot.read_now(HEADER + at, part).ok()?;
        hash.update(&*part);
        // SAFETY: it is within the room for programs, where nothing of this one is.
        unsafe {
            PROGRAM
                .add(at as usize)
                .copy_from_nonoverlapping(part.as_ptr(), len);
        };
        at += len as u32;
    }
    (hash.finalize().as_slice() == digest).then_some(())
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "boot: {info}");
    exit(101)
}

/// The drivers log what is missing.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(Uart, "boot: {}", record.args());
    }

    fn flush(&self) {}
}
