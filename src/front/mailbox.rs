//! What others leave for a connection: signals, and messages that live as long as it does.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Why, message::Message};

/// Something to look at, gathered until the connection wakes up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Signals {
    /// Messages are in the mailbox.
    pub(super) messages: bool,
    /// The session's queue on disk has grown.
    pub(super) queue: bool,
    /// Commands wait for the device.
    pub(super) commands: bool,
    /// The registry or the credentials changed: is this connection still welcome?
    pub(super) recheck: bool,
    /// To be closed.
    pub(super) close: Option<Why>,
}

impl Signals {
    fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// One connection's mailbox: at most `max_messages` and `max_bytes`, what is beyond is refused.
#[derive(Debug)]
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    signals: Signals,
    messages: VecDeque<Message>,
    bytes: usize,
    waker: Option<Waker>,
    closed: bool,
}

impl Mailbox {
    #[must_use]
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max_messages,
            max_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete before the lock is released.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a message; false if there is no room or nobody will come for it.
    pub(super) fn push(&self, message: Message) -> bool {
        let mut inner = self.lock();
        let size = message.payload.len() + message.topic.len() + message.properties.len();
        if inner.closed
            || inner.messages.len() >= self.max_messages
            || inner.bytes.saturating_add(size) > self.max_bytes
        {
            return false;
        }
        inner.bytes += size;
        inner.messages.push_back(message);
        inner.signals.messages = true;
        wake(inner);
        true
    }

    /// Leaves a signal.
    pub(super) fn signal(&self, set: impl FnOnce(&mut Signals)) {
        let mut inner = self.lock();
        set(&mut inner.signals);
        wake(inner);
    }

    /// Asks the connection to close; the first reason counts.
    pub(super) fn close(&self, why: Why) {
        self.signal(|signals| {
            signals.close.get_or_insert(why);
        });
    }

    /// Takes the signals; pending until there are some.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Signals> {
        let mut inner = self.lock();
        if inner.signals.any() {
            return Poll::Ready(std::mem::take(&mut inner.signals));
        }
        match &mut inner.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes all messages, in order, leaving `empty`'s memory in their place.
    pub(super) fn take(&self, empty: &mut VecDeque<Message>) {
        debug_assert!(empty.is_empty());
        let mut inner = self.lock();
        inner.bytes = 0;
        std::mem::swap(&mut inner.messages, empty);
    }

    /// Nobody comes for messages any more.
    pub(super) fn shut(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.messages = VecDeque::new();
        inner.waker = None;
    }
}

/// Wakes the connection after the lock is gone, so that it does not wait for it.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}
