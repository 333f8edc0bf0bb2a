mod openapi;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Method, StatusCode},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::{
    command::{MAX_WAITING, Rules},
    config::{Device as Settings, Signing},
    registry::testing,
    store::{DeviceKey, audit as audit_rows, commands as command_rows},
};

const NOW: UnixMillis = UnixMillis(1_727_712_000_000);
/// What the clock of the tests reads; one test sets it back.
static CLOCK: AtomicU64 = AtomicU64::new(NOW.0);

struct Fixed;

impl View for Fixed {
    fn connected(&self, device: &DeviceId) -> bool {
        device == "sensor_001"
    }
    fn status(&self) -> Value {
        json!({ "sessions": 1 })
    }
    fn metrics(&self) -> String {
        "tidegate_sessions 1\n".to_owned()
    }
}

struct Gateway {
    router: Router,
    store: testing::TestStore,
    registry: Arc<Registry>,
    keys: Arc<Keys>,
    health: Arc<Health>,
    recorder: Recorder,
}

impl Gateway {
    async fn new() -> Self {
        Self::with(Clock::with_source(UnixMillis(0), || NOW), 1_000).await
    }

    async fn with(clock: Clock, requests_per_second: u32) -> Self {
        let (store, clock) = (testing::store(), Arc::new(clock));
        let registry = Arc::new(testing::registry(&store).await);
        let secret: Option<&[u8]> = Some(b"supersecretkey123");
        let unsigned = Settings {
            signing: Signing::None,
            ..Settings::default()
        };
        let grouped = Settings {
            groups: vec!["hall".to_owned()],
            ..Settings::default()
        };
        for (id, settings, secret) in [
            ("sensor_001", grouped, secret),
            ("sensor_002", Settings::default(), secret),
            (
                "disabled",
                Settings {
                    enabled: false,
                    ..Settings::default()
                },
                secret,
            ),
            ("mute", unsigned, None),
        ] {
            registry
                .add(id.parse().unwrap(), &settings, secret, NOW)
                .await
                .unwrap();
        }
        let rules = Rules {
            message_bytes: 64 * 1024,
            require_v2: false,
        };
        let commands = Commands::open(store.clone(), rules, |_| {}).await.unwrap();
        let keys = Arc::new(Keys::open(store.clone()).await.unwrap());
        let (audit, recorder) = Audit::new(store.clone(), Arc::clone(&clock));
        let health = Arc::new(Health::new(Arc::clone(&clock)));
        let router = router(Parts {
            registry: Arc::clone(&registry),
            commands,
            keys: Arc::clone(&keys),
            audit,
            health: Arc::clone(&health),
            clock,
            view: Arc::new(Fixed),
            requests_per_second,
            body_bytes: 64 * 1024,
            request_timeout: Duration::from_millis(500),
        });
        Self {
            router,
            store,
            registry,
            keys,
            health,
            recorder,
        }
    }

    async fn key(&self, scopes: &[Scope], devices: Option<Restriction>) -> String {
        let new = NewKey {
            name: "test".to_owned(),
            scopes: scopes.to_vec(),
            devices,
            expires_at: None,
            by: "local:test".to_owned(),
        };
        self.keys.create(new, NOW).await.unwrap().1.to_string()
    }

    async fn audited(self) -> Vec<audit_rows::Entry> {
        let stopping = CancellationToken::new();
        stopping.cancel();
        self.recorder.run(stopping).await;
        let rows = self
            .store
            .read(|conn| audit_rows::recent(conn, None, 1_000))
            .await
            .unwrap();
        rows.into_iter().rev().map(|(_, entry)| entry).collect()
    }

