//! Clients that users have: mosquitto_pub and mosquitto_sub, openssl, curl, paho-mqtt.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use super::{Gateway, gateway::SECRET, now};

/// Signs with nothing but openssl and a shell, as a user would: an envelope of version 1.
pub fn sign_with_openssl(device: &str, timestamp: u64, message_id: &str, payload: &str) -> String {
    let script = r#"
        signature=$(printf '%s%s%s%s' "$1" "$2" "$3" "$4" | openssl dgst -sha256 -hmac "$5" | sed 's/^.* //')
        printf '{"device_id":"%s","timestamp":%s,"message_id":"%s","payload":%s,"signature":"%s"}' "$1" "$2" "$3" "$4" "$signature"
    "#;
    let output = Command::new("sh")
        .args([
            "-c",
            script,
            "sign",
            device,
            &timestamp.to_string(),
            message_id,
            payload,
            SECRET,
        ])
        .output()
        .expect("openssl and a shell; tests/run installs them");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A fresh envelope with a new message id, signed in process (openssl takes milliseconds).
pub fn envelope(device: &str, payload: &str) -> String {
    envelope_at(device, now(), &uuid::Uuid::new_v4().to_string(), payload)
}

/// An envelope of version 1 with everything given.
pub fn envelope_at(device: &str, timestamp: u64, message_id: &str, payload: &str) -> String {
    use tidegate_wire::{DeviceId, Direction, Draft, MessageId, Payload, SigningKey, Version};
    let mut slots = [0; 1024];
    let key = SigningKey::new(SECRET.as_bytes()).unwrap();
    let draft = Draft {
        version: Version::V1,
        device_id: &DeviceId::try_from(device).unwrap(),
        timestamp,
        message_id: MessageId::parse(message_id.as_bytes()).unwrap(),
        payload: Payload::parse(payload.as_bytes(), &mut slots).unwrap(),
    };
    let mut buffer = vec![0; payload.len() + tidegate_wire::limits::ENVELOPE_OVERHEAD];
    let length = draft.sign_into(&key, Direction::Up, &mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The arguments by which a mosquitto client connects with a bundle.
pub fn tls_arguments(gateway: &Gateway, bundle: &Path) -> Vec<String> {
    let file = |name: &str| bundle.join(name).to_str().unwrap().to_owned();
    vec![
        "-h".into(),
        "localhost".into(),
        "-p".into(),
        gateway.mqtt().port().to_string(),
        "--cafile".into(),
        file("ca.crt"),
        "--cert".into(),
        file("device.crt"),
        "--key".into(),
        file("device.key"),
    ]
}

/// Publishes with mosquitto_pub at QoS 1.
pub fn mosquitto_pub(gateway: &Gateway, bundle: &Path, topic: &str, message: &str) -> Output {
    mosquitto_pub_with(gateway, bundle, topic, message, &["-q", "1"])
}

pub fn mosquitto_pub_with(
    gateway: &Gateway,
    bundle: &Path,
    topic: &str,
    message: &str,
    more: &[&str],
) -> Output {
    Command::new("mosquitto_pub")
        .args(tls_arguments(gateway, bundle))
        .args(["-t", topic, "-m", message])
        .args(more)
        .output()
        .expect("mosquitto_pub; tests/run installs it")
}

/// A running mosquitto_sub; its lines arrive here.
pub struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// Messages that came before the subscription was confirmed: what a session had kept.
    early: std::cell::RefCell<std::collections::VecDeque<String>>,
}

impl Subscriber {
    /// Subscribes and waits until the gateway has granted it.
    pub fn start(gateway: &Gateway, bundle: &Path, topic: &str, more: &[&str]) -> Self {
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub"])
            .args(tls_arguments(gateway, bundle))
            .args(["-d", "-q", "1", "-t", topic])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub; tests/run installs it");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let subscriber = Self {
            child,
            lines,
            early: Default::default(),
        };
        loop {
            let line = subscriber.line();
            if line.contains("Subscribed") {
                return subscriber;
            }
            if !line.starts_with("Client ") {
                subscriber.early.borrow_mut().push_back(line);
            }
        }
    }

    /// The next message: a line that is not one of mosquitto's own about packets.
    pub fn message(&self) -> String {
        if let Some(early) = self.early.borrow_mut().pop_front() {
            return early;
        }
        loop {
            let line = self.line();
            if !line.starts_with("Client ") && !line.contains("Subscribed") {
                return line;
            }
        }
    }

    /// No message arrives for a while.
    pub fn silent_for(&self, time: Duration) -> bool {
        let until = std::time::Instant::now() + time;
        while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with("Client ") => {}
                Ok(_) => return false,
                Err(_) => break,
            }
        }
        true
    }

    /// Whether mosquitto_sub noticed the end of its connection, or ended, within `limit`.
    pub fn disconnected_within(&mut self, limit: Duration) -> bool {
        let deadline = std::time::Instant::now() + limit;
        while std::time::Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn line(&self) -> String {
        self.lines
            .recv_timeout(super::SOON)
            .expect("mosquitto_sub to print a line")
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// curl with arguments; status code and body.
pub fn curl(gateway: &Gateway, arguments: &[&str]) -> (u16, String) {
    let ca = gateway.setup.state_dir().join("pki/root.crt");
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--cacert",
            ca.to_str().unwrap(),
        ])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl; tests/run installs it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    let status = status.parse().unwrap_or(0);
    assert_ne!(
        status,
        0,
        "curl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    (status, body.to_owned())
}

/// Runs a Python script with paho-mqtt; its output.
pub fn python(script: &str, arguments: &[&str]) -> Output {
    let interpreter = std::env::var("TIDEGATE_TEST_PYTHON")
        .unwrap_or_else(|_| "tests/.cache/python/bin/python".into());
    let mut child = Command::new(&interpreter)
        .arg("-")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{interpreter}: {error}; tests/run install makes it"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}
