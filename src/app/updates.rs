//! The update server: what it listens on, and its start.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, sync::watch};

use super::{Gateway, StartError, Tasks};
use crate::{
    config::Config,
    control::answer::Listener,
    ota::{
        Desk, Shelf, Site, Trust, router,
        serve::{self, Bounds, Socket},
    },
    pki::Credentials,
    registry::Registry,
    store::Store,
};

/// What is open for devices that want updates; nothing without a release key.
#[derive(Default)]
pub(super) struct Updates {
    devices: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    nginx: Option<Socket>,
}

impl Updates {
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let devices = self.devices.iter().map(|(listener, _)| Listener {
            name: "updates".to_owned(),
            address: listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string()),
            mode: "mutual_tls".to_owned(),
        });
        let nginx = self.nginx.iter().map(|socket| Listener {
            name: "updates for nginx".to_owned(),
            address: socket.path().display().to_string(),
            mode: "unix".to_owned(),
        });
        devices.chain(nginx).collect()
    }
}

/// Opens the sockets.
pub(super) async fn open(
    config: &Config,
    credentials: &Credentials,
) -> Result<Updates, StartError> {
    let updates = &config.updates;
    if !updates.enabled() {
        return Ok(Updates::default());
    }
    let failed =
        |address: String| move |source: io::Error| StartError::UpdateServer { address, source };
    let devices = match updates.address {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let tls = serve::tls_config(credentials).map_err(StartError::Updates)?;
            Some((listener.map_err(failed(address.to_string()))?, tls))
        }
        None => None,
    };
    let nginx = updates
        .socket
        .as_ref()
        .map(|path| Socket::bind(path).map_err(failed(path.display().to_string())))
        .transpose()?;
    Ok(Updates { devices, nginx })
}

/// Releases in the hands of operators.
pub(super) fn desk(config: &Config, store: &Store, registry: &Arc<Registry>) -> Desk {
    Desk::new(
        store.clone(),
        Arc::clone(registry),
        Arc::new(Shelf::of(config)),
        config.updates.keys(),
        usize::try_from(config.updates.keep).unwrap_or(usize::MAX),
    )
}

/// Starts serving.
pub(super) fn start(
    open: Updates,
    gateway: &Arc<Gateway>,
    config: &Config,
    credentials: &watch::Receiver<Arc<Credentials>>,
    tasks: &Tasks,
) {
    let updates = &config.updates;
    let bounds = Bounds {
        connections: usize::try_from(updates.connections).unwrap_or(usize::MAX),
        connections_per_address: updates.connections_per_address,
        handshake_timeout: config.limits.handshake_timeout,
        stall_timeout: updates.stall_timeout,
    };
    let site = Arc::new(Site {
        registry: Arc::clone(&gateway.registry),
        store: gateway.store.clone(),
        clock: Arc::clone(&gateway.clock),
        credentials: credentials.clone(),
        shelf: Arc::clone(gateway.desk.shelf()),
        trust: Trust::new(gateway.desk.keys().to_vec()),
        bytes_per_second: updates.bytes_per_second.as_u64(),
        retry_after: updates.retry_after,
        downloads: Mutex::new(HashMap::new()),
        metrics: Arc::clone(&gateway.update_metrics),
    });
    if let Some((listener, tls)) = open.devices {
        let (router, credentials) = (router(Arc::clone(&site)), credentials.clone());
        let serving = serve::devices(listener, tls, credentials, router, bounds, tasks.clone());
        tasks.spawn("update server", serving);
    }
    if let Some(socket) = open.nginx {
        let serving = serve::nginx(socket, router(site), bounds, tasks.clone());
        tasks.spawn("update server for nginx", serving);
    }
}
