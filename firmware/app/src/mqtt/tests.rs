//! The session against a server that reads what it is sent.

extern crate std;
use super::*;
use crate::telemetry::tests::reading;
use proptest::prelude::*;
use std::vec;
use tidegate_mqtt::{ClientPacket, ConnAck, SubAck, decode, decode_connect};

const DEVICE: &str = "sensor_001";

/// The other end: what it was sent, packet by packet.
#[derive(Default)]
struct Server {
    /// Packet identifier, DUP and payload of each PUBLISH on this connection.
    published: Vec<(NonZeroU16, bool, Vec<u8>)>,
    pings: usize,
}

impl Server {
    fn read(&mut self, out: &mut BytesMut) {
        let bytes = out.split();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let accept = if rest[0] >> 4 == 1 {
                Accept::Connect
            } else {
                Accept::FromClient(Version::V5)
            };
            let frame = frame(rest, u32::MAX, accept).unwrap().unwrap();
            let body = frame.body(rest).unwrap();
            if accept == Accept::Connect {
                let connect = decode_connect(body).unwrap();
                assert!(!connect.clean_start, "the session is to be kept");
                assert!(connect.properties.session_expiry_interval().unwrap() > 0);
            } else {
                match decode(Version::V5, frame, body).unwrap() {
                    ClientPacket::Publish(p) => {
                        self.published
                            .push((p.packet_id.unwrap(), p.dup, p.payload.to_vec()));
                    }
                    ClientPacket::PingReq => self.pings += 1,
                    _ => {}
                }
            }
            rest = &rest[frame.total_len()..];
        }
    }
}

fn packet(write: impl FnOnce(&Peer, &mut BytesMut) -> Result<usize, EncodeError>) -> BytesMut {
    let mut out = BytesMut::new();
    write(&Peer::client(Version::V5), &mut out).unwrap();
    out
}

fn connack(session_present: bool) -> BytesMut {
    packet(|peer, out| {
        ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties: RawProperties::EMPTY,
        }
        .encode(peer, out)
    })
}

fn puback(packet_id: NonZeroU16, reason: Option<Reason>) -> BytesMut {
    let mut properties = PropertyBuf::new();
    let mut ack = Ack::success(AckKind::PubAck, packet_id);
    if let Some(reason) = reason {
        properties
            .push(Property::ReasonString(reason.code()))
            .unwrap();
        ack.reason = ReasonCode::from_u8(reason.mqtt()).unwrap();
        ack.properties = properties.as_raw();
    }
    packet(|peer, out| ack.encode(peer, out))
}

