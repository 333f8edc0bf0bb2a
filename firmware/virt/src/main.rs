//! The Tidegate device on QEMU's riscv32 `virt` board.
//!
//! | module | what it holds |
//! |---|---|
//! | [`console`] | the serial port: log lines out, what is sensed in |
//! | [`time`] | the CLINT's timer as embassy's time driver |
//! | [`virtio`] | finding the devices, memory they may reach, random numbers |
//! | [`executor`] | running the tasks |
//! | [`ethernet`] | virtio-net as an embassy-net driver |
//! | [`flash`] | virtio-blk as flash |
//! | [`machine`] | switching the board off, the port, what outlasts a restart |
//! | [`restart`] | restarting it, and why it started |
//! | [`memory`] | the heap, and how much of it and of the stack was needed |
//! | [`board`] | all of it together, as the device wants it |

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "registers, interrupts and memory that devices reach; each use says why it is sound"
)]

extern crate alloc;

mod board;
mod console;
mod ethernet;
mod executor;
mod flash;
mod machine;
mod memory;
mod restart;
mod time;
mod virtio;

use alloc::rc::Rc;
use core::cell::RefCell;

use embassy_executor::{SpawnError, SpawnToken, Spawner};
use embassy_net::StackResources;
use static_cell::{ConstStaticCell, StaticCell};
use tidegate_app::board::{Parts, Random};
use tidegate_app::tls::Buffers;
use tidegate_app::update::Timing;
use tidegate_app::update::slots::PartitionSlots;
use tidegate_embassy::network::{SOCKETS, TcpBuffers};
use tidegate_embassy::{EmbassyClock, EmbassyNetwork, Partition, layout};

use board::{VirtRandom, VirtSystem, profile};

#[embassy_executor::task]
async fn network(mut runner: embassy_net::Runner<'static, ethernet::Ethernet>) {
    runner.run().await;
}

#[embassy_executor::task]
async fn device(parts: Parts<board::Virt>, buffers: &'static mut [Buffers; 2]) {
    let ended = tidegate_app::run(parts, profile(), buffers).await;
    log::error!("{ended}");
    restart::fail(1);
}

#[riscv_rt::entry]
fn main() -> ! {
    memory::start();
    console::start();
    time::start();
    executor::run(start)
}

/// Not inlined: what it needs of the stack is free again when the tasks run.
#[inline(never)]
fn start(spawner: Spawner) {
    let virtio::Devices {
        network: net,
        block,
        entropy,
    } = virtio::find();
    let random = VirtRandom::new(entropy);
    let mut seed = [0; 8];
    random.fill(&mut seed);

    static RESOURCES: StaticCell<StackResources<SOCKETS>> = StaticCell::new();
    let (stack, runner) = embassy_net::new(
        ethernet::Ethernet::new(net),
        embassy_net::Config::dhcpv4(embassy_net::DhcpConfig::default()),
        RESOURCES.init(StackResources::new()),
        u64::from_le_bytes(seed),
    );

    let flash = Rc::new(RefCell::new(flash::BlockFlash::new(block)));
    let partition = |place: layout::Place| {
        Partition::new(Rc::clone(&flash), place.offset, place.size).unwrap_or_else(|error| {
            log::error!("{}: {error}", place.name);
            machine::exit(1)
        })
    };

    // A program that QEMU was given as its kernel is in no slot, so there is no other.
    let slot = restart::slot();
    let inactive = slot.map_or(
        layout::Place {
            size: 0,
            ..layout::SLOTS[0]
        },
        |slot| layout::SLOTS[usize::from(slot == 0)],
    );

    static TCP: ConstStaticCell<[TcpBuffers; 2]> =
        ConstStaticCell::new([TcpBuffers::new(), TcpBuffers::new()]);
    static TLS: ConstStaticCell<[Buffers; 2]> =
        ConstStaticCell::new([Buffers::new(), Buffers::new()]);
    let parts = Parts {
        network: EmbassyNetwork::new(stack, TCP.take(), || None),
        clock: EmbassyClock,
        random,
        credentials: partition(layout::CREDENTIALS),
        state: partition(layout::STATE),
        buffer: partition(layout::BUFFER),
        slots: PartitionSlots::new(
            partition(layout::OTADATA),
            partition(inactive),
            slot.unwrap_or(0),
        ),
        system: VirtSystem::new(),
        timing: Timing::USUAL,
    };
    spawn(spawner, network(runner));
    spawn(spawner, ethernet::wake());
    spawn(spawner, console::listen());
    spawn(spawner, device(parts, TLS.take()));
}

/// Each task has room for itself once, so this fails only if it is started twice.
fn spawn<S>(spawner: Spawner, task: Result<SpawnToken<S>, SpawnError>) {
    match task {
        Ok(task) => spawner.spawn(task),
        Err(error) => {
            log::error!("{error:?}");
            machine::exit(1)
        }
    }
}
