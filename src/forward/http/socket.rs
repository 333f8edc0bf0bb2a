//! The connection to a backend, with few calls to the system.
//!
//! ureq's own makes twelve for a POST and its answer: a timeout is set before each read and write
//! because a little less of it is left each time, headers and body go out on their own, and whether
//! the connection is still good is found out twice with three calls. Here the timeout is set in
//! steps, what is to be sent is held until an answer is waited for, and looking takes one call: four
//! in all, and the backend is woken once.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rustix::net::{RecvFlags, recv};
use ureq::{
    Error, Timeout,
    unversioned::transport::{
        Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
    },
};

/// Room for what comes back before it is looked at: headers as long as they may be, and a usual reply.
const INPUT: usize = 2 * super::MAX_HEADERS;

/// Room for what is to be sent. A request of usual size goes in one piece.
const OUTPUT: usize = 16 * 1024;

/// With less room than this, what is held is sent: a header must fit.
const ROOM: usize = 8 * 1024;

/// Share of the timeout that waiting may take beyond it, for not setting it anew each time.
const STEPS: u32 = 32;

/// Shortest time that an address is tried for, however many there are.
const CONNECT_MIN: Duration = Duration::from_millis(10);

/// Makes connections for one upstream.
#[derive(Debug)]
pub(super) struct Direct {
    /// Of what is left of a timeout, counted up to a multiple of this.
    step: Duration,
}

impl Direct {
    /// For requests that take `timeout` at most.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            step: (timeout / STEPS).max(Duration::from_millis(1)),
        }
    }
}

impl Connector for Direct {
    type Out = Socket;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Socket>, Error> {
        let stream = Arc::new(connect(&details.addrs, left(details.timeout)?)?);
        stream.set_nodelay(true)?;
        let handle: Weak<dyn ShutdownHandle> = Arc::<TcpStream>::downgrade(&stream);
        (details.register_shutdown)(handle)?;
        Ok(Some(Socket::new(stream, self.step)))
    }
}

/// The first of the addresses that takes a connection. What is left of the time is shared among those
/// that are left.
fn connect(addresses: &[SocketAddr], timeout: Option<Duration>) -> Result<TcpStream, Error> {
    let began = Instant::now();
    let mut error = Error::ConnectionFailed;
    for (tried, address) in (0..).zip(addresses) {
        let attempt = match timeout {
            None => TcpStream::connect(address),
            Some(timeout) => {
                let left = timeout.saturating_sub(began.elapsed());
                let others = u32::try_from(addresses.len()).unwrap_or(u32::MAX) - tried;
                TcpStream::connect_timeout(address, (left / others).max(CONNECT_MIN))
            }
        };
        error = match attempt {
            Ok(stream) => return Ok(stream),
            Err(failed) if is_timeout(&failed) => Error::Timeout(Timeout::Connect),
            Err(failed) => failed.into(),
        };
    }
    Err(error)
}

/// One connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    step: Duration,
    /// As they are set on the socket.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    buffers: Held,
}

impl Socket {
    fn new(stream: Arc<TcpStream>, step: Duration) -> Self {
        Self {
            stream,
            step,
            read_timeout: None,
            write_timeout: None,
            buffers: Held {
                // It wants to have an output of its own.
                input: LazyBuffers::new(INPUT, 1),
                output: Vec::new(),
                held: 0,
            },
        }
    }

    /// `timeout`, counted up so that it stays the same while little of it passes.
    fn stepped(&self, timeout: NextTimeout) -> Result<Option<Duration>, Error> {
        let step = self.step.as_nanos().max(1);
        Ok(left(timeout)?.map(|left| {
            let steps = u32::try_from(left.as_nanos().div_ceil(step)).unwrap_or(u32::MAX);
            self.step.saturating_mul(steps)
        }))
    }

