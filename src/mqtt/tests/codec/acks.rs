//! PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT, AUTH, PINGREQ (§3.4 to §3.7, §3.12, §3.14, §3.15).

use tidegate_mqtt::DecodeError::{LimitExceeded, Malformed as M, Protocol};
use tidegate_mqtt::{
    Accept, Ack, AckKind, ClientPacket, Disconnect, Limit, Malformed, PropertyId, ReasonCode,
    Violation,
};

use crate::common::{
    Any, NONE, V5, V311, VERSIONS, accepts, field, one, packet, properties, property, refuses, user,
};

const ACKS: [(u8, AckKind); 4] = [
    (0x40, AckKind::PubAck),
    (0x50, AckKind::PubRec),
    (0x62, AckKind::PubRel),
    (0x70, AckKind::PubComp),
];

#[test]
fn acknowledgements_in_3_1_1_are_four_bytes() {
    for (first, kind) in ACKS {
        for accept in [Accept::FromClient(V311), Accept::FromServer(V311)] {
            accepts(
                accept,
                &[
                    ("id 1", packet(first, &[&[0, 1]])),
                    ("id 65535", packet(first, &[&[255, 255]])),
                ],
            );
            refuses(
                accept,
                &[
                    (
                        "id 0",
                        packet(first, &[&[0, 0]]),
                        M(Malformed::PacketIdZero),
                    ),
                    ("empty", packet(first, &[]), M(Malformed::RemainingLength)),
                    (
                        "half",
                        packet(first, &[&[1]]),
                        M(Malformed::RemainingLength),
                    ),
                    (
                        "reason",
                        packet(first, &[&[0, 1, 0]]),
                        M(Malformed::RemainingLength),
                    ),
                    (
                        "as in 5",
                        packet(first, &[&[0, 1, 0, 0]]),
                        M(Malformed::RemainingLength),
                    ),
                ],
            );
        }
        let wire = packet(first, &[&[0x12, 0x34]]);
        let Ok(Any::Client(ClientPacket::Ack(ack))) = one(Accept::FromClient(V311), &wire) else {
            panic!("an acknowledgement");
        };
        assert_eq!(ack, Ack::success(kind, 0x1234.try_into().unwrap()));
    }
}

#[test]
fn acknowledgements_in_5() {
    let because = property(0x1F, field("because"));
    for (first, kind) in ACKS {
        let failure = if first < 0x60 { 0x97 } else { 0x92 };
        let p = |rest: &[&[u8]]| packet(first, &[&[0, 1], &rest.concat()]);
        for accept in [Accept::FromClient(V5), Accept::FromServer(V5)] {
            accepts(
                accept,
                &[
                    ("short", p(&[])),
                    ("failure without properties", p(&[&[failure]])),
                    ("reason string", p(&[&[failure], &properties(&[&because])])),
                    (
                        "success with reason string",
                        p(&[&[0], &properties(&[&because])]),
                    ),
                    (
                        "all",
                        p(&[
                            &[failure],
                            &properties(&[&user("a", "b"), &because, &user("a", "b")]),
                        ]),
                    ),
                    (
                        "64 user properties",
                        p(&[&[0], &properties(&[&user("", "").repeat(64)])]),
                    ),
                ],
            );
            // Forms that say the same at more length.
            for longer in [p(&[&[0]]), p(&[&[0], NONE])] {
                let short = p(&[]);
                assert_eq!(one(accept, &longer), one(accept, &short), "{longer:02x?}");
            }
            assert_eq!(
                one(accept, &p(&[&[failure], NONE])),
                one(accept, &p(&[&[failure]]))
            );
            refuses(
                accept,
                &[
                    (
                        "id 0",
                        packet(first, &[&[0, 0]]),
                        M(Malformed::PacketIdZero),
                    ),
                    (
                        "id 0 and more",
                        packet(first, &[&[0, 0, 0, 0]]),
                        M(Malformed::PacketIdZero),
                    ),
                    ("empty", packet(first, &[]), M(Malformed::RemainingLength)),
                    (
                        "half",
                        packet(first, &[&[1]]),
                        M(Malformed::RemainingLength),
                    ),
                    (
                        "trailing",
                        p(&[&[0], NONE, &[0]]),
                        M(Malformed::TrailingBytes),
                    ),
                    (
                        "cut off",
                        p(&[&[0], &[5], &because]),
                        M(Malformed::Truncated),
                    ),
                    (
                        "property length alone",
                        p(&[&[0], &[5]]),
                        M(Malformed::Truncated),
                    ),
                    (
                        "unfinished length",
                        p(&[&[0], &[0x80]]),
                        M(Malformed::Truncated),
                    ),
                    (
                        "overlong length",
                        p(&[&[0], &[0x80, 0]]),
                        M(Malformed::OverlongInteger),
                    ),
                    (
                        "two reason strings",
                        p(&[&[0], &properties(&[&because, &because])]),
                        Protocol(Violation::DuplicateProperty(PropertyId::ReasonString)),
                    ),
                    (
                        "65 user properties",
                        p(&[&[0], &properties(&[&user("", "").repeat(65)])]),
                        LimitExceeded(Limit::UserProperties),
                    ),
                    (
                        "NUL",
                        p(&[&[0], &properties(&[&property(0x1F, field("\0"))])]),
                        M(Malformed::NulInString),
                    ),
                ],
            );
        }
        let wire = p(&[&[failure], &properties(&[&because])]);
        let Ok(Any::Client(ClientPacket::Ack(ack))) = one(Accept::FromClient(V5), &wire) else {
            panic!("an acknowledgement");
        };
        assert_eq!((ack.kind, ack.packet_id.get()), (kind, 1));
        assert_eq!(ack.reason.as_u8(), failure);
        assert_eq!(ack.properties.reason_string(), Some("because"));
    }
}

