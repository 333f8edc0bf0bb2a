//! Properties of any packet and of any bytes. Packets are generated as bytes, by the rules of the
//! specification and without the encoder, so that decoding and encoding judge each other.

use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_mqtt::{Accept, PropertyBuf, PropertyScope, RawProperties, Version};

use crate::common::{
    Any, V5, V311, encode, field, one, packet, property, shortest, take, variable,
};

fn text() -> impl Strategy<Value = Vec<u8>> {
    "[^\0]{0,12}".prop_map(field)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    "[^\0+#]{1,12}".prop_map(field)
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("+".to_owned()), "[^\0+#/]{0,4}"];
    let plain = (vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, all)| {
        if all {
            levels.push("#".to_owned());
        }
        levels.join("/")
    });
    (plain, any::<bool>())
        .prop_map(|(filter, shared)| match shared {
            true => format!("$share/g/{filter}"),
            false => filter,
        })
        .prop_filter("one level, and empty", |filter| {
            !filter.is_empty() && !filter.ends_with("/g/")
        })
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn one_property(id: u8) -> BoxedStrategy<Vec<u8>> {
    let value = match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => vec(0..2_u8, 1..=1).boxed(),
        0x02 | 0x11 | 0x18 => any::<[u8; 4]>().prop_map(Vec::from).boxed(),
        0x27 => (1..=u32::MAX).prop_map(|v| v.to_be_bytes().into()).boxed(),
        0x13 | 0x22 => any::<[u8; 2]>().prop_map(Vec::from).boxed(),
        0x21 | 0x23 => (1..=u16::MAX).prop_map(|v| v.to_be_bytes().into()).boxed(),
        0x09 | 0x16 => bytes(12).prop_map(field).boxed(),
        0x0B => (1..=268_435_455_usize).prop_map(variable).boxed(),
        0x08 => name().boxed(),
        0x26 => (text(), text()).prop_map(|(a, b)| [a, b].concat()).boxed(),
        _ => text().boxed(),
    };
    value.prop_map(move |value| property(id, value)).boxed()
}

/// Some of these properties, in any order, user properties up to three times; with a length.
fn properties(version: Version, ids: &'static [u8]) -> BoxedStrategy<Vec<u8>> {
    if version == V311 {
        return Just(Vec::new()).boxed();
    }
    let repeated = [ids, &[0x26, 0x26]].concat();
    proptest::sample::subsequence(repeated.clone(), 0..=repeated.len())
        .prop_shuffle()
        .prop_flat_map(|ids| ids.into_iter().map(one_property).collect::<Vec<_>>())
        .prop_map(|list| crate::common::properties(&[&list.concat()]))
        .boxed()
}

/// As [`properties`], but the first of them always there.
fn with_method(ids: &'static [u8]) -> BoxedStrategy<Vec<u8>> {
    (one_property(0x15), properties(V5, ids))
        .prop_map(|(method, rest)| {
            let header = rest.iter().take_while(|byte| **byte >= 128).count() + 1;
            crate::common::properties(&[&method, &rest[header..]])
        })
        .boxed()
}

const MESSAGE: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x26];
const FROM_CLIENT: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26];
const FROM_SERVER: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x0B, 0x23, 0x26];
const ACK: &[u8] = &[0x1F, 0x26];
const CONNECT: &[u8] = &[0x11, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27];
const CONNACK: &[u8] = &[
    0x11, 0x12, 0x13, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A,
];

fn id() -> impl Strategy<Value = Vec<u8>> {
    (1..=u16::MAX).prop_map(|id| id.to_be_bytes().to_vec())
}

