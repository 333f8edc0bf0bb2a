//! Authorities and devices that were made elsewhere, the way people make them with openssl.

use std::fs;
use std::path::Path;

use rustls::CertificateError;
use tempfile::TempDir;
use tidegate::pki::{
    self, Identity, Import, PeerError, PkiError, Reason, RevokeTarget, Role, credentials,
};

use crate::support::{
    Client, Gateway, Refused, VERSIONS, client_config, connect, hosts, now, openssl, request,
};

/// An RSA root that signs server and client directly, names in the common name only: what the
/// usual shell script makes. `v3` adds an (empty) extensions file, which openssl needs before
/// 3.2 to make anything newer than version 1.
fn script(v3: bool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    openssl(at, "genrsa -out ca.key 2048");
    openssl(
        at,
        "req -new -x509 -days 3650 -key ca.key -out ca.crt -subj /C=NL/O=Home/CN=MyCA",
    );
    for (name, common_name) in [("server", "raspberrypi.local"), ("client", "esp32_led")] {
        openssl(at, &format!("genrsa -out {name}.key 2048"));
        openssl(
            at,
            &format!(
                "req -new -key {name}.key -out {name}.csr -subj /C=NL/O=Home/CN={common_name}"
            ),
        );
        let extensions = if v3 {
            fs::write(at.join("ext"), "basicConstraints=CA:FALSE\n").unwrap();
            "-extfile ext"
        } else {
            ""
        };
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 3650 -sha256 {extensions}"
            ),
        );
    }
    folder
}

fn import_as(gateway: &Gateway, folder: &Path, role: Role) -> Result<pki::Imported, PkiError> {
    let request = Import {
        certificate: &folder.join("ca.crt"),
        key: &folder.join("ca.key"),
        role,
        name: None,
        hosts: &hosts(),
        force: false,
    };
    pki::import(&gateway.dir, &gateway.profiles, &request, now())
}

fn old_device(folder: &Path) -> Client {
    Client::read(&folder.join("client.crt"), &folder.join("client.key"))
}

/// The device in the field, which trusts nothing but the old ca.crt.
fn assert_old_device_connects(gateway: &Gateway, folder: &Path) {
    let ca = fs::read_to_string(folder.join("ca.crt")).unwrap();
    for version in VERSIONS {
        let client = client_config(&ca, Some(&old_device(folder)), version);
        let connected = connect(&gateway.server_config(), &client, "localhost").unwrap();
        let peer = gateway
            .credentials()
            .peer(connected.peer.as_deref(), now())
            .unwrap();
        assert_eq!(peer.identity, Identity::Device("esp32_led".into()));
    }
}

#[test]
fn devices_in_the_field_go_on_working_under_an_imported_root() {
    for v3 in [false, true] {
        let folder = script(v3);
        let gateway = Gateway::empty();
        let imported = import_as(&gateway, folder.path(), Role::Root).unwrap();
        assert!(imported.subject.contains("MyCA"));
        assert!(imported.initialised.is_some());
        assert_old_device_connects(&gateway, folder.path());
        // And new ones under its new intermediate.
        let bundle = gateway.device("new");
        for version in VERSIONS {
            let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), version);
            connect(&gateway.server_config(), &client, "localhost").unwrap();
        }
        // Which keeps the sides apart although the root is trusted for clients.
        let server = Client::read(&gateway.file("server.crt"), &gateway.file("server.key"));
        let client = client_config(&bundle.ca, Some(&server), VERSIONS[0]);
        assert!(matches!(
            connect(&gateway.server_config(), &client, "localhost"),
            Err(Refused::Server(_))
        ));
    }
}

