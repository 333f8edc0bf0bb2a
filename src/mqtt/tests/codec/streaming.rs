//! However the network cuts a stream, the same packets come out.

use proptest::collection::vec;
use proptest::prelude::*;
use tidegate_mqtt::{Accept, DecodeError, Version};

use crate::common::{Any, V5, V311, encode, take};
use crate::roundtrip::valid_from_client;

/// Feeds `chunks` one after the other, taking packets off as they are complete; every packet is
/// encoded again, so that it can outlive the buffer.
fn read<'c>(
    version: Version,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> Result<Vec<Vec<u8>>, DecodeError> {
    let (mut buf, mut packets) = (Vec::new(), Vec::new());
    for chunk in chunks {
        buf.extend_from_slice(chunk);
        let mut done = 0;
        while let Some((any, len)) = take(Accept::FromClient(version), 65_536, &buf[done..])? {
            assert!(matches!(any, Any::Client(_)));
            packets.push(encode(version, &any).expect("what was read can be written"));
            done += len;
        }
        buf.drain(..done);
    }
    assert!(buf.is_empty(), "{} bytes left over", buf.len());
    Ok(packets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn split_at_every_byte(
        (version, packets) in prop_oneof![Just(V311), Just(V5)]
            .prop_flat_map(|v| (Just(v), vec(valid_from_client(v).prop_map(|(_, wire)| wire), 1..6))),
    ) {
        let wire = packets.concat();
        let whole = read(version, [&wire[..]]);
        prop_assert_eq!(whole.as_ref(), Ok(&packets));
        let single = read(version, wire.chunks(1));
        prop_assert_eq!(single.as_ref(), Ok(&packets));
        for at in 0..=wire.len() {
            let (head, tail) = wire.split_at(at);
            let split = read(version, [head, tail]);
            prop_assert_eq!(split.as_ref(), Ok(&packets), "split at {}", at);
        }
    }
}

#[test]
fn a_bad_packet_ends_the_stream_wherever_it_is_cut() {
    // PINGREQ, then a PUBLISH to a wild card.
    let wire = b"\xC0\0\x30\x04\0\x01#x";
    for at in 0..=wire.len() {
        let (head, tail) = wire.split_at(at);
        assert_eq!(
            read(V311, [head, tail]),
            Err(DecodeError::TopicNameInvalid),
            "cut at {at}"
        );
    }
}
