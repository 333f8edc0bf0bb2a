//! The half of the test that runs inside the Debian guest.
//!
//! Around the box are namespaces: `outside` on its management interface (backend, time server, DHCP
//! server), and on its device network, joined by a bridge in `lan`, `device` and `attacker`.

mod around;
mod backup;
mod device;
mod flow;
mod network;
mod story;
mod updates;

use clap::Subcommand;

pub(crate) use device::sign;

use crate::Outcome;

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Make the namespaces and the cables between them
    Network,
    /// Be the backend, the time server and the DHCP server
    Around,
    /// Be the backend, in the namespace this is started in
    Backend,
    /// Go through the whole flow and report on the second serial line
    Flow,
}

pub(crate) fn run(command: GuestCommand) -> Outcome {
    match command {
        GuestCommand::Network => network::make(),
        GuestCommand::Around => around::run(),
        GuestCommand::Backend => around::backend(),
        GuestCommand::Flow => flow::run(),
    }
}
