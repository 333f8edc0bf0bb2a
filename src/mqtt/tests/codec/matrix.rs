//! Every property in every place, and every reason code in every packet, against tables written
//! down from the specification (5.0 table 2-4 and the reason code tables of §3).

use bytes::BytesMut;
use tidegate_mqtt::DecodeError::{Malformed as M, Protocol};
use tidegate_mqtt::{
    Accept, Ack, AckKind, Auth, ConnAck, Connect, Disconnect, EncodeError, Malformed, PacketType,
    Peer, PropertyBuf, PropertyId, PropertyScope, RawProperties, ReasonCode, Role, SubAck,
    UnsubAck, Violation,
};

use crate::common::{V5, V311, field, one, packet, properties, property};

/// Columns: CONNECT, will, CONNACK, PUBLISH to a server, PUBLISH to a client, acknowledgements,
/// SUBSCRIBE, UNSUBSCRIBE, DISCONNECT to a server, DISCONNECT to a client, AUTH.
const TABLE: [(u8, &str, &[u8]); 27] = [
    //            C W A P p k S U D d H
    (0x01, ". x . x x . . . . . .", &[1]),
    (0x02, ". x . x x . . . . . .", &[0, 0, 0, 1]),
    (0x03, ". x . x x . . . . . .", b"\0\x01x"),
    (0x08, ". x . x x . . . . . .", b"\0\x01x"),
    (0x09, ". x . x x . . . . . .", b"\0\x01x"),
    (0x0B, ". . . . x . x . . . .", &[1]),
    (0x11, "x . x . . . . . x . .", &[0, 0, 0, 1]),
    (0x12, ". . x . . . . . . . .", b"\0\x01x"),
    (0x13, ". . x . . . . . . . .", &[0, 1]),
    (0x15, "x . x . . . . . . . x", b"\0\x01x"),
    (0x16, "x . x . . . . . . . x", b"\0\x01x"),
    (0x17, "x . . . . . . . . . .", &[1]),
    (0x18, ". x . . . . . . . . .", &[0, 0, 0, 1]),
    (0x19, "x . . . . . . . . . .", &[1]),
    (0x1A, ". . x . . . . . . . .", b"\0\x01x"),
    (0x1C, ". . x . . . . . . x .", b"\0\x01x"),
    (0x1F, ". . x . . x . . x x x", b"\0\x01x"),
    (0x21, "x . x . . . . . . . .", &[0, 1]),
    (0x22, "x . x . . . . . . . .", &[0, 1]),
    (0x23, ". . . x x . . . . . .", &[0, 1]),
    (0x24, ". . x . . . . . . . .", &[1]),
    (0x25, ". . x . . . . . . . .", &[1]),
    (0x26, "x x x x x x x x x x x", b"\0\x01x\0\x01y"),
    (0x27, "x . x . . . . . . . .", &[0, 0, 0, 1]),
    (0x28, ". . x . . . . . . . .", &[1]),
    (0x29, ". . x . . . . . . . .", &[1]),
    (0x2A, ". . x . . . . . . . .", &[1]),
];

/// Packets with these properties in each place; a table column may be of several packet types.
fn places(column: usize, list: &[u8]) -> Vec<(Accept, Vec<u8>)> {
    let p = properties(&[list]);
    let (client, server) = (Accept::FromClient(V5), Accept::FromServer(V5));
    let connect = |flags: u8, rest: &[&[u8]]| {
        packet(0x10, &[&field("MQTT"), &[5, flags, 0, 0], &rest.concat()])
    };
    match column {
        0 => vec![(Accept::Connect, connect(2, &[&p, &field("c")]))],
        1 => {
            let rest = [&[0][..], &field("c"), &p, &field("t"), &field("m")].concat();
            vec![(Accept::Connect, connect(6, &[&rest]))]
        }
        2 => vec![(Accept::ConnAck(V5), packet(0x20, &[&[0, 0], &p]))],
        3 => vec![(client, packet(0x30, &[&field("t"), &p, b"x"]))],
        4 => vec![(server, packet(0x30, &[&field("t"), &p, b"x"]))],
        5 => [0x40, 0x50, 0x62, 0x70]
            .into_iter()
            .flat_map(|first| {
                let wire = packet(first, &[&[0, 1, 0], &p]);
                [(client, wire.clone()), (server, wire)]
            })
            .chain([0x90, 0xB0].map(|first| (server, packet(first, &[&[0, 1], &p, &[0]]))))
            .collect(),
        6 => vec![(client, packet(0x82, &[&[0, 1], &p, &field("f"), &[0]]))],
        7 => vec![(client, packet(0xA2, &[&[0, 1], &p, &field("f")]))],
        8 => vec![(client, packet(0xE0, &[&[0], &p]))],
        9 => vec![(server, packet(0xE0, &[&[0], &p]))],
        _ => vec![
            (client, packet(0xF0, &[&[0x18], &p])),
            (server, packet(0xF0, &[&[0x18], &p])),
        ],
    }
}

