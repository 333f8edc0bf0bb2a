//! Reading a stream of packets, and what must hold of whatever it is.
//!
//! - Decoding, and reading all of what was decoded, allocates nothing.
//! - However the stream is cut, the same packets come out, or the same error, and not later.
//! - A packet that was accepted is within the size limit, and encodes to the bytes it was read from
//!   (or to the shorter form MQTT 5 allows for them), holding no more than four times its size.
//! - What a client published can be passed on to any client, with the same topic and payload.

use bytes::BytesMut;
use tidegate_mqtt::{
    Accept, ClientPacket, ConnAck, Connect, DecodeError, Malformed, Peer, PropertyBuf,
    PropertyScope, Publish, RawProperties, ReasonCode, Role, ServerPacket, Version, frame, topic,
};

use crate::allocation;
use crate::common::{Any, encode, shortest, take};

/// Limits on the size of a packet that are tried: hardly any, before CONNECT, the contract's, none.
pub const MAX_SIZES: [u32; 4] = [16, 1024, 64 * 1024 + 256, u32::MAX];

/// Where a connection stands when the stream begins.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// What may come next.
    pub accept: Accept,
    /// The largest packet taken, in bytes.
    pub max: u32,
    /// Of the cuts inside a packet, how many bytes they are apart.
    pub stride: usize,
}

impl Stream {
    /// Reads packets until one is refused or incomplete.
    ///
    /// # Panics
    ///
    /// If something does not hold.
    pub fn judge(mut self, wire: &[u8]) {
        let mut rest = wire;
        loop {
            let found = allocation::at_most(0, || {
                let found = take(self.accept, self.max, rest);
                if let Ok(Some((any, _))) = &found {
                    look_at(any);
                }
                found
            });
            self.cut(rest, &found);
            let Ok(Some((any, len))) = found else {
                break;
            };
            let (packet, behind) = rest.split_at(len);
            let version = version(self.accept, &any);
            assert!(len as u64 <= u64::from(self.max), "larger than allowed");
            write_back(version, &any, packet);
            if let Any::Client(ClientPacket::Publish(publish)) = &any {
                pass_on(publish);
            }
            self.accept = next(self.accept, &any);
            rest = behind;
        }
    }

