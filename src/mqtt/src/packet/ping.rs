//! PINGREQ and PINGRESP (3.1.1 and 5.0 §3.12, §3.13): two bytes each, always the same.

/// A whole PINGREQ.
pub const PINGREQ: &[u8] = &[0xC0, 0x00];

/// A whole PINGRESP.
pub const PINGRESP: &[u8] = &[0xD0, 0x00];