    async fn call(&self, call: Call<'_>) -> Answer {
        let mut request = Request::builder().method(call.method).uri(call.path);
        if let Some(token) = call.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        let peer: SocketAddr = call.peer.parse().unwrap();
        let mut request = request.body(Body::from(call.body.to_owned())).unwrap();
        request.extensions_mut().insert(Peer(peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
        }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.call(Call {
            path,
            token: Some(token),
            ..Call::default()
        })
        .await
    }

    async fn send(&self, device: &str, token: &str, body: &str) -> Answer {
        let path = format!("/command/{device}");
        self.call(Call {
            method: Method::POST,
            path: &path,
            token: Some(token),
            body,
            ..Call::default()
        })
        .await
    }
}

struct Call<'a> {
    method: Method,
    path: &'a str,
    token: Option<&'a str>,
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
    peer: &'a str,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self {
            method: Method::GET,
            path: "/",
            token: None,
            headers: &[],
            body: "",
            peer: "192.0.2.1:4000",
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// It is a complete problem document of this kind.
    fn is_problem(&self, status: u16, kind: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        assert_eq!(
            self.body["type"],
            format!("urn:tidegate:problem:{kind}"),
            "{self:?}"
        );
        assert_eq!(self.body["status"], status);
        assert!(
            self.body["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty())
        );
        assert!(
            self.body["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 15),
            "{self:?}"
        );
    }

    fn is_ok(&self) -> &Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        &self.body
    }
}

#[tokio::test]
async fn a_command_is_taken_and_can_be_followed() {
    let gateway = Gateway::new().await;
    let token = gateway
        .key(&[Scope::CommandSend, Scope::CommandRead], None)
        .await;
    let answer = gateway
        .send("sensor_001", &token, r#"{"action":"reboot"}"#)
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.body["status"], "queued");
    let id = answer.body["message_id"].as_str().unwrap();
    assert_eq!(answer.body.as_object().unwrap().len(), 2);

    let path = format!("/command/sensor_001/{id}");
    let status = gateway.get(&path, &token).await;
    let status = status.is_ok();
    assert_eq!(
        (&status["status"], &status["attempts"]),
        (&json!("queued"), &json!(0))
    );
    assert_eq!(status["queued_at"], "2024-09-30T16:00:00Z");
    assert_eq!(status["expires_at"], "2024-10-01T16:00:00Z");

    let ack = format!(r#"{{"command_id":"{id}","status":"done","detail":{{"took": 1.50}}}}"#);
    let key = gateway
        .registry
        .get(&"sensor_001".parse().unwrap())
        .unwrap()
        .key;
    gateway
        .store
        .write(move |conn| command_rows::record_outcome(conn, key, ack.as_bytes(), NOW))
        .await
        .unwrap();
    let done = gateway.get(&path, &token).await;
    assert_eq!(
        (&done.is_ok()["status"], &done.body["detail"]),
        (&json!("done"), &json!({ "took": 1.5 }))
    );
    let list = gateway.get("/command/sensor_001?limit=5", &token).await;
    assert_eq!(list.is_ok()["commands"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["commands"][0]["message_id"], id);

    // One device's command is not found under another's name.
    gateway
        .get(&format!("/command/sensor_002/{id}"), &token)
        .await
        .is_problem(404, "not-found");
    gateway
        .get("/command/sensor_001/nonsense", &token)
        .await
        .is_problem(404, "not-found");
    gateway
        .get("/command/sensor_001?limit=101", &token)
        .await
        .is_problem(400, "bad-request");
}

#[tokio::test]
async fn an_idempotency_key_makes_repeating_safe() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::CommandSend], None).await;
    let send = |key: &'static str, body: &'static str| {
        let (gateway, token) = (&gateway, &token);
        async move {
            let headers = [("Idempotency-Key", key)];
            let call = Call {
                method: Method::POST,
                path: "/command/sensor_001",
                token: Some(token),
                headers: &headers,
                body,
                ..Call::default()
            };
            gateway.call(call).await
        }
    };
    let first = send("k1", "1").await;
    let again = send("k1", "1").await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    send("k1", "2")
        .await
        .is_problem(422, "idempotency-conflict");
    assert_ne!(send("k2", "1").await.body, first.body);
    send("a b", "1").await.is_problem(400, "bad-request");
    send("", "1").await.is_problem(400, "bad-request");
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    let call = Call {
        method: Method::POST,
        path: "/command/sensor_001",
        token: Some(&token),
        headers: &twice,
        body: "1",
        ..Call::default()
    };
    gateway.call(call).await.is_problem(400, "bad-request");
}

