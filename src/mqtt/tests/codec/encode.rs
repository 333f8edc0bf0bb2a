//! Encoders: the bytes they write, what they leave out for a small peer, what they refuse.

use bytes::BytesMut;
use proptest::prelude::*;
use tidegate_mqtt::{
    Accept, Ack, AckKind, Auth, ConnAck, Connect, Disconnect, EncodeError, Limit, MAX_FILTERS,
    PINGREQ, PINGRESP, Peer, Property, PropertyBuf, PropertyId, PropertyScope, Publish, QoS,
    RawProperties, ReasonCode, SubAck, Subscribe, Subscription, UnsubAck, Unsubscribe, Version,
    Will,
};

use crate::common::{V5, V311, VERSIONS, field, one, property, take, user};

fn id(value: u16) -> std::num::NonZeroU16 {
    value.try_into().expect("not 0")
}

fn written(
    encode: impl FnOnce(&mut BytesMut) -> Result<usize, EncodeError>,
) -> Result<Vec<u8>, EncodeError> {
    // What is in the buffer already must stay, and be all there is after a refusal.
    let mut out = BytesMut::from(&b"before"[..]);
    let result = encode(&mut out);
    let (before, packet) = out.split_at(6);
    assert_eq!(before, b"before");
    match result {
        Ok(size) => {
            assert_eq!(size, packet.len());
            Ok(packet.to_vec())
        }
        Err(error) => {
            assert!(packet.is_empty(), "nothing is written on {error}");
            Err(error)
        }
    }
}

fn diagnostics() -> PropertyBuf {
    let mut buf = PropertyBuf::new();
    buf.push(Property::UserProperty("name", "value")).unwrap();
    buf.push(Property::ReasonString("why")).unwrap();
    buf
}

const MESSAGE: Publish<'_> = Publish {
    dup: false,
    qos: QoS::AtMostOnce,
    retain: false,
    topic: "a/b",
    packet_id: None,
    properties: RawProperties::EMPTY,
    payload: b"hi",
};

const CONNECT: Connect<'_> = Connect {
    version: V311,
    clean_start: true,
    keep_alive: 60,
    client_id: "c",
    will: None,
    user_name: None,
    password: None,
    properties: RawProperties::EMPTY,
};

#[test]
fn the_bytes_of_the_common_packets() {
    let (three, five) = (Peer::client(V311), Peer::client(V5));
    for peer in [three, five] {
        for (kind, first) in [
            (AckKind::PubAck, 0x40),
            (AckKind::PubRec, 0x50),
            (AckKind::PubRel, 0x62),
            (AckKind::PubComp, 0x70),
        ] {
            let ack = Ack::success(kind, id(0x1234));
            assert_eq!(
                written(|out| ack.encode(&peer, out)).unwrap(),
                [first, 2, 0x12, 0x34]
            );
        }
    }
    let refused = Ack {
        reason: ReasonCode::QuotaExceeded,
        ..Ack::success(AckKind::PubAck, id(1))
    };
    assert_eq!(
        written(|out| refused.encode(&five, out)).unwrap(),
        [0x40, 3, 0, 1, 0x97]
    );
    // 3.1.1 has no place for the reason.
    assert_eq!(
        written(|out| refused.encode(&three, out)).unwrap(),
        [0x40, 2, 0, 1]
    );

    let publish = MESSAGE;
    assert_eq!(
        written(|out| publish.encode(&three, out)).unwrap(),
        b"\x30\x07\0\x03a/bhi"
    );
    assert_eq!(
        written(|out| publish.encode(&five, out)).unwrap(),
        b"\x30\x08\0\x03a/b\0hi"
    );
    let publish = Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: Some(id(9)),
        ..publish
    };
    assert_eq!(
        written(|out| publish.encode(&three, out)).unwrap(),
        b"\x3D\x09\0\x03a/b\0\x09hi"
    );

    let connack = ConnAck {
        session_present: true,
        reason: ReasonCode::Success,
        properties: RawProperties::EMPTY,
    };
    assert_eq!(
        written(|out| connack.encode(&three, out)).unwrap(),
        [0x20, 2, 1, 0]
    );
    assert_eq!(
        written(|out| connack.encode(&five, out)).unwrap(),
        [0x20, 3, 1, 0, 0]
    );

    let codes = &[0, 1, 2, 0x80, 0x87, 0xA2];
    let suback = SubAck {
        packet_id: id(7),
        properties: RawProperties::EMPTY,
        codes,
    };
    let bytes = written(|out| suback.encode(&three, out)).unwrap();
    assert_eq!(
        bytes,
        [0x90, 8, 0, 7, 0, 1, 2, 0x80, 0x80, 0x80],
        "3.1.1 knows one failure"
    );
    let bytes = written(|out| suback.encode(&five, out)).unwrap();
    assert_eq!(bytes, [0x90, 9, 0, 7, 0, 0, 1, 2, 0x80, 0x87, 0xA2]);
    let unsuback = UnsubAck {
        packet_id: id(7),
        properties: RawProperties::EMPTY,
        codes: &[0, 0x11],
    };
    assert_eq!(
        written(|out| unsuback.encode(&three, out)).unwrap(),
        [0xB0, 2, 0, 7]
    );
    assert_eq!(
        written(|out| unsuback.encode(&five, out)).unwrap(),
        [0xB0, 5, 0, 7, 0, 0, 0x11]
    );

    let disconnect = Disconnect::new(ReasonCode::SessionTakenOver);
    assert_eq!(
        written(|out| disconnect.encode(&five, out)).unwrap(),
        [0xE0, 1, 0x8E]
    );
    let normal = Disconnect::new(ReasonCode::NORMAL_DISCONNECTION);
    assert_eq!(
        written(|out| normal.encode(&Peer::server(V311), out)).unwrap(),
        [0xE0, 0]
    );
    assert_eq!(written(|out| normal.encode(&five, out)).unwrap(), [0xE0, 0]);
    let connect = CONNECT;
    assert_eq!(
        written(|out| connect.encode(&Peer::server(V311), out)).unwrap(),
        b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01c"
    );
    assert_eq!((PINGREQ, PINGRESP), (&[0xC0, 0][..], &[0xD0, 0][..]));
}