/// What has to be there besides the property under test.
fn companion(column: usize, id: u8) -> Vec<u8> {
    if id != 0x15 && (column == 10 || id == 0x16) && matches!(column, 0 | 2 | 10) {
        property(0x15, field("m"))
    } else {
        Vec::new()
    }
}

#[test]
fn every_property_in_every_place() {
    for (id, row, value) in TABLE {
        let name = PropertyId::from_u8(id).expect("a property");
        for (column, mark) in row.split(' ').enumerate() {
            let once = property(id, value);
            let list = [companion(column, id), once.clone()].concat();
            for (accept, wire) in places(column, &list) {
                let found = one(accept, &wire).map(drop);
                let want = match mark {
                    "x" => Ok(()),
                    _ => Err(Protocol(Violation::PropertyNotAllowed(name))),
                };
                assert_eq!(found, want, "{name:?} in column {column}: {wire:02x?}");
            }
            if mark != "x" {
                continue;
            }
            let repeatable = id == 0x26 || (id == 0x0B && column == 4);
            for (accept, wire) in places(column, &[list.clone(), once.clone()].concat()) {
                let want = match repeatable {
                    true => Ok(()),
                    false => Err(Protocol(Violation::DuplicateProperty(name))),
                };
                assert_eq!(
                    one(accept, &wire).map(drop),
                    want,
                    "{name:?} twice, {column}"
                );
            }
            // Cut off anywhere inside its value, whatever it is.
            for cut in 0..value.len() {
                let list = [companion(column, id), property(id, &value[..cut])].concat();
                for (accept, wire) in places(column, &list) {
                    let found = one(accept, &wire).map(drop);
                    assert_eq!(
                        found,
                        Err(M(Malformed::Truncated)),
                        "{name:?} cut, {column}"
                    );
                }
            }
        }
    }
}

#[test]
fn identifiers_that_do_not_exist_are_refused_everywhere() {
    for id in (0..=255_u8).filter(|id| !TABLE.iter().any(|(known, ..)| known == id)) {
        assert_eq!(PropertyId::from_u8(id), None);
        if id >= 128 {
            continue;
        }
        for column in 0..11 {
            for (accept, wire) in places(column, &[id, 0]) {
                let found = one(accept, &wire).map(drop);
                assert_eq!(
                    found,
                    Err(M(Malformed::PropertyId(u32::from(id)))),
                    "{id:#04x}"
                );
            }
        }
    }
}

