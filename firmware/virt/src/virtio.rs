//! Finding the devices, and memory they may reach.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use portable_atomic::AtomicUsize;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::machine;

/// The board's eight places for a device.
const FIRST: usize = 0x1000_1000;
const SPACING: usize = 0x1000;
const PLACES: usize = 8;

/// Packets that wait in each direction: 16 of 2 KiB take 64 KiB of the devices' memory.
pub(crate) const QUEUE: usize = 16;

/// Room for the largest Ethernet frame and virtio's header.
const PACKET: usize = 2048;

type Mmio = MmioTransport<'static>;
pub(crate) type Net = VirtIONet<Identity, Mmio, QUEUE>;
pub(crate) type Block = VirtIOBlk<Identity, Mmio>;
pub(crate) type Entropy = VirtIORng<Identity, Mmio>;

/// What a device needs.
pub(crate) struct Devices {
    pub(crate) network: Net,
    pub(crate) block: Block,
    pub(crate) entropy: Entropy,
}

unsafe extern "C" {
    static _dma_start: u8;
    static _dma_size: u8;
}

/// Addresses are what they are, and memory for devices is never given back: they stay.
pub(crate) struct Identity;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: memory comes from a region that the linker gives to nobody else, each page once; the
// board has no MMU, so addresses are the same for the devices.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let size = pages * PAGE_SIZE;
        let at = TAKEN.fetch_add(size, Ordering::Relaxed);
        let start = &raw const _dma_start as usize + at;
        match NonNull::new(start as *mut u8) {
            Some(memory) if at + size <= &raw const _dma_size as usize => {
                // SAFETY: these pages are nobody else's.
                unsafe { memory.write_bytes(0, size) };
                (start as PhysAddr, memory)
            }
            // The answer that the driver takes for "out of memory".
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as usize as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as usize as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Takes the devices. Without all of them the board stops, and says which is missing.
pub(crate) fn find() -> Devices {
    let (mut network, mut block, mut entropy) = (None, None, None);
    for place in 0..PLACES {
        let Some(header) = NonNull::new((FIRST + place * SPACING) as *mut VirtIOHeader) else {
            continue;
        };
        // SAFETY: the board has virtio registers here, and each place is taken once.
        let Ok(device) = (unsafe { MmioTransport::new(header, SPACING) }) else {
            continue;
        };
        match device.device_type() {
            DeviceType::Network => network = VirtIONet::new(device, PACKET).ok(),
            DeviceType::Block => block = VirtIOBlk::new(device).ok(),
            DeviceType::EntropySource => entropy = VirtIORng::new(device).ok(),
            _ => {}
        }
    }
    Devices {
        network: present(network, "virtio-net-device"),
        block: present(block, "virtio-blk-device"),
        entropy: present(entropy, "virtio-rng-device"),
    }
}

fn present<T>(device: Option<T>, name: &str) -> T {
    device.unwrap_or_else(|| {
        log::error!(
            "no {name}: start QEMU with it and with -global virtio-mmio.force-legacy=false"
        );
        machine::exit(1)
    })
}
