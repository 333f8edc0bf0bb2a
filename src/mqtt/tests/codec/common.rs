//! Packets built byte by byte, independent of the encoder, and what the tables are checked with.

use bytes::BytesMut;
use tidegate_mqtt::{
    Accept, ClientPacket, Connect, DecodeError, EncodeError, Peer, ServerPacket, Version, decode,
    decode_connect, decode_from_server, frame,
};

pub(crate) use tidegate_mqtt::Version::{V5, V311};

pub(crate) const VERSIONS: [Version; 2] = [V311, V5];

/// Any packet, from either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Any<'a> {
    Connect(Connect<'a>),
    Client(ClientPacket<'a>),
    Server(ServerPacket<'a>),
}

/// Decodes the packet at the start of `wire`: it and its size, or `None` if it is incomplete.
pub(crate) fn take(
    accept: Accept,
    max: u32,
    wire: &[u8],
) -> Result<Option<(Any<'_>, usize)>, DecodeError> {
    let Some(frame) = frame(wire, max, accept)? else {
        return Ok(None);
    };
    let Some(body) = frame.body(wire) else {
        return Ok(None);
    };
    assert_eq!(body.len(), frame.remaining_len());
    let any = match accept {
        Accept::Connect => Any::Connect(decode_connect(body)?),
        Accept::Authentication => Any::Client(decode(V5, frame, body)?),
        Accept::FromClient(version) => Any::Client(decode(version, frame, body)?),
        Accept::ConnAck(version) | Accept::FromServer(version) => {
            Any::Server(decode_from_server(version, frame, body)?)
        }
    };
    Ok(Some((any, frame.total_len())))
}

/// Decodes exactly one packet.
pub(crate) fn one(accept: Accept, wire: &[u8]) -> Result<Any<'_>, DecodeError> {
    let (any, len) = take(accept, u32::MAX, wire)?.expect("a whole packet");
    assert_eq!(len, wire.len(), "one packet and no more");
    Ok(any)
}

/// Encodes whatever was decoded, for a peer without limits.
pub(crate) fn encode(version: Version, any: &Any<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::new();
    let (client, server) = (Peer::client(version), Peer::server(version));
    let size = match any {
        Any::Connect(p) => p.encode(&Peer::server(p.version), &mut out)?,
        Any::Client(p) => match p {
            ClientPacket::Publish(p) => p.encode(&server, &mut out)?,
            ClientPacket::Ack(p) => p.encode(&server, &mut out)?,
            ClientPacket::Subscribe(p) => p.encode(&server, &mut out)?,
            ClientPacket::Unsubscribe(p) => p.encode(&server, &mut out)?,
            ClientPacket::PingReq => put(&mut out, tidegate_mqtt::PINGREQ),
            ClientPacket::Disconnect(p) => p.encode(&server, &mut out)?,
            ClientPacket::Auth(p) => p.encode(&server, &mut out)?,
        },
        Any::Server(p) => match p {
            ServerPacket::ConnAck(p) => p.encode(&client, &mut out)?,
            ServerPacket::Publish(p) => p.encode(&client, &mut out)?,
            ServerPacket::Ack(p) => p.encode(&client, &mut out)?,
            ServerPacket::SubAck(p) => p.encode(&client, &mut out)?,
            ServerPacket::UnsubAck(p) => p.encode(&client, &mut out)?,
            ServerPacket::PingResp => put(&mut out, tidegate_mqtt::PINGRESP),
            ServerPacket::Disconnect(p) => p.encode(&client, &mut out)?,
            ServerPacket::Auth(p) => p.encode(&client, &mut out)?,
        },
    };
    assert_eq!(size, out.len(), "the size announced is the size written");
    Ok(out.to_vec())
}

fn put(out: &mut BytesMut, bytes: &[u8]) -> usize {
    out.extend_from_slice(bytes);
    bytes.len()
}

/// A packet from its first byte and the parts of its body.
pub(crate) fn packet(first_byte: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut wire = vec![first_byte];
    wire.extend(variable(body.len()));
    wire.extend(body);
    wire
}

/// A variable byte integer.
pub(crate) fn variable(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let digit = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            bytes.push(digit);
            return bytes;
        }
        bytes.push(digit | 128);
    }
}

