//! One connection: a task that reads, writes and waits, and owns everything it needs to do so.
//!
//! # How it waits
//!
//! One poll function looks at what may have happened, in this order: commits, side work, signals,
//! room to write, bytes to read, time. What commits make ready is gathered in one buffer before it
//! is written, so a wake-up costs one write, however many acknowledgements it brings.
//!
//! # Memory
//!
//! Idle, it holds no buffers: a read goes to the stack first and into the input buffer only with what
//! came. While a peer keeps that full, reads go straight into a larger buffer.
//!
//! # Backpressure
//!
//! Nothing is read while too much waits for the disk or for the peer to read. When the storage refuses
//! messages they are not acknowledged: reading pauses and then the connection is closed, and the
//! pause doubles from [`STORAGE_PAUSE`] to [`STORAGE_PAUSE_MAX`] for each refusal in a row of an
//! identity, so that a fleet comes back spread out rather than at once.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tidegate_mqtt::{
    Accept, ClientPacket, DecodeError, Disconnect, PINGRESP, Property, PropertyBuf, ReasonCode,
    Version, decode, frame,
};
use tidegate_wire::{Channel, MessageId, TopicBuf};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Shared, Why,
    directory::{Live, Owner, Principal, Traffic, Turn},
    mailbox::Signals,
    message::Message,
    metrics::{Dropped, Ended},
    session::{Breach, Received, Release, Session},
    stage::{Burst, Completed, Deferred, Pipeline, Refusal},
};
use crate::{
    command::Prepared,
    pki::Peer as Certificate,
    registry::Device,
    store::{
        StoreError,
        sessions::{self, DueWill, StoredWill, Waiting},
    },
};

/// Bytes of a first read, on the stack: two full-sized TLS records' worth of small messages would not
/// come at once from a peer that is not busy.
const SMALL_READ: usize = 4 * 1024;
/// Free space kept in the input buffer of a busy peer.
const LARGE_READ: usize = 32 * 1024;
/// Output is gathered up to this before no more messages are added; acknowledgements always fit.
const OUT_FULL: usize = 64 * 1024;
/// Output that is not read by the peer stops reading from it.
const OUT_BLOCKED: usize = 128 * 1024;
/// A peer that reads nothing of what is sent to it for this long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the last words to a peer.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// When the gateway stops: for what is on its way to disk to be acknowledged.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// From a refusal of the storage to closing the connection.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);
const STORAGE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Messages fetched from the session's queue at once, and bytes.
const PAGE_MESSAGES: usize = 64;
const PAGE_BYTES: usize = 64 * 1024;
/// A sleep that nothing but a reset ends.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a connection ends, and what the peer is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct End {
    pub(super) ended: Ended,
    /// For DISCONNECT, in MQTT 5.
    pub(super) reason: Option<ReasonCode>,
    pub(super) text: String,
    pub(super) publish_will: bool,
}

impl End {
    pub(super) fn new(ended: Ended, reason: ReasonCode, text: impl Into<String>) -> Self {
        Self {
            ended,
            reason: Some(reason),
            text: text.into(),
            publish_will: true,
        }
    }

    fn silent(ended: Ended, text: impl Into<String>) -> Self {
        Self {
            ended,
            reason: None,
            text: text.into(),
            publish_will: true,
        }
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::new(Ended::Protocol, error.reason(), error.to_string())
    }
}

impl From<Breach> for End {
    fn from(breach: Breach) -> Self {
        Self::new(Ended::Protocol, breach.reason(), breach.to_string())
    }
}

impl From<Why> for End {
    fn from(why: Why) -> Self {
        let (ended, reason) = match why {
            Why::TakenOver => (Ended::TakenOver, ReasonCode::SessionTakenOver),
            Why::Revoked | Why::Removed => (Ended::Administrative, ReasonCode::NotAuthorized),
            Why::Disabled | Why::Administrative => {
                (Ended::Administrative, ReasonCode::AdministrativeAction)
            }
            Why::Stopping => (Ended::Stopping, ReasonCode::ServerShuttingDown),
        };
        Self::new(ended, reason, why.to_string())
    }
}

/// What side work brought.
enum Done {
    Page(Result<Vec<Waiting>, StoreError>),
    Commands(Vec<(MessageId, Prepared)>),
    Told(Result<(), StoreError>),
}

type Side = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Event {
    Read(usize),
    Committed(Completed),
    Refused(Refusal),
    Signals(Signals),
    Side(Done),
    Written,
    Deadline,
    Broken(std::io::Error),
}

