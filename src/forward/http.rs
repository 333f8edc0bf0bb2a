//! An HTTP backend: one POST per message.
//!
//! `POST {url}/device/{device_id}/data` (`/event` for events) with the payload exactly as the device
//! wrote it, and
//!
//! | header | value |
//! |---|---|
//! | `Content-Type` | `application/json`; for raw bodies that are not JSON `text/plain; charset=utf-8`, or `application/octet-stream` when they are not UTF-8 |
//! | `Idempotency-Key` | `{device_id}:{message_id}`: the same whenever this message is sent again |
//! | `Tidegate-Timestamp` | when the device signed it, whole seconds since 1970 |
//! | `Tidegate-Received-At` | when the gateway accepted it, seconds since 1970 with three decimals |
//! | `Authorization` | `Bearer …`, if `bearer_token_file` is set |
//!
//! What the answer means is in [`answer`].

mod answer;
mod credentials;
mod resolve;
mod socket;

use std::{
    io::Write,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::de::IgnoredAny;
use tidegate_wire::DeviceId;
use ureq::{
    Agent,
    http::{HeaderValue, Request, Uri, header},
    tls::TlsConfig,
    unversioned::transport::{Connector as _, RustlsConnector},
};

use self::{credentials::Credentials, resolve::CachedResolver, socket::Direct};
use super::{Answer, Upstream};
use crate::{config, envelope::Kind, outbox::Cause, store::Message};

/// How long a connection may lie idle and still be used. Servers close theirs after as little as 5 s
/// (Node.js); a POST that meets a close on its way is a failed attempt.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Bytes of a status line and headers. The default of common servers for requests.
const MAX_HEADERS: usize = 16 * 1024;

const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Why an HTTP upstream cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(
        "upstreams.{name}.url: {url:?} is not an address; write http://host:port or https://host:port/path"
    )]
    Url { name: String, url: String },
    #[error(
        "upstreams.{name}.url: it must not hold a user name or password; use bearer_token_file or a client certificate"
    )]
    Userinfo { name: String },
    #[error(
        "upstreams.{name}.url: it must end with a path, without `?` or `#`, because /device/<id>/data is appended"
    )]
    Query { name: String },
    #[error(
        "upstreams.{name}: {path}: {source}; check that it exists and is readable by the gateway"
    )]
    Read {
        name: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("upstreams.{name}: {path}: {detail}; it must be PEM")]
    Pem {
        name: String,
        path: PathBuf,
        detail: String,
    },
    #[error(
        "upstreams.{name}: {path}: the bearer token must be one line of visible ASCII characters"
    )]
    Token { name: String, path: PathBuf },
    #[error(
        "upstreams.{name}: client_certificate_file and client_key_file must be set both or neither"
    )]
    HalfIdentity { name: String },
    #[error("upstreams.{name}: the client certificate and its key cannot be used: {detail}")]
    Identity { name: String, detail: String },
    #[error(
        "upstreams.{name}: this system has no CA certificates ({detail}); install them or set ca_file"
    )]
    NoRoots { name: String, detail: String },
}

/// One HTTP backend.
pub struct HttpUpstream {
    /// Without a slash at the end.
    base: String,
    timeout: Duration,
    credentials: Credentials,
    resolver: Arc<CachedResolver>,
    /// Agents that are not in use, the one used last on top. Each keeps one connection, so a worker
    /// never waits for another's; there are as many as requests were ever under way at once.
    idle: Mutex<Vec<Pooled>>,
    /// All of them, to be shut down.
    all: Mutex<Vec<Agent>>,
    stopped: AtomicBool,
}

impl std::fmt::Debug for HttpUpstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpUpstream")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

struct Pooled {
    agent: Agent,
    /// Of the credentials it was made with.
    generation: u64,
}

