//! The TLS side of a listener: its configuration, and what went wrong in a handshake.

use std::{io, sync::Arc};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, ServerConfig};
use time::OffsetDateTime;

use super::metrics::HandshakeFailure;
use crate::{
    clock::UnixMillis,
    config::{Listener, ListenerMode},
    pki::{
        ClientAuth, Credentials, CredentialsError, PeerError, TlsOptions,
        credentials::server_config,
    },
};

/// A time as certificates count it.
#[must_use]
pub(super) fn utc(time: UnixMillis) -> OffsetDateTime {
    let seconds = i64::try_from(time.seconds()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The configuration of a listener, or `None` for a plain one.
pub(super) fn configure(
    credentials: &Credentials,
    listener: &Listener,
) -> Result<Option<Arc<ServerConfig>>, CredentialsError> {
    let auth = match listener.mode {
        ListenerMode::MutualTls => ClientAuth::Required,
        ListenerMode::ServerTls => ClientAuth::None,
        ListenerMode::Plain => return Ok(None),
    };
    let options = TlsOptions {
        max_fragment_size: listener.max_fragment_bytes.map(usize::from),
        alpn: Vec::new(),
    };
    server_config(credentials, auth, &options)
        .map(Arc::new)
        .map(Some)
}

/// Why a handshake failed, from what the TLS library says.
#[must_use]
pub(super) fn cause(error: &io::Error) -> HandshakeFailure {
    let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return HandshakeFailure::Aborted;
    };
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => HandshakeFailure::Expired,
            CertificateError::Revoked => HandshakeFailure::Revoked,
            CertificateError::Other(_) | CertificateError::ApplicationVerificationFailure => {
                HandshakeFailure::BadIdentity
            }
            _ => HandshakeFailure::UnknownAuthority,
        },
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => HandshakeFailure::NotTls,
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            HandshakeFailure::Aborted
        }
        // The client does not trust us, or gave up for reasons of its own.
        Error::AlertReceived(_) => HandshakeFailure::Aborted,
        _ => HandshakeFailure::Protocol,
    }
}

/// Why a peer that TLS accepted is not served.
#[must_use]
pub(super) fn refusal(error: &PeerError) -> HandshakeFailure {
    match error {
        PeerError::NoCertificate => HandshakeFailure::NoCertificate,
        PeerError::Revoked(_) => HandshakeFailure::Revoked,
        PeerError::NotValidNow(_) => HandshakeFailure::Expired,
        PeerError::Malformed | PeerError::Identity(_) => HandshakeFailure::BadIdentity,
        PeerError::ForeignOperator(_) => HandshakeFailure::UnknownAuthority,
    }
}
