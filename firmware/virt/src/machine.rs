//! The board itself: switching it off, its serial port, and the words that outlast a restart.
//!
//! A reset clears no memory, a start does, as with the RTC memory of a chip.

/// Words beyond what programs and devices use: why the board restarts, and which slot was started.
pub(crate) const WORDS: *mut u32 = 0x8034_0000_usize as _;

/// The second word is the slot, 0 or 1, and this.
pub(crate) const SLOT: u32 = 0x510f_0000;

/// Ends QEMU through the board's test device, with this status, or by a reset for `None`.
pub(crate) fn finish(status: Option<u16>) -> ! {
    let word = match status {
        None => 0x7777,
        Some(0) => 0x5555,
        Some(status) => u32::from(status) << 16 | 0x3333,
    };
    loop {
        // SAFETY: this is the test device's register.
        unsafe { (0x0010_0000 as *mut u32).write_volatile(word) };
    }
}

/// Ends QEMU with this status.
pub(crate) fn exit(status: u16) -> ! {
    finish(Some(status))
}

/// The 16550's data register.
const SERIAL: *mut u8 = 0x1000_0000 as _;

/// The serial port, for text.
pub(crate) struct Uart;

impl core::fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: this is the port's data register; QEMU takes a byte at any time.
            unsafe { SERIAL.write_volatile(byte) };
        }
        Ok(())
    }
}
