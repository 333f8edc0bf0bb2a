//! The device on the host.