fn connect(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    let will = (
        properties(version, &[0x18]),
        properties(version, MESSAGE),
        name(),
        bytes(20),
    );
    let method = match version {
        V311 => Just(Vec::new()).boxed(),
        V5 => with_method(&[0x16, 0x21]),
    };
    let properties = prop_oneof![properties(version, CONNECT), method];
    (
        (any::<bool>(), any::<[u8; 2]>(), properties, text()),
        proptest::option::of((0..3_u8, any::<bool>(), will)),
        (
            proptest::option::of(text()),
            proptest::option::of(bytes(20)),
        ),
    )
        .prop_map(
            move |((clean, keep_alive, properties, client_id), will, (user, password))| {
                let mut flags = u8::from(clean) << 1;
                let mut payload = client_id;
                if let Some((qos, retain, (delay, message, topic, data))) = will {
                    flags |= 4 | (qos << 3) | (u8::from(retain) << 5);
                    payload.extend(if delay.len() > 1 { delay } else { message });
                    payload.extend(topic);
                    payload.extend(field(data));
                }
                let password = password.filter(|_| version == V5 || user.is_some());
                if let Some(user) = user {
                    flags |= 0x80;
                    payload.extend(user);
                }
                if let Some(password) = password {
                    flags |= 0x40;
                    payload.extend(field(password));
                }
                let level = if version == V5 { 5 } else { 4 };
                let start = [&field("MQTT")[..], &[level, flags], &keep_alive].concat();
                (
                    Accept::Connect,
                    packet(0x10, &[&start, &properties, &payload]),
                )
            },
        )
        .boxed()
}

fn publish(
    version: Version,
    accept: Accept,
    ids: &'static [u8],
) -> BoxedStrategy<(Accept, Vec<u8>)> {
    (
        0..3_u8,
        any::<[bool; 2]>(),
        name(),
        id(),
        properties(version, ids),
        bytes(300),
    )
        .prop_map(move |(qos, [dup, retain], name, id, properties, payload)| {
            let first = 0x30 | (u8::from(dup && qos > 0) << 3) | (qos << 1) | u8::from(retain);
            let id = if qos > 0 { id } else { Vec::new() };
            (accept, packet(first, &[&name, &id, &properties, &payload]))
        })
        .boxed()
}

fn acks(version: Version, accept: Accept) -> BoxedStrategy<(Accept, Vec<u8>)> {
    let kinds = prop_oneof![Just(0x40_u8), Just(0x50), Just(0x62), Just(0x70)];
    (kinds, id(), any::<bool>(), properties(version, ACK))
        .prop_map(move |(first, id, failed, properties)| {
            let reason = match (failed, first) {
                (false, _) => 0,
                (true, 0x40 | 0x50) => 0x83,
                (true, _) => 0x92,
            };
            match version {
                V311 => (accept, packet(first, &[&id])),
                V5 => (
                    accept,
                    shortest(&packet(first, &[&id, &[reason], &properties])),
                ),
            }
        })
        .boxed()
}

fn from_client(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    let accept = Accept::FromClient(version);
    let options = match version {
        V311 => (0..3_u8).boxed(),
        V5 => (0..3_u8, 0..4_u8, 0..3_u8)
            .prop_map(|(q, f, r)| q | (f << 2) | (r << 4))
            .boxed(),
    };
    let entries = vec((filter(), options), 1..6);
    let subscribe = (id(), properties(version, &[0x0B, 0x26]), entries).prop_map(
        move |(id, properties, entries)| {
            let entries: Vec<_> = entries
                .into_iter()
                .flat_map(|(filter, options)| {
                    // No Local does not go with a shared one.
                    let shared = filter.starts_with("$share/");
                    [
                        field(&filter),
                        vec![if shared { options & !4 } else { options }],
                    ]
                })
                .collect();
            (accept, packet(0x82, &[&id, &properties, &entries.concat()]))
        },
    );
    let unsubscribe = (id(), properties(version, &[0x26]), vec(filter(), 1..6)).prop_map(
        move |(id, properties, filters)| {
            let filters: Vec<_> = filters.iter().map(field).collect();
            (accept, packet(0xA2, &[&id, &properties, &filters.concat()]))
        },
    );
    let common = prop_oneof![
        4 => publish(version, accept, FROM_CLIENT),
        2 => acks(version, accept),
        2 => subscribe,
        2 => unsubscribe,
        1 => Just((accept, vec![0xC0, 0])),
        1 => Just((accept, vec![0xE0, 0])),
    ];
    if version == V311 {
        return common.boxed();
    }
    let disconnect = (
        prop_oneof![Just(0_u8), Just(4), Just(0x98)],
        properties(V5, &[0x11, 0x1F, 0x26]),
    )
        .prop_map(move |(reason, p)| (accept, shortest(&packet(0xE0, &[&[reason], &p]))));
    let auth = (0x18..=0x19_u8, with_method(&[0x16, 0x1F, 0x26]))
        .prop_map(move |(reason, p)| (accept, packet(0xF0, &[&[reason], &p])));
    prop_oneof![6 => common, 1 => disconnect, 1 => auth].boxed()
}

