//! Which client certificates get through the handshake.
//!
//! rustls' own verifier does the work; three things are added around it:
//!
//! - **Revocation.** Refused is what [`RevokedSet`] holds, whichever certificate of the
//!   presented chain it is. The CRLs are not handed to rustls: it picks a CRL by issuer name
//!   alone, so one list of a second authority of the same name (openssl scripts that were run
//!   twice) would lock the first one's devices out, and it would have to be told either to
//!   admit everybody whose authority has no list or nobody. Here a list counts for what it
//!   says, once its signature has been verified, and a list that has run out still counts.
//! - **Identity.** A certificate that names nobody, or two, is refused in the handshake.
//! - **Version 1 certificates**, which `openssl x509 -req` makes without an extensions file
//!   (the default before OpenSSL 3.2) and rustls does not decode. Devices in the field have
//!   them. Such a certificate has no extensions at all, so there is little to verify: a trust
//!   anchor's name and signature, the dates, and that the peer holds the key.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;

use super::certificate::Certificate;
use super::identity;
use super::request::MIN_RSA_BITS;
use super::revocation::RevokedSet;

pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    anchors: Vec<Certificate>,
    revoked: Arc<RevokedSet>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("anchors", &self.anchors.len())
            .field("revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

impl ClientVerifier {
    pub(super) fn new(
        inner: Arc<dyn ClientCertVerifier>,
        anchors: Vec<Certificate>,
        revoked: Arc<RevokedSet>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            inner,
            anchors,
            revoked,
            algorithms,
        }
    }

    fn verify_v1(&self, x509: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        // A version 1 certificate with extensions is malformed (RFC 5280, section 4.1.2.9).
        if !x509.extensions().is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        if !self.anchors.iter().any(|anchor| anchor.signed(x509)) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < x509.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > x509.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        match x509.public_key().parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => Ok(()),
            Ok(PublicKey::EC(_)) => Ok(()),
            _ => Err(other(
                "the certificate's key is too weak or of an unsupported kind",
            )),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let x509 = decode(end_entity)?;
        let is_revoked = |x509: &X509Certificate<'_>| {
            self.revoked
                .contains(x509.raw_serial(), x509.issuer().as_raw())
        };
        if is_revoked(&x509) {
            return Err(CertificateError::Revoked.into());
        }
        for intermediate in intermediates {
            if is_revoked(&decode(intermediate)?) {
                return Err(CertificateError::Revoked.into());
            }
        }
        let verified = if x509.version() == X509Version::V1 {
            self.verify_v1(&x509, now)?;
            ClientCertVerified::assertion()
        } else {
            self.inner
                .verify_client_cert(end_entity, intermediates, now)?
        };
        identity::from_parsed(&x509)
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let x509 = decode(certificate)?;
        if x509.version() != X509Version::V1 {
            return self
                .inner
                .verify_tls12_signature(message, certificate, signature);
        }
        // rustls verifies a raw public key only in TLS 1.3, by exactly one algorithm, and TLS
        // 1.2 leaves the curve open. So the scheme's algorithms are tried one by one; a key of
        // another kind or curve fails to decode as one of theirs.
        let (_, algorithms) = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signature.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let key = &x509.public_key().subject_public_key.data;
        algorithms
            .iter()
            .any(|algorithm| {
                algorithm
                    .verify_signature(key, message, signature.signature())
                    .is_ok()
            })
            .then(HandshakeSignatureValid::assertion)
            .ok_or_else(|| CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let x509 = decode(certificate)?;
        if x509.version() != X509Version::V1 {
            return self
                .inner
                .verify_tls13_signature(message, certificate, signature);
        }
        let key = SubjectPublicKeyInfoDer::from(x509.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn decode<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok((&[], x509)) => Ok(x509),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn other(message: &'static str) -> Error {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Refused(&'static str);
    CertificateError::Other(OtherError(Arc::new(Refused(message)))).into()
}
