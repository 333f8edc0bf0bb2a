//! What our own clients read: the load generator, the simulated device and the tests.
//!
//! Input and allocation as for [`mqtt_server_decode`](crate::mqtt_server_decode), at the other end.

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
        0 => Accept::ConnAck(Version::V311),
        1 => Accept::ConnAck(Version::V5),
        2 => Accept::FromServer(Version::V311),
        _ => Accept::FromServer(Version::V5),
    };
    let max = MAX_SIZES[usize::from(control >> 2 & 3)];
    Stream {
        accept,
        max,
        stride: usize::from(control >> 4) + 1,
    }
    .judge(wire);
}
