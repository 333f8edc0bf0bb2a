//! Which commands were executed: none is twice, not even across a power loss.
//!
//! A command is claimed, in flash, before it is carried out, and settled after. Delivered again, a
//! settled one is only acknowledged again; one that was claimed and not settled was interrupted,
//! and is reported as failed rather than risked twice.

use embedded_storage_async::nor_flash::NorFlash;
use tidegate_wire::MessageId;
use tidegate_wire::command::Status;

use crate::state::{State, StateError, key};

/// Commands remembered. One is forgotten when its timestamp is too old for it to be accepted
/// again, so this bounds the commands in two freshness windows (ten minutes): more are refused.
pub const SLOTS: usize = 32;

/// Bytes of an entry: message id, timestamp, progress.
const ENTRY: usize = 16 + 8 + 1;

/// The commands executed lately.
#[derive(Debug, Clone)]
pub struct Executed {
    entries: [Option<Entry>; SLOTS],
    /// After the record was lost: commands signed before this are refused.
    not_before: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    id: MessageId,
    timestamp: u64,
    progress: Progress,
}

/// How far a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It was begun. If the device has started since, nobody knows how far it came.
    Claimed,
    /// It was carried out, or refused.
    Settled(Status),
}

/// What to do with a verified, fresh command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Carry it out; the record is in this slot.
    Execute(Slot),
    /// It was delivered before: acknowledge it again.
    Again(Progress),
    /// Too many commands in a short time: none can be forgotten yet.
    Full,
    /// The record of commands was lost, and this one is from before.
    Unknown,
}

/// Where a claimed command is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u8);

impl Default for Executed {
    fn default() -> Self {
        Self {
            entries: [None; SLOTS],
            not_before: None,
        }
    }
}

impl Executed {
    /// Reads the record.
    pub async fn load<F: NorFlash>(state: &mut State<F>) -> Self {
        let mut executed = Self::default();
        for (slot, entry) in (key::EXECUTED..).zip(&mut executed.entries) {
            *entry = state.get(slot).await.and_then(|v| Entry::decode(v.bytes()));
        }
        executed
    }

    /// The record was lost: nothing is taken until the time is known, and then only what is
    /// signed from then on.
    pub const fn lost(&mut self) {
        self.not_before = Some(u64::MAX);
    }

    /// The time is known from now on, in seconds since 1970; `tolerance_s` is how far the gateway's
    /// clock may be ahead of it.
    pub const fn time_is(&mut self, now: u64, tolerance_s: u64) {
        if let Some(u64::MAX) = self.not_before {
            self.not_before = Some(now.saturating_add(tolerance_s));
        }
    }

    /// Judges a command whose signature and freshness were checked, and claims a slot for it,
    /// which [`write`](Self::write) then makes durable.
    pub fn admit(
        &mut self,
        id: MessageId,
        timestamp: u64,
        now: u64,
        tolerance_s: u64,
    ) -> Admission {
        if let Some(entry) = self.entries.iter().flatten().find(|entry| entry.id == id) {
            return Admission::Again(entry.progress);
        }
        if self.not_before.is_some_and(|bound| timestamp <= bound) {
            return Admission::Unknown;
        }
        let expired = |entry: &Entry| entry.timestamp.saturating_add(tolerance_s) < now;
        let free = (0_u8..)
            .zip(&mut self.entries)
            .find(|(_, entry)| entry.as_ref().is_none_or(expired));
        let Some((slot, entry)) = free else {
            return Admission::Full;
        };
        *entry = Some(Entry {
            id,
            timestamp,
            progress: Progress::Claimed,
        });
        Admission::Execute(Slot(slot))
    }

