//! Rules 1 and 2: type and flag bits are judged on the first byte, the size before anything is
//! buffered, and nothing is reserved for an announced length.

use bytes::BytesMut;
use tidegate_mqtt::DecodeError::{Malformed as M, PacketTooLarge, Protocol};
use tidegate_mqtt::{Accept, DecodeError, Malformed, PacketType, Violation, frame};

use crate::common::{V5, V311, packet, variable};

const ALL: [Accept; 8] = [
    Accept::Connect,
    Accept::Authentication,
    Accept::FromClient(V311),
    Accept::FromClient(V5),
    Accept::ConnAck(V311),
    Accept::ConnAck(V5),
    Accept::FromServer(V311),
    Accept::FromServer(V5),
];

/// The first bytes that may come, in each state; PUBLISH as 30..=3D less DUP with QoS 0 and QoS 3.
fn allowed(accept: Accept) -> Vec<u8> {
    let publish = [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D];
    let acks = [0x40, 0x50, 0x62, 0x70];
    let both = [&publish[..], &acks].concat();
    match accept {
        Accept::Connect => vec![0x10],
        Accept::Authentication => vec![0xF0, 0xE0],
        Accept::FromClient(V311) => [&both[..], &[0x82, 0xA2, 0xC0, 0xE0]].concat(),
        Accept::FromClient(V5) => [&both[..], &[0x82, 0xA2, 0xC0, 0xE0, 0xF0]].concat(),
        Accept::ConnAck(V311) => vec![0x20],
        Accept::ConnAck(V5) => vec![0x20, 0xF0],
        Accept::FromServer(V311) => [&both[..], &[0x90, 0xB0, 0xD0]].concat(),
        Accept::FromServer(V5) => [&both[..], &[0x90, 0xB0, 0xD0, 0xE0, 0xF0]].concat(),
    }
}

#[test]
fn every_first_byte_is_judged_alone_in_every_state() {
    for accept in ALL {
        let allowed = allowed(accept);
        for byte in 0..=255 {
            let judged = frame(&[byte], u32::MAX, accept);
            if allowed.contains(&byte) {
                assert_eq!(judged, Ok(None), "{accept:?} {byte:#04x}");
            } else {
                assert!(judged.is_err(), "{accept:?} {byte:#04x}");
            }
        }
    }
}

#[test]
fn the_reason_for_refusing_a_first_byte_is_told() {
    let client = Accept::FromClient(V5);
    let rows = [
        (client, 0x00, M(Malformed::PacketType(0))),
        (client, 0x0F, M(Malformed::PacketType(0))),
        (Accept::FromClient(V311), 0xF0, M(Malformed::PacketType(15))),
        (Accept::FromServer(V311), 0xF0, M(Malformed::PacketType(15))),
        (client, 0x36, M(Malformed::QoS)),
        (client, 0x3F, M(Malformed::QoS)),
        (client, 0x38, M(Malformed::DupWithQoS0)),
        (client, 0x39, M(Malformed::DupWithQoS0)),
        (client, 0x60, M(Malformed::FixedHeaderFlags(0x60))),
        (client, 0x80, M(Malformed::FixedHeaderFlags(0x80))),
        (client, 0xA0, M(Malformed::FixedHeaderFlags(0xA0))),
        (client, 0x42, M(Malformed::FixedHeaderFlags(0x42))),
        (client, 0xC1, M(Malformed::FixedHeaderFlags(0xC1))),
        (Accept::Connect, 0x11, M(Malformed::FixedHeaderFlags(0x11))),
        (client, 0x10, Protocol(Violation::SecondConnect)),
        (
            Accept::Authentication,
            0x10,
            Protocol(Violation::SecondConnect),
        ),
        (
            Accept::Authentication,
            0x30,
            Protocol(Violation::UnexpectedPacket(PacketType::Publish)),
        ),
        (
            Accept::Connect,
            0x30,
            Protocol(Violation::ConnectExpected(PacketType::Publish)),
        ),
        (
            Accept::Connect,
            0xE0,
            Protocol(Violation::ConnectExpected(PacketType::Disconnect)),
        ),
        (
            client,
            0x20,
            Protocol(Violation::UnexpectedPacket(PacketType::ConnAck)),
        ),
        (
            client,
            0x90,
            Protocol(Violation::UnexpectedPacket(PacketType::SubAck)),
        ),
        (
            client,
            0xB0,
            Protocol(Violation::UnexpectedPacket(PacketType::UnsubAck)),
        ),
        (
            client,
            0xD0,
            Protocol(Violation::UnexpectedPacket(PacketType::PingResp)),
        ),
        (
            Accept::FromServer(V311),
            0xE0,
            Protocol(Violation::UnexpectedPacket(PacketType::Disconnect)),
        ),
        (
            Accept::FromServer(V5),
            0x20,
            Protocol(Violation::UnexpectedPacket(PacketType::ConnAck)),
        ),
    ];
    for (accept, byte, error) in rows {
        assert_eq!(
            frame(&[byte], u32::MAX, accept),
            Err(error),
            "{accept:?} {byte:#04x}"
        );
    }
}

