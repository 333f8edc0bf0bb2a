//! Properties on their way out.

use bytes::{BufMut, BytesMut};

use super::build::{put, value_len};
use super::{Property, PropertyId, PropertyScope, RawProperties};
use crate::write::{put_variable, variable_len};
use crate::{EncodeError, Version};

/// Properties as they will be written: all of them, or some left out to fit the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    raw: RawProperties<'a>,
    /// Mask of identifiers left out.
    dropped: u64,
    len: usize,
}

impl<'a> Section<'a> {
    /// All of `raw`, which must belong in `scope`.
    #[inline]
    pub(crate) fn new(raw: RawProperties<'a>, scope: PropertyScope) -> Result<Self, EncodeError> {
        raw.check(scope)?;
        Ok(Self {
            raw,
            dropped: 0,
            len: raw.bytes.len(),
        })
    }

    /// As [`Section::new`]; 3.1.1 has no properties, so nothing is checked there.
    #[inline]
    pub(crate) fn for_version(
        version: Version,
        raw: RawProperties<'a>,
        scope: PropertyScope,
    ) -> Result<Self, EncodeError> {
        match version {
            Version::V311 => Self::new(RawProperties::EMPTY, scope),
            Version::V5 => Self::new(raw, scope),
        }
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size with the length prefix, or 0 in 3.1.1.
    #[inline]
    pub(crate) const fn len_in(&self, version: Version) -> usize {
        match version {
            Version::V311 => 0,
            Version::V5 => self.total_len(),
        }
    }

    /// Writes the section, or nothing in 3.1.1.
    #[inline]
    pub(crate) fn put_in(&self, version: Version, out: &mut BytesMut) {
        if version == Version::V5 {
            self.put(out);
        }
    }

    /// Size with the length prefix.
    #[inline]
    pub(crate) const fn total_len(&self) -> usize {
        variable_len(self.len) + self.len
    }

    pub(crate) fn without_user_properties(self) -> Self {
        self.without(PropertyId::UserProperty)
    }

    pub(crate) fn without_reason_string(self) -> Self {
        self.without(PropertyId::ReasonString)
    }

    fn without(mut self, id: PropertyId) -> Self {
        if self.raw.contains(id) && self.dropped & id.bit() == 0 {
            self.dropped |= id.bit();
            self.len = self
                .kept()
                .map(|property| 1 + value_len(&property).unwrap_or(0))
                .sum();
        }
        self
    }

    fn kept(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let dropped = self.dropped;
        self.raw
            .iter()
            .filter(move |property| property.id().bit() & dropped == 0)
    }

    /// Writes length prefix and properties.
    #[inline]
    pub(crate) fn put(&self, out: &mut BytesMut) {
        put_variable(out, self.len as u32);
        if self.dropped == 0 {
            out.put_slice(self.raw.bytes);
        } else {
            for property in self.kept() {
                put(out, &property);
            }
        }
    }
}
