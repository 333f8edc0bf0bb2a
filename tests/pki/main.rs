//! The certificate authority, through its public interface: real handshakes in memory, real
//! files, and openssl as the independent judge of what was issued.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "set-up shared by tests fails the test; clippy.toml allows it in test functions alone"
)]

mod cli;
mod foreign;
mod handshake;
mod identity;
mod openssl;
mod profiles;
mod state;
mod support;
