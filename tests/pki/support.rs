//! An authority in a temporary directory, and TLS handshakes against it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::client::{ClientConfig, ClientConnection};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{HandshakeKind, NamedGroup, RootCertStore, ServerConfig, ServerConnection};
use tempfile::TempDir;
use tidegate::pki::{
    self, Bundle, ClientAuth, Credentials, DeviceRequest, Host, PkiDir, Profiles, SecretSource,
    TlsOptions,
};
use time::OffsetDateTime;

pub(crate) const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) struct Gateway {
    pub(crate) state: TempDir,
    pub(crate) dir: PkiDir,
    pub(crate) profiles: Profiles,
}

impl Gateway {
    /// A state directory without an authority.
    pub(crate) fn empty() -> Self {
        let state = tempfile::tempdir().unwrap();
        let dir = PkiDir::new(state.path());
        Self {
            dir,
            state,
            profiles: Profiles::embedded().unwrap(),
        }
    }

    pub(crate) fn new() -> Self {
        let gateway = Self::empty();
        pki::init(
            &gateway.dir,
            &gateway.profiles,
            "Test",
            &hosts(),
            false,
            now(),
        )
        .unwrap();
        gateway
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn device(&self, id: &str) -> Bundle {
        pki::issue_device(&self.dir, &self.profiles, &request(id), now())
            .unwrap()
            .bundle
    }

    pub(crate) fn credentials(&self) -> Credentials {
        pki::credentials::load(&self.dir, now()).unwrap()
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        server_config(&self.credentials())
    }

    /// Signs with one of the authority's keys what it would never sign by itself.
    pub(crate) fn forge(&self, issuer: &str, params: &CertificateParams) -> Client {
        let certificate = fs::read_to_string(self.file(&format!("{issuer}.crt"))).unwrap();
        let key =
            KeyPair::from_pem(&fs::read_to_string(self.file(&format!("{issuer}.key"))).unwrap());
        let signer = Issuer::from_ca_cert_pem(&certificate, key.unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &signer).unwrap();
        Client::new(&(leaf.pem() + &certificate), &key.serialize_pem())
    }
}

pub(crate) fn request(id: &str) -> DeviceRequest {
    DeviceRequest {
        id: id.into(),
        csr: None,
        gateway: None,
        secret: SecretSource::Generate,
        release_keys: Vec::new(),
        force: false,
    }
}

pub(crate) fn hosts() -> Vec<Host> {
    ["gateway.local", "localhost", "192.0.2.7", "::1"]
        .map(|h| Host::parse(h).unwrap())
        .into()
}

pub(crate) fn server_config(credentials: &Credentials) -> Arc<ServerConfig> {
    let config =
        pki::credentials::server_config(credentials, ClientAuth::Required, &TlsOptions::default());
    Arc::new(config.unwrap())
}

/// A chain and key to present.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Client {
    pub(crate) fn new(chain: &str, key: &str) -> Self {
        Self {
            chain: certificates(chain),
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        }
    }

    pub(crate) fn of(bundle: &Bundle) -> Self {
        Self::new(&bundle.certificate, bundle.key.as_ref().unwrap())
    }

    pub(crate) fn read(chain: &Path, key: &Path) -> Self {
        Self::new(
            &fs::read_to_string(chain).unwrap(),
            &fs::read_to_string(key).unwrap(),
        )
    }
}

pub(crate) fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(Result::unwrap)
        .collect()
}

/// A client that trusts `ca` and presents `client`.
pub(crate) fn client_config(
    ca: &str,
    client: Option<&Client>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca) {
        roots.add(certificate).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(pki::credentials::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        // Not through rustls' builder, which refuses to present a version 1 certificate.
        Some(client) => {
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&client.key).unwrap();
            let certified = rustls::sign::CertifiedKey::new(client.chain.clone(), key);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                certified,
            )))
        }
    };
    Arc::new(config)
}

/// What both sides know after a handshake and one message each way.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) peer: Option<Vec<CertificateDer<'static>>>,
    pub(crate) kind: HandshakeKind,
    pub(crate) group: Option<NamedGroup>,
}

#[derive(Debug)]
pub(crate) enum Refused {
    Server(rustls::Error),
    Client(rustls::Error),
}

/// Shakes hands in memory, then sends a byte each way (which brings the tickets over).
pub(crate) fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    host: &str,
) -> Result<Connected, Refused> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    for _ in 0..20 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(Refused::Server)?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(Refused::Client)?;
        if !client.is_handshaking() && !server.is_handshaking() {
            break;
        }
    }
    assert!(
        !client.is_handshaking() && !server.is_handshaking(),
        "no end to the handshake"
    );
    server.writer().write_all(b"x").unwrap();
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets().map_err(Refused::Client)?;
    let mut byte = [0];
    client.reader().read_exact(&mut byte).unwrap();
    Ok(Connected {
        peer: server
            .peer_certificates()
            .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect()),
        kind: server.handshake_kind().unwrap(),
        group: server
            .negotiated_key_exchange_group()
            .map(rustls::crypto::SupportedKxGroup::name),
    })
}

/// Runs openssl, which must succeed, in a directory.
pub(crate) fn openssl(directory: &Path, arguments: &str) -> String {
    let (ok, output) = try_openssl(directory, arguments);
    assert!(ok, "openssl {arguments}\n{output}");
    output
}

pub(crate) fn try_openssl(directory: &Path, arguments: &str) -> (bool, String) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}
