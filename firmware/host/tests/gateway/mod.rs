//! A gateway for tests: real TLS and MQTT, and every answer given by the test.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding};
use bytes::{Buf, BytesMut};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use tidegate_host::Bundle;
use tidegate_mqtt::{
    Accept, Ack, AckKind, ClientPacket, ConnAck, PINGRESP, Peer, Property, PropertyBuf, Publish,
    QoS, RawProperties, ReasonCode, SubAck, Version, decode, decode_connect, frame,
};
use tidegate_wire::{Direction, Draft, Envelope, Limits, MessageId, Payload, SigningKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What devices sign with.
pub(crate) const SECRET: &[u8] = b"supersecretkey123";

pub(crate) struct Gateway {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    root: CertifiedIssuer<'static, KeyPair>,
    devices: CertifiedIssuer<'static, KeyPair>,
}

/// One device's connection.
pub(crate) struct Link {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
    next_id: NonZeroU16,
    /// DER of the device's certificate.
    pub(crate) certificate: Vec<u8>,
}

/// What a device published; its signature was checked.
pub(crate) struct Message {
    pub(crate) channel: String,
    pub(crate) id: MessageId,
    pub(crate) dup: bool,
    pub(crate) payload: Value,
    pub(crate) bytes: Vec<u8>,
    packet_id: NonZeroU16,
}

fn params(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn encode(
    write: impl FnOnce(&Peer, &mut BytesMut) -> Result<usize, tidegate_mqtt::EncodeError>,
) -> BytesMut {
    let mut out = BytesMut::new();
    write(&Peer::client(Version::V5), &mut out).unwrap();
    out
}

/// Servers that the root vouches for, for devices that the other authority vouches for.
fn acceptor(
    root: &CertifiedIssuer<'static, KeyPair>,
    devices: &CertifiedIssuer<'static, KeyPair>,
) -> TlsAcceptor {
    let server_key = KeyPair::generate().unwrap();
    let server = params("gateway", ExtendedKeyUsagePurpose::ServerAuth)
        .signed_by(&server_key, root)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut anchors = RootCertStore::empty();
    anchors.add(devices.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(anchors.into(), provider.clone())
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![server.der().clone()],
            PrivateKeyDer::try_from(server_key.serialize_der()).unwrap(),
        )
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Gateway {
    /// TLS for another server of the same gateway.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        acceptor(&self.root, &self.devices)
    }

    /// TLS for a server that only pretends to be the gateway, to the same devices.
    pub(crate) fn impostor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), key).unwrap();
        acceptor(&root, &self.devices)
    }

    pub(crate) async fn start() -> Self {
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
        let devices = CertifiedIssuer::self_signed(authority("devices"), key()).unwrap();
        Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
            acceptor: acceptor(&root, &devices),
            root,
            devices,
        }
    }

    fn issue(&self, device: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(device, ExtendedKeyUsagePurpose::ClientAuth)
            .signed_by(&key, &self.devices)
            .unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    }

    pub(crate) fn bundle(&self, device: &str) -> Bundle {
        let (certificate, key) = self.issue(device);
        Bundle {
            device_id: device.into(),
            host: "localhost".into(),
            port: self.listener.local_addr().unwrap().port(),
            chain: vec![certificate.into()],
            key: Arc::new(PrivateKeyDer::try_from(key).unwrap()),
            roots: vec![self.root.der().clone()],
            secret: SECRET.to_vec(),
            release_keys: Vec::new(),
            update_port: None,
        }
    }

    /// A new certificate and its key, in base64.
    pub(crate) fn renew(&self, device: &str) -> (String, String) {
        let (certificate, key) = self.issue(device);
        (
            Base64::encode_string(&certificate),
            Base64::encode_string(&key),
        )
    }

    pub(crate) fn command(&self, device: &str, payload: &Value) -> Vec<u8> {
        self.sign(device, SECRET, payload, 0)
    }

    pub(crate) fn sign(&self, device: &str, secret: &[u8], payload: &Value, skew: i64) -> Vec<u8> {
        let text = payload.to_string();
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut out = vec![0; 4096];
        let len = Draft {
            version: tidegate_wire::Version::V2,
            device_id: &device.try_into().unwrap(),
            timestamp: now.as_secs().checked_add_signed(skew).unwrap(),
            message_id: MessageId::from_random(id),
            payload: Payload::parse(text.as_bytes(), &mut [0; 64]).unwrap(),
        }
        .sign_into(&SigningKey::new(secret).unwrap(), Direction::Down, &mut out)
        .unwrap();
        out.truncate(len);
        out
    }

    /// Takes a connection whose certificate is to be refused; whether it was.
    pub(crate) async fn refuse(&self) -> bool {
        let (tcp, _) = self.listener.accept().await.unwrap();
        self.acceptor.accept(tcp).await.is_err()
    }

    /// Takes a connection and lets the device in.
    pub(crate) async fn accept(&self, session_present: bool) -> Link {
        let accepted = self.try_accept(session_present).await;
        accepted.expect("the device connects and stays")
    }

    /// As [`accept`](Self::accept); `None` if the device goes away before it is in.
    pub(crate) async fn try_accept(&self, session_present: bool) -> Option<Link> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let stream = self.acceptor.accept(tcp).await.ok()?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let mut link = Link {
            stream,
            input: BytesMut::new(),
            next_id: NonZeroU16::MIN,
            certificate,
        };
        loop {
            if let Some(frame) = frame(&link.input, u32::MAX, Accept::Connect).unwrap()
                && let Some(body) = frame.body(&link.input)
            {
                let connect = decode_connect(body).unwrap();
                assert!(!connect.clean_start);
                let will = connect.will.unwrap();
                assert_eq!(will.topic, "device/sensor_001/event");
                Envelope::parse(will.payload, &Limits::CONTRACT, &mut [0; 64]).unwrap();
                link.input.advance(frame.total_len());
                break;
            }
            if link.stream.read_buf(&mut link.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        let ack = ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties: RawProperties::EMPTY,
        };
        link.write(&encode(|peer, out| ack.encode(peer, out))).await;
        Some(link)
    }
}

