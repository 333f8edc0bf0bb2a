//! SUBSCRIBE and UNSUBSCRIBE (3.1.1 and 5.0 §3.8, §3.10).

use core::num::NonZeroU16;

use super::connect::read_properties;
use crate::read::Reader;
use crate::topic::{self, TopicFilter};
use crate::{DecodeError, Limit, Malformed, PropertyScope, QoS, RawProperties, Version, Violation};
#[cfg(feature = "client")]
use crate::{
    EncodeError, PacketType, Peer, Role,
    property::Section,
    write::{begin, put_field},
};
#[cfg(feature = "client")]
use bytes::{BufMut, BytesMut};

/// Most filters taken in one SUBSCRIBE or UNSUBSCRIBE. The specification sets no bound, and each
/// filter costs the server state and a look through retained messages. Home Assistant, the
/// widest batching client in use, sends up to 500 at a time.
pub const MAX_FILTERS: usize = 512;

/// Subscription options (5.0 §3.8.3.1).
mod option {
    pub(super) const QOS: u8 = 0b11;
    pub(super) const NO_LOCAL: u8 = 1 << 2;
    pub(super) const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
    pub(super) const RETAIN_HANDLING_SHIFT: u8 = 4;
    pub(super) const RESERVED: u8 = 0b1100_0000;
    /// In 3.1.1 everything but the QoS (3.1.1 `[MQTT-3-8.3-4]`).
    pub(super) const RESERVED_V311: u8 = 0b1111_1100;
}

/// When a subscription is sent retained messages (5.0 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// Whenever it is made. 3.1.1 knows only this.
    #[default]
    Send = 0,
    /// When it did not exist before.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// One subscription asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subscription<'a> {
    /// A valid topic filter, in MQTT 5 possibly a shared one: see
    /// [`TopicFilter::parse`](crate::topic::TopicFilter::parse).
    pub filter: &'a str,
    /// The highest QoS to be sent messages with.
    pub qos: QoS,
    /// Not to be sent what this client published itself. `false` in 3.1.1.
    pub no_local: bool,
    /// To be sent the retain flag as published. `false` in 3.1.1.
    pub retain_as_published: bool,
    /// When to be sent retained messages.
    pub retain_handling: RetainHandling,
}

impl<'a> Subscription<'a> {
    /// A subscription as 3.1.1 knows it.
    #[must_use]
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    #[inline]
    fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let (filter, shared) = read_filter(reader, version)?;
        let options = reader.u8()?;
        let reserved = match version {
            Version::V311 => option::RESERVED_V311,
            Version::V5 => option::RESERVED,
        };
        if options & reserved != 0 {
            return Err(Malformed::SubscriptionOptions.into());
        }
        let qos = QoS::from_bits(options & option::QOS).ok_or(Violation::SubscriptionQoS)?;
        let retain_handling = match (options >> option::RETAIN_HANDLING_SHIFT) & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Violation::RetainHandling.into()),
        };
        let no_local = options & option::NO_LOCAL != 0;
        if no_local && shared {
            return Err(Violation::NoLocalOnShared.into());
        }
        Ok(Self {
            filter,
            qos,
            no_local,
            retain_as_published: options & option::RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }
}

/// A valid filter, and whether it is shared.
#[inline]
fn read_filter<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<(&'a str, bool), DecodeError> {
    let filter = reader.string()?;
    is_shared(version, filter)
        .map(|shared| (filter, shared))
        .ok_or(DecodeError::TopicFilterInvalid)
}

/// Whether a filter is shared, or `None` if it is invalid; 3.1.1 knows no shared ones.
#[inline]
fn is_shared(version: Version, filter: &str) -> Option<bool> {
    match version {
        Version::V311 => topic::valid_filter(filter).then_some(false),
        Version::V5 => TopicFilter::parse(filter).map(|parsed| parsed.share.is_some()),
    }
}

