//! TLS 1.3 with the device's certificate, and a verifier of our own.
//!
//! embedded-tls does the protocol. What it verifies by itself is not enough (see [`verifier`]), and
//! it lets a server leave out its certificate or the proof that it holds the key: so a connection
//! is one only if `Identity::proven` says so after the handshake, and the device signs nothing
//! before.

mod extensions;
pub mod verifier;
mod wire;

use core::fmt;

use embedded_io_async::{Read, Write};
use embedded_tls::{
    Aes128GcmSha256, Certificate, CryptoProvider, CryptoRngCore, SignatureScheme, TlsConfig,
    TlsConnection, TlsContext, TlsError, TlsVerifier,
};
use p256::ecdsa::{DerSignature, SigningKey};
use rand_core::{CryptoRng, RngCore};

use crate::board::Random;
use crate::credentials::Credentials;

pub use verifier::Untrusted;
pub use wire::Wire;

use verifier::Verifier;

/// The one cipher suite every TLS 1.3 implementation has (RFC 8446, section 9.1), and the one the
/// ESP32's AES unit could speed up.
pub type Suite = Aes128GcmSha256;

/// An open connection.
pub type Connection<'b, T> = TlsConnection<'b, &'b Wire<T>, Suite>;

/// The two buffers of a connection; they live as long as the program.
#[derive(Debug)]
pub struct Buffers {
    /// One record as it comes: 16 KiB and what TLS adds (RFC 8446, section 5.2). There is no way
    /// to ask every server for less.
    pub read: [u8; 16_640],
    /// One record as it goes: must hold a ClientHello and the device's certificate.
    pub write: [u8; 4096],
}

impl Buffers {
    /// Zeroed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            read: [0; 16_640],
            write: [0; 4096],
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum HandshakeError {
    /// The server is not the gateway.
    Untrusted(Untrusted),
    /// The server's certificate is fine, and it did not prove that it has the key.
    Unproven,
    /// Everything else.
    Tls(TlsError),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(why) => why.fmt(f),
            Self::Unproven => f.write_str(
                "server showed a certificate and no proof that it holds its key: it is not the gateway",
            ),
            Self::Tls(error) => write!(
                f,
                "TLS handshake failed ({error:?}): see the gateway's log for its reason"
            ),
        }
    }
}

impl core::error::Error for HandshakeError {}

/// Connects to the gateway over `wire`, at the given time in seconds since 1970.
///
/// # Errors
///
/// [`HandshakeError`]; nothing was sent then but a handshake, and at most one alert.
pub async fn open<'b, T: Read + Write>(
    wire: &'b Wire<T>,
    buffers: &'b mut Buffers,
    credentials: &Credentials,
    random: &impl Random,
    now: u64,
) -> Result<Connection<'b, T>, HandshakeError> {
    let host = credentials.gateway.host.as_str();
    // RFC 6066, section 3: an address is not a server name.
    let mut config = TlsConfig::new();
    if host.parse::<core::net::IpAddr>().is_err() {
        config = config.with_server_name(host);
    }
    let mut identity = Identity {
        credentials,
        random,
        verifier: Verifier::new(&credentials.roots, host, now),
    };
    let mut connection = TlsConnection::new(wire, &mut buffers.read, &mut buffers.write);
    let opened = connection
        .open(TlsContext::new(&config, &mut identity))
        .await;
    match (opened, identity.verifier.refusal()) {
        (_, Some(why)) => Err(HandshakeError::Untrusted(why)),
        (Err(error), None) => Err(HandshakeError::Tls(error)),
        (Ok(()), None) if identity.proven() => Ok(connection),
        (Ok(()), None) => Err(HandshakeError::Unproven),
    }
}

/// What embedded-tls asks for in a handshake.
struct Identity<'a, R> {
    credentials: &'a Credentials,
    random: &'a R,
    verifier: Verifier<'a>,
}

impl<R> Identity<'_, R> {
    /// Whether the server proved that it is the gateway.
    fn proven(&self) -> bool {
        self.verifier.proven()
    }
}

impl<R: Random> CryptoProvider for Identity<'_, R> {
    type CipherSuite = Suite;
    type Signature = DerSignature;

    fn rng(&mut self) -> impl CryptoRngCore {
        Generator(self.random)
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Suite>, TlsError> {
        Ok(&mut self.verifier)
    }

    fn signer(
        &mut self,
    ) -> Result<(impl signature::SignerMut<Self::Signature>, SignatureScheme), TlsError> {
        if !self.proven() {
            return Err(TlsError::InvalidSignature);
        }
        let key = SigningKey::from_slice(self.credentials.key.as_slice())
            .map_err(|_| TlsError::InvalidPrivateKey)?;
        Ok((key, SignatureScheme::EcdsaSecp256r1Sha256))
    }

    fn client_cert(&mut self) -> Option<Certificate<impl AsRef<[u8]>>> {
        Some(Certificate::X509(self.credentials.certificate.as_slice()))
    }
}

/// A board's random numbers as `rand_core` 0.6 wants them.
struct Generator<'a, R>(&'a R);

impl<R: Random> RngCore for Generator<'_, R> {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl<R: Random> CryptoRng for Generator<'_, R> {}