/// What CONNECT made.
pub(super) struct Opened<S> {
    pub(super) io: S,
    pub(super) shared: Arc<Shared>,
    pub(super) owner: Owner,
    pub(super) turn: Turn,
    pub(super) live: Arc<Live>,
    pub(super) session: Session,
    /// Seconds the session lives after the connection.
    pub(super) expiry: u32,
    /// Seconds; 0 for none.
    pub(super) keep_alive: u16,
    /// Of a session that ends with the connection; else the store has it.
    pub(super) will: Option<StoredWill>,
    pub(super) certificate: Option<Certificate>,
    /// Read after CONNECT already.
    pub(super) input: BytesMut,
    /// CONNACK.
    pub(super) out: BytesMut,
}

pub(super) struct Connection<S> {
    io: S,
    pub(super) shared: Arc<Shared>,
    owner: Owner,
    turn: Option<Turn>,
    pub(super) live: Arc<Live>,
    pub(super) session: Session,
    pub(super) device: Option<Arc<Device>>,
    pub(super) data_topic: Option<TopicBuf>,
    pub(super) traffic: Arc<Traffic>,
    certificate: Option<Certificate>,
    pub(super) expiry: u32,
    will: Option<StoredWill>,
    keep_alive: Option<Duration>,
    input: BytesMut,
    out: BytesMut,
    flushed: bool,
    busy: bool,
    pub(super) burst: Burst,
    pipeline: Pipeline,
    side: Vec<Side>,
    /// The queue on disk may hold more, after number `queue_after`.
    queue_unread: bool,
    queue_reading: bool,
    queue_after: i64,
    commands_reading: bool,
    /// More came while they were being fetched.
    commands_unread: bool,
    pub(super) attached: bool,
    last_read: Instant,
    blocked_since: Option<Instant>,
    /// Reading pauses until then.
    pub(super) paused_until: Option<Instant>,
    /// What to do when the pause is over, if not to go on.
    after_pause: Option<End>,
    pub(super) over_rate: u32,
    sleep: Pin<Box<Sleep>>,
}