/// A request to be sent messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// To be answered with.
    pub packet_id: NonZeroU16,
    /// Subscription identifier and user properties. Empty in 3.1.1.
    pub properties: RawProperties<'a>,
    /// 1 to [`MAX_FILTERS`] subscriptions.
    pub filters: Filters<'a>,
}

impl<'a> Subscribe<'a> {
    /// Decodes the body and checks every filter.
    ///
    /// # Errors
    ///
    /// Packet identifier 0, no filter or too many, an invalid filter, reserved options, bad
    /// properties.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = read_properties(&mut reader, version, PropertyScope::Subscribe)?;
        let bytes = reader.rest();
        let count = count(&mut reader, |reader| {
            Subscription::read(reader, version).map(drop)
        })?;
        let filters = Filters(Entries::Received {
            bytes,
            version,
            count,
        });
        Ok(Self {
            packet_id,
            properties,
            filters,
        })
    }
}

/// A request to be sent no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// To be answered with.
    pub packet_id: NonZeroU16,
    /// User properties. Empty in 3.1.1.
    pub properties: RawProperties<'a>,
    /// 1 to [`MAX_FILTERS`] filters.
    pub filters: TopicFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// Decodes the body and checks every filter.
    ///
    /// # Errors
    ///
    /// Packet identifier 0, no filter or too many, an invalid filter, bad properties.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = read_properties(&mut reader, version, PropertyScope::Unsubscribe)?;
        let bytes = reader.rest();
        let count = count(&mut reader, |reader| read_filter(reader, version).map(drop))?;
        let filters = TopicFilters(Entries::Received {
            bytes,
            version,
            count,
        });
        Ok(Self {
            packet_id,
            properties,
            filters,
        })
    }
}

/// Reads entries to the end of the body: at least one, at most [`MAX_FILTERS`].
fn count<'a>(
    reader: &mut Reader<'a>,
    read: impl Fn(&mut Reader<'a>) -> Result<(), DecodeError>,
) -> Result<usize, DecodeError> {
    let mut count = 0;
    while !reader.is_empty() {
        if count == MAX_FILTERS {
            return Err(DecodeError::LimitExceeded(Limit::Filters));
        }
        read(reader)?;
        count += 1;
    }
    if count == 0 {
        Err(Violation::NoFilters.into())
    } else {
        Ok(count)
    }
}

/// Entries as received and checked, or as given for sending.
#[derive(Debug, Clone, Copy)]
enum Entries<'a, T> {
    Received {
        bytes: &'a [u8],
        version: Version,
        count: usize,
    },
    Given(&'a [T]),
}

impl<'a, T: Copy> Entries<'a, T> {
    const fn len(&self) -> usize {
        match self {
            Self::Received { count, .. } => *count,
            Self::Given(list) => list.len(),
        }
    }

    /// The next entry, as `read` reads a received one. Those were checked, so `ok` hides no error.
    #[inline]
    fn next(
        &mut self,
        read: impl Fn(&mut Reader<'a>, Version) -> Result<T, DecodeError>,
    ) -> Option<T> {
        match self {
            Self::Received {
                bytes,
                version,
                count,
            } => {
                let mut reader = Reader::new(bytes);
                let entry = read(&mut reader, *version).ok()?;
                *bytes = reader.rest();
                *count = count.saturating_sub(1);
                Some(entry)
            }
            Self::Given(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
        }
    }
}

macro_rules! entries {
    ($(#[$doc:meta])* $name:ident, $iter:ident, $item:ty, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name<'a>(Entries<'a, $item>);

        impl<'a> $name<'a> {
            /// How many.
            #[must_use]
            pub const fn len(&self) -> usize {
                self.0.len()
            }

            /// Never true of a decoded packet.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// In the order sent, which is the order to answer in.
            #[must_use]
            pub const fn iter(&self) -> $iter<'a> {
                $iter(self.0)
            }
        }

        /// For sending; checked when encoded.
        impl<'a> From<&'a [$item]> for $name<'a> {
            fn from(list: &'a [$item]) -> Self {
                Self(Entries::Given(list))
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }

        impl Eq for $name<'_> {}

        impl<'a> IntoIterator for &$name<'a> {
            type Item = $item;
            type IntoIter = $iter<'a>;

            fn into_iter(self) -> $iter<'a> {
                self.iter()
            }
        }

        #[doc = concat!("Iterator over [`", stringify!($name), "`].")]
        #[derive(Debug, Clone)]
        pub struct $iter<'a>(Entries<'a, $item>);

        impl<'a> Iterator for $iter<'a> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                self.0.next($read)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.0.len(), Some(self.0.len()))
            }
        }

        impl ExactSizeIterator for $iter<'_> {}
    };
}

