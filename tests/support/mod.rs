//! What the user stories share: the real daemon in a folder of its own, a backend, and the clients
//! that users have (mosquitto, paho-mqtt, openssl, curl).
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "every story is a crate of its own and uses a part of this"
)]

pub mod backend;
pub mod clients;
pub mod gateway;
pub mod mqtt;
pub mod updates;
pub mod virt;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use backend::{Answer, Backend, Request};
pub use clients::*;
pub use gateway::{Gateway, Setup};

/// Polls until `done` gives something, or fails the test naming `what` it waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

pub const SOON: Duration = Duration::from_secs(60);

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
