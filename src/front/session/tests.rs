//! The protocol state without sockets: what goes in, what comes out.

use bytes::Bytes;
use tidegate_mqtt::{
    Accept, Property, PropertyBuf, Publish, QoS, RawProperties, ServerPacket, decode_from_server,
    frame,
};

use super::*;
use crate::{
    clock::UnixMillis,
    front::{message::Source, subscription::Subscription},
};

const NOW: UnixMillis = UnixMillis(1_000_000);

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn subscription(qos: QoS) -> Subscription {
    Subscription {
        filter: "t".into(),
        qos,
        no_local: false,
        retain_as_published: false,
        identifier: None,
    }
}

/// A session with room for two messages either way.
fn session(version: Version, durable: bool) -> Session {
    let terms = Terms {
        version,
        peer: Peer::client(version),
        durable,
        receive_maximum: 2,
        window: 2,
        number: 1,
        sent_through: 0,
    };
    let mut subscriptions = Subscriptions::default();
    subscriptions.insert(subscription(QoS::ExactlyOnce));
    Session::new(terms, subscriptions, &[])
}

fn incoming(qos: QoS, number: u16) -> Publish<'static> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: "t",
        packet_id: (qos > QoS::AtMostOnce).then(|| id(number)),
        properties: RawProperties::EMPTY,
        payload: b"p",
    }
}

fn message(qos: QoS) -> Message {
    Message {
        source: Source::Client,
        ..Message::from_gateway("t", Bytes::from_static(b"p"), qos)
    }
}

fn waiting(seq: i64, qos: u8) -> Waiting {
    Waiting {
        seq,
        qos,
        received: false,
        retain: false,
        topic: "t".to_owned(),
        payload: b"p".to_vec(),
        properties: Vec::new(),
        expires_at: None,
    }
}

/// What a client would read: kind, QoS or reason, identifier, DUP.
fn read(version: Version, out: &mut BytesMut) -> Vec<String> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Some(frame) = frame(&out[at..], u32::MAX, Accept::FromServer(version)).unwrap() {
        let body = frame.body(&out[at..]).unwrap();
        lines.push(match decode_from_server(version, frame, body).unwrap() {
            ServerPacket::Publish(publish) => format!(
                "PUBLISH {} {}{}",
                publish.qos.as_u8(),
                publish.packet_id.map_or(0, NonZeroU16::get),
                if publish.dup { " dup" } else { "" }
            ),
            ServerPacket::Ack(ack) => {
                format!("{:?} {} {:#x}", ack.kind, ack.packet_id, ack.reason.as_u8())
            }
            other => format!("{other:?}"),
        });
        at += frame.total_len();
    }
    out.clear();
    lines
}

#[test]
fn the_receive_maximum_counts_what_is_not_answered_for_good() {
    let mut out = BytesMut::new();
    let mut five = session(Version::V5, false);
    assert_eq!(
        five.publish(&incoming(QoS::AtLeastOnce, 1)),
        Ok(Inbound::New(None))
    );
    assert_eq!(
        five.publish(&incoming(QoS::ExactlyOnce, 2)),
        Ok(Inbound::New(None))
    );
    assert_eq!(
        five.publish(&incoming(QoS::AtMostOnce, 0)),
        Ok(Inbound::New(None))
    );
    five.answer(id(1), QoS::AtLeastOnce, ReasonCode::Success, &mut out);
    five.answer(id(2), QoS::ExactlyOnce, ReasonCode::Success, &mut out);
    assert_eq!(
        five.publish(&incoming(QoS::AtLeastOnce, 3)),
        Ok(Inbound::New(None))
    );
    assert_eq!(
        five.publish(&incoming(QoS::AtLeastOnce, 4)),
        Err(Breach::ReceiveMaximum),
        "PUBREC does not end the exchange"
    );
    assert_eq!(
        read(Version::V5, &mut out),
        ["PubAck 1 0x0", "PubRec 2 0x0"]
    );

    // A refused one ends there, in MQTT 5.
    let mut five = session(Version::V5, false);
    for number in 1..=9 {
        five.publish(&incoming(QoS::ExactlyOnce, number)).unwrap();
        five.refuse(
            id(number),
            QoS::ExactlyOnce,
            ReasonCode::NotAuthorized,
            "no",
            &mut out,
        );
    }
    assert_eq!(read(Version::V5, &mut out).last().unwrap(), "PubRec 9 0x87");
    assert_eq!(
        five.pubrel(id(9)),
        Ok(Release::Now(ReasonCode::PacketIdentifierNotFound))
    );

    // 3.1.1 knows no receive maximum.
    let mut three = session(Version::V311, false);
    for number in 1..=100 {
        three.publish(&incoming(QoS::AtLeastOnce, number)).unwrap();
    }
}

#[test]
fn qos_2_from_the_peer() {
    let mut out = BytesMut::new();
    let mut session = session(Version::V311, true);
    let publish = incoming(QoS::ExactlyOnce, 7);
    assert_eq!(session.publish(&publish), Ok(Inbound::New(None)));
    assert_eq!(
        session.publish(&publish),
        Ok(Inbound::Again { answered: false })
    );
    assert_eq!(session.pubrel(id(7)), Err(Breach::EarlyRelease));
    session.taken_on_disk(id(7));
    session.answer(id(7), QoS::ExactlyOnce, ReasonCode::Success, &mut out);
    assert_eq!(
        session.publish(&publish),
        Ok(Inbound::Again { answered: true })
    );
    assert_eq!(session.pubrel(id(7)), Ok(Release::AfterCommit));
    assert_eq!(session.progress.released, [7]);
    session.pubcomp(id(7), ReasonCode::Success, &mut out);
    assert_eq!(
        session.publish(&publish),
        Ok(Inbound::New(None)),
        "a new message"
    );
    assert_eq!(
        read(Version::V311, &mut out),
        ["PubRec 7 0x0", "PubComp 7 0x0"]
    );
}

