//! A connection in use: what comes is dealt with, what is due is sent.

use core::cell::Cell;
use core::time::Duration;

use bytes::{Buf, BytesMut};
use embassy_futures::select::select;
use embedded_io_async::{Read, Write};
use embedded_tls::{TlsReader, TlsWriter};
use tidegate_wire::output::TooSmall;
use tidegate_wire::{Channel, MessageId, Reason};

use super::Device;
use super::link::{Connection, FAREWELL, Left, Lost, PAUSE, TRIALS, WRITE};
use super::orders::NotRecorded;
use crate::board::{Board, Clock, Notice, System};
use crate::mqtt::{Event, Verdict};
use crate::profile::Actuators;
use crate::state::key;
use crate::telemetry::{Item, Moment};
use crate::tls::{Suite, Wire};

/// With so many connections a message whose signature is refused is tried again. They are minutes
/// apart by then: the buffers last as long as in any other outage.
const SIGNATURES: u8 = 8;

impl<B: Board, A: Actuators> Device<B, A> {
    /// Reads for ever, and deals with what comes.
    pub(super) async fn read<T: Read>(
        &self,
        mut reader: TlsReader<'_, &Wire<T>, Suite>,
        up: &Connection<'_>,
        up_since: &Cell<Option<Duration>>,
    ) -> Result<core::convert::Infallible, Lost> {
        let mut input = BytesMut::new();
        loop {
            {
                let mut chunk = reader.read_buffered().await?;
                input.extend_from_slice(chunk.pop_all());
            }
            loop {
                let received = up.session.borrow_mut().receive(
                    self.now(),
                    &input,
                    &mut up.out.borrow_mut(),
                )?;
                let Some((len, event)) = received else { break };
                self.heed(event, up, up_since).await?;
                input.advance(len);
            }
            up.stir.signal(());
        }
    }

    async fn heed(
        &self,
        event: Event<'_>,
        up: &Connection<'_>,
        up_since: &Cell<Option<Duration>>,
    ) -> Result<(), Lost> {
        match event {
            Event::Connected { resumed } => {
                log::info!(
                    "connected, session {}",
                    if resumed { "resumed" } else { "new" }
                );
                up_since.set(Some(self.now()));
                self.connected.set(true);
                self.system.notice(Notice::Connected);
            }
            Event::Settled(item, Verdict::Rejected(..)) if up.on_trial && !up.proven.get() => {
                // What is wrong may be the credentials and not the message.
                up.session.borrow_mut().restore(item);
                return Err(Lost::TrialRejected);
            }
            Event::Settled(item, Verdict::Rejected(Some(Reason::BadSignature), _))
                if !up.proven.get() && self.is_worth_keeping(item.id) =>
            {
                up.session.borrow_mut().restore(item);
                return Err(Lost::SecretRefused);
            }
            Event::Settled(item, verdict) => {
                if let (Verdict::Accepted, Moment::Uptime(at)) = (verdict, item.moment)
                    && up_since.get().is_some_and(|since| at >= since)
                {
                    let after = self.now().saturating_sub(at);
                    self.system.notice(Notice::Accepted(after));
                }
                self.settle(&item, verdict).await;
                if matches!(verdict, Verdict::Accepted | Verdict::Known) && !up.proven.replace(true)
                {
                    self.proven(up).await;
                }
            }
            Event::Deferred(Some(Reason::StaleTimestamp)) => return Err(Lost::Clock),
            Event::Deferred(_) => up.not_before.set(self.now() + PAUSE),
            Event::Message {
                channel: Channel::Command,
                body,
                packet_id,
            } => {
                let dealt = self
                    .command(body, up.credentials, &up.key, self.seconds())
                    .await;
                dealt.map_err(|NotRecorded| Lost::Unrecorded)?;
                if let Some(packet_id) = packet_id {
                    up.session.borrow_mut().acknowledge(
                        self.now(),
                        packet_id,
                        &mut up.out.borrow_mut(),
                    )?;
                }
            }
            Event::Message {
                body, packet_id, ..
            } => {
                self.system.notice(Notice::Response);
                log::info!(
                    "response: {}",
                    core::str::from_utf8(body).unwrap_or("(binary)")
                );
                if let Some(packet_id) = packet_id {
                    up.session.borrow_mut().acknowledge(
                        self.now(),
                        packet_id,
                        &mut up.out.borrow_mut(),
                    )?;
                }
            }
            Event::Subscribed | Event::Nothing => {}
        }
        Ok(())
    }

