//! CONNECT (3.1.1 and 5.0 §3.1).

use tidegate_mqtt::DecodeError::{
    LimitExceeded, Malformed as M, Protocol, ProtocolName, TopicNameInvalid,
};
use tidegate_mqtt::error::VersionAnswer;
use tidegate_mqtt::{
    Accept, Connect, DecodeError, Limit, Malformed, PropertyId, QoS, Version, Violation,
};

use crate::common::{
    Any, NONE, V5, V311, VERSIONS, accepts, field, one, packet, properties, property, refuses, user,
};

/// A CONNECT with "MQTT", flags and keep alive 60, and what follows in parts.
fn connect(level: u8, flags: u8, rest: &[&[u8]]) -> Vec<u8> {
    packet(
        0x10,
        &[&field("MQTT"), &[level, flags, 0, 60], &rest.concat()],
    )
}

/// The same in either version, with no properties where there is a place for them.
fn plain(version: Version, flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    match version {
        V311 => connect(4, flags, payload),
        V5 => connect(5, flags, &[NONE, &payload.concat()]),
    }
}

fn will(version: Version, topic: impl AsRef<[u8]>, message: &str) -> Vec<u8> {
    let properties = if version == V5 { NONE } else { &[] };
    [properties, &field(topic), &field(message)].concat()
}

