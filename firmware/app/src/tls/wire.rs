//! One TCP connection, shared by the reading and the writing half of a TLS connection.

use core::cell::RefCell;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{ErrorType, Read, Write};

/// Lets both halves use a connection that cannot be split: each borrows it for a single poll.
///
/// A TLS record must be read whole or not at all, so reading is never given up half-way; while it
/// waits, the other half writes.
pub struct Wire<T>(RefCell<T>);

impl<T> Wire<T> {
    /// Takes over a connection. See [`Network::Tcp`](crate::board::Network::Tcp) for what its
    /// futures must bear.
    pub const fn new(connection: T) -> Self {
        Self(RefCell::new(connection))
    }

    /// Polls `operation` afresh each time, so that nothing is borrowed between two polls.
    async fn poll<O>(&self, mut operation: impl AsyncFnMut(&mut T) -> O) -> O {
        poll_fn(|context| {
            // Both halves run in one task and neither calls the other: it is never borrowed twice.
            let Ok(mut connection) = self.0.try_borrow_mut() else {
                context.waker().wake_by_ref();
                return Poll::Pending;
            };
            pin!(operation(&mut connection)).poll(context)
        })
        .await
    }
}

impl<T> fmt::Debug for Wire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire(..)")
    }
}

impl<T: ErrorType> ErrorType for &Wire<T> {
    type Error = T::Error;
}

impl<T: Read> Read for &Wire<T> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, T::Error> {
        self.poll(async |connection| connection.read(buffer).await)
            .await
    }
}

impl<T: Write> Write for &Wire<T> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, T::Error> {
        self.poll(async |connection| connection.write(bytes).await)
            .await
    }

    async fn flush(&mut self) -> Result<(), T::Error> {
        self.poll(async |connection| connection.flush().await).await
    }
}
