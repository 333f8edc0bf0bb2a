//! A blocking MQTT client that does what it is told, packet by packet, over mutual TLS or any other
//! stream.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZeroU16,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tidegate_mqtt::{
    Accept, Ack, AckKind, Connect, Filters, Peer, Publish, QoS, RawProperties, ReasonCode,
    ServerPacket, Subscribe, Subscription, Version, decode_from_server, frame,
};

use super::Gateway;

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A packet from the gateway, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    ConnAck {
        session_present: bool,
        reason: u8,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
        dup: bool,
        retain: bool,
        id: Option<NonZeroU16>,
    },
    Ack {
        kind: AckKind,
        id: NonZeroU16,
        reason: u8,
        why: String,
    },
    SubAck(Vec<u8>),
    UnsubAck,
    Pong,
    Disconnect(u8),
    Auth,
}

pub struct Client {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    inbox: BytesMut,
    gateway: Peer,
    next_id: u16,
}

/// How a client introduces itself.
#[derive(Clone, Debug)]
pub struct Hello<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub clean: bool,
    pub keep_alive: u16,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Self {
            version: Version::V5,
            client_id: "story",
            clean: true,
            keep_alive: 30,
            user: None,
            password: None,
        }
    }
}

/// What a client trusts and shows, from a bundle's folder.
pub fn tls_config(bundle: &Path) -> Arc<ClientConfig> {
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_reader_iter(BufReader::new(File::open(bundle.join(name)).unwrap()))
            .map(Result::unwrap)
            .collect()
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.crt") {
        roots.add(certificate).unwrap();
    }
    let key = PrivateKeyDer::from_pem_file(bundle.join("device.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("device.crt"), key)
        .unwrap();
    Arc::new(config)
}

impl Client {
    /// Connects with a bundle over mutual TLS; panics unless the gateway accepts.
    pub fn connect(gateway: &Gateway, bundle: &Path, hello: &Hello<'_>) -> Self {
        let (client, answer) =
            Self::try_connect(gateway.mqtt(), &tls_config(bundle), hello).unwrap();
        assert!(
            matches!(answer, Packet::ConnAck { reason: 0, .. }),
            "{answer:?}"
        );
        client
    }

    /// Connects and returns the first answer, whatever it is.
    pub fn try_connect(
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        hello: &Hello<'_>,
    ) -> io::Result<(Self, Packet)> {
        let socket = TcpStream::connect_timeout(&address, super::SOON)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(super::SOON))?;
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        let stream = StreamOwned::new(connection, socket.try_clone()?);
        Self::introduce(Box::new(stream), socket, hello)
    }

    /// Introduces itself over a plain connection.
    pub fn plain(address: SocketAddr, hello: &Hello<'_>) -> io::Result<(Self, Packet)> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(super::SOON))?;
        Self::introduce(Box::new(socket.try_clone()?), socket, hello)
    }

    fn introduce(
        stream: Box<dyn Stream>,
        socket: TcpStream,
        hello: &Hello<'_>,
    ) -> io::Result<(Self, Packet)> {
        let gateway = Peer::server(hello.version);
        let mut client = Self {
            stream,
            socket,
            inbox: BytesMut::new(),
            gateway,
            next_id: 0,
        };
        let connect = Connect {
            version: hello.version,
            clean_start: hello.clean,
            keep_alive: hello.keep_alive,
            client_id: hello.client_id,
            will: None,
            user_name: hello.user,
            password: hello.password.map(str::as_bytes),
            properties: RawProperties::EMPTY,
        };
        client.write(|peer, out| connect.encode(peer, out).map(drop))?;
        let answer = client.next(Accept::ConnAck(hello.version))?;
        Ok((client, answer))
    }

    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub fn write(
        &mut self,
        encode: impl FnOnce(&Peer, &mut BytesMut) -> Result<(), tidegate_mqtt::EncodeError>,
    ) -> io::Result<()> {
        let mut out = BytesMut::new();
        encode(&self.gateway, &mut out).unwrap();
        self.raw(&out)
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.socket.set_read_timeout(Some(timeout)).unwrap();
    }

    pub fn set_write_timeout(&self, timeout: Duration) {
        self.socket.set_write_timeout(Some(timeout)).unwrap();
    }

    /// The next packet; an error when none comes in time or the connection ends.
    pub fn receive(&mut self) -> io::Result<Packet> {
        self.next(Accept::FromServer(self.gateway.version))
    }

    fn next(&mut self, accept: Accept) -> io::Result<Packet> {
        loop {
            if let Some(found) = frame(&self.inbox, u32::MAX, accept).map_err(io::Error::other)?
                && let Some(body) = found.body(&self.inbox)
            {
                let packet = own(decode_from_server(self.gateway.version, found, body)
                    .map_err(io::Error::other)?);
                self.inbox.advance(found.total_len());
                return Ok(packet);
            }
            let mut buffer = [0; 16 * 1024];
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.inbox.extend_from_slice(&buffer[..read]);
        }
    }

    /// Waits for a packet that `wanted` picks; others are passed over.
    pub fn wait<T>(&mut self, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
        let deadline = Instant::now() + super::SOON;
        loop {
            let packet = self.receive().expect("a packet from the gateway");
            if let Some(found) = wanted(&packet) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "the packet did not come; the last was {packet:?}"
            );
        }
    }

    pub fn next_id(&mut self) -> NonZeroU16 {
        self.next_id = self.next_id % 65_000 + 1;
        NonZeroU16::new(self.next_id).unwrap()
    }

    /// Sends a PUBLISH and returns its packet identifier.
    pub fn send(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
    ) -> io::Result<Option<NonZeroU16>> {
        let id = (qos != QoS::AtMostOnce).then(|| self.next_id());
        self.send_as(topic, payload, qos, id, false)?;
        Ok(id)
    }

    pub fn send_as(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        id: Option<NonZeroU16>,
        dup: bool,
    ) -> io::Result<()> {
        let publish = Publish {
            dup,
            qos,
            retain: false,
            topic,
            packet_id: id,
            properties: RawProperties::EMPTY,
            payload,
        };
        self.write(|peer, out| publish.encode(peer, out).map(drop))
    }

    /// Publishes at QoS 1 and waits for the acknowledgement: its reason code and reason string.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> (u8, String) {
        let id = self.send(topic, payload, QoS::AtLeastOnce).unwrap();
        self.acknowledged(id.unwrap())
    }

    pub fn acknowledged(&mut self, wanted: NonZeroU16) -> (u8, String) {
        self.wait(|packet| match packet {
            Packet::Ack {
                kind: AckKind::PubAck,
                id,
                reason,
                why,
            } if *id == wanted => Some((*reason, why.clone())),
            _ => None,
        })
    }

    pub fn acknowledge(&mut self, kind: AckKind, id: NonZeroU16) -> io::Result<()> {
        self.write(|peer, out| Ack::success(kind, id).encode(peer, out).map(drop))
    }

    /// Subscribes and returns the code of the answer.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> u8 {
        let id = self.next_id();
        let wanted = [Subscription::new(filter, qos)];
        let subscribe = Subscribe {
            packet_id: id,
            properties: RawProperties::EMPTY,
            filters: Filters::from(&wanted[..]),
        };
        self.write(|peer, out| subscribe.encode(peer, out).map(drop))
            .unwrap();
        self.wait(|packet| {
            if let Packet::SubAck(codes) = packet {
                Some(codes[0])
            } else {
                None
            }
        })
    }

    /// The next message; acknowledged if it wants to be.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        let (topic, payload, id) = self.wait(|packet| match packet {
            Packet::Publish {
                topic, payload, id, ..
            } => Some((topic.clone(), payload.clone(), *id)),
            _ => None,
        });
        if let Some(id) = id {
            self.acknowledge(AckKind::PubAck, id).unwrap();
        }
        (topic, payload)
    }

    pub fn disconnect(mut self) {
        let _ = self.raw(&[0xE0, 0]);
    }
}

fn own(packet: ServerPacket<'_>) -> Packet {
    match packet {
        ServerPacket::ConnAck(p) => Packet::ConnAck {
            session_present: p.session_present,
            reason: p.reason.as_u8(),
        },
        ServerPacket::Publish(p) => Packet::Publish {
            topic: p.topic.to_owned(),
            payload: p.payload.to_vec(),
            qos: p.qos.as_u8(),
            dup: p.dup,
            retain: p.retain,
            id: p.packet_id,
        },
        ServerPacket::Ack(p) => Packet::Ack {
            kind: p.kind,
            id: p.packet_id,
            reason: p.reason.as_u8(),
            why: p.properties.reason_string().unwrap_or_default().to_owned(),
        },
        ServerPacket::SubAck(p) => Packet::SubAck(p.codes.to_vec()),
        ServerPacket::UnsubAck(_) => Packet::UnsubAck,
        ServerPacket::PingResp => Packet::Pong,
        ServerPacket::Disconnect(p) => Packet::Disconnect(p.reason.as_u8()),
        ServerPacket::Auth(_) => Packet::Auth,
    }
}

/// The code of a reason, for comparing with what was received.
pub fn code(reason: ReasonCode) -> u8 {
    reason.as_u8()
}
