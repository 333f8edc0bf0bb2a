//! The description of the API and the API itself say the same.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// The document, with references resolved where it is asked.
struct Description(Value);

impl Description {
    fn read() -> Self {
        Self(serde_json::from_str(DESCRIPTION).unwrap())
    }

    fn resolve<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(to) => {
                let found = self.0.pointer(to.trim_start_matches('#'));
                found.unwrap_or_else(|| panic!("{to} is not there"))
            }
            None => value,
        }
    }

    /// Path, method and what is said of it.
    fn calls(&self) -> impl Iterator<Item = (&str, Method, &Value)> {
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, calls)| {
            let calls = calls.as_object().unwrap();
            calls.iter().map(move |(method, call)| {
                let method = method.to_uppercase().parse().unwrap();
                (path.as_str(), method, call)
            })
        })
    }

    /// What a value is other than its schema says.
    fn differs(&self, value: &Value, schema: &Value, at: &str) -> Option<String> {
        let schema = self.resolve(schema);
        let is = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{at}: no type {other}"),
        };
        let fits = match &schema["type"] {
            Value::Null => true,
            Value::String(kind) => is(kind),
            kinds => kinds
                .as_array()
                .unwrap()
                .iter()
                .any(|kind| is(kind.as_str().unwrap())),
        };
        let listed = schema["enum"]
            .as_array()
            .is_none_or(|all| all.contains(value));
        let same = schema.get("const").is_none_or(|only| only == value);
        if !(fits && listed && same) {
            return Some(format!("{at}: {value} does not fit {schema}"));
        }
        if let Some(items) = schema.get("items") {
            let mut all = value.as_array().into_iter().flatten();
            return all.find_map(|item| self.differs(item, items, &format!("{at}[]")));
        }
        let members = value.as_object()?;
        let none = serde_json::Map::new();
        let known = schema["properties"].as_object().unwrap_or(&none);
        let mut required = schema["required"].as_array().into_iter().flatten();
        let missing = required.find(|name| !members.contains_key(name.as_str().unwrap()));
        if let Some(name) = missing {
            return Some(format!("{at}: {name} is missing"));
        }
        members.iter().find_map(|(name, member)| {
            let at = format!("{at}.{name}");
            match (known.get(name), schema.get("additionalProperties")) {
                (Some(schema), _) => self.differs(member, schema, &at),
                (None, Some(Value::Bool(false))) => Some(format!("{at} is not described")),
                (None, Some(schema)) => self.differs(member, schema, &at),
                (None, None) => None,
            }
        })
    }
}

fn filled(path: &str) -> String {
    path.replace("{device_id}", "sensor_001")
        .replace("{message_id}", "0199b5a0-0000-4000-8000-000000000000")
}

