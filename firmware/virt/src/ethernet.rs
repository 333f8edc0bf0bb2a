//! virtio-net as an embassy-net driver.

use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_sync::waitqueue::AtomicWaker;
use embassy_time::{Duration, Timer};
use virtio_drivers::device::net::{RxBuffer, TxBuffer};

use crate::virtio::Net;

/// Largest Ethernet frame, without its checksum.
const MTU: usize = 1514;

/// How often the device is asked for packets. Its interrupt would go through the PLIC; a
/// millisecond is nothing against a network's.
const LOOK: Duration = Duration::from_millis(1);

static WAKER: AtomicWaker = AtomicWaker::new();

/// Has the stack look for packets.
#[embassy_executor::task]
pub(crate) async fn wake() {
    loop {
        Timer::after(LOOK).await;
        WAKER.wake();
    }
}

/// The interface.
pub(crate) struct Ethernet {
    device: Net,
}

impl Ethernet {
    pub(crate) const fn new(device: Net) -> Self {
        Self { device }
    }
}

impl Driver for Ethernet {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, Sending<'_>)> {
        WAKER.register(cx.waker());
        // A packet is answered at once or not taken.
        if !self.device.can_recv() || !self.device.can_send() {
            return None;
        }
        let buffer = self.device.receive().ok()?;
        // Both tokens are out at the same time, and the buffer goes back through the device.
        let received = Received(buffer.packet().into());
        self.recycle(buffer);
        Some((received, Sending(&mut self.device)))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Sending<'_>> {
        WAKER.register(cx.waker());
        self.device.can_send().then_some(Sending(&mut self.device))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = MTU;
        capabilities.max_burst_size = Some(1);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.device.mac_address())
    }
}

impl Ethernet {
    fn recycle(&mut self, buffer: RxBuffer) {
        if let Err(error) = self.device.recycle_rx_buffer(buffer) {
            log::error!("virtio-net does not take a buffer back: {error}");
        }
    }
}

/// A packet that came.
pub(crate) struct Received(alloc::boxed::Box<[u8]>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        read(&mut self.0)
    }
}

/// Room for a packet that goes.
pub(crate) struct Sending<'a>(&'a mut Net);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut buffer: TxBuffer = self.0.new_tx_buffer(len);
        let result = fill(buffer.packet_mut());
        if let Err(error) = self.0.send(buffer) {
            log::error!("virtio-net does not send: {error}");
        }
        result
    }
}
