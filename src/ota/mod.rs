//! Firmware updates: releases, who is to have them, and how they get there.
//!
//! A release is an image and a signed manifest ([`tidegate_wire::manifest`]). [`Shelf`] keeps them: it
//! takes in only what verifies, within a disk budget, and checks everything again when asked.
//! [`Rollout`] says which devices are to have one, and is widened step by step; it pauses by itself
//! when too many of them fail. Which release a device is offered is decided in [`offer()`], one
//! function for whoever asks: the gateway's own server ([`serve`]) on a laptop, or nginx on the
//! appliance, which terminates TLS, asks over a unix socket and sends the file itself
//! ([`nginx`] prints its configuration). How far each device is, it says itself, in signed events,
//! which [`crate::store::updates`] records as they are accepted.

mod audience;
mod desk;
mod error;
mod http;
mod image;
mod metrics;
pub mod nginx;
mod offer;
pub mod serve;
mod shelf;
pub mod signing;
mod trust;

pub use audience::{Progress, Rollout, Standing};
pub use desk::{Checked, Desk, Overview, Step};
pub use error::UpdateError;
pub use http::{Asked, Site, router};
pub use metrics::{Refusals, UpdateMetrics, Why};
pub use offer::{Asking, offer};
pub(crate) use shelf::is_digest;
pub use shelf::{Fault, Shelf, Shelved};
pub use trust::Trust;
