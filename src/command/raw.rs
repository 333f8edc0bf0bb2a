//! Commands as devices that sign nothing get them.

use bytes::Bytes;
use tidegate_wire::Payload;

/// The form for a device that knows no JSON: a string's own text, anything else as compact JSON, so
/// that `"turn_on"` becomes `turn_on` and `80` stays `80`. `None` for a string that JSON allows and
/// text does not (a lone surrogate).
#[must_use]
pub fn raw_form(payload: &Payload<'_>) -> Option<Bytes> {
    if payload.as_bytes().starts_with(b"\"") {
        return serde_json::from_slice::<String>(payload.as_bytes())
            .ok()
            .map(Bytes::from);
    }
    let mut compact = Vec::with_capacity(payload.as_bytes().len());
    payload.canonical(|piece| compact.extend_from_slice(piece));
    Some(compact.into())
}
