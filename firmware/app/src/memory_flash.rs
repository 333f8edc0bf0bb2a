//! Flash in memory, for tests: it behaves like NOR flash and can lose power.

extern crate std;
use core::cell::RefCell;
use core::future::Future;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use embassy_futures::yield_now;
use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

pub(crate) const PAGE: usize = 4096;
const WORD: usize = 4;

/// Clones share the same flash, as a restarted program does.
#[derive(Debug, Clone)]
pub(crate) struct MemoryFlash(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    bytes: Vec<u8>,
    /// Words written since they were erased.
    written: Vec<bool>,
    /// Writes and erasures left until the power goes.
    left: Option<usize>,
    /// How much of the last operation is done, in quarters.
    quarters: usize,
    operations: usize,
    multiwrite: bool,
    /// Others get their turn before and after each operation.
    slow: bool,
    /// Nothing can be read.
    deaf: bool,
}

/// The power is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PowerLost;

impl NorFlashError for PowerLost {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl MemoryFlash {
    pub(crate) fn new(pages: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            bytes: vec![0xff; pages * PAGE],
            written: vec![false; pages * PAGE / WORD],
            left: None,
            quarters: 0,
            operations: 0,
            multiwrite: false,
            slow: false,
            deaf: false,
        })))
    }

    /// As [`new`](Self::new), but words may be written again.
    pub(crate) fn multiwrite(pages: usize) -> Self {
        let flash = Self::new(pages);
        flash.0.borrow_mut().multiwrite = true;
        flash
    }

    /// From now on each operation takes a while, in which others get their turn.
    pub(crate) fn slow_down(&self) {
        self.0.borrow_mut().slow = true;
    }

    /// Whether reading fails.
    pub(crate) fn deafen(&self, deaf: bool) {
        self.0.borrow_mut().deaf = deaf;
    }

    async fn turn(&self) {
        let slow = self.0.borrow().slow;
        if slow {
            yield_now().await;
        }
    }

    /// Overwrites bytes, past the flash's rules.
    pub(crate) fn load(&self, at: usize, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        inner.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        for word in at / WORD..(at + bytes.len()).div_ceil(WORD) {
            inner.written[word] = inner.bytes[word * WORD..][..WORD] != [0xff; WORD];
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.borrow().bytes.clone()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.borrow().bytes.len()
    }

    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new(self.capacity() / PAGE);
        copy.load(0, &self.bytes());
        copy.0.borrow_mut().multiwrite = self.0.borrow().multiwrite;
        copy
    }

    /// Loses power in the midst of the operation after `operations`, of which `quarters` is done.
    fn lose_power(&self, operations: usize, quarters: usize) {
        let mut inner = self.0.borrow_mut();
        inner.left = Some(operations);
        inner.quarters = quarters;
    }

    fn power_on(&self) {
        self.0.borrow_mut().left = None;
    }
}

impl Inner {
    /// How much of an operation on `len` bytes is done before the power goes.
    fn spend(&mut self, len: usize) -> (usize, Result<(), PowerLost>) {
        match &mut self.left {
            None => {
                self.operations += 1;
                (len, Ok(()))
            }
            Some(0) => {
                let done = len * self.quarters / 4;
                self.quarters = 0;
                (done, Err(PowerLost))
            }
            Some(left) => {
                *left -= 1;
                (len, Ok(()))
            }
        }
    }
}

impl ErrorType for MemoryFlash {
    type Error = PowerLost;
}

impl ReadNorFlash for MemoryFlash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), PowerLost> {
        self.turn().await;
        {
            let inner = self.0.borrow();
            if inner.deaf {
                return Err(PowerLost);
            }
            bytes.copy_from_slice(&inner.bytes[offset as usize..][..bytes.len()]);
        }
        self.turn().await;
        Ok(())
    }

    fn capacity(&self) -> usize {
        Self::capacity(self)
    }
}

impl NorFlash for MemoryFlash {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = PAGE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), PowerLost> {
        let (from, to) = (from as usize, to as usize);
        assert!(from.is_multiple_of(PAGE) && to.is_multiple_of(PAGE));
        self.turn().await;
        for page in from / PAGE..to / PAGE {
            let mut inner = self.0.borrow_mut();
            let (done, result) = inner.spend(PAGE);
            inner.bytes[page * PAGE..][..done].fill(0xff);
            inner.written[page * PAGE / WORD..][..done / WORD].fill(false);
            result?;
        }
        self.turn().await;
        Ok(())
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), PowerLost> {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(WORD) && bytes.len().is_multiple_of(WORD));
        self.turn().await;
        let result = {
            let mut inner = self.0.borrow_mut();
            let (done, result) = inner.spend(bytes.len());
            for (at, byte) in bytes.iter().enumerate().take(done) {
                let word = (offset + at) / WORD;
                if at % WORD == 0 {
                    assert!(
                        inner.multiwrite || !inner.written[word],
                        "word at {:#x} is written twice",
                        offset + at
                    );
                }
                inner.written[word] = true;
                inner.bytes[offset + at] &= byte;
            }
            result
        };
        self.turn().await;
        result
    }
}

impl MultiwriteNorFlash for MemoryFlash {}

/// Runs a future that waits for nothing but the flash.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    embassy_futures::block_on(future)
}

/// Runs `program` on a fresh flash with the power lost at each of its operations in turn, at four
/// points within it, and then has `check` look at what is left.
pub(crate) fn every_power_loss<E: core::fmt::Debug>(
    fresh: impl Fn() -> MemoryFlash,
    program: impl AsyncFn(MemoryFlash) -> Result<(), E>,
    mut check: impl FnMut(MemoryFlash),
) {
    let flash = fresh();
    wait(program(flash.clone())).expect("the program works while there is power");
    let operations = flash.0.borrow().operations;
    assert!(operations > 0);
    check(flash);
    for operation in 0..operations {
        for quarters in 0..4 {
            let flash = fresh();
            flash.lose_power(operation, quarters);
            wait(program(flash.clone())).expect_err("the power was lost");
            flash.power_on();
            check(flash);
        }
    }
}
