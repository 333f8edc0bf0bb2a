//! Builds the daemon and runs it: every task and thread is started here, and drained here.

pub mod notify;
mod tasks;

pub use tasks::{Ended, Tasks};