#[test]
fn diagnostics_give_way_to_the_peers_maximum_packet_size() {
    let diagnostics = diagnostics();
    let properties = diagnostics.as_raw();
    // 14 bytes of user property, 6 of reason string.
    assert_eq!(properties.as_bytes().len(), 20);
    let reason = ReasonCode::QuotaExceeded;
    type Encode<'a> = Box<dyn Fn(&Peer, &mut BytesMut) -> Result<usize, EncodeError> + 'a>;
    let ack = Ack {
        properties,
        reason,
        ..Ack::success(AckKind::PubAck, id(1))
    };
    let connack = ConnAck {
        session_present: false,
        reason,
        properties,
    };
    let disconnect = Disconnect { reason, properties };
    let suback = SubAck {
        packet_id: id(1),
        properties,
        codes: &[0x87, 0x87],
    };
    let unsuback = UnsubAck {
        packet_id: id(1),
        properties,
        codes: &[0x87, 0x87],
    };
    // Encoder, size of the bare packet, and of the same with a property section (of one byte).
    let rows: [(&str, Encode<'_>, usize, usize); 5] = [
        ("ack", Box::new(|peer, out| ack.encode(peer, out)), 5, 6),
        (
            "connack",
            Box::new(|peer, out| connack.encode(peer, out)),
            5,
            5,
        ),
        (
            "disconnect",
            Box::new(|peer, out| disconnect.encode(peer, out)),
            3,
            4,
        ),
        (
            "suback",
            Box::new(|peer, out| suback.encode(peer, out)),
            7,
            7,
        ),
        (
            "unsuback",
            Box::new(|peer, out| unsuback.encode(peer, out)),
            7,
            7,
        ),
    ];
    for (what, encode, bare, empty) in rows {
        for max in 0..=(empty as u32 + 25) {
            let peer = Peer {
                max_packet_size: max,
                ..Peer::client(V5)
            };
            let found = written(|out| encode(&peer, out)).map(|bytes| bytes.len());
            let max = max as usize;
            let want = match max {
                _ if max >= empty + 20 => Ok(empty + 20),
                _ if max >= empty + 6 => Ok(empty + 6),
                _ if max >= bare => Ok(bare),
                _ => Err(EncodeError::PacketTooLarge {
                    size: bare,
                    max: max as u32,
                }),
            };
            assert_eq!(found, want, "{what} for {max}");
        }
    }
    for version in VERSIONS {
        let success = Ack::success(AckKind::PubAck, id(1));
        let peer = |max| Peer {
            max_packet_size: max,
            ..Peer::client(version)
        };
        let refused = Err(EncodeError::PacketTooLarge { size: 4, max: 3 });
        assert_eq!(written(|out| success.encode(&peer(3), out)), refused);
        assert!(written(|out| success.encode(&peer(4), out)).is_ok());
    }
    // What is left when user properties go is the reason string, and it reads.
    let peer = Peer {
        max_packet_size: 12,
        ..Peer::client(V5)
    };
    let wire = written(|out| ack.encode(&peer, out)).unwrap();
    assert_eq!(
        wire,
        [
            &[0x40, 10, 0, 1, 0x97, 6][..],
            &property(0x1F, field("why"))
        ]
        .concat()
    );
}

#[test]
fn a_small_peer_is_not_sent_a_large_message() {
    for version in VERSIONS {
        let size = written(|out| MESSAGE.encode(&Peer::client(version), out))
            .unwrap()
            .len();
        for max in 0..size + 2 {
            let peer = Peer {
                max_packet_size: max as u32,
                ..Peer::client(version)
            };
            match written(|out| MESSAGE.encode(&peer, out)) {
                Ok(_) => assert!(max >= size),
                Err(error) => {
                    assert!(max < size);
                    assert_eq!(
                        error,
                        EncodeError::PacketTooLarge {
                            size,
                            max: max as u32
                        }
                    );
                }
            }
        }
    }
    // A PUBLISH keeps its user properties or is not sent: they are the application's.
    let mut buf = PropertyBuf::new();
    buf.push(Property::UserProperty("k", "v")).unwrap();
    let publish = Publish {
        properties: buf.as_raw(),
        ..MESSAGE
    };
    let peer = Peer {
        max_packet_size: 16,
        ..Peer::client(V5)
    };
    let refused = written(|out| publish.encode(&peer, out));
    assert_eq!(
        refused,
        Err(EncodeError::PacketTooLarge { size: 17, max: 16 })
    );
}

#[test]
fn without_problem_information_only_three_packets_explain_themselves() {
    let diagnostics = diagnostics();
    let properties = diagnostics.as_raw();
    let peer = Peer {
        problem_information: false,
        ..Peer::client(V5)
    };
    let reason = ReasonCode::QuotaExceeded;
    let ack = Ack {
        properties,
        reason,
        ..Ack::success(AckKind::PubAck, id(1))
    };
    assert_eq!(
        written(|out| ack.encode(&peer, out)).unwrap(),
        [0x40, 3, 0, 1, 0x97]
    );
    let suback = SubAck {
        packet_id: id(1),
        properties,
        codes: &[0x87],
    };
    assert_eq!(
        written(|out| suback.encode(&peer, out)).unwrap(),
        [0x90, 4, 0, 1, 0, 0x87]
    );
    let unsuback = UnsubAck {
        packet_id: id(1),
        properties,
        codes: &[0x87],
    };
    assert_eq!(
        written(|out| unsuback.encode(&peer, out)).unwrap(),
        [0xB0, 4, 0, 1, 0, 0x87]
    );
    let mut buf = diagnostics.clone();
    buf.push(Property::AuthenticationMethod("m")).unwrap();
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: buf.as_raw(),
    };
    assert_eq!(
        written(|out| auth.encode(&peer, out)).unwrap(),
        [0xF0, 6, 0x18, 4, 0x15, 0, 1, b'm']
    );
    let connack = ConnAck {
        session_present: false,
        reason,
        properties,
    };
    assert_eq!(written(|out| connack.encode(&peer, out)).unwrap().len(), 25);
    let disconnect = Disconnect { reason, properties };
    assert_eq!(
        written(|out| disconnect.encode(&peer, out)).unwrap().len(),
        24
    );
    let mut buf = PropertyBuf::new();
    buf.push(Property::UserProperty("k", "v")).unwrap();
    let publish = Publish {
        properties: buf.as_raw(),
        ..MESSAGE
    };
    assert_eq!(written(|out| publish.encode(&peer, out)).unwrap().len(), 17);
}

