//! The connection to the gateway: made, used, lost, made again.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use bytes::{Buf, BytesMut};
use embassy_futures::select::{Either3, select, select3};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;
use embedded_io_async::{Read, Write};
use embedded_tls::{TlsError, TlsReader, TlsWriter};
use tidegate_wire::output::TooSmall;
use tidegate_wire::{Channel, Reason, SigningKey};

use super::Device;
use super::orders::TOLERANCE_S;
use crate::backoff::Backoff;
use crate::board::{Board, Clock, Network, Random, System, UpdateSlots};
use crate::credentials::Credentials;
use crate::mqtt::{Event, Session, SessionError, Verdict};
use crate::profile::Actuators;
use crate::state::key;
use crate::telemetry::Item;
use crate::time::{self, BeforeFloor, NoTime};
use crate::tls::{self, Buffers, HandshakeError, Suite, Wire};

/// How long each step may take. A handshake is 50 million instructions on a chip without ECC
/// hardware, and the gateway may be busy.
const RESOLVE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(10);
const ASK_TIME: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A write that does not get through for this long is to a dead connection.
const WRITE: Duration = Duration::from_secs(20);

/// The clock is set again this often: crystals drift by seconds a day, freshness is minutes.
const SET_TIME: Duration = Duration::from_secs(60 * 60);

/// The time is stored this often, in seconds: once an hour is 24 flash writes a day.
const STORE_TIME_S: u64 = 60 * 60;

/// After the gateway said "not now".
const PAUSE: Duration = Duration::from_secs(2);

/// A restart waits no longer than this for the command's acknowledgement to get through.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// New credentials are given up when the old ones work and they failed this often before it.
const TRIALS: u64 = 3;

/// Why there is no connection any more, or none yet.
#[derive(Debug)]
enum Lost {
    Resolve,
    Connect,
    Timeout(&'static str),
    Unreachable(&'static str),
    NoTime(NoTime),
    Time(BeforeFloor),
    Secret,
    Handshake(HandshakeError),
    Session(SessionError),
    Transport(TlsError),
    /// The gateway thinks that our clock is wrong.
    Clock,
    /// The gateway lets new credentials in, and refuses what is signed with them.
    TrialRejected,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => {
                f.write_str("gateway's name is not known: check it and the network's DNS")
            }
            Self::Connect => {
                f.write_str("gateway cannot be reached: check its address, port and firewall")
            }
            Self::Timeout(what) | Self::Unreachable(what) => {
                write!(f, "gateway did not answer in time ({what})")
            }
            Self::NoTime(error) => write!(f, "no connection without the time: {error}"),
            Self::Time(error) => write!(f, "no connection without a sane time: {error}"),
            Self::Secret => f.write_str("shared secret is empty: provision the device again"),
            Self::Handshake(error) => error.fmt(f),
            Self::Session(error) => error.fmt(f),
            Self::Transport(error) => write!(f, "connection was lost ({error:?})"),
            Self::TrialRejected => {
                f.write_str("gateway does not accept what is signed with the new credentials")
            }
            Self::Clock => f.write_str("gateway finds our time wrong: asking for it again"),
        }
    }
}

impl From<SessionError> for Lost {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<TlsError> for Lost {
    fn from(error: TlsError) -> Self {
        Self::Transport(error)
    }
}

/// Why a connection was ended on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Restart,
    Renewed,
}

/// Which credentials to try: new ones three times, then the old ones once, and so on.
pub(super) fn is_trials_turn(attempt: u64) -> bool {
    attempt % (TRIALS + 1) != TRIALS
}

/// What one connection knows.
struct Connection<'a> {
    credentials: &'a Credentials,
    key: SigningKey,
    on_trial: bool,
    session: RefCell<&'a mut Session>,
    out: RefCell<BytesMut>,
    /// There is something to write.
    stir: Signal<NoopRawMutex, ()>,
    /// Nothing is published before this.
    not_before: Cell<Duration>,
    /// A message was accepted: the certificate and the secret work.
    proven: Cell<bool>,
}

