//! Running programs and reading what they say.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::Outcome;

/// A command line as people write it, for messages.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs it with its output shown.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let line = line(command);
    println!("$ {line}");
    let status = command
        .status()
        .map_err(|error| format!("{line}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{line}: {status}"))
    }
}

/// Runs it quietly, whatever it ends with.
pub(crate) fn output(command: &mut Command) -> Outcome<Output> {
    let line = line(command);
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{line}: {error}"))
}

/// Runs it quietly; its standard output. A failure shows what it wrote to standard error.
pub(crate) fn read(command: &mut Command) -> Outcome<String> {
    let line = line(command);
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {}\n{text}{errors}", output.status))
}

/// Whether a program is on the path.
pub(crate) fn have(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The repository's root, from where this crate was built.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap_or_else(|_| PathBuf::from("."))
}

/// Where downloads and images are kept between runs.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("TIDEGATE_TEST_CACHE")
        .map_or_else(|| repository().join("tests/.cache"), PathBuf::from)
}

/// Installs Debian packages for whatever of `programs` is missing.
pub(crate) fn need(programs: &[&str], packages: &[&str]) -> Outcome {
    if programs.iter().all(|program| have(program)) {
        return Ok(());
    }
    install(packages)
}

/// Installs Debian packages.
pub(crate) fn install(packages: &[&str]) -> Outcome {
    if !have("apt-get") {
        return Err(format!(
            "missing: {}; install it with your package manager",
            packages.join(", ")
        ));
    }
    // Somebody else may be installing something.
    let patient = ["-o", "DPkg::Lock::Timeout=600", "-qq"];
    let _ = read(Command::new("apt-get").args(patient).arg("update"));
    run(Command::new("apt-get")
        .args(patient)
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}