/// Runs a connection until it ends; when this returns nothing of it is left to do.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(opened: Opened<S>) {
    let mut connection = Connection::new(opened);
    let end = connection.serve().await;
    connection.finish(end).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    fn new(opened: Opened<S>) -> Self {
        let device = opened
            .live
            .principal
            .device()
            .and_then(|id| opened.shared.registry.get(id));
        let now = Instant::now();
        let durable = opened.session.is_durable();
        let keep_alive = u64::from(opened.keep_alive) * 1500;
        Self {
            data_topic: opened
                .live
                .principal
                .device()
                .map(|id| Channel::Data.topic(id)),
            traffic: opened.shared.directory.traffic(&opened.live.principal),
            io: opened.io,
            shared: opened.shared,
            owner: opened.owner,
            turn: Some(opened.turn),
            live: opened.live,
            session: opened.session,
            device,
            certificate: opened.certificate,
            expiry: opened.expiry,
            will: opened.will,
            keep_alive: (keep_alive > 0).then(|| Duration::from_millis(keep_alive)),
            input: opened.input,
            out: opened.out,
            flushed: false,
            busy: false,
            burst: Burst::default(),
            pipeline: Pipeline::default(),
            side: Vec::new(),
            queue_unread: durable,
            queue_reading: false,
            queue_after: 0,
            commands_reading: false,
            commands_unread: false,
            attached: false,
            last_read: now,
            blocked_since: None,
            paused_until: None,
            after_pause: None,
            over_rate: 0,
            sleep: Box::pin(tokio::time::sleep(NEVER)),
        }
    }

    async fn serve(&mut self) -> End {
        self.resubscribe();
        // Somebody newer may have come between our turn and being seen.
        if self.turn.as_ref().is_some_and(Turn::is_superseded) {
            return Why::TakenOver.into();
        }
        self.fetch_commands();
        if let Err(end) = self.read_burst() {
            return end;
        }
        loop {
            self.pump();
            let event = std::future::poll_fn(|cx| self.poll(cx)).await;
            let result = match event {
                Event::Read(0) => Err(End::silent(Ended::Lost, "closed without DISCONNECT")),
                Event::Read(count) => {
                    self.shared.metrics.bytes_received.add(count as u64);
                    self.last_read = Instant::now();
                    self.read_burst()
                }
                Event::Committed(completed) => {
                    self.completed(completed);
                    self.buffered_burst()
                }
                Event::Refused(refusal) => self.refused(refusal),
                Event::Signals(signals) => self.signalled(signals),
                Event::Side(done) => self.done(done),
                Event::Written => self.buffered_burst(),
                Event::Deadline => self.deadline(),
                Event::Broken(error) => Err(End::silent(Ended::Lost, error.to_string())),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    // --- waiting ---------------------------------------------------------------------------------

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
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
        if self.out.capacity() > SMALL_READ {
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

    fn may_read(&self) -> bool {
        self.paused_until.is_none() && self.out.len() < OUT_BLOCKED && self.pipeline.has_room()
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

    // --- what happened ---------------------------------------------------------------------------

    fn deadline(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            if let Some(end) = self.after_pause.take() {
                return Err(end);
            }
            self.last_read = now;
            return self.buffered_burst();
        }
        if self
            .blocked_since
            .is_some_and(|since| now >= since + WRITE_TIMEOUT)
        {
            return Err(End::silent(Ended::Slow, "does not read what is sent to it"));
        }
        if let Some(keep_alive) = self.keep_alive
            && now >= self.last_read + keep_alive
        {
            if self.may_read() {
                let text = "nothing came for one and a half times the keep alive";
                return Err(End::new(
                    Ended::KeepAlive,
                    ReasonCode::KeepAliveTimeout,
                    text,
                ));
            }
            // It is we who do not read.
            self.last_read = now;
        }
        Ok(())
    }

    fn signalled(&mut self, signals: Signals) -> Result<(), End> {
        if let Some(why) = signals.close {
            return Err(why.into());
        }
        if signals.recheck {
            self.recheck()?;
        }
        if signals.queue {
            self.queue_unread = true;
        }
        if signals.commands {
            self.fetch_commands();
        }
        Ok(())
    }

    /// Whether this peer is still welcome, and with which rights.
    fn recheck(&mut self) -> Result<(), End> {
        if let Some(certificate) = &self.certificate {
            let now = super::tls::utc(self.shared.clock.unchecked_now());
            if !self.shared.credentials.borrow().may_stay(certificate, now) {
                return Err(Why::Revoked.into());
            }
        }
        if let Principal::Device(id) = &self.live.principal {
            match self.shared.registry.get(id) {
                None => return Err(Why::Removed.into()),
                Some(device) if !device.enabled => return Err(Why::Disabled.into()),
                Some(device) => self.device = Some(device),
            }
        }
        Ok(())
    }

    fn refused(&mut self, refusal: Refusal) -> Result<(), End> {
        self.shared.metrics.storage_refusals.increment();
        if refusal == Refusal::Stopping {
            return Err(Why::Stopping.into());
        }
        let reason = match refusal {
            Refusal::Full => ReasonCode::QuotaExceeded,
            _ => ReasonCode::ImplementationSpecificError,
        };
        let pause = self.traffic.refused(STORAGE_PAUSE, STORAGE_PAUSE_MAX);
        self.paused_until = Some(Instant::now() + pause);
        self.after_pause = Some(End::new(Ended::Storage, reason, refusal.to_string()));
        Ok(())
    }

    fn done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Page(Ok(page)) => {
                self.queue_reading = false;
                if let Some(last) = page.last() {
                    self.queue_after = last.seq;
                    // There may be more after a page that is not empty.
                    self.queue_unread = true;
                }
                self.session.queue(page);
            }
            Done::Commands(commands) => {
                self.commands_reading = false;
                for (id, prepared) in commands {
                    self.session
                        .mailbox()
                        .push_back(Message::command(id, prepared));
                }
                if std::mem::take(&mut self.commands_unread) {
                    self.fetch_commands();
                }
            }
            Done::Told(Ok(())) => {}
            Done::Page(Err(error)) | Done::Told(Err(error)) => return self.refused(error.into()),
        }
        Ok(())
    }

    // --- packets ---------------------------------------------------------------------------------

    /// Goes on with what was read before, if it had been kept waiting.
    fn buffered_burst(&mut self) -> Result<(), End> {
        if self.input.is_empty() {
            Ok(())
        } else {
            self.read_burst()
        }
    }

    /// Takes as many packets as are there and sends what they need on its way.
    fn read_burst(&mut self) -> Result<(), End> {
        if !self.may_read() {
            return Ok(());
        }
        let input = std::mem::take(&mut self.input);
        let (taken, result) = self.take_packets(&input);
        self.input = input;
        self.input.advance(taken);
        // Also when the last packet was a bad one: what came before it is on its way all the same.
        self.submit();
        result
    }

    fn take_packets(&mut self, input: &[u8]) -> (usize, Result<(), End>) {
        let version = self.session.version();
        let now = match self.shared.clock.now() {
            Ok(now) => now,
            Err(untrusted) => {
                let reason = ReasonCode::ImplementationSpecificError;
                return (
                    0,
                    Err(End::new(
                        Ended::Administrative,
                        reason,
                        untrusted.to_string(),
                    )),
                );
            }
        };
        let tick = self.shared.tick();
        let mut at = 0;
        while self.paused_until.is_none() && self.pipeline.has_room_for(&self.burst) {
            let rest = input.get(at..).unwrap_or_default();
            let step = frame(rest, self.shared.max_packet, Accept::FromClient(version))
                .map_err(End::from)
                .and_then(|found| {
                    let Some(frame) = found else { return Ok(None) };
                    let Some(body) = frame.body(rest) else {
                        return Ok(None);
                    };
                    let packet = decode(version, frame, body)?;
                    self.take(packet, now, tick)?;
                    Ok(Some(frame.total_len()))
                });
            match step {
                Ok(Some(len)) => at += len,
                Ok(None) => break,
                Err(end) => return (at, Err(end)),
            }
        }
        (at, Ok(()))
    }

    fn take(
        &mut self,
        packet: ClientPacket<'_>,
        now: crate::clock::UnixMillis,
        tick: u64,
    ) -> Result<(), End> {
        use tidegate_mqtt::AckKind;
        match packet {
            ClientPacket::Publish(publish) => self.take_publish(&publish, now, tick)?,
            ClientPacket::Ack(ack) => match ack.kind {
                AckKind::PubAck => self.session.puback(ack.packet_id),
                AckKind::PubRec => match self.session.pubrec(ack.packet_id, ack.reason) {
                    Received::Now(reason) => {
                        self.defer(Deferred::PubRel {
                            id: ack.packet_id,
                            reason,
                        });
                    }
                    Received::AfterCommit => {
                        self.tell_progress();
                        let reason = ReasonCode::Success;
                        self.defer(Deferred::PubRel {
                            id: ack.packet_id,
                            reason,
                        });
                    }
                    Received::Nothing => {}
                },
                AckKind::PubRel => {
                    let release = self.session.pubrel(ack.packet_id)?;
                    let reason = match release {
                        Release::Now(reason) => reason,
                        Release::AfterCommit => {
                            self.tell_progress();
                            ReasonCode::Success
                        }
                    };
                    self.defer(Deferred::PubComp {
                        id: ack.packet_id,
                        reason,
                    });
                }
                AckKind::PubComp => self.session.completed(ack.packet_id),
            },
            ClientPacket::Subscribe(subscribe) => self.take_subscribe(&subscribe, now),
            ClientPacket::Unsubscribe(unsubscribe) => self.take_unsubscribe(&unsubscribe),
            ClientPacket::PingReq => self.out.extend_from_slice(PINGRESP),
            ClientPacket::Disconnect(disconnect) => return Err(self.take_disconnect(&disconnect)),
            ClientPacket::Auth(_) => return Err(Breach::Auth.into()),
        }
        Ok(())
    }

    fn take_disconnect(&mut self, disconnect: &Disconnect<'_>) -> End {
        if let Some(expiry) = disconnect.properties.session_expiry_interval() {
            if self.expiry == 0 && expiry > 0 {
                // `[MQTT-3.14.2-2]` and the paragraph after it.
                return Breach::SessionExpiry.into();
            }
            self.expiry = self.shared.cap_expiry(expiry);
        }
        End {
            publish_will: disconnect.reason != ReasonCode::NORMAL_DISCONNECTION,
            ..End::silent(Ended::ByClient, "DISCONNECT")
        }
    }

    pub(super) fn defer(&mut self, deferred: Deferred) {
        self.burst.deferred.push(deferred);
    }

    /// Adds what the session learned about its queue to the burst's write.
    fn tell_progress(&mut self) {
        let Some(session) = self.live.session else {
            return;
        };
        if self.session.progress.is_empty() {
            return;
        }
        let progress = std::mem::take(&mut self.session.progress);
        self.burst.writes.push(Box::new(move |conn| {
            sessions::progress(conn, session, &progress)
        }));
    }

    /// Sends the burst on its way, and says what can be said at once.
    fn submit(&mut self) {
        self.tell_progress();
        if let Some(completed) = self.pipeline.submit(&mut self.burst, &self.shared.store) {
            self.completed(completed);
        }
        if !self.session.delivered.is_empty()
            && let Some(device) = &self.device
        {
            let ids = std::mem::take(&mut self.session.delivered);
            let (shared, key) = (self.shared.clone(), device.key);
            self.side.push(Box::pin(async move {
                let now = shared.clock.unchecked_now();
                Done::Told(shared.commands.delivered(key, ids, now).await)
            }));
        }
    }

    fn completed(&mut self, completed: Completed) {
        let Completed {
            verdicts,
            mut deferred,
        } = completed;
        self.settle(&verdicts, &mut deferred);
        self.pipeline.recycle(deferred);
    }

    pub(super) fn output(&mut self) -> (&mut Session, &mut BytesMut) {
        (&mut self.session, &mut self.out)
    }

    // --- towards the peer ------------------------------------------------------------------------

    /// Sends what waits, and fetches more when that is used up.
    fn pump(&mut self) {
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

    /// Fetches and signs the commands that wait for the device, if it wants to hear of them.
    pub(super) fn fetch_commands(&mut self) {
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
            Done::Commands(super::commands::fetch(&shared, &device).await)
        }));
    }

    // --- the end ---------------------------------------------------------------------------------

    async fn finish(mut self, end: End) {
        let metrics = self.shared.metrics.clone();
        metrics.ended(end.ended).increment();
        tracing::debug!(
            identity = %self.live.principal, client_id = %self.live.client_id, why = %end.text,
            "connection ended"
        );
        if end.ended == Ended::Stopping {
            // What is on its way to disk is acknowledged before goodbye is said.
            let _ = tokio::time::timeout(STOP_GRACE, self.drain()).await;
        }
        if let Some(reason) = end.reason
            && self.session.version() == Version::V5
        {
            let mut properties = PropertyBuf::new();
            // Short and ours.
            let _ = properties.push(Property::ReasonString(&end.text));
            let disconnect = Disconnect {
                reason,
                properties: properties.as_raw(),
            };
            // What cannot be said is left out: the connection is closed all the same.
            let _ = disconnect.encode(self.session.peer(), &mut self.out);
        }
        if !matches!(end.ended, Ended::Lost | Ended::Slow | Ended::ByClient) {
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.say_goodbye()).await;
        }
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.io.shutdown()).await;
        // Everything begun is finished before the next connection may open the session.
        self.drain().await;
        self.close_session(end.publish_will).await;
        metrics.connections.decrement();
    }

    async fn say_goodbye(&mut self) -> std::io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.io.write_all(&out).await?;
        self.io.flush().await
    }

    /// Completes every stage and all side work.
    async fn drain(&mut self) {
        while !self.pipeline.is_empty() {
            match std::future::poll_fn(|cx| self.pipeline.poll(cx)).await {
                Ok(completed) => self.completed(completed),
                Err(_) => self.shared.metrics.storage_refusals.increment(),
            }
        }
        for side in std::mem::take(&mut self.side) {
            let _ = side.await;
        }
    }

    async fn close_session(mut self, publish_will: bool) {
        let shared = self.shared.clone();
        let mut due = None;
        let mut keep = false;
        if let Some(session) = self.live.session {
            keep = self.expiry > 0;
            let progress = std::mem::take(&mut self.session.progress);
            let expiry = self.expiry;
            let now = i64::try_from(shared.clock.unchecked_now().0).unwrap_or(i64::MAX);
            let closed = shared
                .store
                .write(move |conn| {
                    sessions::progress(conn, session, &progress)?;
                    sessions::close(conn, session, expiry, publish_will, now)
                })
                .await;
            match closed {
                Ok(will) => due = will,
                Err(StoreError::Stopping) => {}
                Err(error) => tracing::error!(
                    identity = %self.live.principal, %error,
                    "the end of a connection was not written; its session counts as connected until the next start"
                ),
            }
        } else if publish_will && let Some(will) = self.will.take() {
            // The session ends with the connection, and no delay outlasts it.
            due = Some(DueWill {
                identity: self.live.principal.to_string(),
                will,
            });
        }
        if self.attached {
            shared.broker.detach(self.live.number);
        }
        if let Some(device) = &self.device
            && let Err(error) = shared.commands.dropped(device.key).await
            && !matches!(error, StoreError::Stopping)
        {
            tracing::error!(device = %device.id, %error, "commands in flight were not put back");
        }
        if let Some(due) = due {
            super::will::publish(&shared, due).await;
        }
        shared.directory.unregister(&self.owner, &self.live, keep);
        if let Some(turn) = self.turn.take() {
            shared.directory.end_turn(&self.owner, turn);
        }
    }
}
