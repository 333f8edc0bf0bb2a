//! A client that does exactly what it is told, right or wrong.

use std::{num::NonZeroU16, time::Duration};

use bytes::{Buf, BytesMut};
use tidegate_mqtt::{
    Accept, Ack, AckKind, Connect, Disconnect, PINGREQ, Peer, Property, PropertyBuf, Publish, QoS,
    RawProperties, ReasonCode, ServerPacket, Subscribe, Subscription, Version, Will,
    decode_from_server, frame,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// How long anything may take that should happen.
const SOON: Duration = Duration::from_secs(5);

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Client {
    io: Box<dyn Stream>,
    input: BytesMut,
    version: Version,
    accept: Option<Accept>,
}

/// What came, owned.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Got {
    ConnAck {
        present: bool,
        reason: ReasonCode,
        assigned: Option<String>,
    },
    Publish(Message),
    Ack(AckKind, u16, ReasonCode),
    SubAck(Vec<u8>),
    UnsubAck(Vec<u8>),
    PingResp,
    Disconnect(ReasonCode),
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message {
    pub(super) dup: bool,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) topic: String,
    pub(super) id: Option<u16>,
    pub(super) payload: String,
    pub(super) identifiers: Vec<u32>,
    pub(super) user: Vec<(String, String)>,
    pub(super) expiry: Option<u32>,
}

/// What to put into CONNECT.
pub(super) struct Hello<'a> {
    pub(super) version: Version,
    pub(super) clean: bool,
    pub(super) keep_alive: u16,
    pub(super) client_id: &'a str,
    pub(super) will: Option<Will<'a>>,
    pub(super) properties: Vec<Property<'a>>,
    pub(super) login: Option<(&'a str, &'a str)>,
}

impl<'a> Hello<'a> {
    pub(super) fn v5(client_id: &'a str) -> Self {
        Self {
            version: Version::V5,
            clean: true,
            keep_alive: 60,
            client_id,
            will: None,
            properties: Vec::new(),
            login: None,
        }
    }

    pub(super) fn v3(client_id: &'a str) -> Self {
        Self {
            version: Version::V311,
            ..Self::v5(client_id)
        }
    }

    /// A session that outlives the connection.
    pub(super) fn lasting(client_id: &'a str) -> Self {
        let properties = vec![Property::SessionExpiryInterval(3600)];
        Self {
            clean: false,
            properties,
            ..Self::v5(client_id)
        }
    }
}

pub(super) fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(super) fn publish<'a>(topic: &'a str, qos: u8, number: u16, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        dup: false,
        qos: QoS::from_bits(qos).unwrap(),
        retain: false,
        topic,
        packet_id: (qos > 0).then(|| id(number)),
        properties: RawProperties::EMPTY,
        payload,
    }
}

impl Client {
    pub(super) fn new(io: impl Stream + 'static) -> Self {
        Self {
            io: Box::new(io),
            input: BytesMut::new(),
            version: Version::V5,
            accept: None,
        }
    }

    fn peer(&self) -> Peer {
        Peer::server(self.version)
    }

    /// Says CONNECT and returns the answer.
    pub(super) async fn hello(&mut self, hello: Hello<'_>) -> Got {
        self.version = hello.version;
        self.accept = Some(Accept::ConnAck(hello.version));
        let mut properties = PropertyBuf::new();
        for property in hello.properties {
            properties.push(property).unwrap();
        }
        let connect = Connect {
            version: hello.version,
            clean_start: hello.clean,
            keep_alive: hello.keep_alive,
            client_id: hello.client_id,
            will: hello.will,
            user_name: hello.login.map(|(name, _)| name),
            password: hello.login.map(|(_, password)| password.as_bytes()),
            properties: properties.as_raw(),
        };
        let mut out = BytesMut::new();
        connect.encode(&self.peer(), &mut out).unwrap();
        self.raw(&out).await;
        let got = self.next().await;
        self.accept = Some(Accept::FromServer(hello.version));
        got
    }

    /// [`Client::hello`] that is accepted; whether the session was there.
    pub(super) async fn connected(&mut self, hello: Hello<'_>) -> bool {
        match self.hello(hello).await {
            Got::ConnAck {
                present,
                reason: ReasonCode::Success,
                ..
            } => present,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        // The other end may have closed already: what it says about that is read later.
        let _ = timeout(SOON, self.io.write_all(bytes)).await.unwrap();
        let _ = self.io.flush().await;
    }

    pub(super) async fn publish(&mut self, publish: Publish<'_>) {
        let mut out = BytesMut::new();
        publish.encode(&self.peer(), &mut out).unwrap();
        self.raw(&out).await;
    }

    pub(super) async fn ack(&mut self, kind: AckKind, number: u16) {
        let mut out = BytesMut::new();
        Ack::success(kind, id(number))
            .encode(&self.peer(), &mut out)
            .unwrap();
        self.raw(&out).await;
    }

    /// Subscribes and returns the codes.
    pub(super) async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        let subscriptions: Vec<_> = filters
            .iter()
            .map(|(filter, qos)| Subscription::new(filter, QoS::from_bits(*qos).unwrap()))
            .collect();
        self.subscribe_with(&subscriptions, RawProperties::EMPTY)
            .await
    }