    /// Whether a message whose signature was refused, before any was accepted, is to be tried with
    /// further connections: more likely the gateway has another secret than that of all things this
    /// message is wrong, and what is in the buffers would go the same way.
    fn is_worth_keeping(&self, id: MessageId) -> bool {
        let before = match self.refused.get() {
            Some((refused, times)) if refused == id => times,
            _ => 0,
        };
        self.refused.set(Some((id, before.saturating_add(1))));
        before < SIGNATURES
    }

    async fn settle(&self, item: &Item, verdict: Verdict) {
        self.outcome_told(item.id).await;
        if let Verdict::Rejected(reason, code) = verdict {
            log::warn!("gateway rejected {} ({reason:?}, {code:?})", item.id);
        }
        if item.channel == Channel::Data {
            self.forget(item).await;
        }
        if let Some((id, reported)) = self.lost_report.get()
            && id == item.id
        {
            self.lost_report.set(None);
            let left = self.lost.get().saturating_sub(reported);
            self.lost.set(left);
            if let Err(error) = self.state.lock().await.set_number(key::LOST, left).await {
                log::error!("{error}");
            }
        }
    }

    /// A message was accepted: certificate, key, roots, secret and time are right, and so is the
    /// firmware.
    async fn proven(&self, up: &Connection<'_>) {
        self.confirm_time().await;
        self.updates.proven.signal(());
        let mut store = self.store.lock().await;
        if up.on_trial {
            match store.confirm().await {
                Ok(()) => {
                    log::info!("new credentials work and are kept");
                    self.event("credentials_renewed", |_| Ok(()));
                }
                Err(error) => log::error!("{error}"),
            }
        } else if store.trial().is_some() && self.refusals.get() >= TRIALS {
            match store.discard().await {
                Ok(()) => {
                    log::warn!("new credentials were refused and are given up");
                    self.event("credentials_refused", |_| Ok(()));
                }
                Err(error) => log::error!("{error}"),
            }
        } else if store.trial().is_some() {
            // The gateway was away when they were tried.
            self.renewed.signal(());
        }
    }

    /// Writes for ever what is due; returns to leave.
    pub(super) async fn write<T: Write>(
        &self,
        mut writer: TlsWriter<'_, &Wire<T>, Suite>,
        up: &Connection<'_>,
    ) -> Result<Left, Lost> {
        let mut farewell = None;
        loop {
            let left = self.leaving(up, &mut farewell);
            self.fill(up).await?;
            if left.is_some() {
                let mut out = up.out.borrow_mut();
                up.session.borrow_mut().disconnect(&mut out)?;
            }
            let out = up.out.borrow_mut().split();
            if !out.is_empty() {
                let written = async {
                    writer.write_all(&out).await?;
                    writer.flush().await
                };
                self.within(WRITE, written)
                    .await
                    .ok_or(Lost::Timeout("write"))??;
            }
            if let Some(left) = left {
                return Ok(left);
            }
            if !out.is_empty() {
                continue;
            }
            let deadline = up.session.borrow().deadline();
            let held = up.not_before.get();
            let deadline = if held > self.now() {
                deadline.min(held)
            } else {
                deadline
            };
            let deadline = farewell.map_or(deadline, |at: Duration| deadline.min(at));
            select(
                select(up.stir.wait(), self.told.wait()),
                select(
                    self.clock.sleep_until(deadline),
                    self.restart_or_renewal(farewell),
                ),
            )
            .await;
        }
    }