#[test]
fn refused_packets() {
    let (client, server) = (Peer::client(V5), Peer::server(V5));
    let three = Peer::client(V311);
    let publish = |publish: Publish<'_>| written(|out| publish.encode(&three, out)).map(drop);
    let inconsistent = Err(EncodeError::Inconsistent);
    assert_eq!(
        publish(Publish {
            dup: true,
            ..MESSAGE
        }),
        inconsistent
    );
    assert_eq!(
        publish(Publish {
            packet_id: Some(id(1)),
            ..MESSAGE
        }),
        inconsistent
    );
    assert_eq!(
        publish(Publish {
            qos: QoS::AtLeastOnce,
            ..MESSAGE
        }),
        inconsistent
    );
    let long = "x".repeat(65_536);
    for topic in ["", "#", "a/+", "a\0", &long] {
        let found = publish(Publish { topic, ..MESSAGE });
        assert_eq!(found, Err(EncodeError::TopicNameInvalid));
    }
    let mut alias = PropertyBuf::new();
    alias.push(Property::TopicAlias(id(1))).unwrap();
    let aliased = Publish {
        topic: "",
        properties: alias.as_raw(),
        ..MESSAGE
    };
    assert_eq!(
        written(|out| aliased.encode(&client, out)).unwrap(),
        b"\x30\x08\0\0\x03\x23\0\x01hi"
    );
    assert_eq!(
        publish(aliased),
        Err(EncodeError::TopicNameInvalid),
        "3.1.1 has no aliases"
    );

    let refusing = ConnAck {
        session_present: true,
        reason: ReasonCode::NotAuthorized,
        properties: RawProperties::EMPTY,
    };
    assert_eq!(
        written(|out| refusing.encode(&client, out)).map(drop),
        inconsistent
    );
    let backwards = ConnAck {
        session_present: false,
        ..refusing
    };
    assert_eq!(
        written(|out| backwards.encode(&server, out)).map(drop),
        inconsistent
    );
    let suback = SubAck {
        packet_id: id(1),
        properties: RawProperties::EMPTY,
        codes: &[],
    };
    assert_eq!(
        written(|out| suback.encode(&client, out)).map(drop),
        inconsistent
    );
    let suback = SubAck {
        codes: &[0, 3],
        ..suback
    };
    assert_eq!(
        written(|out| suback.encode(&client, out)),
        Err(EncodeError::ReasonCode(3))
    );
    let gone = Disconnect::new(ReasonCode::ServerShuttingDown);
    assert_eq!(
        written(|out| gone.encode(&three, out)),
        Err(EncodeError::NotInVersion)
    );
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: RawProperties::EMPTY,
    };
    assert_eq!(
        written(|out| auth.encode(&three, out)),
        Err(EncodeError::NotInVersion)
    );
    let missing = EncodeError::PropertyMissing(PropertyId::AuthenticationMethod);
    assert_eq!(written(|out| auth.encode(&client, out)), Err(missing));

    let connect = |connect: Connect<'_>| {
        written(|out| connect.encode(&Peer::server(connect.version), out)).map(drop)
    };
    assert_eq!(
        connect(Connect {
            password: Some(b"p"),
            ..CONNECT
        }),
        inconsistent
    );
    assert_eq!(
        connect(Connect {
            client_id: "\0",
            ..CONNECT
        }),
        Err(EncodeError::NulInString)
    );
    assert_eq!(
        connect(Connect {
            client_id: &long,
            ..CONNECT
        }),
        Err(EncodeError::FieldTooLong)
    );
    let will = |topic| Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic,
        payload: long.as_bytes(),
        properties: RawProperties::EMPTY,
    };
    let found = connect(Connect {
        will: Some(will("#")),
        ..CONNECT
    });
    assert_eq!(found, Err(EncodeError::TopicNameInvalid));
    let found = connect(Connect {
        will: Some(will("w")),
        ..CONNECT
    });
    assert_eq!(found, Err(EncodeError::FieldTooLong));
    assert_eq!(
        written(|out| CONNECT.encode(&three, out)).map(drop),
        inconsistent
    );
    assert_eq!(
        written(|out| CONNECT.encode(&server, out)).map(drop),
        inconsistent
    );

    let subscribe = |list: &[Subscription<'_>], peer: &Peer| {
        let filters = list.into();
        let packet = Subscribe {
            packet_id: id(1),
            properties: RawProperties::EMPTY,
            filters,
        };
        written(|out| packet.encode(peer, out)).map(drop)
    };
    let filter = |filter| Subscription::new(filter, QoS::AtLeastOnce);
    assert_eq!(subscribe(&[], &server), inconsistent);
    assert_eq!(subscribe(&[filter("a")], &client), inconsistent);
    let invalid = Err(EncodeError::TopicFilterInvalid);
    assert_eq!(subscribe(&[filter("a"), filter("a#")], &server), invalid);
    assert_eq!(subscribe(&[filter("$share/g")], &server), invalid);
    assert_eq!(
        subscribe(&[filter("$share/g")], &Peer::server(V311)),
        Ok(())
    );
    let shared = Subscription {
        no_local: true,
        ..filter("$share/g/a")
    };
    assert_eq!(subscribe(&[shared], &server), inconsistent);
    let many = vec![filter("a"); MAX_FILTERS + 1];
    let over = Err(EncodeError::LimitExceeded(Limit::Filters));
    assert_eq!(subscribe(&many, &server), over);
    assert_eq!(subscribe(&many[1..], &server), Ok(()));
    let unsubscribe = |list: &[&str]| {
        let filters = list.into();
        let packet = Unsubscribe {
            packet_id: id(1),
            properties: RawProperties::EMPTY,
            filters,
        };
        written(|out| packet.encode(&server, out)).map(drop)
    };
    assert_eq!(unsubscribe(&[]), inconsistent);
    assert_eq!(unsubscribe(&["a", "+b"]), invalid);
    assert_eq!(unsubscribe(&vec!["a"; MAX_FILTERS + 1]), over);
}

