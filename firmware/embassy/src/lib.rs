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

const fn decimal(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}
