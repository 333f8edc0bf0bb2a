//! What the codec costs per packet on this machine, beside rmqtt-codec in the same run:
//! `cargo run --release -p tidegate-mqtt --example decoding`.
//!
//! Decoding is measured on a read buffer of 64 QoS 1 PUBLISH packets of 350 bytes each. The
//! "refilled" figures include copying those into a `BytesMut` first, which rmqtt-codec cannot do
//! without, as it takes packets off the buffer.

use std::hint::black_box;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate_mqtt::{
    Accept, Ack, AckKind, ClientPacket, Peer, Publish, QoS, RawProperties, Version, decode, frame,
};
use tokio_util::codec::{Decoder, Encoder};

const PACKETS: usize = 64;
const PACKET_LEN: usize = 350;
/// Long enough for a steady figure, short enough to run beside other work.
const RUN: Duration = Duration::from_millis(600);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for version in [Version::V311, Version::V5] {
        let wire = packets(version)?;
        report(version, "decode PUBLISH, in place", || {
            decode_all(version, &wire)
        });
        let mut buf = BytesMut::with_capacity(wire.len());
        report(version, "decode PUBLISH, refilled", || {
            buf.clear();
            buf.extend_from_slice(&wire);
            decode_all(version, &buf)
        });
        match version {
            Version::V311 => {
                peer_decode(version, &wire, rmqtt_codec::v3::Codec::new(0));
            }
            Version::V5 => peer_decode(version, &wire, rmqtt_codec::v5::Codec::new(0, 0)),
        }
        encode_acks(version);
    }
    Ok(())
}

fn packets(version: Version) -> Result<BytesMut, tidegate_mqtt::EncodeError> {
    let payload = [b'x'; PACKET_LEN];
    let mut wire = BytesMut::new();
    for packet_id in (1..=PACKETS).filter_map(|id| NonZeroU16::new(id as u16)) {
        let publish = |payload| Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "device/sensor_001/data",
            packet_id: Some(packet_id),
            properties: RawProperties::EMPTY,
            payload,
        };
        let overhead =
            publish(&payload).encode(&Peer::server(version), &mut BytesMut::new())? - payload.len();
        let payload = payload.get(..PACKET_LEN - overhead).unwrap_or(&payload);
        let size = publish(payload).encode(&Peer::server(version), &mut wire)?;
        assert_eq!(size, PACKET_LEN);
    }
    Ok(wire)
}

fn decode_all(version: Version, mut rest: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(frame)) = frame(rest, 65_536, Accept::FromClient(version)) {
        let Some(body) = frame.body(rest) else { break };
        let Ok(ClientPacket::Publish(publish)) = decode(version, frame, body) else {
            break;
        };
        black_box(publish);
        count += 1;
        rest = rest.get(frame.total_len()..).unwrap_or_default();
    }
    count
}

fn peer_decode<C: Decoder>(version: Version, wire: &[u8], mut codec: C) {
    let mut buf = BytesMut::with_capacity(wire.len());
    report(version, "rmqtt-codec, refilled", || {
        buf.clear();
        buf.extend_from_slice(wire);
        let mut count = 0;
        while let Ok(Some(packet)) = codec.decode(&mut buf) {
            black_box(&packet);
            count += 1;
        }
        count
    });
}

fn encode_acks(version: Version) {
    let peer = Peer::client(version);
    let mut out = BytesMut::with_capacity(4096);
    report(version, "encode PUBACK", || {
        out.clear();
        for packet_id in (1..=PACKETS).filter_map(|id| NonZeroU16::new(id as u16)) {
            let ack = Ack::success(AckKind::PubAck, black_box(packet_id));
            if ack.encode(&peer, &mut out).is_err() {
                return 0;
            }
        }
        black_box(&out);
        PACKETS
    });
    report(version, "rmqtt-codec encode PUBACK", || {
        out.clear();
        for packet_id in (1..=PACKETS).filter_map(|id| NonZeroU16::new(id as u16)) {
            let packet_id = black_box(packet_id);
            let done = match version {
                Version::V311 => rmqtt_codec::v3::Codec::new(0)
                    .encode(rmqtt_codec::v3::Packet::PublishAck { packet_id }, &mut out),
                Version::V5 => rmqtt_codec::v5::Codec::new(0, 0).encode(
                    rmqtt_codec::v5::Packet::PublishAck(rmqtt_codec::v5::PublishAck {
                        packet_id,
                        reason_code: rmqtt_codec::v5::PublishAckReason::Success,
                        properties: Vec::new(),
                        reason_string: None,
                    }),
                    &mut out,
                ),
            };
            if done.is_err() {
                return 0;
            }
        }
        black_box(&out);
        PACKETS
    });
}

/// Runs `batch`, which says how many packets it did, and prints the time for one: the best of six
/// slices, as other work on the machine only ever adds to it.
fn report(version: Version, what: &str, mut batch: impl FnMut() -> usize) {
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let (mut packets, start) = (0, Instant::now());
        while start.elapsed() < RUN / 6 {
            let done = batch();
            assert_eq!(done, PACKETS, "{what}: a packet was refused");
            packets += done;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / packets as f64);
    }
    let version = format!("{version:?}");
    println!(
        "{version:<4}  {what:<26} {best:7.1} ns  {:6.1} M/s",
        1000.0 / best
    );
}