#[test]
fn property_buf() {
    let mut buf = PropertyBuf::new();
    assert!(buf.as_raw().is_empty());
    let long = "x".repeat(65_536);
    let refused = [
        (
            Property::SubscriptionIdentifier(0),
            EncodeError::PropertyValue(PropertyId::SubscriptionIdentifier),
        ),
        (
            Property::SubscriptionIdentifier(268_435_456),
            EncodeError::PropertyValue(PropertyId::SubscriptionIdentifier),
        ),
        (
            Property::MaximumQoS(QoS::ExactlyOnce),
            EncodeError::PropertyValue(PropertyId::MaximumQoS),
        ),
        (
            Property::ResponseTopic("a/#"),
            EncodeError::TopicNameInvalid,
        ),
        (Property::ReasonString("\0"), EncodeError::NulInString),
        (Property::UserProperty("", "\0"), EncodeError::NulInString),
        (Property::ContentType(&long), EncodeError::FieldTooLong),
        (
            Property::CorrelationData(long.as_bytes()),
            EncodeError::FieldTooLong,
        ),
    ];
    for (property, error) in refused {
        assert_eq!(buf.push(property), Err(error));
    }
    assert!(buf.as_raw().is_empty(), "nothing is appended on refusal");
    buf.push(Property::MessageExpiryInterval(0)).unwrap();
    let again = EncodeError::DuplicateProperty(PropertyId::MessageExpiryInterval);
    assert_eq!(buf.push(Property::MessageExpiryInterval(1)), Err(again));
    for n in 1..=64 {
        buf.push(Property::SubscriptionIdentifier(n)).unwrap();
        buf.push(Property::UserProperty("n", "v")).unwrap();
    }
    let over = EncodeError::LimitExceeded(Limit::SubscriptionIdentifiers);
    assert_eq!(buf.push(Property::SubscriptionIdentifier(65)), Err(over));
    let over = EncodeError::LimitExceeded(Limit::UserProperties);
    assert_eq!(buf.push(Property::UserProperty("", "")), Err(over));
    let raw = buf.as_raw();
    assert_eq!(
        RawProperties::parse(raw.as_bytes(), PropertyScope::PublishFromServer),
        Ok(raw)
    );
    assert_eq!(raw.subscription_identifiers().count(), 64);
    let several = Publish {
        properties: raw,
        ..MESSAGE
    };
    let to_server = written(|out| several.encode(&Peer::server(V5), out));
    let foreign = EncodeError::PropertyNotAllowed(PropertyId::SubscriptionIdentifier);
    assert_eq!(to_server, Err(foreign));
    let subscription = [Subscription::new("a", QoS::AtMostOnce)];
    let mut two = PropertyBuf::new();
    two.push(Property::SubscriptionIdentifier(1)).unwrap();
    two.push(Property::SubscriptionIdentifier(2)).unwrap();
    let subscribe = Subscribe {
        packet_id: id(1),
        properties: two.as_raw(),
        filters: subscription[..].into(),
    };
    let twice = EncodeError::DuplicateProperty(PropertyId::SubscriptionIdentifier);
    assert_eq!(
        written(|out| subscribe.encode(&Peer::server(V5), out)),
        Err(twice)
    );
    buf.clear();
    assert!(buf.as_raw().is_empty() && !buf.as_raw().contains(PropertyId::UserProperty));
    buf.push(Property::MessageExpiryInterval(9)).unwrap();
    assert_eq!(buf.as_raw().message_expiry_interval(), Some(9));
}

