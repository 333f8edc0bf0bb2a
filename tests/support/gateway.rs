//! The real daemon, started as a user starts it.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::{SOON, eventually};

/// The secret that every device of a story has, unless it says otherwise.
pub const SECRET: &str = "supersecretkey123";

/// A gateway to be: a folder with a configuration.
pub struct Setup {
    dir: TempDir,
    mqtt: SocketAddr,
    api: SocketAddr,
    hosts: Vec<String>,
    pki_dir: Option<PathBuf>,
    devices: String,
    rest: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            mqtt: free_address(),
            api: free_address(),
            hosts: vec!["localhost".into(), "127.0.0.1".into()],
            pki_dir: None,
            devices: String::new(),
            rest: String::new(),
            environment: Vec::new(),
        }
    }

    /// A variable for the daemon, not for other subcommands.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A further name or address that the gateway's certificate carries.
    pub fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Keeps certificates elsewhere than in the state folder.
    pub fn pki_dir(mut self, name: &str) -> Self {
        self.pki_dir = Some(self.path(name));
        self
    }

    /// Declares a signing device.
    pub fn device(self, id: &str) -> Self {
        self.device_with(id, "")
    }

    /// Declares a device with further lines of TOML.
    pub fn device_with(mut self, id: &str, lines: &str) -> Self {
        let secret = self.path(&format!("{id}.secret"));
        write_private(&secret, SECRET);
        write!(
            self.devices,
            "\n[devices.{id}]\nsecret_file = {secret:?}\n{lines}\n"
        )
        .unwrap();
        self
    }

    /// Appends TOML: tables only.
    pub fn toml(mut self, text: &str) -> Self {
        self.rest.push('\n');
        self.rest.push_str(text);
        self
    }

    pub fn backend(self, url: &str) -> Self {
        self.toml(&format!(
            "[upstreams.backend]\ntype = \"http\"\nurl = {url:?}\nretry_min = \"50ms\"\nretry_max = \"500ms\"\ntimeout = \"3s\"\n"
        ))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub fn write_config(&self) -> PathBuf {
        let path = self.path("tidegate.toml");
        let pki_dir = self.pki_dir.as_ref();
        let pki_dir = pki_dir.map(|path| format!("dir = {path:?}\n"));
        let text = format!(
            "state_dir = {:?}\n\n[pki]\n{}hosts = {:?}\n\n[api]\naddress = \"{}\"\n\n[listeners.devices]\naddress = \"{}\"\n{}{}",
            self.state_dir(),
            pki_dir.unwrap_or_default(),
            self.hosts,
            self.api,
            self.mqtt,
            self.rest,
            self.devices
        );
        // Written only when it is another: what is running beside this may just be reading it.
        if fs::read_to_string(&path).ok().as_deref() != Some(&*text) {
            fs::write(&path, text).unwrap();
        }
        path
    }

    /// Runs a subcommand of tidegate with this configuration.
    pub fn tidegate(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("--config")
            .arg(self.write_config())
            .args(arguments);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Creates the PKI and starts the daemon.
    pub fn start(self) -> Gateway {
        let mut gateway = Gateway {
            setup: self,
            child: None,
            log: Arc::default(),
        };
        gateway.start();
        gateway
    }
}

/// A gateway that was started at least once.
pub struct Gateway {
    pub setup: Setup,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
}

impl Gateway {
    pub fn mqtt(&self) -> SocketAddr {
        self.setup.mqtt
    }

    pub fn api_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.setup.api.port())
    }

    /// Starts the daemon and waits until it listens.
    pub fn start(&mut self) {
        self.spawn();
        let address = self.setup.mqtt;
        eventually("the gateway to listen", SOON, || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            std::net::TcpStream::connect(address).ok()
        });
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = self
            .setup
            .command(&["run"])
            .envs(
                self.setup
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let log = Arc::clone(&self.log);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    log.lock().unwrap().push_str(&(line + "\n"));
                }
            });
        }
        self.child = Some(child);
    }

    /// Whether it was started and has not ended since, by itself or otherwise.
    pub fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Its status, if it has ended by itself.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Everything the daemon printed so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the log that contains `text`.
    pub fn wait_log(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), SOON, || {
            self.log().contains(text).then_some(())
        });
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// The plug is pulled.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the status with which the daemon ends.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        let mut child = self.child.take().unwrap();
        eventually("the gateway to stop", SOON, || child.try_wait().unwrap())
    }

    /// Runs a subcommand that must succeed; what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.setup.tidegate(arguments);
        assert!(
            output.status.success(),
            "tidegate {arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a subcommand with `--json`; what it printed.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let text = self.run(&all);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Issues a bundle for a declared device and returns its folder.
    pub fn bundle(&self, id: &str) -> PathBuf {
        let folder = self.setup.path(&format!("bundle-{id}"));
        if !folder.exists() {
            let secret = self.setup.path(&format!("{id}.secret"));
            let mut arguments = vec![
                "pki",
                "issue",
                "device",
                id,
                "--out",
                folder.to_str().unwrap(),
            ];
            if secret.exists() {
                arguments.extend(["--secret-file", secret.to_str().unwrap()]);
            }
            self.run(&arguments);
        }
        folder
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the gateway's log\n{}", self.log());
        }
    }
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A loopback address that nothing listens on just now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}
