//! The demo's backend: what a user's application would be, in sixty lines. It takes every message
//! once per idempotency key, answers, and can be taken away and brought back.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
};

use crate::app::Tasks;

/// A temperature at or above this, in °C, is answered with an alert.
const ALERT_CELSIUS: f64 = 30.0;

/// What the backend has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Distinct idempotency keys: messages that had an effect.
    pub(super) effects: u64,
    /// Deliveries under a key that had been seen: harmless, the key says so.
    pub(super) repeats: u64,
}

#[derive(Debug, Default)]
struct Books {
    keys: HashSet<String>,
    repeats: u64,
}

/// A running backend.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
    up: watch::Sender<bool>,
}

impl Backend {
    /// Binds `address` and starts serving.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(super) fn start(address: SocketAddr, tasks: &Tasks) -> io::Result<Self> {
        let listener = bind(address)?;
        let address = listener.local_addr()?;
        let books = Arc::default();
        let (up, _) = watch::channel(true);
        let backend = Self { address, books, up };
        tasks.spawn(
            "demo backend",
            backend.clone().serve(listener, tasks.clone()),
        );
        Ok(backend)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes the backend away (connections are cut, new ones refused) or brings it back.
    pub(super) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(super) fn seen(&self) -> Seen {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            effects: books.keys.len() as u64,
            repeats: books.repeats,
        }
    }

    async fn serve(self, listener: TcpListener, tasks: Tasks) {
        let router = Router::new()
            .route("/device/{device_id}/data", post(receive))
            .with_state(Arc::clone(&self.books));
        let stopping = tasks.stopping();
        let mut up = self.up.subscribe();
        let mut listener = Some(listener);
        loop {
            let open = *up.borrow_and_update();
            if !open {
                listener = None;
            } else if listener.is_none() {
                listener = bind(self.address).ok();
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = up.changed() => {}
                accepted = accept(listener.as_ref()) => {
                    let Ok((stream, _)) = accepted else { continue };
                    let service = TowerToHyperService::new(router.clone());
                    let (mut up, stopping) = (up.clone(), stopping.clone());
                    tasks.connection(async move {
                        let connection = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service);
                        tokio::select! {
                            _ = connection => {}
                            _ = up.wait_for(|up| !up) => {}
                            () = stopping.cancelled() => {}
                        }
                    });
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// A listener that can be bound again right after it was closed.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn receive(
    State(books): State<Arc<Mutex<Books>>>,
    Path(_device_id): Path<String>,
    headers: HeaderMap,
    Json(payload): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    let key = headers
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok())
        .ok_or(StatusCode::BAD_REQUEST)?;
    let first = {
        let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
        let first = books.keys.insert(key.to_owned());
        if !first {
            books.repeats += 1;
        }
        first
    };
    let hot = payload["temperature"]
        .as_f64()
        .is_some_and(|celsius| celsius >= ALERT_CELSIUS);
    let alert = if hot {
        "temperature high"
    } else {
        "temperature normal"
    };
    Ok(Json(
        json!({ "status": if first { "received" } else { "seen before" }, "alert": alert }),
    ))
}
