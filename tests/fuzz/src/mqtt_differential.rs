//! A second opinion: what our codec accepts, rmqtt-codec accepts, and finds the same in it.
//!
//! It does not go the other way, because rmqtt-codec accepts much that the specifications forbid;
//! where it refuses what they allow is listed beside the comparison, which the codec's own tests
//! use as well.
//!
//! Input: a control byte, whose lower three bits say who sends and when, then one packet.

use tidegate_mqtt::{Accept, Version};

use crate::facts::compare;

/// # Panics
///
/// If the two disagree.
pub fn run(data: &[u8]) {
    let Some((&control, wire)) = data.split_first() else {
        return;
    };
    let accept = match control & 7 {
        0 => Accept::Connect,
        1 => Accept::Authentication,
        2 => Accept::FromClient(Version::V311),
        3 => Accept::FromClient(Version::V5),
        4 => Accept::ConnAck(Version::V311),
        5 => Accept::ConnAck(Version::V5),
        6 => Accept::FromServer(Version::V311),
        _ => Accept::FromServer(Version::V5),
    };
    if let Err(difference) = compare(accept, wire) {
        panic!("{difference}");
    }
}
