//! The certificate authority, through its public interface: real handshakes in memory, real
//! files, and openssl as the independent judge of what was issued.

mod cli;
mod foreign;
mod handshake;
mod identity;
mod openssl;
mod profiles;
mod state;
mod support;
