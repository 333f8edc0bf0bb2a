//! Mosquitto with the same certificates: mutual TLS, no persistence, no checks.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Fallible,
    fleet::Fleet,
    place::{Place, free_address},
    process::Server,
};

#[derive(Debug)]
pub(crate) struct Mosquitto {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    /// Without TLS, for the script.
    pub(crate) plain: SocketAddr,
}

impl Mosquitto {
    pub(crate) fn start(place: &Place, fleet: &Fleet) -> Fallible<Self> {
        let folder = place.fresh("mosquitto")?;
        let (address, plain) = (free_address()?, free_address()?);
        // The root is enough to trust: devices send their own authority's certificate along.
        let mut text = String::from(
            "persistence false\nlog_dest stderr\nlog_type error\nlog_type warning\nuser root\n\
             per_listener_settings true\nset_tcp_nodelay true\nmax_queued_messages 0\n\
             max_inflight_messages 65535\nsys_interval 0\n",
        );
        write!(
            text,
            "\nlistener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n\
             allow_anonymous false\n",
            address.port(),
            fleet.root().display(),
            fleet.pki.join("server.crt").display(),
            fleet.pki.join("server.key").display(),
        )?;
        write!(
            text,
            "\nlistener {} 127.0.0.1\nallow_anonymous true\n",
            plain.port()
        )?;
        let config = folder.join("mosquitto.conf");
        fs::write(&config, text)?;
        let log = folder.join("log");
        let mut server =
            Server::start(Command::new(&place.mosquitto).arg("-c").arg(&config), &log)?;
        wait_for(address, &mut server, &log)?;
        Ok(Self {
            server,
            address,
            plain,
        })
    }
}

/// Until something listens.
pub(crate) fn wait_for(address: SocketAddr, server: &mut Server, log: &Path) -> Fallible<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        server.alive(log)?;
        if Instant::now() > deadline {
            return Err(format!("nothing listens on {address}; see {}", log.display()).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