fn decoded(wire: &[u8]) -> Connect<'_> {
    match one(Accept::Connect, wire) {
        Ok(Any::Connect(connect)) => connect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accepted_in_both_versions() {
    for version in VERSIONS {
        let id = field("sensor_001");
        let will = |topic, message| will(version, topic, message);
        let a_will = will("device/a/status", "gone");
        let (name, password) = (field("sensor_001"), field([0, 159, 146, 150]));
        let empty = field("");
        let c = |flags, payload: &[&[u8]]| plain(version, flags, payload);
        // Flags: 02 clean, 04 will, 18 will QoS, 20 will retain, 40 password, 80 user name.
        accepts(
            Accept::Connect,
            &[
                ("plain", c(0x02, &[&id])),
                ("keep the session", c(0x00, &[&id])),
                ("empty id, clean", c(0x02, &[&empty])),
                (
                    "empty id, not clean: for the session to judge",
                    c(0x00, &[&empty]),
                ),
                ("long id", c(0x02, &[&field("x".repeat(65_535))])),
                ("id in UTF-8", c(0x02, &[&field("größe-\u{10FFFF}")])),
                ("byte order mark, kept", c(0x02, &[&field("\u{FEFF}a")])),
                (
                    "control and non-characters",
                    c(0x02, &[&field("\u{1}\u{7F}\u{9F}\u{FFFE}")]),
                ),
                ("will, QoS 0", c(0x06, &[&id, &a_will])),
                ("will, QoS 1", c(0x0E, &[&id, &a_will])),
                ("will, QoS 2", c(0x16, &[&id, &a_will])),
                ("will, retained", c(0x26, &[&id, &a_will])),
                ("will, QoS 2, retained", c(0x36, &[&id, &a_will])),
                ("will, empty", c(0x06, &[&id, &will("t", "")])),
                ("will on $-topic", c(0x06, &[&id, &will("$SYS/x", "")])),
                ("user name", c(0x82, &[&id, &name])),
                ("empty user name", c(0x82, &[&id, &empty])),
                ("user name and password", c(0xC2, &[&id, &name, &password])),
                ("empty password", c(0xC2, &[&id, &name, &empty])),
                ("everything", c(0xF6, &[&id, &a_will, &name, &password])),
            ],
        );
    }
}

#[test]
fn fields_are_what_was_sent() {
    let id = field("c");
    let wire = plain(
        V311,
        0xF4,
        &[&id, &will(V311, "w/t", "bye"), &field("me"), &field([0, 1])],
    );
    let connect = decoded(&wire);
    assert_eq!(connect.version, V311);
    assert!(!connect.clean_start);
    assert_eq!((connect.keep_alive, connect.client_id), (60, "c"));
    let will = connect.will.unwrap();
    assert_eq!(
        (will.qos, will.retain, will.topic, will.payload),
        (QoS::ExactlyOnce, true, "w/t", &b"bye"[..])
    );
    assert_eq!(
        (connect.user_name, connect.password),
        (Some("me"), Some(&[0, 1][..]))
    );
    assert!(
        !format!("{connect:?}").contains("[0, 1]"),
        "the password is not shown"
    );

    let mine = properties(&[
        &property(0x11, 3600_u32.to_be_bytes()),
        &property(0x21, 20_u16.to_be_bytes()),
        &property(0x27, 9000_u32.to_be_bytes()),
        &property(0x22, 5_u16.to_be_bytes()),
        &property(0x19, [1]),
        &property(0x17, [0]),
        &user("a", "1"),
        &user("a", "2"),
        &property(0x15, field("SCRAM")),
        &property(0x16, field([1, 2, 3])),
    ]);
    let wills = properties(&[
        &property(0x18, 7_u32.to_be_bytes()),
        &property(0x02, 0_u32.to_be_bytes()),
        &property(0x08, field("answer/here")),
    ]);
    let wire = connect_v5(
        0x46,
        &mine,
        &[&id, &wills, &field("w"), &field(""), &field("pw")],
    );
    let connect = decoded(&wire);
    let p = connect.properties;
    assert_eq!(p.session_expiry_interval(), Some(3600));
    assert_eq!(p.receive_maximum().map(Into::into), Some(20_u16));
    assert_eq!(p.maximum_packet_size().map(Into::into), Some(9000_u32));
    assert_eq!(p.topic_alias_maximum(), Some(5));
    assert_eq!(p.request_response_information(), Some(true));
    assert_eq!(p.request_problem_information(), Some(false));
    assert_eq!(
        p.user_properties().collect::<Vec<_>>(),
        [("a", "1"), ("a", "2")]
    );
    assert_eq!(p.authentication_method(), Some("SCRAM"));
    assert_eq!(p.authentication_data(), Some(&[1, 2, 3][..]));
    assert_eq!(p.topic_alias(), None);
    let will = connect.will.unwrap();
    assert_eq!(will.properties.will_delay_interval(), Some(7));
    assert_eq!(will.properties.message_expiry_interval(), Some(0));
    assert_eq!(will.properties.response_topic(), Some("answer/here"));
    assert_eq!(
        (connect.user_name, connect.password),
        (None, Some(&b"pw"[..]))
    );
}

fn connect_v5(flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    connect(5, flags, &[properties, &payload.concat()])
}

#[test]
fn accepted_in_5_only() {
    let id = field("a");
    accepts(
        Accept::Connect,
        &[
            (
                "password without user name",
                plain(V5, 0x42, &[&id, &field("token")]),
            ),
            (
                "authentication method without data",
                connect_v5(0x02, &properties(&[&property(0x15, field("x"))]), &[&id]),
            ),
            (
                "64 user properties",
                connect_v5(0x02, &properties(&vec![&user("k", "v")[..]; 64]), &[&id]),
            ),
            (
                "properties of 128 bytes and more",
                connect_v5(0x02, &properties(&[&user("k", &"v".repeat(300))]), &[&id]),
            ),
        ],
    );
}

#[test]
fn an_empty_client_id_without_clean_session_is_visible() {
    let empty = field("");
    for (version, flags, lacks) in [
        (V311, 0x00, true),
        (V311, 0x02, false),
        (V5, 0x00, false),
        (V5, 0x02, false),
    ] {
        assert_eq!(
            decoded(&plain(version, flags, &[&empty])).lacks_client_id(),
            lacks
        );
    }
}

#[test]
fn refused_in_both_versions() {
    for version in VERSIONS {
        let id = field("a");
        let c = |flags, payload: &[&[u8]]| plain(version, flags, payload);
        let will = |topic: &[u8]| will(version, topic, "m");
        let a_will = will(b"t");
        let nul = M(Malformed::NulInString);
        let utf8 = M(Malformed::Utf8);
        let cut = M(Malformed::Truncated);
        let will_flags = M(Malformed::WillFlags);
        refuses(
            Accept::Connect,
            &[
                (
                    "reserved flag",
                    c(0x03, &[&id]),
                    M(Malformed::ConnectFlagReserved),
                ),
                (
                    "reserved flag with all",
                    c(0xFF, &[&id]),
                    M(Malformed::ConnectFlagReserved),
                ),
                ("will QoS 3", c(0x1E, &[&id, &a_will]), M(Malformed::QoS)),
                (
                    "will QoS 3 without will",
                    c(0x1A, &[&id]),
                    M(Malformed::QoS),
                ),
                ("will QoS 1 without will", c(0x0A, &[&id]), will_flags),
                ("will QoS 2 without will", c(0x12, &[&id]), will_flags),
                ("will retain without will", c(0x22, &[&id]), will_flags),
                ("no client id", c(0x02, &[]), cut),
                ("half a client id length", c(0x02, &[&[0]]), cut),
                ("client id cut off", c(0x02, &[&[0, 2, b'a']]), cut),
                ("will flag, no will", c(0x06, &[&id]), cut),
                ("user name flag, none there", c(0x82, &[&id]), cut),
                (
                    "password flag, none there",
                    c(0xC2, &[&id, &field("u")]),
                    cut,
                ),
                (
                    "user name without its flag",
                    c(0x02, &[&id, &field("u")]),
                    M(Malformed::TrailingBytes),
                ),
                (
                    "will without its flag",
                    c(0x02, &[&id, &a_will]),
                    M(Malformed::TrailingBytes),
                ),
                (
                    "password without its flag",
                    c(0x82, &[&id, &field("u"), &field("p")]),
                    M(Malformed::TrailingBytes),
                ),
                (
                    "a byte more",
                    c(0x02, &[&id, &[0]]),
                    M(Malformed::TrailingBytes),
                ),
                ("NUL in client id", c(0x02, &[&field("a\0")]), nul),
                ("NUL in user name", c(0x82, &[&id, &field("\0")]), nul),
                ("NUL in will topic", c(0x06, &[&id, &will(b"a\0b")]), nul),
                (
                    "will topic empty",
                    c(0x06, &[&id, &will(b"")]),
                    TopicNameInvalid,
                ),
                (
                    "will topic with #",
                    c(0x06, &[&id, &will(b"a/#")]),
                    TopicNameInvalid,
                ),
                (
                    "will topic with +",
                    c(0x06, &[&id, &will(b"a/+/b")]),
                    TopicNameInvalid,
                ),
                (
                    "will topic ill-formed",
                    c(0x06, &[&id, &will(&[0xC3, 0x28])]),
                    utf8,
                ),
                (
                    "user name ill-formed",
                    c(0x82, &[&id, &field([0xFF])]),
                    utf8,
                ),
                // Ill-formed UTF-8 of every kind ([MQTT-1.5.3-1], [MQTT-1.5.4-1]).
                ("lone continuation", c(0x02, &[&field([0x80])]), utf8),
                (
                    "sequence cut off",
                    c(0x02, &[&field([b'a', 0xE2, 0x82])]),
                    utf8,
                ),
                ("overlong NUL", c(0x02, &[&field([0xC0, 0x80])]), utf8),
                (
                    "overlong slash",
                    c(0x02, &[&field([0xE0, 0x80, 0xAF])]),
                    utf8,
                ),
                (
                    "surrogate D800",
                    c(0x02, &[&field([0xED, 0xA0, 0x80])]),
                    utf8,
                ),
                (
                    "surrogate DFFF",
                    c(0x02, &[&field([0xED, 0xBF, 0xBF])]),
                    utf8,
                ),
                (
                    "beyond 10FFFF",
                    c(0x02, &[&field([0xF4, 0x90, 0x80, 0x80])]),
                    utf8,
                ),
                (
                    "five-byte form",
                    c(0x02, &[&field([0xF8, 0x88, 0x80, 0x80, 0x80])]),
                    utf8,
                ),
            ],
        );
    }
}

#[test]
fn refused_in_3_1_1() {
    let id = field("a");
    refuses(
        Accept::Connect,
        &[
            (
                "password without user name",
                plain(V311, 0x42, &[&id, &field("p")]),
                M(Malformed::PasswordWithoutUserName),
            ),
            // An MQTT 5 body with level 4: its property length becomes half of an id's.
            (
                "properties",
                connect(4, 0x02, &[NONE, &id]),
                M(Malformed::TrailingBytes),
            ),
        ],
    );
}

#[test]
fn refused_in_5() {
    let id = field("a");
    let c = |list: &[&[u8]]| connect_v5(0x02, &properties(list), &[&id]);
    let raw = |properties: &[u8]| connect_v5(0x02, properties, &[&id]);
    let w = |list: &[&[u8]]| {
        connect_v5(
            0x06,
            NONE,
            &[&id, &properties(list), &field("t"), &field("m")],
        )
    };
    let value = |id| Protocol(Violation::PropertyValue(id));
    refuses(
        Accept::Connect,
        &[
            (
                "receive maximum 0",
                c(&[&property(0x21, [0, 0])]),
                value(PropertyId::ReceiveMaximum),
            ),
            (
                "maximum packet size 0",
                c(&[&property(0x27, [0; 4])]),
                value(PropertyId::MaximumPacketSize),
            ),
            (
                "request problem information 2",
                c(&[&property(0x17, [2])]),
                value(PropertyId::RequestProblemInformation),
            ),
            (
                "request response information 255",
                c(&[&property(0x19, [255])]),
                value(PropertyId::RequestResponseInformation),
            ),
            (
                "authentication data without method",
                c(&[&property(0x16, field([1]))]),
                Protocol(Violation::PropertyMissing(PropertyId::AuthenticationMethod)),
            ),
            (
                "65 user properties",
                c(&[&user("k", "v").repeat(65)]),
                LimitExceeded(Limit::UserProperties),
            ),
            (
                "NUL in a user property's name",
                c(&[&user("a\0", "")]),
                M(Malformed::NulInString),
            ),
            (
                "NUL in a user property's value",
                c(&[&user("", "\0")]),
                M(Malformed::NulInString),
            ),
            (
                "user property without value",
                c(&[&property(0x26, field("a"))]),
                M(Malformed::Truncated),
            ),
            (
                "ill-formed authentication method",
                c(&[&property(0x15, field([0xC3]))]),
                M(Malformed::Utf8),
            ),
            ("property 0", c(&[&[0, 0]]), M(Malformed::PropertyId(0))),
            ("property 0x04", c(&[&[4, 0]]), M(Malformed::PropertyId(4))),
            (
                "property 0x2B",
                c(&[&[0x2B, 0]]),
                M(Malformed::PropertyId(0x2B)),
            ),
            (
                "property 0x7F",
                c(&[&[0x7F, 0]]),
                M(Malformed::PropertyId(0x7F)),
            ),
            (
                "property 300",
                c(&[&[0xAC, 0x02, 0]]),
                M(Malformed::PropertyId(300)),
            ),
            (
                "identifier overlong",
                c(&[&[0x97, 0x00, 0x01]]),
                M(Malformed::OverlongInteger),
            ),
            (
                "identifier of five bytes",
                c(&[&[0x80, 0x80, 0x80, 0x80, 0x01]]),
                M(Malformed::VariableByteInteger),
            ),
            ("identifier alone", c(&[&[0x11]]), M(Malformed::Truncated)),
            (
                "value cut off by the property length",
                c(&[&property(0x11, [0, 0, 0])]),
                M(Malformed::Truncated),
            ),
            (
                "property length overlong",
                raw(&[0x80, 0x00]),
                M(Malformed::OverlongInteger),
            ),
            (
                "property length beyond the packet",
                raw(&[0x7F]),
                M(Malformed::Truncated),
            ),
            (
                "no property length",
                connect(5, 0x02, &[]),
                M(Malformed::Truncated),
            ),
            (
                "will delay outside a will",
                c(&[&property(0x18, [0; 4])]),
                Protocol(Violation::PropertyNotAllowed(PropertyId::WillDelayInterval)),
            ),
            (
                "session expiry in a will",
                w(&[&property(0x11, [0; 4])]),
                Protocol(Violation::PropertyNotAllowed(
                    PropertyId::SessionExpiryInterval,
                )),
            ),
            (
                "will payload format 2",
                w(&[&property(0x01, [2])]),
                value(PropertyId::PayloadFormatIndicator),
            ),
            (
                "will response topic with wild card",
                w(&[&property(0x08, field("a/#"))]),
                TopicNameInvalid,
            ),
            (
                "will response topic empty",
                w(&[&property(0x08, field(""))]),
                TopicNameInvalid,
            ),
        ],
    );
}

#[test]
fn other_protocols_are_told_in_their_own_form() {
    let with =
        |name: &str, level: u8| packet(0x10, &[&field(name), &[level, 2, 0, 60], &field("client")]);
    let unsupported = |level, answer| DecodeError::UnsupportedVersion { level, answer };
    let rows = [
        (
            "MQTT 3.1",
            with("MQIsdp", 3),
            unsupported(3, VersionAnswer::V3),
        ),
        (
            "MQTT 3.1 as a bridge",
            with("MQIsdp", 0x83),
            unsupported(0x83, VersionAnswer::V3),
        ),
        (
            "MQIsdp with level 4",
            with("MQIsdp", 4),
            unsupported(4, VersionAnswer::V3),
        ),
        (
            "MQIsdp with level 5",
            with("MQIsdp", 5),
            unsupported(5, VersionAnswer::V3),
        ),
        (
            "level 0",
            with("MQTT", 0),
            unsupported(0, VersionAnswer::V3),
        ),
        (
            "level 3",
            with("MQTT", 3),
            unsupported(3, VersionAnswer::V3),
        ),
        (
            "3.1.1 as a bridge",
            with("MQTT", 0x84),
            unsupported(0x84, VersionAnswer::V3),
        ),
        (
            "level 6",
            with("MQTT", 6),
            unsupported(6, VersionAnswer::V5),
        ),
        (
            "level 255",
            with("MQTT", 255),
            unsupported(255, VersionAnswer::V5),
        ),
        ("other name", with("mqtt", 4), ProtocolName),
        ("longer name", with("MQTTX", 4), ProtocolName),
        ("empty name", with("", 4), ProtocolName),
        (
            "HTTP",
            packet(0x10, &[b"GET / HTTP/1.1"]),
            M(Malformed::Truncated),
        ),
    ];
    refuses(Accept::Connect, &rows);
    assert_eq!(VersionAnswer::V3.connack(), [0x20, 0x02, 0x00, 0x01]);
    assert_eq!(VersionAnswer::V5.connack(), [0x20, 0x03, 0x00, 0x84, 0x00]);
}
