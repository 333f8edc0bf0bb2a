//! The attacker's side of an MQTT 5 connection over mutual TLS: it sends whatever it likes.

use std::{io, net::SocketAddr, num::NonZeroU16, sync::Arc};

use bytes::{Buf, BytesMut};
use rustls::{ClientConfig, pki_types::ServerName};
use tidegate_mqtt::{
    Accept, Connect, Frame, Peer, Publish, QoS, RawProperties, ReasonCode, ServerPacket, Version,
    decode_from_server, frame,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Largest packet taken.
const MAX_PACKET: u32 = 128 * 1024;

/// Why a connection could not be made or went away.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the gateway sent something that is not MQTT: {0}")]
    Decode(#[from] tidegate_mqtt::DecodeError),
    #[error("this packet cannot be written: {0}")]
    Encode(#[from] tidegate_mqtt::EncodeError),
    #[error("the gateway refused the connection: {0:?}")]
    Refused(ReasonCode),
    #[error("the gateway closed the connection")]
    Closed,
}

/// An open connection. A message is queued and sent by [`Link::flush`].
#[derive(Debug)]
pub(super) struct Link {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    outbox: BytesMut,
    gateway: Peer,
}

impl Link {
    /// Connects, completes the TLS handshake and the MQTT one.
    ///
    /// # Errors
    /// As [`LinkError`] says.
    pub(super) async fn open(
        address: SocketAddr,
        name: ServerName<'static>,
        tls: Arc<ClientConfig>,
        client_id: &str,
    ) -> Result<Self, LinkError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        let gateway = Peer::server(Version::V5);
        let mut link = Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            gateway,
        };
        let connect = Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive: 30,
            client_id,
            will: None,
            user_name: None,
            password: None,
            properties: RawProperties::EMPTY,
        };
        connect.encode(&link.gateway, &mut link.outbox)?;
        link.flush().await?;
        let frame = link.next(Accept::ConnAck(Version::V5)).await?;
        let refused = match link.packet(frame)? {
            ServerPacket::ConnAck(answer) if answer.reason == ReasonCode::Success => None,
            ServerPacket::ConnAck(answer) => Some(answer.reason),
            _ => Some(ReasonCode::ProtocolError),
        };
        link.consume(frame);
        refused.map_or(Ok(link), |reason| Err(LinkError::Refused(reason)))
    }

    /// Sends a QoS 1 publish.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(super) fn queue_publish(
        &mut self,
        packet_id: NonZeroU16,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), LinkError> {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(packet_id),
            properties: RawProperties::EMPTY,
            payload,
        };
        publish.encode(&self.gateway, &mut self.outbox)?;
        Ok(())
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        self.stream.write_all(&self.outbox).await?;
        self.outbox.clear();
        Ok(self.stream.flush().await?)
    }

    /// Waits for the next packet. Cancel safe. Read it with [`Link::packet`], then [`Link::consume`].
    ///
    /// # Errors
    /// When the connection ends or carries nonsense.
    pub(super) async fn receive(&mut self) -> Result<Frame, LinkError> {
        self.next(Accept::FromServer(Version::V5)).await
    }

    async fn next(&mut self, accept: Accept) -> Result<Frame, LinkError> {
        loop {
            if let Some(frame) = frame(&self.inbox, MAX_PACKET, accept)?
                && frame.body(&self.inbox).is_some()
            {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// The packet that `frame` announced.
    ///
    /// # Errors
    /// When it is malformed.
    pub(super) fn packet(&self, frame: Frame) -> Result<ServerPacket<'_>, LinkError> {
        let body = frame.body(&self.inbox).ok_or(LinkError::Closed)?;
        Ok(decode_from_server(Version::V5, frame, body)?)
    }

    pub(super) fn consume(&mut self, frame: Frame) {
        self.inbox.advance(frame.total_len());
    }
}
