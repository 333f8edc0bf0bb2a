//! MQTT 3.1.1 and 5.0 as the specifications have it: every normative statement that concerns a
//! server, in a table with the test that shows it, and the tests. They run against the real daemon
//! with a client that sends bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test that fails says where"
)]

#[path = "../support/mod.rs"]
mod support;

mod connecting;
mod malformed;
mod properties;
mod publishing;
mod raw;
mod retained;
mod sessions;
mod statements;
mod subscribing;
mod topics;
mod unharmed;
mod wills;
mod world;
