//! What the TLS listeners need: the gateway's certificate and the verifier for clients'.
//!
//! ## Which revocations count, and when
//!
//! A certificate is refused if `revoked.json` or a verified list in `crl.pem` names it. Lists
//! are not required, and one that has run out still counts: a gateway whose CA key is offline,
//! or whose clock jumped, must not turn its whole fleet away. It says so instead
//! ([`Credentials::warnings`], [`super::expiring`]). What *is* refused is a damaged record or
//! list: then loading fails, and a running gateway keeps what it has.
//!
//! ## Resumed sessions
//!
//! A resumed TLS session presents no certificate and passes through no verifier; rustls hands
//! out the certificate of the original handshake. So whoever accepts connections calls
//! [`Credentials::peer`] after **every** handshake: it checks revocation and validity again and
//! returns the identity, which then still has to be enabled in the registry. Tickets are bound
//! to one [`server_config`] and die with it, at the latest with the next reload.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;

use super::certificate::{Certificate, PrivateKey, Serial, date};
use super::error::PkiError;
use super::files::{self, PkiDir};
use super::identity::{self, Identity, IdentityError};
use super::revocation::{self, Record, RevokedSet};
use super::verifier::ClientVerifier;
use super::watch::{Fingerprint, fingerprint};

/// The credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("rustls does not accept the {what}: {source}")]
    Tls {
        what: &'static str,
        source: rustls::Error,
    },
    #[error("the list of trusted client authorities cannot be used: {0}")]
    Anchors(#[from] rustls::client::VerifierBuilderError),
    #[error("max_fragment_size {0} is out of range; use 512 to 16384 bytes")]
    FragmentSize(usize),
}

/// Everything for the listeners, as it was on the disk at one moment.
#[derive(Debug)]
pub struct Credentials {
    server: Arc<CertifiedKey>,
    server_not_after: OffsetDateTime,
    verifier: Arc<dyn ClientCertVerifier>,
    revoked: Arc<RevokedSet>,
    /// Names (DER) of the authorities that may certify operators.
    operator_issuers: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    fingerprint: Fingerprint,
    warnings: Vec<String>,
}

/// Reads the credentials.
///
/// # Errors
/// No authority; unreadable, damaged or mismatched files.
pub fn load(dir: &PkiDir, now: OffsetDateTime) -> Result<Credentials, CredentialsError> {
    dir.require()?;
    // Taken first: a change while reading then shows as a change afterwards.
    let fingerprint = fingerprint(dir);
    let provider = Arc::new(provider());
    let record = Record::load(dir)?;
    let lists = revocation::read_lists(dir, &revocation::authorities(dir)?)?;
    let revoked = Arc::new(RevokedSet::new(&record, &lists));
    let anchors = client_anchors(dir)?;
    let mut roots = RootCertStore::empty();
    for anchor in &anchors {
        roots
            .add(anchor.der.clone())
            .map_err(|source| CredentialsError::Tls {
                what: "client authority",
                source,
            })?;
    }
    let inner =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    let algorithms = provider.signature_verification_algorithms;
    let warnings = warnings(dir, &anchors, &lists, now);
    let operator_issuers = own_client_authorities(dir)?
        .iter()
        .map(|stem| Ok(Certificate::read(&dir.certificate(stem))?.subject))
        .collect::<Result<_, PkiError>>()?;
    let (server, server_not_after) = server(dir, &provider)?;
    Ok(Credentials {
        server,
        server_not_after,
        verifier: Arc::new(ClientVerifier::new(
            inner,
            anchors,
            revoked.clone(),
            algorithms,
        )),
        revoked,
        operator_issuers,
        provider,
        fingerprint,
        warnings,
    })
}

/// The device CA, former device CAs, and what was imported. The gateway's own root is not
/// among them: what it or the gateway CA signed is no client.
fn client_anchors(dir: &PkiDir) -> Result<Vec<Certificate>, PkiError> {
    let mut stems = own_client_authorities(dir)?;
    stems.extend(dir.stems_in("imported")?);
    stems
        .iter()
        .map(|stem| Certificate::read(&dir.certificate(stem)))
        .collect()
}

fn own_client_authorities(dir: &PkiDir) -> Result<Vec<String>, PkiError> {
    let mut stems = vec!["device-ca".to_owned()];
    stems.extend(dir.stems_in("retired")?);
    Ok(stems)
}