#[test]
fn messages_wait_for_the_window_in_order() {
    let mut out = BytesMut::new();
    let mut session = session(Version::V5, false);
    for qos in [
        QoS::AtLeastOnce,
        QoS::ExactlyOnce,
        QoS::AtLeastOnce,
        QoS::AtMostOnce,
    ] {
        session.mailbox().push_back(message(qos));
    }
    session.pump(NOW, 1 << 16, &mut out);
    assert_eq!(read(Version::V5, &mut out), ["PUBLISH 1 1", "PUBLISH 2 2"]);
    assert_eq!(
        session.pubrec(id(2), ReasonCode::Success),
        Received::Now(ReasonCode::Success)
    );
    session.pump(NOW, 1 << 16, &mut out);
    assert!(out.is_empty(), "PUBREC frees no room");
    session.completed(id(2));
    session.pump(NOW, 1 << 16, &mut out);
    assert_eq!(read(Version::V5, &mut out), ["PUBLISH 1 3", "PUBLISH 0 0"]);
    // Unknown and wrong ones change nothing.
    session.puback(id(99));
    session.completed(id(1));
    assert_eq!(
        session.pubrec(id(50), ReasonCode::Success),
        Received::Now(ReasonCode::PacketIdentifierNotFound)
    );
    session.mailbox().push_back(message(QoS::AtLeastOnce));
    session.pump(NOW, 1 << 16, &mut out);
    assert!(out.is_empty());
    session.puback(id(1));
    session.pump(NOW, 1 << 16, &mut out);
    assert_eq!(read(Version::V5, &mut out), ["PUBLISH 1 4"]);
}

#[test]
fn queued_messages_keep_their_identifiers_and_volatile_ones_keep_away() {
    let mut out = BytesMut::new();
    let mut resumed = session(Version::V311, true);
    resumed.terms.sent_through = 4;
    resumed.terms.window = 10;
    resumed.queue(vec![
        Waiting {
            received: true,
            ..waiting(3, 2)
        },
        waiting(4, 2),
        waiting(5, 1),
        Waiting {
            expires_at: Some(1),
            ..waiting(6, 1)
        },
    ]);
    resumed
        .mailbox()
        .push_back(Message::from_gateway("t", Bytes::new(), QoS::ExactlyOnce));
    let pumped = resumed.pump(NOW, 1 << 16, &mut out);
    assert_eq!(
        read(Version::V311, &mut out),
        [
            "PubRel 3 0x0",
            "PUBLISH 2 4 dup",
            "PUBLISH 1 5",
            "PUBLISH 1 32768"
        ]
    );
    assert_eq!((pumped.sent, pumped.expired), (3, 1));
    assert_eq!(
        resumed.pubrec(id(4), ReasonCode::Success),
        Received::AfterCommit
    );
    resumed.completed(id(3));
    resumed.puback(id(5));
    assert_eq!(resumed.progress.done, [6, 3, 5]);
    assert_eq!(resumed.progress.received, [4]);
    assert_eq!(resumed.progress.sent_through, Some(5));
}

#[test]
fn topic_aliases() {
    let mut session = session(Version::V5, false);
    let mut with = |alias: u16, topic: &'static str| {
        let mut properties = PropertyBuf::new();
        properties.push(Property::TopicAlias(id(alias))).unwrap();
        let plain = incoming(QoS::AtMostOnce, 0);
        session.publish(&Publish {
            topic,
            properties: properties.as_raw(),
            ..plain
        })
    };
    assert_eq!(with(1, ""), Err(Breach::UnknownTopicAlias));
    assert_eq!(with(17, "t"), Err(Breach::TopicAlias), "over the maximum");
    assert_eq!(with(16, "t"), Ok(Inbound::New(None)));
    assert_eq!(with(16, ""), Ok(Inbound::New(Some("t".into()))));
    assert_eq!(with(16, "u"), Ok(Inbound::New(None)), "redefined");
    assert_eq!(with(16, ""), Ok(Inbound::New(Some("u".into()))));
}

#[test]
fn a_command_is_delivered_when_it_is_acknowledged_or_cannot_be() {
    let mut out = BytesMut::new();
    let mut session = session(Version::V5, false);
    let [one, two] = [1, 2].map(|byte| MessageId::from_bytes([byte; 16]));
    let command = |id| Message {
        source: Source::Command(id),
        ..Message::from_gateway("t", Bytes::from_static(b"c"), QoS::AtLeastOnce)
    };
    session.mailbox().push_back(command(one));
    session.pump(NOW, 1 << 16, &mut out);
    assert!(session.delivered.is_empty());
    session.puback(id(1));
    assert_eq!(session.delivered, [one]);
    session.subscriptions.insert(subscription(QoS::AtMostOnce));
    session.mailbox().push_back(command(two));
    session.pump(NOW, 1 << 16, &mut out);
    assert_eq!(
        session.delivered,
        [one, two],
        "QoS 0 has no acknowledgement"
    );
}