    fn send(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        if self.buffers.held == 0 {
            return Ok(());
        }
        let limit = self.stepped(timeout)?;
        if limit != self.write_timeout {
            self.stream.set_write_timeout(limit)?;
            self.write_timeout = limit;
        }
        let held = std::mem::take(&mut self.buffers.held);
        let output = self.buffers.output.get(..held).unwrap_or_default();
        (&*self.stream)
            .write_all(output)
            .map_err(|error| failed(error, timeout))
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.buffers.held += amount;
        if self.buffers.held + ROOM > OUTPUT {
            self.send(timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.send(timeout)?;
        let limit = self.stepped(timeout)?;
        if limit != self.read_timeout {
            self.stream.set_read_timeout(limit)?;
            self.read_timeout = limit;
        }
        let amount = loop {
            match (&*self.stream).read(self.buffers.input_append_buf()) {
                // A signal; they are few, so what is left needs no counting again.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.map_err(|error| failed(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Nothing has come that nobody asked for, and the other side has not closed.
    fn is_open(&mut self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        recv(&*self.stream, &mut [0_u8; 1], flags).err() == Some(rustix::io::Errno::AGAIN)
    }
}

/// What comes in, and what is to go out behind what is held already.
#[derive(Debug)]
struct Held {
    input: LazyBuffers,
    output: Vec<u8>,
    held: usize,
}

impl Held {
    fn allocate(&mut self) {
        if self.output.is_empty() {
            self.output = vec![0; OUTPUT];
        }
    }
}

impl Buffers for Held {
    fn output(&mut self) -> &mut [u8] {
        self.allocate();
        self.output.get_mut(self.held..).unwrap_or_default()
    }

    fn input(&self) -> &[u8] {
        self.input.input()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.input.input_append_buf()
    }

    fn input_appended(&mut self, amount: usize) {
        self.input.input_appended(amount);
    }

    fn input_consume(&mut self, amount: usize) {
        self.input.input_consume(amount);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.allocate();
        let output = self.output.get_mut(self.held..).unwrap_or_default();
        (self.input.input_append_buf(), output)
    }

    fn can_use_input(&self) -> bool {
        self.input.can_use_input()
    }
}

/// What is left of a timeout; an error if that is nothing.
fn left(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    if timeout.after.is_zero() {
        return Err(Error::Timeout(timeout.reason));
    }
    Ok(timeout.not_zero().map(|left| *left))
}

fn is_timeout(error: &io::Error) -> bool {
    // A socket's timeout is reported as the first.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn failed(error: io::Error, timeout: NextTimeout) -> Error {
    if is_timeout(&error) {
        Error::Timeout(timeout.reason)
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn timeout(after: Duration) -> NextTimeout {
        NextTimeout {
            after: after.into(),
            reason: Timeout::Global,
            ..NextTimeout::default()
        }
    }

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::new(Arc::new(stream), Duration::from_millis(100));
        (socket, listener.accept().unwrap().0)
    }

    fn put(socket: &mut Socket, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let output = socket.buffers().output();
            let fits = rest.len().min(output.len());
            output[..fits].copy_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            socket
                .transmit_output(fits, timeout(Duration::from_secs(30)))
                .unwrap();
        }
    }

    #[test]
    fn headers_and_body_go_together_when_an_answer_is_waited_for() {
        let (mut ours, mut theirs) = pair();
        put(&mut ours, b"POST");
        put(&mut ours, b" body");
        theirs.set_nonblocking(true).unwrap();
        let early = theirs.read(&mut [0; 16]).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::WouldBlock, "it is held");
        theirs.write_all(b"answer").unwrap();
        assert!(ours.await_input(timeout(Duration::from_secs(30))).unwrap());
        assert_eq!(ours.buffers().input(), b"answer");
        theirs.set_nonblocking(false).unwrap();
        let mut sent = [0; 16];
        assert_eq!(theirs.read(&mut sent).unwrap(), 9);
        assert_eq!(&sent[..9], b"POST body");
    }

    #[test]
    fn what_is_longer_than_the_room_arrives_whole() {
        let (mut ours, mut theirs) = pair();
        let long: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = long.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            theirs.read_exact(&mut got).unwrap();
            theirs.write_all(b"x").unwrap();
            assert!(got == expected);
        });
        put(&mut ours, &long);
        assert!(ours.await_input(timeout(Duration::from_secs(30))).unwrap());
        reader.join().unwrap();
    }

    #[test]
    fn a_connection_is_open_while_nothing_came_and_nobody_closed() {
        let (mut ours, mut theirs) = pair();
        assert!(ours.is_open());
        assert!(ours.is_open(), "looking takes nothing away");
        theirs.write_all(b"!").unwrap();
        // It arrives when it does.
        ours.stream.peek(&mut [0]).unwrap();
        assert!(!ours.is_open());
        let (mut ours, theirs) = pair();
        drop(theirs);
        ours.stream.peek(&mut [0]).unwrap();
        assert!(!ours.is_open());
    }

    #[test]
    fn the_timeout_is_set_in_steps_and_kept() {
        let (ours, _theirs) = pair();
        let stepped = |millis| {
            let after = timeout(Duration::from_millis(millis));
            ours.stepped(after).unwrap().unwrap().as_millis()
        };
        assert_eq!(stepped(3_000), 3_000);
        assert_eq!(stepped(2_999), 3_000);
        assert_eq!(stepped(2_900), 2_900);
        assert_eq!(stepped(1), 100);
        let spent = ours.stepped(timeout(Duration::ZERO));
        assert!(matches!(spent, Err(Error::Timeout(Timeout::Global))));
        let never = ours.stepped(NextTimeout {
            after: ureq::unversioned::transport::time::Duration::NotHappening,
            ..timeout(Duration::ZERO)
        });
        assert_eq!(never.unwrap(), None);
    }

    #[test]
    fn silence_ends_with_the_timeout() {
        let (mut ours, _theirs) = pair();
        let answer = ours.await_input(timeout(Duration::from_millis(20)));
        assert!(matches!(answer, Err(Error::Timeout(Timeout::Global))));
    }
}
