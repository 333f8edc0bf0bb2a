//! A backend commands a device, awake or asleep; the command is signed, carried out once, and its
//! outcome can be asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use serde_json::{Value, json};
use support::{
    Backend, Gateway, SOON, Setup, Subscriber, curl, envelope, eventually,
    gateway::SECRET,
    mqtt::{Client, Hello},
    now,
};
use tidegate_mqtt::QoS;
use tidegate_wire::{DeviceId, Limits, SigningKey, Version, command};

/// An API key that may send and read commands.
fn key(gateway: &Gateway) -> String {
    let made = gateway.json(&[
        "key",
        "create",
        "backend",
        "--scope",
        "command:send",
        "--scope",
        "command:read",
    ]);
    made["token"]
        .as_str()
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned()
}

fn post(gateway: &Gateway, key: &str, path: &str, body: &str, more: &[&str]) -> (u16, Value) {
    let bearer = format!("Authorization: Bearer {key}");
    let url = gateway.api_url(path);
    let mut arguments = vec![
        "-X",
        "POST",
        "-H",
        &bearer,
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ];
    arguments.extend(more);
    arguments.push(&url);
    let (status, body) = curl(gateway, &arguments);
    (
        status,
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")),
    )
}

fn status(gateway: &Gateway, key: &str, message_id: &str) -> Value {
    let bearer = format!("Authorization: Bearer {key}");
    let (code, body) = curl(
        gateway,
        &[
            "-H",
            &bearer,
            &gateway.api_url(&format!("/command/sensor_001/{message_id}")),
        ],
    );
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Checks a command as a device does and returns its id and payload.
fn verify(bytes: &[u8]) -> (String, Value) {
    let mut slots = [0; 256];
    let key = SigningKey::new(SECRET.as_bytes()).unwrap();
    let own = DeviceId::try_from("sensor_001").unwrap();
    let receiver = command::Receiver {
        own: &own,
        key: &key,
        min_version: Version::V1,
        tolerance_s: 300,
        limits: Limits::CONTRACT,
    };
    let command = command::receive(bytes, &receiver, now(), &mut slots)
        .unwrap_or_else(|reason| panic!("{reason:?}: {}", String::from_utf8_lossy(bytes)));
    (
        command.message_id().to_string(),
        serde_json::from_str(command.payload().as_str()).unwrap(),
    )
}

#[test]
fn a_connected_device_gets_its_command_at_once_and_its_outcome_is_known() {
    let gateway = Setup::new().device("sensor_001").start();
    let key = key(&gateway);
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    client.subscribe("device/sensor_001/command", QoS::AtLeastOnce);
    let (code, answer) = post(
        &gateway,
        &key,
        "/command/sensor_001",
        r#"{"action":"reboot"}"#,
        &[],
    );
    assert_eq!(code, 202, "{answer}");
    assert_eq!(answer["status"], "queued");
    let (topic, bytes) = client.message();
    assert_eq!(topic, "device/sensor_001/command");
    let (message_id, payload) = verify(&bytes);
    assert_eq!(answer["message_id"], message_id);
    assert_eq!(payload, json!({"action": "reboot"}));
    eventually("delivered", SOON, || {
        (status(&gateway, &key, &message_id)["status"] == "delivered").then_some(())
    });

    let ack = format!(r#"{{"command_id":"{message_id}","status":"done","detail":{{"uptime":1}}}}"#);
    let (code, why) = client.publish(
        "device/sensor_001/ack",
        envelope("sensor_001", &ack).as_bytes(),
    );
    assert_eq!(code, 0, "{why}");
    let now = status(&gateway, &key, &message_id);
    assert_eq!(now["status"], "done", "{now}");
    assert_eq!(now["detail"], json!({"uptime": 1}), "{now}");
}

#[test]
fn a_sleeping_device_gets_its_command_when_it_wakes_freshly_signed_even_after_a_power_cut() {
    let mut gateway = Setup::new().device("sensor_001").start();
    let key = key(&gateway);
    let (code, answer) = post(
        &gateway,
        &key,
        "/command/sensor_001",
        r#"{"action":"led","value":80}"#,
        &[],
    );
    assert_eq!(code, 202);
    gateway.kill();
    gateway.start();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let woken = now();
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    client.subscribe("device/sensor_001/command", QoS::AtLeastOnce);
    let (_, bytes) = client.message();
    let (message_id, payload) = verify(&bytes);
    assert_eq!(answer["message_id"], message_id);
    assert_eq!(payload["value"], 80);
    let envelope: Value = serde_json::from_slice(&bytes).unwrap();
    assert!(
        envelope["timestamp"].as_u64().unwrap() >= woken,
        "signed when it was sent"
    );
}

#[test]
fn a_device_without_signatures_gets_the_bare_body_on_its_own_topic() {
    let gateway = Setup::new()
        .device_with(
            "gate1",
            "signing = \"none\"\npublish = [\"gates/gate1/state\"]\nsubscribe = [\"gates/gate1/control\"]\ntelemetry = [\"gates/gate1/state\"]\ncommand_topic = \"gates/gate1/control\"",
        )
        .start();
    let key = key(&gateway);
    let relay = Subscriber::start(
        &gateway,
        &gateway.bundle("gate1"),
        "gates/gate1/control",
        &["-i", "gate"],
    );
    let (code, answer) = post(&gateway, &key, "/command/gate1", r#""turn_on""#, &[]);
    assert_eq!(code, 202, "{answer}");
    assert_eq!(relay.message(), "turn_on");
    let (code, _) = post(&gateway, &key, "/command/gate1", "80", &[]);
    assert_eq!(code, 202);
    assert_eq!(relay.message(), "80");
}

#[test]
fn every_wrong_request_gets_its_own_answer() {
    let gateway = Setup::new()
        .device("sensor_001")
        .device_with("off", "enabled = false")
        .start();
    let key = key(&gateway);
    let reader = gateway.json(&["key", "create", "reader", "--scope", "command:read"]);
    let reader = reader["token"].as_str().unwrap();
    let large = format!("{:?}", "x".repeat(100_000));
    let large_file = gateway.setup.path("large.json");
    std::fs::write(&large_file, large).unwrap();
    let from_file = format!("@{}", large_file.display());
    for (wanted, token, path, body) in [
        (400, key.as_str(), "/command/sensor_001", "{not json"),
        (401, "nonsense", "/command/sensor_001", "{}"),
        (403, reader, "/command/sensor_001", "{}"),
        (404, &key, "/command/nobody", "{}"),
        (409, &key, "/command/off", "{}"),
        (413, &key, "/command/sensor_001", &from_file),
        (404, &key, "/nothing/here", "{}"),
        (405, &key, "/healthz", "{}"),
    ] {
        let (code, problem) = post(&gateway, token, path, body, &[]);
        assert_eq!(code, wanted, "{path} {problem}");
        assert_eq!(problem["status"], wanted, "{problem}");
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
    }
    let (code, body) = curl(
        &gateway,
        &[
            "-i",
            "-X",
            "POST",
            "-d",
            "{}",
            &gateway.api_url("/command/sensor_001"),
        ],
    );
    assert_eq!(code, 401);
    assert!(
        body.to_lowercase()
            .contains("content-type: application/problem+json"),
        "{body}"
    );

    let once = ["-H", "Idempotency-Key: order-7"];
    let (_, first) = post(&gateway, &key, "/command/sensor_001", r#"{"n":1}"#, &once);
    let (_, second) = post(&gateway, &key, "/command/sensor_001", r#"{"n":1}"#, &once);
    assert_eq!(first["message_id"], second["message_id"]);

    let (code, _) = post(
        &gateway,
        &key,
        "/command/sensor_001?ttl=1",
        r#"{"n":2}"#,
        &["-H", "Idempotency-Key: short"],
    );
    assert_eq!(code, 202);
    let (_, short) = post(
        &gateway,
        &key,
        "/command/sensor_001?ttl=1",
        r#"{"n":2}"#,
        &["-H", "Idempotency-Key: short"],
    );
    let id = short["message_id"].as_str().unwrap();
    eventually("expired", SOON, || {
        (status(&gateway, &key, id)["status"] == "expired").then_some(())
    });
}

#[test]
fn health_is_open_and_says_why_not() {
    let backend = Backend::start();
    let gateway = Setup::new().backend(&backend.url()).start();
    assert_eq!(curl(&gateway, &[&gateway.api_url("/healthz")]).0, 200);
    assert_eq!(curl(&gateway, &[&gateway.api_url("/readyz")]).0, 200);
}

#[test]
fn the_api_describes_itself_and_the_status_is_as_described() {
    let backend = Backend::start();
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let (code, text) = curl(&gateway, &[&gateway.api_url("/openapi.json")]);
    assert_eq!(code, 200, "{text}");
    let described: Value = serde_json::from_str(&text).unwrap();
    let made = gateway.json(&["key", "create", "watch", "--scope", "status:read"]);
    let bearer = format!("Authorization: Bearer {}", made["token"].as_str().unwrap());
    let (code, text) = curl(&gateway, &["-H", &bearer, &gateway.api_url("/status")]);
    assert_eq!(code, 200, "{text}");
    let status: Value = serde_json::from_str(&text).unwrap();
    let names =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let schemas = &described["components"]["schemas"];
    let shown = &schemas["Status"]["properties"];
    assert_eq!(names(&status), names(shown));
    assert_eq!(
        names(&status["devices"]),
        names(&shown["devices"]["properties"])
    );
    let ledger = &status["upstreams"]["backend"];
    assert_eq!(names(ledger), names(&schemas["Ledger"]["properties"]));
}
