//! CONNACK, SUBACK, UNSUBACK (3.1.1 and 5.0 §3.2, §3.9, §3.11), as a client reads them.

use tidegate_mqtt::DecodeError::{LimitExceeded, Malformed as M, Protocol};
use tidegate_mqtt::{
    Accept, Limit, Malformed, PropertyId, QoS, ReasonCode, ServerPacket, Violation,
};

use crate::common::{
    Any, NONE, V5, V311, accepts, field, one, packet, properties, property, refuses, user,
};

#[test]
fn connack_in_3_1_1() {
    let p = |flags, code| packet(0x20, &[&[flags, code]]);
    let accept = Accept::ConnAck(V311);
    let rows: Vec<_> = (0..=5).map(|code| ("return code", p(0, code))).collect();
    accepts(accept, &rows);
    accepts(accept, &[("session present", p(1, 0))]);
    let refused: Vec<_> = (6..=255)
        .map(|code| ("return code", p(0, code), M(Malformed::ReasonCode(code))))
        .chain((2..=255).map(|flags| ("flags", p(flags, 0), M(Malformed::ConnAckFlags))))
        .chain((1..=5).map(|code| {
            (
                "present and refused",
                p(1, code),
                Protocol(Violation::SessionPresentOnError),
            )
        }))
        .collect();
    refuses(accept, &refused);
    let wire = p(0, 5);
    let Ok(Any::Server(ServerPacket::ConnAck(connack))) = one(accept, &wire) else {
        panic!("a CONNACK");
    };
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
}

#[test]
fn connack_in_5() {
    let accept = Accept::ConnAck(V5);
    let p = |flags, code, list: &[&[u8]]| packet(0x20, &[&[flags, code], &properties(list)]);
    let everything = [
        property(0x11, [0, 0, 1, 0]),
        property(0x21, [0, 10]),
        property(0x24, [1]),
        property(0x25, [0]),
        property(0x27, [0, 0, 16, 0]),
        property(0x12, field("auto-1")),
        property(0x22, [0, 3]),
        property(0x1F, field("welcome")),
        user("a", "b"),
        user("a", "b"),
        property(0x28, [1]),
        property(0x29, [0]),
        property(0x2A, [1]),
        property(0x13, [0, 30]),
        property(0x1A, field("answers/")),
        property(0x1C, field("other.example")),
        property(0x15, field("m")),
        property(0x16, field("d")),
    ];
    let all = everything.concat();
    accepts(
        accept,
        &[
            ("plain", p(0, 0, &[])),
            ("session present", p(1, 0, &[])),
            ("refused", p(0, 0x87, &[])),
            (
                "refused, with reason",
                p(0, 0x97, &[&property(0x1F, field("full"))]),
            ),
            ("everything", p(1, 0, &[&all])),
            ("maximum QoS 0", p(0, 0, &[&property(0x24, [0])])),
        ],
    );
    let refused = |id: u8, value: &[u8]| p(0, 0, &[&property(id, value)]);
    let value = |id| Protocol(Violation::PropertyValue(id));
    refuses(
        accept,
        &[
            (
                "no property length",
                packet(0x20, &[&[0, 0]]),
                M(Malformed::RemainingLength),
            ),
            (
                "trailing",
                packet(0x20, &[&[0, 0], NONE, &[0]]),
                M(Malformed::TrailingBytes),
            ),
            ("flags", p(2, 0, &[]), M(Malformed::ConnAckFlags)),
            ("flags", p(0x81, 0, &[]), M(Malformed::ConnAckFlags)),
            (
                "present and refused",
                p(1, 0x80, &[]),
                Protocol(Violation::SessionPresentOnError),
            ),
            ("a 3.1.1 code", p(0, 5, &[]), M(Malformed::ReasonCode(5))),
            (
                "maximum QoS 2",
                refused(0x24, &[2]),
                value(PropertyId::MaximumQoS),
            ),
            (
                "receive maximum 0",
                refused(0x21, &[0, 0]),
                value(PropertyId::ReceiveMaximum),
            ),
            (
                "packet size 0",
                refused(0x27, &[0; 4]),
                value(PropertyId::MaximumPacketSize),
            ),
            (
                "retain available 2",
                refused(0x25, &[2]),
                value(PropertyId::RetainAvailable),
            ),
            (
                "wildcard 2",
                refused(0x28, &[2]),
                value(PropertyId::WildcardSubscriptionAvailable),
            ),
            (
                "identifiers 9",
                refused(0x29, &[9]),
                value(PropertyId::SubscriptionIdentifierAvailable),
            ),
            (
                "shared 255",
                refused(0x2A, &[255]),
                value(PropertyId::SharedSubscriptionAvailable),
            ),
            (
                "data without method",
                refused(0x16, &field("d")),
                Protocol(Violation::PropertyMissing(PropertyId::AuthenticationMethod)),
            ),
            (
                "65 user properties",
                p(0, 0, &[&user("", "").repeat(65)]),
                LimitExceeded(Limit::UserProperties),
            ),
        ],
    );
    let wire = p(1, 0, &[&all]);
    let Ok(Any::Server(ServerPacket::ConnAck(connack))) = one(accept, &wire) else {
        panic!("a CONNACK");
    };
    assert!(connack.session_present);
    let p = connack.properties;
    assert_eq!(p.assigned_client_identifier(), Some("auto-1"));
    assert_eq!(p.maximum_qos(), Some(QoS::AtLeastOnce));
    assert_eq!(p.retain_available(), Some(false));
    assert_eq!(p.server_keep_alive(), Some(30));
    assert_eq!(p.response_information(), Some("answers/"));
    assert_eq!(p.server_reference(), Some("other.example"));
    assert_eq!(p.wildcard_subscription_available(), Some(true));
    assert_eq!(p.subscription_identifier_available(), Some(false));
    assert_eq!(p.shared_subscription_available(), Some(true));
}

