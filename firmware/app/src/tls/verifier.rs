//! Whether the server is the gateway.
//!
//! embedded-tls 0.19 has a verifier. It takes a chain signed with another device's leaf key, a
//! certificate for clients only, and a common name where the subject alternative names say
//! otherwise. This one is rustls-webpki (chains with intermediates, names, validity, extended key
//! usage, basic and name constraints) with P-256 by RustCrypto, and what webpki leaves to its
//! caller: that the leaf states its usage, and the key usage.

use alloc::vec::Vec;
use core::time::Duration;

use embedded_tls::{
    CertificateEntryRef, CertificateRef, CertificateVerifyRef, Sha256, SignatureScheme, TlsError,
    TlsVerifier,
};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::signature::digest::{Digest, Output};
use p256::ecdsa::{DerSignature, VerifyingKey};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, ServerName,
    SignatureVerificationAlgorithm, UnixTime, alg_id,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::Suite;
use super::extensions::{Usage, usage};

/// Why the server is not the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It has no certificate, or sent something else twice or out of turn.
    #[error("server shows no certificate in its turn: it is not the gateway")]
    NoCertificate,
    /// Its certificate, or one of the roots, cannot be read.
    #[error("certificate cannot be read: it must be X.509 v3, P-256 and SHA-256")]
    Unreadable,
    /// The chain does not end in a root of ours.
    #[error("gateway's certificate is not from our authority: check the device's roots")]
    UnknownIssuer,
    /// Somebody signed it who may not sign certificates.
    #[error("gateway's certificate was signed by a key that is no authority: this is an attack")]
    NotAnAuthority,
    /// It has ended.
    #[error("gateway's certificate has expired: renew it, or check the device's time")]
    Expired,
    /// It has not begun.
    #[error("gateway's certificate is not valid yet: check the device's time")]
    NotYetValid,
    /// It is for another host.
    #[error("gateway's certificate is for another name: it needs the host name as DNS or IP SAN")]
    WrongName,
    /// It is not for servers.
    #[error(
        "certificate is not for servers: it needs the extended key usage serverAuth and, with a key usage, digitalSignature"
    )]
    WrongUsage,
    /// Anything else webpki minds: name constraints, path length, critical extensions.
    #[error("gateway's certificate chain is not acceptable: check its extensions and constraints")]
    BadChain,
    /// The proof that it holds the certificate's key is wrong.
    #[error("server does not hold the key of the certificate it shows: this is an attack")]
    BadSignature,
}

/// Verifies one handshake.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    roots: &'a [Vec<u8>],
    host: &'a str,
    now: u64,
    stage: Stage,
    refusal: Option<Untrusted>,
}

/// The order of a handshake. A server that goes back or leaves one out is refused.
#[derive(Debug)]
enum Stage {
    Start,
    /// The certificate is good; the transcript up to it, which the server must sign.
    Certified {
        leaf: Vec<u8>,
        transcript: Output<Sha256>,
    },
    Proven,
}

impl<'a> Verifier<'a> {
    /// `now` in seconds since 1970, `host` a DNS name or an address.
    pub(super) const fn new(roots: &'a [Vec<u8>], host: &'a str, now: u64) -> Self {
        Self {
            roots,
            host,
            now,
            stage: Stage::Start,
            refusal: None,
        }
    }

    pub(super) const fn refusal(&self) -> Option<Untrusted> {
        self.refusal
    }

    pub(super) const fn proven(&self) -> bool {
        matches!(self.stage, Stage::Proven) && self.refusal.is_none()
    }

    fn refuse(&mut self, why: Untrusted) -> TlsError {
        self.refusal = Some(why);
        TlsError::InvalidCertificate
    }

