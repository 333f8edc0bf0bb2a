use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;
use crate::config::{Device, HttpUpstream};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
    fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }
}

fn said(config: &Config) -> String {
    check_files(config)
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn with_secret(path: PathBuf) -> Config {
    let mut config = Config {
        state_dir: "/nonexistent".into(),
        ..Config::default()
    };
    config.devices.insert(
        "a".to_owned(),
        Device {
            secret_file: Some(path),
            ..Device::default()
        },
    );
    config
}

fn with_upstream(change: impl FnOnce(&mut HttpUpstream)) -> Config {
    let mut config = Config {
        state_dir: "/nonexistent".into(),
        ..Config::default()
    };
    let mut upstream = crate::config::schema::upstream_samples().remove(0);
    let Upstream::Http(http) = &mut upstream;
    (
        http.ca_file,
        http.client_certificate_file,
        http.client_key_file,
        http.bearer_token_file,
    ) = (None, None, None, None);
    change(http);
    config.upstreams.insert("c".to_owned(), upstream);
    config
}

#[test]
fn secrets_must_exist_and_be_kept_from_others() {
    let folder = Folder::new();
    let secret = "0123456789abcdef0123456789abcdef";
    assert_eq!(said(&with_secret(folder.file("good", secret, 0o600))), "");
    assert_eq!(said(&with_secret(folder.file("group", secret, 0o640))), "");
    for (path, wanted) in [
        (folder.0.path().join("none"), "does not exist; make it"),
        (folder.0.path().to_owned(), "is not a file"),
        (folder.file("open", secret, 0o644), "every user can open"),
        (folder.file("empty", " \n", 0o600), "is empty"),
    ] {
        let said = said(&with_secret(path));
        assert!(
            said.contains("error: devices.a.secret_file: ") && said.contains(wanted),
            "{said}"
        );
    }
    let weak = said(&with_secret(folder.file("weak", "hunter2", 0o600)));
    assert!(
        weak.contains("warning: devices.a.secret_file: the secret in"),
        "{weak}"
    );
    assert!(!weak.contains("hunter2"), "{weak}");
}

#[test]
fn pem_files_hold_what_they_should() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let certificate = folder.file("cert.pem", &certificate.pem(), 0o644);
    let key = folder.file("key.pem", &key.serialize_pem(), 0o600);
    let good = with_upstream(|http| {
        http.ca_file = Some(certificate.clone());
        http.client_certificate_file = Some(certificate.clone());
        http.client_key_file = Some(key.clone());
        http.bearer_token_file = Some(folder.file("token", "abc.def-123\n", 0o600));
    });
    assert_eq!(said(&good), "");
    let swapped = said(&with_upstream(|http| {
        http.client_certificate_file = Some(key);
        http.client_key_file = Some(certificate);
        http.bearer_token_file = Some(folder.file("two", "abc def", 0o600));
    }));
    for wanted in [
        "error: upstreams.c.client_certificate_file: ",
        "holds no PEM certificate",
        "error: upstreams.c.client_key_file: ",
        "holds no PEM private key",
        "error: upstreams.c.bearer_token_file: ",
        "holds more than a token",
    ] {
        assert!(swapped.contains(wanted), "{wanted} in {swapped}");
    }
}

#[test]
fn a_master_key_is_32_bytes_in_hex_and_the_state_folder_ours() {
    let folder = Folder::new();
    let mut config = Config {
        state_dir: folder.0.path().to_owned(),
        ..Config::default()
    };
    config.master_key_file = Some(folder.file("key", &"0a".repeat(32), 0o600));
    assert_eq!(said(&config), "");
    config.master_key_file = Some(folder.file("short", "0a0a", 0o600));
    assert!(said(&config).contains("error: master_key_file: "));
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    assert!(said(&config).contains("error: state_dir: others can write to"));
    config.state_dir = folder.file("file", "", 0o600);
    assert!(said(&config).contains("error: state_dir: "));
    config.pki.profiles_dir = Some("/nonexistent".into());
    assert!(said(&config).contains("error: pki.profiles_dir: /nonexistent is not a folder"));
}
