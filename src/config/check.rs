//! What the values mean together: everything that can be said without touching the system.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytesize::ByteSize;

use super::{
    Config, Limits, ListenerMode,
    check_devices::devices,
    check_upstreams::upstreams,
    finding::{Finding, Findings},
    log_filter::log_filter,
    nearest::nearest,
};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
/// Less is used up by the database's own pages and its write-ahead log.
const LEAST_DISK_BUDGET: ByteSize = ByteSize::mib(16);
/// The largest packet MQTT can frame (four bytes of remaining length) is 256 MiB; a gateway that
/// buffers more than this per peer is no gateway.
const LARGEST_PACKET: ByteSize = ByteSize::mib(16);
/// The members of an envelope around an empty payload take about 250 bytes.
const LEAST_MESSAGE: ByteSize = ByteSize::b(512);
/// Shorter and an honest device's clock is never close enough; longer and replay protection has to
/// remember more than it should.
const FRESHNESS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);
/// A peer that may take longer than this to say who it is can hold a slot for nothing.
const LONGEST_GREETING: Duration = Duration::from_secs(120);
/// Every acknowledgement waits this long.
const LONGEST_COMMIT_DELAY: Duration = Duration::from_secs(1);

/// Checks everything that needs no look at the file system; [`super::check_files`] does the rest.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    if !config.state_dir.is_absolute() {
        findings.error(
            "state_dir",
            format!("{} is not an absolute path", config.state_dir.display()),
            "write the whole path, such as /var/lib/tidegate",
        );
    }
    no_store("state_dir", Some(&config.state_dir), &mut findings);
    no_store(
        "master_key_file",
        config.master_key_file.as_deref(),
        &mut findings,
    );
    no_store("pki.dir", config.pki.dir.as_deref(), &mut findings);
    log(&config.log.level, &mut findings);
    hosts(&config.pki.hosts, &mut findings);
    listeners(config, &mut findings);
    limits(&config.limits, &mut findings);
    messages(config, &mut findings);
    storage(config, &mut findings);
    config.updates.check(&mut findings);
    upstreams(config, &mut findings);
    devices(config, &mut findings);
    findings.sorted()
}

/// What is in the Nix store is readable by everybody on the machine, for ever.
pub(super) fn no_store(key: &str, path: Option<&Path>, findings: &mut Findings) {
    if let Some(path) = path.filter(|path| path.starts_with("/nix/store")) {
        findings.error(
            key,
            format!(
                "{} lies in the Nix store, which every user can read",
                path.display()
            ),
            "keep secrets outside it: a file made by sops-nix or agenix, or a systemd credential",
        );
    }
}

/// Names that become labels of metrics, columns of tables and parts of variables.
pub(super) fn name(key: &str, name: &str, findings: &mut Findings) {
    let fits = (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !fits {
        findings.error(
            key,
            format!("{name:?} is not a name"),
            "use 1 to 64 characters of A-Z a-z 0-9 _ -",
        );
    }
}

fn log(level: &str, findings: &mut Findings) {
    let key = "log.level";
    // To the filter's parser a word that is no level is the name of a module.
    let odd = level.split(',').map(str::trim).find(|directive| {
        !directive.contains(['=', '[', ':'])
            && !LEVELS.contains(&directive.to_ascii_lowercase().as_str())
    });
    if let Some(word) = odd {
        let remedy = match nearest(word, LEVELS) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", LEVELS.join(", ")),
        };
        findings.error(key, format!("{word:?} is no log level"), remedy);
    } else if let Err(error) = log_filter(level) {
        findings.error(
            key,
            format!("{level:?} is no filter: {error}"),
            "write a level such as \"info\", or levels by module: \"info,tidegate::front=debug\"",
        );
    }
}

fn hosts(hosts: &[String], findings: &mut Findings) {
    for host in hosts {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let fits = host.parse::<std::net::IpAddr>().is_ok()
            || (host.len() <= 253 && host.trim_start_matches("*.").split('.').all(label));
        if !fits {
            findings.error(
                "pki.hosts",
                format!("{host:?} is neither a host name nor an address"),
                "write names and addresses without scheme or port: [\"gateway.local\", \"10.0.0.5\"]",
            );
        }
    }
}

fn listeners(config: &Config, findings: &mut Findings) {
    if config.listeners.is_empty() {
        findings.error(
            "listeners",
            "there are none, so no device can connect",
            "add one",
        );
    }
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    for (listener_name, listener) in &config.listeners {
        let key = format!("listeners.{listener_name}");
        name(&key, listener_name, findings);
        address(
            &format!("{key}.address"),
            listener.address,
            &mut taken,
            findings,
        );
        if let Some(bytes) = listener.max_fragment_bytes
            && !(512..=16384).contains(&bytes)
        {
            findings.error(
                format!("{key}.max_fragment_bytes"),
                format!("{bytes} is no size of a TLS record"),
                "write 512 to 16384",
            );
        }
        if listener.mode == ListenerMode::Plain {
            findings.warning(
                format!("{key}.mode"),
                "passwords and messages cross the network in the clear",
                "use \"mutual_tls\" or \"server_tls\" once every device can",
            );
        }
    }
    if let Some(api) = config.api.address {
        address("api.address", api, &mut taken, findings);
    }
    if let Some(updates) = config.updates.address.filter(|_| config.updates.enabled()) {
        address("updates.address", updates, &mut taken, findings);
    }
    positive(
        "api.requests_per_second",
        config.api.requests_per_second,
        findings,
    );
}