fn server(
    dir: &PkiDir,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, OffsetDateTime), CredentialsError> {
    let path = dir.certificate("server");
    let pem = files::read(&path)?;
    let leaf = Certificate::from_pem(&pem, &path)?;
    let key = PrivateKey::of(dir, "server", &leaf, "start the gateway")?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::bad_file(&path, "certificate chain", error))?;
    let key = PrivateKeyDer::from_pem_slice(key.pem.as_bytes())
        .map_err(|error| PkiError::bad_file(&dir.key("server"), "private key", error))?;
    let certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|source| CredentialsError::Tls {
            what: "server certificate and key",
            source,
        })?;
    Ok((Arc::new(certified), leaf.not_after))
}

fn warnings(
    dir: &PkiDir,
    anchors: &[Certificate],
    lists: &[revocation::SignedList],
    now: OffsetDateTime,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for stem in ["root", "gateway-ca", "device-ca", "server"] {
        for key in dir.key_candidates(stem) {
            if files::is_exposed(&key) {
                warnings.push(format!(
                    "{} can be read by others than its owner; run `chmod 600 {}`",
                    key.display(),
                    key.display()
                ));
            }
        }
    }
    for anchor in anchors.iter().filter(|anchor| !anchor.is_valid_at(now)) {
        warnings.push(format!(
            "the client authority {} is outside its validity (until {}); its devices need new certificates soon",
            anchor.subject_text,
            date(anchor.not_after)
        ));
    }
    if lists
        .iter()
        .any(|list| list.next_update.is_some_and(|next| next < now))
    {
        warnings.push(
            "a signed revocation list has run out; what it names stays refused. Sign it again with `tidegate pki crl` where the authority's key is".into(),
        );
    }
    warnings
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub identity: Identity,
    pub serial: Serial,
    /// DER of the issuer's name; with the serial it names the certificate.
    pub issuer: Vec<u8>,
    pub not_after: OffsetDateTime,
}

/// A peer that must not be served although TLS accepted it, now or when the session began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the client presented no certificate")]
    NoCertificate,
    #[error("the client's certificate cannot be decoded")]
    Malformed,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate of {0} is revoked")]
    Revoked(String),
    #[error("the certificate of {0} is not valid at this time; renew it, or check the clock")]
    NotValidNow(String),
    #[error("the operator certificate of {0} was not issued by this gateway's authority")]
    ForeignOperator(String),
}

impl Credentials {
    /// Whether the certificate with this serial (INTEGER content) of this issuer (DER name) is
    /// revoked. For sessions that are already open: [`Peer`] has both.
    #[must_use]
    pub fn is_revoked(&self, serial: &[u8], issuer: &[u8]) -> bool {
        self.revoked.contains(serial, issuer)
    }

    /// [`Credentials::is_revoked`] for a peer, and whether its certificate has ended.
    #[must_use]
    pub fn may_stay(&self, peer: &Peer, now: OffsetDateTime) -> bool {
        !self.is_revoked(peer.serial.as_bytes(), &peer.issuer) && now <= peer.not_after
    }

    /// Who the peer is, judged by these credentials now. `certificates` is what
    /// `peer_certificates()` of the connection returns. To be called after every handshake,
    /// resumed ones among them; TLS has verified the chain, when the session began.
    ///
    /// # Errors
    /// [`PeerError`]; the connection must then be closed.
    pub fn peer(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
        now: OffsetDateTime,
    ) -> Result<Peer, PeerError> {
        let leaf = certificates
            .and_then(<[_]>::first)
            .ok_or(PeerError::NoCertificate)?;
        let identity = identity::from_certificate(leaf)?;
        let certificate =
            Certificate::from_der(leaf.clone().into_owned()).map_err(|_| PeerError::Malformed)?;
        let name = || identity.name().to_owned();
        if self.is_revoked(certificate.serial.as_bytes(), &certificate.issuer) {
            return Err(PeerError::Revoked(name()));
        }
        if !certificate.is_valid_at(now) {
            return Err(PeerError::NotValidNow(name()));
        }
        if matches!(identity, Identity::Operator(_))
            && !self.operator_issuers.contains(&certificate.issuer)
        {
            return Err(PeerError::ForeignOperator(name()));
        }
        Ok(Peer {
            identity,
            serial: certificate.serial,
            issuer: certificate.issuer,
            not_after: certificate.not_after,
        })
    }

