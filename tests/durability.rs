//! What was acknowledged is delivered, whatever happens in between, and takes effect once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use support::{
    Answer, Backend, Request, SOON, Setup, envelope, eventually,
    mqtt::{Client, Hello, Packet, tls_config},
};
use tidegate_mqtt::{AckKind, QoS};

/// How often the plug is pulled.
const KILLS: usize = 8;
const DEVICES: usize = 4;
const WINDOW: usize = 16;

/// A device that keeps what is not acknowledged and sends it again, with DUP, after every cut.
struct Sender {
    device: String,
    tls: Arc<rustls::ClientConfig>,
    address: std::net::SocketAddr,
    unacknowledged: VecDeque<(String, String)>,
    next: usize,
}

impl Sender {
    /// Runs until `stop`; adds the numbers of acknowledged messages to `acknowledged`.
    fn run(mut self, stop: &AtomicBool, acknowledged: &Mutex<HashSet<(String, String)>>) {
        while !stop.load(Ordering::SeqCst) || !self.unacknowledged.is_empty() {
            let hello = Hello {
                client_id: &self.device.clone(),
                clean: false,
                ..Hello::default()
            };
            let Ok((mut client, Packet::ConnAck { reason: 0, .. })) =
                Client::try_connect(self.address, &self.tls, &hello)
            else {
                thread::sleep(Duration::from_millis(30));
                continue;
            };
            let _ = self.converse(&mut client, stop, acknowledged);
        }
    }

