//! PUBLISH (3.1.1 and 5.0 §3.3).

use tidegate_mqtt::DecodeError::{
    LimitExceeded, Malformed as M, Protocol, TopicAliasInvalid, TopicNameInvalid,
};
use tidegate_mqtt::{
    Accept, ClientPacket, Limit, Malformed, PropertyId, Publish, QoS, ServerPacket, Version,
    Violation,
};

use crate::common::{
    Any, NONE, V5, V311, VERSIONS, accepts, field, one, packet, properties, property, refuses, user,
};

/// From topic to payload, with no properties where there is a place for them.
fn plain(
    version: Version,
    first: u8,
    topic: impl AsRef<[u8]>,
    id: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let properties = if version == V5 { NONE } else { &[] };
    packet(first, &[&field(topic), id, properties, payload])
}

fn with(list: &[&[u8]]) -> Vec<u8> {
    packet(0x30, &[&field("a/b"), &properties(list), b"x"])
}

fn directions(version: Version) -> [Accept; 2] {
    [Accept::FromClient(version), Accept::FromServer(version)]
}

fn decoded(accept: Accept, wire: &[u8]) -> Publish<'_> {
    match one(accept, wire) {
        Ok(Any::Client(ClientPacket::Publish(p)) | Any::Server(ServerPacket::Publish(p))) => p,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accepted_in_both_versions() {
    let long = "x".repeat(65_535);
    for version in VERSIONS {
        let p = |first, topic: &str, id: &[u8], payload: &[u8]| {
            plain(version, first, topic, id, payload)
        };
        let rows = [
            ("QoS 0", p(0x30, "a", &[], b"x")),
            ("QoS 0, retained", p(0x31, "a", &[], b"x")),
            ("QoS 1", p(0x32, "a", &[0, 1], b"x")),
            ("QoS 1, retained", p(0x33, "a", &[0, 1], b"x")),
            ("QoS 1, again", p(0x3A, "a", &[0, 1], b"x")),
            ("QoS 1, again, retained", p(0x3B, "a", &[0, 1], b"x")),
            ("QoS 2", p(0x34, "a", &[255, 255], b"x")),
            ("QoS 2, retained", p(0x35, "a", &[1, 0], b"x")),
            ("QoS 2, again", p(0x3C, "a", &[1, 0], b"x")),
            ("QoS 2, again, retained", p(0x3D, "a", &[1, 0], b"x")),
            ("no payload", p(0x30, "a", &[], b"")),
            ("no payload, QoS 1", p(0x32, "a", &[0, 9], b"")),
            ("binary payload", p(0x30, "a", &[], &[0, 255, 0xC0, 0x80])),
            (
                "payload of 1000",
                p(0x32, "device/sensor_001/data", &[0, 1], &[7; 1000]),
            ),
            (
                "payload of 20000",
                p(0x32, "device/sensor_001/data", &[0, 1], &[7; 20_000]),
            ),
            ("slash alone", p(0x30, "/", &[], b"x")),
            ("empty levels", p(0x30, "//a//", &[], b"x")),
            ("spaces", p(0x30, "a b/ c ", &[], b"x")),
            ("dollar", p(0x30, "$SYS/broker", &[], b"x")),
            ("$share is a name here", p(0x30, "$share/g/t", &[], b"x")),
            ("UTF-8", p(0x30, "größe/\u{1F600}", &[], b"x")),
            ("byte order mark", p(0x30, "\u{FEFF}", &[], b"x")),
            ("longest topic", p(0x30, &long, &[], b"x")),
        ];
        for accept in directions(version) {
            accepts(accept, &rows);
        }
    }
}

#[test]
fn accepted_in_5() {
    let expiry = property(0x02, 0_u32.to_be_bytes());
    let rows = [
        ("message expiry 0", with(&[&expiry])),
        (
            "message expiry for ever",
            with(&[&property(0x02, [255; 4])]),
        ),
        ("payload format 0", with(&[&property(0x01, [0])])),
        ("payload format 1", with(&[&property(0x01, [1])])),
        ("alias with topic", with(&[&property(0x23, [0, 1])])),
        ("alias 65535", with(&[&property(0x23, [255, 255])])),
        (
            "alias for a topic",
            packet(0x30, &[&field(""), &properties(&[&property(0x23, [0, 1])])]),
        ),
        (
            "content type",
            with(&[&property(0x03, field("application/json"))]),
        ),
        ("empty content type", with(&[&property(0x03, field(""))])),
        (
            "response topic",
            with(&[&property(0x08, field("answers/1"))]),
        ),
        (
            "correlation data",
            with(&[&property(0x09, field([0, 255]))]),
        ),
        (
            "empty correlation data",
            with(&[&property(0x09, field(""))]),
        ),
        ("user property", with(&[&user("a", "b")])),
        ("empty user property", with(&[&user("", "")])),
        (
            "same user property again",
            with(&[&user("a", "b"), &expiry, &user("a", "b")]),
        ),
        ("64 user properties", with(&[&user("a", "b").repeat(64)])),
    ];
    for accept in directions(V5) {
        accepts(accept, &rows);
    }
    let id = |value: &[u8]| property(0x0B, value);
    accepts(
        Accept::FromServer(V5),
        &[
            ("subscription identifier", with(&[&id(&[1])])),
            ("largest", with(&[&id(&[0xFF, 0xFF, 0xFF, 0x7F])])),
            ("several", with(&[&id(&[1]), &id(&[2]), &id(&[1])])),
            ("64", with(&[&id(&[1]).repeat(64)])),
        ],
    );
}

#[test]
fn fields_are_what_was_sent() {
    let wire = plain(V311, 0x3B, "t/o", &[1, 2], b"pay");
    let publish = decoded(Accept::FromClient(V311), &wire);
    assert_eq!(
        (publish.dup, publish.qos, publish.retain),
        (true, QoS::AtLeastOnce, true)
    );
    assert_eq!((publish.topic, publish.payload), ("t/o", &b"pay"[..]));
    assert_eq!(publish.packet_id.map(Into::into), Some(0x0102_u16));
    assert!(publish.properties.is_empty());
    // Borrowed: the payload lies in the read buffer itself.
    assert_eq!(publish.payload.as_ptr(), wire[wire.len() - 3..].as_ptr());

    let wire = packet(
        0x34,
        &[
            &field("t"),
            &[0, 7],
            &properties(&[
                &property(0x01, [1]),
                &property(0x02, 0_u32.to_be_bytes()),
                &property(0x23, [0, 9]),
                &property(0x08, field("r")),
                &property(0x09, field([1, 2])),
                &user("k", "v"),
                &property(0x0B, [0x80, 0x01]),
                &property(0x0B, [5]),
                &property(0x03, field("c")),
            ]),
        ],
    );
    let publish = decoded(Accept::FromServer(V5), &wire);
    let p = publish.properties;
    assert_eq!(p.payload_format_indicator(), Some(true));
    assert_eq!(p.message_expiry_interval(), Some(0));
    assert_eq!(p.topic_alias().map(Into::into), Some(9_u16));
    assert_eq!(p.response_topic(), Some("r"));
    assert_eq!(p.correlation_data(), Some(&[1, 2][..]));
    assert_eq!(p.user_properties().collect::<Vec<_>>(), [("k", "v")]);
    assert_eq!(p.subscription_identifiers().collect::<Vec<_>>(), [128, 5]);
    assert_eq!(p.content_type(), Some("c"));
    assert_eq!(p.iter().count(), 9);
    assert_eq!(publish.payload, b"");
}

#[test]
fn refused_in_both_versions() {
    for version in VERSIONS {
        let p = |first, topic: &[u8], id: &[u8]| plain(version, first, topic, id, b"x");
        let cut = M(Malformed::Truncated);
        let rows = [
            ("QoS 3", p(0x36, b"a", &[0, 1]), M(Malformed::QoS)),
            ("QoS 3, retained", p(0x37, b"a", &[0, 1]), M(Malformed::QoS)),
            ("QoS 3, again", p(0x3E, b"a", &[0, 1]), M(Malformed::QoS)),
            (
                "DUP with QoS 0",
                p(0x38, b"a", &[]),
                M(Malformed::DupWithQoS0),
            ),
            (
                "DUP with QoS 0, retained",
                p(0x39, b"a", &[]),
                M(Malformed::DupWithQoS0),
            ),
            (
                "packet id 0, QoS 1",
                p(0x32, b"a", &[0, 0]),
                M(Malformed::PacketIdZero),
            ),
            (
                "packet id 0, QoS 2",
                p(0x34, b"a", &[0, 0]),
                M(Malformed::PacketIdZero),
            ),
            ("# alone", p(0x30, b"#", &[]), TopicNameInvalid),
            ("+ alone", p(0x30, b"+", &[]), TopicNameInvalid),
            ("# at the end", p(0x30, b"a/#", &[]), TopicNameInvalid),
            ("+ inside", p(0x30, b"a/+/b", &[]), TopicNameInvalid),
            ("# within a level", p(0x30, b"a#", &[]), TopicNameInvalid),
            ("+ within a level", p(0x30, b"a+b", &[]), TopicNameInvalid),
            ("NUL", p(0x30, b"a\0b", &[]), M(Malformed::NulInString)),
            (
                "NUL and wild card",
                p(0x30, b"#\0", &[]),
                M(Malformed::NulInString),
            ),
            (
                "ill-formed",
                p(0x30, &[b'a', 0xFF], &[]),
                M(Malformed::Utf8),
            ),
            (
                "surrogate",
                p(0x30, &[0xED, 0xA0, 0x80], &[]),
                M(Malformed::Utf8),
            ),
            ("no body", packet(0x30, &[]), M(Malformed::RemainingLength)),
            (
                "half a topic length",
                packet(0x30, &[&[0]]),
                M(Malformed::RemainingLength),
            ),
            ("topic cut off", packet(0x30, &[&[0, 3, b'a', b'b']]), cut),
            (
                "topic beyond everything",
                packet(0x30, &[&[255, 255, b'a']]),
                cut,
            ),
            ("no packet id", packet(0x32, &[&field("a")]), cut),
            ("half a packet id", packet(0x32, &[&field("a"), &[1]]), cut),
        ];
        for accept in directions(version) {
            refuses(accept, &rows);
        }
    }
    let empty = plain(V311, 0x30, "", &[], b"x");
    for accept in directions(V311) {
        refuses(accept, &[("empty topic", empty.clone(), TopicNameInvalid)]);
    }
}

#[test]
fn refused_in_5() {
    let no_alias = Protocol(Violation::EmptyTopicWithoutAlias);
    let rows = [
        ("empty topic", plain(V5, 0x30, "", &[], b"x"), no_alias),
        (
            "empty topic, other property",
            packet(0x30, &[&field(""), &properties(&[&property(0x01, [0])])]),
            no_alias,
        ),
        (
            "alias 0",
            with(&[&property(0x23, [0, 0])]),
            TopicAliasInvalid,
        ),
        (
            "payload format 2",
            with(&[&property(0x01, [2])]),
            Protocol(Violation::PropertyValue(PropertyId::PayloadFormatIndicator)),
        ),
        (
            "response topic with #",
            with(&[&property(0x08, field("a/#"))]),
            TopicNameInvalid,
        ),
        (
            "response topic with +",
            with(&[&property(0x08, field("+"))]),
            TopicNameInvalid,
        ),
        (
            "response topic empty",
            with(&[&property(0x08, field(""))]),
            TopicNameInvalid,
        ),
        (
            "response topic with NUL",
            with(&[&property(0x08, field("\0"))]),
            M(Malformed::NulInString),
        ),
        (
            "content type ill-formed",
            with(&[&property(0x03, field([0xFF]))]),
            M(Malformed::Utf8),
        ),
        (
            "65 user properties",
            with(&[&user("a", "b").repeat(65)]),
            LimitExceeded(Limit::UserProperties),
        ),
        (
            "user property ill-formed",
            with(&[&property(0x26, [field("a"), field([0xC0, 0x80])].concat())]),
            M(Malformed::Utf8),
        ),
        (
            "expiry cut off",
            with(&[&property(0x02, [0, 0, 1])]),
            M(Malformed::Truncated),
        ),
        (
            "property length beyond the packet",
            packet(0x30, &[&field("a"), &[5], &property(0x02, [0, 0, 1])]),
            M(Malformed::Truncated),
        ),
        (
            "property length of five bytes",
            packet(0x30, &[&field("a"), &[0x80, 0x80, 0x80, 0x80, 0x01]]),
            M(Malformed::VariableByteInteger),
        ),
        (
            "no property length",
            packet(0x30, &[&field("a")]),
            M(Malformed::Truncated),
        ),
        (
            "property length overlong",
            packet(0x30, &[&field("a"), &[0x80, 0x00], b"x"]),
            M(Malformed::OverlongInteger),
        ),
    ];
    for accept in directions(V5) {
        refuses(accept, &rows);
    }
    let id = |value: &[u8]| property(0x0B, value);
    refuses(
        Accept::FromClient(V5),
        &[(
            "a client's subscription identifier",
            with(&[&id(&[1])]),
            Protocol(Violation::PropertyNotAllowed(
                PropertyId::SubscriptionIdentifier,
            )),
        )],
    );
    refuses(
        Accept::FromServer(V5),
        &[
            (
                "subscription identifier 0",
                with(&[&id(&[0])]),
                Protocol(Violation::PropertyValue(PropertyId::SubscriptionIdentifier)),
            ),
            (
                "overlong",
                with(&[&id(&[0x81, 0x00])]),
                M(Malformed::OverlongInteger),
            ),
            (
                "of five bytes",
                with(&[&id(&[0xFF, 0xFF, 0xFF, 0xFF, 0x01])]),
                M(Malformed::VariableByteInteger),
            ),
            (
                "65",
                with(&[&id(&[1]).repeat(65)]),
                LimitExceeded(Limit::SubscriptionIdentifiers),
            ),
        ],
    );
}
