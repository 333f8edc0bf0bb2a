//! Errors as `application/problem+json` (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Why a request was not granted, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u64>,
}

/// Every kind of problem the API answers with. The `type` member is `urn:tidegate:problem:` and the
/// kind's name; programs tell problems apart by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    Disabled,
    NoCommandRoute,
    TooLarge,
    IdempotencyConflict,
    TooManyRequests,
    QueueFull,
    Internal,
    Unavailable,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::Disabled,
        Self::NoCommandRoute,
        Self::TooLarge,
        Self::IdempotencyConflict,
        Self::TooManyRequests,
        Self::QueueFull,
        Self::Internal,
        Self::Unavailable,
    ];

    /// What programs tell it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.parts().0
    }

    const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => (
                "bad-request",
                StatusCode::BAD_REQUEST,
                "The request is not valid",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                StatusCode::UNAUTHORIZED,
                "No valid API key",
            ),
            Self::Forbidden => (
                "forbidden",
                StatusCode::FORBIDDEN,
                "The API key may not do this",
            ),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::Timeout => (
                "timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long",
            ),
            Self::Disabled => (
                "device-disabled",
                StatusCode::CONFLICT,
                "The device is disabled",
            ),
            Self::NoCommandRoute => (
                "no-command-route",
                StatusCode::CONFLICT,
                "The device cannot be sent commands",
            ),
            Self::TooLarge => (
                "too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::IdempotencyConflict => (
                "idempotency-conflict",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key was used for something else",
            ),
            Self::TooManyRequests => (
                "too-many-requests",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
            ),
            Self::QueueFull => (
                "queue-full",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many commands are waiting",
            ),
            Self::Internal => (
                "internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The gateway could not do this",
            ),
            Self::Unavailable => (
                "unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The gateway cannot do this now",
            ),
        }
    }
}

impl Problem {
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after: None,
        }
    }

    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds.max(1)),
            ..self
        }
    }

    /// A failure the caller can do nothing about: said in full to the log, in general to the caller.
    #[must_use]
    pub fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %error, "a request to the API failed");
        Self::new(
            Kind::Internal,
            "this is the gateway's fault, not yours; its log says what happened",
        )
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.parts().1
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, status, title) = self.kind.parts();
        let document = Document {
            kind: format!("urn:tidegate:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
        };
        // A structure of texts and a number always has a JSON form.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"tidegate\""),
            );
        }
        response
    }
}