#[tokio::test]
async fn every_refusal_of_a_command_says_what_to_do() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::CommandSend], None).await;
    for body in ["", "{", "turn_on", r#"{"a":1,"a":2}"#] {
        gateway
            .send("sensor_001", &token, body)
            .await
            .is_problem(400, "bad-request");
    }
    for ttl in ["0", "-1", "soon", "31days", "2592001"] {
        let path = format!("sensor_001?ttl={ttl}");
        gateway
            .send(&path, &token, "1")
            .await
            .is_problem(400, "bad-request");
    }
    for ttl in ["60", "90s", "2h", "7days", "2592000"] {
        let answer = gateway
            .send(&format!("sensor_001?ttl={ttl}"), &token, "1")
            .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{ttl}: {answer:?}");
    }
    gateway
        .send("nobody", &token, "1")
        .await
        .is_problem(404, "not-found");
    gateway
        .send("no%20id", &token, "1")
        .await
        .is_problem(404, "not-found");
    gateway
        .send("no%FFid", &token, "1")
        .await
        .is_problem(400, "bad-request");
    gateway
        .send("disabled", &token, "1")
        .await
        .is_problem(409, "device-disabled");
    gateway
        .send("mute", &token, "1")
        .await
        .is_problem(409, "no-command-route");
    let large = format!("\"{}\"", "x".repeat(64 * 1024));
    gateway
        .send("sensor_001", &token, &large)
        .await
        .is_problem(413, "too-large");
    let too_large_once_signed = format!("\"{}\"", "x".repeat(64 * 1024 - 100));
    gateway
        .send("sensor_001", &token, &too_large_once_signed)
        .await
        .is_problem(413, "too-large");

    for _ in 0..MAX_WAITING {
        let answer = gateway.send("sensor_002", &token, "1").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    let full = gateway.send("sensor_002", &token, "1").await;
    full.is_problem(429, "queue-full");
    assert_eq!(full.header("retry-after"), "30");
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_answered() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::Admin], None).await;
    let revoked = gateway.key(&[Scope::Admin], None).await;
    gateway.keys.revoke(&revoked[3..11], NOW).await.unwrap();
    let basic = format!("Basic {token}");
    let both = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")];
    let wrong_token = format!("{}AAAA", &token[..token.len() - 4]);
    let calls = [
        Call::default(),
        Call {
            token: Some(""),
            ..Call::default()
        },
        Call {
            token: Some(&wrong_token),
            ..Call::default()
        },
        Call {
            token: Some(&revoked),
            ..Call::default()
        },
        Call {
            headers: &[("Authorization", &basic)],
            ..Call::default()
        },
        Call {
            headers: &both,
            ..Call::default()
        },
    ];
    for call in calls {
        let answer = gateway
            .call(Call {
                path: "/status",
                ..call
            })
            .await;
        answer.is_problem(401, "unauthenticated");
        assert_eq!(
            answer.header("www-authenticate"),
            "Bearer realm=\"tidegate\""
        );
    }
    for (method, path) in [
        (Method::POST, "/command/sensor_001"),
        (Method::GET, "/command/sensor_001"),
        (
            Method::GET,
            "/command/sensor_001/550e8400-e29b-41d4-a716-446655440000",
        ),
        (Method::GET, "/devices"),
        (Method::HEAD, "/devices"),
        (Method::GET, "/devices/sensor_001"),
        (Method::GET, "/metrics"),
        // Whether a device exists is not told either.
        (Method::GET, "/devices/nobody"),
    ] {
        let call = Call {
            method: method.clone(),
            path,
            peer: "192.0.2.77:1",
            ..Call::default()
        };
        let answer = gateway.call(call).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    // The scheme's name may be written in any case (RFC 9110, section 11.1).
    let lower = format!("bearer {token}");
    let call = Call {
        path: "/status",
        headers: &[("Authorization", &lower)],
        ..Call::default()
    };
    gateway.call(call).await.is_ok();
}

#[tokio::test]
async fn strangers_are_slowed_down_and_known_keys_are_not() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::StatusRead], None).await;
    let stranger = || {
        gateway.call(Call {
            path: "/status",
            ..Call::default()
        })
    };
    for _ in 0..10 {
        stranger().await.is_problem(401, "unauthenticated");
    }
    let slowed = stranger().await;
    slowed.is_problem(429, "too-many-requests");
    assert!(slowed.header("retry-after").parse::<u32>().unwrap() >= 1);
    gateway.get("/status", &token).await.is_ok();
    let elsewhere = Call {
        path: "/status",
        peer: "192.0.2.2:4000",
        ..Call::default()
    };
    gateway
        .call(elsewhere)
        .await
        .is_problem(401, "unauthenticated");
    let audited = gateway.audited().await;
    let anonymous = audited
        .iter()
        .filter(|entry| entry.actor == "anonymous")
        .count();
    assert_eq!(anonymous, 11, "what was slowed down is not on record");
}

