//! Namespaces and the cables between them.

use std::process::Command;

use crate::{Outcome, shell::read};

pub(crate) const GATEWAY: &str = "10.93.0.1";
/// What the device side calls it; /etc/hosts has the address.
pub(crate) const NAME: &str = "gateway.local";
pub(crate) const OUTSIDE: &str = "192.168.77.2";
pub(crate) const DEVICE: &str = "10.93.0.20";
pub(crate) const ATTACKER: &str = "10.93.0.66";

/// Makes everything; done once per boot.
pub(crate) fn make() -> Outcome {
    let commands = [
        "netns add outside".to_owned(),
        "netns add lan".to_owned(),
        "netns add device".to_owned(),
        "netns add attacker".to_owned(),
        "link add eth0 type veth peer name outside0 netns outside".to_owned(),
        "link add eth1 type veth peer name box0 netns lan".to_owned(),
        "-n lan link add bridge type bridge".to_owned(),
        "-n lan link set box0 master bridge up".to_owned(),
        "-n lan link set bridge up".to_owned(),
        "-n outside link set lo up".to_owned(),
        "-n outside link set outside0 up".to_owned(),
        format!("-n outside addr add {OUTSIDE}/24 dev outside0"),
    ];
    for command in &commands {
        ip(command)?;
    }
    for (name, address) in [("device", DEVICE), ("attacker", ATTACKER)] {
        ip(&format!(
            "-n lan link add {name}0 type veth peer name net0 netns {name}"
        ))?;
        ip(&format!("-n lan link set {name}0 master bridge up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set net0 up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev net0"))?;
        // A way out through the gateway, which it must not be.
        ip(&format!("-n {name} route add default via {GATEWAY}"))?;
    }
    Ok(())
}

fn ip(arguments: &str) -> Outcome {
    read(Command::new("ip").args(arguments.split(' '))).map(drop)
}

/// A program started in a namespace.
pub(crate) fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}
