extern crate std;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::tests::reading;
use super::super::{Backlog, Item, Moment};
use super::*;
use crate::memory_flash::{MemoryFlash, every_power_loss, wait};

/// The time of day is known: it was 1,000 s when the device started.
fn clock() -> WallClock {
    let mut clock = WallClock::new(0, None);
    clock.set(1_000_000, Duration::ZERO).unwrap();
    clock.confirm();
    clock
}

/// As it comes back from flash.
fn stored(number: u32) -> Item {
    let item = reading(number);
    let wall = item.moment.wall(&clock()).unwrap();
    Item {
        moment: Moment::Wall(wall),
        ..item
    }
}

fn number(item: &Item) -> u32 {
    u32::from_be_bytes(item.id.as_bytes()[12..].try_into().unwrap())
}

async fn open(flash: &MemoryFlash, start: u32) -> Readings<MemoryFlash> {
    Readings::new(Backlog::open(flash.clone(), start).await.unwrap())
}

async fn drain(readings: &mut Readings<MemoryFlash>) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(item) = readings.next().await.unwrap() {
        readings.settle(item.id).await.unwrap();
        numbers.push(number(&item));
    }
    numbers
}

/// Polls a future so often, or until it is done.
fn poll<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..times {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
    }
    None
}

/// What happens to a device's readings.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many are taken.
    Sense(u32),
    /// One is sent; the operation is given up after so many turns of the flash.
    Send(usize),
    /// The first or last of those on their way is acknowledged; again given up.
    Acknowledge { newest: bool, turns: usize },
    /// A restart on purpose.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..60_u32).prop_map(Step::Sense),
        (0..200_usize).prop_map(Step::Send),
        Just(Step::Send(usize::MAX)),
        (any::<bool>(), 0..400_usize)
            .prop_map(|(newest, turns)| Step::Acknowledge { newest, turns }),
        Just(Step::Acknowledge {
            newest: false,
            turns: usize::MAX
        }),
        Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, and wherever it is interrupted: readings come out in order, each once,
    /// and what does not come out was counted as lost.
    #[test]
    fn in_order_and_none_missing(steps in proptest::collection::vec(step(), 1..60)) {
        wait(async {
            // Room for some hundred and forty: it overflows now and then.
            let flash = MemoryFlash::multiwrite(3);
            flash.slow_down();
            let mut readings = open(&flash, 0).await;
            let (mut made, mut lost) = (0, 0);
            // Sent, but flash did not know that before a restart: it comes again, or is lost then.
            let mut unsure = 0;
            let mut on_its_way: Vec<Item> = Vec::new();
            let mut seen = Vec::new();
            // The newest that was ever sent since the last restart.
            let mut newest = None;
            for (start, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Sense(count) => for _ in 0..count {
                        readings.keep(reading(made), &clock()).await.unwrap();
                        made += 1;
                    },
                    Step::Send(turns) => {
                        // In flight are a few at most.
                        if on_its_way.len() < 8
                            && let Some(Ok(Some(item))) = poll(readings.next(), turns.max(1))
                        {
                            assert!(newest.is_none_or(|before| before < number(&item)), "in order");
                            newest = Some(number(&item));
                            seen.push(number(&item));
                            on_its_way.push(item);
                        }
                    }
                    Step::Acknowledge { newest, turns } => {
                        let item = if newest {
                            on_its_way.pop()
                        } else if on_its_way.is_empty() {
                            None
                        } else {
                            Some(on_its_way.remove(0))
                        };
                        if let Some(item) = item {
                            let settled = poll(readings.settle(item.id), turns.max(1));
                            // Newer than one on its way, it stays in flash until that leaves.
                            let stays = newest && !on_its_way.is_empty();
                            unsure += u32::from(settled.is_none() || stays);
                        }
                    }
                    Step::Restart => {
                        readings.flush(&clock()).await.unwrap();
                        lost += readings.take_lost();
                        readings = open(&flash, start as u32).await;
                        unsure += on_its_way.len() as u32;
                        on_its_way.clear();
                        // What was not acknowledged comes again.
                        newest = None;
                    }
                }
            }
            lost += readings.take_lost();
            let rest = drain(&mut readings).await;
            assert!(rest.is_sorted());
            seen.extend(rest);
            lost += readings.take_lost();
            seen.sort_unstable();
            seen.dedup();
            let missing = made - seen.len() as u32;
            assert!(
                (missing..=missing + unsure).contains(&lost),
                "{missing} are missing, {lost} are told ({unsure} unsure)"
            );
        });
    }
}