    /// The command in this slot is done with.
    pub fn settle(&mut self, slot: Slot, status: Status) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(slot.0)) {
            entry.progress = Progress::Settled(status);
        }
    }

    /// Makes a slot durable.
    ///
    /// # Errors
    ///
    /// [`StateError`]: then the command must not be carried out.
    pub async fn write<F: NorFlash>(
        &self,
        slot: Slot,
        state: &mut State<F>,
    ) -> Result<(), StateError> {
        match self.entries.get(usize::from(slot.0)) {
            Some(Some(entry)) => state.set(key::EXECUTED + slot.0, &entry.encode()).await,
            _ => Ok(()),
        }
    }
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let (id, rest) = bytes.split_at_mut(16);
        let (timestamp, progress) = rest.split_at_mut(8);
        id.copy_from_slice(self.id.as_bytes());
        timestamp.copy_from_slice(&self.timestamp.to_le_bytes());
        progress.fill(match self.progress {
            Progress::Claimed => 0,
            Progress::Settled(Status::Done) => 1,
            Progress::Settled(Status::Failed) => 2,
        });
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let (timestamp, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            id: MessageId::from_bytes(*id),
            timestamp: u64::from_le_bytes(*timestamp),
            progress: match rest {
                [0] => Progress::Claimed,
                [1] => Progress::Settled(Status::Done),
                [2] => Progress::Settled(Status::Failed),
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::memory_flash::{MemoryFlash, every_power_loss, wait};
    use proptest::prelude::*;
    use std::vec::Vec;

    const TOLERANCE: u64 = 300;
    const NOW: u64 = 1_790_000_000;

    fn id(number: u128) -> MessageId {
        MessageId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn a_lost_record_takes_only_what_was_signed_after() {
        let mut executed = Executed::default();
        executed.lost();
        assert_eq!(
            executed.admit(id(1), NOW, NOW, TOLERANCE),
            Admission::Unknown
        );
        executed.time_is(NOW, TOLERANCE);
        executed.time_is(NOW - 900, TOLERANCE);
        let later = NOW + TOLERANCE + 1;
        assert_eq!(
            executed.admit(id(1), NOW + TOLERANCE, NOW, TOLERANCE),
            Admission::Unknown
        );
        assert!(matches!(
            executed.admit(id(2), later, later, TOLERANCE),
            Admission::Execute(_)
        ));
    }

    #[test]
    fn when_nothing_may_be_forgotten_nothing_is_taken() {
        let mut executed = Executed::default();
        for number in 0..SLOTS as u128 {
            assert!(matches!(
                executed.admit(id(number), NOW, NOW, TOLERANCE),
                Admission::Execute(_)
            ));
        }
        assert_eq!(
            executed.admit(id(99), NOW, NOW + TOLERANCE, TOLERANCE),
            Admission::Full
        );
        assert!(matches!(
            executed.admit(id(99), NOW, NOW + TOLERANCE + 1, TOLERANCE),
            Admission::Execute(_)
        ));
    }

    /// Carries out a command that moves `position`, with the power lost at each flash operation.
    #[test]
    fn a_command_is_executed_once_across_power_losses() {
        let position = core::cell::Cell::new(0);
        let execute = async |flash: MemoryFlash| {
            let mut state = State::open(flash).await?;
            let mut executed = Executed::load(&mut state).await;
            let admission = executed.admit(id(7), NOW, NOW, TOLERANCE);
            if let Admission::Execute(slot) = admission {
                executed.write(slot, &mut state).await?;
                position.set(position.get() + 1);
                executed.settle(slot, Status::Done);
                executed.write(slot, &mut state).await?;
            }
            Ok::<_, StateError>(admission)
        };
        let mut before = 0;
        every_power_loss(
            || MemoryFlash::multiwrite(2),
            async |flash| execute(flash).await.map(drop),
            |flash| {
                let moved = position.get() - before;
                let again = wait(execute(flash)).unwrap();
                match again {
                    Admission::Execute(_) => assert_eq!(moved, 0),
                    Admission::Again(Progress::Settled(Status::Done)) => assert_eq!(moved, 1),
                    Admission::Again(Progress::Claimed) => assert!(moved <= 1),
                    other => panic!("{other:?}"),
                }
                assert!(position.get() - before <= 1, "never twice");
                before = position.get();
            },
        );
    }

    proptest! {
        /// Whatever comes in whatever order, with restarts: what is fresh is executed once.
        #[test]
        fn nothing_is_executed_twice(
            deliveries in proptest::collection::vec((0u128..60, 0u64..40), 1..200),
        ) {
            let mut executed = Executed::default();
            let mut done = Vec::new();
            let mut now = NOW;
            let mut signed = std::collections::BTreeMap::new();
            for (number, pause) in deliveries {
                now += pause;
                let timestamp = *signed.entry(number).or_insert(now);
                if now - timestamp > TOLERANCE {
                    continue;
                }
                if let Admission::Execute(slot) = executed.admit(id(number), timestamp, now, TOLERANCE) {
                    prop_assert!(!done.contains(&number));
                    done.push(number);
                    executed.settle(slot, Status::Done);
                }
            }
        }
    }
}
