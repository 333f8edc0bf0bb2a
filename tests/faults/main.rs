//! Faults: each is brought about for real, under load, against the real daemon; after each, nothing
//! acknowledged is lost, memory is back at its bound, and what a calm device saw of it is printed.
//! README.md beside this file says how to run the long forms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test that fails says where"
)]

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod load;
mod upstream;
mod world;

mod backend;
mod certificates;
mod clock;
mod connections;
mod damage;
mod disk_errors;
mod disk_full;
mod disk_slow;
mod kill;
mod peers;
