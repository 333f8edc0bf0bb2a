//! What is remembered of updates, in the state partition: each record replaced whole or not at all.

use embedded_storage_async::nor_flash::NorFlash;

use crate::state::{State, StateError, VALUE as ROOM, key};

/// How far an image was downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The first half of the image's SHA-256: enough to tell which one it is, the whole is checked
    /// when it is complete.
    pub image: [u8; 16],
    /// Bytes of the slot that are written and stay.
    pub written: u32,
    /// How often this image was activated and did not start.
    pub activations: u8,
}

/// What became of an activated image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing is open.
    #[default]
    None,
    /// It was activated, or is about to be; it is on trial once it runs.
    Activated,
    /// It proved itself, and that is to be told.
    Confirmed,
    /// It was given up, and that is to be told.
    RolledBack(Fault),
}

/// Why an image was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It panicked.
    Crashed,
    /// The watchdog bit.
    Watchdog,
    /// It did not reach the gateway in time, or was restarted before.
    NotConfirmed,
}

impl Fault {
    /// As it is reported.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Watchdog => "watchdog",
            Self::NotConfirmed => "not_confirmed",
        }
    }
}

/// An activated image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trial {
    /// What became of it.
    pub phase: Phase,
    /// The slot it is in.
    pub slot: u8,
    /// How often it was started without having been confirmed.
    pub starts: u8,
    /// Of its manifest; becomes the device's when it is confirmed.
    pub security_version: u32,
    /// Of its manifest; 0 if it was not installed by this record's firmware.
    pub sequence: u64,
}

/// What the device never goes below: raised when an image is confirmed, and never lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// Of the release that runs; 0 if it was written by wire.
    pub sequence: u64,
    /// The highest that was ever confirmed.
    pub security_version: u32,
}

/// A release that was given up, and is not tried again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shunned {
    /// Which.
    pub sequence: u64,
    /// When, in seconds since 1970; 0 if that is not known yet.
    pub since: u64,
    /// How often.
    pub attempts: u8,
}

/// Seconds in a day.
const DAY: u64 = 24 * 60 * 60;

/// Attempts after which a release is tried again only on command.
const ATTEMPTS: u8 = 3;

impl Shunned {
    /// Whether the release may be tried again at `now`: after a day, after two more, then no more.
    #[must_use]
    pub fn may_try(&self, sequence: u64, now: u64) -> bool {
        self.sequence != sequence
            || self.attempts == 0
            || self.attempts < ATTEMPTS
                && self.since != 0
                && now >= self.since.saturating_add(u64::from(self.attempts) * DAY)
    }

    /// The release failed once more. `now` is 0 if the time is not known.
    #[must_use]
    pub const fn failed(&self, sequence: u64, now: u64) -> Self {
        let before = if self.sequence == sequence {
            self.attempts
        } else {
            0
        };
        Self {
            sequence,
            since: now,
            attempts: before.saturating_add(1),
        }
    }
}

/// A record of up to 64 bytes.
pub trait Record: Default {
    /// Under which key it is.
    const KEY: u8;

    /// Its bytes and how many there are.
    fn encode(&self) -> ([u8; ROOM], usize);

    /// Reads what [`encode`](Self::encode) wrote.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Reads a record; one that is not there or makes no sense is the default.
pub async fn load<R: Record, F: NorFlash>(state: &mut State<F>) -> R {
    let value = state.get(R::KEY).await;
    value
        .and_then(|value| R::decode(value.bytes()))
        .unwrap_or_default()
}

/// Replaces a record.
///
/// # Errors
///
/// [`StateError`]: the old one is still there.
pub async fn store<R: Record, F: NorFlash>(
    state: &mut State<F>,
    record: &R,
) -> Result<(), StateError> {
    let (bytes, len) = record.encode();
    state.set(R::KEY, bytes.get(..len).unwrap_or(&[])).await
}

/// Puts fields one after the other.
struct Fields([u8; ROOM], usize);

impl Fields {
    const fn new() -> Self {
        Self([0; ROOM], 0)
    }

    fn put(mut self, field: &[u8]) -> Self {
        if let Some(place) = self.0.get_mut(self.1..self.1 + field.len()) {
            place.copy_from_slice(field);
            self.1 += field.len();
        }
        self
    }

    const fn done(self) -> ([u8; ROOM], usize) {
        (self.0, self.1)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*field)
}

impl Record for Progress {
    const KEY: u8 = key::UPDATE_PROGRESS;

    fn encode(&self) -> ([u8; ROOM], usize) {
        Fields::new()
            .put(&self.image)
            .put(&self.written.to_le_bytes())
            .put(&[self.activations])
            .done()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let record = Self {
            image: take(&mut bytes)?,
            written: u32::from_le_bytes(take(&mut bytes)?),
            activations: u8::from_le_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(record)
    }
}

impl Record for Trial {
    const KEY: u8 = key::UPDATE_TRIAL;

