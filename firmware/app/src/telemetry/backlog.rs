//! Readings in flash: what did not fit into RAM while the gateway was away.

use alloc::collections::VecDeque;
use core::time::Duration;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use sequential_storage::Error;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::queue::{QueueConfig, QueueStorage};
use tidegate_wire::{Channel, MessageId};

use super::{Item, MAX_PAYLOAD, Moment};
use crate::time::{WallClock, millis};

/// Id and time.
const HEAD: usize = 16 + 8;
const MAX_RECORD: usize = HEAD + MAX_PAYLOAD;

/// The largest write unit the queue knows; its buffer must hold whole ones.
const BUFFER: usize = MAX_RECORD.next_multiple_of(32);

/// The buffer partition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BacklogError {
    /// It is too small, or not made of whole pages.
    #[error("buffer partition must be two erase pages or more: check the partition table")]
    Partition,
    /// It cannot be read or written.
    #[error("buffer partition cannot be accessed: the flash may be worn out")]
    Flash,
}

/// Set in a stored time that is not one of day but since start, because the former was not known or
/// not confirmed: then the lowest 40 bits are milliseconds (34 years) and the 23 between say which start.
const SINCE_START: u64 = 1 << 63;
const UPTIME_BITS: u32 = 40;
const UPTIME: u64 = (1 << UPTIME_BITS) - 1;

/// Readings in the order they were taken. A reading leaves when it was acknowledged, or as the
/// oldest of a full partition: flash is erased by pages, so with it go the others of its page.
#[expect(missing_debug_implementations, reason = "the queue has none")]
pub struct Backlog<F: MultiwriteNorFlash> {
    queue: QueueStorage<F, Cache<Uncached, Uncached, Uncached, ()>>,
    /// The oldest of them that were taken to be sent, and what became of each. What is in flash is
    /// found by its id and never by counting: an operation that was given up half way, because the
    /// connection it was for broke, may or may not have reached the flash.
    taken: VecDeque<Taken>,
    /// How many are there that were not taken.
    waiting: u32,
    /// Which start of the device this is.
    start: u64,
    /// How many had to go since this was last asked.
    lost: u32,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    /// `None` for a record that is none of ours.
    id: Option<MessageId>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    OnItsWay,
    Settled,
    /// It can never be sent.
    Useless,
}

impl<F: MultiwriteNorFlash> Backlog<F> {
    /// Opens the partition. One that makes no sense is erased: it holds nothing that could be
    /// sent. `start` is a random number that tells this start of the device from others.
    ///
    /// # Errors
    ///
    /// [`BacklogError`]
    pub async fn open(flash: F, start: u32) -> Result<Self, BacklogError> {
        let end = flash.capacity() - flash.capacity() % F::ERASE_SIZE;
        if end < 2 * F::ERASE_SIZE {
            return Err(BacklogError::Partition);
        }
        let config = QueueConfig::try_new(0..end as u32).map_err(|_| BacklogError::Partition)?;
        let mut backlog = Self {
            queue: QueueStorage::new(flash, config, Cache::new_uncached()),
            taken: VecDeque::new(),
            waiting: 0,
            start: u64::from(start) & (UPTIME >> 17),
            lost: 0,
        };
        if backlog.count().await.is_err() {
            backlog.erase().await?;
        }
        Ok(backlog)
    }

    async fn count(&mut self) -> Result<(), BacklogError> {
        let mut buffer = [0; BUFFER];
        let mut iterator = self.queue.iter().await.map_err(|_| BacklogError::Flash)?;
        while iterator
            .next(&mut buffer)
            .await
            .map_err(|_| BacklogError::Flash)?
            .is_some()
        {
            self.waiting += 1;
        }
        Ok(())
    }

    /// Whether there is nothing to send that was not taken already.
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many readings had to go since this was last asked: from a full partition, from one that
    /// failed, and those of an earlier start that never learnt the time.
    pub const fn take_lost(&mut self) -> u32 {
        let lost = self.lost;
        self.lost = 0;
        lost
    }

    /// Gives up what is in flash: it cannot be read.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it cannot be erased either.
    pub async fn erase(&mut self) -> Result<(), BacklogError> {
        self.lost += self.waiting;
        self.waiting = 0;
        self.taken.clear();
        self.queue
            .erase_all()
            .await
            .map_err(|_| BacklogError::Flash)
    }

    /// Adds a reading; the oldest make room for it.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it was not added.
    pub async fn push(&mut self, item: &Item, clock: &WallClock) -> Result<(), BacklogError> {
        let mut record = [0; BUFFER];
        let len = HEAD + item.payload.len();
        let (id, rest) = record.split_at_mut(16);
        let (time, rest) = rest.split_at_mut(8);
        id.copy_from_slice(item.id.as_bytes());
        time.copy_from_slice(&self.time(item.moment, clock).to_le_bytes());
        match rest.get_mut(..item.payload.len()) {
            Some(room) => room.copy_from_slice(&item.payload),
            None => return Err(BacklogError::Flash),
        }
        let record = record.get(..len).unwrap_or(&[]);
        loop {
            match self.queue.push(record, false).await {
                Ok(()) => {
                    self.waiting += 1;
                    return Ok(());
                }
                Err(Error::FullStorage) => self.make_room().await?,
                Err(_) => return Err(BacklogError::Flash),
            }
        }
    }

