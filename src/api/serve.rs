//! The API on the network: TLS, its bounds, and an end without cutting anyone off.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Peer, Unstalled, limits::network};
use crate::app::Tasks;

/// What one listener takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections in all; more wait in the listen queue.
    pub connections: usize,
    /// Connections from one address (IPv6: from one /64); more are closed at once.
    pub connections_per_address: u32,
    /// From accepting a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// From the end of the handshake, or of the last answer, to the end of a request's header.
    pub header_timeout: Duration,
    /// A caller that takes nothing of what is written to it for so long is left.
    pub stall_timeout: Duration,
    /// How long connections may go on when the gateway stops.
    pub drain_timeout: Duration,
}

impl Default for Bounds {
    /// Backends are few and keep their connections; strangers are given little.
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_address: 64,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Room for a request's header: every header we read fits into a fraction of it.
const HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Wait after a failed accept: it is the system that is out of something, and not for us alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the gateway stops. Each connection takes the TLS settings that are
/// current when it is accepted.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    router: Router,
    bounds: Bounds,
    tasks: Tasks,
) {
    let stopping = tasks.stopping();
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let addresses = Addresses::new(bounds.connections_per_address);
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((slot, stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = addresses.enter(peer.ip()) else {
            tracing::debug!(%peer, "too many connections to the API from one address");
            continue;
        };
        let connection = Connection {
            stream,
            peer,
            acceptor: TlsAcceptor::from(Arc::clone(&tls.borrow())),
            router: router.clone(),
            bounds,
            stopping: stopping.clone(),
        };
        tasks.connection(async move {
            connection.run().await;
            drop((slot, place));
        });
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    // The semaphore is never closed.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((slot, stream, peer)),
        Err(error) => {
            tracing::warn!(%error, "a connection to the API could not be accepted");
            None
        }
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    bounds: Bounds,
    stopping: CancellationToken,
}

impl Connection {
    async fn run(self) {
        let Self {
            stream,
            peer,
            acceptor,
            router,
            bounds,
            stopping,
        } = self;
        // A hint to the system; without it answers are only later.
        let _ = stream.set_nodelay(true);
        let stream = Unstalled::new(stream, bounds.stall_timeout);
        let stream = tokio::select! {
            () = stopping.cancelled() => return,
            handshake = timeout(bounds.handshake_timeout, acceptor.accept(stream)) => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "TLS handshake with a client of the API failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%peer, "TLS handshake with a client of the API took too long");
                    return;
                }
            },
        };
        let service = TowerToHyperService::new(router.layer(Extension(Peer(peer))));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(HEADER_BYTES)
            .max_headers(MAX_HEADERS);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match timeout(bounds.drain_timeout, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection to the API ended early");
        }
    }
}

/// How many connections each address has.
pub(crate) struct Addresses {
    most: u32,
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// One connection's place in [`Addresses`]; given back when dropped.
pub(crate) struct Place {
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Addresses {
    /// Takes at most so many connections from one address (IPv6: from one /64).
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    /// A place for a connection from this address, if there is one left.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            address,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