#[test]
fn encoders_keep_to_the_same_table() {
    let scopes = PropertyScope::ALL;
    let id = 1.try_into().unwrap();
    for (identifier, row, value) in TABLE {
        for (column, mark) in row.split(' ').enumerate() {
            // Read in the one place that takes it, written in another.
            let bytes = [companion(2, identifier), property(identifier, value)].concat();
            let read = scopes
                .iter()
                .find_map(|scope| RawProperties::parse(&bytes, *scope).ok())
                .expect("allowed somewhere");
            let mut buf = PropertyBuf::new();
            read.iter().for_each(|property| buf.push(property).unwrap());
            if column == 10 && !read.contains(PropertyId::AuthenticationMethod) {
                buf.push(tidegate_mqtt::Property::AuthenticationMethod("m"))
                    .unwrap();
            }
            let raw = buf.as_raw();
            let mut out = BytesMut::new();
            let (client, server) = (Peer::client(V5), Peer::server(V5));
            let connect = Connect {
                version: V5,
                clean_start: true,
                keep_alive: 0,
                client_id: "c",
                will: None,
                user_name: None,
                password: None,
                properties: RawProperties::EMPTY,
            };
            let message = tidegate_mqtt::Publish {
                dup: false,
                qos: tidegate_mqtt::QoS::AtMostOnce,
                retain: false,
                topic: "t",
                packet_id: None,
                properties: raw,
                payload: b"",
            };
            let will = tidegate_mqtt::Will {
                qos: message.qos,
                retain: false,
                topic: "t",
                payload: b"",
                properties: raw,
            };
            let subscription = [tidegate_mqtt::Subscription::new("f", message.qos)];
            let written = match column {
                0 => Connect {
                    properties: raw,
                    ..connect
                }
                .encode(&server, &mut out),
                1 => Connect {
                    will: Some(will),
                    ..connect
                }
                .encode(&server, &mut out),
                2 => ConnAck {
                    session_present: false,
                    reason: ReasonCode::Success,
                    properties: raw,
                }
                .encode(&client, &mut out),
                3 => message.encode(&server, &mut out),
                4 => message.encode(&client, &mut out),
                5 => Ack {
                    properties: raw,
                    ..Ack::success(AckKind::PubRec, id)
                }
                .encode(&client, &mut out),
                6 => tidegate_mqtt::Subscribe {
                    packet_id: id,
                    properties: raw,
                    filters: subscription[..].into(),
                }
                .encode(&server, &mut out),
                7 => tidegate_mqtt::Unsubscribe {
                    packet_id: id,
                    properties: raw,
                    filters: ["f"][..].into(),
                }
                .encode(&server, &mut out),
                8 => Disconnect {
                    reason: ReasonCode::Success,
                    properties: raw,
                }
                .encode(&server, &mut out),
                9 => Disconnect {
                    reason: ReasonCode::Success,
                    properties: raw,
                }
                .encode(&client, &mut out),
                _ => Auth {
                    reason: ReasonCode::ContinueAuthentication,
                    properties: raw,
                }
                .encode(&client, &mut out),
            };
            match (mark, written) {
                ("x", Ok(size)) => assert_eq!(size, out.len()),
                (".", Err(EncodeError::PropertyNotAllowed(_))) => assert!(out.is_empty()),
                other => panic!("{identifier:#04x} in column {column}: {other:?}"),
            }
        }
    }
}

/// Packet, sender, and the codes it may carry.
const CODES: [(PacketType, Role, &[u8]); 15] = [
    (
        PacketType::ConnAck,
        Role::Server,
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
            0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (
        PacketType::PubAck,
        Role::Client,
        &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
    ),
    (
        PacketType::PubAck,
        Role::Server,
        &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
    ),
    (
        PacketType::PubRec,
        Role::Client,
        &[0x00, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
    ),
    (
        PacketType::PubRec,
        Role::Server,
        &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
    ),
    (PacketType::PubRel, Role::Client, &[0x00, 0x92]),
    (PacketType::PubRel, Role::Server, &[0x00, 0x92]),
    (PacketType::PubComp, Role::Client, &[0x00, 0x92]),
    (PacketType::PubComp, Role::Server, &[0x00, 0x92]),
    (
        PacketType::SubAck,
        Role::Server,
        &[
            0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
        ],
    ),
    (
        PacketType::UnsubAck,
        Role::Server,
        &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
    ),
    (
        PacketType::Disconnect,
        Role::Client,
        &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        ],
    ),
    (
        PacketType::Disconnect,
        Role::Server,
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93,
            0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1,
            0xA2,
        ],
    ),
    (PacketType::Auth, Role::Client, &[0x18, 0x19]),
    (PacketType::Auth, Role::Server, &[0x00, 0x18]),
];

