//! SUBSCRIBE and UNSUBSCRIBE (3.1.1 and 5.0 §3.8, §3.10).

use tidegate_mqtt::DecodeError::{LimitExceeded, Malformed as M, Protocol, TopicFilterInvalid};
use tidegate_mqtt::{
    Accept, ClientPacket, Limit, Malformed, PropertyId, QoS, RetainHandling, Subscribe,
    Subscription, Unsubscribe, Version, Violation,
};

use crate::common::{
    Any, NONE, V5, V311, VERSIONS, accepts, field, one, packet, properties, property, refuses, user,
};

fn none(version: Version) -> &'static [u8] {
    if version == V5 { NONE } else { &[] }
}

/// A SUBSCRIBE with packet id 10 to these filters and options.
fn subscribe(version: Version, list: &[(&[u8], u8)]) -> Vec<u8> {
    let list: Vec<_> = list
        .iter()
        .flat_map(|(filter, options)| [field(filter), vec![*options]])
        .collect();
    packet(0x82, &[&[0, 10], none(version), &list.concat()])
}

fn unsubscribe(version: Version, list: &[&[u8]]) -> Vec<u8> {
    let list: Vec<_> = list.iter().map(field).collect();
    packet(0xA2, &[&[0, 10], none(version), &list.concat()])
}

const VALID: [&str; 18] = [
    "a",
    "/",
    "//",
    "a/b/c",
    "+",
    "#",
    "+/+",
    "+/#",
    "a/+/b",
    "a/#",
    "/#",
    "/+",
    "+/",
    "$SYS/#",
    "größe/+",
    " ",
    "$share",
    "$sharex/#",
];

const INVALID: [&str; 12] = [
    "", "a#", "#a", "a/#/b", "#/", "##", "a+", "+a", "a/+b/c", "++", "a/#b", "+#",
];

#[test]
fn filters_accepted_and_refused() {
    let long = "x".repeat(65_535);
    for version in VERSIONS {
        let accept = Accept::FromClient(version);
        for filter in VALID.into_iter().chain([long.as_str()]) {
            accepts(
                accept,
                &[
                    ("subscribe", subscribe(version, &[(filter.as_bytes(), 1)])),
                    ("unsubscribe", unsubscribe(version, &[filter.as_bytes()])),
                ],
            );
        }
        for filter in INVALID {
            refuses(
                accept,
                &[
                    (
                        "subscribe",
                        subscribe(version, &[(filter.as_bytes(), 1)]),
                        TopicFilterInvalid,
                    ),
                    (
                        "subscribe, second",
                        subscribe(version, &[(b"a", 1), (filter.as_bytes(), 1)]),
                        TopicFilterInvalid,
                    ),
                    (
                        "unsubscribe",
                        unsubscribe(version, &[filter.as_bytes()]),
                        TopicFilterInvalid,
                    ),
                    (
                        "unsubscribe, second",
                        unsubscribe(version, &[b"a", filter.as_bytes()]),
                        TopicFilterInvalid,
                    ),
                ],
            );
        }
    }
}

#[test]
fn shared_filters_are_checked_in_5_alone() {
    let bad = [
        "$share/",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/g+/a",
        "$share/#/a",
        "$share/g/a#",
    ];
    for filter in bad {
        let five = subscribe(V5, &[(filter.as_bytes(), 0)]);
        refuses(
            Accept::FromClient(V5),
            &[("shared", five, TopicFilterInvalid)],
        );
        let five = unsubscribe(V5, &[filter.as_bytes()]);
        refuses(
            Accept::FromClient(V5),
            &[("shared", five, TopicFilterInvalid)],
        );
    }
    // 3.1.1 has no shared subscriptions: these are filters like any other.
    for filter in [
        "$share/",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
    ] {
        let three = subscribe(V311, &[(filter.as_bytes(), 0)]);
        accepts(Accept::FromClient(V311), &[("not shared", three)]);
    }
    for filter in [
        "$share/g/a",
        "$share/g/#",
        "$share/g//",
        "$share/g/+/b",
        "$share/größe/a",
    ] {
        let five = subscribe(V5, &[(filter.as_bytes(), 0x2A)]);
        accepts(Accept::FromClient(V5), &[("shared", five)]);
    }
}

