//! What must hold for any input, one module per target.
//!
//! A target is a function from bytes to nothing that panics if something does not hold. The same
//! functions are driven twice: over the committed corpora as ordinary tests (`tests/replay.rs`),
//! and by libFuzzer, which looks for inputs nobody thought of (`../libfuzzer`).
//!
//! Each target states three things beyond "it does not panic": what an independent reading of the
//! same bytes says ([`json`], rmqtt-codec, x509-cert), how much may be allocated
//! ([`allocation`]), and how long an input may be ([`Target::max_len`]), within which the time limit
//! of the run applies.
//!
//! Nothing here is a unit test; the tests within the gateway's modules are run where those are.

#![cfg(not(test))]

pub mod allocation;
pub mod canonical;
pub mod certificate_identity;
pub mod command_body;
pub mod config;
pub mod envelope;
pub mod json;
pub mod manifest;
pub mod mqtt_client_decode;
pub mod mqtt_differential;
pub mod mqtt_server_decode;
pub mod mqtt_stream;

/// The gateway's own modules that are fuzzed, by their sources: they stand on little, while the whole
/// gateway instrumented once more takes minutes to build.
#[path = "../../../src"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the rest is for the rest of the gateway"
)]
mod gateway {
    pub mod command {
        pub mod raw;
    }
    pub mod config;
    pub mod pki {
        pub mod identity;
    }
}
/// Shared with the codec's own tests: reading and writing any packet.
#[path = "../../../src/mqtt/tests/codec/common.rs"]
#[allow(dead_code, reason = "the rest is for those tests")]
#[allow(clippy::expect_used, reason = "a broken invariant is what panics here")]
#[allow(unreachable_pub, reason = "a module of a test program")]
mod common;
/// Shared with the codec's own tests: the second opinion of rmqtt-codec.
#[path = "../../../src/mqtt/tests/codec/facts.rs"]
#[allow(dead_code, reason = "the rest is for those tests")]
#[allow(clippy::expect_used, reason = "a broken invariant is what panics here")]
mod facts;

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus, of its libFuzzer program and of its module.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
    /// The longest input to try, in bytes.
    pub max_len: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "canonical",
        run: canonical::run,
        max_len: 4096,
    },
    Target {
        name: "certificate_identity",
        run: certificate_identity::run,
        max_len: 4096,
    },
    Target {
        name: "command_body",
        run: command_body::run,
        max_len: 4096,
    },
    Target {
        name: "config",
        run: config::run,
        max_len: 4096,
    },
    Target {
        name: "envelope",
        run: envelope::run,
        max_len: 4096,
    },
    Target {
        name: "manifest",
        run: manifest::run,
        max_len: 2100,
    },
    Target {
        name: "mqtt_client_decode",
        run: mqtt_client_decode::run,
        max_len: 2048,
    },
    Target {
        name: "mqtt_differential",
        run: mqtt_differential::run,
        max_len: 2048,
    },
    Target {
        name: "mqtt_server_decode",
        run: mqtt_server_decode::run,
        max_len: 2048,
    },
];