entries! {
    /// The subscriptions of a [`Subscribe`].
    Filters, Subscriptions, Subscription<'a>, Subscription::read
}

entries! {
    /// The filters of an [`Unsubscribe`].
    TopicFilters, TopicFilterIter, &'a str,
    |reader, version| read_filter(reader, version).map(|(filter, _)| filter)
}

#[cfg(feature = "client")]
impl Subscribe<'_> {
    /// Appends the packet and returns its size. In 3.1.1 properties and the options other than
    /// QoS are not written.
    ///
    /// # Errors
    ///
    /// [`EncodeError::TopicFilterInvalid`]; [`EncodeError::Inconsistent`] for no filters, No Local
    /// on a shared one, or a peer that is a client; [`EncodeError::LimitExceeded`]; properties
    /// that do not belong; a packet too large.
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let section =
            Section::for_version(peer.version, self.properties, PropertyScope::Subscribe)?;
        let mut remaining = 2 + section.len_in(peer.version);
        judge_list(peer, self.filters.len())?;
        for subscription in &self.filters {
            let shared = is_shared(peer.version, subscription.filter)
                .ok_or(EncodeError::TopicFilterInvalid)?;
            if shared && subscription.no_local {
                return Err(EncodeError::Inconsistent);
            }
            remaining += 3 + subscription.filter.len();
        }
        let size = begin(out, peer, PacketType::Subscribe.first_byte(), remaining)?;
        out.put_u16(self.packet_id.get());
        section.put_in(peer.version, out);
        for subscription in &self.filters {
            put_field(out, subscription.filter.as_bytes());
            let mut options = subscription.qos.as_u8();
            if peer.version == Version::V5 {
                options |= if subscription.no_local {
                    option::NO_LOCAL
                } else {
                    0
                };
                options |= if subscription.retain_as_published {
                    option::RETAIN_AS_PUBLISHED
                } else {
                    0
                };
                options |= (subscription.retain_handling as u8) << option::RETAIN_HANDLING_SHIFT;
            }
            out.put_u8(options);
        }
        Ok(size)
    }
}

#[cfg(feature = "client")]
impl Unsubscribe<'_> {
    /// Appends the packet and returns its size. Properties are not written in 3.1.1.
    ///
    /// # Errors
    ///
    /// As for [`Subscribe::encode`].
    pub fn encode(&self, peer: &Peer, out: &mut BytesMut) -> Result<usize, EncodeError> {
        let section =
            Section::for_version(peer.version, self.properties, PropertyScope::Unsubscribe)?;
        let mut remaining = 2 + section.len_in(peer.version);
        judge_list(peer, self.filters.len())?;
        for filter in &self.filters {
            is_shared(peer.version, filter).ok_or(EncodeError::TopicFilterInvalid)?;
            remaining += 2 + filter.len();
        }
        let size = begin(out, peer, PacketType::Unsubscribe.first_byte(), remaining)?;
        out.put_u16(self.packet_id.get());
        section.put_in(peer.version, out);
        for filter in &self.filters {
            put_field(out, filter.as_bytes());
        }
        Ok(size)
    }
}

#[cfg(feature = "client")]
fn judge_list(peer: &Peer, len: usize) -> Result<(), EncodeError> {
    if len == 0 || peer.role == Role::Client {
        return Err(EncodeError::Inconsistent);
    }
    if len > MAX_FILTERS {
        return Err(EncodeError::LimitExceeded(Limit::Filters));
    }
    Ok(())
}
