//! A whole Tidegate device: what it senses and does, and how it talks to the gateway.
//!
//! The crate is `no_std` and generic over a [`board`]: the same code runs on an ESP32, in QEMU and
//! on the host. A board provides a network stack, a clock, random numbers, three flash partitions,
//! update slots and pins; [`run`] is the device.
//!
//! ```text
//!  board ─▶ Parts ─┐                         ┌─ sense: profile ─▶ telemetry (RAM, flash)
//!                  ├─▶ run ─▶ device ────────┼─ link: time ─▶ tls ─▶ mqtt ─▶ commands
//!  pins ─▶ Profile ┘                         └─ health, watchdog
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`board`] | what a board provides |
//! | [`profile`] | what a device senses and drives: three kinds, over embedded-hal traits |
//! | [`credentials`] | who the device is, in its own partition; rotation |
//! | [`time`](mod@time) | NTP, and the floor below which no time is believed |
//! | [`tls`] | TLS 1.3 with the device's certificate; the verifier |
//! | [`mqtt`] | the session: in flight, resumed, kept alive; no I/O |
//! | [`telemetry`] | messages waiting to be sent, signing |
//! | [`commands`], [`executed`] | what it can be told; never twice |
//! | [`update`](mod@update) | new firmware: fetched, verified, on trial, confirmed or taken back |
//! | [`state`](mod@state) | the little that outlasts a power loss |
//! | [`backoff`] | when to try again |
//!
//! Decisions take time, randomness and storage as arguments and are tested without sleeping;
//! everything in flash is tested with the power lost at every operation in turn.

#![no_std]
#![warn(missing_docs)]
#![allow(
    async_fn_in_trait,
    reason = "the device is one task on a single-threaded executor: futures need not be Send"
)]

extern crate alloc;

pub mod backoff;
pub mod board;
pub mod commands;
pub mod credentials;
mod device;
pub mod executed;
pub mod json;
#[cfg(test)]
mod memory_flash;
pub mod mqtt;
pub mod profile;
pub mod state;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod update;

pub use device::{Ended, run};

/// Formats into a buffer; what does not fit is cut off at a character's boundary.
fn text<'b>(buffer: &'b mut [u8], arguments: core::fmt::Arguments<'_>) -> &'b str {
    struct Cursor<'b>(&'b mut [u8], usize);
    impl core::fmt::Write for Cursor<'_> {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let room = self.0.len() - self.1;
            let len = text.floor_char_boundary(room);
            let (to, from) = (self.1..self.1 + len, text.as_bytes().get(..len));
            if let (Some(to), Some(from)) = (self.0.get_mut(to), from) {
                to.copy_from_slice(from);
                self.1 += len;
            }
            if len < text.len() {
                Err(core::fmt::Error)
            } else {
                Ok(())
            }
        }
    }
    let mut cursor = Cursor(buffer, 0);
    // An error says that it was cut off, which is what is wanted.
    let _ = core::fmt::write(&mut cursor, arguments);
    let Cursor(buffer, len) = cursor;
    core::str::from_utf8(buffer.get(..len).unwrap_or(&[])).unwrap_or("")
}