/// What the connection was for was given up half way, at each turn of the flash in turn.
#[test]
fn an_acknowledgement_that_is_interrupted_costs_no_reading() {
    wait(async {
        for turns in 1..400 {
            let flash = MemoryFlash::multiwrite(3);
            let mut readings = open(&flash, 0).await;
            for number in 0..RAM as u32 + 4 {
                readings.keep(reading(number), &clock()).await.unwrap();
            }
            assert_eq!(readings.next().await.unwrap(), Some(stored(0)));
            flash.slow_down();
            let done = poll(readings.settle(stored(0).id), turns).is_some();
            assert_eq!(
                drain(&mut readings).await,
                (1..RAM as u32 + 4).collect::<Vec<_>>(),
                "after {turns} turns"
            );
            if done {
                return;
            }
        }
        unreachable!("it takes fewer turns");
    });
}

#[test]
fn flash_that_fails_to_read_is_waited_for_then_given_up_and_told() {
    wait(async {
        let flash = MemoryFlash::multiwrite(3);
        let mut readings = open(&flash, 0).await;
        for number in 0..RAM as u32 + 6 {
            readings.keep(reading(number), &clock()).await.unwrap();
        }
        // For a moment: nothing overtakes.
        flash.deafen(true);
        for _ in 1..TRIES {
            assert_eq!(readings.next().await, Err(BacklogError::Flash));
        }
        flash.deafen(false);
        assert_eq!(readings.next().await.unwrap(), Some(stored(0)));
        readings.settle(stored(0).id).await.unwrap();
        // For good: five are lost, and counted.
        flash.deafen(true);
        for _ in 0..TRIES {
            assert_eq!(readings.next().await, Err(BacklogError::Flash));
        }
        assert_eq!(readings.take_lost(), 5);
        assert_eq!(readings.next().await.unwrap(), Some(reading(6)));
    });
}

#[test]
fn without_the_time_of_day_readings_go_to_flash_all_the_same() {
    wait(async {
        let flash = MemoryFlash::multiwrite(3);
        let mut readings = open(&flash, 7).await;
        let unset = WallClock::new(0, None);
        // Nor is a time believed that the gateway did not confirm.
        let mut said = unset;
        said.set(9_000_000_000, Duration::ZERO).unwrap();
        for number in 0..RAM as u32 + 8 {
            let clock = if number < 4 { &unset } else { &said };
            readings.keep(reading(number), clock).await.unwrap();
        }
        assert_eq!(readings.take_lost(), 0);
        // It is learnt before they are sent: they say when they were taken.
        assert_eq!(readings.next().await.unwrap(), Some(reading(0)));
        assert_eq!(
            reading(0).moment.wall(&clock()),
            stored(0).moment.wall(&unset)
        );
        // A restart before that: nobody will ever know when that was.
        let mut readings = open(&flash, 8).await;
        readings.keep(reading(100), &clock()).await.unwrap();
        assert_eq!(readings.next().await.unwrap(), Some(reading(100)));
        assert_eq!(readings.take_lost(), 8);
        assert_eq!(open(&flash, 9).await.take_lost(), 0, "told once");
    });
}

/// Whatever is in flash when the power goes, what was on its way from RAM included: a run without
/// gaps comes out afterwards.
#[test]
fn the_order_outlasts_a_power_loss() {
    const COUNT: u32 = RAM as u32 + 8;
    every_power_loss(
        || MemoryFlash::multiwrite(2),
        async |flash| {
            let backlog = Backlog::open(flash, 0).await?;
            let mut readings = Readings::new(backlog);
            for number in 0..4 {
                readings.keep(reading(number), &clock()).await?;
            }
            for number in 0..3 {
                assert_eq!(readings.next().await?, Some(reading(number)));
            }
            for number in 4..COUNT {
                readings.keep(reading(number), &clock()).await?;
            }
            readings.settle(reading(0).id).await?;
            readings.flush(&clock()).await
        },
        |flash| {
            wait(async {
                let mut readings = open(&flash, 1).await;
                let left = drain(&mut readings).await;
                assert!(
                    left.windows(2).all(|pair| pair[1] == pair[0] + 1),
                    "{left:?}"
                );
                readings.keep(reading(999), &clock()).await.unwrap();
                readings.flush(&clock()).await.unwrap();
                assert_eq!(drain(&mut open(&flash, 2).await).await, [999]);
            });
        },
    );
}
