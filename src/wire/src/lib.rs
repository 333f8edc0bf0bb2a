//! The wire contract of Tidegate: what devices, the gateway and backends say to each other.
//!
//! One implementation serves the gateway, which reads hundreds of thousands of messages a second,
//! and firmware that has no allocator: `no_std`, no allocation, no panics on any input, everything
//! borrowed from the message or written into a buffer the caller owns. It does no I/O and knows no
//! clock: time and randomness are arguments.
//!
//! # The map
//!
//! ```text
//!  bytes ──▶ envelope::Envelope::parse ──▶ Envelope ──verify(SigningKey)──▶ Verified<Envelope>
//!                 │ json (scanner)            │ canonical ─▶ signing (HMAC)
//!                 ▼                           ▼
//!             ParseError ─────────────▶ reason::Reason ◀── freshness::fresh, BadSignature
//!                                             │
//!                                             ▼ rejection(), log_line(), mqtt()
//!
//!  json::Payload::parse ──▶ draft::Draft ──sign_into(SigningKey)──▶ bytes
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`device_id`], [`message_id`] | identities, held inline |
//! | [`topic`] | the five topics of a device |
//! | [`envelope`] | a received message, claimed and then verified |
//! | [`draft`] | a message to be signed and sent |
//! | [`signing`] | keys, versions, directions, the signing input |
//! | [`json`] | what is JSON, strictly; looking into a payload |
//! | [`canonical`] | the form of a payload that is signed |
//! | [`freshness`] | whether a timestamp is from now |
//! | [`reason`] | why a message is refused, and how that is said |
//! | [`command`] | receiving a command, and its outcome |
//! | [`manifest`] | a firmware release: what it says, who signed it, who may install it |
//! | [`output`] | writing into a fixed buffer |
//! | [`limits`] | every bound, and why it is what it is |
//!
//! # Scratch slots
//!
//! Parsing and verifying take a `&mut [u64]` to note members in, so that duplicate members are
//! found and members sorted in O(n log n) time on any input without allocating. Make it once and
//! use it again: its contents mean nothing between calls. [`limits::slots_for`] says how long.
//!
//! # Example
//!
//! ```
//! use tidegate_wire::{Direction, Draft, Envelope, Limits, Payload, SigningKey, Version, fresh};
//!
//! let key = SigningKey::new(b"supersecretkey123")?;
//! let mut slots = [0; 64];
//!
//! // A device signs a reading …
//! let draft = Draft {
//!     version: Version::V2,
//!     device_id: &"sensor_001".try_into()?,
//!     timestamp: 1_727_712_000,
//!     message_id: "550e8400-e29b-41d4-a716-446655440000".try_into()?,
//!     payload: Payload::parse(br#"{"temperature":22.5}"#, &mut slots)?,
//! };
//! let mut buffer = [0; 512];
//! let len = draft.sign_into(&key, Direction::Up, &mut buffer)?;
//!
//! // … and the gateway reads it.
//! let envelope = Envelope::parse(&buffer[..len], &Limits::CONTRACT, &mut slots)
//!     .map_err(|refused| refused.reason())?;
//! assert!(fresh(envelope.timestamp(), 1_727_712_050, 300));
//! let verified = envelope.verify(&key, Direction::Up, &mut slots)?;
//! assert_eq!(verified.payload().as_str(), r#"{"temperature":22.5}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod canonical;
pub mod command;
pub mod device_id;
pub mod draft;
pub mod envelope;
pub mod freshness;
pub mod json;
pub mod limits;
pub mod manifest;
pub mod message_id;
pub mod output;
pub mod reason;
pub mod signing;
pub mod topic;

pub use device_id::DeviceId;
pub use draft::Draft;
pub use envelope::{BadSignature, Envelope, ParseError, Verified};
pub use freshness::fresh;
pub use json::Payload;
pub use limits::Limits;
pub use message_id::MessageId;
pub use reason::{Reason, rejection};
pub use signing::{Direction, SigningKey, Version};
pub use topic::{Channel, TopicBuf};