    pub(super) async fn subscribe_with(
        &mut self,
        subscriptions: &[Subscription<'_>],
        properties: RawProperties<'_>,
    ) -> Vec<u8> {
        let subscribe = Subscribe {
            packet_id: id(1),
            properties,
            filters: subscriptions.into(),
        };
        let mut out = BytesMut::new();
        subscribe.encode(&self.peer(), &mut out).unwrap();
        self.raw(&out).await;
        match self.next().await {
            Got::SubAck(codes) => codes,
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    pub(super) async fn disconnect(&mut self, reason: ReasonCode) {
        let mut out = BytesMut::new();
        Disconnect::new(reason)
            .encode(&self.peer(), &mut out)
            .unwrap();
        self.raw(&out).await;
        assert_eq!(self.next().await, Got::Closed);
    }

    /// Answers PINGREQ, so everything before it was taken.
    pub(super) async fn ping(&mut self) {
        self.raw(PINGREQ).await;
        assert_eq!(self.next().await, Got::PingResp);
    }

    /// The next packet.
    pub(super) async fn next(&mut self) -> Got {
        timeout(SOON, self.read())
            .await
            .expect("something should have come")
    }

    /// The next packet, which is a message.
    pub(super) async fn message(&mut self) -> Message {
        match self.next().await {
            Got::Publish(message) => message,
            other => panic!("no message: {other:?}"),
        }
    }

    /// The next packet, if there is one within `time`.
    pub(super) async fn next_within(&mut self, time: Duration) -> Option<Got> {
        timeout(time, self.read()).await.ok()
    }

    /// What CONNECT said was written by hand, in 3.1.1.
    pub(super) fn speaks_v3(&mut self) {
        self.version = Version::V311;
        self.accept = Some(Accept::ConnAck(Version::V311));
    }

    /// Everything until the other end closes, as it is.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset after the last byte is an end as well.
        let _ = timeout(SOON, self.io.read_to_end(&mut rest)).await.unwrap();
        rest
    }

    /// Nothing comes for a while.
    pub(super) async fn silence(&mut self) {
        let got = timeout(Duration::from_millis(200), self.read()).await;
        assert!(got.is_err(), "{got:?}");
    }

    async fn read(&mut self) -> Got {
        loop {
            let accept = self.accept.unwrap_or(Accept::FromServer(self.version));
            if let Some(frame) = frame(&self.input, u32::MAX, accept).unwrap()
                && let Some(body) = frame.body(&self.input)
            {
                let got = own(decode_from_server(self.version, frame, body).unwrap());
                self.accept = Some(Accept::FromServer(self.version));
                self.input.advance(frame.total_len());
                return got;
            }
            match self.io.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Got::Closed,
                Ok(_) => {}
            }
        }
    }
}

fn own(packet: ServerPacket<'_>) -> Got {
    match packet {
        ServerPacket::ConnAck(connack) => Got::ConnAck {
            present: connack.session_present,
            reason: connack.reason,
            assigned: connack
                .properties
                .assigned_client_identifier()
                .map(str::to_owned),
        },
        ServerPacket::Publish(publish) => Got::Publish(Message {
            dup: publish.dup,
            qos: publish.qos.as_u8(),
            retain: publish.retain,
            topic: publish.topic.to_owned(),
            id: publish.packet_id.map(NonZeroU16::get),
            payload: String::from_utf8_lossy(publish.payload).into_owned(),
            identifiers: publish.properties.subscription_identifiers().collect(),
            user: publish
                .properties
                .user_properties()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            expiry: publish.properties.message_expiry_interval(),
        }),
        ServerPacket::Ack(ack) => Got::Ack(ack.kind, ack.packet_id.get(), ack.reason),
        ServerPacket::SubAck(suback) => Got::SubAck(suback.codes.to_vec()),
        ServerPacket::UnsubAck(unsuback) => Got::UnsubAck(unsuback.codes.to_vec()),
        ServerPacket::PingResp => Got::PingResp,
        ServerPacket::Disconnect(disconnect) => Got::Disconnect(disconnect.reason),
        ServerPacket::Auth(_) => panic!("the gateway never says AUTH"),
    }
}
