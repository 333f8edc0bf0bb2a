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
mod packets;
mod waiting;

pub(super) use ending::End;

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use tidegate_mqtt::ReasonCode;
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
    session::Session,
    stage::{Burst, Completed, Pipeline, Refusal},
};
use crate::{
    command::Prepared,
    pki::Peer as Certificate,
    registry::Device,
    store::{
        StoreError,
        sessions::{StoredWill, Waiting},
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