#[test]
fn suback_and_unsuback() {
    let three = Accept::FromServer(V311);
    accepts(
        three,
        &[
            ("one", packet(0x90, &[&[0, 1, 0]])),
            ("all codes", packet(0x90, &[&[0, 1, 0, 1, 2, 0x80]])),
            ("unsuback", packet(0xB0, &[&[0, 1]])),
        ],
    );
    refuses(
        three,
        &[
            (
                "no code",
                packet(0x90, &[&[0, 1]]),
                Protocol(Violation::NoReasonCodes),
            ),
            (
                "code 3",
                packet(0x90, &[&[0, 1, 0, 3]]),
                M(Malformed::ReasonCode(3)),
            ),
            (
                "a code of 5",
                packet(0x90, &[&[0, 1, 0x87]]),
                M(Malformed::ReasonCode(0x87)),
            ),
            (
                "id 0",
                packet(0x90, &[&[0, 0, 0]]),
                M(Malformed::PacketIdZero),
            ),
            ("id 0", packet(0xB0, &[&[0, 0]]), M(Malformed::PacketIdZero)),
            (
                "codes in UNSUBACK",
                packet(0xB0, &[&[0, 1, 0]]),
                M(Malformed::RemainingLength),
            ),
        ],
    );
    let five = Accept::FromServer(V5);
    let because = properties(&[&property(0x1F, field("x")), &user("a", "b")]);
    accepts(
        five,
        &[
            ("one", packet(0x90, &[&[0, 1], NONE, &[2]])),
            (
                "with reason",
                packet(0x90, &[&[0, 1], &because, &[0, 1, 2, 0x80, 0x8F, 0xA2]]),
            ),
            ("unsuback", packet(0xB0, &[&[0, 1], NONE, &[0, 0x11, 0x8F]])),
            (
                "unsuback with reason",
                packet(0xB0, &[&[0, 1], &because, &[0x80]]),
            ),
        ],
    );
    refuses(
        five,
        &[
            (
                "no code",
                packet(0x90, &[&[0, 1], NONE]),
                Protocol(Violation::NoReasonCodes),
            ),
            (
                "no code",
                packet(0xB0, &[&[0, 1], NONE]),
                Protocol(Violation::NoReasonCodes),
            ),
            (
                "no properties",
                packet(0x90, &[&[0, 1]]),
                M(Malformed::Truncated),
            ),
            (
                "id 0",
                packet(0x90, &[&[0, 0], NONE, &[0]]),
                M(Malformed::PacketIdZero),
            ),
            (
                "id 0",
                packet(0xB0, &[&[0, 0], NONE, &[0]]),
                M(Malformed::PacketIdZero),
            ),
        ],
    );
}
