//! The HTTPS API for backends: commands in, their outcomes and the gateway's state out.
//!
//! | call | scope | |
//! |---|---|---|
//! | `POST /command/{device_id}` | `command:send` | any JSON value; `?ttl=`, `Idempotency-Key` |
//! | `GET /command/{device_id}/{message_id}` | `command:read` | what became of it |
//! | `GET /command/{device_id}` | `command:read` | the newest, `?limit=` up to 100 |
//! | `GET /devices`, `GET /devices/{id}` | `device:read` | `?after=`, `?limit=` up to 1000 |
//! | `GET /status` | `status:read` | |
//! | `GET /metrics` | `metrics:read` | Prometheus' text format |
//! | `GET /healthz`, `GET /readyz` | none | for watchdogs and load balancers |
//! | `GET /openapi.json` | none | all this for programs |
//!
//! Every call but the last three passes the [`gate`]: a bearer key, its scope and restriction, its rate,
//! and the audit record. Every error is `application/problem+json` ([`Problem`]).
//!
//! [`router`] is the API without a network; [`serve()`] is the network around it.

mod audit;
mod commands;
mod devices;
mod gate;
mod health;
mod keys;
mod limits;
mod problem;
mod query;
mod serve;
mod stall;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::header,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use tidegate_wire::DeviceId;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    clock::{Clock, UnixMillis},
    command::Commands,
    registry::Registry,
};

pub use audit::{Audit, Recorder};
pub use gate::Peer;
pub use health::Health;
pub use keys::{ApiKey, KeyError, Keys, MAX_KEYS, NewKey, Refusal, Restriction, Scope};
pub use problem::{Kind, Problem};
pub(crate) use serve::Addresses;
pub use serve::{Bounds, serve};
pub(crate) use stall::Unstalled;

use gate::Gate;

/// From the end of a request's header to its answer, with the body in between. A group commit takes
/// milliseconds; this is for peers that send their body byte by byte.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the rest of the gateway shows through the API. Called on threads where blocking is allowed,
/// except [`View::connected`].
pub trait View: Send + Sync {
    /// Whether the device has a connection; touches memory only.
    fn connected(&self, device: &DeviceId) -> bool;
    /// The answer to `GET /status`. No secrets.
    fn status(&self) -> serde_json::Value;
    /// The answer to `GET /metrics`, in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// What the API works on.
#[expect(
    missing_debug_implementations,
    reason = "a bag of shared parts, most of them large"
)]
pub struct Parts {
    pub registry: Arc<Registry>,
    pub commands: Commands,
    pub keys: Arc<Keys>,
    pub audit: Audit,
    pub health: Arc<Health>,
    pub clock: Arc<Clock>,
    pub view: Arc<dyn View>,
    /// Calls per second one key may make, with a burst of twice as many.
    pub requests_per_second: u32,
    /// Largest body, in bytes.
    pub body_bytes: usize,
    /// Usually [`REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
}

struct Api {
    registry: Arc<Registry>,
    commands: Commands,
    keys: Arc<Keys>,
    audit: Audit,
    health: Arc<Health>,
    clock: Arc<Clock>,
    view: Arc<dyn View>,
    body_bytes: usize,
    gate: Gate,
}

/// The API. Requests should carry their [`Peer`] as an extension; [`serve()`] sees to that.
pub fn router(parts: Parts) -> Router {
    let Parts {
        registry,
        commands,
        keys,
        audit,
        health,
        clock,
        view,
        requests_per_second,
        body_bytes,
        request_timeout,
    } = parts;
    let gate = Gate::new(requests_per_second);
    let api = Arc::new(Api {
        registry,
        commands,
        keys,
        audit,
        health,
        clock,
        view,
        body_bytes,
        gate,
    });
    let with = |router: Router<Arc<Api>>, (path, calls): Route| router.route(path, calls);
    let gated = gated()
        .into_iter()
        .fold(Router::new(), with)
        .route_layer(middleware::from_fn_with_state(request_timeout, in_time))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), gate::pass));
    open()
        .into_iter()
        .fold(gated, with)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(body_bytes))
        .with_state(api)
}

/// A path and what can be called there.
type Route = (&'static str, MethodRouter<Arc<Api>>);

/// What passes the [`gate`].
fn gated() -> [Route; 6] {
    [
        (
            "/command/{device_id}",
            post(commands::send).get(commands::list),
        ),
        ("/command/{device_id}/{message_id}", get(commands::read_one)),
        ("/devices", get(devices::list)),
        ("/devices/{device_id}", get(devices::read_one)),
        ("/status", get(devices::status)),
        ("/metrics", get(devices::metrics)),
    ]
}

/// What everybody may ask.
fn open() -> [Route; 3] {
    [
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/openapi.json", get(description)),
    ]
}

/// This API as an OpenAPI document.
const DESCRIPTION: &str = include_str!("api/openapi.json");

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "the Allow header says which methods there are",
    )
}

async fn not_found() -> Problem {
    Problem::new(
        Kind::NotFound,
        "there are /command/{device_id}, /devices, /status, /metrics, /healthz, /readyz and /openapi.json, which describes them",
    )
}

async fn in_time(State(most): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(most, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                "the request was not complete in time; repeat it with the same Idempotency-Key";
            Problem::new(Kind::Timeout, detail).into_response()
        }
    }
}

/// RFC 3339, UTC.
fn timestamp(at: UnixMillis) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        // Beyond the year 9999, which no clock that is believed reads.
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