    /// The server's chain and key.
    #[must_use]
    pub fn server(&self) -> Arc<CertifiedKey> {
        self.server.clone()
    }

    /// When the server certificate ends.
    #[must_use]
    pub fn server_not_after(&self) -> OffsetDateTime {
        self.server_not_after
    }

    /// The verifier for client certificates.
    #[must_use]
    pub fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// What is revoked.
    #[must_use]
    pub fn revoked(&self) -> Arc<RevokedSet> {
        self.revoked.clone()
    }

    /// What the files looked like when they were read.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What is not right but does not keep the gateway from running; for the log.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Why a handshake failed, in words for the log: rustls shows some of its errors as debug text,
/// and says nothing about what to do.
#[must_use]
pub fn refusal(error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error};
    match error {
        Error::NoCertificatesPresented => {
            "the client presented no certificate; give the device its bundle".into()
        }
        Error::InvalidCertificate(CertificateError::Other(inner)) => inner.to_string(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "the client's certificate was issued by none of the trusted authorities; issue one with `tidegate pki issue device`, or trust its issuer with `tidegate pki import --trust-only`".into(),
        Error::InvalidCertificate(CertificateError::Revoked) => {
            "the client's certificate is revoked".into()
        }
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the client's certificate has ended, or this machine's clock is wrong; renew it with `tidegate pki renew`".into(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "the client's certificate is not valid yet; this machine's clock is probably behind".into(),
        Error::InvalidCertificate(CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }) => {
            "the client's certificate is not for clients; a server certificate cannot log in".into()
        }
        other => other.to_string(),
    }
}

/// aws-lc-rs with the hybrid post-quantum key exchange first: what is recorded today cannot
/// be read with a quantum computer tomorrow. Devices that lack it choose the next.
#[must_use]
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let first = kx_group::X25519MLKEM768;
    provider
        .kx_groups
        .retain(|group| group.name() != first.name());
    provider.kx_groups.insert(0, first);
    provider
}

/// Whether clients must present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
    /// Server-only TLS: clients prove themselves by user name and password.
    None,
}

/// Settings of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// The largest TLS record sent, in bytes of plaintext (512 to 16384), for clients with
    /// small receive buffers; by default 16 KiB. The fragment sizes of RFC 6066 are 512, 1024,
    /// 2048 and 4096.
    pub max_fragment_size: Option<usize>,
    /// Protocols to negotiate by ALPN, such as `mqtt`. With any set, a client that offers only
    /// others is refused, so the default is none, which every client can live with.
    pub alpn: Vec<Vec<u8>>,
}

/// What a record adds to its content at most, in the way rustls counts: 5 bytes of header.
const RECORD_HEADER: usize = 5;

/// A rustls configuration: TLS 1.3 and 1.2, sessions resumed by stateless tickets only.
///
/// # Errors
/// A fragment size out of range; rustls refusing the pieces.
pub fn server_config(
    credentials: &Credentials,
    client_auth: ClientAuth,
    options: &TlsOptions,
) -> Result<ServerConfig, CredentialsError> {
    let tls = |what| move |source| CredentialsError::Tls { what, source };
    let builder = ServerConfig::builder_with_provider(credentials.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(tls("protocol versions"))?;
    let verifier = match client_auth {
        ClientAuth::Required => credentials.verifier.clone(),
        ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.server.clone())));
    // A ticket holds the whole session, encrypted with a key that lives as long as this
    // configuration: a thousand devices that come back after a power cut need no memory here,
    // and after a reload nobody comes back on the strength of former credentials.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(tls("session ticket key"))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One is enough to come back with; each costs a small device a kilobyte of traffic.
    config.send_tls13_tickets = 1;
    // Nothing is said before the client has proved who it is, and no early data is taken: it
    // can be replayed.
    config.send_half_rtt_data = false;
    config.max_early_data_size = 0;
    config.alpn_protocols.clone_from(&options.alpn);
    if let Some(size) = options.max_fragment_size {
        if !(512..=16_384).contains(&size) {
            return Err(CredentialsError::FragmentSize(size));
        }
        config.max_fragment_size = Some(size + RECORD_HEADER);
    }
    Ok(config)
}
