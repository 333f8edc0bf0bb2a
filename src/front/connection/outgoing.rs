//! What a connection sends besides answers: messages, and the commands that wait for its device.

use tidegate_wire::Channel;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Connection, Done, OUT_FULL};
use crate::{
    front::{commands, free::route, metrics::Dropped},
    store::sessions,
};

/// Messages fetched from the session's queue at once, and bytes.
const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 64 * 1024;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    /// Sends what waits, and fetches more when that is used up.
    pub(super) fn pump(&mut self) {
        if self.session.wants_messages() {
            self.live.mailbox.take(self.session.mailbox());
        }
        if self.out.len() < OUT_FULL
            && (self.session.queued() > 0 || !self.session.wants_messages())
        {
            let now = self.shared.clock.unchecked_now();
            let pumped = self.session.pump(now, OUT_FULL, &mut self.out);
            let metrics = &self.shared.metrics;
            metrics.messages_sent.add(pumped.sent);
            metrics.dropped(Dropped::Expired).add(pumped.expired);
            metrics.dropped(Dropped::TooLarge).add(pumped.too_large);
            metrics
                .dropped(Dropped::NoSubscription)
                .add(pumped.unsubscribed);
            // QoS 0 commands are delivered, expired messages done: nobody will say so later.
            if !self.session.delivered.is_empty() || !self.session.progress.is_empty() {
                self.submit();
            }
        }
        if !self.unrouted.is_empty() && !self.awaiting_room {
            self.awaiting_room = true;
            let broker = self.shared.broker.clone();
            self.side.push(Box::pin(async move {
                broker.room().await;
                Done::Room
            }));
        }
        if let Some(session) = self.live.session
            && self.queue_unread
            && !self.queue_reading
            && self.session.queued() == 0
        {
            self.queue_unread = false;
            self.queue_reading = true;
            let (store, after) = (self.shared.store.clone(), self.queue_after);
            self.side.push(Box::pin(async move {
                let page = move |conn: &rusqlite::Connection| {
                    sessions::page(conn, session, after, PAGE_MESSAGES, PAGE_BYTES)
                };
                Done::Page(store.read(page).await)
            }));
        }
    }

    /// Gives the broker what it had no room for, in order.
    pub(super) fn route_rest(&mut self) {
        let now = self.shared.clock.unchecked_now();
        while let Some(message) = self.unrouted.front() {
            if !route(&self.shared, message, now) {
                return;
            }
            self.unrouted.pop_front();
        }
    }

    /// Fetches and signs the commands that wait for the device, if it wants to hear of them.
    pub(in crate::front) fn fetch_commands(&mut self) {
        let Some(device) = self.device.clone() else {
            return;
        };
        let topic = Channel::Command.topic(&device.id);
        let topic = device.command_topic.as_deref().unwrap_or(&topic);
        if self.commands_reading {
            self.commands_unread = true;
            return;
        }
        if !self.shared.commands.waiting(device.key)
            || self.session.subscriptions.granted(topic).is_none()
        {
            return;
        }
        self.commands_reading = true;
        let shared = self.shared.clone();
        self.side.push(Box::pin(async move {
            Done::Commands(commands::fetch(&shared, &device).await)
        }));
    }
}