fn session() -> Session {
    Session::new(DEVICE.try_into().unwrap())
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Connects at this time and says whether the server kept the session.
fn up(session: &mut Session, server: &mut Server, now: u64, kept: bool) {
    let mut out = BytesMut::new();
    server.published.clear();
    session.connect(at(now), None, &mut out).unwrap();
    server.read(&mut out);
    let answer = connack(kept);
    let event = session.receive(at(now), &answer, &mut out).unwrap();
    assert_eq!(event.unwrap().1, Event::Connected { resumed: kept });
    let suback = packet(|peer, out| {
        SubAck {
            packet_id: NonZeroU16::MIN,
            properties: RawProperties::EMPTY,
            codes: &[1, 1],
        }
        .encode(peer, out)
    });
    session
        .receive(at(now), &suback, &mut out)
        .unwrap()
        .unwrap();
    server.read(&mut out);
}

fn publish(session: &mut Session, server: &mut Server, number: u32, now: u64) {
    let mut out = BytesMut::new();
    let message = vec![number as u8; 10];
    session
        .publish(at(now), now, reading(number), message, &mut out)
        .unwrap();
    server.read(&mut out);
}

fn resend(session: &mut Session, server: &mut Server, now: u64) {
    let mut out = BytesMut::new();
    let fresh = |_: &Item| Some(vec![0xff; 10]);
    while session.resend(at(now), now, fresh, &mut out).unwrap() {}
    server.read(&mut out);
}

#[test]
fn what_was_not_acknowledged_is_sent_again_the_same() {
    let (mut session, mut server) = (session(), Server::default());
    up(&mut session, &mut server, 0, false);
    for number in 0..3 {
        publish(&mut session, &mut server, number, 0);
    }
    let first = server.published.clone();
    let mut out = BytesMut::new();
    let ack = puback(first[1].0, None);
    let (_, event) = session.receive(at(1), &ack, &mut out).unwrap().unwrap();
    assert_eq!(event, Event::Settled(reading(1), Verdict::Accepted));

    for kept in [true, false] {
        session.disconnected();
        up(&mut session, &mut server, 10, kept);
        assert!(!session.has_room(), "the old come first");
        resend(&mut session, &mut server, 10);
        let expected: Vec<_> = [&first[0], &first[2]]
            .map(|(id, _, message)| (*id, kept, message.clone()))
            .into();
        assert_eq!(server.published, expected, "marked if the session was kept");
        assert!(session.has_room());
    }
}

#[test]
fn what_was_signed_long_ago_is_signed_again() {
    let (mut session, mut server) = (session(), Server::default());
    up(&mut session, &mut server, 0, false);
    publish(&mut session, &mut server, 7, 0);
    session.disconnected();
    let later = RESIGN_AFTER_S + 1;
    up(&mut session, &mut server, later, true);
    resend(&mut session, &mut server, later);
    assert_eq!(server.published[0].2, [0xff; 10]);
}

#[test]
fn verdicts() {
    for (reason, expected) in [
        (None, Some(Verdict::Accepted)),
        (Some(Reason::Replayed), Some(Verdict::Known)),
        (Some(Reason::RateLimited), None),
        (Some(Reason::StaleTimestamp), None),
        (
            Some(Reason::BadSignature),
            Some(Verdict::Rejected(
                Some(Reason::BadSignature),
                ReasonCode::NotAuthorized,
            )),
        ),
    ] {
        let (mut session, mut server) = (session(), Server::default());
        up(&mut session, &mut server, 0, false);
        publish(&mut session, &mut server, 7, 0);
        let id = server.published[0].0;
        let ack = puback(id, reason);
        let mut out = BytesMut::new();
        let (_, event) = session.receive(at(1), &ack, &mut out).unwrap().unwrap();
        match expected {
            Some(verdict) => assert_eq!(event, Event::Settled(reading(7), verdict)),
            None => {
                assert_eq!(event, Event::Deferred(reason));
                server.published.clear();
                resend(&mut session, &mut server, 5);
                let (new, dup, message) = &server.published[0];
                assert!(*new != id && !dup, "a new transmission");
                assert_eq!(*message, [0xff; 10], "signed afresh");
            }
        }
    }
}

#[test]
fn a_silent_gateway_is_left() {
    let (mut session, mut server) = (session(), Server::default());
    up(&mut session, &mut server, 0, false);
    let mut out = BytesMut::new();
    let due = session.deadline();
    assert!(
        due < at(KEEP_ALIVE_S.into()),
        "before the keep alive has passed"
    );
    session
        .tick(due - Duration::from_millis(1), &mut out)
        .unwrap();
    server.read(&mut out);
    assert_eq!(server.pings, 0);
    session.tick(due, &mut out).unwrap();
    server.read(&mut out);
    assert_eq!(server.pings, 1);
    assert_eq!(session.deadline(), due + ANSWER);
    assert_eq!(
        session.tick(due + ANSWER, &mut out),
        Err(SessionError::Silent)
    );
    // The same for a message and for CONNECT.
    let mut session = self::session();
    session.connect(at(0), None, &mut out).unwrap();
    assert_eq!(session.tick(ANSWER, &mut out), Err(SessionError::Silent));
}

#[test]
fn another_devices_message_ends_the_connection() {
    let (mut session, mut server) = (session(), Server::default());
    up(&mut session, &mut server, 0, false);
    let message = |topic: &str| {
        packet(|peer, out| {
            Publish {
                dup: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                topic,
                packet_id: Some(NonZeroU16::MIN),
                properties: RawProperties::EMPTY,
                payload: b"{}",
            }
            .encode(peer, out)
        })
    };
    let mut out = BytesMut::new();
    for (topic, fine) in [
        ("device/sensor_001/command", true),
        ("device/sensor_002/command", false),
        ("free/topic", false),
    ] {
        let received = session.receive(at(0), &message(topic), &mut out).is_ok();
        assert_eq!(received, fine, "{topic}");
    }
}

proptest! {
    /// Any interleaving of messages, acknowledgements and lost connections: every message is
    /// settled once, none is forgotten, the window holds, identifiers are unique.
    #[test]
    fn every_message_is_settled_once(
        steps in proptest::collection::vec((0u8..4, any::<bool>()), 1..120),
    ) {
        let (mut session, mut server) = (session(), Server::default());
        up(&mut session, &mut server, 0, false);
        let (mut next, mut settled, mut now) = (0, Vec::new(), 0);
        for (step, flag) in steps {
            now += 1;
            match step {
                0 | 1 if session.has_room() => {
                    publish(&mut session, &mut server, next, now);
                    next += 1;
                }
                2 if !server.published.is_empty() => {
                    let index = if flag { 0 } else { server.published.len() - 1 };
                    let (id, ..) = server.published.remove(index);
                    let mut out = BytesMut::new();
                    if let (_, Event::Settled(item, _)) =
                        session.receive(at(now), &puback(id, None), &mut out).unwrap().unwrap()
                    {
                        settled.push(item.id);
                    }
                }
                3 => {
                    session.disconnected();
                    up(&mut session, &mut server, now, flag);
                    resend(&mut session, &mut server, now);
                }
                _ => {}
            }
            prop_assert!(session.in_flight() <= WINDOW);
            let mut ids: Vec<_> = server.published.iter().map(|p| p.0).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), server.published.len());
        }
        let mut all: Vec<_> = settled.iter().copied().chain(session.ids()).collect();
        all.sort();
        let expected: Vec<_> = (0..next).map(|n| reading(n).id).collect();
        prop_assert_eq!(all, expected, "each once");
    }

    #[test]
    fn whatever_comes_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut out = BytesMut::new();
        for connected in [false, true] {
            let mut session = session();
            if connected {
                up(&mut session, &mut Server::default(), 0, false);
            }
            let _ = session.receive(at(0), &bytes, &mut out);
        }
    }
}
