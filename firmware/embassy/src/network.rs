//! `embassy-net` as the device's network.

use core::cell::{RefCell, RefMut};
use core::net::{IpAddr, SocketAddr};

use embassy_net::dns::{self, DnsQueryType, DnsSocket};
use embassy_net::tcp::{ConnectError, State, TcpSocket};
use embassy_net::udp::{self, PacketMetadata, UdpSocket};
use embassy_net::{IpEndpoint, Stack, tcp};
use embassy_time::Duration;
use embedded_io_async::{ErrorType, Read, Write};
use tidegate_app::board::Network;

/// TCP connections at a time: to the gateway, and to its update server.
pub const CONNECTIONS: usize = 2;

/// Sockets the stack needs room for: TCP, DNS and DHCP, and a one-shot UDP for each connection.
pub const SOCKETS: usize = 2 * CONNECTIONS + 2;

/// Bytes that wait to be read. A flight of the gateway's handshake (certificate chain of 2 KiB)
/// fits, so it takes one round trip.
pub const RECEIVE: usize = 4096;

/// Bytes that wait to be sent or acknowledged: one full TLS record of ours.
pub const SEND: usize = 4096;

/// A peer that does not acknowledge for this long is gone. Shorter than MQTT's keep alive takes to
/// notice, longer than any Wi-Fi roaming.
const GIVE_UP: Duration = Duration::from_secs(20);

/// Largest datagram that is answered: an NTP packet with room for extensions.
const DATAGRAM: usize = 256;

/// The buffers of a TCP connection; they live as long as the program.
#[derive(Debug)]
pub struct TcpBuffers {
    receive: [u8; RECEIVE],
    send: [u8; SEND],
}

impl TcpBuffers {
    /// Zeroed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            receive: [0; RECEIVE],
            send: [0; SEND],
        }
    }
}

impl Default for TcpBuffers {
    fn default() -> Self {
        Self::new()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// TCP.
    #[error("no connection: {0:?}")]
    Connect(ConnectError),
    /// DNS.
    #[error("name is not resolved: {0:?}")]
    Name(dns::Error),
    /// The name has no IPv4 address.
    #[error("name has no address")]
    NoAddress,
    /// UDP, sending.
    #[error("datagram is not sent: {0:?}")]
    Send(udp::SendError),
    /// UDP, receiving.
    #[error("datagram is not received: {0:?}")]
    Receive(udp::RecvError),
    /// No port is free.
    #[error("no UDP port is free")]
    NoPort,
    /// The connections before are still in use.
    #[error("all TCP sockets are in use")]
    Busy,
    /// Only IPv4 is spoken.
    #[error("address is not IPv4")]
    NotIpv4,
}

/// An interface with an address from DHCP.
///
/// The TCP sockets live as long as the program: one that is dropped could not tell the gateway any
/// more that the connection is over.
#[allow(missing_debug_implementations, reason = "sockets have none")]
pub struct EmbassyNetwork {
    stack: Stack<'static>,
    sockets: [RefCell<TcpSocket<'static>>; CONNECTIONS],
    rssi: fn() -> Option<i8>,
}

impl EmbassyNetwork {
    /// Over a stack that runs elsewhere; `rssi` asks the radio.
    pub fn new(
        stack: Stack<'static>,
        buffers: &'static mut [TcpBuffers; CONNECTIONS],
        rssi: fn() -> Option<i8>,
    ) -> Self {
        let sockets = buffers.each_mut().map(|buffers| {
            let mut socket = TcpSocket::new(stack, &mut buffers.receive, &mut buffers.send);
            socket.set_timeout(Some(GIVE_UP));
            // Records are written whole and flushed; waiting for more would only delay them.
            socket.set_nagle_enabled(false);
            RefCell::new(socket)
        });
        Self {
            stack,
            sockets,
            rssi,
        }
    }
}

impl Network for EmbassyNetwork {
    type Error = NetworkError;
    type Tcp<'a> = Tcp<'a>;

    async fn ready(&self) {
        self.stack.wait_config_up().await;
    }

    async fn resolve(&self, host: &str) -> Result<IpAddr, NetworkError> {
        let found = DnsSocket::new(self.stack)
            .query(host, DnsQueryType::A)
            .await
            .map_err(NetworkError::Name)?;
        let first = found.first().copied().ok_or(NetworkError::NoAddress)?;
        Ok(first.into())
    }

    async fn connect(&self, to: SocketAddr) -> Result<Tcp<'_>, NetworkError> {
        let free = self
            .sockets
            .iter()
            .find_map(|socket| socket.try_borrow_mut().ok());
        let mut tcp = Tcp(free.ok_or(NetworkError::Busy)?);
        let socket = &mut *tcp.0;
        if socket.state() != State::Closed {
            socket.abort();
            // An abort that cannot be sent any more is no reason to stay away.
            let _ = socket.flush().await;
        }
        socket
            .connect(endpoint(to)?)
            .await
            .map_err(NetworkError::Connect)?;
        Ok(tcp)
    }

    async fn exchange(
        &self,
        to: SocketAddr,
        request: &[u8],
        answer: &mut [u8],
    ) -> Result<usize, NetworkError> {
        let to = endpoint(to)?;
        let (mut receive, mut send) = ([0; DATAGRAM], [0; DATAGRAM]);
        let (mut receive_meta, mut send_meta) = ([PacketMetadata::EMPTY], [PacketMetadata::EMPTY]);
        let mut socket = UdpSocket::new(
            self.stack,
            &mut receive_meta,
            &mut receive,
            &mut send_meta,
            &mut send,
        );
        socket.bind(0).map_err(|_| NetworkError::NoPort)?;
        socket
            .send_to(request, to)
            .await
            .map_err(NetworkError::Send)?;
        loop {
            let (len, from) = socket
                .recv_from(answer)
                .await
                .map_err(NetworkError::Receive)?;
            if from.endpoint == to {
                return Ok(len);
            }
        }
    }

    fn rssi(&self) -> Option<i8> {
        (self.rssi)()
    }
}

fn endpoint(to: SocketAddr) -> Result<IpEndpoint, NetworkError> {
    match to {
        SocketAddr::V4(to) => Ok(to.into()),
        SocketAddr::V6(_) => Err(NetworkError::NotIpv4),
    }
}

/// The connection. Dropped, it says goodbye in the background.
#[allow(missing_debug_implementations, reason = "sockets have none")]
pub struct Tcp<'a>(RefMut<'a, TcpSocket<'static>>);

impl Drop for Tcp<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ErrorType for Tcp<'_> {
    type Error = tcp::Error;
}

impl Read for Tcp<'_> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, tcp::Error> {
        self.0.read(bytes).await
    }
}

impl Write for Tcp<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, tcp::Error> {
        self.0.write(bytes).await
    }

    /// Only as far as handing over goes: waiting until the peer has acknowledged would cost a
    /// round trip for each record.
    async fn flush(&mut self) -> Result<(), tcp::Error> {
        Ok(())
    }
}
