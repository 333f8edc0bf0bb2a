//! The verifier against live servers: what is the gateway is let in, and nothing else.
//!
//! Each case is a rustls server with another certificate. The first three are the ones that
//! embedded-tls's own verifier lets in.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on stops"
)]

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use embedded_io_async::{ErrorType, Read, Write};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use tidegate_app::board::Random;
use tidegate_app::commands::private_key;
use tidegate_app::credentials::{Credentials, Gateway};
use tidegate_app::tls::{Buffers, HandshakeError, Untrusted, Wire, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// 2026-06-01, within every certificate's validity but where a case says otherwise.
const NOW: u64 = 1_780_272_000;

const HOST: &str = "gateway.lan";

type Issuer = CertifiedIssuer<'static, KeyPair>;

struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

fn validity(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    validity(&mut params);
    params
}

/// A certificate that is right in everything; each case spoils one thing.
fn server() -> CertificateParams {
    let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "gateway");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut params);
    params
}

fn device() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "sensor_001");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    validity(&mut params);
    params
}

struct Pki {
    root: Issuer,
    gateway_ca: Issuer,
    device_ca: Issuer,
}

impl Pki {
    fn new() -> Self {
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
        let mut params = authority("gateway ca");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let gateway_ca = CertifiedIssuer::signed_by(params, key(), &root).unwrap();
        let mut params = authority("device ca");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let device_ca = CertifiedIssuer::signed_by(params, key(), &root).unwrap();
        Self {
            root,
            gateway_ca,
            device_ca,
        }
    }

    fn chain(&self, params: &CertificateParams) -> Chain {
        issue(params, &self.gateway_ca)
    }
}

fn issue(params: &CertificateParams, issuer: &Issuer) -> Chain {
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    Chain {
        certificates: vec![leaf.der().clone(), issuer.der().clone()],
        key,
    }
}

struct Tcp(TcpStream);

impl ErrorType for Tcp {
    type Error = io::Error;
}

impl Read for Tcp {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).await
    }
}

impl Write for Tcp {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

struct Entropy;

impl Random for Entropy {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap();
    }
}

/// What the device makes of a server with this chain, and whether the server saw the device's
/// certificate and a byte of data.
async fn visit(
    pki: &Pki,
    chain: &Chain,
    host: &str,
    now: u64,
) -> (Result<(), HandshakeError>, bool) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(chain.key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    // Whether the key is the certificate's is not checked here: one case is that it is not.
    let shown = CertifiedKey::new(chain.certificates.clone(), key);
    let mut anchors = RootCertStore::empty();
    anchors.add(pki.device_ca.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(anchors.into(), provider.clone())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut tls) = acceptor.accept(tcp).await else {
            return false;
        };
        let certified = tls
            .get_ref()
            .1
            .peer_certificates()
            .is_some_and(|c| c.len() == 1);
        let mut byte = [0];
        let got = tls.read_exact(&mut byte).await.is_ok();
        if got {
            tls.write_all(&byte).await.unwrap();
            tls.flush().await.unwrap();
        }
        certified && got
    };
    let client = issue(&device(), &pki.device_ca);
    let credentials = Credentials {
        wifi: None,
        device_id: "sensor_001".try_into().unwrap(),
        certificate: client.certificates[0].to_vec(),
        key: private_key(&client.key.serialize_der()).unwrap(),
        roots: vec![pki.root.der().to_vec()],
        secret: b"secret".to_vec().into(),
        release_keys: Vec::new(),
        gateway: Gateway::new(host.into(), address.port()),
    };
    let connect = async {
        let wire = Wire::new(Tcp(TcpStream::connect(address).await.unwrap()));
        let mut buffers = Box::new(Buffers::new());
        let mut connection = open(&wire, &mut buffers, &credentials, &Entropy, now).await?;
        connection.write_all(b"x").await.unwrap();
        connection.flush().await.unwrap();
        let mut echo = [0];
        connection.read(&mut echo).await.unwrap();
        assert_eq!(&echo, b"x");
        Ok(())
    };
    let both = async { tokio::join!(connect, serve) };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("no handshake hangs")
}

/// Expects a refusal for exactly this reason, before anything of the device was shown.
async fn refused(pki: &Pki, chain: &Chain, host: &str, now: u64, expected: Untrusted) {
    match visit(pki, chain, host, now).await {
        (Err(HandshakeError::Untrusted(why)), false) => assert_eq!(why, expected),
        (other, served) => panic!("{other:?}, served: {served}; expected {expected:?}"),
    }
}