/// A string or binary field.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let len = u16::try_from(bytes.len()).expect("a field that fits");
    [&len.to_be_bytes(), bytes].concat()
}

/// A property with this identifier and these bytes.
pub(crate) fn property(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id], value.as_ref()].concat()
}

/// A user property.
pub(crate) fn user(name: &str, value: &str) -> Vec<u8> {
    property(0x26, [field(name), field(value)].concat())
}

/// Properties with their length.
pub(crate) fn properties(list: &[&[u8]]) -> Vec<u8> {
    let list = list.concat();
    [variable(list.len()), list].concat()
}

pub(crate) const NONE: &[u8] = &[0];

/// One row of a table: what it is about, the packet, and what must come of it.
pub(crate) type Refused = (&'static str, Vec<u8>, DecodeError);

/// Checks that every packet is refused for the right reason, and tells of all that are not.
pub(crate) fn refuses(accept: Accept, rows: &[Refused]) {
    let wrong: Vec<_> = rows
        .iter()
        .filter_map(|(what, wire, error)| match one(accept, wire) {
            Err(found) if found == *error => None,
            found => Some(format!(
                "{what}: {wire:02x?}\n  want {error:?}\n  have {found:?}"
            )),
        })
        .collect();
    assert!(wrong.is_empty(), "{accept:?}\n{}", wrong.join("\n"));
}

/// Checks that every packet is accepted and encodes to the very same bytes again; that no packet
/// with a byte missing or added is read as if it were whole; and that the packet is read the
/// same with more behind it.
pub(crate) fn accepts(accept: Accept, rows: &[(&'static str, Vec<u8>)]) {
    for (what, wire) in rows {
        let any = one(accept, wire).unwrap_or_else(|e| panic!("{what}: {e} in {wire:02x?}"));
        let version = match (accept, any) {
            (_, Any::Connect(connect)) => connect.version,
            (Accept::FromClient(version) | Accept::FromServer(version), _)
            | (Accept::ConnAck(version), _) => version,
            _ => V5,
        };
        let again = encode(version, &any).unwrap_or_else(|e| panic!("{what}: encode: {e}"));
        assert_eq!(&again, wire, "{what}: encodes to the same bytes");
        let followed = [wire.as_slice(), &[0xC0, 0]].concat();
        let taken = take(accept, u32::MAX, &followed).expect(what);
        assert_eq!(
            taken,
            Some((any, wire.len())),
            "{what}: followed by another packet"
        );
        resized(accept, version, what, wire);
    }
}

/// Every shorter body, and one a byte longer, is refused, or is a different packet that
/// encodes to what it was read from.
fn resized(accept: Accept, version: Version, what: &str, wire: &[u8]) {
    let header = 1 + wire[1..].iter().take_while(|byte| **byte >= 128).count() + 1;
    let body = &wire[header..];
    let longer = [body, &[0]].concat();
    for changed in (0..body.len()).map(|len| &body[..len]).chain([&longer[..]]) {
        let changed = packet(wire[0], &[changed]);
        if let Ok(any) = one(accept, &changed) {
            let again = encode(version, &any).unwrap_or_else(|e| panic!("{what}: encode: {e}"));
            assert_eq!(shortest(&changed), again, "{what}: resized");
        }
    }
}

/// Acknowledgements and DISCONNECT without what MQTT 5 lets a sender leave off: an empty property
/// section, then a reason code of 0.
pub(crate) fn shortest(wire: &[u8]) -> Vec<u8> {
    let mandatory = match wire[0] >> 4 {
        4..=7 => 2,
        14 => 0,
        _ => return wire.to_vec(),
    };
    let header = 1 + wire[1..].iter().take_while(|byte| **byte >= 128).count() + 1;
    let mut body = &wire[header..];
    if body.len() == mandatory + 2 && body[mandatory + 1] == 0 {
        body = &body[..mandatory + 1];
    }
    if body.len() == mandatory + 1 && body[mandatory] == 0 {
        body = &body[..mandatory];
    }
    packet(wire[0], &[body])
}
