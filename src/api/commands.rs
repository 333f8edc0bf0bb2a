//! `/command/…`: sending commands and asking what became of them.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{FromRequest, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tidegate_wire::{DeviceId, MessageId};

use super::{Api, Kind, Problem, gate::Detail, keys::ApiKey, query, timestamp};
use crate::{
    command::{CommandError, CommandStatus, Order},
    registry::Device,
    store::StoreError,
};

/// Commands shown in a list unless asked otherwise, and at most.
const LISTED: u32 = 20;
const MOST_LISTED: u32 = 100;
/// What devices say about outcomes is left out of a list when it is longer than this; it is shown when
/// the one command is asked for.
const MOST_DETAIL: usize = 1024;

/// `POST /command/{device_id}`: 202 once it is on disk.
pub(super) async fn send(
    State(api): State<Arc<Api>>,
    Extension(key): Extension<Arc<ApiKey>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let device = find(&api, &path(id)?)?;
    let ttl = ttl(request.uri().query())?;
    let idempotency_key = idempotency_key(request.headers())?;
    let body = read(request, api.body_bytes).await?;
    let now = api.clock.now().map_err(|untrusted| {
        Problem::new(Kind::Unavailable, untrusted.to_string()).retry_after(10)
    })?;
    let by = key.actor();
    let order = Order {
        body,
        ttl,
        idempotency_key: idempotency_key.as_deref(),
        by: &by,
    };
    let queued = api
        .commands
        .queue(&device, order, now)
        .await
        .map_err(|error| problem(&error))?;
    let answer = json!({ "message_id": queued.message_id.to_string(), "status": "queued" });
    let mut response = (StatusCode::ACCEPTED, Json(answer)).into_response();
    let note = if queued.before {
        "the same order again"
    } else {
        "queued"
    };
    response
        .extensions_mut()
        .insert(Detail(format!("{} {note}", queued.message_id)));
    Ok(response)
}

/// `GET /command/{device_id}/{message_id}`.
pub(super) async fn read_one(
    State(api): State<Arc<Api>>,
    path_parts: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let (id, message_id) = path(path_parts)?;
    let device = find(&api, &id)?;
    let unknown = || {
        let detail = format!(
            "device {} has no such command; commands are kept for 30 days",
            device.id
        );
        Problem::new(Kind::NotFound, detail)
    };
    let message_id: MessageId = message_id.parse().map_err(|_| unknown())?;
    let status = api
        .commands
        .status(device.key, message_id)
        .await
        .map_err(|e| store_problem(&e))?;
    Ok(Json(Shown::of(&status.ok_or_else(unknown)?)).into_response())
}

/// `GET /command/{device_id}?limit=…`: the newest ones, newest first.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let device = find(&api, &path(id)?)?;
    let limit = query::limit(request.uri().query(), LISTED, MOST_LISTED)?;
    let recent = api
        .commands
        .recent(device.key, limit)
        .await
        .map_err(|e| store_problem(&e))?;
    let shown: Vec<Shown> = recent
        .iter()
        .map(|status| {
            let mut shown = Shown::of(status);
            shown.detail = shown
                .detail
                .filter(|detail| detail.get().len() <= MOST_DETAIL);
            shown
        })
        .collect();
    Ok(Json(json!({ "commands": shown })).into_response())
}

/// A command as it is shown. Times are RFC 3339, UTC.
#[derive(Serialize)]
struct Shown {
    message_id: String,
    status: &'static str,
    /// What the device said about the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Box<RawValue>>,
    /// How often it was sent.
    attempts: u32,
    queued_at: String,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
}

impl Shown {
    fn of(status: &CommandStatus) -> Self {
        Self {
            message_id: status.message_id.to_string(),
            status: status.state.as_str(),
            detail: status
                .detail
                .clone()
                .and_then(|detail| RawValue::from_string(detail).ok()),
            attempts: status.attempts,
            queued_at: timestamp(status.queued_at),
            expires_at: timestamp(status.expires_at),
            sent_at: status.sent_at.map(timestamp),
            delivered_at: status.delivered_at.map(timestamp),
            finished_at: status.finished_at.map(timestamp),
        }
    }
}

/// What the path says, decoded.
pub(super) fn path<T>(found: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    found.map(|Path(parts)| parts).map_err(|_| {
        Problem::new(
            Kind::BadRequest,
            "the path is not valid UTF-8 once it is decoded",
        )
    })
}

/// The device of this id, also if it is disabled.
pub(super) fn find(api: &Api, id: &str) -> Result<Arc<Device>, Problem> {
    let device = DeviceId::try_from(id)
        .ok()
        .and_then(|id| api.registry.get(&id));
    device.ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        Problem::new(
            Kind::NotFound,
            format!("there is no device `{shown}`; declare it in the configuration, or add it"),
        )
    })
}

/// The whole body; the router bounds how much that can be.
async fn read(request: Request, most: usize) -> Result<bytes::Bytes, Problem> {
    let too_large = || {
        let detail =
            format!("the body may have {most} bytes at most; send less, or raise api.body_bytes");
        Problem::new(Kind::TooLarge, detail)
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // Refused before any of it is read.
    if announced.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    bytes::Bytes::from_request(request, &())
        .await
        .map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                too_large()
            } else {
                Problem::new(Kind::BadRequest, "the body could not be read to its end")
            }
        })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(Problem::new(
            Kind::BadRequest,
            "send one Idempotency-Key header at most",
        ));
    }
    key.to_str()
        .map(|key| Some(key.to_owned()))
        .map_err(|_| problem(&CommandError::IdempotencyKey))
}

/// `ttl` in seconds, or as `90s`, `2h`, `1day`.
fn ttl(query: Option<&str>) -> Result<Option<Duration>, Problem> {
    let Some(text) = query::value(query, "ttl") else {
        return Ok(None);
    };
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(&text).ok(),
    };
    parsed.map(Some).ok_or_else(|| {
        Problem::new(
            Kind::BadRequest,
            "ttl must be a number of seconds, or a time such as `90s`, `2h` or `7days`",
        )
    })
}

fn problem(error: &CommandError) -> Problem {
    let kind = match error {
        CommandError::NotJson(_) | CommandError::Ttl | CommandError::IdempotencyKey => {
            Kind::BadRequest
        }
        CommandError::TooLarge { .. } => Kind::TooLarge,
        CommandError::Conflict => Kind::IdempotencyConflict,
        CommandError::Disabled(_) => Kind::Disabled,
        CommandError::Unsendable(_) => Kind::NoCommandRoute,
        // A device that is away takes none for a while, so coming back soon helps nobody.
        CommandError::QueueFull(_) => {
            return Problem::new(Kind::QueueFull, error.to_string()).retry_after(30);
        }
        CommandError::NoRandomness => return Problem::internal(error),
        CommandError::Store(error) => return store_problem(error),
    };
    Problem::new(kind, error.to_string())
}

pub(super) fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Full | StoreError::Stopping => {
            Problem::new(Kind::Unavailable, error.to_string()).retry_after(30)
        }
        _ => Problem::internal(error),
    }
}