#[test]
fn one_authority_for_everything_can_stay_one() {
    let folder = script(false);
    let gateway = Gateway::empty();
    import_as(&gateway, folder.path(), Role::Both).unwrap();
    assert_old_device_connects(&gateway, folder.path());
    let bundle = gateway.device("new");
    assert_eq!(
        bundle.certificate.matches("BEGIN").count(),
        1,
        "the root is no part of the chain"
    );
    let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "localhost").unwrap();
    // A new server certificate cannot log in even so: its usage forbids it.
    let server = Client::read(&gateway.file("server.crt"), &gateway.file("server.key"));
    let client = client_config(&bundle.ca, Some(&server), VERSIONS[0]);
    assert!(connect(&gateway.server_config(), &client, "localhost").is_err());
}

#[test]
fn an_authority_can_be_trusted_for_clients_beside_ours() {
    let folder = script(false);
    let gateway = Gateway::new();
    let ours = gateway.device("ours");
    let try_old = || {
        let client = client_config(&ours.ca, Some(&old_device(folder.path())), VERSIONS[0]);
        connect(&gateway.server_config(), &client, "localhost")
    };
    assert!(matches!(
        try_old(),
        Err(Refused::Server(error)) if error == CertificateError::UnknownIssuer.into()
    ));
    pki::trust(&gateway.dir, &folder.path().join("ca.crt"), now()).unwrap();
    let connected = try_old().unwrap();
    let peer = gateway
        .credentials()
        .peer(connected.peer.as_deref(), now())
        .unwrap();
    assert_eq!(peer.identity, Identity::Device("esp32_led".into()));
    // Revoked by its file, though its authority can sign no list here.
    let target = RevokeTarget::File(folder.path().join("client.crt"));
    let revoked = pki::revoke(&gateway.dir, &target, Reason::KeyCompromise, now()).unwrap();
    assert!(
        revoked
            .crl
            .skipped
            .iter()
            .any(|subject| subject.contains("MyCA"))
    );
    assert!(matches!(
        try_old(),
        Err(Refused::Server(error)) if error == CertificateError::Revoked.into()
    ));
    assert!(matches!(
        pki::revoke(&gateway.dir, &target, Reason::KeyCompromise, now()),
        Err(PkiError::NothingToRevoke(_))
    ));
}

#[test]
fn two_authorities_of_one_name_do_not_shut_each_other_out() {
    let (first, second) = (script(false), script(false));
    let gateway = Gateway::empty();
    import_as(&gateway, first.path(), Role::Root).unwrap();
    pki::trust(&gateway.dir, &second.path().join("ca.crt"), now()).unwrap();
    let ca = fs::read_to_string(first.path().join("ca.crt")).unwrap();
    for folder in [&first, &second] {
        for version in VERSIONS {
            let client = client_config(&ca, Some(&old_device(folder.path())), version);
            connect(&gateway.server_config(), &client, "localhost").unwrap();
        }
    }
}

#[test]
fn an_old_certificate_is_verified_as_strictly_as_a_new_one() {
    let (folder, other) = (script(false), script(false));
    let gateway = Gateway::empty();
    import_as(&gateway, folder.path(), Role::Root).unwrap();
    let ca = fs::read_to_string(folder.path().join("ca.crt")).unwrap();
    let refusal = |client: &Client, version| {
        let client = client_config(&ca, Some(client), version);
        match connect(&gateway.server_config(), &client, "localhost") {
            Err(Refused::Server(error)) => error,
            other => panic!("should have been refused: {other:?}"),
        }
    };
    for version in VERSIONS {
        // Another authority of the same name.
        let error = refusal(&old_device(other.path()), version);
        assert_eq!(error, CertificateError::UnknownIssuer.into());
        // Somebody else's key.
        let thief = Client {
            chain: old_device(folder.path()).chain,
            key: old_device(other.path()).key,
        };
        assert_eq!(
            refusal(&thief, version),
            CertificateError::BadSignature.into()
        );
        // One bit changed in the name.
        let mut forged = old_device(folder.path());
        let mut der = forged.chain[0].to_vec();
        let at = der
            .windows(9)
            .position(|window| window == b"esp32_led")
            .unwrap();
        der[at] ^= 1;
        forged.chain[0] = der.into();
        assert_eq!(
            refusal(&forged, version),
            CertificateError::UnknownIssuer.into()
        );
    }
    // Expired, and signed with SHA-1.
    let at = folder.path();
    for (name, arguments, expected) in [
        ("expired", "-days -1 -sha256", CertificateError::Expired),
        ("sha1", "-days 9 -sha1", CertificateError::UnknownIssuer),
    ] {
        openssl(
            at,
            &format!(
                "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -out {name}.crt {arguments}"
            ),
        );
        let client = Client::read(&at.join(format!("{name}.crt")), &at.join("client.key"));
        for version in VERSIONS {
            assert_eq!(refusal(&client, version), expected.clone().into(), "{name}");
        }
    }
    // A server certificate of the old script has no device's name.
    let server = Client::read(&at.join("server.crt"), &at.join("server.key"));
    let error = credentials::refusal(&refusal(&server, VERSIONS[0]));
    assert!(error.contains("is not a device id"), "{error}");
}

