//! Who gets through the handshake, as what, and who does not.

use std::fs;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::{CertificateError, Error, HandshakeKind, NamedGroup};
use tidegate::pki::{
    self, ClientAuth, Identity, OperatorRequest, PeerError, Profiles, Reason, RevokeTarget,
    TlsOptions, credentials,
};
use time::Duration;

use crate::support::{
    Client, Connected, Gateway, Refused, VERSIONS, certificates, client_config, connect, now,
    request, server_config,
};

fn refused_by_server(result: Result<Connected, Refused>) -> Error {
    match result {
        Err(Refused::Server(error)) => error,
        // In TLS 1.3 the client is done first; in memory the server's verdict comes in the same
        // round, so a client-side error here would be a different failure.
        other => panic!("the server should have refused: {other:?}"),
    }
}

fn params(usage: &[ExtendedKeyUsagePurpose], names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "sensor_001");
    params.extended_key_usages = usage.to_vec();
    params.subject_alt_names = names;
    params
}

fn device_uri() -> SanType {
    SanType::URI("urn:tidegate:device:sensor_001".try_into().unwrap())
}

#[test]
fn a_device_connects_as_itself() {
    let gateway = Gateway::new();
    let bundle = gateway.device("sensor_001");
    let server = gateway.server_config();
    for version in VERSIONS {
        for host in ["gateway.local", "localhost", "192.0.2.7", "::1"] {
            let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), version);
            let connected = connect(&server, &client, host).unwrap();
            let peer = gateway
                .credentials()
                .peer(connected.peer.as_deref(), now())
                .unwrap();
            assert_eq!(peer.identity, Identity::Device("sensor_001".into()));
        }
    }
}

#[test]
fn an_operator_connects_as_operator() {
    let gateway = Gateway::new();
    let order = OperatorRequest {
        name: "ada".into(),
        csr: None,
        force: false,
    };
    let issued = pki::issue_operator(&gateway.dir, &gateway.profiles, &order, now()).unwrap();
    let client = Client::new(&issued.certificate, issued.key.as_ref().unwrap());
    let client = client_config(&issued.ca, Some(&client), VERSIONS[0]);
    let connected = connect(&gateway.server_config(), &client, "localhost").unwrap();
    let peer = gateway
        .credentials()
        .peer(connected.peer.as_deref(), now())
        .unwrap();
    assert_eq!(peer.identity, Identity::Operator("ada".into()));
}

#[test]
fn the_key_exchange_is_post_quantum_first() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
    let connected = connect(&gateway.server_config(), &client, "localhost").unwrap();
    assert_eq!(connected.group, Some(NamedGroup::X25519MLKEM768));
    let first = credentials::provider().kx_groups[0].name();
    assert_eq!(first, NamedGroup::X25519MLKEM768);
}

#[test]
fn without_a_certificate_nobody_gets_in_unless_the_listener_says_so() {
    let gateway = Gateway::new();
    let ca = gateway.device("a").ca;
    let credentials = gateway.credentials();
    let open =
        credentials::server_config(&credentials, ClientAuth::None, &TlsOptions::default()).unwrap();
    for version in VERSIONS {
        let client = client_config(&ca, None, version);
        let error = refused_by_server(connect(&server_config(&credentials), &client, "localhost"));
        assert_eq!(error, Error::NoCertificatesPresented);
        let connected = connect(&Arc::new(open.clone()), &client, "localhost").unwrap();
        assert_eq!(
            credentials.peer(connected.peer.as_deref(), now()),
            Err(PeerError::NoCertificate)
        );
    }
}

#[test]
fn the_server_certificate_cannot_log_in() {
    let gateway = Gateway::new();
    let ca = gateway.device("a").ca;
    let client = Client::read(&gateway.file("server.crt"), &gateway.file("server.key"));
    for version in VERSIONS {
        let client = client_config(&ca, Some(&client), version);
        refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
    }
}

