#![no_std]
#![allow(
    async_fn_in_trait,
    reason = "the device is one task on a single-threaded executor: futures need not be Send"
)]
extern crate alloc;
pub mod backoff;
pub mod board;
pub mod commands;
pub mod credentials;
pub mod executed;
pub mod json;
#[cfg(test)]
mod memory_flash;
pub mod mqtt;
pub mod profile;
pub mod state;
pub mod time;
pub mod telemetry;
pub mod tls;