#[tokio::test]
async fn the_description_has_every_path_and_method_and_no_others() {
    let description = Description::read();
    let described: BTreeSet<&str> = description.calls().map(|(path, ..)| path).collect();
    let served: BTreeSet<&str> = gated()
        .iter()
        .chain(&open())
        .map(|(path, _)| *path)
        .collect();
    assert_eq!(described, served);

    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::Admin], None).await;
    let calls: Vec<_> = description.calls().collect();
    for path in served {
        for method in METHODS {
            let answer = gateway
                .call(Call {
                    method: method.clone(),
                    path: &filled(path),
                    token: Some(&token),
                    ..Call::default()
                })
                .await;
            let there = answer.status != StatusCode::METHOD_NOT_ALLOWED;
            let said = calls
                .iter()
                .any(|call| (call.0, &call.1) == (path, &method));
            assert_eq!(said, there, "{method} {path}");
        }
    }
    let served = gateway.get("/openapi.json", "").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(*served.is_ok(), description.0);
    assert_eq!(description.0["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn the_scopes_are_those_that_open_a_call() {
    let gateway = Gateway::new().await;
    for (path, method, call) in Description::read().calls() {
        let status = async |token| {
            let call = Call {
                method: method.clone(),
                path: &filled(path),
                token,
                body: "1",
                ..Call::default()
            };
            gateway.call(call).await.status
        };
        let Some(scope) = call["security"][0]["key"][0].as_str() else {
            assert_eq!(call["security"], json!([]), "{path}");
            assert_ne!(status(None).await, StatusCode::UNAUTHORIZED, "{path}");
            continue;
        };
        let (this, others): (Vec<Scope>, Vec<Scope>) = Scope::ALL
            .into_iter()
            .filter(|scope| *scope != Scope::Admin)
            .partition(|one| one.as_str() == scope);
        let (this, others) = (
            gateway.key(&this, None).await,
            gateway.key(&others, None).await,
        );
        assert_ne!(status(Some(&this)).await, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(status(Some(&others)).await, StatusCode::FORBIDDEN, "{path}");
    }
}

#[test]
fn every_kind_of_problem_is_described() {
    let description = Description::read();
    let schema = description
        .0
        .pointer("/components/schemas/Problem")
        .unwrap();
    let said: Vec<&str> = schema["properties"]["type"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind.as_str().unwrap())
        .collect();
    let kinds = Kind::ALL.map(|kind| format!("urn:tidegate:problem:{}", kind.name()));
    assert_eq!(said, kinds);
}

/// Makes a call be answered in every way there is, and notes the answers.
struct Tour {
    answers: Vec<(String, Method, StatusCode, Value)>,
}

impl Tour {
    async fn call(&mut self, gateway: &Gateway, path: &'static str, call: Call<'_>) -> Answer {
        let method = call.method.clone();
        let answer = gateway.call(call).await;
        let (status, body) = (answer.status, answer.body.clone());
        self.answers.push((path.to_owned(), method, status, body));
        answer
    }

    async fn get(&mut self, gateway: &Gateway, path: &'static str, real: &str, token: &str) {
        let call = Call {
            path: real,
            token: Some(token),
            ..Call::default()
        };
        self.call(gateway, path, call).await;
    }
}

const SEND: &str = "/command/{device_id}";
const READ: &str = "/command/{device_id}/{message_id}";
const DEVICE: &str = "/devices/{device_id}";

#[tokio::test]
async fn every_status_that_is_described_is_answered_and_every_answer_is_described() {
    let mut tour = Tour {
        answers: Vec::new(),
    };
    let gateway = Gateway::new().await;
    let token = gateway.key(&[Scope::Admin], None).await;

    // Sending.
    let sent = |path: &'static str, body: &'static str| Call {
        method: Method::POST,
        path,
        token: None,
        body,
        ..Call::default()
    };
    let large = format!("\"{}\"", "x".repeat(64 * 1024));
    for (path, body) in [
        ("/command/sensor_001", "1"),
        ("/command/sensor_001", "{"),
        ("/command/nobody", "1"),
        ("/command/disabled", "1"),
        ("/command/mute", "1"),
        ("/command/sensor_001", &*large),
    ] {
        let call = Call {
            method: Method::POST,
            path,
            token: Some(&token),
            body,
            ..Call::default()
        };
        tour.call(&gateway, SEND, call).await;
    }
    for body in ["1", "2"] {
        let call = Call {
            token: Some(&token),
            headers: &[("Idempotency-Key", "order-7")],
            ..sent("/command/sensor_001", body)
        };
        tour.call(&gateway, SEND, call).await;
    }
    let request = Request::builder()
        .method(Method::POST)
        .uri("/command/sensor_001")
        .header("Authorization", format!("Bearer {token}"))
        .body(Body::new(Endless))
        .unwrap();
    let late = gateway.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = late.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    tour.answers
        .push((SEND.to_owned(), Method::POST, parts.status, body));
    let without_time = Gateway::with(Clock::with_source(NOW, || UnixMillis(0)), 1_000).await;
    let its_token = without_time.key(&[Scope::Admin], None).await;
    let call = Call {
        token: Some(&its_token),
        ..sent("/command/sensor_001", "1")
    };
    tour.call(&without_time, SEND, call).await;

    // Reading.
    let listed = gateway.get("/command/sensor_001", &token).await;
    let id = listed.body["commands"][0]["message_id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (path, real) in [
        (SEND, "/command/sensor_001"),
        (SEND, "/command/sensor_001?limit=0"),
        (SEND, "/command/nobody"),
        (READ, &*format!("/command/sensor_001/{id}")),
        (READ, "/command/no%FFid/x"),
        (READ, "/command/sensor_001/x"),
        ("/devices", "/devices?limit=1"),
        ("/devices", "/devices"),
        ("/devices", "/devices?limit=no"),
        (DEVICE, "/devices/sensor_001"),
        (DEVICE, "/devices/disabled"),
        (DEVICE, "/devices/nobody"),
        (DEVICE, "/devices/no%FFid"),
        ("/metrics", "/metrics"),
        ("/healthz", "/healthz"),
        ("/openapi.json", "/openapi.json"),
        ("/readyz", "/readyz"),
    ] {
        tour.get(&gateway, path, real, &token).await;
    }
    gateway.health.listening();
    gateway.health.committed(Instant::now());
    tour.get(&gateway, "/readyz", "/readyz", &token).await;
    tour.get(&gateway, "/status", "/status", &token).await;

    // What the gate answers, at every call.
    let description = Description::read();
    let slow = Gateway::with(Clock::with_source(UnixMillis(0), || NOW), 1).await;
    let paths: BTreeMap<&str, &str> = gated().map(|(path, _)| (path, path)).into();
    for (path, method, _) in description.calls() {
        let Some(path) = paths.get(path).copied() else {
            continue;
        };
        let real = filled(path);
        let other = match path {
            "/metrics" => Scope::StatusRead,
            _ => Scope::MetricsRead,
        };
        let nothing = slow.key(&[other], None).await;
        for token in [None, Some(&*nothing)] {
            let call = Call {
                method: method.clone(),
                path: &real,
                token,
                body: "1",
                ..Call::default()
            };
            tour.call(&slow, path, call).await;
        }
        let everything = slow.key(&[Scope::Admin], None).await;
        loop {
            let call = Call {
                method: method.clone(),
                path: &real,
                token: Some(&everything),
                body: "1",
                ..Call::default()
            };
            if tour.call(&slow, path, call).await.status == StatusCode::TOO_MANY_REQUESTS {
                break;
            }
        }
    }

    let mut answered = BTreeSet::new();
    for (path, method, status, body) in &tour.answers {
        let what = format!("{method} {path} {status}");
        let call = &description.0["paths"][path][method.as_str().to_lowercase()];
        let response = description.resolve(&call["responses"][status.as_str()]);
        let content = response["content"].as_object();
        let content = content.and_then(|all| all.values().next());
        let content = content
            .unwrap_or_else(|| panic!("{what} is not described; it was answered with {body}"));
        // What is shown there is made up here; the daemon's own is looked at where it runs.
        if (path.as_str(), *status) != ("/status", StatusCode::OK) {
            assert_eq!(description.differs(body, &content["schema"], &what), None);
        }
        answered.insert((
            path.as_str(),
            method.to_string(),
            status.as_str().to_owned(),
        ));
    }
    let described: BTreeSet<_> = description
        .calls()
        .flat_map(|(path, method, call)| {
            let statuses = call["responses"].as_object().unwrap().keys();
            let numbers = statuses.filter(|status| *status != "default");
            numbers.map(move |status| (path, method.to_string(), status.clone()))
        })
        .collect();
    assert_eq!(answered, described);
}