fn from_server(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    let accept = Accept::FromServer(version);
    let codes = |all: &'static [u8]| vec(proptest::sample::select(all), 1..6);
    let granted = match version {
        V311 => codes(&[0, 1, 2, 0x80]),
        V5 => codes(&[
            0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
        ]),
    };
    let suback = (id(), properties(version, ACK), granted)
        .prop_map(move |(id, p, codes)| (accept, packet(0x90, &[&id, &p, &codes])));
    let unsuback = (
        id(),
        properties(version, ACK),
        codes(&[0, 0x11, 0x80, 0x8F]),
    )
        .prop_map(move |(id, p, codes)| match version {
            V311 => (accept, packet(0xB0, &[&id])),
            V5 => (accept, packet(0xB0, &[&id, &p, &codes])),
        });
    let connack = (any::<bool>(), 0..6_u8, properties(version, CONNACK)).prop_map(
        move |(present, code, properties)| {
            let code = if version == V5 && code > 0 {
                0x84 + code
            } else {
                code
            };
            let present = u8::from(present && code == 0);
            (
                Accept::ConnAck(version),
                packet(0x20, &[&[present, code], &properties]),
            )
        },
    );
    let common = prop_oneof![
        4 => publish(version, accept, FROM_SERVER),
        2 => acks(version, accept),
        2 => suback,
        2 => unsuback,
        2 => connack,
        1 => Just((accept, vec![0xD0, 0])),
    ];
    if version == V311 {
        return common.boxed();
    }
    let disconnect = (
        prop_oneof![Just(0_u8), Just(0x8B), Just(0x98)],
        properties(V5, &[0x1C, 0x1F, 0x26]),
    )
        .prop_map(move |(reason, p)| (accept, shortest(&packet(0xE0, &[&[reason], &p]))));
    let auth = (
        prop_oneof![Just(0_u8), Just(0x18)],
        with_method(&[0x16, 0x1F, 0x26]),
    )
        .prop_map(move |(reason, p)| (accept, packet(0xF0, &[&[reason], &p])));
    prop_oneof![6 => common, 1 => disconnect, 1 => auth].boxed()
}

/// Any valid packet of a version, from either end, in its shortest form.
pub(crate) fn valid(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    prop_oneof![2 => connect(version), 5 => from_client(version), 4 => from_server(version)].boxed()
}

/// A valid packet of a version as a server gets them.
pub(crate) fn valid_from_client(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    from_client(version)
}

/// A valid packet with a few bytes changed, added or taken away; its length may be made to fit.
pub(crate) fn damaged(version: Version) -> BoxedStrategy<(Accept, Vec<u8>)> {
    let change = (any::<proptest::sample::Index>(), any::<u8>(), 0..5_u8);
    (valid(version), vec(change, 1..4), any::<bool>())
        .prop_map(|((accept, mut wire), changes, mend)| {
            for (index, byte, how) in changes {
                let at = index.index(wire.len());
                match how {
                    0 => wire[at] = byte,
                    1 => wire[at] ^= 1 << (byte % 8),
                    2 => wire.insert(at, byte),
                    3 if wire.len() > 2 => drop(wire.remove(at)),
                    _ => wire[at] = wire[at].wrapping_add(1),
                }
            }
            if mend {
                let header = 1 + wire[1..].iter().take_while(|b| **b >= 128).count() + 1;
                let body = wire.get(header..).unwrap_or_default().to_vec();
                wire = packet(wire[0], &[&body]);
            }
            (accept, wire)
        })
        .boxed()
}

