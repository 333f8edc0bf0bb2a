//! The connection to the gateway: made, used, lost, made again.

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use bytes::BytesMut;
use embassy_futures::select::{Either3, select3};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;
use embedded_tls::TlsError;
use tidegate_wire::output::TooSmall;
use tidegate_wire::{Channel, SigningKey};

use super::Device;
use super::orders::TOLERANCE_S;
use crate::backoff::Backoff;
use crate::board::{Board, Network, Random, System};
use crate::credentials::Credentials;
use crate::mqtt::{Session, SessionError};
use crate::profile::Actuators;
use crate::state::key;
use crate::telemetry::Item;
use crate::time::{self, BeforeFloor, NoTime};
use crate::tls::{Buffers, HandshakeError, Wire};

/// How long each step may take. A handshake is 50 million instructions on a chip without ECC
/// hardware, and the gateway may be busy.
const RESOLVE: Duration = Duration::from_secs(10);
pub(super) const CONNECT: Duration = Duration::from_secs(10);
const ASK_TIME: Duration = Duration::from_secs(5);
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// A write that does not get through for this long is to a dead connection.
pub(super) const WRITE: Duration = Duration::from_secs(20);

/// The clock is set again this often: crystals drift by seconds a day, freshness is minutes.
const SET_TIME: Duration = Duration::from_secs(60 * 60);

/// The time is stored this often, in seconds: once an hour is 24 flash writes a day.
const STORE_TIME_S: u64 = 60 * 60;

/// After the gateway said "not now".
pub(super) const PAUSE: Duration = Duration::from_secs(2);

/// A restart waits no longer than this for the command's acknowledgement to get through.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// New credentials are given up when the old ones work and they failed this often before it.
pub(super) const TRIALS: u64 = 3;

/// Why there is no connection any more, or none yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("gateway's name is not known: check it and the network's DNS")]
    Resolve,
    #[error("gateway cannot be reached: check its address, port and firewall")]
    Connect,
    #[error("gateway did not answer in time ({0}): check that it runs")]
    Timeout(&'static str),
    #[error("no connection without the time: {0}")]
    NoTime(NoTime),
    #[error("no connection without a sane time: {0}")]
    Time(BeforeFloor),
    #[error("shared secret is empty: provision the device again")]
    Secret,
    #[error(transparent)]
    Handshake(HandshakeError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("connection was lost ({0:?})")]
    Transport(TlsError),
    /// The gateway thinks that our clock is wrong.
    #[error("gateway finds our time wrong: asking for it again")]
    Clock,
    /// Nothing is lost of what waits.
    #[error(
        "gateway refuses our signature: check that it has the device's secret, or give it a new one"
    )]
    SecretRefused,
    /// It comes again with the next connection.
    #[error("a command could not be recorded and was not carried out: connecting anew for it")]
    Unrecorded,
    /// The gateway lets new credentials in, and refuses what is signed with them.
    #[error("gateway does not accept what is signed with the new credentials")]
    TrialRejected,
}

impl Lost {
    /// Whether the gateway was there: then it may be the credentials that it minds.
    const fn was_there(&self) -> bool {
        matches!(
            self,
            Self::Handshake(_) | Self::Session(_) | Self::Transport(_) | Self::TrialRejected
        )
    }
}

impl From<TlsError> for Lost {
    fn from(error: TlsError) -> Self {
        Self::Transport(error)
    }
}

/// Why a connection was ended on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Restart,
    Renewed,
}

/// Which credentials to try: new ones three times, then the old ones once, and so on.
pub(super) fn is_trials_turn(attempt: u64) -> bool {
    attempt % (TRIALS + 1) != TRIALS
}

/// What one connection knows.
pub(super) struct Connection<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) key: SigningKey,
    pub(super) on_trial: bool,
    pub(super) session: RefCell<&'a mut Session>,
    pub(super) out: RefCell<BytesMut>,
    /// There is something to write.
    pub(super) stir: Signal<NoopRawMutex, ()>,
    /// Nothing is published before this.
    pub(super) not_before: Cell<Duration>,
    /// A message was accepted: the certificate and the secret work.
    pub(super) proven: Cell<bool>,
}

impl<B: Board, A: Actuators> Device<B, A> {
    /// Keeps the connection for ever; returns to restart.
    pub(super) async fn link(&self, buffers: &mut Buffers) {
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
                .attempt(&credentials, on_trial, &mut session, buffers, &up_since)
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
                Err(why) => {
                    log::warn!("{why}");
                    if on_trial && why.was_there() {
                        self.refusals.set(self.refusals.get() + 1);
                    }
                }
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

    async fn attempt(
        &self,
        credentials: &Credentials,
        on_trial: bool,
        session: &mut Session,
        buffers: &mut Buffers,
        up_since: &Cell<Option<Duration>>,
    ) -> Result<Left, Lost> {
        let gateway = &credentials.gateway;
        let address = self.address(&gateway.host).await?;
        let ntp = SocketAddr::new(address, gateway.ntp_port);
        let wall = self.wall.get();
        let now = match wall.seconds(self.now()) {
            Some(now) if wall.is_confirmed() => now,
            _ => self.set_time(ntp).await?,
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
            .within(HANDSHAKE, self.handshake(&wire, buffers, credentials, now))
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
            self.read(reader, &up, up_since),
            self.write(writer, &up),
            self.keep_time(ntp),
        )
        .await;
        match ended {
            Either3::First(Err(lost)) | Either3::Second(Err(lost)) => {
                if matches!(lost, Lost::Clock) {
                    // A time that was wrong is worth no more than none.
                    let mut wall = self.wall.get();
                    wall.doubt();
                    self.wall.set(wall);
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

    pub(super) async fn address(&self, host: &str) -> Result<IpAddr, Lost> {
        if let Ok(address) = host.parse() {
            return Ok(address);
        }
        self.within(RESOLVE, self.network.resolve(host))
            .await
            .ok_or(Lost::Timeout("DNS"))?
            .map_err(|error| {
                log::debug!("{error:?}");
                Lost::Resolve
            })
    }

    /// Gets the time. Returns seconds since 1970.
    pub(super) async fn set_time(&self, ntp: SocketAddr) -> Result<u64, Lost> {
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
        }
        if wall.is_confirmed() {
            self.store_time(now).await;
        }
        Ok(now)
    }

    /// The gateway confirmed the time.
    pub(super) async fn confirm_time(&self) {
        let mut wall = self.wall.get();
        wall.confirm();
        self.wall.set(wall);
        let now = self.seconds();
        // The record of commands was lost: take only what is signed from now on.
        self.executed.borrow_mut().time_is(now, TOLERANCE_S);
        self.store_time(now).await;
    }

    /// Stores the time now and then: no earlier one is believed after a restart.
    async fn store_time(&self, now: u64) {
        let mut state = self.state.lock().await;
        let stored = state.number(key::TIME).await.unwrap_or(0);
        if now >= stored.saturating_add(STORE_TIME_S)
            && let Err(error) = state.set_number(key::TIME, now).await
        {
            log::error!("{error}");
        }
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
    pub(super) fn seconds(&self) -> u64 {
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

    pub(super) fn sign(
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
