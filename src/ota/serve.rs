//! Serving updates: over TLS to devices, or over a unix socket to nginx.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Asked;
use crate::{
    api::{Addresses, Unstalled},
    app::Tasks,
    pki::{ClientAuth, Credentials, CredentialsError, TlsOptions, credentials::server_config},
};

/// What one listener takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; more wait in the listen queue.
    pub connections: usize,
    /// Connections from one address; more are closed at once.
    pub connections_per_address: u32,
    pub handshake_timeout: Duration,
    /// A peer that takes nothing of what is written to it for so long is left.
    pub stall_timeout: Duration,
}

/// From the end of the handshake, or of the last answer, to the end of a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest life of a connection: at 2 KiB a second it is still an image of 7 MB, and whoever reads a
/// byte now and then holds a place for an hour at most.
const LIFE: Duration = Duration::from_secs(3600);
/// How long a connection may go on when the gateway stops: the rest of an image can be asked for later.
const DRAIN: Duration = Duration::from_secs(2);
/// nginx hands over a certificate of up to 4 KiB, percent-encoded.
const HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// Wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A unix socket that goes with its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Opens the socket, for its owner and for the group of the folder it is in.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::AlreadyExists`] if something else than an old socket is there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What is left is found to be old at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// The TLS settings of the update server: those of the front's listeners, and HTTP.
///
/// # Errors
/// When the credentials make none.
pub fn tls_config(
    credentials: &Credentials,
) -> Result<Arc<rustls::ServerConfig>, CredentialsError> {
    let options = TlsOptions {
        alpn: vec![b"http/1.1".to_vec()],
        ..TlsOptions::default()
    };
    server_config(credentials, ClientAuth::Required, &options).map(Arc::new)
}

/// Serves devices over mutual TLS until the gateway stops.
pub async fn devices(
    listener: TcpListener,
    mut tls: Arc<rustls::ServerConfig>,
    mut credentials: watch::Receiver<Arc<Credentials>>,
    router: Router,
    bounds: Bounds,
    tasks: Tasks,
) {
    let stopping = tasks.stopping();
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let addresses = Addresses::new(bounds.connections_per_address);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            Ok(()) = credentials.changed() => {
                let fresh = credentials.borrow_and_update().clone();
                match tls_config(&fresh) {
                    Ok(fresh) => tls = fresh,
                    Err(error) => tracing::error!(%error, "the update server keeps its former certificate"),
                }
                continue;
            }
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the update server could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = addresses.enter(peer.ip()) else {
            tracing::debug!(%peer, "too many connections to the update server from one address");
            continue;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls));
        let (router, stopping) = (router.clone(), stopping.clone());
        tasks.connection(async move {
            device(stream, acceptor, router, bounds, &stopping).await;
            drop((slot, place));
        });
    }
}

async fn device(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    bounds: Bounds,
    stopping: &CancellationToken,
) {
    // A hint to the system; without it answers are only later.
    let _ = stream.set_nodelay(true);
    let stream = Unstalled::new(stream, bounds.stall_timeout);
    let greeted = tokio::select! {
        () = stopping.cancelled() => return,
        greeted = timeout(bounds.handshake_timeout, acceptor.accept(stream)) => greeted,
    };
    let stream = match greeted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake with a device that wants updates failed");
            return;
        }
        Err(_) => {
            tracing::debug!("TLS handshake with a device that wants updates took too long");
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(<[_]>::first).cloned();
    let leaf = leaf.map(rustls::pki_types::CertificateDer::into_owned);
    converse(stream, router.layer(Extension(Asked::Here(leaf))), stopping).await;
}

/// Answers nginx until the gateway stops.
pub async fn nginx(socket: Socket, router: Router, bounds: Bounds, tasks: Tasks) {
    let stopping = tasks.stopping();
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let router = router.layer(Extension(Asked::Nginx));
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, socket.listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => Unstalled::new(stream, bounds.stall_timeout),
            Err(error) => {
                tracing::warn!(%error, "nginx could not be answered");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        tasks.connection(async move {
            converse(stream, router, &stopping).await;
            drop(slot);
        });
    }
}

/// HTTP on one connection.
async fn converse<S>(stream: S, router: Router, stopping: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = timeout(LIFE, connection.as_mut()) => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(DRAIN, connection).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a connection to the update server ended early");
    }
}
