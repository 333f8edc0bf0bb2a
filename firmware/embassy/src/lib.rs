//! What the boards that run embassy share: the network stack, the clock, and flash partitions.
//!
//! | module | what it holds |
//! |---|---|
//! | [`network`] | `embassy-net` as the device's network |
//! | [`clock`] | `embassy-time` as its clock |
//! | [`partition`] | one flash, cut into partitions |
//! | [`layout`] | where each partition is |

#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

pub mod clock;
pub mod layout;
pub mod network;
pub mod partition;

pub use clock::EmbassyClock;
pub use network::EmbassyNetwork;
pub use partition::{Partition, PartitionError, Shared};

/// When the image was built, in seconds since 1970.
pub const BUILT_AT: u64 = decimal(env!("TIDEGATE_BUILT_AT"));

/// The firmware's version: what the build was told (`TIDEGATE_VERSION`), else the source's.
pub const VERSION: &str = match option_env!("TIDEGATE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The firmware's security version: what the build was told (`TIDEGATE_SECURITY_VERSION`), else 0.
pub const SECURITY_VERSION: u32 = match option_env!("TIDEGATE_SECURITY_VERSION") {
    Some(number) => decimal(number) as u32,
    None => 0,
};

const fn decimal(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}