#[test]
fn old_devices_with_elliptic_curve_keys_work_too() {
    let folder = script(false);
    let at = folder.path();
    let gateway = Gateway::empty();
    import_as(&gateway, at, Role::Root).unwrap();
    for curve in ["prime256v1", "secp384r1"] {
        openssl(
            at,
            &format!("ecparam -name {curve} -genkey -noout -out client.key"),
        );
        openssl(
            at,
            "req -new -key client.key -out client.csr -subj /CN=esp32_led",
        );
        openssl(
            at,
            "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -out client.crt -days 9 -sha256",
        );
        assert_old_device_connects(&gateway, at);
    }
}

#[test]
fn a_foreign_authority_certifies_no_operators() {
    let folder = script(false);
    let at = folder.path();
    let gateway = Gateway::new();
    let ours = gateway.device("ours");
    pki::trust(&gateway.dir, &at.join("ca.crt"), now()).unwrap();
    fs::write(
        at.join("ext"),
        "subjectAltName=URI:urn:tidegate:operator:root\n",
    )
    .unwrap();
    openssl(
        at,
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -out op.crt -days 9 -extfile ext",
    );
    let client = Client::read(&at.join("op.crt"), &at.join("client.key"));
    let client = client_config(&ours.ca, Some(&client), VERSIONS[0]);
    let connected = connect(&gateway.server_config(), &client, "localhost").unwrap();
    assert_eq!(
        gateway.credentials().peer(connected.peer.as_deref(), now()),
        Err(PeerError::ForeignOperator("root".into()))
    );
}

#[test]
fn keys_are_taken_in_every_common_form() {
    let makers: [&[&str]; 5] = [
        &["genrsa -traditional -out ca.key 2048"],
        &["genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out ca.key"],
        // With its EC PARAMETERS block in front.
        &["ecparam -name prime256v1 -genkey -out ca.key"],
        &["genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -out ca.key"],
        &[
            "ecparam -name prime256v1 -genkey -noout -out sec1",
            "pkcs8 -topk8 -nocrypt -in sec1 -out ca.key",
        ],
    ];
    for maker in makers {
        let folder = tempfile::tempdir().unwrap();
        for arguments in maker {
            openssl(folder.path(), arguments);
        }
        openssl(
            folder.path(),
            "req -new -x509 -days 99 -key ca.key -out ca.crt -subj /CN=Old",
        );
        let gateway = Gateway::empty();
        import_as(&gateway, folder.path(), Role::Root).unwrap_or_else(|e| panic!("{maker:?}: {e}"));
        let bundle = gateway.device("a");
        let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
        connect(&gateway.server_config(), &client, "localhost").unwrap();
        // The copy of the key is the same key, in a form openssl reads.
        openssl(gateway.dir.path(), "pkey -in root.key -noout -check");
    }
}

