//! Where everything is: the programs, built or installed when missing, and a folder to work in.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use crate::Fallible;

/// Packages of the Python script's own environment.
const PYTHON_PACKAGES: [&str; 2] = ["paho-mqtt==2.1.0", "requests==2.32.5"];

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    /// Kept between runs: certificates and the Python environment.
    pub(crate) work: PathBuf,
    pub(crate) tidegate: PathBuf,
    pub(crate) generator: PathBuf,
    pub(crate) mosquitto: PathBuf,
}

impl Place {
    /// Builds and installs what is not there.
    pub(crate) fn prepare(tidegate: Option<&Path>, generator: Option<&Path>) -> Fallible<Self> {
        let root = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))?;
        let work = root.join("target/bench");
        fs::create_dir_all(&work)?;
        let tidegate = match tidegate {
            Some(path) => fs::canonicalize(path)?,
            None => {
                let arguments = ["build", "--release", "--quiet", "--package", "tidegate"];
                run(Command::new("cargo").args(arguments).current_dir(&root))?;
                root.join("target/release/tidegate")
            }
        };
        let generator = match generator {
            Some(path) => fs::canonicalize(path)?,
            None => {
                let arguments = [
                    "build",
                    "--release",
                    "--quiet",
                    "--package",
                    "tidegate-host",
                ];
                let folder = root.join("firmware");
                run(Command::new("cargo").args(arguments).current_dir(&folder))?;
                folder.join("target/release/tidegate-host")
            }
        };
        Ok(Self {
            mosquitto: installed("mosquitto", "mosquitto")?,
            root,
            work,
            tidegate,
            generator,
        })
    }

    /// An empty folder for one server's life, on the disk that is measured.
    pub(crate) fn fresh(&self, name: &str) -> Fallible<PathBuf> {
        let folder = self.work.join("run").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// A Python interpreter that has what the script needs.
    pub(crate) fn python(&self) -> Fallible<PathBuf> {
        let folder = self.work.join("python");
        let interpreter = folder.join("bin/python");
        let ready = Command::new(&interpreter)
            .args(["-c", "import paho.mqtt.client, requests"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !ready {
            let python = installed("python3", "python3")?;
            let mut make = Command::new(&python);
            make.args(["-m", "venv"]).arg(&folder);
            if run(&mut make).is_err() {
                install("python3-venv")?;
                run(&mut make)?;
            }
            let mut pip = Command::new(&interpreter);
            run(pip
                .args(["-m", "pip", "install", "--quiet"])
                .args(PYTHON_PACKAGES))?;
        }
        Ok(interpreter)
    }
}

/// Runs a command to its end, which must be a good one; what it printed.
pub(crate) fn run(command: &mut Command) -> Fallible<String> {
    let output = command
        .output()
        .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {}", output.status, said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A loopback address that nothing listens on just now.
pub(crate) fn free_address() -> Fallible<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn installed(program: &str, package: &str) -> Fallible<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    install(package)?;
    find(program).ok_or_else(|| format!("{package} is installed, but brought no {program}").into())
}

fn install(package: &str) -> Fallible<()> {
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let arguments = ["install", "-y", "-qq", "--no-install-recommends", package];
    run(Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Its service is not wanted: no init script may be started.
        .env("RUNLEVEL", "1"))?;
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
