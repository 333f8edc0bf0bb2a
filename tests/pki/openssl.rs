//! What openssl makes of what was issued.

use std::fs;

use tidegate::pki::{self, OperatorRequest, Reason, RevokeTarget};

use crate::support::{Gateway, now, openssl, try_openssl};

/// The issued files in one folder, under names for openssl's command line.
fn laid_out() -> (Gateway, tempfile::TempDir) {
    let gateway = Gateway::new();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    gateway
        .device("sensor_001")
        .write_folder(&at.join("sensor_001"), false)
        .unwrap();
    for name in [
        "root.crt",
        "gateway-ca.crt",
        "device-ca.crt",
        "server.crt",
        "crl.pem",
    ] {
        fs::copy(gateway.file(name), at.join(name)).unwrap();
    }
    let both = ["gateway-ca.crt", "device-ca.crt"].map(|n| fs::read_to_string(at.join(n)).unwrap());
    fs::write(at.join("intermediates.pem"), both.concat()).unwrap();
    (gateway, folder)
}

#[test]
fn the_chains_verify_for_their_purpose_and_no_other() {
    let (_gateway, folder) = laid_out();
    let at = folder.path();
    let verify = |purpose: &str, leaf: &str| {
        let arguments = format!(
            "verify -x509_strict -CAfile sensor_001/ca.crt -untrusted intermediates.pem -purpose {purpose} {leaf}"
        );
        try_openssl(at, &arguments)
    };
    for (purpose, leaf, expected) in [
        ("sslclient", "sensor_001/device.crt", true),
        ("sslserver", "sensor_001/device.crt", false),
        ("sslserver", "server.crt", true),
        ("sslclient", "server.crt", false),
    ] {
        let (ok, output) = verify(purpose, leaf);
        assert_eq!(ok, expected, "{purpose} {leaf}: {output}");
    }
    for host in [
        "-verify_hostname gateway.local",
        "-verify_ip 192.0.2.7",
        "-verify_ip ::1",
    ] {
        openssl(
            at,
            &format!("verify -CAfile root.crt -untrusted server.crt {host} server.crt"),
        );
    }
    let (ok, _) = try_openssl(
        at,
        "verify -CAfile root.crt -untrusted server.crt -verify_hostname elsewhere server.crt",
    );
    assert!(!ok);
}

#[test]
fn the_certificates_say_what_the_profiles_ask_for() {
    let (_gateway, folder) = laid_out();
    let text = |file: &str| openssl(folder.path(), &format!("x509 -in {file} -noout -text"));
    let device = text("sensor_001/device.crt");
    for expected in [
        "URI:urn:tidegate:device:sensor_001",
        "CN = sensor_001",
        "Digital Signature",
        "TLS Web Client Authentication",
        "CA:FALSE",
        "NIST CURVE: P-256",
        "ecdsa-with-SHA256",
        "Authority Key Identifier",
    ] {
        assert!(device.contains(expected), "{expected} in {device}");
    }
    assert!(!device.contains("Server Authentication") && !device.contains("Certificate Sign"));
    let device_ca = text("device-ca.crt");
    for expected in [
        "CA:TRUE, pathlen:0",
        "Client Authentication",
        "Excluded",
        "IP:0.0.0.0/0.0.0.0",
    ] {
        assert!(device_ca.contains(expected), "{expected} in {device_ca}");
    }
    assert!(!device_ca.contains("Server Authentication"));
    let gateway_ca = text("gateway-ca.crt");
    assert!(gateway_ca.contains("Server Authentication") && !gateway_ca.contains("Client Auth"));
    assert!(text("root.crt").contains("CA:TRUE, pathlen:1"));
    // 16 octets, positive.
    let serial = openssl(
        folder.path(),
        "x509 -in sensor_001/device.crt -noout -serial",
    );
    let digits = serial.trim().strip_prefix("serial=").unwrap();
    assert_eq!(digits.len(), 32, "{serial}");
    assert!(u8::from_str_radix(&digits[..2], 16).unwrap() < 0x80);
    // The folder's key belongs to its certificate.
    let public = |arguments: &str| openssl(folder.path(), arguments);
    assert_eq!(
        public("x509 -in sensor_001/device.crt -noout -pubkey"),
        public("pkey -in sensor_001/device.key -pubout")
    );
}

#[test]
fn the_signed_lists_verify_and_revoke_for_openssl_too() {
    let (gateway, folder) = laid_out();
    let at = folder.path();
    let check = "verify -crl_check_all -CAfile root.crt -CRLfile crl.pem -untrusted intermediates.pem sensor_001/device.crt";
    openssl(at, check);
    // The file for other servers on this machine: clients' authorities and nothing of the server's.
    fs::copy(gateway.file("clients.pem"), at.join("clients.pem")).unwrap();
    openssl(
        at,
        "verify -crl_check_all -CAfile clients.pem -CRLfile crl.pem -purpose sslclient sensor_001/device.crt",
    );
    let clients = fs::read_to_string(at.join("clients.pem")).unwrap();
    assert_eq!(clients.matches("BEGIN").count(), 2);
    assert!(
        !clients.contains(
            fs::read_to_string(at.join("gateway-ca.crt"))
                .unwrap()
                .trim()
        )
    );
    let number = |at| openssl(at, "crl -in crl.pem -noout -crlnumber");
    let before = number(at);
    let target = RevokeTarget::Name("sensor_001".into());
    let revoked = pki::revoke(&gateway.dir, &target, Reason::KeyCompromise, now()).unwrap();
    fs::copy(gateway.file("crl.pem"), at.join("crl.pem")).unwrap();
    let (ok, output) = try_openssl(at, check);
    assert!(!ok && output.contains("certificate revoked"), "{output}");
    assert_ne!(before, number(at));

    // The devices' list comes first, where simple tools look.
    let (_, output) = try_openssl(at, "crl -in crl.pem -noout -verify -CAfile device-ca.crt");
    assert!(output.contains("verify OK"), "{output}");
    let text = openssl(at, "crl -in crl.pem -noout -text");
    assert!(text.contains("Key Compromise"), "{text}");
    assert!(
        text.to_lowercase()
            .contains(&revoked.serials[0].to_string()),
        "{text}"
    );
    // And one for every authority.
    let all = fs::read_to_string(at.join("crl.pem")).unwrap();
    let lists: Vec<_> = all.split_inclusive("-----END X509 CRL-----\n").collect();
    assert_eq!(lists.len(), 3);
    for (list, authority) in lists.iter().zip(["device-ca", "gateway-ca", "root"]) {
        fs::write(at.join("one.pem"), list).unwrap();
        let (_, output) = try_openssl(
            at,
            &format!("crl -in one.pem -noout -verify -CAfile {authority}.crt"),
        );
        assert!(output.contains("verify OK"), "{authority}: {output}");
    }
}

#[test]
fn an_operator_file_becomes_pkcs12() {
    let (gateway, folder) = laid_out();
    let order = OperatorRequest {
        name: "ada".into(),
        csr: None,
        force: false,
    };
    let issued = pki::issue_operator(&gateway.dir, &gateway.profiles, &order, now()).unwrap();
    issued.write(&folder.path().join("ada"), false).unwrap();
    openssl(
        folder.path(),
        "pkcs12 -export -in ada/ada.crt -inkey ada/ada.key -out ada.p12 -passout pass:x",
    );
    let text = openssl(folder.path(), "x509 -in ada/ada.crt -noout -text");
    assert!(text.contains("URI:urn:tidegate:operator:ada"));
}