    fn judge_chain(&self, leaf: &[u8], intermediates: &[&[u8]]) -> Result<(), Untrusted> {
        let roots: Vec<_> = self
            .roots
            .iter()
            .map(|root| CertificateDer::from(root.as_slice()))
            .collect();
        let anchors = roots
            .iter()
            .map(anchor_from_trusted_cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Untrusted::Unreadable)?;
        let intermediates: Vec<_> = intermediates
            .iter()
            .map(|der| CertificateDer::from(*der))
            .collect();
        let der = CertificateDer::from(leaf);
        let certificate = EndEntityCert::try_from(&der).map_err(judge)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now));
        certificate
            .verify_for_usage(
                ALGORITHMS,
                &anchors,
                &intermediates,
                now,
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(judge)?;
        let name = ServerName::try_from(self.host).map_err(|_| Untrusted::WrongName)?;
        certificate
            .verify_is_valid_for_subject_name(&name)
            .map_err(judge)?;
        // webpki read the same bytes, so these are certificates: what is left out there is judged
        // here, on the leaf alone.
        match usage(leaf).ok_or(Untrusted::Unreadable)? {
            Usage {
                extended: true,
                digital_signature: None | Some(true),
            } => Ok(()),
            Usage { .. } => Err(Untrusted::WrongUsage),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn judge(error: webpki::Error) -> Untrusted {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Untrusted::Expired,
        Error::CertNotValidYet { .. } => Untrusted::NotYetValid,
        Error::CertNotValidForName(_) => Untrusted::WrongName,
        Error::RequiredEkuNotFoundContext(_) => Untrusted::WrongUsage,
        Error::EndEntityUsedAsCa => Untrusted::NotAnAuthority,
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => Untrusted::UnknownIssuer,
        Error::BadDer
        | Error::BadDerTime
        | Error::UnsupportedCertVersion
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Untrusted::Unreadable,
        _ => Untrusted::BadChain,
    }
}

impl TlsVerifier<Suite> for Verifier<'_> {
    fn set_hostname_verification(&mut self, _: &str) -> Result<(), TlsError> {
        // The host is known from the start, also when it is an address and no name is sent.
        Ok(())
    }

    fn verify_certificate(
        &mut self,
        transcript: &Sha256,
        certificate: CertificateRef<'_>,
    ) -> Result<(), TlsError> {
        let mut chain = Vec::with_capacity(certificate.entries.len());
        for entry in &certificate.entries {
            let CertificateEntryRef::X509(der) = entry else {
                return Err(self.refuse(Untrusted::Unreadable));
            };
            chain.push(*der);
        }
        let (Stage::Start, Some((leaf, intermediates))) = (&self.stage, chain.split_first()) else {
            return Err(self.refuse(Untrusted::NoCertificate));
        };
        if let Err(why) = self.judge_chain(leaf, intermediates) {
            return Err(self.refuse(why));
        }
        self.stage = Stage::Certified {
            leaf: leaf.to_vec(),
            transcript: transcript.clone().finalize(),
        };
        Ok(())
    }

    fn verify_signature(&mut self, verify: CertificateVerifyRef<'_>) -> Result<(), TlsError> {
        let stage = core::mem::replace(&mut self.stage, Stage::Start);
        let Stage::Certified { leaf, transcript } = stage else {
            return Err(self.refuse(Untrusted::NoCertificate));
        };
        if verify.signature_scheme != SignatureScheme::EcdsaSecp256r1Sha256 {
            return Err(self.refuse(Untrusted::Unreadable));
        }
        // RFC 8446, section 4.4.3.
        let mut message = [0x20; 64 + 34 + 32];
        let (_, rest) = message.split_at_mut(64);
        let (context, hash) = rest.split_at_mut(34);
        context.copy_from_slice(b"TLS 1.3, server CertificateVerify\x00");
        hash.copy_from_slice(&transcript);
        let der = CertificateDer::from(leaf.as_slice());
        let verified = EndEntityCert::try_from(&der)
            .and_then(|leaf| leaf.verify_signature(&P256, &message, verify.signature));
        if verified.is_err() {
            return Err(self.refuse(Untrusted::BadSignature));
        }
        self.stage = Stage::Proven;
        Ok(())
    }
}

/// ECDSA with P-256 and SHA-256: the only signature Tidegate's authorities make.
#[derive(Debug)]
struct P256;

static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[&P256];

impl SignatureVerificationAlgorithm for P256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = DerSignature::from_bytes(signature).map_err(|_| InvalidSignature)?;
        key.verify(message, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that shows no certificate, or does not prove that it holds the key, gets through
    /// embedded-tls's state machine: this is what stops it.
    #[test]
    fn nothing_is_proven_by_leaving_it_out() {
        let roots = [];
        let mut verifier = Verifier::new(&roots, "gateway.lan", 0);
        assert!(!verifier.proven());
        verifier.stage = Stage::Certified {
            leaf: Vec::new(),
            transcript: Output::<Sha256>::default(),
        };
        assert!(!verifier.proven(), "a certificate alone is no proof");
    }

    #[test]
    fn a_proof_before_its_certificate_is_refused() {
        let roots = [];
        let mut verifier = Verifier::new(&roots, "gateway.lan", 0);
        let proof = CertificateVerifyRef {
            signature_scheme: SignatureScheme::EcdsaSecp256r1Sha256,
            signature: &[],
        };
        assert!(verifier.verify_signature(proof).is_err());
        assert_eq!(verifier.refusal(), Some(Untrusted::NoCertificate));
        verifier.stage = Stage::Proven;
        assert!(!verifier.proven(), "and stays refused");
    }

    #[test]
    fn a_second_certificate_is_refused() {
        let roots = [];
        let mut verifier = Verifier::new(&roots, "gateway.lan", 0);
        verifier.stage = Stage::Proven;
        let mut certificate = CertificateRef::with_context(&[]);
        certificate.add(CertificateEntryRef::X509(&[0x30])).unwrap();
        assert!(
            verifier
                .verify_certificate(&Sha256::new(), certificate)
                .is_err()
        );
        assert!(!verifier.proven());
    }
}
