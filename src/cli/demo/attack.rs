//! Four attacks on the running gateway, each of which must be refused for its own reason. A device of
//! ours cannot misbehave, so they are made with a bare MQTT client.

use std::{io, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tidegate_host::Bundle;
use tidegate_mqtt::{AckKind, ServerPacket};
use tidegate_wire::{
    Channel, DeviceId, Direction, Draft, MessageId, Payload, Reason, SigningKey, Version,
    limits::ENVELOPE_OVERHEAD,
};
use tokio::time::timeout;

use super::{
    DemoError,
    link::{Link, LinkError},
};
use crate::{clock::system_now, pki};

/// Longer than any answer on loopback takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most slots that a payload here needs; see [`tidegate_wire::limits::slots_for`].
const SLOTS: usize = 64;

/// How one attack went.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) attack: &'static str,
    /// What the gateway answered, or what it failed to refuse.
    pub(super) outcome: Result<String, String>,
}

/// Runs all attacks: as `stolen`, a device of which the attacker has everything, and as a stranger with
/// a certificate of its own making. `victim` is another device.
///
/// # Errors
/// When an attack cannot even be tried.
pub(super) async fn run(
    stolen: &Bundle,
    victim: &Bundle,
    gateway: SocketAddr,
) -> Result<Vec<Report>, DemoError> {
    let own = &Identity::of(stolen, gateway)?;
    let victim = &Identity::of(victim, gateway)?;
    let stranger = stranger(stolen)?;
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
    Ok(vec![
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
    ])
}

/// Where and as whom the attacker connects.
#[derive(Clone, Debug)]
struct Identity {
    id: DeviceId,
    key: SigningKey,
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    name: ServerName<'static>,
}

impl Identity {
    fn of(bundle: &Bundle, address: SocketAddr) -> Result<Self, DemoError> {
        let wrong = |error: &dyn std::fmt::Display| DemoError::Attack(error.to_string());
        let tls = trusting(bundle)?
            .with_client_auth_cert(bundle.chain.clone(), bundle.key.clone_key())
            .map_err(|error| wrong(&error))?;
        Ok(Self {
            id: DeviceId::try_from(bundle.device_id.as_str()).map_err(|error| wrong(&error))?,
            key: SigningKey::new(&bundle.secret).map_err(|error| wrong(&error))?,
            tls: Arc::new(tls),
            address,
            name: ServerName::IpAddress(address.ip().into()),
        })
    }

    async fn connect(&self) -> Result<Link, LinkError> {
        let tls = Arc::clone(&self.tls);
        Link::open(self.address, self.name.clone(), tls, self.id.as_str()).await
    }

    /// A signed envelope of version 2 with `payload`, which must be JSON.
    fn sign(&self, payload: &str, message_id: MessageId, timestamp: u64) -> Option<Vec<u8>> {
        let mut slots = [0; SLOTS];
        let draft = Draft {
            version: Version::V2,
            device_id: &self.id,
            timestamp,
            message_id,
            payload: Payload::parse(payload.as_bytes(), &mut slots).ok()?,
        };
        let mut bytes = vec![0; payload.len() + ENVELOPE_OVERHEAD];
        let length = draft.sign_into(&self.key, Direction::Up, &mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }
}

/// A message id that no device had before.
fn fresh_message_id() -> MessageId {
    MessageId::from_bytes(uuid::Uuid::new_v4().into_bytes())
}

/// A TLS configuration with a certificate that the gateway's CA never saw, in the name of `device`.
fn stranger(device: &Bundle) -> Result<Arc<ClientConfig>, DemoError> {
    let wrong = |error: rcgen::Error| DemoError::Attack(error.to_string());
    let key = KeyPair::generate().map_err(wrong)?;
    let mut params = CertificateParams::default();
    let id = device.device_id.as_str();
    params.distinguished_name.push(DnType::CommonName, id);
    let certificate = params.self_signed(&key).map_err(wrong)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    trusting(device)?
        .with_client_auth_cert(vec![certificate.der().clone()], key)
        .map(Arc::new)
        .map_err(|error| DemoError::Attack(error.to_string()))
}

/// A client configuration that trusts the gateway's root and shows nothing yet.
fn trusting(
    bundle: &Bundle,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, DemoError> {
    let wrong = |error: rustls::Error| DemoError::Attack(error.to_string());
    let mut roots = RootCertStore::empty();
    for root in &bundle.roots {
        roots.add(root.clone()).map_err(wrong)?;
    }
    Ok(
        ClientConfig::builder_with_provider(Arc::new(pki::credentials::provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots),
    )
}

/// Sends all `messages` and expects the last one to be refused for `reason`.
async fn refused(who: &Identity, messages: &[Vec<u8>], reason: Reason) -> Result<String, String> {
    let attempt = async {
        let mut link = who.connect().await?;
        let mut answer = (0, String::new());
        for (packet_id, bytes) in (1..).filter_map(NonZeroU16::new).zip(messages) {
            link.queue_publish(packet_id, &Channel::Data.topic(&who.id), bytes)?;
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