#[test]
fn the_length_is_at_most_four_bytes_in_shortest_form() {
    let judge = |length: &[u8]| {
        frame(
            &[&[0x30], length].concat(),
            u32::MAX,
            Accept::FromClient(V311),
        )
        .map(|frame| frame.map(|frame| (frame.header_len(), frame.remaining_len())))
    };
    let good: [(&[u8], usize, usize); 8] = [
        (&[0x02], 2, 2),
        (&[0x7F], 2, 127),
        (&[0x80, 0x01], 3, 128),
        (&[0xFF, 0x7F], 3, 16_383),
        (&[0x80, 0x80, 0x01], 4, 16_384),
        (&[0xFF, 0xFF, 0x7F], 4, 2_097_151),
        (&[0x80, 0x80, 0x80, 0x01], 5, 2_097_152),
        (&[0xFF, 0xFF, 0xFF, 0x7F], 5, 268_435_455),
    ];
    for (length, header_len, remaining_len) in good {
        assert_eq!(
            judge(length),
            Ok(Some((header_len, remaining_len))),
            "{length:02x?}"
        );
        for cut in 0..length.len() {
            assert_eq!(
                judge(&length[..cut]),
                Ok(None),
                "{length:02x?} cut at {cut}"
            );
        }
    }
    let overlong: [&[u8]; 5] = [
        &[0x80, 0x00],
        &[0x82, 0x00],
        &[0x80, 0x80, 0x00],
        &[0xFF, 0xFF, 0x00],
        &[0xFF, 0xFF, 0xFF, 0x00],
    ];
    for length in overlong {
        assert_eq!(
            judge(length),
            Err(M(Malformed::OverlongInteger)),
            "{length:02x?}"
        );
    }
    for length in [[0x80; 4], [0xFF; 4]] {
        assert_eq!(judge(&length), Err(M(Malformed::VariableByteInteger)));
    }
}

#[test]
fn a_packet_over_the_limit_is_refused_by_its_header() {
    let accept = Accept::FromClient(V5);
    for total in [
        4_usize, 100, 129, 130, 131, 1_000, 16_385, 16_386, 16_387, 16_388, 100_000,
    ] {
        // Header and body that make up exactly `total` bytes, where there is such a packet.
        let Some(remaining) = (total.saturating_sub(5)..total)
            .find(|remaining| 1 + variable(*remaining).len() + remaining == total)
        else {
            continue;
        };
        let header = [vec![0x30], variable(remaining)].concat();
        let max = total as u32;
        assert!(
            matches!(frame(&header, max, accept), Ok(Some(_))),
            "{total}"
        );
        assert_eq!(
            frame(&header, max - 1, accept),
            Err(PacketTooLarge {
                size: max,
                max: max - 1
            }),
            "{total}"
        );
    }
}

#[test]
fn an_unfinished_length_that_can_only_be_too_large_is_refused() {
    let accept = Accept::Connect;
    let judge = |bytes: &[u8], max| frame(bytes, max, accept);
    // 10 80: at least 128 bytes of body behind a header of three.
    assert_eq!(judge(&[0x10, 0x80], 131), Ok(None));
    assert_eq!(
        judge(&[0x10, 0x80], 130),
        Err(PacketTooLarge {
            size: 131,
            max: 130
        })
    );
    assert_eq!(
        judge(&[0x10, 0xFF], 257),
        Err(PacketTooLarge {
            size: 258,
            max: 257
        })
    );
    assert_eq!(judge(&[0x10, 0xFF], 258), Ok(None));
    assert_eq!(judge(&[0x10, 0x80, 0x80], 16_388), Ok(None));
    assert!(judge(&[0x10, 0x80, 0x80], 16_387).is_err());
    assert_eq!(judge(&[0x10, 0x80, 0x80, 0x80], 2_097_157), Ok(None));
    assert!(judge(&[0x10, 0x80, 0x80, 0x80], 2_097_156).is_err());
    // The bound is never too strict: whatever is refused early is refused when complete.
    for remaining in [
        7, 127, 128, 255, 256, 16_383, 16_384, 70_000, 2_097_151, 2_097_152,
    ] {
        let header = [vec![0x10], variable(remaining)].concat();
        let total = (header.len() + remaining) as u32;
        for cut in 0..header.len() {
            assert_eq!(
                judge(&header[..cut], total),
                Ok(None),
                "{remaining} cut at {cut}"
            );
        }
    }
}