#[test]
fn what_the_root_or_the_gateway_ca_signs_cannot_log_in() {
    let gateway = Gateway::new();
    let ca = gateway.device("a").ca;
    for issuer in ["root", "gateway-ca"] {
        for usage in [&[][..], &[ExtendedKeyUsagePurpose::ClientAuth]] {
            let mut client = gateway.forge(issuer, &params(usage, vec![device_uri()]));
            // With every intermediate there is, so that no path is missing.
            for name in ["gateway-ca.crt", "device-ca.crt", "root.crt"] {
                client.chain.extend(certificates(
                    &fs::read_to_string(gateway.file(name)).unwrap(),
                ));
            }
            for version in VERSIONS {
                let client = client_config(&ca, Some(&client), version);
                refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
            }
        }
    }
}

#[test]
fn a_device_cannot_pose_as_the_gateway_even_with_the_device_cas_key() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let host = || SanType::DnsName("localhost".try_into().unwrap());
    let honest = Client::of(&bundle);
    let forgeries = [
        gateway.forge(
            "device-ca",
            &params(&[ExtendedKeyUsagePurpose::ServerAuth], vec![host()]),
        ),
        gateway.forge("device-ca", &params(&[], vec![host()])),
        gateway.forge(
            "device-ca",
            &params(
                &[ExtendedKeyUsagePurpose::ServerAuth],
                vec![SanType::IpAddress("127.0.0.1".parse().unwrap())],
            ),
        ),
    ];
    for pretender in std::iter::once(&honest).chain(&forgeries) {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&pretender.key).unwrap();
        let certified = rustls::sign::CertifiedKey::new(pretender.chain.clone(), key);
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(credentials::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let server = Arc::new(server);
        for (version, host) in VERSIONS
            .iter()
            .flat_map(|v| [(*v, "localhost"), (*v, "127.0.0.1")])
        {
            let client = client_config(&bundle.ca, None, version);
            match connect(&server, &client, host) {
                Err(Refused::Client(Error::InvalidCertificate(_))) => {}
                other => panic!("the client should have refused: {other:?}"),
            }
        }
    }
}

#[test]
fn another_authoritys_device_is_refused() {
    let (gateway, other) = (Gateway::new(), Gateway::new());
    let ca = gateway.device("a").ca;
    let client = Client::of(&other.device("a"));
    for version in VERSIONS {
        let client = client_config(&ca, Some(&client), version);
        let error = refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
        assert_eq!(error, CertificateError::UnknownIssuer.into());
    }
}

#[test]
fn somebody_elses_key_does_not_fit_the_certificate() {
    let gateway = Gateway::new();
    let (a, b) = (gateway.device("a"), gateway.device("b"));
    let client = Client::new(&a.certificate, b.key.as_ref().unwrap());
    for version in VERSIONS {
        let client = client_config(&a.ca, Some(&client), version);
        let error = refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
        assert_eq!(error, CertificateError::BadSignature.into());
    }
}

#[test]
fn a_certificate_that_names_two_devices_is_refused_in_the_handshake() {
    let gateway = Gateway::new();
    let ca = gateway.device("a").ca;
    let second = SanType::URI("urn:tidegate:operator:root".try_into().unwrap());
    let usage = [ExtendedKeyUsagePurpose::ClientAuth];
    let client = gateway.forge("device-ca", &params(&usage, vec![device_uri(), second]));
    let client = client_config(&ca, Some(&client), VERSIONS[0]);
    let error = refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
    let text = credentials::refusal(&error);
    assert!(text.contains("carries 2 Tidegate names"), "{text}");
}

#[test]
fn an_expired_device_is_refused() {
    let gateway = Gateway::new();
    let folder = tempfile::tempdir().unwrap();
    let profile =
        include_str!("../../certs/profiles/device.toml").replace("days = 1095", "days = 1");
    fs::write(folder.path().join("device.toml"), profile).unwrap();
    let profiles = Profiles::load(folder.path()).unwrap();
    let then = now() - Duration::days(2);
    let issued = pki::issue_device(&gateway.dir, &profiles, &request("old"), then).unwrap();
    for version in VERSIONS {
        let client = client_config(
            &issued.bundle.ca,
            Some(&Client::of(&issued.bundle)),
            version,
        );
        let error = refused_by_server(connect(&gateway.server_config(), &client, "localhost"));
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
            ),
            "{error}"
        );
    }
    let chain = certificates(&issued.bundle.certificate);
    assert_eq!(
        gateway.credentials().peer(Some(&chain), now()),
        Err(PeerError::NotValidNow("old".into()))
    );
}

