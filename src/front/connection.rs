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

mod ending;
mod outgoing;
mod waiting;

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use tidegate_mqtt::{
    Accept, ClientPacket, DecodeError, Disconnect, PINGRESP, ReasonCode, decode, frame,
};
use tidegate_wire::{Channel, MessageId, TopicBuf};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use super::{
    Shared, Why,
    directory::{Live, Owner, Principal, Traffic, Turn},
    mailbox::Signals,
    message::Message,
    metrics::Ended,
    rate::Rate,
    session::{Breach, Received, Release, Session},
    stage::{Burst, Completed, Deferred, Pipeline, Refusal},
};
use crate::{
    command::Prepared,
    pki::Peer as Certificate,
    registry::Device,
    store::{
        StoreError,
        sessions::{self, StoredWill, Waiting},
    },
};

/// Output is gathered up to this before no more messages are added; acknowledgements always fit.
const OUT_FULL: usize = 64 * 1024;
/// A peer that reads nothing of what is sent to it for this long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// When the gateway stops: for what is on its way to disk to be acknowledged.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// From a refusal of the storage to closing the connection.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);
const STORAGE_PAUSE_MAX: Duration = Duration::from_secs(60);
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
    /// The broker has room again.
    Room,
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
    /// What the bucket in `traffic` allows.
    pub(super) rate: Rate,
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
    /// Acknowledged messages the broker has no room for yet: nothing more is read meanwhile.
    pub(super) unrouted: VecDeque<Message>,
    awaiting_room: bool,
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
///
/// Boxed, and its end as well: a task is as large as what it may ever hold at once, and most of its
/// life it only waits.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut connection: Box<Connection<S>>,
) {
    let end = connection.serve().await;
    Box::pin(connection.finish(end)).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn new(opened: Opened<S>) -> Self {
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
            rate: opened.shared.operator_rate,
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
            unrouted: VecDeque::new(),
            awaiting_room: false,
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
        // What happened between our turn and being seen was signalled to nobody.
        if self.turn.as_ref().is_some_and(Turn::is_superseded) {
            return Why::TakenOver.into();
        }
        if self.shared.stopping.is_cancelled() {
            return Why::Stopping.into();
        }
        if let Err(end) = self.recheck() {
            return end;
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
                Some(device) => {
                    self.rate = Rate::new(device.rate.per_second, device.rate.burst);
                    self.device = Some(device);
                }
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
            Done::Room => {
                self.awaiting_room = false;
                self.route_rest();
                return self.buffered_burst();
            }
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
}