/// `None` if it was not signed with the secret.
fn read_envelope(bytes: &[u8]) -> Option<(MessageId, Value)> {
    let mut slots = [0; 64];
    let envelope = Envelope::parse(bytes, &Limits::CONTRACT, &mut slots).unwrap();
    assert_eq!(envelope.version(), tidegate_wire::Version::V2);
    let key = SigningKey::new(SECRET).unwrap();
    let verified = envelope.verify(&key, Direction::Up, &mut slots).ok()?;
    let payload = serde_json::from_str(verified.payload().as_str()).unwrap();
    Some((verified.message_id(), payload))
}

impl Link {
    async fn write(&mut self, bytes: &[u8]) {
        // A device that is gone is noticed when the next message is read.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next message the device publishes.
    pub(crate) async fn message(&mut self) -> Message {
        self.try_message().await.expect("the device is still there")
    }

    /// The next message, or `None` once the device has left.
    pub(crate) async fn try_message(&mut self) -> Option<Message> {
        loop {
            let accept = Accept::FromClient(Version::V5);
            let mut answer = BytesMut::new();
            if let Some(frame) = frame(&self.input, u32::MAX, accept).unwrap()
                && let Some(body) = frame.body(&self.input)
            {
                let mut message = None;
                match decode(Version::V5, frame, body).unwrap() {
                    ClientPacket::Publish(publish) => {
                        let packet_id = publish.packet_id.unwrap();
                        if let Some((id, payload)) = read_envelope(publish.payload) {
                            let channel = publish.topic.strip_prefix("device/sensor_001/").unwrap();
                            message = Some(Message {
                                channel: channel.into(),
                                id,
                                dup: publish.dup,
                                payload,
                                bytes: publish.payload.to_vec(),
                                packet_id,
                            });
                        } else {
                            answer = refusal(packet_id, "bad_signature", 0x87);
                        }
                    }
                    ClientPacket::Subscribe(subscribe) => {
                        let ack = SubAck {
                            packet_id: subscribe.packet_id,
                            properties: RawProperties::EMPTY,
                            codes: &[1, 1],
                        };
                        answer = encode(|peer, out| ack.encode(peer, out));
                    }
                    ClientPacket::PingReq => answer.extend_from_slice(PINGRESP),
                    ClientPacket::Disconnect(_) => return None,
                    ClientPacket::Ack(_) => {}
                    other => panic!("{other:?}"),
                }
                self.input.advance(frame.total_len());
                if !answer.is_empty() {
                    self.write(&answer).await;
                }
                if message.is_some() {
                    return message;
                }
                continue;
            }
            if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn acknowledge(&mut self, message: &Message) {
        let ack = Ack::success(AckKind::PubAck, message.packet_id);
        self.write(&encode(|peer, out| ack.encode(peer, out))).await;
    }

    pub(crate) async fn refuse(&mut self, message: &Message, reason: &str, code: u8) {
        self.write(&refusal(message.packet_id, reason, code)).await;
    }

    /// Sends on one of the device's topics.
    pub(crate) async fn send(&mut self, channel: &str, payload: &[u8]) {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: &format!("device/sensor_001/{channel}"),
            packet_id: Some(self.next_id),
            properties: RawProperties::EMPTY,
            payload,
        };
        self.next_id = self.next_id.checked_add(1).unwrap();
        self.write(&encode(|peer, out| publish.encode(peer, out)))
            .await;
    }
}

fn refusal(packet_id: NonZeroU16, reason: &str, code: u8) -> BytesMut {
    let mut properties = PropertyBuf::new();
    properties.push(Property::ReasonString(reason)).unwrap();
    let ack = Ack {
        kind: AckKind::PubAck,
        packet_id,
        reason: ReasonCode::from_u8(code).unwrap(),
        properties: properties.as_raw(),
    };
    encode(|peer, out| ack.encode(peer, out))
}