fn revoke(gateway: &Gateway, name: &str) -> pki::Revoked {
    let target = RevokeTarget::Name(name.into());
    pki::revoke(&gateway.dir, &target, Reason::KeyCompromise, now()).unwrap()
}

fn is_refused_as_revoked(gateway: &Gateway, bundle: &pki::Bundle) -> bool {
    let server = gateway.server_config();
    VERSIONS.iter().all(|version| {
        let client = client_config(&bundle.ca, Some(&Client::of(bundle)), version);
        refused_by_server(connect(&server, &client, "localhost"))
            == CertificateError::Revoked.into()
    })
}

fn gets_in(gateway: &Gateway, bundle: &pki::Bundle) -> bool {
    let client = client_config(&bundle.ca, Some(&Client::of(bundle)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "localhost").is_ok()
}

#[test]
fn a_revoked_device_is_refused_and_the_others_are_not() {
    let gateway = Gateway::new();
    let (lost, kept) = (gateway.device("lost"), gateway.device("kept"));
    assert!(gets_in(&gateway, &lost));
    let revoked = revoke(&gateway, "lost");
    assert_eq!(revoked.crl.skipped, Vec::<String>::new());
    assert!(is_refused_as_revoked(&gateway, &lost));
    assert!(gets_in(&gateway, &kept));

    // Either of the two records is enough.
    let (crl, record) = (gateway.file("crl.pem"), gateway.file("revoked.json"));
    let (crl_text, record_text) = (fs::read(&crl).unwrap(), fs::read(&record).unwrap());
    fs::remove_file(&crl).unwrap();
    assert!(is_refused_as_revoked(&gateway, &lost));
    fs::write(&crl, crl_text).unwrap();
    fs::remove_file(&record).unwrap();
    assert!(is_refused_as_revoked(&gateway, &lost));
    assert!(gets_in(&gateway, &kept));
    fs::write(&record, record_text).unwrap();

    let peer = gateway.credentials();
    let chain = certificates(&lost.certificate);
    assert_eq!(
        peer.peer(Some(&chain), now()),
        Err(PeerError::Revoked("lost".into()))
    );
}

#[test]
fn revoking_works_without_the_authoritys_key() {
    let gateway = Gateway::new();
    let lost = gateway.device("lost");
    fs::remove_file(gateway.file("device-ca.key")).unwrap();
    fs::remove_file(gateway.file("root.key")).unwrap();
    let revoked = revoke(&gateway, "lost");
    assert_eq!(revoked.crl.skipped.len(), 2);
    assert_eq!(revoked.crl.signed.len(), 1);
    assert!(is_refused_as_revoked(&gateway, &lost));
}

#[test]
fn a_list_that_ran_out_still_counts_and_locks_nobody_out() {
    let gateway = Gateway::new();
    let (lost, kept) = (gateway.device("lost"), gateway.device("kept"));
    let target = RevokeTarget::Name("lost".into());
    let then = now() - Duration::days(60);
    pki::revoke(&gateway.dir, &target, Reason::Unspecified, then).unwrap();
    fs::remove_file(gateway.file("revoked.json")).unwrap();
    assert!(is_refused_as_revoked(&gateway, &lost));
    assert!(gets_in(&gateway, &kept));
    let warnings = gateway.credentials().warnings().join("\n");
    assert!(warnings.contains("has run out"), "{warnings}");
    // The gateway signs them again by itself, since it has the keys.
    assert!(pki::refresh_crl(&gateway.dir, now()).unwrap().is_some());
    assert_eq!(gateway.credentials().warnings(), Vec::<String>::new());
    assert!(pki::refresh_crl(&gateway.dir, now()).unwrap().is_none());
}

#[test]
fn a_changed_list_or_record_is_an_error() {
    let gateway = Gateway::new();
    let crl = gateway.file("crl.pem");
    let good = fs::read_to_string(&crl).unwrap();
    let other = Gateway::new();
    fs::copy(other.file("crl.pem"), &crl).unwrap();
    let error = credentials::load(&gateway.dir, now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is not signed by an authority of this gateway"),
        "{error}"
    );
    fs::write(&crl, good.replacen('M', "A", 5)).unwrap();
    credentials::load(&gateway.dir, now()).unwrap_err();
    fs::write(&crl, &good).unwrap();
    credentials::load(&gateway.dir, now()).unwrap();
    fs::write(gateway.file("revoked.json"), "{").unwrap();
    let error = credentials::load(&gateway.dir, now())
        .unwrap_err()
        .to_string();
    assert!(error.contains("revoked.json"), "{error}");
}

#[test]
fn a_resumed_session_keeps_its_identity_and_cannot_outlive_revocation() {
    for version in VERSIONS {
        let gateway = Gateway::new();
        let bundle = gateway.device("sensor_001");
        let server = gateway.server_config();
        let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), version);
        let first = connect(&server, &client, "localhost").unwrap();
        assert_ne!(first.kind, HandshakeKind::Resumed);
        let second = connect(&server, &client, "localhost").unwrap();
        assert_eq!(second.kind, HandshakeKind::Resumed, "{version:?}");
        assert_eq!(
            second.peer, first.peer,
            "rustls keeps the certificate in the ticket"
        );
        let peer = gateway
            .credentials()
            .peer(second.peer.as_deref(), now())
            .unwrap();
        assert_eq!(peer.identity.name(), "sensor_001");

        revoke(&gateway, "sensor_001");
        // The verifier is not asked when a session is resumed. This is why `peer` is called
        // after every handshake.
        let third = connect(&server, &client, "localhost").unwrap();
        assert_eq!(third.kind, HandshakeKind::Resumed);
        let reloaded = gateway.credentials();
        assert_eq!(
            reloaded.peer(third.peer.as_deref(), now()),
            Err(PeerError::Revoked("sensor_001".into()))
        );
        assert!(!reloaded.may_stay(&peer, now()), "an open session must go");
        // And with the reloaded credentials the ticket is worth nothing.
        let error = refused_by_server(connect(&server_config(&reloaded), &client, "localhost"));
        assert_eq!(error, CertificateError::Revoked.into());
    }
}

