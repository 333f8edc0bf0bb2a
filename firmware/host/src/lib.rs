//! The device on the host: the same app as on the boards, over tokio.
//!
//! | module | what it holds |
//! |---|---|
//! | [`board`], [`flash`], [`pins`] | what the app asks of a board, on the host |
//! | [`bundle`] | what `tidegate pki` issues |
//! | [`firmware`] | what a simulated device is updated with, and what starts it |
//! | `virt_image` | images of QEMU's board; feature `images` |
//! | [`simulate`](mod@simulate) | a whole device |
//! | [`fleet`] | devices side by side in one thread |
//! | `live` | one device to play with; feature `live` |
//! | `load` | thousands of lean devices; feature `load` |

#![warn(missing_docs)]

pub mod board;
pub mod bundle;
pub mod firmware;
pub mod flash;
pub mod fleet;
#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "live")]
pub mod log;
pub mod pins;
pub mod simulate;
#[cfg(feature = "images")]
pub mod virt_image;

pub use board::{Stop, Watcher};
pub use bundle::Bundle;
pub use firmware::{Behaviour, Firmware};
pub use pins::World;
pub use simulate::{Kind, Simulation, SimulationError, Updating, simulate, simulate_updating};
pub use tidegate_app::board::Notice;
pub use tidegate_app::update::Timing;