#[test]
fn every_options_byte_is_judged() {
    for byte in 0..=255_u8 {
        let three = one(Accept::FromClient(V311), &subscribe(V311, &[(b"a", byte)])).map(drop);
        let five = one(Accept::FromClient(V5), &subscribe(V5, &[(b"a", byte)])).map(drop);
        let shared = one(
            Accept::FromClient(V5),
            &subscribe(V5, &[(b"$share/g/a", byte)]),
        )
        .map(drop);
        let want_three = match byte {
            0..=2 => Ok(()),
            3 => Err(Protocol(Violation::SubscriptionQoS)),
            _ => Err(M(Malformed::SubscriptionOptions)),
        };
        assert_eq!(three, want_three, "{byte:#04x}");
        let want_five = if byte >= 0x40 {
            Err(M(Malformed::SubscriptionOptions))
        } else if byte % 4 == 3 {
            Err(Protocol(Violation::SubscriptionQoS))
        } else if byte >= 0x30 {
            Err(Protocol(Violation::RetainHandling))
        } else {
            Ok(())
        };
        assert_eq!(five, want_five, "{byte:#04x}");
        let no_local = byte & 4 != 0;
        let want_shared = match want_five {
            Ok(()) if no_local => Err(Protocol(Violation::NoLocalOnShared)),
            other => other,
        };
        assert_eq!(shared, want_shared, "{byte:#04x}");
    }
}

#[test]
fn refused_in_both_versions() {
    for version in VERSIONS {
        let accept = Accept::FromClient(version);
        let none = none(version);
        let cut = M(Malformed::Truncated);
        let subscribe = |id: &[u8], rest: &[u8]| packet(0x82, &[id, none, rest]);
        let unsubscribe = |id: &[u8], rest: &[u8]| packet(0xA2, &[id, none, rest]);
        let a = field("a");
        let option = [field("a"), vec![0]].concat();
        let no_filters = Protocol(Violation::NoFilters);
        refuses(
            accept,
            &[
                (
                    "packet id 0",
                    subscribe(&[0, 0], &option),
                    M(Malformed::PacketIdZero),
                ),
                (
                    "packet id 0",
                    unsubscribe(&[0, 0], &a),
                    M(Malformed::PacketIdZero),
                ),
                ("no filter", subscribe(&[0, 1], &[]), no_filters),
                ("no filter", unsubscribe(&[0, 1], &[]), no_filters),
                ("no options", subscribe(&[0, 1], &a), cut),
                (
                    "second without options",
                    subscribe(&[0, 1], &[&option[..], &a].concat()),
                    cut,
                ),
                ("half a length", subscribe(&[0, 1], &[0]), cut),
                ("half a length", unsubscribe(&[0, 1], &[0]), cut),
                ("cut off", subscribe(&[0, 1], &[0, 2, b'a']), cut),
                ("cut off", unsubscribe(&[0, 1], &[0, 2, b'a']), cut),
                (
                    "second cut off",
                    unsubscribe(&[0, 1], &[&a[..], &[0, 2, b'a']].concat()),
                    cut,
                ),
                ("no body", packet(0x82, &[]), M(Malformed::RemainingLength)),
                (
                    "no body",
                    packet(0xA2, &[&[1]]),
                    M(Malformed::RemainingLength),
                ),
                (
                    "flags 0",
                    packet(0x80, &[&[0, 1], none, &option]),
                    M(Malformed::FixedHeaderFlags(0x80)),
                ),
                (
                    "flags 0",
                    packet(0xA0, &[&[0, 1], none, &a]),
                    M(Malformed::FixedHeaderFlags(0xA0)),
                ),
                (
                    "NUL",
                    self::subscribe(version, &[(b"a\0", 0)]),
                    M(Malformed::NulInString),
                ),
                (
                    "NUL",
                    self::unsubscribe(version, &[b"a\0"]),
                    M(Malformed::NulInString),
                ),
                (
                    "UTF-8",
                    self::subscribe(version, &[(b"\xFF", 0)]),
                    M(Malformed::Utf8),
                ),
                (
                    "UTF-8",
                    self::unsubscribe(version, &[b"\xED\xA0\x80"]),
                    M(Malformed::Utf8),
                ),
            ],
        );
    }
}

