//! A device sends telemetry; the backend gets it and its reply reaches the device.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::time::Duration;

use support::{
    Answer, Backend, Setup, Subscriber, envelope, mosquitto_pub, now, python, sign_with_openssl,
};

const MESSAGE_ID: &str = "550e8400-e29b-41d4-a716-446655440000";

#[test]
fn mosquitto_pub_signed_with_openssl_reaches_the_backend_and_the_reply_comes_back() {
    let backend =
        Backend::with(|_| Answer::ok(r#"{"status": "received", "alert": "temperature normal"}"#));
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    let replies = Subscriber::start(
        &gateway,
        &bundle,
        "device/sensor_001/response",
        &["-i", "listener"],
    );
    drop(replies); // one live session per device: publish and listen over one connection below

    let payload = r#"{"temperature":22.5,"humidity":60}"#;
    let message = sign_with_openssl("sensor_001", now(), MESSAGE_ID, payload);
    let sent = mosquitto_pub(&gateway, &bundle, "device/sensor_001/data", &message);
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );

    let request = backend.wait_for(1).remove(0);
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/device/sensor_001/data");
    assert_eq!(
        request.text(),
        payload,
        "the payload exactly as the device wrote it"
    );
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(
        request.idempotency_key(),
        format!("sensor_001:{MESSAGE_ID}")
    );
    assert!(!request.header("tidegate-timestamp").is_empty());
    assert!(!request.header("tidegate-received-at").is_empty());
}

#[test]
fn a_durable_subscriber_gets_the_reply_that_came_while_it_was_away() {
    let backend = Backend::with(|_| Answer::ok(r#"{"status":"received"}"#));
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    // A session that survives, then a publish under another client id, then the session again.
    drop(Subscriber::start(
        &gateway,
        &bundle,
        "device/sensor_001/response",
        &["-i", "listener", "-c"],
    ));
    let message = envelope("sensor_001", r#"{"temperature":1}"#);
    assert!(
        mosquitto_pub(&gateway, &bundle, "device/sensor_001/data", &message)
            .status
            .success()
    );
    backend.wait_for(1);
    let replies = Subscriber::start(
        &gateway,
        &bundle,
        "device/sensor_001/response",
        &["-i", "listener", "-c"],
    );
    assert_eq!(replies.message(), r#"{"status":"received"}"#);
}

/// paho-mqtt in both versions of the protocol, publishing and listening over one connection.
const PAHO: &str = r#"
import ssl, sys, json, time, uuid, hmac, hashlib, threading
import paho.mqtt.client as mqtt
port, bundle, version = int(sys.argv[1]), sys.argv[2], sys.argv[3]
protocol = {"311": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol)
client.tls_set(bundle + "/ca.crt", bundle + "/device.crt", bundle + "/device.key")
got, ready = threading.Event(), threading.Event()
def on_message(client, userdata, message):
    print("reply", message.topic, message.payload.decode(), flush=True)
    got.set()
client.on_message = on_message
client.on_subscribe = lambda *a: ready.set()
client.connect("localhost", port)
client.loop_start()
client.subscribe("device/sensor_001/response", qos=1)
assert ready.wait(10), "no SUBACK"
payload = {"temperature": 22.5, "humidity": 60}
message = {"device_id": "sensor_001", "timestamp": int(time.time()), "message_id": str(uuid.uuid4()), "payload": payload}
# What seed devices do: sign json.dumps with sorted keys, send json.dumps as it is.
text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
signed = message["device_id"] + str(message["timestamp"]) + message["message_id"] + text
message["signature"] = hmac.new(b"supersecretkey123", signed.encode(), hashlib.sha256).hexdigest()
client.publish("device/sensor_001/data", json.dumps(message), qos=int(sys.argv[4])).wait_for_publish(10)
assert got.wait(10), "no reply"
client.disconnect()
"#;

#[test]
fn paho_publishes_and_gets_its_reply_in_every_version_and_qos() {
    let backend = Backend::start();
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let port = gateway.mqtt().port().to_string();
            let output = python(PAHO, &[&port, bundle.to_str().unwrap(), version, qos]);
            assert!(
                output.status.success(),
                "MQTT {version} QoS {qos}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(
                printed.trim(),
                r#"reply device/sensor_001/response {"status":"received"}"#
            );
        }
    }
    let bodies: Vec<String> = backend
        .wait_for(6)
        .iter()
        .map(support::Request::text)
        .collect();
    assert_eq!(bodies, vec![r#"{"temperature": 22.5, "humidity": 60}"#; 6]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        backend.requests().len(),
        6,
        "every message once, at QoS 2 too"
    );
}
