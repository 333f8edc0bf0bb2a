//! A second opinion: whatever this codec accepts, rmqtt-codec accepts, and reads the same fields.
//!
//! It does not go the other way: rmqtt-codec accepts much that the specifications forbid, which is
//! why it is not what we use. Where it refuses what they allow, [`known_refusal`] says so.

use proptest::prelude::*;
use tidegate_mqtt::Accept;

use crate::common::{V5, V311, field, packet, take};
use crate::facts::{compare, known_refusal};
use crate::roundtrip::{damaged, valid};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn valid_packets_are_read_alike((accept, wire) in prop_oneof![valid(V311), valid(V5)]) {
        prop_assert!(compare(accept, &wire).map_err(TestCaseError::fail)?, "{:02x?}", wire);
    }

    #[test]
    fn damaged_packets_are_read_alike((accept, wire) in prop_oneof![damaged(V311), damaged(V5)]) {
        compare(accept, &wire).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn the_known_refusals_are_still_needed() {
    let connect = |level: u8, properties: &[u8]| {
        packet(
            0x10,
            &[&field("MQTT"), &[level, 0, 0, 0], properties, &field("")],
        )
    };
    let will = [
        &field("MQTT")[..],
        &[5, 6, 0, 0, 0, 0, 0],
        &[5, 2, 0, 0, 0, 0],
        &field("w"),
        &field(""),
    ];
    let rows = [
        (Accept::Connect, connect(4, &[])),
        (Accept::Connect, connect(5, &[0])),
        (Accept::Connect, packet(0x10, &will)),
        (
            Accept::FromClient(V5),
            packet(0x30, &[&field("t"), &[5, 2, 0, 0, 0, 0]]),
        ),
    ];
    for (accept, wire) in rows {
        let (any, _) = take(accept, u32::MAX, &wire)
            .expect("valid")
            .expect("whole");
        assert!(known_refusal(&any).is_some());
        assert!(
            compare(accept, &wire).is_ok_and(|accepted| accepted),
            "{wire:02x?}"
        );
    }
}