    /// Wakes the writer when there is a reason to leave; pends once that is known.
    async fn restart_or_renewal(&self, farewell: Option<Duration>) {
        if farewell.is_some() {
            core::future::pending::<()>().await;
        }
        self.renewed.wait().await;
        self.renewed.signal(());
    }

    /// Whether to leave now: what was acknowledged to the gateway first, or some time has passed.
    fn leaving(&self, up: &Connection<'_>, farewell: &mut Option<Duration>) -> Option<Left> {
        let left = if self.restart.get() {
            Left::Restart
        } else if self.renewed.signaled() {
            Left::Renewed
        } else {
            return None;
        };
        let until = *farewell.get_or_insert(self.now() + FAREWELL);
        let session = up.session.borrow();
        let nothing_waits = self.outbox.borrow().is_empty()
            && self
                .readings
                .try_lock()
                .is_ok_and(|readings| readings.none_in_ram());
        let done = nothing_waits && session.in_flight() == 0;
        if done || self.now() >= until {
            self.renewed.reset();
            return Some(left);
        }
        None
    }

    /// Writes what is due: a ping, what is in flight from before, then the new.
    async fn fill(&self, up: &Connection<'_>) -> Result<(), Lost> {
        let now = self.now();
        up.session
            .borrow_mut()
            .tick(now, &mut up.out.borrow_mut())?;
        if now < up.not_before.get() {
            return Ok(());
        }
        loop {
            let again = up.session.borrow_mut().resend(
                now,
                self.seconds(),
                |item| self.sign(item, up.credentials, &up.key),
                &mut up.out.borrow_mut(),
            )?;
            if !again {
                break;
            }
        }
        while up.session.borrow().has_room() {
            let Some(item) = self.next_item().await else {
                break;
            };
            let Some(message) = self.sign(&item, up.credentials, &up.key) else {
                // It never can be: forget it, or it would be tried for ever.
                self.forget(&item).await;
                continue;
            };
            let sent = up.session.borrow_mut().publish(
                self.now(),
                self.seconds(),
                item.clone(),
                message,
                &mut up.out.borrow_mut(),
            );
            if let Err(error) = sent {
                log::error!("{error}");
                self.forget(&item).await;
            }
        }
        Ok(())
    }

    /// The event that tells of lost readings; they count as told once it is acknowledged.
    fn report_lost(&self, count: u64) -> Option<Item> {
        let item = Item::new(Channel::Event, self.message_id(), self.moment(), |m| {
            m.string("event", "readings_lost")?;
            m.integer("count", i64::try_from(count).unwrap_or(i64::MAX))
        });
        let item = item.map_err(|TooSmall { .. }| ()).ok()?;
        self.lost_report.set(Some((item.id, count)));
        Some(item)
    }

    /// The most urgent message: notices, then readings, oldest first.
    async fn next_item(&self) -> Option<Item> {
        if let Some(item) = self.outbox.borrow_mut().pop_notice() {
            return Some(item);
        }
        if self.lost.get() > 0
            && self.lost_report.get().is_none()
            && let Some(item) = self.report_lost(self.lost.get())
        {
            return Some(item);
        }
        let mut readings = self.readings.lock().await;
        let next = readings.next().await;
        // What was given up is told with the next message.
        self.count_lost(readings.take_lost()).await;
        next.unwrap_or_else(|error| {
            log::error!("{error}");
            None
        })
    }

    /// A reading needs to be kept no longer.
    async fn forget(&self, item: &Item) {
        let mut readings = self.readings.lock().await;
        if let Err(error) = readings.settle(item.id).await {
            log::error!("{error}");
        }
        self.count_lost(readings.take_lost()).await;
    }
}