#[test]
fn every_reason_code_in_every_packet() {
    for (kind, sender, codes) in CODES {
        for code in 0..=255_u8 {
            let accept = match (sender, kind) {
                (Role::Server, PacketType::ConnAck) => Accept::ConnAck(V5),
                (Role::Server, _) => Accept::FromServer(V5),
                (Role::Client, _) => Accept::FromClient(V5),
            };
            let method = properties(&[&property(0x15, field("m"))]);
            let wire = match kind {
                PacketType::ConnAck => packet(0x20, &[&[0, code, 0]]),
                PacketType::PubAck => packet(0x40, &[&[0, 1, code]]),
                PacketType::PubRec => packet(0x50, &[&[0, 1, code]]),
                PacketType::PubRel => packet(0x62, &[&[0, 1, code]]),
                PacketType::PubComp => packet(0x70, &[&[0, 1, code]]),
                PacketType::SubAck => packet(0x90, &[&[0, 1, 0, code]]),
                PacketType::UnsubAck => packet(0xB0, &[&[0, 1, 0, code]]),
                PacketType::Disconnect => packet(0xE0, &[&[code]]),
                _ => packet(0xF0, &[&[code], &method]),
            };
            let want = match codes.contains(&code) {
                true => Ok(()),
                false => Err(M(Malformed::ReasonCode(code))),
            };
            assert_eq!(
                one(accept, &wire).map(drop),
                want,
                "{kind:?} {sender:?} {code:#04x}"
            );
            let Some(reason) = ReasonCode::from_u8(code) else {
                continue;
            };
            assert_eq!(reason.as_u8(), code);
            let encoded = encode_reason(kind, sender, reason);
            let want = match codes.contains(&code) {
                true => Ok(()),
                false => Err(EncodeError::ReasonCode(code)),
            };
            assert_eq!(encoded, want, "{kind:?} {sender:?} {reason:?}");
        }
    }
    assert_eq!(ReasonCode::ALL.len(), 43);
}

fn encode_reason(kind: PacketType, sender: Role, reason: ReasonCode) -> Result<(), EncodeError> {
    let mut out = BytesMut::new();
    let peer = match sender {
        Role::Server => Peer::client(V5),
        Role::Client => Peer::server(V5),
    };
    let packet_id = 1.try_into().unwrap();
    let ack = |kind| Ack {
        reason,
        ..Ack::success(kind, packet_id)
    };
    let mut method = PropertyBuf::new();
    method
        .push(tidegate_mqtt::Property::AuthenticationMethod("m"))
        .unwrap();
    let properties = RawProperties::EMPTY;
    let codes: &[u8] = &[reason.as_u8()];
    match kind {
        PacketType::ConnAck => ConnAck {
            session_present: false,
            reason,
            properties,
        }
        .encode(&peer, &mut out),
        PacketType::PubAck => ack(AckKind::PubAck).encode(&peer, &mut out),
        PacketType::PubRec => ack(AckKind::PubRec).encode(&peer, &mut out),
        PacketType::PubRel => ack(AckKind::PubRel).encode(&peer, &mut out),
        PacketType::PubComp => ack(AckKind::PubComp).encode(&peer, &mut out),
        PacketType::SubAck => SubAck {
            packet_id,
            properties,
            codes,
        }
        .encode(&peer, &mut out),
        PacketType::UnsubAck => UnsubAck {
            packet_id,
            properties,
            codes,
        }
        .encode(&peer, &mut out),
        PacketType::Disconnect => Disconnect::new(reason).encode(&peer, &mut out),
        _ => Auth {
            reason,
            properties: method.as_raw(),
        }
        .encode(&peer, &mut out),
    }
    .map(|size| assert_eq!(size, out.len()))
}

#[test]
fn return_codes_of_3_1_1() {
    for reason in ReasonCode::ALL.iter().copied() {
        let connack = ConnAck {
            session_present: false,
            reason,
            properties: RawProperties::EMPTY,
        };
        let mut out = BytesMut::new();
        match reason.connect_return_code() {
            Some(code) => {
                connack.encode(&Peer::client(V311), &mut out).unwrap();
                assert_eq!(out[..], [0x20, 2, 0, code]);
                assert_eq!(code == 0, !reason.is_failure());
            }
            None => {
                let refused = connack.encode(&Peer::client(V311), &mut out);
                assert_eq!(refused, Err(EncodeError::NotInVersion));
            }
        }
    }
    for code in 0..=5 {
        let reason = ReasonCode::from_connect_return_code(code).unwrap();
        assert_eq!(reason.connect_return_code(), Some(code));
    }
}