    fn encode(&self) -> ([u8; ROOM], usize) {
        let phase = match self.phase {
            Phase::None => 0,
            Phase::Activated => 1,
            Phase::Confirmed => 2,
            Phase::RolledBack(Fault::Crashed) => 3,
            Phase::RolledBack(Fault::Watchdog) => 4,
            Phase::RolledBack(Fault::NotConfirmed) => 5,
        };
        Fields::new()
            .put(&[phase, self.slot, self.starts])
            .put(&self.security_version.to_le_bytes())
            .put(&self.sequence.to_le_bytes())
            .done()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let [phase, slot, starts] = take(&mut bytes)?;
        let record = Self {
            phase: match phase {
                0 => Phase::None,
                1 => Phase::Activated,
                2 => Phase::Confirmed,
                3 => Phase::RolledBack(Fault::Crashed),
                4 => Phase::RolledBack(Fault::Watchdog),
                5 => Phase::RolledBack(Fault::NotConfirmed),
                _ => return None,
            },
            slot,
            starts,
            security_version: u32::from_le_bytes(take(&mut bytes)?),
            sequence: u64::from_le_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(record)
    }
}

impl Record for Floor {
    const KEY: u8 = key::UPDATE_FLOOR;

    fn encode(&self) -> ([u8; ROOM], usize) {
        Fields::new()
            .put(&self.sequence.to_le_bytes())
            .put(&self.security_version.to_le_bytes())
            .done()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let record = Self {
            sequence: u64::from_le_bytes(take(&mut bytes)?),
            security_version: u32::from_le_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(record)
    }
}

impl Record for Shunned {
    const KEY: u8 = key::UPDATE_SHUNNED;

    fn encode(&self) -> ([u8; ROOM], usize) {
        Fields::new()
            .put(&self.sequence.to_le_bytes())
            .put(&self.since.to_le_bytes())
            .put(&[self.attempts])
            .done()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let record = Self {
            sequence: u64::from_le_bytes(take(&mut bytes)?),
            since: u64::from_le_bytes(take(&mut bytes)?),
            attempts: u8::from_le_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(record)
    }
}

/// The version of the image on trial, as it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionText {
    bytes: [u8; ROOM],
    len: usize,
}

impl VersionText {
    /// What does not fit is left out; a manifest's version always does.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; ROOM];
        let len = crate::text(&mut bytes, format_args!("{text}")).len();
        Self { bytes, len }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }
}

impl Default for VersionText {
    fn default() -> Self {
        Self::new("")
    }
}

/// A manifest's version fits.
const _: () = assert!(tidegate_wire::manifest::MAX_VERSION <= ROOM);

impl Record for VersionText {
    const KEY: u8 = key::UPDATE_VERSION;

    fn encode(&self) -> ([u8; ROOM], usize) {
        (self.bytes, self.len)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        core::str::from_utf8(bytes).ok().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    fn again<R: Record>(record: &R) -> Option<R> {
        let (bytes, len) = record.encode();
        assert_eq!(
            R::decode(&bytes[..len - 1]).is_some(),
            R::KEY == key::UPDATE_VERSION,
            "cut short"
        );
        R::decode(&bytes[..len])
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            image: [u8; 16], number: u32, sequence: u64, small: u8, phase in 0usize..6,
        ) {
            let progress = Progress { image, written: number, activations: small };
            prop_assert_eq!(again(&progress), Some(progress));
            let phase = [
                Phase::None,
                Phase::Activated,
                Phase::Confirmed,
                Phase::RolledBack(Fault::Crashed),
                Phase::RolledBack(Fault::Watchdog),
                Phase::RolledBack(Fault::NotConfirmed),
            ][phase];
            let trial = Trial {
                phase, slot: small % 2, starts: small, security_version: number, sequence,
            };
            prop_assert_eq!(again(&trial), Some(trial));
            let floor = Floor { sequence, security_version: number };
            prop_assert_eq!(again(&floor), Some(floor));
            let shunned = Shunned { sequence, since: sequence / 2, attempts: small };
            prop_assert_eq!(again(&shunned), Some(shunned));
            let version = VersionText::new("1.2.0-rc.1");
            prop_assert_eq!(again(&version), Some(version));
        }
    }

    #[test]
    fn a_release_that_failed_gets_two_more_chances_days_apart() {
        let shunned = Shunned::default();
        assert!(shunned.may_try(7, 0));
        let once = shunned.failed(7, 1000);
        assert!(once.may_try(8, 1000), "another release");
        assert!(!once.may_try(7, 1000 + DAY - 1));
        assert!(once.may_try(7, 1000 + DAY));
        let twice = once.failed(7, 2000);
        assert!(!twice.may_try(7, 2000 + 2 * DAY - 1));
        assert!(twice.may_try(7, 2000 + 2 * DAY));
        let thrice = twice.failed(7, 3000);
        assert!(!thrice.may_try(7, u64::MAX));
        assert_eq!(thrice.failed(8, 0).attempts, 1);
        assert!(
            !Shunned::default().failed(7, 0).may_try(7, u64::MAX),
            "unknown since when"
        );
    }
}
