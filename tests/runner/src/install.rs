//! What the steps need on a Debian machine, installed when it is not there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Failure, sh};

/// Debian packages by the program that shows they are there.
const PACKAGES: [(&str, &str); 10] = [
    ("mosquitto_pub", "mosquitto-clients"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("cmake", "cmake"),
    ("xxd", "xxd"),
    // For the faults: disks of their own, and a clock that lies.
    ("mkfs.ext4", "e2fsprogs"),
    ("fsfreeze", "util-linux"),
    ("faketime", "faketime"),
    ("nginx", "nginx"),
];

/// The paho-mqtt client that the stories use, in an environment of its own.
const PYTHON_PACKAGES: [&str; 1] = ["paho-mqtt==2.1.0"];

/// Installs what is missing.
///
/// # Errors
/// When a package manager fails.
pub(crate) fn everything() -> Result<(), Failure> {
    debian()?;
    python()?;
    cargo_tool("cargo-nextest", "0.9.143")?;
    cargo_tool("cargo-deny", "0.20.2")?;
    cargo_tool("cargo-fuzz", "0.13.2")
}

fn debian() -> Result<(), Failure> {
    debian_packages(&PACKAGES)
}

/// Installs one Debian package if its program is not there, for a step that alone needs it.
///
/// # Errors
/// When the package manager fails.
pub(crate) fn package(program: &str, package: &str) -> Result<(), Failure> {
    debian_packages(&[(program, package)])
}

fn debian_packages(packages: &[(&str, &str)]) -> Result<(), Failure> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !on_path("apt-get") {
        return Err(format!(
            "missing: {}; install them with your package manager",
            missing.join(", ")
        )
        .into());
    }
    sh("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(missing);
    sh("apt-get", &arguments)
}

/// The Python interpreter of the tests' own environment.
pub(crate) fn python_path() -> PathBuf {
    cache().join("python/bin/python")
}

fn python() -> Result<(), Failure> {
    let interpreter = python_path();
    let interpreter = interpreter.to_string_lossy();
    let ready = Command::new(&*interpreter)
        .args(["-c", "import paho.mqtt.client"])
        .output()
        .is_ok_and(|output| output.status.success());
    if ready {
        return Ok(());
    }
    let folder = cache().join("python");
    fs::create_dir_all(cache()).map_err(|error| format!("{}: {error}", cache().display()))?;
    if sh("python3", &["-m", "venv", &folder.to_string_lossy()]).is_err() {
        sh("apt-get", &["install", "-y", "-qq", "python3-venv"])?;
        sh("python3", &["-m", "venv", &folder.to_string_lossy()])?;
    }
    let mut arguments = vec!["-m", "pip", "install", "--quiet"];
    arguments.extend(PYTHON_PACKAGES);
    sh(&interpreter, &arguments)
}

fn cargo_tool(name: &str, version: &str) -> Result<(), Failure> {
    if on_path(name) {
        Ok(())
    } else {
        sh(
            "cargo",
            &["install", "--locked", "--version", version, name],
        )
    }
}

/// Where test tools are kept between runs.
fn cache() -> PathBuf {
    Path::new("tests/.cache").to_path_buf()
}

fn on_path(program: &str) -> bool {
    let cargo_bin = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin)
        // Where Debian has servers, and not every user looks.
        .chain(["/usr/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}