#[tokio::test]
async fn a_key_may_call_only_so_often() {
    let gateway = Gateway::with(Clock::with_source(UnixMillis(0), || NOW), 1).await;
    let (token, other) = (
        gateway.key(&[Scope::StatusRead], None).await,
        gateway.key(&[Scope::StatusRead], None).await,
    );
    for _ in 0..2 {
        gateway.get("/status", &token).await.is_ok();
    }
    let refused = gateway.get("/status", &token).await;
    refused.is_problem(429, "too-many-requests");
    assert_eq!(refused.header("retry-after"), "1");
    gateway.get("/status", &other).await.is_ok();
}

#[tokio::test]
async fn each_scope_opens_its_calls_and_no_others() {
    let gateway = Gateway::new().await;
    let calls = [
        (Method::POST, "/command/sensor_001", Scope::CommandSend),
        (Method::GET, "/command/sensor_001", Scope::CommandRead),
        (Method::GET, "/devices", Scope::DeviceRead),
        (Method::GET, "/devices/sensor_001", Scope::DeviceRead),
        (Method::GET, "/status", Scope::StatusRead),
        (Method::GET, "/metrics", Scope::MetricsRead),
    ];
    for held in Scope::ALL {
        let token = gateway.key(&[held], None).await;
        for (method, path, needed) in &calls {
            let call = Call {
                method: method.clone(),
                path,
                token: Some(&token),
                body: "1",
                ..Call::default()
            };
            let answer = gateway.call(call).await;
            if held == *needed || held == Scope::Admin {
                assert!(answer.status.is_success(), "{held:?} {path}: {answer:?}");
            } else {
                answer.is_problem(403, "forbidden");
                assert!(
                    answer.body["detail"]
                        .as_str()
                        .unwrap()
                        .contains(needed.as_str())
                );
            }
        }
    }
}

#[tokio::test]
async fn a_restricted_key_sees_nothing_of_other_devices() {
    let gateway = Gateway::new().await;
    let only = Restriction {
        groups: vec!["hall".to_owned()],
        ids: vec!["ghost".to_owned()],
        ..Restriction::default()
    };
    let token = gateway.key(&[Scope::Admin], Some(only)).await;
    assert_eq!(
        gateway.send("sensor_001", &token, "1").await.status,
        StatusCode::ACCEPTED
    );
    gateway
        .send("sensor_002", &token, "1")
        .await
        .is_problem(403, "forbidden");
    gateway
        .send("nobody", &token, "1")
        .await
        .is_problem(403, "forbidden");
    gateway
        .send("ghost", &token, "1")
        .await
        .is_problem(404, "not-found");
    // Written differently, it is the same device.
    gateway
        .send("sensor%5F002", &token, "1")
        .await
        .is_problem(403, "forbidden");
    gateway
        .get("/devices/sensor_002", &token)
        .await
        .is_problem(403, "forbidden");
    gateway
        .get("/command/sensor_002", &token)
        .await
        .is_problem(403, "forbidden");
    let list = gateway.get("/devices", &token).await;
    assert_eq!(list.is_ok()["devices"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["devices"][0]["id"], "sensor_001");
}

#[tokio::test]
async fn devices_are_shown_a_page_at_a_time_without_their_secrets() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::DeviceRead], None).await;
    let mut seen = Vec::new();
    let mut path = "/devices?limit=3".to_owned();
    loop {
        let page = gateway.get(&path, &token).await;
        let page = page.is_ok();
        seen.extend(
            page["devices"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/devices?limit=3&after={next}");
    }
    assert_eq!(seen, ["disabled", "mute", "sensor_001", "sensor_002"]);
    let one = gateway.get("/devices/sensor_001", &token).await;
    assert_eq!(
        *one.is_ok(),
        json!({
            "id": "sensor_001", "enabled": true, "declared": false, "connected": true, "signing": "any",
            "has_secret": true, "has_password": false, "messages_per_second": 100, "groups": ["hall"],
        })
    );
    gateway
        .get("/devices/nobody", &token)
        .await
        .is_problem(404, "not-found");
    gateway
        .get("/devices?limit=0", &token)
        .await
        .is_problem(400, "bad-request");
}

#[tokio::test]
async fn status_and_metrics_are_what_the_gateway_shows() {
    let gateway = Gateway::new().await;
    let token = gateway
        .key(&[Scope::StatusRead, Scope::MetricsRead], None)
        .await;
    assert_eq!(
        *gateway.get("/status", &token).await.is_ok(),
        json!({ "sessions": 1 })
    );
    let metrics = gateway.get("/metrics", &token).await;
    assert_eq!(*metrics.is_ok(), json!("tidegate_sessions 1\n"));
    assert!(
        metrics
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
}

#[tokio::test]
async fn wrong_paths_and_methods_are_problems_too() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::Admin], None).await;
    for path in [
        "/",
        "/command",
        "/command/",
        "/nothing",
        "/command/a/b/c",
        "/devices/a/b",
        "//status",
    ] {
        gateway.get(path, &token).await.is_problem(404, "not-found");
        gateway
            .call(Call {
                path,
                ..Call::default()
            })
            .await
            .is_problem(404, "not-found");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/command/sensor_001", "POST,GET,HEAD"),
        (Method::POST, "/devices", "GET,HEAD"),
        (Method::PUT, "/healthz", "GET,HEAD"),
    ] {
        let answer = gateway
            .call(Call {
                method,
                path,
                token: Some(&token),
                ..Call::default()
            })
            .await;
        answer.is_problem(405, "method-not-allowed");
        let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
        let mut expected: Vec<&str> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{path}");
    }
}

