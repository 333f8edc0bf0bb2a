//! A strict, sans-IO codec for MQTT 3.1.1 and 5.0.
//!
//! Reading what a stranger sends is what the gateway exists for, so this crate accepts what the
//! two specifications allow and nothing else, borrows everything it decodes, and holds no state.
//! Comments cite the OASIS documents: `[MQTT-3.1.0-1]` and "5.0 §3.1" are theirs.
//!
//! # The way of a packet
//!
//! ```text
//! read buffer ──frame()──▶ Frame ──body()──▶ &[u8] ──decode_connect()──▶ Connect
//!                judges type, flags                └──decode()─────────▶ ClientPacket
//!                and announced size
//! Publish, Ack, ConnAck, … ──encode(&Peer, &mut BytesMut)──▶ write buffer
//! ```
//!
//! 1. [`frame()`] looks at the first bytes of the buffer. It refuses a packet by its type, its flag
//!    bits or its announced size before any of the body has arrived, so nothing needs buffering
//!    for a packet that will not be taken. It reads a `&[u8]`, so it cannot reserve memory.
//! 2. [`decode_connect()`] and [`decode()`] read the body, all of it: bytes left over are malformed.
//!    The result borrows from the buffer; the crate is `no_std` without `alloc`, so decoding
//!    cannot allocate. What is kept beyond the read must be copied out by the caller.
//! 3. The same structures encode: what [`Publish`] decodes to is what [`Publish::encode`] takes.
//!    Sizes are computed exactly and first; nothing is written when encoding is refused.
//!
//! # Modules
//!
//! | module | what it holds |
//! |---|---|
//! | [`frame`](mod@frame) | the fixed header, and what may be sent when ([`Accept`]) |
//! | [`packet`] | one file per packet type, both directions in the same file |
//! | [`property`] | MQTT 5 properties: checked on decode, kept raw, read on demand |
//! | [`topic`] | topic names, filters, shared subscriptions, matching |
//! | [`reason`] | every reason code, and which packet may carry which |
//! | [`error`] | what went wrong and what to answer |
//!
//! Left to the session, because it needs state: QoS flows, packet identifiers in use, topic alias
//! tables, receive maximum, keep alive, empty client identifiers, quotas, authorisation.
//!
//! The cargo feature `client` adds the other half (encode what clients send, decode what servers
//! send), as strict as the first; load generators, simulated devices and tests use it.
//!
//! # Limits of our own
//!
//! The specifications allow more than anyone needs in three places; see [`MAX_FILTERS`],
//! [`property::MAX_USER_PROPERTIES`] and [`property::MAX_SUBSCRIPTION_IDENTIFIERS`].
#![no_std]

pub mod error;
pub mod frame;
pub mod packet;
pub mod property;
pub mod reason;
pub mod topic;

mod numbered;
mod read;
mod types;
mod write;

pub use error::{DecodeError, EncodeError, Limit, Malformed, Violation};
pub use frame::{Accept, Frame, PacketType, frame};
pub use packet::{
    ClientPacket,
    ack::{Ack, AckKind},
    auth::Auth,
    connack::ConnAck,
    connect::{Connect, Will, decode_connect},
    decode,
    disconnect::Disconnect,
    ping::{PINGREQ, PINGRESP},
    publish::Publish,
    suback::{SubAck, UnsubAck},
    subscribe::{
        Filters, MAX_FILTERS, RetainHandling, Subscribe, Subscription, TopicFilters, Unsubscribe,
    },
};
#[cfg(feature = "client")]
pub use packet::{ServerPacket, decode_from_server};
pub use property::{Property, PropertyBuf, PropertyId, PropertyScope, RawProperties};
pub use reason::ReasonCode;
pub use types::{MAX_REMAINING_LENGTH, Peer, QoS, Role, Version};