#[test]
fn encrypted_keys_are_refused_with_the_way_out() {
    for arguments in [
        "genrsa -traditional -aes128 -passout pass:x -out ca2.key 2048",
        "genpkey -algorithm RSA -aes256 -pass pass:x -out ca2.key",
    ] {
        let folder = script(false);
        openssl(folder.path(), arguments);
        fs::rename(folder.path().join("ca2.key"), folder.path().join("ca.key")).unwrap();
        let error = import_as(&Gateway::empty(), folder.path(), Role::Root).unwrap_err();
        assert!(matches!(error, PkiError::EncryptedKey(_)));
        assert!(error.to_string().contains("openssl pkey -in"), "{error}");
    }
}

#[test]
fn what_is_no_authority_is_not_imported() {
    let folder = script(false);
    let at = folder.path();
    let gateway = Gateway::empty();
    let attempt = |certificate: &str, key: &str, role| {
        let request = Import {
            certificate: &at.join(certificate),
            key: &at.join(key),
            role,
            name: None,
            hosts: &hosts(),
            force: false,
        };
        pki::import(&gateway.dir, &gateway.profiles, &request, now()).unwrap_err()
    };
    assert!(
        attempt("server.crt", "server.key", Role::Root)
            .to_string()
            .contains("not a certificate authority")
    );
    assert!(matches!(
        attempt("ca.crt", "client.key", Role::Root),
        PkiError::KeyMismatch { .. }
    ));
    assert!(matches!(
        attempt("ca.key", "ca.key", Role::Root),
        PkiError::BadFile { .. }
    ));
    assert!(matches!(
        attempt("missing", "ca.key", Role::Root),
        PkiError::Io { .. }
    ));
    assert!(matches!(
        attempt("ca.crt", "ca.key", Role::DeviceCa),
        PkiError::NotInitialised(_)
    ));
    openssl(
        at,
        "req -new -x509 -days 99 -key ca.key -out short.crt -subj /CN=x -addext basicConstraints=critical,CA:TRUE,pathlen:0",
    );
    assert!(
        attempt("short.crt", "ca.key", Role::Root)
            .to_string()
            .contains("--role both")
    );
    openssl(at, "genrsa -out weak.key 1024");
    openssl(
        at,
        "req -new -x509 -days 99 -key weak.key -out weak.crt -subj /CN=x",
    );
    assert!(
        attempt("weak.crt", "weak.key", Role::Root)
            .to_string()
            .contains("1024 bits is too weak")
    );
    assert!(!gateway.dir.is_initialised());
    let left: Vec<_> = fs::read_dir(gateway.state.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| name == "pki.lock"), "{left:?}");
}

#[test]
fn an_imported_device_authority_takes_over_and_the_former_devices_stay() {
    let folder = script(true);
    let gateway = Gateway::new();
    let former = gateway.device("former");
    import_as(&gateway, folder.path(), Role::DeviceCa).unwrap();
    let new = gateway.device("new");
    for bundle in [&former, &new] {
        let client = client_config(&former.ca, Some(&Client::of(bundle)), VERSIONS[1]);
        connect(&gateway.server_config(), &client, "localhost").unwrap();
    }
    let client = client_config(&former.ca, Some(&old_device(folder.path())), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "localhost").unwrap();
    // Its former devices can still be revoked, with a signed list.
    let target = RevokeTarget::Name("former".into());
    let revoked = pki::revoke(&gateway.dir, &target, Reason::Superseded, now()).unwrap();
    assert!(revoked.crl.skipped.is_empty(), "{:?}", revoked.crl);
}