#[tokio::test]
async fn the_gateway_is_let_in_by_name_and_by_address() {
    let pki = Pki::new();
    let mut params = server();
    params
        .subject_alt_names
        .push(SanType::IpAddress([127, 0, 0, 1].into()));
    let chain = pki.chain(&params);
    for host in [HOST, "127.0.0.1"] {
        let (opened, served) = visit(&pki, &chain, host, NOW).await;
        opened.unwrap();
        assert!(served, "with the device's certificate");
    }
}

#[tokio::test]
async fn a_certificate_without_key_usage_is_let_in() {
    let pki = Pki::new();
    let mut params = server();
    params.key_usages.clear();
    visit(&pki, &pki.chain(&params), HOST, NOW).await.0.unwrap();
}

#[tokio::test]
async fn a_chain_signed_with_another_devices_leaf_key_is_refused() {
    let pki = Pki::new();
    for (params, expected) in [
        // A device's certificate as it is issued: no authority, and for clients only.
        (
            device(),
            [
                Untrusted::NotAnAuthority,
                Untrusted::WrongUsage,
                Untrusted::UnknownIssuer,
            ],
        ),
        // One that may do everything but sign certificates.
        (server(), [Untrusted::NotAnAuthority; 3]),
    ] {
        let key = KeyPair::generate().unwrap();
        let ca = if expected[1] == Untrusted::WrongUsage {
            &pki.device_ca
        } else {
            &pki.gateway_ca
        };
        let attacker = CertifiedIssuer::signed_by(params, key, ca).unwrap();
        let mut chain = issue(&server(), &attacker);
        chain.certificates.push(ca.der().clone());
        match visit(&pki, &chain, HOST, NOW).await {
            (Err(HandshakeError::Untrusted(why)), false) => {
                assert!(expected.contains(&why), "{why:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_for_clients_is_refused() {
    let pki = Pki::new();
    let mut params = server();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::WrongUsage).await;
    // Even with everything else right, a device's key is no gateway's.
    refused(
        &pki,
        &issue(&params, &pki.device_ca),
        HOST,
        NOW,
        Untrusted::WrongUsage,
    )
    .await;
}

#[tokio::test]
async fn a_common_name_is_no_host_name() {
    let pki = Pki::new();
    for names in [&["other.lan"][..], &[]] {
        let mut params = server();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        params.subject_alt_names = CertificateParams::new(names).unwrap().subject_alt_names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, HOST);
        refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::WrongName).await;
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let pki = Pki::new();
    let mut params = server();
    params.not_after = rcgen::date_time_ymd(2026, 5, 31);
    refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::Expired).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let pki = Pki::new();
    let mut params = server();
    params.not_before = rcgen::date_time_ymd(2026, 6, 2);
    refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::NotYetValid).await;
}

#[tokio::test]
async fn an_expired_intermediate_is_refused() {
    let pki = Pki::new();
    let mut params = authority("old gateway ca");
    params.not_after = rcgen::date_time_ymd(2026, 5, 31);
    let old = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &pki.root).unwrap();
    refused(&pki, &issue(&server(), &old), HOST, NOW, Untrusted::Expired).await;
}

#[tokio::test]
async fn another_name_or_address_is_refused() {
    let pki = Pki::new();
    let chain = pki.chain(&server());
    for host in [
        "other.lan",
        "gateway.lan.evil",
        "sub.gateway.lan",
        "127.0.0.1",
    ] {
        refused(&pki, &chain, host, NOW, Untrusted::WrongName).await;
    }
}

#[tokio::test]
async fn an_unknown_root_is_refused() {
    let (pki, strangers) = (Pki::new(), Pki::new());
    refused(
        &pki,
        &strangers.chain(&server()),
        HOST,
        NOW,
        Untrusted::UnknownIssuer,
    )
    .await;
}

#[tokio::test]
async fn the_gateways_certificate_without_its_key_is_refused() {
    let pki = Pki::new();
    let stolen = Chain {
        key: KeyPair::generate().unwrap(),
        ..pki.chain(&server())
    };
    refused(&pki, &stolen, HOST, NOW, Untrusted::BadSignature).await;
}

#[tokio::test]
async fn a_missing_intermediate_is_refused() {
    let pki = Pki::new();
    let mut chain = pki.chain(&server());
    chain.certificates.truncate(1);
    refused(&pki, &chain, HOST, NOW, Untrusted::UnknownIssuer).await;
}

#[tokio::test]
async fn a_certificate_that_states_no_use_is_refused() {
    let pki = Pki::new();
    let mut params = server();
    params.extended_key_usages.clear();
    refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::WrongUsage).await;
}

#[tokio::test]
async fn a_key_that_may_not_sign_is_refused() {
    let pki = Pki::new();
    let mut params = server();
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    refused(&pki, &pki.chain(&params), HOST, NOW, Untrusted::WrongUsage).await;
}