#[test]
fn a_resumed_session_ends_with_its_certificate() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let chain = certificates(&bundle.certificate);
    let credentials = gateway.credentials();
    let peer = credentials.peer(Some(&chain), now()).unwrap();
    let later = peer.not_after + Duration::SECOND;
    assert_eq!(
        credentials.peer(Some(&chain), later),
        Err(PeerError::NotValidNow("a".into()))
    );
    assert!(!credentials.may_stay(&peer, later));
}

#[test]
fn records_are_as_small_as_asked() {
    let gateway = Gateway::new();
    let credentials = gateway.credentials();
    let options = |size| TlsOptions {
        max_fragment_size: Some(size),
        ..TlsOptions::default()
    };
    for bad in [0, 511, 16_385] {
        credentials::server_config(&credentials, ClientAuth::None, &options(bad)).unwrap_err();
    }
    let config = credentials::server_config(&credentials, ClientAuth::None, &options(512)).unwrap();
    let bundle = gateway.device("a");
    let client = client_config(&bundle.ca, None, VERSIONS[0]);
    connect(&Arc::new(config), &client, "localhost").unwrap();
}

#[test]
fn alpn_is_offered_only_if_asked_for() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let credentials = gateway.credentials();
    let mut client = (*client_config(&bundle.ca, None, VERSIONS[0])).clone();
    client.alpn_protocols = vec![b"x-amzn-mqtt-ca".to_vec()];
    let client = Arc::new(client);
    let config = |alpn: &[&[u8]]| {
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        let options = TlsOptions {
            alpn,
            ..TlsOptions::default()
        };
        Arc::new(credentials::server_config(&credentials, ClientAuth::None, &options).unwrap())
    };
    connect(&config(&[]), &client, "localhost").unwrap();
    let error = refused_by_server(connect(&config(&[b"mqtt"]), &client, "localhost"));
    assert_eq!(error, Error::NoApplicationProtocol);
}