#[test]
fn an_imported_gateway_authority_serves_devices_that_trust_only_it() {
    let folder = script(false);
    let gateway = Gateway::new();
    import_as(&gateway, folder.path(), Role::GatewayCa).unwrap();
    let device = gateway.device("a");
    let old_trust = fs::read_to_string(folder.path().join("ca.crt")).unwrap();
    assert_eq!(
        device.ca.trim(),
        old_trust.trim(),
        "new devices trust it too"
    );
    let client = client_config(&old_trust, Some(&Client::of(&device)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "gateway.local").unwrap();
    // It signs servers; it lets nobody in.
    let client = client_config(&old_trust, Some(&old_device(folder.path())), VERSIONS[0]);
    assert!(connect(&gateway.server_config(), &client, "gateway.local").is_err());
}

#[test]
fn a_name_that_cannot_be_reproduced_is_noticed_before_it_does_harm() {
    let folder = tempfile::tempdir().unwrap();
    openssl(folder.path(), "genrsa -out ca.key 2048");
    openssl(
        folder.path(),
        "req -new -x509 -days 99 -key ca.key -out ca.crt -subj /O=Home/OU=a/OU=b/CN=x",
    );
    let gateway = Gateway::empty();
    let error = import_as(&gateway, folder.path(), Role::Root).unwrap_err();
    assert!(
        error.to_string().contains("cannot be reproduced"),
        "{error}"
    );
    assert!(!gateway.dir.is_initialised());
    // It can still vouch for its clients.
    let gateway = Gateway::new();
    pki::trust(&gateway.dir, &folder.path().join("ca.crt"), now()).unwrap();
    credentials::load(&gateway.dir, now()).unwrap();
}

#[test]
fn a_device_key_need_never_leave_the_device() {
    let gateway = Gateway::new();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    openssl(
        at,
        "ecparam -name prime256v1 -genkey -noout -out device.key",
    );
    openssl(
        at,
        "req -new -key device.key -out device.csr -subj /CN=sensor_001 -addext subjectAltName=DNS:localhost -addext extendedKeyUsage=serverAuth",
    );
    let csr = |name: &str| pki::SigningRequest::read(&at.join(name));
    let mut order = request("sensor_001");
    order.csr = Some(csr("device.csr").unwrap());
    let bundle = pki::issue_device(&gateway.dir, &gateway.profiles, &order, now())
        .unwrap()
        .bundle;
    assert!(bundle.key.is_none());
    fs::write(at.join("device.crt"), &bundle.certificate).unwrap();
    let client = Client::read(&at.join("device.crt"), &at.join("device.key"));
    let client = client_config(&bundle.ca, Some(&client), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "localhost").unwrap();
    // What the request asked for beyond its key was not granted.
    let text = openssl(at, "x509 -in device.crt -noout -text");
    assert!(text.contains("TLS Web Client Authentication"), "{text}");
    assert!(!text.contains("TLS Web Server Authentication") && !text.contains("localhost"));

    // DER as well; but not for somebody else, not damaged, not weak.
    openssl(at, "req -in device.csr -outform DER -out device.der");
    csr("device.der").unwrap();
    order.id = "sensor_002".into();
    let error = pki::issue_device(&gateway.dir, &gateway.profiles, &order, now()).unwrap_err();
    assert!(
        error.to_string().contains("was made for `sensor_001`"),
        "{error}"
    );
    let mut der = fs::read(at.join("device.der")).unwrap();
    let at_name = der
        .windows(10)
        .position(|window| window == b"sensor_001")
        .unwrap();
    der[at_name] ^= 1;
    fs::write(at.join("changed.der"), der).unwrap();
    assert!(
        csr("changed.der")
            .unwrap_err()
            .to_string()
            .contains("signature is wrong")
    );
    openssl(
        at,
        "req -new -newkey rsa:1024 -nodes -keyout weak.key -out weak.csr -subj /CN=x",
    );
    assert!(
        csr("weak.csr")
            .unwrap_err()
            .to_string()
            .contains("shorter than 2048")
    );
    fs::write(at.join("noise"), "hello").unwrap();
    assert!(matches!(csr("noise"), Err(PkiError::BadRequest { .. })));
}
