//! Readings in flash: what did not fit into RAM while the gateway was away.

use alloc::collections::VecDeque;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use sequential_storage::Error;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::queue::{QueueConfig, QueueStorage};
use tidegate_wire::{Channel, MessageId};

use super::{Item, MAX_PAYLOAD, Moment};

/// Id, time, payload.
const MAX_RECORD: usize = 16 + 8 + MAX_PAYLOAD;

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

/// Readings in the order they were taken. A reading leaves when it was acknowledged, or as the
/// oldest of a full partition.
#[expect(missing_debug_implementations, reason = "the queue has none")]
pub struct Backlog<F: MultiwriteNorFlash> {
    queue: QueueStorage<F, Cache<Uncached, Uncached, Uncached, ()>>,
    /// The oldest of them that were taken to be sent, and whether each was acknowledged.
    taken: VecDeque<Taken>,
    empty: bool,
}

#[derive(Debug, Clone, Copy)]
struct Taken {
    id: MessageId,
    settled: bool,
}

impl<F: MultiwriteNorFlash> Backlog<F> {
    /// Opens the partition. One that makes no sense is erased: it holds nothing that could be
    /// sent.
    ///
    /// # Errors
    ///
    /// [`BacklogError`]
    pub async fn open(flash: F) -> Result<Self, BacklogError> {
        let end = flash.capacity() - flash.capacity() % F::ERASE_SIZE;
        if end < 2 * F::ERASE_SIZE {
            return Err(BacklogError::Partition);
        }
        let config = QueueConfig::try_new(0..end as u32).map_err(|_| BacklogError::Partition)?;
        let mut queue = QueueStorage::new(flash, config, Cache::new_uncached());
        let empty = match queue.peek(&mut [0; BUFFER]).await {
            Ok(oldest) => oldest.is_none(),
            Err(_) => {
                queue.erase_all().await.map_err(|_| BacklogError::Flash)?;
                true
            }
        };
        Ok(Self {
            queue,
            taken: VecDeque::new(),
            empty,
        })
    }

    /// Whether there is nothing to send that was not taken already.
    pub const fn is_empty(&self) -> bool {
        self.empty
    }

    /// Adds a reading and returns how many of the oldest had to go for it. `wall` is when it was
    /// measured, in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it was not added.
    pub async fn push(&mut self, item: &Item, wall: u64) -> Result<u32, BacklogError> {
        let mut record = [0; BUFFER];
        let len = 24 + item.payload.len();
        let (id, rest) = record.split_at_mut(16);
        let (time, rest) = rest.split_at_mut(8);
        id.copy_from_slice(item.id.as_bytes());
        time.copy_from_slice(&wall.to_le_bytes());
        match rest.get_mut(..item.payload.len()) {
            Some(room) => room.copy_from_slice(&item.payload),
            None => return Err(BacklogError::Flash),
        }
        let record = record.get(..len).unwrap_or(&[]);
        let mut lost = 0;
        loop {
            match self.queue.push(record, false).await {
                Ok(()) => {
                    self.empty = false;
                    return Ok(lost);
                }
                Err(Error::FullStorage) => {
                    let mut buffer = [0; BUFFER];
                    let oldest = self.queue.pop(&mut buffer).await;
                    match oldest.map(|oldest| oldest.is_some()) {
                        // One that is being sent is not lost.
                        Ok(true) if self.taken.pop_front().is_some() => {}
                        Ok(true) => lost += 1,
                        Ok(false) | Err(_) => return Err(BacklogError::Flash),
                    }
                }
                Err(_) => return Err(BacklogError::Flash),
            }
        }
    }

    /// The oldest reading that was not taken yet; it stays in flash until it is
    /// [settled](Self::settle).
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]
    pub async fn take(&mut self) -> Result<Option<Item>, BacklogError> {
        let mut buffer = [0; BUFFER];
        let mut iterator = self.queue.iter().await.map_err(|_| BacklogError::Flash)?;
        for _ in 0..self.taken.len() {
            iterator
                .next(&mut buffer)
                .await
                .map_err(|_| BacklogError::Flash)?;
        }
        let entry = iterator
            .next(&mut buffer)
            .await
            .map_err(|_| BacklogError::Flash)?;
        let Some(entry) = entry else {
            self.empty = true;
            return Ok(None);
        };
        let record: &[u8] = &entry;
        let (id, rest) = record.split_first_chunk().ok_or(BacklogError::Flash)?;
        let (time, payload) = rest.split_first_chunk().ok_or(BacklogError::Flash)?;
        let item = Item {
            channel: Channel::Data,
            id: MessageId::from_bytes(*id),
            moment: Moment::Wall(u64::from_le_bytes(*time)),
            payload: payload.into(),
        };
        self.taken.push_back(Taken {
            id: item.id,
            settled: false,
        });
        Ok(Some(item))
    }

    /// A reading was acknowledged, or will never be: it leaves the flash once all before it have.
    /// Readings that were never here are passed over.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it may be sent again after a restart, under the same id.
    pub async fn settle(&mut self, id: MessageId) -> Result<(), BacklogError> {
        if let Some(taken) = self.taken.iter_mut().find(|taken| taken.id == id) {
            taken.settled = true;
        }
        while self.taken.front().is_some_and(|oldest| oldest.settled) {
            self.queue
                .pop(&mut [0; BUFFER])
                .await
                .map_err(|_| BacklogError::Flash)?;
            self.taken.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::super::tests::reading;
    use super::*;
    use crate::memory_flash::{MemoryFlash, every_power_loss, wait};
    use proptest::prelude::*;
    use std::vec::Vec;

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
                let mut backlog = Backlog::open(MemoryFlash::multiwrite(3)).await.unwrap();
                let mut lost = 0;
                for number in 0..count {
                    lost += backlog.push(&stored(number), number.into()).await.unwrap();
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
                let mut backlog = Backlog::open(flash.clone()).await.unwrap();
                for number in 0..8 {
                    backlog.push(&stored(number), number.into()).await.unwrap();
                }
                for number in 0..8 {
                    assert_eq!(backlog.take().await.unwrap(), Some(stored(number)));
                }
                assert_eq!(backlog.take().await.unwrap(), None);
                for number in &order[..4] {
                    backlog.settle(stored(*number).id).await.unwrap();
                }
                backlog.push(&stored(8), 8).await.unwrap();
                assert_eq!(backlog.take().await.unwrap(), Some(stored(8)));
                // A restart: what was acknowledged without a gap is gone, the rest is sent again.
                let settled = (0..8).take_while(|n| order[..4].contains(n)).count() as u32;
                let mut backlog = Backlog::open(flash).await.unwrap();
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
                let mut backlog = Backlog::open(flash).await?;
                for number in 0..COUNT {
                    backlog.push(&large(number), number.into()).await?;
                }
                for _ in 0..10 {
                    let item = backlog.take().await?.expect("there is more");
                    backlog.settle(item.id).await?;
                }
                Ok::<_, BacklogError>(())
            },
            |flash| {
                wait(async {
                    let mut backlog = Backlog::open(flash).await.unwrap();
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
                    backlog.push(&stored(999), 999).await.unwrap();
                    assert_eq!(drain(&mut backlog).await, [stored(999)]);
                });
            },
        );
    }
}