    /// Reads the same packet from every shorter beginning of the stream (of a long one, from some).
    fn cut(&self, rest: &[u8], whole: &Result<Option<(Any<'_>, usize)>, DecodeError>) {
        let len = match whole {
            Ok(Some((_, len))) => *len,
            Ok(None) | Err(_) => rest.len(),
        };
        let dense = len.min(24);
        let sparse = (dense..len).step_by(self.stride.max(len / 16));
        let mut refused = false;
        for at in (0..dense).chain(sparse).chain(len.checked_sub(1)) {
            let head = &rest[..at];
            match (take(self.accept, self.max, head), whole) {
                (Ok(None), _) => assert!(!refused, "refused, and then not"),
                (Err(early), Err(late)) => {
                    same(&early, late);
                    refused = true;
                }
                (found, _) => panic!("{at} of {len} bytes: {found:?}, all of them: {whole:?}"),
            }
        }
        if let Ok(Some((any, _))) = whole {
            // More bytes behind it change nothing.
            let alone = take(self.accept, self.max, &rest[..len]);
            assert_eq!(alone, Ok(Some((*any, len))));
        }
        if let Ok(Some(frame)) = frame(rest, self.max, self.accept) {
            assert!(frame.total_len() <= self.max as usize, "announced too much");
        }
    }
}

/// The same refusal, but for a length that is announced byte by byte: as soon as it can only be too
/// large it is refused for that, be it less exactly than later or, later, not even a length.
fn same(early: &DecodeError, late: &DecodeError) {
    match (early, late) {
        (
            DecodeError::PacketTooLarge { size: early, .. },
            DecodeError::PacketTooLarge { size: late, .. },
        ) => assert!(early <= late, "{early} is a lower bound of {late}"),
        (
            DecodeError::PacketTooLarge { .. },
            DecodeError::Malformed(Malformed::VariableByteInteger | Malformed::OverlongInteger),
        ) => {}
        _ => assert_eq!(early, late),
    }
}

fn version(accept: Accept, any: &Any<'_>) -> Version {
    match (accept, any) {
        (_, Any::Connect(connect)) => connect.version,
        (Accept::FromClient(v) | Accept::ConnAck(v) | Accept::FromServer(v), _) => v,
        _ => Version::V5,
    }
}

fn next(accept: Accept, any: &Any<'_>) -> Accept {
    match (accept, any) {
        (_, Any::Connect(connect)) => Accept::FromClient(connect.version),
        (Accept::ConnAck(version), Any::Server(ServerPacket::ConnAck(_))) => {
            Accept::FromServer(version)
        }
        _ => accept,
    }
}

/// Reads everything there is in a packet.
fn look_at(any: &Any<'_>) {
    let properties = |properties: &RawProperties<'_>| {
        for property in properties {
            assert!(properties.contains(property.id()));
            assert_eq!(
                properties.get(property.id()).map(|p| p.id()),
                Some(property.id())
            );
        }
        let _ = properties.user_properties().count();
        let _ = properties.subscription_identifiers().count();
    };
    match any {
        Any::Connect(Connect {
            properties: p,
            will,
            ..
        }) => {
            properties(p);
            if let Some(will) = will {
                properties(&will.properties);
                assert!(topic::valid_name(will.topic));
            }
        }
        Any::Client(ClientPacket::Publish(p)) | Any::Server(ServerPacket::Publish(p)) => {
            properties(&p.properties);
            assert!(p.topic.is_empty() || topic::valid_name(p.topic));
        }
        Any::Client(ClientPacket::Ack(p)) | Any::Server(ServerPacket::Ack(p)) => {
            properties(&p.properties);
        }
        Any::Client(ClientPacket::Subscribe(p)) => {
            properties(&p.properties);
            let mut count = 0;
            for subscription in p.filters.iter() {
                assert!(topic::valid_filter(subscription.filter));
                count += 1;
            }
            assert_eq!(p.filters.len(), count);
        }
        Any::Client(ClientPacket::Unsubscribe(p)) => {
            properties(&p.properties);
            let names = p
                .filters
                .iter()
                .filter(|filter| topic::valid_filter(filter));
            assert_eq!(names.count(), p.filters.len());
        }
        Any::Client(ClientPacket::Disconnect(p)) | Any::Server(ServerPacket::Disconnect(p)) => {
            properties(&p.properties);
        }
        Any::Client(ClientPacket::Auth(p)) | Any::Server(ServerPacket::Auth(p)) => {
            properties(&p.properties);
        }
        Any::Server(ServerPacket::ConnAck(ConnAck {
            reason,
            properties: p,
            session_present,
        })) => {
            properties(p);
            assert!(!session_present || *reason == ReasonCode::Success);
        }
        Any::Server(ServerPacket::SubAck(p)) => properties(&p.properties),
        Any::Server(ServerPacket::UnsubAck(p)) => properties(&p.properties),
        Any::Client(ClientPacket::PingReq) | Any::Server(ServerPacket::PingResp) => {}
    }
}

fn write_back(version: Version, any: &Any<'_>, packet: &[u8]) {
    let limit = 4 * packet.len() + 256;
    match allocation::at_most(limit, || encode(version, any)) {
        Ok(again) => assert_eq!(again, shortest(packet), "{any:?}"),
        Err(error) => panic!("{error} in {any:?}"),
    }
}

/// As a gateway does with a message on a free topic.
fn pass_on(publish: &Publish<'_>) {
    if publish.topic.is_empty() {
        return;
    }
    let mut forwarded = PropertyBuf::new();
    if let Err(error) = forwarded.push_forwarded(&publish.properties) {
        panic!("{error}: cannot pass on {publish:?}");
    }
    let properties = forwarded.as_raw();
    let parsed = RawProperties::parse(properties.as_bytes(), PropertyScope::PublishFromServer);
    assert_eq!(parsed, Ok(properties));
    for version in [Version::V311, Version::V5] {
        let message = Publish {
            properties,
            dup: false,
            ..*publish
        };
        let mut out = BytesMut::new();
        let peer = Peer::client(version);
        match message.encode(&peer, &mut out) {
            Ok(size) => assert_eq!(size, out.len()),
            Err(error) => panic!("{error}: cannot pass on {publish:?}"),
        }
        assert_eq!(peer.role, Role::Client);
        match take(Accept::FromServer(version), u32::MAX, &out) {
            Ok(Some((Any::Server(ServerPacket::Publish(read)), len))) => {
                assert_eq!(len, out.len());
                assert_eq!((read.topic, read.payload), (publish.topic, publish.payload));
                assert_eq!((read.qos, read.packet_id), (publish.qos, publish.packet_id));
            }
            other => panic!("{other:?}: passed on from {publish:?}"),
        }
    }
}