impl<B: Board, A: Actuators> Device<B, A> {
    /// Keeps the connection for ever; returns to restart.
    pub(super) async fn link(&self, buffers: &mut Buffers, slots: &mut B::Slots) {
        let device_id = self.store.lock().await.active().device_id;
        let mut session = Session::new(device_id);
        let mut backoff = Backoff::default();
        let mut attempt = 0;
        let mut secret = None;
        loop {
            self.network.ready().await;
            let (credentials, on_trial) = {
                let store = self.store.lock().await;
                match store.trial().filter(|_| is_trials_turn(attempt)) {
                    Some(trial) => (trial.clone(), true),
                    None => (store.active().clone(), false),
                }
            };
            if secret.replace(credentials.secret.clone()) != Some(credentials.secret.clone()) {
                session.sign_again();
            }
            let up_since = Cell::new(None);
            let outcome = self
                .attempt(
                    &credentials,
                    on_trial,
                    attempt,
                    &mut session,
                    buffers,
                    slots,
                    &up_since,
                )
                .await;
            session.disconnected();
            self.connected.set(false);
            let held = up_since
                .get()
                .map_or(Duration::ZERO, |since| self.now().saturating_sub(since));
            backoff.ended(held);
            match outcome {
                Ok(Left::Restart) => return,
                Ok(Left::Renewed) => {
                    log::info!("trying new credentials");
                    attempt = 0;
                    backoff = Backoff::default();
                    continue;
                }
                Err(why) => log::warn!("{why}"),
            }
            attempt = if up_since.get().is_some() && !on_trial {
                0
            } else {
                attempt + 1
            };
            if self.restart.get() {
                return;
            }
            let mut random = [0; 4];
            self.random.fill(&mut random);
            let wait = backoff.wait(u32::from_le_bytes(random));
            log::info!(
                "next attempt in {}.{:03} s",
                wait.as_secs(),
                wait.subsec_millis()
            );
            self.sleep(wait).await;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, each of another kind")]
    async fn attempt(
        &self,
        credentials: &Credentials,
        on_trial: bool,
        attempt: u64,
        session: &mut Session,
        buffers: &mut Buffers,
        slots: &mut B::Slots,
        up_since: &Cell<Option<Duration>>,
    ) -> Result<Left, Lost> {
        let gateway = &credentials.gateway;
        let address = self.address(&gateway.host).await?;
        let ntp = SocketAddr::new(address, gateway.ntp_port);
        let now = match self.wall.get().seconds(self.now()) {
            Some(now) => now,
            None => self.set_time(ntp).await?,
        };
        let tcp = self
            .within(
                CONNECT,
                self.network.connect(SocketAddr::new(address, gateway.port)),
            )
            .await
            .ok_or(Lost::Timeout("TCP"))?
            .map_err(|error| {
                log::debug!("{error:?}");
                Lost::Connect
            })?;
        let wire = Wire::new(tcp);
        let mut connection = self
            .within(
                HANDSHAKE,
                tls::open(&wire, buffers, credentials, &self.random, now),
            )
            .await
            .ok_or(Lost::Timeout("TLS handshake"))?
            .map_err(Lost::Handshake)?;
        log::info!("TLS established with {}", gateway.host);

        let key = SigningKey::new(&credentials.secret).map_err(|_| Lost::Secret)?;
        let mut out = BytesMut::with_capacity(1024);
        self.greet(credentials, &key, session, &mut out)?;
        let up = Connection {
            credentials,
            key,
            on_trial,
            session: RefCell::new(session),
            out: RefCell::new(out),
            stir: Signal::new(),
            not_before: Cell::new(Duration::ZERO),
            proven: Cell::new(false),
        };
        let (reader, writer) = connection.split();
        let ended = select3(
            self.read(reader, &up, attempt, slots, up_since),
            self.write(writer, &up),
            self.keep_time(ntp),
        )
        .await;
        match ended {
            Either3::First(Err(lost)) | Either3::Second(Err(lost)) => {
                if matches!(lost, Lost::Clock) {
                    // A time that was wrong is worth no more than none.
                    if let Err(error) = self.set_time(ntp).await {
                        log::warn!("{error}");
                    }
                }
                Err(lost)
            }
            Either3::Second(Ok(left)) => {
                // The goodbye was written by the session; this is TLS's.
                let _ = self.within(WRITE, connection.close()).await;
                Ok(left)
            }
            Either3::First(Ok(never)) | Either3::Third(never) => match never {},
        }
    }

    async fn address(&self, host: &str) -> Result<IpAddr, Lost> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        self.within(RESOLVE, self.network.resolve(host))
            .await
            .ok_or(Lost::Unreachable("DNS"))?
            .map_err(|error| {
                log::debug!("{error:?}");
                Lost::Resolve
            })
    }

    /// Gets the time, and stores it now and then. Returns seconds since 1970.
    async fn set_time(&self, ntp: SocketAddr) -> Result<u64, Lost> {
        let unix_ms = match self.system.trusted_time() {
            Some(time) => time,
            None => self
                .within(
                    ASK_TIME,
                    time::ask(&self.network, &self.clock, ntp, self.wall.get().floor()),
                )
                .await
                .ok_or(Lost::Timeout("NTP"))?
                .map_err(Lost::NoTime)?,
        };
        let mut wall = self.wall.get();
        let known = wall.seconds(self.now());
        wall.set(unix_ms, self.now()).map_err(Lost::Time)?;
        self.wall.set(wall);
        let now = unix_ms / 1000;
        if known.is_none() {
            log::info!("time is {now}");
            // The record of commands was lost: take only what is signed from now on.
            self.executed.borrow_mut().time_is(now, TOLERANCE_S);
        }
        let mut state = self.state.lock().await;
        let stored = state.number(key::TIME).await.unwrap_or(0);
        if now >= stored.saturating_add(STORE_TIME_S)
            && let Err(error) = state.set_number(key::TIME, now).await
        {
            log::error!("{error}");
        }
        Ok(now)
    }

    async fn keep_time(&self, ntp: SocketAddr) -> core::convert::Infallible {
        loop {
            self.sleep(SET_TIME).await;
            if let Err(error) = self.set_time(ntp).await {
                log::warn!("{error}");
            }
        }
    }

    /// Seconds since 1970; the time is known while there is a connection.
    fn seconds(&self) -> u64 {
        self.wall.get().seconds(self.now()).unwrap_or(0)
    }

    /// Writes CONNECT with a will: a signed event, which the gateway takes while it is fresh.
    fn greet(
        &self,
        credentials: &Credentials,
        key: &SigningKey,
        session: &mut Session,
        out: &mut BytesMut,
    ) -> Result<(), Lost> {
        let will = Item::new(Channel::Event, self.message_id(), self.moment(), |m| {
            m.string("event", "connection_lost")
        });
        let will = will.map_err(|TooSmall { .. }| ()).ok();
        let message = will.and_then(|item| self.sign(&item, credentials, key));
        let topic = Channel::Event.topic(&credentials.device_id);
        let will = message.as_deref().map(|message| (topic.as_str(), message));
        session.connect(self.now(), will, out)?;
        Ok(())
    }

    fn sign(
        &self,
        item: &Item,
        credentials: &Credentials,
        key: &SigningKey,
    ) -> Option<alloc::vec::Vec<u8>> {
        item.sign(
            &credentials.device_id,
            key,
            &self.wall.get(),
            self.seconds(),
        )
        .inspect_err(|error| log::error!("{error}"))
        .ok()
    }

    async fn read<T: Read>(
        &self,
        mut reader: TlsReader<'_, &Wire<T>, Suite>,
        up: &Connection<'_>,
        attempt: u64,
        slots: &mut B::Slots,
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
                self.heed(event, up, attempt, slots, up_since).await?;
                input.advance(len);
            }
            up.stir.signal(());
        }
    }

    async fn heed(
        &self,
        event: Event<'_>,
        up: &Connection<'_>,
        attempt: u64,
        slots: &mut B::Slots,
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
            }
            Event::Settled(item, Verdict::Rejected(..)) if up.on_trial && !up.proven.get() => {
                // What is wrong may be the credentials and not the message.
                up.session.borrow_mut().restore(item);
                return Err(Lost::TrialRejected);
            }
            Event::Settled(item, verdict) => {
                self.settle(&item, verdict).await;
                if matches!(verdict, Verdict::Accepted | Verdict::Known) && !up.proven.replace(true)
                {
                    self.proven(up, attempt, slots).await;
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
                if let (Ok(()), Some(packet_id)) = (dealt, packet_id) {
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

    async fn settle(&self, item: &Item, verdict: Verdict) {
        if let Verdict::Rejected(reason, code) = verdict {
            log::warn!("gateway rejected {} ({reason:?}, {code:?})", item.id);
        }
        if item.channel == Channel::Data
            && let Err(error) = self.backlog.lock().await.settle(item.id).await
        {
            log::error!("{error}");
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

    /// A message was accepted: certificate, key, roots and secret work, and so does the firmware.
    async fn proven(&self, up: &Connection<'_>, attempt: u64, slots: &mut B::Slots) {
        if let Err(error) = slots.confirm().await {
            log::error!("firmware could not be confirmed: {error:?}");
        }
        let mut store = self.store.lock().await;
        if up.on_trial {
            match store.confirm().await {
                Ok(()) => self.event("credentials_renewed", |_| Ok(())),
                Err(error) => log::error!("{error}"),
            }
        } else if store.trial().is_some() && attempt >= TRIALS {
            match store.discard().await {
                Ok(()) => self.event("credentials_refused", |_| Ok(())),
                Err(error) => log::error!("{error}"),
            }
        }
    }

    async fn write<T: Write>(
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
        let done = self.outbox.borrow().is_empty() && session.in_flight() == 0;
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
                let _ = self.backlog.lock().await.settle(item.id).await;
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
                let _ = self.backlog.lock().await.settle(item.id).await;
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

    /// The most urgent message: notices, then readings from flash, then from RAM.
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
        let mut backlog = self.backlog.lock().await;
        if !backlog.is_empty() {
            match backlog.take().await {
                Ok(Some(item)) => return Some(item),
                Ok(None) => {}
                Err(error) => log::error!("{error}"),
            }
        }
        self.outbox.borrow_mut().pop_reading()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_credentials_get_three_turns_of_four() {
        let turns: alloc::vec::Vec<_> = (0..8).map(is_trials_turn).collect();
        assert_eq!(turns, [true, true, true, false, true, true, true, false]);
    }
}