#[test]
fn what_a_server_passes_on_with_a_message() {
    let received = [
        property(0x01, [1]),
        property(0x02, [0, 0, 0, 9]),
        user("b", "2"),
        property(0x23, [0, 7]),
        property(0x03, field("text/plain")),
        property(0x08, field("r")),
        property(0x09, field([0, 1])),
        user("a", "1"),
    ]
    .concat();
    let received = RawProperties::parse(&received, PropertyScope::PublishFromClient).unwrap();
    let mut buf = PropertyBuf::new();
    buf.push_forwarded(&received).unwrap();
    buf.push(Property::MessageExpiryInterval(4)).unwrap();
    buf.push(Property::SubscriptionIdentifier(3)).unwrap();
    let raw = buf.as_raw();
    assert_eq!(raw.topic_alias(), None);
    assert_eq!(raw.message_expiry_interval(), Some(4));
    assert_eq!(
        raw.user_properties().collect::<Vec<_>>(),
        [("b", "2"), ("a", "1")]
    );
    assert_eq!(raw.payload_format_indicator(), Some(true));
    assert_eq!(raw.content_type(), Some("text/plain"));
    assert_eq!(raw.response_topic(), Some("r"));
    assert_eq!(raw.correlation_data(), Some(&[0, 1][..]));
    let publish = Publish {
        properties: raw,
        ..MESSAGE
    };
    let wire = written(|out| publish.encode(&Peer::client(V5), out)).unwrap();
    assert!(one(Accept::FromServer(V5), &wire).is_ok());
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(V311), Just(V5)]
}

