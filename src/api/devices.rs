//! `/devices…`, `/status` and `/metrics`: looking at the gateway.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{
    Api, Kind, Problem,
    commands::{find, path},
    keys::ApiKey,
    query, timestamp,
};
use crate::{config::Signing, registry::Device};

/// Devices shown on one page unless asked otherwise, and at most.
const LISTED: u32 = 100;
const MOST_LISTED: u32 = 1_000;

/// A device as it is shown: nothing of its credentials but whether there are any.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_reason: Option<&'a str>,
    /// From the configuration; otherwise added at run time.
    declared: bool,
    connected: bool,
    signing: Signing,
    has_secret: bool,
    has_password: bool,
    messages_per_second: u32,
    groups: &'a [String],
    /// When its last message was accepted; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
}

impl<'a> Shown<'a> {
    fn of(device: &'a Device, api: &Api) -> Self {
        Self {
            id: device.id.as_str(),
            enabled: device.enabled,
            blocked_reason: device.blocked_reason.as_deref(),
            declared: device.declared,
            connected: api.view.connected(&device.id),
            signing: device.signing,
            has_secret: device.secret.is_some(),
            has_password: device.has_password,
            messages_per_second: device.rate.per_second,
            groups: &device.groups,
            last_seen: device.seen.at().map(timestamp),
        }
    }
}

/// `GET /devices?after=…&limit=…`: sorted by id, a page at a time.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(key): Extension<Arc<ApiKey>>,
    request: Request,
) -> Result<Response, Problem> {
    let query = request.uri().query();
    let limit = query::limit(query, LISTED, MOST_LISTED)? as usize;
    let after = query::value(query, "after").unwrap_or_default();
    let mut devices = api.registry.all();
    devices.retain(|device| device.id.as_str() > after.as_str() && key.reaches(device));
    devices.sort_unstable_by_key(|device| device.id);
    let more = devices.len() > limit;
    devices.truncate(limit);
    let next = devices
        .last()
        .filter(|_| more)
        .map(|device| device.id.to_string());
    let shown: Vec<Shown<'_>> = devices
        .iter()
        .map(|device| Shown::of(device, &api))
        .collect();
    Ok(Json(json!({ "devices": shown, "next": next })).into_response())
}

/// `GET /devices/{id}`.
pub(super) async fn read_one(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let device = find(&api, &path(id)?)?;
    Ok(Json(Shown::of(&device, &api)).into_response())
}

/// `GET /status`.
pub(super) async fn status(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let view = Arc::clone(&api.view);
    Ok(Json(off_the_runtime(move || view.status()).await?).into_response())
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let view = Arc::clone(&api.view);
    let text = off_the_runtime(move || view.metrics()).await?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

/// Runs what may read the database on a thread where blocking is allowed.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::new(Kind::Unavailable, "the gateway is stopping").retry_after(30))
}
