//! Whether the gateway is alive, and whether it can do its work.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::Api;
use crate::clock::Clock;

/// A commit older than this says that the writer no longer commits. The probe commits every few
/// seconds; a slow SD card can take some of them for one.
const COMMIT_OVERDUE: Duration = Duration::from_secs(30);

/// What the parts of the gateway report about themselves. Share it through an [`Arc`].
#[derive(Debug)]
pub struct Health {
    clock: Arc<Clock>,
    listening: AtomicBool,
    stopping: AtomicBool,
    committed: Mutex<Option<Instant>>,
}

impl Health {
    #[must_use]
    pub fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            listening: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            committed: Mutex::new(None),
        }
    }

    /// Every listener is bound.
    pub fn listening(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// The gateway is stopping: nothing new should be sent its way.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The writer committed something, if only a probe.
    pub fn committed(&self, now: Instant) {
        *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether the writer committed lately.
    #[must_use]
    pub fn commits(&self, now: Instant) -> bool {
        let committed = *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        committed.is_some_and(|at| now.saturating_duration_since(at) <= COMMIT_OVERDUE)
    }

    /// Why the gateway is not ready; empty if it is. Each line tells an operator where to look.
    #[must_use]
    pub fn reasons(&self, now: Instant) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stopping.load(Ordering::Relaxed) {
            reasons.push("the gateway is stopping".to_owned());
        }
        if !self.listening.load(Ordering::Relaxed) {
            reasons.push("not every listener is bound yet".to_owned());
        }
        match *self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
        {
            None => reasons.push("the database has not committed anything yet".to_owned()),
            Some(at) if now.saturating_duration_since(at) > COMMIT_OVERDUE => {
                let since = now.saturating_duration_since(at).as_secs();
                reasons.push(format!(
                    "the database has not committed for {since} s; is the disk full or failing?"
                ));
            }
            Some(_) => {}
        }
        if let Err(untrusted) = self.clock.now() {
            reasons.push(untrusted.to_string());
        }
        reasons
    }
}

/// The process answers.
pub(super) async fn healthz() -> impl IntoResponse {
    Json(json!({ "status": "alive" }))
}

/// The process can do its work.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let reasons = api.health.reasons(Instant::now());
    if reasons.is_empty() {
        (StatusCode::OK, Json(json!({ "status": "ready" })))
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "not ready", "reasons": reasons })),
        )
    }
}
