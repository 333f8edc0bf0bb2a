//! Tidegate: a secure IoT gateway.
//!
//! Devices speak MQTT over mutual TLS. Every message is signed, fresh and unrepeatable or it is
//! refused; what is accepted is on disk before it is acknowledged, reaches the backend however long
//! the way there is cut, and commands come back signed.
//!
//! # The way of a message
//!
//! 1. [`front`] accepts the connection, takes the identity from the peer certificate ([`pki`]) and
//!    speaks MQTT with the device ([`tidegate_mqtt`] is the codec).
//! 2. [`envelope`] turns the bytes of a PUBLISH into a [`envelope::Verified`] message, asking
//!    [`registry`] for the device's secret and rights. It is the only place that can.
//! 3. [`store`] commits it, together with what [`replay`] must remember, and only then does the
//!    front acknowledge it.
//! 4. [`outbox`] knows what is owed to which upstream; [`forward`] delivers it, one file per kind
//!    of upstream, and hands the reply back to the device through the front.
//! 5. [`command`] is the way back: [`api`] takes commands for devices, durable before they are
//!    answered, signed when they are sent.
//!
//! Topics outside the contract are matched and fanned out by [`broker`]. Firmware gets to devices by a
//! way of its own: [`ota`] keeps signed releases and says who is to have which.
//!
//! # Around it
//!
//! [`app`] builds all of it and starts every task; [`config`] says how; [`control`] is the local
//! socket that the subcommands in [`cli`] use to talk to a running gateway; [`clock`] decides
//! whether time can be trusted; [`seal`] keeps secrets unreadable at rest; [`metrics`] counts.

pub mod api;
pub mod app;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod control;
pub mod envelope;
pub mod forward;
pub mod front;
pub mod metrics;
pub mod ota;
pub mod outbox;
pub mod pki;
pub mod registry;
pub mod replay;
pub mod seal;
pub mod store;
pub mod trace;
