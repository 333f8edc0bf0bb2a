//! The names and addresses a gateway is reached by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::PkiError;

/// One name or address in the server certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Lower case, without a trailing dot; the leftmost label may be `*`.
    Dns(String),
    Ip(IpAddr),
}

impl Host {
    /// An IP address, or a DNS name of letters, digits and hyphens (RFC 1123, section 2.1).
    ///
    /// # Errors
    /// [`PkiError::BadHost`] for anything else, an address with a port among it.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels = name.strip_prefix("*.").unwrap_or(&name);
        let valid = name.len() <= 253
            && labels.split('.').all(is_label)
            // `192.168.1` or `300.1.1.1` is a mistyped address, not a name.
            && !labels.split('.').next_back().is_some_and(|last| {
                last.bytes().all(|byte| byte.is_ascii_digit())
            });
        if valid {
            Ok(Self::Dns(name))
        } else {
            Err(PkiError::BadHost(super::identity::printable(text)))
        }
    }

    /// What a gateway is called when nobody says: its host name, that name in mDNS, and the
    /// machine itself.
    #[must_use]
    pub fn defaults(hostname: Option<&str>) -> Vec<Self> {
        let mut hosts = Vec::new();
        if let Some(Ok(Self::Dns(name))) = hostname.map(Self::parse)
            && name != "localhost"
        {
            if !name.contains('.') {
                hosts.push(Self::Dns(format!("{name}.local")));
            }
            hosts.push(Self::Dns(name));
        }
        hosts.push(Self::Dns("localhost".into()));
        hosts.push(Self::Ip(Ipv4Addr::LOCALHOST.into()));
        hosts.push(Self::Ip(Ipv6Addr::LOCALHOST.into()));
        hosts
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// Where devices connect to: written into their bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
}

impl Endpoint {
    /// The port registered for MQTT over TLS.
    pub const MQTTS: u16 = 8883;

    /// `HOST`, `HOST:PORT`, `ADDRESS`, or `[ADDRESS]:PORT`; the port is 8883 unless given.
    ///
    /// # Errors
    /// [`PkiError::BadEndpoint`] for anything else.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok(Self {
                host: Host::Ip(address.ip()),
                port: address.port(),
            });
        }
        if let Ok(host) = Host::parse(text) {
            return Ok(Self {
                host,
                port: Self::MQTTS,
            });
        }
        let bad = || PkiError::BadEndpoint(super::identity::printable(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = Host::parse(host).map_err(|_| bad())?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(bad)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}
