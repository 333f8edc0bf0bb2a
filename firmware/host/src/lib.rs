//! The device on the host: the same app as on the boards, over tokio.
//!
//! | module | what it holds |
//! |---|---|
//! | [`board`], [`flash`], [`pins`] | what the app asks of a board, on the host |
//! | [`bundle`] | what `tidegate pki` issues |
//! | [`firmware`] | what a simulated device is updated with, and what starts it |
//! | [`virt_image`](mod@virt_image) | images of QEMU's board |
//! | [`simulate`](mod@simulate) | a whole device |
//! | [`live`] | one device to play with |

#![warn(missing_docs)]

pub mod board;
pub mod bundle;
pub mod firmware;
pub mod flash;
pub mod live;
pub mod load;
pub mod log;
pub mod pins;
pub mod simulate;
pub mod virt_image;

pub use board::Stop;
pub use bundle::Bundle;
pub use firmware::{Behaviour, Firmware};
pub use pins::World;
pub use simulate::{Kind, Simulation, Updating, simulate, simulate_updating};
