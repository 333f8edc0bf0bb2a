//! The daemon for the Pi: built for aarch64 with Debian's compiler, and run under qemu-user.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidegate_wire::SigningKey;

use crate::{
    Outcome,
    guest::sign,
    shell::{cache, have, install, need, read, repository, run as shell},
};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where Debian keeps the libraries of the other architecture.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";
/// Making keys under an emulator takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the daemon when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command `cross`.
pub(crate) fn run() -> Outcome {
    if compiler().is_none() {
        install(&[
            "gcc-aarch64-linux-gnu",
            "g++-aarch64-linux-gnu",
            "libc6-dev-arm64-cross",
        ])?;
    }
    need(
        &["qemu-aarch64", "mosquitto_pub", "readelf", "setpriv"],
        &["qemu-user", "mosquitto-clients", "binutils", "util-linux"],
    )?;
    let prefix = compiler().ok_or("there is no compiler for aarch64")?;
    let (cc, cxx) = (format!("{prefix}-gcc"), format!("{prefix}-g++"));
    // Where there is no rustup, the compiler has the target or says that it has not.
    let _ = read(
        Command::new("rustup")
            .args(["target", "add", TARGET])
            .current_dir(repository()),
    );
    shell(
        Command::new("cargo")
            .args(["build", "--target", TARGET, "--package", "tidegate"])
            // Nobody debugs it here, and half of the time goes into that.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", &cc)
            .env("CC_aarch64_unknown_linux_gnu", &cc)
            .env("CXX_aarch64_unknown_linux_gnu", &cxx)
            .current_dir(repository()),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from);
    let program = target.join(TARGET).join("debug/tidegate");
    let kind = read(Command::new("readelf").arg("-h").arg(&program))?;
    if !kind.contains("AArch64") {
        return Err(format!("{} is not for the Pi:\n{kind}", program.display()));
    }
    flow(&program)
}

/// What the names of the cross compiler's programs begin with: Debian's, or nixpkgs'.
fn compiler() -> Option<&'static str> {
    ["aarch64-linux-gnu", "aarch64-unknown-linux-gnu"]
        .into_iter()
        .find(|prefix| have(&format!("{prefix}-gcc")) && have(&format!("{prefix}-g++")))
}

/// Starts it, issues a device, and has the device's message accepted and a stranger's refused.
fn flow(program: &Path) -> Outcome {
    let folder = cache().join("cross");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let config = folder.join("tidegate.toml");
    let [port, api_port] = free_ports()?;
    let text = format!(
        "state_dir = {:?}\n[pki]\nhosts = [\"localhost\"]\n[api]\naddress = \"127.0.0.1:{api_port}\"\n[listeners.devices]\naddress = \"127.0.0.1:{port}\"\n[devices.pi]\nsigning = \"v2\"\n",
        folder.join("state")
    );
    let port = port.to_string();
    fs::write(&config, text).map_err(|error| error.to_string())?;
    let tidegate = || {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-aarch64"]);
        // Elsewhere than on Debian, a program names its libraries where they are.
        if Path::new(SYSROOT).exists() {
            command.args(["-L", SYSROOT]);
        }
        command.arg(program).arg("--config").arg(&config);
        command
    };
    read(tidegate().args(["check"]))?;
    let mut child = tidegate()
        .arg("run")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("qemu-aarch64: {error}"))?;
    let log = child.stderr.take().ok_or("no log")?;
    let _daemon = Daemon(child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    wait_for(&port).map_err(|why| {
        let said: Vec<String> = receiver.try_iter().collect();
        format!("{why}\n{}", said.join("\n"))
    })?;
    let bundle = folder.join("bundle");
    read(
        tidegate()
            .args(["pki", "issue", "device", "pi", "--out"])
            .arg(&bundle),
    )?;
    let publish = |message: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-h",
            "localhost",
            "-p",
            &port,
            "-q",
            "1",
            "-t",
            "device/pi/data",
            "-m",
            message,
        ]);
        for (option, file) in [
            ("--cafile", "ca.crt"),
            ("--cert", "device.crt"),
            ("--key", "device.key"),
        ] {
            command.arg(option).arg(bundle.join(file));
        }
        read(&mut command)
    };
    let secret = fs::read_to_string(bundle.join("secret")).map_err(|error| error.to_string())?;
    let key = SigningKey::new(secret.trim_end().as_bytes()).map_err(|error| error.to_string())?;
    let good = sign(
        "pi",
        &key,
        "88888888-0000-4000-8000-000000000001",
        r#"{"from":"aarch64"}"#,
        0,
    )?;
    publish(&good)?;
    publish(&good.replace("aarch64", "elsewhere"))?;
    let mut lines = Vec::new();
    while let Ok(line) = receiver.recv_timeout(PATIENCE) {
        let found = line.contains("Rejected message from pi: Invalid signature");
        lines.push(line);
        if found {
            let status = read(tidegate().args(["--json", "status"]))?;
            let status: Value = serde_json::from_str(&status)
                .map_err(|error| format!("status: {error}: {status}"))?;
            if status["running"] != true {
                return Err(format!("it does not say that it runs: {status}"));
            }
            println!(
                "aarch64 under qemu-user: version {} started, issued a bundle, accepted a message, refused a forged one",
                status["version"].as_str().unwrap_or_default()
            );
            return Ok(());
        }
    }
    Err(format!("no refusal in the log:\n{}", lines.join("\n")))
}

/// Ports of the loopback interface that nobody has now.
fn free_ports() -> Outcome<[u16; 2]> {
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string());
    let port = |listener: &TcpListener| {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok::<_, String>(address.port())
    };
    // Both are held until both are known.
    let (one, other) = (bind()?, bind()?);
    Ok([port(&one)?, port(&other)?])
}

fn wait_for(port: &str) -> Outcome {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if TcpStream::connect(format!("127.0.0.1:{port}")).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err(format!(
        "nobody listens on port {port} within {} s",
        PATIENCE.as_secs()
    ))
}
