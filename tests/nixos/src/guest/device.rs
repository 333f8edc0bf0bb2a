//! A device: a bundle, messages signed as the wire contract says, and mosquitto's clients to carry them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use tidegate_wire::{Direction, Draft, Envelope, Limits, Payload, SigningKey, Version};

use super::network::{NAME, inside};
use crate::{
    Outcome,
    shell::{output, read},
};

/// One device with its bundle's folder.
pub(crate) struct Device {
    pub(crate) id: String,
    folder: PathBuf,
    key: SigningKey,
}

impl Device {
    /// Reads the bundle that `tidegate pki issue device` wrote.
    pub(crate) fn load(id: &str, folder: &Path) -> Outcome<Self> {
        let secret =
            fs::read_to_string(folder.join("secret")).map_err(|error| format!("{id}: {error}"))?;
        let key = SigningKey::new(secret.trim_end().as_bytes())
            .map_err(|error| format!("{id}: {error}"))?;
        Ok(Self {
            id: id.to_owned(),
            folder: folder.to_owned(),
            key,
        })
    }

    /// A signed reading, `age` seconds old.
    pub(crate) fn envelope(&self, message_id: &str, payload: &str, age: u64) -> Outcome<String> {
        sign(&self.id, &self.key, message_id, payload, age)
    }

    /// The payload of a command, if it is for this device and properly signed.
    pub(crate) fn command(&self, message: &str) -> Outcome<String> {
        let mut slots = [0; 256];
        let envelope = Envelope::parse(message.as_bytes(), &Limits::CONTRACT, &mut slots)
            .map_err(|refused| format!("{message}: {:?}", refused.reason()))?;
        let verified = envelope
            .verify(&self.key, Direction::Down, &mut slots)
            .map_err(|_| format!("{message}: its signature is wrong"))?;
        Ok(verified.payload().as_str().to_owned())
    }

    fn mosquitto(&self, program: &str, namespace: &str) -> Command {
        let mut command = inside(namespace, program);
        command.args(["-h", NAME, "-p", "8883", "-q", "1"]);
        for (option, file) in [
            ("--cafile", "ca.crt"),
            ("--cert", "device.crt"),
            ("--key", "device.key"),
        ] {
            command.arg(option).arg(self.folder.join(file));
        }
        command
    }

    /// Publishes on one of its topics and waits for the acknowledgement.
    pub(crate) fn publish(&self, channel: &str, message: &str) -> Outcome {
        let topic = format!("device/{}/{channel}", self.id);
        read(
            self.mosquitto("mosquitto_pub", "device")
                .args(["-t", &topic, "-m", message]),
        )
        .map(drop)
    }

    /// Publishes as [`Self::publish`] does, on any topic and from any namespace; whether it went through.
    pub(crate) fn try_publish(&self, namespace: &str, topic: &str, message: &str) -> bool {
        let mut command = self.mosquitto("mosquitto_pub", namespace);
        output(command.args(["-t", topic, "-m", message]))
            .is_ok_and(|output| output.status.success())
    }

    /// The session that keeps what is for this device while it is away. (A device has one connection:
    /// each program started here takes it over from the one before.)
    fn session(&self) -> Command {
        let mut command = self.mosquitto("mosquitto_sub", "device");
        command.args(["-c", "-i", &format!("{}-session", self.id), "-F", "%t %p"]);
        for channel in ["response", "command"] {
            command.args(["-t", &format!("device/{}/{channel}", self.id)]);
        }
        command
    }

    /// Subscribes to what is for it, and goes.
    pub(crate) fn subscribe(&self) -> Outcome {
        read(self.session().arg("-E")).map(drop)
    }

    /// Publishes a message and waits for what is answered on `response`, in one connection.
    pub(crate) fn exchange(&self, message: &str) -> Outcome<String> {
        let topic = |channel: &str| format!("device/{}/{channel}", self.id);
        let mut command = self.mosquitto("mosquitto_rr", "device");
        command.args([
            "-V",
            "311",
            "-W",
            "60",
            "-t",
            &topic("data"),
            "-e",
            &topic("response"),
            "-m",
            message,
        ]);
        read(&mut command)
    }

    /// Comes back and waits for `count` messages: their channels and bodies.
    pub(crate) fn collect(&self, count: usize) -> Outcome<Vec<(String, String)>> {
        let text = read(self.session().args(["-C", &count.to_string(), "-W", "60"]))?;
        let split = |line: &str| {
            let (topic, body) = line.split_once(' ')?;
            Some((topic.rsplit('/').next()?.to_owned(), body.to_owned()))
        };
        Ok(text.lines().filter_map(split).collect())
    }

    /// Stays connected until dropped.
    pub(crate) fn stay(&self) -> Outcome<Connected> {
        let child = self
            .session()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        Ok(Connected(child))
    }

    /// curl with this device's certificate, from its namespace.
    pub(crate) fn curl(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = inside("device", "curl");
        command.args(["--silent", "--show-error", "--max-time", "30"]);
        for (option, file) in [
            ("--cacert", "ca.crt"),
            ("--cert", "device.crt"),
            ("--key", "device.key"),
        ] {
            command.arg(option).arg(self.folder.join(file));
        }
        read(command.args(arguments))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }
}

/// A client that is there until it is dropped.
pub(crate) struct Connected(Child);

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A message of version 2, signed `age` seconds ago.
pub(crate) fn sign(
    id: &str,
    key: &SigningKey,
    message_id: &str,
    payload: &str,
    age: u64,
) -> Outcome<String> {
    let mut slots = [0; 256];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let wrong = |error: &dyn std::fmt::Display| format!("{id}: {error}");
    let draft = Draft {
        version: Version::V2,
        device_id: &id.try_into().map_err(|error| wrong(&error))?,
        timestamp: now.saturating_sub(age),
        message_id: message_id.try_into().map_err(|error| wrong(&error))?,
        payload: Payload::parse(payload.as_bytes(), &mut slots).map_err(|error| wrong(&error))?,
    };
    let mut buffer = [0; 2048];
    let length = draft
        .sign_into(key, Direction::Up, &mut buffer)
        .map_err(|error| wrong(&error))?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}