impl HttpUpstream {
    /// Reads and checks what the configuration names; connects to nothing.
    ///
    /// # Errors
    /// [`HttpError`] says which setting is wrong.
    pub fn new(name: &str, config: &config::HttpUpstream) -> Result<Self, HttpError> {
        let base = base_url(name, &config.url)?;
        let credentials = Credentials::load(name, config, base.starts_with("https:"))?;
        Ok(Self {
            base,
            timeout: config.timeout,
            credentials,
            resolver: Arc::default(),
            idle: Mutex::default(),
            all: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    fn take_agent(&self) -> Pooled {
        let generation = self.credentials.generation();
        let mut idle = lock(&self.idle);
        while let Some(pooled) = idle.pop() {
            if pooled.generation == generation {
                return pooled;
            }
        }
        drop(idle);
        let (tls, generation) = self.credentials.tls();
        let agent = self.agent(tls);
        let mut all = lock(&self.all);
        if generation != self.credentials.generation() {
            all.clear();
        }
        all.push(agent.clone());
        Pooled { agent, generation }
    }

    fn agent(&self, tls: Option<TlsConfig>) -> Agent {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(self.timeout))
            .proxy(None)
            .user_agent(USER_AGENT)
            .accept("")
            .accept_encoding("")
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(MAX_IDLE)
            .max_response_header_size(MAX_HEADERS);
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        let resolver = resolve::Shared(Arc::clone(&self.resolver));
        let connector = Direct::new(self.timeout).chain(RustlsConnector::default());
        Agent::with_parts(config.build(), connector, resolver)
    }

    fn request<'m>(
        &self,
        device_id: &DeviceId,
        message: &'m Message,
    ) -> Result<Request<&'m [u8]>, ureq::http::Error> {
        let channel = if message.kind == Kind::Event {
            "event"
        } else {
            "data"
        };
        let uri = format!("{}/device/{device_id}/{channel}", self.base);
        let key = format!("{device_id}:{}", message.message_id);
        let (seconds, millis) = (message.received_at.0 / 1000, message.received_at.0 % 1000);
        let mut received = Vec::with_capacity(16);
        // Writing to a Vec does not fail.
        let _ = write!(received, "{seconds}.{millis:03}");
        let mut request = Request::post(Uri::from_maybe_shared(uri.into_bytes())?)
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static(content_type(&message.payload)),
            )
            .header(
                "idempotency-key",
                HeaderValue::from_maybe_shared(key.into_bytes())?,
            )
            .header("tidegate-timestamp", HeaderValue::from(message.timestamp))
            .header(
                "tidegate-received-at",
                HeaderValue::from_maybe_shared(received)?,
            );
        if let Some(token) = self.credentials.bearer() {
            request = request.header(header::AUTHORIZATION, token);
        }
        request.body(&message.payload[..])
    }
}

impl Upstream for HttpUpstream {
    fn deliver(&self, device_id: &DeviceId, message: &Message) -> Answer {
        self.credentials.refresh();
        let request = match self.request(device_id, message) {
            Ok(request) => request,
            Err(error) => {
                let reason = format!("no request could be made of it: {error}");
                return Answer::Refused {
                    status: None,
                    reason,
                };
            }
        };
        let pooled = self.take_agent();
        if self.stopped.load(Ordering::Acquire) {
            let detail = "the gateway is stopping".to_owned();
            return Answer::Retry {
                after: None,
                cause: Cause::NoAnswer,
                detail,
            };
        }
        let answer = match pooled.agent.run(request) {
            Ok(response) => answer::of_response(response),
            Err(error) => answer::of_error(&error),
        };
        if let Answer::Retry {
            cause: Cause::Unreachable,
            ..
        } = answer
        {
            self.resolver.forget();
        }
        lock(&self.idle).push(pooled);
        answer
    }

    fn interrupt(&self) {
        self.stopped.store(true, Ordering::Release);
        for agent in lock(&self.all).drain(..) {
            agent.shutdown();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address without a slash at its end, and with nothing in it that cannot be appended to.
fn base_url(name: &str, url: &str) -> Result<String, HttpError> {
    let name = || name.to_owned();
    if url.contains(['?', '#']) {
        return Err(HttpError::Query { name: name() });
    }
    let wrong = || HttpError::Url {
        name: name(),
        url: url.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| {
        // What cannot be read may hold a password.
        if url.contains('@') {
            HttpError::Userinfo { name: name() }
        } else {
            wrong()
        }
    })?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err(HttpError::Userinfo { name: name() });
    }
    if !matches!(uri.scheme_str(), Some("http" | "https")) || authority.host().is_empty() {
        return Err(wrong());
    }
    Ok(uri.to_string().trim_end_matches('/').to_owned())
}

/// What a payload is. Signed payloads are JSON; what devices without signatures send may be anything.
fn content_type(payload: &[u8]) -> &'static str {
    if serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        "application/json"
    } else if std::str::from_utf8(payload).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

#[cfg(test)]
mod backend_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_never_shown_with_a_password() {
        let base = |url| base_url("b", url);
        assert_eq!(base("http://h:1").unwrap(), "http://h:1");
        assert_eq!(base("https://h/api//").unwrap(), "https://h/api");
        assert_eq!(base("http://[::1]:80/").unwrap(), "http://[::1]:80");
        for url in ["h:1", "ftp://h", "http://", "", "/x", "http://a b/"] {
            assert!(matches!(base(url), Err(HttpError::Url { .. })), "{url}");
        }
        assert!(matches!(
            base("http://h/?a=b"),
            Err(HttpError::Query { .. })
        ));
        for url in ["http://me:hunter2@h/", "http://me:hunter2@h h/"] {
            let error = base(url).unwrap_err().to_string();
            assert!(
                error.contains("bearer_token_file") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn raw_bodies_say_what_they_are() {
        assert_eq!(content_type(br#"{"t":22.5}"#), "application/json");
        assert_eq!(content_type(b"80"), "application/json");
        assert_eq!(content_type(b"turn_on"), "text/plain; charset=utf-8");
        assert_eq!(content_type(b""), "text/plain; charset=utf-8");
        assert_eq!(content_type(&[0xff, 0xfe]), "application/octet-stream");
    }
}