#[tokio::test]
async fn health_is_told_to_everyone_and_readiness_with_its_reasons() {
    let gateway = Gateway::new().await;
    let ask = |path: &'static str| {
        gateway.call(Call {
            path,
            ..Call::default()
        })
    };
    assert_eq!(ask("/healthz").await.is_ok()["status"], "alive");
    let not_yet = ask("/readyz").await;
    assert_eq!(not_yet.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(not_yet.body["reasons"].as_array().unwrap().len(), 2);
    gateway.health.listening();
    gateway.health.committed(Instant::now());
    assert_eq!(ask("/readyz").await.is_ok()["status"], "ready");
    let later = Instant::now() + Duration::from_secs(60);
    assert!(gateway.health.reasons(later)[0].contains("has not committed for"));
    gateway.health.stopping();
    assert_eq!(ask("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn without_a_clock_no_command_is_taken() {
    let clock = Clock::with_source(NOW, || UnixMillis(CLOCK.load(Ordering::Relaxed)));
    let gateway = Gateway::with(clock, 1_000).await;
    let token = gateway.key(&[Scope::CommandSend], None).await;
    CLOCK.store(0, Ordering::Relaxed);
    let answer = gateway.send("sensor_001", &token, "1").await;
    answer.is_problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "10");
    assert!(
        gateway
            .health
            .reasons(Instant::now())
            .iter()
            .any(|reason| reason.contains("clock is not trusted"))
    );
    CLOCK.store(NOW.0, Ordering::Relaxed);
    assert_eq!(
        gateway.send("sensor_001", &token, "1").await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn what_was_done_is_on_record_and_polling_does_not_fill_it() {
    let gateway = Gateway::new().await;
    let token = gateway
        .key(&[Scope::CommandSend, Scope::StatusRead], None)
        .await;
    let actor = format!("key:{}", &token[3..11]);
    let sent = gateway.send("sensor_001", &token, "1").await.body["message_id"]
        .as_str()
        .unwrap()
        .to_owned();
    gateway.send("sensor_001", &token, "1").await;
    for _ in 0..50 {
        gateway.get("/status", &token).await;
        gateway.get("/devices", &token).await;
        gateway.send("nobody", &token, "1").await;
    }
    let entries = gateway.audited().await;
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.action.as_str(),
                entry.target.as_deref(),
                entry.result.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("command.send", Some("sensor_001"), "202"),
            ("command.send", Some("sensor_001"), "202"),
            ("status.read", None, "200"),
            ("device.list", None, "403"),
            ("command.send", Some("nobody"), "404"),
        ]
    );
    assert!(entries[0].detail.as_ref().unwrap().starts_with(&sent));
    assert!(
        entries
            .iter()
            .all(|entry| entry.actor == actor && entry.peer.as_deref() == Some("192.0.2.1"))
    );
    assert!(!format!("{entries:?}").contains(&token[12..]), "no secret");
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::CommandSend], None).await;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/command/sensor_001")
        .header("Authorization", format!("Bearer {token}"))
        .body(Body::new(Endless))
        .unwrap();
    let response = gateway.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let waiting = gateway
        .store
        .read(|conn| command_rows::waiting(conn, DeviceKey(1)))
        .await
        .unwrap();
    assert_eq!(waiting, 0);
}

/// A body whose bytes never come.
struct Endless;

impl axum::body::HttpBody for Endless {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
        std::task::Poll::Pending
    }
}