#[test]
fn up_to_512_filters() {
    for version in VERSIONS {
        let accept = Accept::FromClient(version);
        let filters = |n| vec![(&b"a/+"[..], 1_u8); n];
        let names = |n| vec![&b"a/+"[..]; n];
        for n in [1, 2, 64, 512] {
            accepts(
                accept,
                &[
                    ("subscribe", subscribe(version, &filters(n))),
                    ("unsubscribe", unsubscribe(version, &names(n))),
                ],
            );
        }
        let over = LimitExceeded(Limit::Filters);
        refuses(
            accept,
            &[
                ("subscribe", subscribe(version, &filters(513)), over),
                ("unsubscribe", unsubscribe(version, &names(513)), over),
            ],
        );
    }
}

#[test]
fn properties_of_5() {
    let s = |list: &[&[u8]]| packet(0x82, &[&[0, 1], &properties(list), &field("a"), &[0]]);
    let u = |list: &[&[u8]]| packet(0xA2, &[&[0, 1], &properties(list), &field("a")]);
    let id = |value: &[u8]| property(0x0B, value);
    let accept = Accept::FromClient(V5);
    accepts(
        accept,
        &[
            ("identifier 1", s(&[&id(&[1])])),
            ("largest identifier", s(&[&id(&[0xFF, 0xFF, 0xFF, 0x7F])])),
            (
                "user properties",
                s(&[&user("a", "b"), &id(&[7]), &user("a", "b")]),
            ),
            ("user properties", u(&[&user("a", "b"), &user("a", "c")])),
        ],
    );
    let same = PropertyId::SubscriptionIdentifier;
    refuses(
        accept,
        &[
            (
                "identifier 0",
                s(&[&id(&[0])]),
                Protocol(Violation::PropertyValue(same)),
            ),
            (
                "two",
                s(&[&id(&[1]), &id(&[2])]),
                Protocol(Violation::DuplicateProperty(same)),
            ),
            (
                "overlong",
                s(&[&id(&[0x81, 0])]),
                M(Malformed::OverlongInteger),
            ),
            (
                "in UNSUBSCRIBE",
                u(&[&id(&[1])]),
                Protocol(Violation::PropertyNotAllowed(same)),
            ),
            (
                "65 user properties",
                s(&[&user("a", "b").repeat(65)]),
                LimitExceeded(Limit::UserProperties),
            ),
            (
                "65 user properties",
                u(&[&user("a", "b").repeat(65)]),
                LimitExceeded(Limit::UserProperties),
            ),
            (
                "no property length",
                packet(0x82, &[&[0, 1]]),
                M(Malformed::Truncated),
            ),
            (
                "no property length",
                packet(0xA2, &[&[0, 1]]),
                M(Malformed::Truncated),
            ),
        ],
    );
}

#[test]
fn entries_are_what_was_sent() {
    let wire = packet(
        0x82,
        &[
            &[1, 2],
            &properties(&[&property(0x0B, [9])]),
            &field("a/+"),
            &[0x2D],
            &field("b"),
            &[0x10],
        ],
    );
    let Ok(Any::Client(ClientPacket::Subscribe(Subscribe {
        packet_id,
        properties,
        filters,
    }))) = one(Accept::FromClient(V5), &wire)
    else {
        panic!("a SUBSCRIBE");
    };
    assert_eq!(packet_id.get(), 0x0102);
    assert_eq!(
        properties.subscription_identifiers().collect::<Vec<_>>(),
        [9]
    );
    assert_eq!((filters.len(), filters.is_empty()), (2, false));
    let want = [
        Subscription {
            filter: "a/+",
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
        },
        Subscription {
            retain_handling: RetainHandling::SendIfNew,
            ..Subscription::new("b", QoS::AtMostOnce)
        },
    ];
    assert_eq!(filters.iter().collect::<Vec<_>>(), want);
    assert_eq!(filters.iter().len(), 2);

    let wire = unsubscribe(V311, &[b"a/+", b"b"]);
    let Ok(Any::Client(ClientPacket::Unsubscribe(Unsubscribe {
        packet_id, filters, ..
    }))) = one(Accept::FromClient(V311), &wire)
    else {
        panic!("an UNSUBSCRIBE");
    };
    assert_eq!(packet_id.get(), 10);
    assert_eq!(filters.iter().collect::<Vec<_>>(), ["a/+", "b"]);
}
