//! The real daemon, and clients of every kind that talk bytes to it.

use std::{fs, net::SocketAddr, sync::Arc};

use rustls::ClientConfig;

use crate::{
    raw::{ConnAck, Connect, Raw, publish},
    support::{
        Gateway, Setup,
        gateway::{free_address, write_private},
        mqtt::tls_config,
    },
};

/// The password of every device here.
pub const PASSWORD: &str = "correct horse";

pub struct World {
    pub gateway: Gateway,
    /// As an operator: every free topic is open to it, under any number of client ids.
    pub operator: Arc<ClientConfig>,
    /// Where user name and password do.
    pub plain: SocketAddr,
    pid: i32,
}

impl World {
    pub fn new() -> Self {
        Self::with("sessions_per_identity = 100")
    }

    /// With these lines under `[limits]`.
    pub fn with(limits: &str) -> Self {
        let plain = free_address();
        let setup = Setup::new()
            .toml(&format!("[limits]\n{limits}"))
            .toml(&format!(
                "[listeners.plain]\naddress = \"{plain}\"\nmode = \"plain\""
            ));
        let password = setup.path("password");
        write_private(&password, PASSWORD);
        let gateway = setup
            .device_with(
                "sensor",
                &format!(
                    "password_file = {password:?}\npublish = [\"home/#\"]\nsubscribe = [\"home/#\"]"
                ),
            )
            .start();
        let folder = gateway.setup.path("operator");
        let out = folder.to_str().unwrap();
        gateway.run(&["pki", "issue", "operator", "tester", "--out", out]);
        for (from, to) in [("tester.crt", "device.crt"), ("tester.key", "device.key")] {
            fs::copy(folder.join(from), folder.join(to)).unwrap();
        }
        let pid = gateway.pid();
        Self {
            operator: tls_config(&folder),
            gateway,
            plain,
            pid,
        }
    }

    /// An operator's connection before CONNECT.
    pub fn dial(&self) -> Raw {
        Raw::tls(self.gateway.mqtt(), &self.operator)
    }

    /// CONNECT as an operator, and its answer, whatever it is.
    pub fn answer(&self, connect: &Connect) -> (Raw, ConnAck) {
        let mut raw = self.dial();
        raw.v5 = connect.v5;
        raw.send(connect.bytes());
        let connack = raw.connack();
        (raw, connack)
    }

    /// An accepted operator.
    #[track_caller]
    pub fn connect(&self, connect: &Connect) -> Raw {
        let (raw, connack) = self.answer(connect);
        assert_eq!(connack.reason, 0, "{connack:?}");
        raw
    }

    /// An accepted operator whose session was, or was not, there before.
    #[track_caller]
    pub fn resume(&self, connect: &Connect, present: bool) -> Raw {
        let (raw, connack) = self.answer(connect);
        assert_eq!(
            (connack.reason, connack.flags),
            (0, u8::from(present)),
            "{connack:?}"
        );
        raw
    }

    pub fn v5(&self, client_id: &str) -> Raw {
        self.connect(&Connect::v5(client_id))
    }

    pub fn v3(&self, client_id: &str) -> Raw {
        self.connect(&Connect::v3(client_id))
    }

    /// In both versions, 3.1.1 first.
    pub fn both(&self, client_id: &str) -> [Raw; 2] {
        [
            self.v3(&format!("{client_id}-3")),
            self.v5(&format!("{client_id}-5")),
        ]
    }

    /// The process is the one that was started and still serves: a message finds its subscriber.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        let mut client = self.v5("unharmed");
        assert_eq!(client.subscribe(&[("unharmed/+", 1)]), [1]);
        let message = publish("unharmed/a", "x").qos(1, 1);
        client.send(message.bytes(true));
        let mut seen = [client.next().unwrap(), client.next().unwrap()].map(|seen| seen.first);
        seen.sort_unstable();
        assert_eq!(seen, [0x32, 0x40], "a PUBLISH and a PUBACK");
        assert_eq!(self.gateway.pid(), self.pid);
        assert!(!self.gateway.log().contains("panicked"));
    }

    /// Stops with SIGTERM and starts again.
    pub fn restart(&mut self) {
        assert!(self.gateway.stop().success());
        self.gateway.start();
        self.pid = self.gateway.pid();
    }

    /// Pulls the plug and starts again.
    pub fn crash(&mut self) {
        self.gateway.kill();
        self.gateway.start();
        self.pid = self.gateway.pid();
    }
}
