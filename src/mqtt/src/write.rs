//! Exact sizes first, then writes that cannot fail.

use bytes::{BufMut, BytesMut};

use crate::property::Section;
use crate::read::has_nul;
use crate::{EncodeError, MAX_REMAINING_LENGTH, PacketType, Peer};

/// Bytes a variable byte integer takes (5.0 §1.5.5).
#[inline]
pub(crate) const fn variable_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

#[inline]
pub(crate) fn put_variable(out: &mut BytesMut, mut value: u32) {
    loop {
        let digit = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(digit);
            return;
        }
        out.put_u8(digit | 0x80);
    }
}

/// Size of a string or binary field with its two-byte length.
#[inline]
pub(crate) fn field_len(bytes: &[u8]) -> Result<usize, EncodeError> {
    if bytes.len() > usize::from(u16::MAX) {
        return Err(EncodeError::FieldTooLong);
    }
    Ok(2 + bytes.len())
}

/// Size of a string field, which may not hold U+0000.
#[inline]
pub(crate) fn string_len(text: &str) -> Result<usize, EncodeError> {
    if has_nul(text.as_bytes()) {
        return Err(EncodeError::NulInString);
    }
    field_len(text.as_bytes())
}

/// Writes a field whose length `field_len` has checked.
#[inline]
pub(crate) fn put_field(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

/// Size of the whole packet with this remaining length.
#[inline]
pub(crate) const fn packet_len(remaining: usize) -> usize {
    1 + variable_len(remaining) + remaining
}

/// Checks the packet's size against the protocol's limit and the peer's, reserves exactly that
/// much and writes the fixed header. Returns the whole packet's size.
#[inline]
pub(crate) fn begin(
    out: &mut BytesMut,
    peer: &Peer,
    first_byte: u8,
    remaining: usize,
) -> Result<usize, EncodeError> {
    let size = packet_len(remaining);
    if remaining > MAX_REMAINING_LENGTH as usize {
        return Err(EncodeError::PacketTooLarge {
            size,
            max: MAX_REMAINING_LENGTH,
        });
    }
    if size > peer.max_packet_size as usize {
        return Err(EncodeError::PacketTooLarge {
            size,
            max: peer.max_packet_size,
        });
    }
    out.reserve(size);
    out.put_u8(first_byte);
    put_variable(out, remaining as u32);
    Ok(size)
}

/// The fullest property section with which the packet still fits the peer: as given, then without
/// user properties, then without the reason string as well (the rules "MUST NOT send this
/// property if it would increase the size … beyond the Maximum Packet Size" of 5.0 §3). What
/// else there is stays, and is for [`begin`] to refuse.
pub(crate) fn fit<'a>(
    peer: &Peer,
    kind: PacketType,
    mut section: Section<'a>,
    remaining: impl Fn(&Section<'a>) -> usize,
) -> Section<'a> {
    if !peer.problem_information && !matches!(kind, PacketType::ConnAck | PacketType::Disconnect) {
        section = section.without_user_properties().without_reason_string();
    }
    let fits =
        |section: &Section<'a>| packet_len(remaining(section)) <= peer.max_packet_size as usize;
    if !fits(&section) {
        section = section.without_user_properties();
    }
    if !fits(&section) {
        section = section.without_reason_string();
    }
    section
}
