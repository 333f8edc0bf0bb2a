//! Builds the daemon and runs it: every task and thread is started here, and drained here.

mod tasks;

pub use tasks::{Ended, Tasks};
