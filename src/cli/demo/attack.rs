//! Four attacks on the running gateway, each of which must be refused for its own reason.

use std::{io, num::NonZeroU16, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ClientConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tidegate_mqtt::{AckKind, ServerPacket};
use tidegate_wire::{Channel, Reason};
use tokio::time::timeout;

use super::{
    device::{Identity, fresh_message_id},
    link::{Link, LinkError},
};
use crate::clock::system_now;

/// Longer than any answer on loopback takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// How one attack went.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) attack: &'static str,
    /// What the gateway answered, or what it failed to refuse.
    pub(super) outcome: Result<String, String>,
}

/// Runs all attacks: as `own`, a device of which the attacker has certificate and secret, and as a
/// stranger with a certificate of its own making. `victim` is another device.
pub(super) async fn run(
    own: &Identity,
    victim: &Identity,
    stranger: Arc<ClientConfig>,
) -> Vec<Report> {
    let payload = r#"{"temperature":21.0}"#;
    let signed = |who: &Identity| {
        who.sign(payload, fresh_message_id(), system_now().seconds())
            .unwrap_or_default()
    };
    let good = signed(own);
    let tampered = String::from_utf8_lossy(&signed(own))
        .replace("21.0", "99.9")
        .into_bytes();
    let forged = signed(victim);
    vec![
        Report {
            attack: "replay: an accepted message sent a second time",
            outcome: refused(own, &[good.clone(), good], Reason::Replayed).await,
        },
        Report {
            attack: "tampering: a signed reading changed on its way",
            outcome: refused(own, &[tampered], Reason::BadSignature).await,
        },
        Report {
            attack: "impersonation: a message in another device's name",
            outcome: refused(own, &[forged], Reason::IdentityMismatch).await,
        },
        Report {
            attack: "stranger: a certificate from an unknown CA",
            outcome: kept_out(own, stranger).await,
        },
    ]
}

/// A TLS configuration with a certificate that the gateway's CA never saw, in the name of `id`.
///
/// # Errors
/// When the certificate cannot be made.
pub(super) fn stranger(id: &str, trusting: ClientConfigParts) -> Result<Arc<ClientConfig>, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, id);
    let certificate = params
        .self_signed(&key)
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    trusting
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

/// A client configuration that already knows whom to trust.
pub(super) type ClientConfigParts =
    rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

/// Sends all `messages` and expects the last one to be refused for `reason`.
async fn refused(who: &Identity, messages: &[Vec<u8>], reason: Reason) -> Result<String, String> {
    let attempt = async {
        let mut link = who.connect().await?;
        let mut answer = (0, String::new());
        for (packet_id, bytes) in (1..).filter_map(NonZeroU16::new).zip(messages) {
            link.queue_publish(packet_id, &Channel::Data.topic(&who.id), bytes, false)?;
            link.flush().await?;
            answer = acknowledgement(&mut link, packet_id).await?;
        }
        Ok::<_, LinkError>(answer)
    };
    match timeout(PATIENCE, attempt).await {
        Ok(Ok((code, why))) if code == reason.mqtt() && why.contains(reason.code()) => Ok(why),
        Ok(Ok((code, why))) => Err(format!(
            "answered {code:#04x} {why:?}, not {}",
            reason.code()
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// The reason code and reason string of the PUBACK for `packet_id`.
async fn acknowledgement(
    link: &mut Link,
    packet_id: NonZeroU16,
) -> Result<(u8, String), LinkError> {
    loop {
        let frame = link.receive().await?;
        let answer = match link.packet(frame)? {
            ServerPacket::Ack(ack) if ack.kind == AckKind::PubAck && ack.packet_id == packet_id => {
                let why = ack.properties.reason_string().unwrap_or_default();
                Some((ack.reason.as_u8(), why.to_owned()))
            }
            ServerPacket::Disconnect(_) => return Err(LinkError::Closed),
            _ => None,
        };
        link.consume(frame);
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

/// Expects that nobody gets in with `tls`.
async fn kept_out(own: &Identity, tls: Arc<ClientConfig>) -> Result<String, String> {
    let stranger = Identity { tls, ..own.clone() };
    match timeout(PATIENCE, stranger.connect()).await {
        Ok(Err(LinkError::Io(error))) if is_alert(&error) => Ok(error.to_string()),
        Ok(Err(error)) => Err(format!("not refused by TLS: {error}")),
        Ok(Ok(_)) => Err("the connection was accepted".to_owned()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Whether the other side ended the connection with a TLS alert.
fn is_alert(error: &io::Error) -> bool {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}
