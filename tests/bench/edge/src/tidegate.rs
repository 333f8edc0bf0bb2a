//! Tidegate as an operator runs it: full verification, synchronous commits.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Fallible,
    fleet::Fleet,
    place::{Place, free_address, run},
    process::Server,
};

/// How it is set up.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) folder: PathBuf,
    pub(crate) address: SocketAddr,
    api: SocketAddr,
    program: PathBuf,
}

/// Longest start that is waited for.
const START: Duration = Duration::from_secs(60);

impl Setup {
    /// A gateway in an empty folder with `devices` declared ones. What it accepts is owed to
    /// `backend`, whether that listens or not: nothing is measured that is not kept.
    pub(crate) fn new(
        place: &Place,
        fleet: &Fleet,
        devices: usize,
        backend: SocketAddr,
    ) -> Fallible<Self> {
        let setup = Self {
            folder: place.fresh("tidegate")?,
            address: free_address()?,
            api: free_address()?,
            program: place.tidegate.clone(),
        };
        let state = setup.folder.join("state");
        fs::create_dir(&state)?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        run(Command::new("cp").arg("-a").arg(&fleet.pki).arg(&state))?;
        setup.configure(fleet, devices, backend)?;
        Ok(setup)
    }

    pub(crate) fn configure(
        &self,
        fleet: &Fleet,
        devices: usize,
        backend: SocketAddr,
    ) -> Fallible<()> {
        let text = format!(
            "state_dir = {:?}\n\n[log]\nformat = \"text\"\n\n[pki]\nhosts = [\"localhost\"]\n\n\
             [api]\naddress = \"{}\"\n\n[listeners.devices]\naddress = \"{}\"\n\n\
             # Devices of the benchmark do in seconds what others do in weeks.\n\
             [limits]\nmessages_per_second = 1000000\nmessage_burst = 1000000\n\n\
             [storage]\ndisk_budget = \"16 GiB\"\n\n\
             [upstreams.backend]\ntype = \"http\"\nurl = \"http://{backend}\"\n{}",
            self.folder.join("state"),
            self.api,
            self.address,
            fleet.declarations(devices)?,
        );
        fs::write(self.config(), text)?;
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.folder.join("tidegate.toml")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(self.config());
        command
    }

    /// Starts it and waits until it says that it serves.
    pub(crate) fn start(&self) -> Fallible<Tidegate<'_>> {
        let path = self.folder.join("notify");
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let log = self.folder.join("log");
        let began = Instant::now();
        let mut command = self.command();
        command.arg("run").env("NOTIFY_SOCKET", &path);
        let mut server = Server::start(&mut command, &log)?;
        let mut buffer = [0; 4096];
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let text = buffer.get(..length).unwrap_or_default();
                    if text
                        .split(|byte| *byte == b'\n')
                        .any(|line| line == b"READY=1")
                    {
                        break;
                    }
                }
                Err(_) => server.alive(&log)?,
            }
            if began.elapsed() > START {
                return Err(format!("not ready after {START:?}; see {}", log.display()).into());
            }
        }
        Ok(Tidegate {
            setup: self,
            server,
            started_in: began.elapsed(),
        })
    }
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Tidegate<'s> {
    setup: &'s Setup,
    pub(crate) server: Server,
    /// From being executed to serving.
    pub(crate) started_in: Duration,
}

impl Tidegate<'_> {
    /// What `tidegate status` says.
    pub(crate) fn status(&self) -> Fallible<Value> {
        let text = run(self.setup.command().args(["--json", "status"]))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Messages owed to the backend.
    pub(crate) fn owed(&self) -> Fallible<u64> {
        self.status()?
            .pointer("/upstreams/backend/owed")
            .and_then(Value::as_u64)
            .ok_or_else(|| "status names no owed messages".into())
    }

    /// Gauges and counters by name, from the API's metrics.
    pub(crate) fn metric(&self, name: &str, root: &Path) -> Fallible<f64> {
        let made = run(self.setup.command().args([
            "--json",
            "key",
            "create",
            "benchmark",
            "--scope",
            "metrics:read",
        ]))?;
        let made: Value = serde_json::from_str(&made)?;
        let token = made
            .get("token")
            .and_then(Value::as_str)
            .ok_or("key create printed no token")?;
        let page = run(Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--cacert"])
            .arg(root)
            .args(["-H", &format!("Authorization: Bearer {token}")])
            .arg(format!(
                "https://localhost:{}/metrics",
                self.setup.api.port()
            )))?;
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .ok_or_else(|| format!("no {name} among the metrics").into())
    }
}