    fn converse(
        &mut self,
        client: &mut Client,
        stop: &AtomicBool,
        acknowledged: &Mutex<HashSet<(String, String)>>,
    ) -> std::io::Result<()> {
        let topic = format!("device/{}/data", self.device);
        let mut ids = HashMap::new();
        for (message_id, message) in &self.unacknowledged {
            let id = client.next_id();
            ids.insert(id, message_id.clone());
            client.send_as(&topic, message.as_bytes(), QoS::AtLeastOnce, Some(id), true)?;
        }
        loop {
            while self.unacknowledged.len() < WINDOW && !stop.load(Ordering::SeqCst) {
                let message_id = uuid::Uuid::new_v4().to_string();
                let payload = format!(r#"{{"n":{}}}"#, self.next);
                let message =
                    support::envelope_at(&self.device, support::now(), &message_id, &payload);
                self.next += 1;
                let id = client.next_id();
                ids.insert(id, message_id.clone());
                self.unacknowledged.push_back((message_id, message.clone()));
                client.send_as(
                    &topic,
                    message.as_bytes(),
                    QoS::AtLeastOnce,
                    Some(id),
                    false,
                )?;
            }
            if self.unacknowledged.is_empty() {
                return Ok(());
            }
            if let Packet::Ack {
                kind: AckKind::PubAck,
                id,
                reason,
                why,
            } = client.receive()?
            {
                let message_id = ids
                    .remove(&id)
                    .expect("an acknowledgement for something sent");
                assert_eq!(reason, 0, "{message_id}: {why}");
                self.unacknowledged
                    .retain(|(pending, _)| *pending != message_id);
                acknowledged
                    .lock()
                    .unwrap()
                    .insert((self.device.clone(), message_id));
            }
        }
    }
}

/// Per device, the numbers in the order in which each idempotency key was first seen.
fn first_seen(requests: &[Request]) -> HashMap<String, Vec<u64>> {
    let mut seen = HashSet::new();
    let mut order: HashMap<String, Vec<u64>> = HashMap::new();
    for request in requests {
        if seen.insert(request.idempotency_key().to_owned()) {
            let device = request.path.split('/').nth(2).unwrap().to_owned();
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            order
                .entry(device)
                .or_default()
                .push(body["n"].as_u64().unwrap());
        }
    }
    order
}

#[test]
fn the_plug_is_pulled_again_and_again_and_nothing_acknowledged_is_missing() {
    let backend = Backend::start();
    let devices: Vec<String> = (0..DEVICES).map(|n| format!("sensor_{n}")).collect();
    let setup = devices.iter().fold(Setup::new(), |setup, id| {
        setup.device_with(id, "messages_per_second = 100000")
    });
    let mut gateway = setup.backend(&backend.url()).start();
    let acknowledged = Arc::new(Mutex::new(HashSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = devices
        .iter()
        .map(|device| {
            let sender = Sender {
                device: device.clone(),
                tls: tls_config(&gateway.bundle(device)),
                address: gateway.mqtt(),
                unacknowledged: VecDeque::new(),
                next: 0,
            };
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            thread::spawn(move || sender.run(&stop, &acknowledged))
        })
        .collect();
    for round in 0..KILLS {
        let before = acknowledged.lock().unwrap().len();
        eventually("messages to flow", SOON, || {
            (acknowledged.lock().unwrap().len() > before + 50).then_some(())
        });
        thread::sleep(Duration::from_millis(37 * (round as u64 + 1) % 150));
        gateway.kill();
        gateway.start();
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    let keys: HashSet<String> = acknowledged
        .iter()
        .map(|(device, id)| format!("{device}:{id}"))
        .collect();
    let requests = backend.wait(Duration::from_secs(60), |requests| {
        let got: HashSet<&str> = requests.iter().map(Request::idempotency_key).collect();
        keys.iter().all(|key| got.contains(key.as_str()))
    });
    // Exactly the acknowledged messages had an effect: none is missing, none came from nowhere, and
    // what was posted twice was posted under the same key with the same body.
    let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
    for request in &requests {
        let first = *bodies
            .entry(request.idempotency_key())
            .or_insert(&request.body);
        assert_eq!(first, request.body, "one key, two bodies");
    }
    assert_eq!(bodies.len(), keys.len());
    for (device, numbers) in first_seen(&requests) {
        assert!(
            numbers.is_sorted(),
            "{device}'s messages came out of order: {numbers:?}"
        );
    }
    let status = gateway.json(&["status"]);
    let ledger = &status["upstreams"]["backend"];
    let count = |name: &str| {
        ledger[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {status}"))
    };
    assert_eq!(
        count("accepted"),
        count("delivered") + count("owed") + count("dead") + count("expired"),
        "{status}"
    );
    assert_eq!(count("accepted"), keys.len() as u64);
}

#[test]
fn while_the_backend_is_down_messages_wait_and_then_arrive_in_order() {
    let backend = Backend::start();
    let mut gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    backend.go_down();
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    for n in 0..100 {
        let message = envelope("sensor_001", &format!(r#"{{"n":{n}}}"#));
        assert_eq!(
            client
                .publish("device/sensor_001/data", message.as_bytes())
                .0,
            0
        );
        if n == 50 {
            gateway.kill(); // what is owed survives that, too
            gateway.start();
            client = Client::connect(&gateway, &bundle, &Hello::default());
        }
    }
    assert!(backend.requests().is_empty());
    assert_eq!(
        gateway.json(&["status"])["upstreams"]["backend"]["owed"],
        100
    );
    backend.come_back();
    let requests = backend.wait_for(100);
    assert_eq!(
        first_seen(&requests)["sensor_001"],
        (0..100).collect::<Vec<u64>>()
    );
}

#[test]
fn what_the_backend_refuses_for_good_is_kept_shown_and_can_be_sent_again() {
    let backend = Backend::with(|request| {
        if request.text().contains("bad") {
            Answer::status(422, "no")
        } else {
            Answer::ok("{}")
        }
    });
    let gateway = Setup::new()
        .device("sensor_001")
        .backend(&backend.url())
        .start();
    let mut client = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    for payload in [r#"{"bad":1}"#, r#"{"good":2}"#, r#"{"bad":3}"#] {
        client.publish(
            "device/sensor_001/data",
            envelope("sensor_001", payload).as_bytes(),
        );
    }
    backend.wait_for(3);
    let dead = eventually("two dead letters", SOON, || {
        let list = gateway.json(&["outbox", "list", "--dead"]);
        let dead = list["dead"]
            .as_array()
            .unwrap_or_else(|| panic!("{list}"))
            .clone();
        (dead.len() == 2).then_some(dead)
    });
    assert_eq!(dead[0]["status"], 422);
    assert_eq!(dead[0]["device_id"], "sensor_001");
    backend.answer(|_| Answer::ok("{}"));
    gateway.run(&["outbox", "retry", "--all"]);
    let requests = backend.wait_for(5);
    assert_eq!(requests[3].text(), r#"{"bad":1}"#);
    assert_eq!(requests[4].text(), r#"{"bad":3}"#);
    eventually("an even ledger", SOON, || {
        let ledger = gateway.json(&["status"])["upstreams"]["backend"].clone();
        (ledger["delivered"] == 3 && ledger["dead"] == 0 && ledger["owed"] == 0).then_some(())
    });
}

#[test]
fn one_device_in_trouble_holds_back_no_other() {
    let backend = Backend::with(|request| {
        if request.path.contains("sensor_001") {
            Answer::status(503, "later")
        } else {
            Answer::ok("{}")
        }
    });
    let gateway = Setup::new()
        .device("sensor_001")
        .device("sensor_002")
        .backend(&backend.url())
        .start();
    let mut stuck = Client::connect(&gateway, &gateway.bundle("sensor_001"), &Hello::default());
    let mut fine = Client::connect(&gateway, &gateway.bundle("sensor_002"), &Hello::default());
    for n in 0..20 {
        let payload = format!(r#"{{"n":{n}}}"#);
        stuck.publish(
            "device/sensor_001/data",
            envelope("sensor_001", &payload).as_bytes(),
        );
        fine.publish(
            "device/sensor_002/data",
            envelope("sensor_002", &payload).as_bytes(),
        );
    }
    let of =
        |requests: &[Request], id: &str| requests.iter().filter(|r| r.path.contains(id)).count();
    backend.wait(SOON, |requests| of(requests, "sensor_002") == 20);
    backend.answer(|_| Answer::ok("{}"));
    let requests = backend.wait(SOON, |requests| {
        let numbers: HashSet<String> = requests
            .iter()
            .filter(|r| r.path.contains("sensor_001"))
            .map(Request::text)
            .collect();
        numbers.len() == 20
    });
    assert_eq!(
        first_seen(&requests)["sensor_001"],
        (0..20).collect::<Vec<u64>>()
    );
}

#[test]
fn a_full_disk_budget_stops_acknowledgements_and_loses_nothing() {
    let backend = Backend::start();
    backend.go_down();
    let gateway = Setup::new()
        .device_with("sensor_001", "messages_per_second = 100000")
        .toml("[storage]\ndisk_budget = \"16MiB\"\n[limits]\nmessage_burst = 100000")
        .backend(&backend.url())
        .start();
    let bundle = gateway.bundle("sensor_001");
    let filler = "x".repeat(60_000);
    let mut acknowledged = Vec::new();
    let mut client = Client::connect(&gateway, &bundle, &Hello::default());
    client.set_read_timeout(Duration::from_secs(2));
    for n in 0..1_000 {
        let message = envelope("sensor_001", &format!(r#"{{"n":{n},"filler":"{filler}"}}"#));
        let Ok(Some(id)) = client.send(
            "device/sensor_001/data",
            message.as_bytes(),
            QoS::AtLeastOnce,
        ) else {
            break;
        };
        let answer = loop {
            match client.receive() {
                Ok(Packet::Ack {
                    id: acked,
                    reason: 0,
                    ..
                }) if acked == id => break true,
                Ok(Packet::Disconnect(_)) | Err(_) => break false,
                Ok(_) => {}
            }
        };
        if !answer {
            break;
        }
        acknowledged.push(n);
    }
    assert!(
        acknowledged.len() > 50,
        "16 MiB hold more than {} messages of 60 kB",
        acknowledged.len()
    );
    assert!(acknowledged.len() < 1_000, "the budget was never reached");
    gateway.wait_log("disk budget");
    backend.come_back();
    let count = acknowledged.len();
    let requests = backend.wait(Duration::from_secs(60), |requests| requests.len() >= count);
    assert_eq!(
        first_seen(&requests)["sensor_001"][..count],
        acknowledged.iter().map(|n| *n as u64).collect::<Vec<_>>()
    );
    eventually("the gateway to accept again", SOON, || {
        let (mut client, answer) =
            Client::try_connect(gateway.mqtt(), &tls_config(&bundle), &Hello::default()).ok()?;
        matches!(answer, Packet::ConnAck { reason: 0, .. }).then_some(())?;
        client.set_read_timeout(Duration::from_secs(2));
        let message = envelope("sensor_001", r#"{"n":5000}"#);
        let id = client
            .send(
                "device/sensor_001/data",
                message.as_bytes(),
                QoS::AtLeastOnce,
            )
            .ok()??;
        loop {
            match client.receive().ok()? {
                Packet::Ack {
                    id: acked,
                    reason: 0,
                    ..
                } if acked == id => return Some(()),
                Packet::Disconnect(_) => return None,
                _ => {}
            }
        }
    });
}
