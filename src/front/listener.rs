//! Accepting connections. Nothing a peer does here makes another wait: the accept loop only accepts.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Shared,
    admission::Admitted,
    connect::{self, Arrival},
    directory::Principal,
    housekeeping,
    metrics::HandshakeFailure,
    tls,
};
use crate::{
    app::Tasks,
    config::{self, ListenerMode},
    pki::{CredentialsError, Identity, Peer},
};

/// Connections the system may complete before we take them: a fleet that comes back at once.
const BACKLOG: u32 = 4_096;
/// Waits after an error of accept, such as no more file descriptors.
const BACK_OFF: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listener {name}: cannot listen on {address}: {source}; is another program using it?")]
    Bind {
        name: String,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("listener {name}: {source}")]
    Credentials {
        name: String,
        source: CredentialsError,
    },
}

/// A listener with its socket open.
#[derive(Debug)]
pub struct Bound {
    name: String,
    socket: TcpListener,
    config: config::Listener,
}

impl Bound {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn mode(&self) -> ListenerMode {
        self.config.mode
    }

    /// The address it has, with the port the system chose if none was given.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Opens the listeners' sockets. Call it inside the runtime.
///
/// # Errors
/// [`BindError::Bind`].
pub fn bind(listeners: &BTreeMap<String, config::Listener>) -> Result<Vec<Bound>, BindError> {
    let bind = |(name, config): (&String, &config::Listener)| {
        let address = config.address;
        let socket = open(address).map_err(|source| BindError::Bind {
            name: name.clone(),
            address,
            source,
        })?;
        Ok(Bound {
            name: name.clone(),
            socket,
            config: config.clone(),
        })
    };
    listeners.iter().map(bind).collect()
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Starts the front: a task per listener and the housekeeping. Connections are accepted from here on.
///
/// # Errors
/// [`BindError::Credentials`] if the credentials do not make a TLS configuration.
pub fn run(bound: Vec<Bound>, shared: &Arc<Shared>, tasks: &Tasks) -> Result<(), BindError> {
    for bound in bound {
        let credentials = shared.credentials.borrow().clone();
        let config = tls::configure(&credentials, &bound.config).map_err(|source| {
            BindError::Credentials {
                name: bound.name.clone(),
                source,
            }
        })?;
        announce(&bound);
        tasks.spawn(
            "listener",
            accept(bound, config, shared.clone(), tasks.clone()),
        );
    }
    tasks.spawn("front housekeeping", housekeeping::keep(shared.clone()));
    tasks.spawn("front watch", housekeeping::watch(shared.clone()));
    Ok(())
}

/// Says what is open, and loudly where it is less than it should be.
fn announce(bound: &Bound) {
    let (name, address) = (&bound.name, bound.config.address);
    match bound.config.mode {
        ListenerMode::MutualTls => {
            tracing::info!(%name, %address, "listening for MQTT over mutual TLS");
        }
        ListenerMode::ServerTls => tracing::warn!(
            %name, %address,
            "listening WITHOUT CLIENT CERTIFICATES: devices here prove themselves by a password only"
        ),
        ListenerMode::Plain => tracing::warn!(
            %name, %address,
            "listening WITHOUT ENCRYPTION: passwords and messages can be read by anybody on the way; meant for migrations only"
        ),
    }
}

async fn accept(
    bound: Bound,
    mut config: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    tasks: Tasks,
) {
    let mut credentials = shared.credentials.clone();
    credentials.mark_unchanged();
    let mut back_off = BACK_OFF;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            Ok(()) = credentials.changed() => {
                let fresh = credentials.borrow_and_update().clone();
                match tls::configure(&fresh, &bound.config) {
                    Ok(fresh) => config = fresh,
                    // What there was goes on being used.
                    Err(error) => tracing::error!(
                        name = %bound.name, %error, "the new credentials cannot be used"
                    ),
                }
                continue;
            }
            accepted = bound.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                back_off = BACK_OFF;
                let Some(admitted) = Admitted::new(&shared, peer.ip()) else {
                    shared.metrics.connections_refused.increment();
                    continue;
                };
                let acceptor = config.clone().map(TlsAcceptor::from);
                let (shared, mode) = (shared.clone(), bound.config.mode);
                tasks.connection(async move {
                    welcome(shared, stream, peer.ip(), acceptor, mode).await;
                    drop(admitted);
                });
            }
            Err(error) => {
                shared.metrics.accept_errors.increment();
                if is_about_one_connection(&error) {
                    continue;
                }
                tracing::warn!(name = %bound.name, %error, "no connection can be accepted for now");
                sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

/// A connection that ended before it was accepted says nothing about the next.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// From TCP to MQTT.
async fn welcome(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: IpAddr,
    acceptor: Option<TlsAcceptor>,
    mode: ListenerMode,
) {
    // Acknowledgements are small and awaited; it fails only if the peer is gone already.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        let arrival = Arrival {
            io: stream,
            address,
            certificate: None,
            principal: None,
        };
        return Box::pin(connect::serve(shared, arrival)).await;
    };
    let greeted = Box::pin(greet(&shared, stream, acceptor, mode)).await;
    match greeted {
        Ok((io, certificate, principal)) => {
            let arrival = Arrival {
                io,
                address,
                certificate,
                principal,
            };
            Box::pin(connect::serve(shared, arrival)).await;
        }
        Err(Failed { cause, text }) => {
            shared.metrics.handshake_failed(cause).increment();
            if let Some(left_out) = shared.may_log_handshake() {
                tracing::info!(
                    %address, cause = cause.code(), why = %text, left_out, "TLS handshake failed"
                );
            }
        }
    }
}

/// A handshake that did not end in a connection.
struct Failed {
    cause: HandshakeFailure,
    text: String,
}

impl Failed {
    fn new(cause: HandshakeFailure, text: &impl ToString) -> Self {
        Self {
            cause,
            text: text.to_string(),
        }
    }
}

type Greeted = (TlsStream<TcpStream>, Option<Peer>, Option<Principal>);

async fn greet(
    shared: &Shared,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    mode: ListenerMode,
) -> Result<Greeted, Failed> {
    // Certificates' dates mean nothing while ours does not.
    let now = shared
        .clock
        .now()
        .map_err(|error| Failed::new(HandshakeFailure::ClockUntrusted, &error))?;
    let handshake = async {
        // A peer that says nothing takes no place among those that do.
        stream.readable().await?;
        let _place = shared.admission.handshakes.acquire().await;
        acceptor.accept(stream).await
    };
    let io = match timeout(shared.limits.handshake_timeout, handshake).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return Err(Failed::new(tls::cause(&error), &error)),
        Err(late) => return Err(Failed::new(HandshakeFailure::Timeout, &late)),
    };
    let session = io.get_ref().1;
    shared.metrics.handshakes.increment();
    if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
        shared.metrics.handshakes_resumed.increment();
    }
    if mode != ListenerMode::MutualTls {
        return Ok((io, None, None));
    }
    let peer = shared
        .credentials
        .borrow()
        .peer(session.peer_certificates(), tls::utc(now))
        .map_err(|error| Failed::new(tls::refusal(&error), &error))?;
    let principal = identify(shared, &peer.identity)?;
    Ok((io, Some(peer), Some(principal)))
}

/// Who of those we know the certificate stands for.
fn identify(shared: &Shared, identity: &Identity) -> Result<Principal, Failed> {
    let name = match identity {
        Identity::Operator(name) => return Ok(Principal::Operator(name.as_str().into())),
        Identity::Device(name) => name,
    };
    let id = name
        .parse()
        .map_err(|error| Failed::new(HandshakeFailure::BadIdentity, &error))?;
    match shared.registry.get(&id) {
        Some(device) if device.enabled => Ok(Principal::Device(id)),
        Some(_) => Err(Failed::new(
            HandshakeFailure::DisabledDevice,
            &format!("device {id} is disabled"),
        )),
        None => Err(Failed::new(
            HandshakeFailure::UnknownDevice,
            &format!("no device {id} is known"),
        )),
    }
}
