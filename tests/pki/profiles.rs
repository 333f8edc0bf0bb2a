//! Profiles: strict, and unable to undo what keeps devices and gateway apart.

use std::fs;

use tidegate::pki::{self, Kind, PkiError, Profiles};

use crate::support::{Gateway, hosts, now, openssl, request};

const SHIPPED: [(Kind, &str); 6] = [
    (Kind::Root, include_str!("../../certs/profiles/root.toml")),
    (
        Kind::GatewayCa,
        include_str!("../../certs/profiles/gateway-ca.toml"),
    ),
    (
        Kind::DeviceCa,
        include_str!("../../certs/profiles/device-ca.toml"),
    ),
    (
        Kind::Server,
        include_str!("../../certs/profiles/server.toml"),
    ),
    (
        Kind::Device,
        include_str!("../../certs/profiles/device.toml"),
    ),
    (
        Kind::Operator,
        include_str!("../../certs/profiles/operator.toml"),
    ),
];

fn shipped(kind: Kind) -> &'static str {
    SHIPPED.iter().find(|(k, _)| *k == kind).unwrap().1
}

fn load(name: &str, text: &str) -> Result<Profiles, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    Profiles::load(folder.path()).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_profiles_are_valid_and_an_empty_folder_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        Profiles::load(folder.path()).unwrap(),
        Profiles::embedded().unwrap()
    );
    for (kind, text) in SHIPPED {
        assert_eq!(
            load(&format!("{kind}.toml"), text).unwrap(),
            Profiles::embedded().unwrap()
        );
    }
}

#[test]
fn mistakes_are_reported_with_file_and_key() {
    let device = shipped(Kind::Device);
    for (file, text, expected) in [
        ("device.toml", device.replace("days", "dayz"), "dayz"),
        (
            "device.toml",
            device.replace("days = 1095", "days = 0"),
            "validity.days",
        ),
        (
            "device.toml",
            device.replace("days = 1095", "days = \"x\""),
            "days",
        ),
        (
            "device.toml",
            device.replace("common_name = \"{id}\"", "common_name = \"{ip}\""),
            "unknown placeholder {ip}",
        ),
        (
            "device.toml",
            device.replace("common_name = \"{id}\"", "common_name = \"{id\""),
            "subject.common_name",
        ),
        (
            "device.toml",
            device.replace("common_name = \"{id}\"", "common_name = \"\""),
            "subject.common_name",
        ),
        (
            "device.toml",
            device.replace("[subject]", "[subject]\ncountry = \"Holland\""),
            "subject.country",
        ),
        ("device.toml", String::new(), "subject"),
        ("devices.toml", device.to_owned(), "devices.toml"),
    ] {
        let error = load(file, &text).unwrap_err();
        assert!(error.contains(file) && error.contains(expected), "{error}");
    }
    assert!(matches!(
        Profiles::load(std::path::Path::new("/nowhere")),
        Err(PkiError::Profile { .. })
    ));
}

#[test]
fn a_profile_cannot_pull_down_a_wall() {
    let replace = |kind: Kind, from: &str, to: &str| {
        let text = shipped(kind);
        assert!(text.contains(from), "{kind}: {from}");
        load(&format!("{kind}.toml"), &text.replace(from, to)).unwrap_err()
    };
    for (kind, from, to, key) in [
        (
            Kind::Device,
            "[\"client_auth\"]",
            "[\"client_auth\", \"server_auth\"]",
            "usage.extended",
        ),
        (
            Kind::Device,
            "extended = [\"client_auth\"]",
            "",
            "usage.extended",
        ),
        (
            Kind::Device,
            "[\"digital_signature\"]",
            "[\"digital_signature\", \"key_cert_sign\"]",
            "usage.key",
        ),
        (
            Kind::Device,
            "urn:tidegate:device:{id}",
            "urn:tidegate:device:x",
            "names.uri",
        ),
        (
            Kind::Operator,
            "urn:tidegate:operator:{id}",
            "urn:tidegate:device:{id}",
            "names.uri",
        ),
        (
            Kind::Server,
            "[\"server_auth\"]",
            "[\"client_auth\"]",
            "usage.extended",
        ),
        (
            Kind::DeviceCa,
            "[\"client_auth\"]",
            "[\"server_auth\"]",
            "usage.extended",
        ),
        (Kind::DeviceCa, "forbid_hosts = true", "", "ca.forbid_hosts"),
        (
            Kind::DeviceCa,
            "path_length = 0",
            "path_length = 1",
            "ca.path_length",
        ),
        (
            Kind::GatewayCa,
            "path_length = 0",
            "path_length = 0\nforbid_hosts = true",
            "ca.forbid_hosts",
        ),
        (
            Kind::GatewayCa,
            "[\"server_auth\"]",
            "[\"client_auth\"]",
            "usage.extended",
        ),
        (
            Kind::Root,
            "path_length = 1",
            "path_length = 0",
            "ca.path_length",
        ),
    ] {
        let error = replace(kind, from, to);
        assert!(error.contains(key), "{error}");
    }
    let error = load(
        "device.toml",
        &(shipped(Kind::Device).to_owned() + "\n[ca]\npath_length = 0\n"),
    );
    assert!(error.unwrap_err().contains("ca: "));
}

#[test]
fn names_and_lifetimes_come_from_the_profile() {
    let folder = tempfile::tempdir().unwrap();
    let text = shipped(Kind::Device)
        .replace("days = 1095", "days = 30")
        .replace(
            "common_name",
            "organization = \"Waterworks\"\ncountry = \"NL\"\ncommon_name",
        );
    fs::write(folder.path().join("device.toml"), text).unwrap();
    let profiles = Profiles::load(folder.path()).unwrap();
    let gateway = Gateway::empty();
    pki::init(&gateway.dir, &profiles, "Test", &hosts(), false, now()).unwrap();
    let issued = pki::issue_device(&gateway.dir, &profiles, &request("a"), now()).unwrap();
    assert_eq!((issued.not_after - now()).whole_days(), 29);
    fs::write(folder.path().join("a.crt"), &issued.bundle.certificate).unwrap();
    let subject = openssl(folder.path(), "x509 -in a.crt -noout -subject");
    assert_eq!(subject.trim(), "subject=C = NL, O = Waterworks, CN = a");
}

#[test]
fn a_name_that_is_too_long_is_an_error_and_leaves_nothing_behind() {
    let gateway = Gateway::empty();
    let name = "x".repeat(60);
    let error = pki::init(
        &gateway.dir,
        &gateway.profiles,
        &name,
        &hosts(),
        false,
        now(),
    );
    assert!(error.unwrap_err().to_string().contains("longer than 64"));
    assert!(!gateway.dir.path().exists());
}
