//! Readings on their way: the newest in RAM, what does not fit there in flash.

use alloc::collections::VecDeque;

use embedded_storage_async::nor_flash::MultiwriteNorFlash;
use tidegate_wire::MessageId;

use super::{Backlog, BacklogError, Item};
use crate::time::WallClock;

/// Readings in RAM before the oldest go to flash: short interruptions cost no flash wear.
pub(super) const RAM: usize = 32;

/// So often in a row the flash may fail to give a reading back before what is in it is given up.
/// The tries are at least an answer of the gateway or a new reading apart.
const TRIES: u8 = 3;

/// All readings that were not taken to be sent, oldest first: those in flash are older than those
/// in RAM, always. Both are in here, and nothing moves between them or out of them but through
/// `&mut self`: what shares this among tasks locks both, and no reading overtakes another.
#[expect(missing_debug_implementations, reason = "the backlog has none")]
pub struct Readings<F: MultiwriteNorFlash> {
    ram: VecDeque<Item>,
    /// Taken from RAM and not settled. When flash comes into use they go there before the others,
    /// or those would be before them after a restart.
    on_their_way: VecDeque<Item>,
    flash: Backlog<F>,
    failures: u8,
    lost: u32,
}

impl<F: MultiwriteNorFlash> Readings<F> {
    /// None but those that the flash holds from before.
    pub const fn new(flash: Backlog<F>) -> Self {
        Self {
            ram: VecDeque::new(),
            on_their_way: VecDeque::new(),
            flash,
            failures: 0,
            lost: 0,
        }
    }

    /// Adds the newest reading; if RAM is full, its oldest goes to flash.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: the oldest in RAM found no place in flash and is lost. The new one
    /// was added.
    pub async fn keep(&mut self, item: Item, clock: &WallClock) -> Result<(), BacklogError> {
        let moved = if self.ram.len() < RAM {
            Ok(())
        } else {
            self.spill(clock).await
        };
        self.ram.push_back(item);
        moved
    }

    /// Moves the oldest in RAM to flash; it leaves RAM when it is there.
    async fn spill(&mut self, clock: &WallClock) -> Result<(), BacklogError> {
        while let Some(item) = self.on_their_way.front() {
            // Without a place in flash it is still on its way.
            let _ = self.flash.push_taken(item, clock).await;
            self.on_their_way.pop_front();
        }
        let Some(oldest) = self.ram.front() else {
            return Ok(());
        };
        let pushed = self.flash.push(oldest, clock).await;
        self.ram.pop_front();
        if pushed.is_err() {
            self.lost += 1;
        }
        pushed
    }

    fn take_from_ram(&mut self) -> Option<Item> {
        let item = self.ram.pop_front()?;
        self.on_their_way.push_back(item.clone());
        Some(item)
    }

    /// The oldest reading, to be sent. One from flash stays there until it is
    /// [settled](Self::settle).
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: nothing was taken, try again later. What is in flash is given up
    /// when that did not help, so that newer readings get through.
    pub async fn next(&mut self) -> Result<Option<Item>, BacklogError> {
        if self.flash.is_empty() {
            return Ok(self.take_from_ram());
        }
        match self.flash.take().await {
            Ok(item) => {
                self.failures = 0;
                Ok(item.or_else(|| self.take_from_ram()))
            }
            Err(error) => {
                self.failures += 1;
                if self.failures >= TRIES {
                    self.failures = 0;
                    // Whether it works or not: nothing waits there any more.
                    let _ = self.flash.erase().await;
                }
                Err(error)
            }
        }
    }

    /// A reading was acknowledged, or will never be.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: it may be sent again after a restart, under the same id.
    pub async fn settle(&mut self, id: MessageId) -> Result<(), BacklogError> {
        if let Some(at) = self.on_their_way.iter().position(|item| item.id == id) {
            self.on_their_way.remove(at);
            return Ok(());
        }
        self.flash.settle(id).await
    }

    /// Puts everything into flash before a restart, what is on its way included.
    ///
    /// # Errors
    ///
    /// [`BacklogError::Flash`]: some are lost.
    pub async fn flush(&mut self, clock: &WallClock) -> Result<(), BacklogError> {
        let mut flushed = Ok(());
        while !(self.ram.is_empty() && self.on_their_way.is_empty()) {
            flushed = flushed.and(self.spill(clock).await);
        }
        flushed
    }

    /// How many readings were lost since this was last asked.
    pub const fn take_lost(&mut self) -> u32 {
        let lost = self.lost + self.flash.take_lost();
        self.lost = 0;
        lost
    }

    /// Whether RAM holds none.
    pub fn none_in_ram(&self) -> bool {
        self.ram.is_empty()
    }
}

#[cfg(test)]
mod tests;