#[test]
fn lengths_a_type_cannot_have_are_refused_by_the_header() {
    let wrong = Err(M(Malformed::RemainingLength));
    let rows: [(Accept, u8, &[usize], &[usize]); 14] = [
        (Accept::Connect, 0x10, &[0, 1, 6], &[7, 12, 1000]),
        (Accept::FromClient(V311), 0xC0, &[1, 2, 100], &[0]),
        (Accept::FromClient(V5), 0xC0, &[1, 2, 100], &[0]),
        (Accept::FromServer(V5), 0xD0, &[1, 2, 100], &[0]),
        (Accept::FromClient(V311), 0xE0, &[1, 2, 100], &[0]),
        (Accept::FromClient(V311), 0x40, &[0, 1, 3, 4, 100], &[2]),
        (Accept::FromClient(V311), 0x50, &[0, 1, 3, 4, 100], &[2]),
        (Accept::FromClient(V311), 0x62, &[0, 1, 3, 4, 100], &[2]),
        (Accept::FromClient(V311), 0x70, &[0, 1, 3, 4, 100], &[2]),
        (Accept::FromClient(V5), 0x40, &[0, 1], &[2, 3, 4, 100]),
        (Accept::FromClient(V5), 0x82, &[0, 1], &[2, 100]),
        (Accept::ConnAck(V311), 0x20, &[0, 1, 3], &[2]),
        (Accept::ConnAck(V5), 0x20, &[0, 1, 2], &[3, 100]),
        (Accept::FromServer(V311), 0xB0, &[0, 1, 3], &[2]),
    ];
    for (accept, byte, bad, good) in rows {
        let judge = |len: &usize| frame(&[vec![byte], variable(*len)].concat(), u32::MAX, accept);
        for len in bad {
            assert_eq!(judge(len), wrong, "{accept:?} {byte:#04x} {len}");
        }
        for len in good {
            assert!(
                matches!(judge(len), Ok(Some(_))),
                "{accept:?} {byte:#04x} {len}"
            );
        }
    }
}

#[test]
fn nothing_is_reserved_for_an_announced_length() {
    let mut buf = BytesMut::with_capacity(64);
    // A PUBLISH of 256 MiB less one, of which nothing but the header has come.
    buf.extend_from_slice(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    let frame = frame(&buf, u32::MAX, Accept::FromClient(V5))
        .unwrap()
        .unwrap();
    assert_eq!(frame.total_len(), 268_435_460);
    assert_eq!(frame.body(&buf), None);
    assert_eq!(buf.capacity(), 64);
}

/// The proof that decoding cannot allocate is the compiler's: without `std` and `alloc` there is
/// nothing in the crate to allocate with, but for `BytesMut`, which only encoding names.
#[test]
fn the_crate_has_nothing_to_allocate_with() {
    let source = include_str!("../../src/lib.rs");
    assert!(source.contains("#![no_std]"));
    assert!(!source.contains("extern crate"));
    for decoder in [
        include_str!("../../src/read.rs"),
        include_str!("../../src/frame.rs"),
    ] {
        assert!(!decoder.contains("BytesMut"));
    }
}

#[test]
fn every_error_closes_and_has_a_reason() {
    let rows = [
        (M(Malformed::TrailingBytes), 0x81),
        (Protocol(Violation::NoFilters), 0x82),
        (PacketTooLarge { size: 2, max: 1 }, 0x95),
        (DecodeError::ProtocolName, 0x84),
        (DecodeError::TopicNameInvalid, 0x90),
        (DecodeError::TopicFilterInvalid, 0x8F),
        (DecodeError::TopicAliasInvalid, 0x94),
        (
            DecodeError::LimitExceeded(tidegate_mqtt::Limit::Filters),
            0x97,
        ),
    ];
    for (error, code) in rows {
        assert_eq!(error.reason().as_u8(), code);
        assert!(error.must_close());
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(size_of::<DecodeError>(), 12, "errors travel in registers");
}

#[test]
fn frame_and_decode_agree_on_what_belongs_together() {
    // A frame judged for one direction is not decoded as the other's.
    let wire = packet(0x20, &[&[0, 0, 0]]);
    let frame = frame(&wire, u32::MAX, Accept::ConnAck(V5))
        .unwrap()
        .unwrap();
    let body = frame.body(&wire).unwrap();
    assert_eq!(
        tidegate_mqtt::decode(V5, frame, body),
        Err(Protocol(Violation::UnexpectedPacket(PacketType::ConnAck)))
    );
    assert_eq!(
        tidegate_mqtt::Publish::decode(V5, tidegate_mqtt::Role::Client, frame, body),
        Err(Protocol(Violation::UnexpectedPacket(PacketType::ConnAck)))
    );
}