fn address(
    key: &str,
    address: SocketAddr,
    taken: &mut Vec<(String, SocketAddr)>,
    findings: &mut Findings,
) {
    match address.port() {
        0 => findings.warning(
            key,
            "port 0 is another free port at every start",
            "write the port that devices and backends know",
        ),
        1..1024 => findings.warning(
            key,
            format!("port {} needs a privilege to listen on", address.port()),
            "use a port from 1024 on, or give the service CAP_NET_BIND_SERVICE",
        ),
        _ => {}
    }
    let clash = taken.iter().find(|(_, other)| overlap(*other, address));
    if let Some((other_key, other)) = clash {
        findings.error(
            key,
            format!("{address} is already taken by {other_key} = {other}"),
            "give each its own port or address",
        );
    }
    taken.push((key.to_owned(), address));
}

/// Whether the two cannot be listened on at once. `[::]` takes IPv4 as well.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, narrow: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
}

pub(super) fn positive(key: &str, number: impl Into<u64>, findings: &mut Findings) {
    if number.into() == 0 {
        findings.error(key, "0 would let nothing through", "write at least 1");
    }
}

pub(super) fn positive_duration(key: &str, duration: Duration, findings: &mut Findings) {
    if duration.is_zero() {
        findings.error(
            key,
            "must be longer than nothing",
            "write a duration such as \"10s\"",
        );
    }
}

fn limits(limits: &Limits, findings: &mut Findings) {
    for (key, number) in [
        ("connections", limits.connections),
        ("connections_per_address", limits.connections_per_address),
        ("handshakes", limits.handshakes),
        ("messages_per_second", limits.messages_per_second),
        ("message_burst", limits.message_burst),
        ("in_flight", limits.in_flight.into()),
        ("subscriptions", limits.subscriptions),
        ("queued_messages", limits.queued_messages),
        ("sessions_per_identity", limits.sessions_per_identity),
        ("retained_messages", limits.retained_messages),
        ("topics_per_identity", limits.topics_per_identity),
    ] {
        positive(&format!("limits.{key}"), number, findings);
    }
    for (key, duration) in [
        ("handshake_timeout", limits.handshake_timeout),
        ("connect_timeout", limits.connect_timeout),
    ] {
        let key = format!("limits.{key}");
        positive_duration(&key, duration, findings);
        if duration > LONGEST_GREETING {
            findings.error(
                key,
                format!(
                    "{} lets strangers hold connections",
                    humantime::format_duration(duration)
                ),
                "write at most \"2m\"",
            );
        }
    }
    positive_duration("limits.session_expiry", limits.session_expiry, findings);
    if limits.session_expiry.as_secs() >= u64::from(u32::MAX) {
        findings.error(
            "limits.session_expiry",
            "is longer than MQTT can say (136 years)",
            "write a duration such as \"7d\"",
        );
    }
    if limits.connections_per_address > limits.connections {
        findings.warning(
            "limits.connections_per_address",
            format!(
                "{} is more than limits.connections = {}, so one address can take them all",
                limits.connections_per_address, limits.connections
            ),
            "write fewer",
        );
    }
}

/// Sizes that have to fit into each other, and freshness.
fn messages(config: &Config, findings: &mut Findings) {
    let (packet, message) = (
        config.limits.packet_bytes,
        config.verification.message_bytes,
    );
    if packet > LARGEST_PACKET {
        findings.error(
            "limits.packet_bytes",
            format!("{packet} per peer is more than the gateway takes"),
            "write at most \"16 MiB\"",
        );
    }
    if message < LEAST_MESSAGE {
        findings.error(
            "verification.message_bytes",
            format!("{message} holds no signed message"),
            "write at least 512 bytes; \"64 KiB\" is usual",
        );
    }
    if message > packet {
        findings.error(
            "verification.message_bytes",
            format!("{message} is more than limits.packet_bytes = {packet} lets in"),
            "make limits.packet_bytes larger or this smaller",
        );
    }
    let body = config.api.body_bytes;
    positive("api.body_bytes", body.as_u64(), findings);
    if body > packet {
        findings.error(
            "api.body_bytes",
            format!("a command of {body} does not fit into limits.packet_bytes = {packet}"),
            "write a smaller size here",
        );
    }
    let queued = config.limits.queued_bytes;
    if queued < packet {
        findings.error(
            "limits.queued_bytes",
            format!("{queued} cannot hold one packet of limits.packet_bytes = {packet}"),
            "write at least that",
        );
    }
    let freshness = config.verification.freshness;
    if !FRESHNESS.contains(&freshness) {
        findings.error(
            "verification.freshness",
            format!(
                "{} is outside of 1s to 1h",
                humantime::format_duration(freshness)
            ),
            "write a duration in between; \"5m\" is usual",
        );
    }
}

fn storage(config: &Config, findings: &mut Findings) {
    let storage = &config.storage;
    if storage.disk_budget < LEAST_DISK_BUDGET {
        findings.error(
            "storage.disk_budget",
            format!("{} is too little for a database", storage.disk_budget),
            "write at least \"16 MiB\"",
        );
    }
    if let Some(max_age) = storage.max_age {
        positive_duration("storage.max_age", max_age, findings);
    }
    if storage.commit_delay > LONGEST_COMMIT_DELAY {
        let delay = humantime::format_duration(storage.commit_delay);
        findings.error(
            "storage.commit_delay",
            format!("every acknowledgement would wait {delay}"),
            "write a few milliseconds, or \"0s\"",
        );
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
