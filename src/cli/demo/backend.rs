//! The demo's backend: what a user's application would be, in sixty lines. It takes every message
//! once per idempotency key, answers, and can be taken away and brought back.

use std::{
    collections::{HashSet, VecDeque},
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

/// Keys remembered, a few MB of them: a delivery is repeated within seconds, or after an outage while
/// little else was delivered, never after so many others.
const MAX_KEYS: usize = 16_384;

/// Longest key taken, in bytes; the gateway's have up to 101.
const MAX_KEY: usize = 128;

#[derive(Debug, Default)]
struct Books {
    keys: HashSet<Box<str>>,
    /// The same, oldest first.
    order: VecDeque<Box<str>>,
    seen: Seen,
}

impl Books {
    /// Whether this key is new.
    fn note(&mut self, key: &str) -> bool {
        if self.keys.contains(key) {
            self.seen.repeats += 1;
            return false;
        }
        if self.order.len() == MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.keys.insert(key.into());
        self.order.push_back(key.into());
        self.seen.effects += 1;
        true
    }
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
        books.seen
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
    // A key longer than any that the gateway makes would cost more than its share of memory.
    let key = Some(key)
        .filter(|key| key.len() <= MAX_KEY)
        .ok_or(StatusCode::BAD_REQUEST)?;
    let first = books
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .note(key);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_has_no_effect_and_memory_is_bounded() {
        let mut books = Books::default();
        for number in 0..3 * MAX_KEYS {
            let key = format!("{number:032x}");
            assert!(books.note(&key));
            assert!(!books.note(&key), "at once");
            let recent = format!("{:032x}", number.saturating_sub(MAX_KEYS - 1));
            assert!(!books.note(&recent), "and while it is remembered");
        }
        assert_eq!((books.keys.len(), books.order.len()), (MAX_KEYS, MAX_KEYS));
        assert_eq!(books.seen.effects, 3 * MAX_KEYS as u64);
        assert_eq!(books.seen.repeats, 6 * MAX_KEYS as u64);
    }
}