proptest! {
    /// Whatever an encoder is given, it writes nothing that the decoder would refuse.
    #[test]
    fn what_is_written_can_be_read(
        version in version(),
        topic in "[a/+#$\0é]{0,6}",
        name in proptest::option::of("[a\0]{0,3}"),
        (dup, retain, qos, packet_id) in (any::<bool>(), any::<bool>(), 0..3_u8, 0..3_u16),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        filters in proptest::collection::vec("(\\$share/)?[a/+#\0]{0,5}", 0..4),
        options in any::<u8>(),
    ) {
        let qos = QoS::from_bits(qos).unwrap();
        let packet_id = packet_id.try_into().ok();
        let publish = Publish {
            dup, qos, retain, topic: &topic, packet_id, properties: RawProperties::EMPTY,
            payload: &payload,
        };
        let will = Will {
            qos, retain, topic: &topic, payload: &payload, properties: RawProperties::EMPTY,
        };
        let connect = Connect {
            version,
            clean_start: dup,
            keep_alive: 1,
            client_id: &topic,
            will: retain.then_some(will),
            user_name: name.as_deref(),
            password: dup.then_some(&payload[..]),
            properties: RawProperties::EMPTY,
        };
        let list: Vec<_> = filters
            .iter()
            .map(|filter| Subscription { no_local: options & 1 != 0, ..Subscription::new(filter, qos) })
            .collect();
        let names: Vec<_> = filters.iter().map(String::as_str).collect();
        let properties = RawProperties::EMPTY;
        let subscribe = Subscribe { packet_id: id(1), properties, filters: list[..].into() };
        let unsubscribe = Unsubscribe { packet_id: id(1), properties, filters: names[..].into() };
        let server = Peer::server(version);
        let encoded = [
            (Accept::FromClient(version), written(|out| publish.encode(&server, out))),
            (Accept::FromServer(version), written(|out| publish.encode(&Peer::client(version), out))),
            (Accept::Connect, written(|out| connect.encode(&server, out))),
            (Accept::FromClient(version), written(|out| subscribe.encode(&server, out))),
            (Accept::FromClient(version), written(|out| unsubscribe.encode(&server, out))),
        ];
        for (accept, wire) in encoded {
            if let Ok(wire) = wire {
                let taken = take(accept, u32::MAX, &wire).map(|taken| taken.map(|(_, len)| len));
                prop_assert_eq!(taken, Ok(Some(wire.len())), "{:02x?}", wire);
            }
        }
    }
}
