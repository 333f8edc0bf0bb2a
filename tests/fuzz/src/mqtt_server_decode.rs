//! What a gateway reads: anything a client may send, at any point of a connection.
//!
//! Input: a control byte, then the stream. Bits 0 and 1 say where the connection stands, bits 2
//! and 3 how large a packet may be; the rest varies how the stream is cut.
//!
//! Allocation: decoding none; see [`mqtt_stream`](crate::mqtt_stream).

use tidegate_mqtt::{Accept, Version};

use crate::mqtt_stream::{MAX_SIZES, Stream};

/// # Panics
///
/// If something does not hold.
pub fn run(data: &[u8]) {
    let Some((&control, wire)) = data.split_first() else {
        return;
    };
    let accept = match control & 3 {
        0 => Accept::Connect,
        1 => Accept::Authentication,
        2 => Accept::FromClient(Version::V311),
        _ => Accept::FromClient(Version::V5),
    };
    let max = MAX_SIZES[usize::from(control >> 2 & 3)];
    Stream {
        accept,
        max,
        stride: usize::from(control >> 4) + 1,
    }
    .judge(wire);
}
