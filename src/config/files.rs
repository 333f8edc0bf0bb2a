//! Checks that look at the file system: what is named exists, can be read and is kept secret.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{
    Config, Upstream,
    finding::{Finding, Findings},
};

/// No certificate bundle, key or secret is larger.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// A shared secret shorter than this can be guessed from one recorded message.
const LEAST_SECRET_BYTES: usize = 16;

/// What a file has to hold.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Holds {
    Certificates,
    PrivateKey,
    /// Shared with a device.
    Secret,
    Password,
    Token,
    MasterKey,
}

/// Looks at every file and folder that the configuration names.
///
/// Not for build time: there the files do not exist yet.
#[must_use]
pub fn check_files(config: &Config) -> Vec<Finding> {
    let mut findings = Findings::default();
    state_dir(&config.state_dir, &mut findings);
    if let Some(path) = &config.master_key_file {
        file("master_key_file", path, Holds::MasterKey, &mut findings);
    }
    if let Some(path) = &config.pki.profiles_dir
        && !path.is_dir()
    {
        findings.error(
            "pki.profiles_dir",
            format!("{} is not a folder", path.display()),
            "make it, or take this out to use the built-in profiles",
        );
    }
    for (name, upstream) in &config.upstreams {
        let Upstream::Http(http) = upstream;
        for (field, path, holds) in [
            ("ca_file", &http.ca_file, Holds::Certificates),
            (
                "client_certificate_file",
                &http.client_certificate_file,
                Holds::Certificates,
            ),
            ("client_key_file", &http.client_key_file, Holds::PrivateKey),
            ("bearer_token_file", &http.bearer_token_file, Holds::Token),
        ] {
            if let Some(path) = path {
                file(
                    &format!("upstreams.{name}.{field}"),
                    path,
                    holds,
                    &mut findings,
                );
            }
        }
    }
    for (id, device) in &config.devices {
        for (field, path, holds) in [
            ("secret_file", &device.secret_file, Holds::Secret),
            ("password_file", &device.password_file, Holds::Password),
        ] {
            if let Some(path) = path {
                file(&format!("devices.{id}.{field}"), path, holds, &mut findings);
            }
        }
    }
    findings.sorted()
}

fn state_dir(path: &Path, findings: &mut Findings) {
    let Ok(metadata) = fs::metadata(path) else {
        return;
    };
    if !metadata.is_dir() {
        findings.error(
            "state_dir",
            format!("{} is not a folder", path.display()),
            "name a folder of the gateway's own",
        );
    } else if mode(&metadata) & 0o022 != 0 {
        findings.error(
            "state_dir",
            format!(
                "others can write to {} (mode {:o})",
                path.display(),
                mode(&metadata)
            ),
            format!("run chmod 0700 {}", path.display()),
        );
    }
}

fn file(key: &str, path: &Path, holds: Holds, findings: &mut Findings) {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(key, path, &error, findings),
    };
    if !metadata.is_file() {
        let message = format!("{} is not a file", path.display());
        return findings.error(key, message, "name the file itself");
    }
    if holds != Holds::Certificates && mode(&metadata) & 0o007 != 0 {
        findings.error(
            key,
            format!(
                "every user can open {} (mode {:o})",
                path.display(),
                mode(&metadata)
            ),
            format!("run chmod 0600 {}", path.display()),
        );
    }
    if metadata.len() > MAX_FILE_BYTES {
        let message = format!("{} has {} bytes", path.display(), metadata.len());
        return findings.error(key, message, "name the right file; 4 MiB is the most");
    }
    match fs::read(path) {
        Ok(content) => contents(key, path, holds, &Zeroizing::new(content), findings),
        Err(error) => unreadable(key, path, &error, findings),
    }
}

fn unreadable(key: &str, path: &Path, error: &io::Error, findings: &mut Findings) {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            findings.error(
                key,
                format!("{path} does not exist"),
                "make it, or mend the path",
            );
        }
        io::ErrorKind::PermissionDenied => findings.error(
            key,
            format!("{path} cannot be read by this user"),
            "give it to the user that the gateway runs as",
        ),
        _ => findings.error(
            key,
            format!("{path} cannot be read: {error}"),
            "mend the path",
        ),
    }
}

fn contents(key: &str, path: &Path, holds: Holds, content: &[u8], findings: &mut Findings) {
    let shown = path.display();
    let text = content.trim_ascii();
    if text.is_empty() {
        return findings.error(
            key,
            format!("{shown} is empty"),
            "write what it should hold",
        );
    }
    match holds {
        Holds::Certificates => {
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
            if !certificates.is_ok_and(|certificates| !certificates.is_empty()) {
                findings.error(
                    key,
                    format!("{shown} holds no PEM certificate"),
                    "name a file with -----BEGIN CERTIFICATE----- in it",
                );
            }
        }
        Holds::PrivateKey => {
            if PrivateKeyDer::from_pem_slice(content).is_err() {
                findings.error(
                    key,
                    format!("{shown} holds no PEM private key"),
                    "name a file with -----BEGIN PRIVATE KEY----- in it, without a passphrase",
                );
            }
        }
        Holds::MasterKey => {
            // One per line: the current one, then those it replaced. Or 32 bytes as they are.
            let hex = |line: &[u8]| {
                let line = line.trim_ascii();
                line.is_empty() || (line.len() == 64 && line.iter().all(u8::is_ascii_hexdigit))
            };
            if content.len() != 32 && !text.split(|&byte| byte == b'\n').all(hex) {
                findings.error(
                    key,
                    format!("{shown} holds no key of 32 bytes in hex"),
                    "write 64 hex digits, for example with: openssl rand -hex 32",
                );
            }
        }
        Holds::Token => {
            if !text.iter().all(u8::is_ascii_graphic) {
                findings.error(
                    key,
                    format!("{shown} holds more than a token"),
                    "write the token alone, on one line",
                );
            }
        }
        Holds::Secret if text.len() < LEAST_SECRET_BYTES => findings.warning(
            key,
            format!(
                "the secret in {shown} has only {} bytes and can be guessed",
                text.len()
            ),
            "use 32 random bytes, for example: openssl rand -hex 32",
        ),
        Holds::Secret | Holds::Password => {}
    }
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
