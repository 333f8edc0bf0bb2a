//! The heap, and how much of it and of the stack was needed.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::Ordering;

use embedded_alloc::LlffHeap;
use portable_atomic::AtomicUsize;

unsafe extern "C" {
    static __sheap: u8;
    static __eheap: u8;
    /// The end of the stack's memory, which it grows towards.
    static __estack: u8;
    /// Its start, the highest address.
    static __sstack: u8;
}

/// The heap, which remembers the most that was in use.
struct Counted {
    heap: LlffHeap,
    peak: AtomicUsize,
}

#[global_allocator]
static HEAP: Counted = Counted {
    heap: LlffHeap::empty(),
    peak: AtomicUsize::new(0),
};

// SAFETY: everything is passed on to the heap inside.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract.
        let pointer = unsafe { self.heap.alloc(layout) };
        self.peak.fetch_max(self.heap.used(), Ordering::Relaxed);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { self.heap.dealloc(pointer, layout) }
    }
}

/// Words of the stack that were never used hold this.
const UNUSED: u32 = 0xdead_beef;

/// Bytes below the stack pointer that are not painted: an interrupt is not possible yet.
const SPILL: usize = 256;

/// Opens the heap and paints the stack. To be called once, first of all.
#[inline(never)]
pub(crate) fn start() {
    let (start, end) = (&raw const __sheap as usize, &raw const __eheap as usize);
    // SAFETY: the linker script sets this memory aside for the heap, and this runs once.
    unsafe { HEAP.heap.init(start, end - start) };

    let top: usize;
    // SAFETY: it reads a register. Everything that is live is at or above the stack pointer, except
    // what the loop below spills, for which a little is left.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) top, options(nomem, nostack)) };
    let top = (top - SPILL) & !3;
    let mut at = &raw const __estack as usize;
    while at < top {
        // SAFETY: it is stack memory below every live frame.
        unsafe { (at as *mut u32).write_volatile(UNUSED) };
        at += 4;
    }
}

/// Bytes of the heap that are free.
pub(crate) fn free() -> usize {
    HEAP.heap.free()
}

/// The most that was in use, in bytes: heap, stack.
pub(crate) fn peak() -> (usize, usize) {
    let (end, start) = (&raw const __estack as usize, &raw const __sstack as usize);
    let mut at = end;
    // SAFETY: it is stack memory; words are only read.
    while at < start && unsafe { (at as *const u32).read_volatile() } == UNUSED {
        at += 4;
    }
    (HEAP.peak.load(Ordering::Relaxed), start - at)
}
