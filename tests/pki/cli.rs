//! The commands as they are typed.

use std::fs;
use std::path::Path;

use clap::Parser;
use tidegate::cli::pki::{Outcome, PkiArgs, Settings, run};
use tidegate::pki::{Bundle, PkiDir, PkiError};

use crate::support::{Client, Gateway, VERSIONS, client_config, connect, now, openssl};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    pki: PkiArgs,
}

fn try_run(state: &Path, line: &str) -> Result<(Outcome, String), PkiError> {
    let arguments = std::iter::once("pki").chain(line.split_whitespace());
    let cli = Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut out = Vec::new();
    let settings = Settings {
        dir: PkiDir::new(state),
        profiles: None,
        release_keys: Vec::new(),
    };
    let outcome = run(cli.pki, settings, now(), &mut out)?;
    Ok((outcome, String::from_utf8(out).unwrap()))
}

fn type_in(state: &Path, line: &str) -> (Outcome, String) {
    try_run(state, line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn from_nothing_to_a_connected_device_and_back() {
    let gateway = Gateway::empty();
    let state = gateway.state.path();
    let bundles = tempfile::tempdir().unwrap();
    let at = bundles.path().display();

    let (_, text) = type_in(state, "init --name Home --host tide.local --host 127.0.0.1");
    assert!(text.contains("tide.local, 127.0.0.1"), "{text}");
    assert!(
        text.contains("root.key") && text.contains("offline"),
        "{text}"
    );
    assert!(text.contains("Next: tidegate pki issue device"), "{text}");

    let (outcome, text) = type_in(state, &format!("issue device sensor_001 --out {at}/s1"));
    let Outcome::DeviceIssued(issued) = outcome else {
        panic!()
    };
    assert_eq!(
        Bundle::read(&bundles.path().join("s1")).unwrap(),
        issued.bundle
    );
    assert!(issued.bundle.secret.is_some(), "for the registry");
    assert!(text.contains(&format!("mosquitto_pub -h tide.local -p 8883 --cafile {at}/s1/ca.crt --cert {at}/s1/device.crt --key {at}/s1/device.key")), "{text}");
    assert!(
        !text.contains(issued.bundle.secret.as_ref().unwrap().as_str()),
        "secrets are not shown"
    );

    let (_, text) = type_in(
        state,
        &format!("issue device s2 --gateway 192.0.2.1:8883 --bundle-file {at}/s2.tidegate.json"),
    );
    assert!(text.contains("s2.tidegate.json"), "{text}");
    let bundle = Bundle::read(&bundles.path().join("s2.tidegate.json")).unwrap();
    let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "tide.local").unwrap();

    type_in(state, &format!("issue operator ada --out {at}/ada"));
    let (_, text) = type_in(state, "list");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("KIND") && lines[0].contains("DAYS LEFT"),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("device") && l.contains("sensor_001") && l.contains("1094")),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("operator") && l.contains("ada")),
        "{text}"
    );

    type_in(state, "revoke s2 --reason key-compromise");
    let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
    assert!(connect(&gateway.server_config(), &client, "tide.local").is_err());
    let (_, text) = type_in(state, "list --json");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let s2 = list
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == "s2")
        .unwrap();
    assert_eq!(s2["state"], "revoked");
    assert!(s2["days_left"].is_i64());

    let (outcome, text) = type_in(
        state,
        &format!("renew sensor_001 --out {at}/s1 --force --revoke-former"),
    );
    let Outcome::DeviceIssued(issued) = outcome else {
        panic!()
    };
    assert!(
        issued.bundle.secret.is_none() && text.contains("keeps the shared secret"),
        "{text}"
    );
    assert!(
        !bundles.path().join("s1/secret").exists(),
        "none that could be mistaken for it"
    );
    type_in(state, "renew server");
    type_in(state, "issue server --host other.local");
    type_in(state, "renew device-ca --new-key");
    let (_, text) = type_in(state, "crl");
    assert!(text.contains("Signed the revocation list of"), "{text}");
}

#[test]
fn nothing_is_issued_in_vain() {
    let gateway = Gateway::new();
    let state = gateway.state.path();
    let bundles = tempfile::tempdir().unwrap();
    let at = bundles.path().display();
    fs::write(bundles.path().join("secret"), "mine").unwrap();
    fs::write(bundles.path().join("ca.crt"), "mine").unwrap();
    let issued = || fs::read_dir(gateway.file("issued")).unwrap().count();
    let before = issued();
    for line in [
        format!("issue device a --out {at}"),
        format!("issue device a --bundle-file {at}/secret"),
        format!("issue operator a --out {at}"),
    ] {
        let error = try_run(state, &line).unwrap_err();
        assert!(matches!(error, PkiError::Exists(_)), "{line}: {error}");
        assert!(error.to_string().contains("--force"));
    }
    assert_eq!(issued(), before);
}

#[test]
fn the_command_line_is_checked_before_anything_happens() {
    for line in [
        "init --host 300.1.1.1",
        "issue device a --gateway nowhere:x",
        "issue device a --out x --bundle-file y",
        "revoke",
        "revoke a --cert b",
        "revoke a --reason because",
        "import --ca-cert x",
        "import --ca-cert x --ca-key y --trust-only",
        "import --ca-cert x --trust-only --role root",
    ] {
        let arguments = std::iter::once("pki").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(arguments).is_err(), "{line}");
    }
}

#[test]
fn an_openssl_authority_is_imported_by_command() {
    let gateway = Gateway::empty();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    openssl(
        at,
        "req -x509 -newkey rsa:2048 -nodes -days 99 -keyout ca.key -out ca.crt -subj /CN=MyCA",
    );
    let files = format!("--ca-cert {0}/ca.crt --ca-key {0}/ca.key", at.display());
    let (_, text) = type_in(
        gateway.state.path(),
        &format!("import {files} --host tide.local"),
    );
    assert!(
        text.contains("Imported CN=MyCA") && text.contains("go on working"),
        "{text}"
    );
    let (_, text) = type_in(gateway.state.path(), "list");
    assert!(text.contains("MyCA Device CA"), "{text}");
    let error = try_run(gateway.state.path(), &format!("import {files}")).unwrap_err();
    assert!(matches!(error, PkiError::AlreadyInitialised(_)));
    let (_, text) = type_in(
        gateway.state.path(),
        &format!("import --trust-only --ca-cert {}/ca.crt", at.display()),
    );
    assert!(
        text.contains("are let in, if they are registered"),
        "{text}"
    );
    let (_, text) = type_in(
        gateway.state.path(),
        &format!("import {files} --role both --force"),
    );
    assert!(
        text.contains("Note: with one authority for both sides"),
        "{text}"
    );
}

#[test]
fn profiles_can_come_from_a_folder() {
    let gateway = Gateway::empty();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("server.toml"), "oops").unwrap();
    let line = format!("init --profiles {}", folder.path().display());
    let error = try_run(gateway.state.path(), &line)
        .unwrap_err()
        .to_string();
    assert!(error.contains("server.toml"), "{error}");
}
