//! The heap.
//!
//! Two regions: what the boot loader used, which nothing else can have, and a part of the RAM that
//! the stack would get otherwise. The radio is assumed to take about 60 KiB of it (its receive buffers, 10 of
//! 1.6 KiB, and the queues and stacks of its tasks), a handshake 40 KiB on top for a second.

use esp_alloc::heap_allocator;
use esp_hal::ram;

/// Bytes of the boot loader's memory; it has a little more on every chip.
const RECLAIMED: usize = 64 * 1024;

/// Bytes besides.
const MORE: usize = 56 * 1024;

/// Opens the heap. To be called once, first of all.
pub(crate) fn start() {
    heap_allocator!(#[ram(reclaimed)] size: RECLAIMED);
    heap_allocator!(size: MORE);
}

/// Bytes that are free.
pub(crate) fn free() -> usize {
    esp_alloc::HEAP.free()
}
