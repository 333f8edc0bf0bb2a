//! How a connection waits: one poll function over everything that may happen.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{Connection, Event, NEVER, OUT_FULL, WRITE_TIMEOUT};

/// Bytes of a first read, on the stack: more does not come at once from a peer that is not busy.
const SMALL_READ: usize = 4 * 1024;
/// Free space kept in the input buffer of a busy peer.
const LARGE_READ: usize = 32 * 1024;
/// Output that is not read by the peer stops reading from it.
const OUT_BLOCKED: usize = 128 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.pipeline.poll(cx) {
            Poll::Ready(Ok(completed)) => return Poll::Ready(Event::Committed(completed)),
            Poll::Ready(Err(refusal)) => return Poll::Ready(Event::Refused(refusal)),
            Poll::Pending => {}
        }
        for at in 0..self.side.len() {
            if let Some(side) = self.side.get_mut(at)
                && let Poll::Ready(done) = side.as_mut().poll(cx)
            {
                drop(self.side.swap_remove(at));
                return Poll::Ready(Event::Side(done));
            }
        }
        if let Poll::Ready(signals) = self.live.mailbox.poll(cx) {
            return Poll::Ready(Event::Signals(signals));
        }
        if let Poll::Ready(event) = self.poll_write(cx) {
            return Poll::Ready(event);
        }
        if self.may_read()
            && let Poll::Ready(event) = self.poll_read(cx)
        {
            return Poll::Ready(event);
        }
        self.poll_deadline(cx)
    }

    /// Writes what there is. Ready when everything went out that had kept others waiting.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let waited = self.out.len() >= OUT_FULL || self.blocked_since.is_some();
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Event::Broken(std::io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(count)) => {
                    self.shared.metrics.bytes_sent.add(count as u64);
                    self.out.advance(count);
                    self.flushed = false;
                    self.blocked_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Broken(error)),
                Poll::Pending => return self.blocked(),
            }
        }
        if !self.flushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Broken(error)),
                Poll::Pending => return self.blocked(),
            }
        }
        self.blocked_since = None;
        // A busy peer's next acknowledgements use it again.
        if !self.busy {
            self.out = BytesMut::new();
        }
        if waited {
            Poll::Ready(Event::Written)
        } else {
            Poll::Pending
        }
    }

    fn blocked(&mut self) -> Poll<Event> {
        self.blocked_since.get_or_insert_with(Instant::now);
        Poll::Pending
    }

    pub(super) fn may_read(&self) -> bool {
        self.paused_until.is_none()
            && self.out.len() < OUT_BLOCKED
            && self.unrouted.is_empty()
            && self.pipeline.has_room()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let result = if self.busy {
            self.input.reserve(LARGE_READ);
            // Dropped when it is not ready, which loses nothing (read_buf is cancel safe).
            let read = std::pin::pin!(self.io.read_buf(&mut self.input));
            read.poll(cx)
        } else {
            let mut bytes = [0; SMALL_READ];
            let mut small = ReadBuf::new(&mut bytes);
            Pin::new(&mut self.io)
                .poll_read(cx, &mut small)
                .map_ok(|()| {
                    self.input.extend_from_slice(small.filled());
                    small.filled().len()
                })
        };
        match result {
            Poll::Ready(Ok(count)) => {
                self.busy = count >= SMALL_READ;
                Poll::Ready(Event::Read(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Event::Broken(error)),
            Poll::Pending => {
                if self.input.is_empty() && self.input.capacity() > 0 {
                    self.input = BytesMut::new();
                    self.busy = false;
                }
                Poll::Pending
            }
        }
    }

    /// The next moment something is to be done whether or not anything happens.
    fn next_deadline(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive.map(|after| self.last_read + after);
        let write = self.blocked_since.map(|since| since + WRITE_TIMEOUT);
        [keep_alive, write, self.paused_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// The timer is only moved when something is due before it goes off: each read moves the keep
    /// alive's end, and none of them touches the timer.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(next) = self.next_deadline() else {
            return Poll::Pending;
        };
        if next < self.sleep.deadline() {
            self.sleep.as_mut().reset(next);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= next {
                self.sleep.as_mut().reset(Instant::now() + NEVER);
                return Poll::Ready(Event::Deadline);
            }
            self.sleep.as_mut().reset(next);
        }
        Poll::Pending
    }
}