#[test]
fn disconnect() {
    accepts(Accept::FromClient(V311), &[("3.1.1", vec![0xE0, 0])]);
    refuses(
        Accept::FromClient(V311),
        &[(
            "3.1.1 with a reason",
            vec![0xE0, 1, 0],
            M(Malformed::RemainingLength),
        )],
    );
    let expiry = property(0x11, [0, 0, 0, 9]);
    let because = property(0x1F, field("enough"));
    let elsewhere = property(0x1C, field("other.example"));
    let p = |rest: &[&[u8]]| packet(0xE0, rest);
    for accept in [Accept::FromClient(V5), Accept::FromServer(V5)] {
        accepts(
            accept,
            &[
                ("normal", p(&[])),
                ("reason", p(&[&[0x82]])),
                ("reason string", p(&[&[0], &properties(&[&because])])),
                (
                    "user properties",
                    p(&[&[0x81], &properties(&[&user("a", ""), &user("a", "")])]),
                ),
            ],
        );
        for longer in [p(&[&[0]]), p(&[&[0], NONE])] {
            assert_eq!(one(accept, &longer), one(accept, &p(&[])));
        }
        refuses(
            accept,
            &[
                (
                    "trailing",
                    p(&[&[0], NONE, &[0]]),
                    M(Malformed::TrailingBytes),
                ),
                ("cut off", p(&[&[0], &[3]]), M(Malformed::Truncated)),
                ("unknown reason", p(&[&[0x05]]), M(Malformed::ReasonCode(5))),
                (
                    "alias",
                    p(&[&[0], &properties(&[&property(0x23, [0, 1])])]),
                    Protocol(Violation::PropertyNotAllowed(PropertyId::TopicAlias)),
                ),
            ],
        );
    }
    let (server_only, client_only) = (
        p(&[&[0x9C], &properties(&[&elsewhere])]),
        p(&[&[0x04], &properties(&[&expiry])]),
    );
    accepts(Accept::FromServer(V5), &[("elsewhere", server_only)]);
    accepts(
        Accept::FromClient(V5),
        &[("with will", client_only.clone())],
    );
    refuses(
        Accept::FromClient(V5),
        &[
            (
                "a client knows no other server",
                p(&[&[0], &properties(&[&elsewhere])]),
                Protocol(Violation::PropertyNotAllowed(PropertyId::ServerReference)),
            ),
            (
                "a client does not shut down",
                p(&[&[0x8B]]),
                M(Malformed::ReasonCode(0x8B)),
            ),
        ],
    );
    refuses(
        Accept::FromServer(V5),
        &[
            (
                "a server has no will",
                p(&[&[0x04]]),
                M(Malformed::ReasonCode(4)),
            ),
            (
                "a server has no session to expire",
                p(&[&[0], &properties(&[&expiry])]),
                Protocol(Violation::PropertyNotAllowed(
                    PropertyId::SessionExpiryInterval,
                )),
            ),
        ],
    );
    let Ok(Any::Client(ClientPacket::Disconnect(Disconnect { reason, properties }))) =
        one(Accept::Authentication, &client_only)
    else {
        panic!("a DISCONNECT");
    };
    assert_eq!(reason, ReasonCode::DisconnectWithWill);
    assert_eq!(properties.session_expiry_interval(), Some(9));
}