    /// Adds a reading that is on its way already, so that it outlasts a restart. There must be none
    /// that waits: it would be younger.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it was not added.
    pub async fn push_taken(&mut self, item: &Item, clock: &WallClock) -> Result<(), BacklogError> {
        self.push(item, clock).await?;
        self.waiting = self.waiting.saturating_sub(1);
        self.taken.push_back(Taken {
            id: Some(item.id),
            fate: Fate::OnItsWay,
        });
        Ok(())
    }

    async fn make_room(&mut self) -> Result<(), BacklogError> {
        let mut buffer = [0; BUFFER];
        let oldest = self.queue.pop(&mut buffer).await;
        let oldest = oldest
            .map_err(|_| BacklogError::Flash)?
            .ok_or(BacklogError::Flash)?;
        let id = id(oldest);
        match self.taken.iter().position(|taken| taken.id == id) {
            // One that is being sent is not lost.
            Some(at) => {
                let taken = self.taken.remove(at);
                if taken.is_some_and(|taken| taken.fate == Fate::Useless) {
                    self.lost += 1;
                }
            }
            None => {
                self.lost += 1;
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// A moment as it is stored.
    fn time(&self, moment: Moment, clock: &WallClock) -> u64 {
        let confirmed = moment.wall(clock).filter(|_| clock.is_confirmed());
        match (moment, confirmed) {
            (Moment::Wall(wall), _) | (_, Some(wall)) => wall & !SINCE_START,
            (Moment::Uptime(uptime), None) => {
                SINCE_START | self.start << UPTIME_BITS | millis(uptime) & UPTIME
            }
        }
    }

    /// A moment as it was stored; `None` if it was since another start, of which nobody knows
    /// when it was.
    fn moment(&self, time: u64) -> Option<Moment> {
        if time & SINCE_START == 0 {
            return Some(Moment::Wall(time));
        }
        let start = (time & !SINCE_START) >> UPTIME_BITS;
        (start == self.start).then(|| Moment::Uptime(Duration::from_millis(time & UPTIME)))
    }

    /// The oldest reading that was not taken yet; it stays in flash until it is
    /// [settled](Self::settle).
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: nothing was taken.
    pub async fn take(&mut self) -> Result<Option<Item>, BacklogError> {
        loop {
            let mut buffer = [0; BUFFER];
            let Some(record) = self.first_waiting(&mut buffer).await? else {
                self.waiting = 0;
                return Ok(None);
            };
            let reading = read(record).map(|(id, time, payload)| (id, self.moment(time), payload));
            self.waiting = self.waiting.saturating_sub(1);
            if let Some((id, Some(moment), payload)) = reading {
                self.taken.push_back(Taken {
                    id: Some(id),
                    fate: Fate::OnItsWay,
                });
                return Ok(Some(Item {
                    channel: Channel::Data,
                    id,
                    moment,
                    payload: payload.into(),
                }));
            }
            self.taken.push_back(Taken {
                id: reading.map(|(id, ..)| id),
                fate: Fate::Useless,
            });
            self.clear().await?;
        }
    }

    async fn first_waiting<'b>(
        &mut self,
        buffer: &'b mut [u8; BUFFER],
    ) -> Result<Option<&'b [u8]>, BacklogError> {
        let Self { queue, taken, .. } = self;
        let mut iterator = queue.iter().await.map_err(|_| BacklogError::Flash)?;
        loop {
            let entry = iterator
                .next(&mut buffer[..])
                .await
                .map_err(|_| BacklogError::Flash)?;
            let Some((len, id)) = entry.map(|record| (record.len(), id(&record))) else {
                return Ok(None);
            };
            if taken.iter().all(|taken| taken.id != id) {
                return Ok(buffer.get(..len));
            }
        }
    }

    /// A reading was acknowledged, or will never be: it leaves the flash once all before it have.
    /// Readings that were never here are passed over.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it may be sent again after a restart, under the same id.
    pub async fn settle(&mut self, id: MessageId) -> Result<(), BacklogError> {
        if let Some(taken) = self.taken.iter_mut().find(|taken| taken.id == Some(id)) {
            taken.fate = Fate::Settled;
        }
        self.clear().await
    }

    /// Removes the oldest as far as nobody needs them.
    async fn clear(&mut self) -> Result<(), BacklogError> {
        while let Some(oldest) = self.taken.front().copied() {
            if oldest.fate == Fate::OnItsWay {
                break;
            }
            let mut buffer = [0; BUFFER];
            let mut iterator = self.queue.iter().await.map_err(|_| BacklogError::Flash)?;
            let entry = iterator
                .next(&mut buffer)
                .await
                .map_err(|_| BacklogError::Flash)?;
            if let Some(entry) = entry
                && id(&entry) == oldest.id
            {
                entry.pop().await.map_err(|_| BacklogError::Flash)?;
            }
            self.taken.pop_front();
            if oldest.fate == Fate::Useless {
                self.lost += 1;
            }
        }
        Ok(())
    }
}

fn id(record: &[u8]) -> Option<MessageId> {
    read(record).map(|(id, ..)| id)
}

/// Id, time and payload of a record.
fn read(record: &[u8]) -> Option<(MessageId, u64, &[u8])> {
    let (id, rest) = record.split_first_chunk()?;
    let (time, payload) = rest.split_first_chunk()?;
    let time = u64::from_le_bytes(*time);
    Some((MessageId::from_bytes(*id), time, payload))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::tests::reading;
    use super::*;
    use crate::memory_flash::{MemoryFlash, every_power_loss, wait};
    use proptest::prelude::*;
    use std::vec::Vec;

    const UNSET: WallClock = WallClock::new(0, None);

    fn stored(number: u32) -> Item {
        Item {
            moment: Moment::Wall(number.into()),
            ..reading(number)
        }
    }

    /// As large as they come, so that few fill the flash.
    fn large(number: u32) -> Item {
        Item {
            payload: [b'x'; 300].into(),
            ..stored(number)
        }
    }

    async fn drain<F: MultiwriteNorFlash>(backlog: &mut Backlog<F>) -> Vec<Item> {
        let mut items = Vec::new();
        while let Some(item) = backlog.take().await.unwrap() {
            backlog.settle(item.id).await.unwrap();
            items.push(item);
        }
        items
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Oldest first out, oldest first lost, and every reading is one or the other.
        #[test]
        fn order_and_losses_add_up(count in 0u32..700) {
            wait(async {
                let mut backlog = Backlog::open(MemoryFlash::multiwrite(3), 1).await.unwrap();
                let mut lost = 0;
                for number in 0..count {
                    backlog.push(&stored(number), &UNSET).await.unwrap();
                    lost += backlog.take_lost();
                }
                assert_eq!(backlog.is_empty(), count == 0);
                assert_eq!(drain(&mut backlog).await, (lost..count).map(stored).collect::<Vec<_>>());
                assert!(backlog.is_empty());
                assert!(count < 700 || lost > 0);
            });
        }

        /// Acknowledgements in any order, readings coming in between.
        #[test]
        fn what_is_taken_is_not_taken_twice(order in Just((0..8u32).collect::<Vec<_>>()).prop_shuffle()) {
            wait(async {
                let flash = MemoryFlash::multiwrite(2);
                let mut backlog = Backlog::open(flash.clone(), 1).await.unwrap();
                for number in 0..8 {
                    backlog.push(&stored(number), &UNSET).await.unwrap();
                }
                for number in 0..8 {
                    assert_eq!(backlog.take().await.unwrap(), Some(stored(number)));
                }
                assert_eq!(backlog.take().await.unwrap(), None);
                for number in &order[..4] {
                    backlog.settle(stored(*number).id).await.unwrap();
                }
                backlog.push(&stored(8), &UNSET).await.unwrap();
                assert_eq!(backlog.take().await.unwrap(), Some(stored(8)));
                // A restart: what was acknowledged without a gap is gone, the rest is sent again.
                let settled = (0..8).take_while(|n| order[..4].contains(n)).count() as u32;
                let mut backlog = Backlog::open(flash, 1).await.unwrap();
                assert_eq!(drain(&mut backlog).await, (settled..9).map(stored).collect::<Vec<_>>());
            });
        }
    }

    /// Filling, overflowing and draining with the power lost at each operation in turn.
    #[test]
    fn what_is_in_flash_outlasts_a_power_loss() {
        // A page holds twelve of these.
        const COUNT: u32 = 30;
        every_power_loss(
            || MemoryFlash::multiwrite(2),
            async |flash| {
                let mut backlog = Backlog::open(flash, 1).await?;
                for number in 0..COUNT {
                    backlog.push(&large(number), &UNSET).await?;
                }
                for _ in 0..10 {
                    let item = backlog.take().await?.expect("there is more");
                    backlog.settle(item.id).await?;
                }
                Ok::<_, BacklogError>(())
            },
            |flash| {
                wait(async {
                    let mut backlog = Backlog::open(flash, 1).await.unwrap();
                    let left = drain(&mut backlog).await;
                    // A run without gaps, whatever was lost or sent before it.
                    for pair in left.windows(2) {
                        let [a, b] = pair else { unreachable!() };
                        let number = |item: &Item| {
                            u32::from_be_bytes(item.id.as_bytes()[12..].try_into().unwrap())
                        };
                        assert_eq!(number(b), number(a) + 1);
                        assert_eq!(*a, large(number(a)), "and whole");
                    }
                    backlog.push(&stored(999), &UNSET).await.unwrap();
                    assert_eq!(drain(&mut backlog).await, [stored(999)]);
                });
            },
        );
    }
}