fn version_of(accept: Accept, any: &Any<'_>) -> Version {
    match (accept, any) {
        (_, Any::Connect(connect)) => connect.version,
        (Accept::FromClient(v) | Accept::ConnAck(v) | Accept::FromServer(v), _) => v,
        _ => V5,
    }
}

/// Whatever is accepted must encode to the bytes it was read from, or to their shortest form.
fn judge(accept: Accept, wire: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Some((any, len))) = take(accept, u32::MAX, wire) {
        let again = encode(version_of(accept, &any), &any);
        prop_assert_eq!(again, Ok(shortest(&wire[..len])));
    }
    Ok(())
}

fn accepts() -> impl Strategy<Value = Accept> {
    proptest::sample::select(vec![
        Accept::Connect,
        Accept::Authentication,
        Accept::FromClient(V311),
        Accept::FromClient(V5),
        Accept::ConnAck(V311),
        Accept::ConnAck(V5),
        Accept::FromServer(V311),
        Accept::FromServer(V5),
    ])
}

fn scopes() -> impl Strategy<Value = PropertyScope> {
    proptest::sample::select(PropertyScope::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_packet_of_3_1_1_is_read_and_written_back((accept, wire) in valid(V311)) {
        let any = one(accept, &wire).map_err(|e| TestCaseError::fail(format!("{e} {wire:02x?}")))?;
        prop_assert_eq!(encode(version_of(accept, &any), &any), Ok(wire.clone()));
    }

    #[test]
    fn every_packet_of_5_is_read_and_written_back((accept, wire) in valid(V5)) {
        let any = one(accept, &wire).map_err(|e| TestCaseError::fail(format!("{e} {wire:02x?}")))?;
        prop_assert_eq!(encode(version_of(accept, &any), &any), Ok(wire.clone()));
    }

    #[test]
    fn damaged_packets_never_panic((accept, wire) in prop_oneof![damaged(V311), damaged(V5)]) {
        judge(accept, &wire)?;
    }

    #[test]
    fn properties_read_and_built_are_the_same(
        bytes in properties(V5, FROM_SERVER).prop_map(|b| {
            let header = b.iter().take_while(|byte| **byte >= 128).count() + 1;
            b[header..].to_vec()
        }),
    ) {
        let raw = RawProperties::parse(&bytes, PropertyScope::PublishFromServer).unwrap();
        let mut buf = PropertyBuf::new();
        for property in &raw {
            prop_assert!(raw.contains(property.id()));
            buf.push(property).unwrap();
        }
        prop_assert_eq!(buf.as_raw(), raw);
    }
}

proptest! {
    // Cheap, so more of them.
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn arbitrary_bytes_never_panic(accept in accepts(), wire in bytes(64)) {
        judge(accept, &wire)?;
    }

    #[test]
    fn arbitrary_bodies_never_panic(accept in accepts(), first in any::<u8>(), body in bytes(64)) {
        judge(accept, &packet(first, &[&body]))?;
    }

    #[test]
    fn arbitrary_properties_never_panic(scope in scopes(), bytes in bytes(48)) {
        if let Ok(raw) = RawProperties::parse(&bytes, scope) {
            // All of it was read: iterating gives back every byte.
            let mut buf = PropertyBuf::new();
            raw.iter().for_each(|property| buf.push(property).unwrap());
            prop_assert_eq!(buf.as_raw(), raw);
        }
    }
}