#[test]
fn auth() {
    let method = property(0x15, field("SCRAM-SHA-256"));
    let data = property(0x16, field([0, 1, 2]));
    let because = property(0x1F, field("why"));
    let p = |reason: u8, list: &[&[u8]]| packet(0xF0, &[&[reason], &properties(list)]);
    for (accept, codes, wrong) in [
        (Accept::FromClient(V5), [0x18, 0x19], [0x00, 0x01]),
        (Accept::Authentication, [0x18, 0x19], [0x00, 0x80]),
        (Accept::FromServer(V5), [0x00, 0x18], [0x19, 0x87]),
        (Accept::ConnAck(V5), [0x00, 0x18], [0x19, 0xFF]),
    ] {
        let missing = Protocol(Violation::PropertyMissing(PropertyId::AuthenticationMethod));
        for code in codes {
            accepts(
                accept,
                &[
                    ("method", p(code, &[&method])),
                    ("method and data", p(code, &[&method, &data])),
                    ("data and method", p(code, &[&data, &method])),
                    (
                        "all",
                        p(
                            code,
                            &[&user("a", "b"), &because, &method, &data, &user("a", "b")],
                        ),
                    ),
                ],
            );
            refuses(
                accept,
                &[
                    ("no method", p(code, &[]), missing),
                    ("data without method", p(code, &[&data]), missing),
                    (
                        "reason string without method",
                        p(code, &[&because]),
                        missing,
                    ),
                    (
                        "reason alone",
                        packet(0xF0, &[&[code]]),
                        M(Malformed::Truncated),
                    ),
                    (
                        "two methods",
                        p(code, &[&method, &method]),
                        Protocol(Violation::DuplicateProperty(
                            PropertyId::AuthenticationMethod,
                        )),
                    ),
                    (
                        "trailing",
                        packet(0xF0, &[&[code], &properties(&[&method]), &[0]]),
                        M(Malformed::TrailingBytes),
                    ),
                ],
            );
        }
        for code in wrong {
            let error = M(Malformed::ReasonCode(code));
            refuses(accept, &[("wrong reason", p(code, &[&method]), error)]);
        }
    }
    // Success in its short form: only a server grants it.
    accepts(Accept::FromServer(V5), &[("success", vec![0xF0, 0])]);
    let not_theirs = M(Malformed::ReasonCode(0));
    refuses(
        Accept::FromClient(V5),
        &[("success", vec![0xF0, 0], not_theirs)],
    );
}

#[test]
fn ping() {
    for version in VERSIONS {
        accepts(Accept::FromClient(version), &[("request", vec![0xC0, 0])]);
        accepts(Accept::FromServer(version), &[("response", vec![0xD0, 0])]);
        let wrong = M(Malformed::RemainingLength);
        refuses(
            Accept::FromClient(version),
            &[("body", vec![0xC0, 1, 0], wrong)],
        );
        refuses(
            Accept::FromServer(version),
            &[("body", vec![0xD0, 1, 0], wrong)],
        );
    }
}
