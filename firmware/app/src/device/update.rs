//! Keeping the firmware up to date: when to look, what to tell, when to restart.

use core::cell::Cell;
use core::net::SocketAddr;
use core::time::Duration;

use alloc::boxed::Box;
use alloc::format;

use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use embedded_io_async::{Read, Write};
use tidegate_wire::manifest::{MAX_SIGNED, Manifest, Problem, Refusal, Running, Signed, Version};
use tidegate_wire::output::TooSmall;
use tidegate_wire::{Channel, MessageId};

use super::Device;
use super::link::{CONNECT, FAREWELL, HANDSHAKE, Lost};
use crate::backoff::Backoff;
use crate::board::{Board, BootState, Network, Random, System, UpdateSlots};
use crate::credentials::Credentials;
use crate::profile::Actuators;
use crate::telemetry::Item;
use crate::tls::{self, Buffers, Connection, HandshakeError, Wire};
use crate::update::download::{Content, Download, FlashFailed};
use crate::update::http::{Client, Head, HttpError, Part};
use crate::update::record::{Fault, Floor, Phase, Shunned, load, store};
use crate::update::{Timing, jittered, retry_after, trial};

/// A server that sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(20);

/// Connections in a row that brought nothing new until a look is given up; with the back-off that
/// is about five minutes.
const ATTEMPTS: u32 = 8;

/// What the parts of a device tell each other about updates.
#[derive(Default)]
pub(super) struct Updates {
    /// Whether, and why not, [`Device::look_now`] works.
    obstacle: Cell<Option<CannotUpdate>>,
    /// Look now.
    asked: Signal<NoopRawMutex, ()>,
    /// The gateway answered: what runs works.
    pub(super) proven: Signal<NoopRawMutex, ()>,
    /// The event that tells how the last update ended, until it is acknowledged.
    outcome: Cell<Option<MessageId>>,
    /// One handshake at a time: two would need twice the memory.
    handshake: Mutex<NoopRawMutex, ()>,
}

/// Why the device does not look for updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CannotUpdate {
    #[error("this board has no update slots: flash it by wire")]
    NoSlots,
    #[error("device has no release key: provision it again")]
    NoKey,
    #[error("firmware's own version is no semantic one: build it with another")]
    Version,
}

/// How a look ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The release is not for this device.
    #[error("update is refused: {0}")]
    Refused(Refusal),
    /// No connection, or it was lost: there may be one later.
    #[error(transparent)]
    Connection(#[from] Lost),
    #[error("update server: {0}")]
    Http(#[from] HttpError),
    #[error("update server did not answer in time")]
    Silent,
    /// The server does not have what it offered, or does not let the device in.
    #[error("update server answered {0}")]
    Status(u16),
    #[error(transparent)]
    Flash(#[from] FlashFailed),
    /// What is in the flash is not what was signed.
    #[error("image does not have the signed digest")]
    Digest,
}

impl Failure {
    /// As it is reported.
    const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Connection(_) | Self::Http(_) | Self::Silent | Self::Status(_) => "download",
            Self::Flash(_) => "flash",
            Self::Digest => "digest",
        }
    }

    /// Whether it is worth connecting again at once.
    const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Http(HttpError::Lost) | Self::Silent
        )
    }
}

/// What a look came to.
enum Found {
    /// There is nothing new; the server may say when to ask again.
    Nothing(Option<u32>),
    /// A release that failed before, and is not tried again yet.
    NotAgain,
    /// A new image is activated.
    Installed,
}

/// What a look knows, across its connections.
#[derive(Default)]
struct Look {
    /// It was asked for: what failed before is tried again.
    asked: bool,
    /// Something came of the last connection.
    advanced: bool,
    offered: bool,
    download: Option<Download>,
}

impl<B: Board, A: Actuators> Device<B, A> {
    /// Looks for updates and installs them, and watches over an image on trial. Returns to restart.
    pub(super) async fn keep_up_to_date(
        &self,
        buffers: &mut Buffers,
        mut slots: B::Slots,
        product: &str,
        timing: Timing,
    ) {
        if self.update == BootState::Trial.as_str() && !self.trial(&mut slots, timing.trial).await {
            self.say_goodbye().await;
            return;
        }
        self.tell_outcome().await;
        let keyless = self.store.lock().await.active().release_keys.is_empty();
        let obstacle = match slots.capacity() {
            0 => Some(CannotUpdate::NoSlots),
            _ if keyless => Some(CannotUpdate::NoKey),
            _ if Version::parse(self.system.version()).is_err() => Some(CannotUpdate::Version),
            _ => None,
        };
        self.updates.obstacle.set(obstacle);
        if let Some(obstacle) = obstacle {
            log::info!("no updates: {obstacle}");
            return core::future::pending().await;
        }
        let mut wait = timing.first;
        loop {
            let wait_for = jittered(wait, self.number());
            let asked = select(self.updates.asked.wait(), self.sleep(wait_for)).await;
            self.network.ready().await;
            let look = Look {
                asked: matches!(asked, Either::First(())),
                ..Look::default()
            };
            wait = match self.look(buffers, &mut slots, product, look).await {
                Some(Found::Installed) => {
                    self.say_goodbye().await;
                    return;
                }
                Some(Found::Nothing(Some(seconds))) => retry_after(seconds, timing.interval),
                _ => timing.interval,
            };
        }
    }

    /// Has the device look for an update at once.
    pub(super) fn look_now(&self) -> Result<(), CannotUpdate> {
        match self.updates.obstacle.get() {
            Some(obstacle) => Err(obstacle),
            None => {
                self.updates.asked.signal(());
                Ok(())
            }
        }
    }

    /// One handshake after the other.
    pub(super) async fn handshake<'b, T: Read + Write>(
        &self,
        wire: &'b Wire<T>,
        buffers: &'b mut Buffers,
        credentials: &Credentials,
        now: u64,
    ) -> Result<Connection<'b, T>, HandshakeError> {
        let _alone = self.updates.handshake.lock().await;
        tls::open(wire, buffers, credentials, &self.random, now).await
    }

    fn number(&self) -> u32 {
        let mut random = [0; 4];
        self.random.fill(&mut random);
        u32::from_le_bytes(random)
    }

    /// Waits until the gateway was reached and answered; whether it was in time.
    async fn trial(&self, slots: &mut B::Slots, limit: Duration) -> bool {
        let proven = self.within(limit, self.updates.proven.wait()).await;
        let mut state = self.state.lock().await;
        let done = if proven.is_some() {
            log::info!("firmware is confirmed");
            trial::confirm(slots, &mut state).await
        } else {
            log::error!("firmware is given up: the gateway was not reached");
            trial::give_up(slots, &mut state, Fault::NotConfirmed).await
        };
        if let Err(error) = done {
            log::error!("{error}");
        }
        proven.is_some()
    }

    /// Tells how the last update ended; again after each start until the gateway has heard it.
    async fn tell_outcome(&self) {
        let outcome = trial::outcome(&mut *self.state.lock().await).await;
        let id = match &outcome {
            None => None,
            Some((Phase::RolledBack(fault), version)) => {
                self.tell("rolled_back", version.as_str(), Some(fault.as_str()))
            }
            Some((_, version)) => self.tell("confirmed", version.as_str(), None),
        };
        self.updates.outcome.set(id);
    }

    /// A message was acknowledged: perhaps the one that tells how the last update ended.
    pub(super) async fn outcome_told(&self, id: MessageId) {
        if self.updates.outcome.get() != Some(id) {
            return;
        }
        self.updates.outcome.set(None);
        if let Err(error) = trial::told(&mut *self.state.lock().await).await {
            log::error!("{error}");
        }
    }

    /// Notes an event about an update, and returns its id.
    fn tell(&self, state: &str, version: &str, reason: Option<&str>) -> Option<MessageId> {
        log::info!("update {version}: {state} {}", reason.unwrap_or(""));
        let id = self.message_id();
        let item = Item::new(Channel::Event, id, self.moment(), |m| {
            m.string("event", "update")?;
            m.string("state", state)?;
            m.string("version", version)?;
            reason.map_or(Ok(()), |reason| m.string("reason", reason))
        });
        let item = item.map_err(|TooSmall { .. }| ()).ok()?;
        let full = self.outbox.borrow_mut().push(item).is_some();
        self.told.signal(());
        (!full).then_some(id)
    }

    /// Has the link say goodbye if it can; what it was told goes out before.
    async fn say_goodbye(&self) {
        self.restart.set(true);
        self.told.signal(());
        if self.connected.get() {
            self.sleep(2 * FAREWELL).await;
        }
    }

    /// Looks once, with as many connections as it takes.
    async fn look(
        &self,
        buffers: &mut Buffers,
        slots: &mut B::Slots,
        product: &str,
        mut look: Look,
    ) -> Option<Found> {
        let mut backoff = Backoff::default();
        let mut idle = 0;
        loop {
            let credentials = Box::new(self.store.lock().await.active().clone());
            look.advanced = false;
            let mut version = alloc::string::String::new();
            let failure = match self
                .visit(
                    &credentials,
                    buffers,
                    slots,
                    product,
                    &mut look,
                    &mut version,
                )
                .await
            {
                Ok(found) => return Some(found),
                Err(failure) => failure,
            };
            log::warn!("{failure}");
            if look.advanced {
                (idle, backoff) = (0, Backoff::default());
            }
            idle += 1;
            if !failure.passes() || idle >= ATTEMPTS {
                // A server that is not there is no news; an offer that came to nothing is.
                if look.offered || matches!(failure, Failure::Refused(_)) {
                    self.tell("failed", &version, Some(failure.code()));
                }
                return None;
            }
            self.sleep(backoff.wait(self.number())).await;
        }
    }

    /// One connection to the update server.
    async fn visit(
        &self,
        credentials: &Credentials,
        buffers: &mut Buffers,
        slots: &mut B::Slots,
        product: &str,
        look: &mut Look,
        version: &mut alloc::string::String,
    ) -> Result<Found, Failure> {
        let gateway = &credentials.gateway;
        let address = self.address(&gateway.host).await?;
        let now = match self.wall.get().seconds(self.now()) {
            Some(now) => now,
            None => {
                self.set_time(SocketAddr::new(address, gateway.ntp_port))
                    .await?
            }
        };
        let to = SocketAddr::new(address, gateway.update_port);
        let tcp = self
            .within(CONNECT, self.network.connect(to))
            .await
            .ok_or(Lost::Timeout("TCP, updates"))?
            .map_err(|error| {
                log::debug!("{error:?}");
                Lost::Connect
            })?;
        let wire = Wire::new(tcp);
        let mut connection = self
            .within(HANDSHAKE, self.handshake(&wire, buffers, credentials, now))
            .await
            .ok_or(Lost::Timeout("TLS handshake, updates"))?
            .map_err(Lost::Handshake)?;
        let authority = if gateway.host.contains(':') {
            format!("[{}]:{}", gateway.host, gateway.update_port)
        } else {
            format!("{}:{}", gateway.host, gateway.update_port)
        };
        let mut server = Client::new(&mut connection, &authority);
        let found = self
            .converse(&mut server, credentials, slots, product, look, version)
            .await;
        if found.is_ok() {
            let _ = self.within(FAREWELL, connection.close()).await;
        }
        found
    }

    async fn converse<C: Read + Write>(
        &self,
        server: &mut Client<'_, C>,
        credentials: &Credentials,
        slots: &mut B::Slots,
        product: &str,
        look: &mut Look,
        version: &mut alloc::string::String,
    ) -> Result<Found, Failure> {
        let floor: Floor = load(&mut *self.state.lock().await).await;
        let security_version = floor.security_version.max(self.system.security_version());
        let head = self
            .answered(server.get(
                format_args!(
                    "/v1/update?product={product}&chip={}&version={}&security_version={security_version}",
                    self.system.chip(),
                    self.system.version(),
                ),
                None,
            ))
            .await?;
        match head.status {
            200 => {}
            204 => return Ok(Found::Nothing(head.retry_after)),
            status => return Err(Failure::Status(status)),
        }
        let mut text = Box::new([0; MAX_SIGNED]);
        let text = self.whole_body(server, head, &mut text[..]).await?;
        let signed = Signed::parse(text).map_err(|problem| Failure::Refused(problem.into()))?;
        if let Ok(claims) = signed.claims() {
            *version = claims.version.as_str().into();
        }
        let manifest = signed
            .verify(&credentials.release_keys)
            .map_err(Failure::Refused)?;
        let running = Running {
            product,
            chip: self.system.chip(),
            version: Version::parse(self.system.version())
                .map_err(|_| Failure::Refused(Problem::Wrong("version").into()))?,
            security_version,
            sequence: floor.sequence,
            max_size: slots.capacity(),
        };
        manifest
            .check(&running, self.seconds())
            .map_err(Failure::Refused)?;
        if !self.may_try(manifest.sequence, look.asked).await {
            log::info!("update {version} failed before: it is not tried again yet");
            return Ok(Found::NotAgain);
        }
        if !look.offered {
            self.tell("offered", version, None);
            look.offered = true;
        }
        self.install(server, &manifest, slots, look).await
    }

    /// Fetches, verifies and activates what a verified manifest promises.
    async fn install<C: Read + Write>(
        &self,
        server: &mut Client<'_, C>,
        manifest: &Manifest<'_>,
        slots: &mut B::Slots,
        look: &mut Look,
    ) -> Result<Found, Failure> {
        let version = manifest.version.as_str();
        let same = look.download.take();
        let mut download = match same.filter(|download| download.is_of(&manifest.sha256)) {
            Some(download) => download,
            None => {
                self.tell("downloading", version, None);
                let mut state = self.state.lock().await;
                Download::open(manifest.sha256, manifest.size, slots, &mut state).await?
            }
        };
        let fetched = self.fetch(server, &mut download, slots, look).await;
        // Kept for the next connection.
        let download = look.download.insert(download);
        fetched?;
        if download.verify(slots).await? == Content::Other {
            download.start_over(&mut *self.state.lock().await).await?;
            self.shun(manifest.sequence).await;
            return Err(Failure::Digest);
        }
        let mut state = self.state.lock().await;
        if download.activating(&mut state).await? >= trial::ACTIVATIONS {
            drop(state);
            // It is whole, and yet the boot loader does not start it.
            self.shun(manifest.sequence).await;
            let mut state = self.state.lock().await;
            download.forget(&mut state).await?;
            return Err(Failure::Digest);
        }
        let activated = trial::activate(
            slots,
            &mut state,
            manifest.sequence,
            manifest.security_version,
            version,
        )
        .await;
        if !matches!(activated, Ok(true)) {
            return Err(FlashFailed.into());
        }
        drop(state);
        self.tell("installed", version, None);
        Ok(Found::Installed)
    }

    /// Fetches what is missing of an image.
    async fn fetch<C: Read + Write>(
        &self,
        server: &mut Client<'_, C>,
        download: &mut Download,
        slots: &mut B::Slots,
        look: &mut Look,
    ) -> Result<(), Failure> {
        let name = download.name();
        let name = core::str::from_utf8(&name).unwrap_or("");
        while !download.is_complete() {
            let from = download.place();
            let part = (from > 0).then_some(Part { from, tag: name });
            if !server.is_open() {
                return Err(HttpError::Lost.into());
            }
            let head = self
                .answered(server.get(format_args!("/v1/image/{name}"), part))
                .await?;
            let size = u64::from(download.size());
            if head.tag.is_some_and(|tag| tag != name.as_bytes()) {
                return Err(HttpError::Protocol("entity tag is not the digest").into());
            }
            match (head.status, head.range, part) {
                (206, Some((first, whole)), Some(_))
                    if first == u64::from(from) && whole == size && head.length == size - first => {
                }
                (200, _, _) if head.length == size => {
                    // It does not do ranges, or had another image before.
                    if part.is_some() {
                        download.start_over(&mut *self.state.lock().await).await?;
                    }
                }
                (200 | 206, ..) => return Err(HttpError::Protocol("size is not as signed").into()),
                (status, ..) => return Err(Failure::Status(status)),
            }
            while !download.is_complete() {
                let len = self.answered(server.body(download.room())).await?;
                let mut state = self.state.lock().await;
                download.took(len, slots, &mut state).await?;
                look.advanced = true;
            }
        }
        Ok(())
    }

    /// What the server says, if it says it in time.
    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, Failure> {
        let answer = self.within(SILENCE, answer).await;
        Ok(answer.ok_or(Failure::Silent)??)
    }

    /// Reads a body that must fit.
    async fn whole_body<'t, C: Read + Write>(
        &self,
        server: &mut Client<'_, C>,
        head: Head,
        text: &'t mut [u8],
    ) -> Result<&'t [u8], Failure> {
        let len = usize::try_from(head.length).unwrap_or(usize::MAX);
        let text = text
            .get_mut(..len)
            .ok_or(HttpError::Protocol("manifest is too long"))?;
        let mut at = 0;
        while at < len {
            at += self
                .answered(server.body(text.get_mut(at..).unwrap_or(&mut [])))
                .await?;
        }
        Ok(text)
    }

    /// Whether this release is to be tried, if it was given up before.
    async fn may_try(&self, sequence: u64, asked: bool) -> bool {
        let mut state = self.state.lock().await;
        let mut shunned: Shunned = load(&mut state).await;
        let now = self.seconds();
        if shunned.sequence == sequence && shunned.since == 0 && shunned.attempts > 0 {
            // The time was not known when it was given up.
            shunned.since = now;
            if let Err(error) = store(&mut state, &shunned).await {
                log::error!("{error}");
            }
        }
        asked || shunned.may_try(sequence, now)
    }

    /// The release is not tried again at once.
    async fn shun(&self, sequence: u64) {
        let mut state = self.state.lock().await;
        let shunned: Shunned = load(&mut state).await;
        if let Err(error) = store(&mut state, &shunned.failed(sequence, self.seconds())).await {
            log::error!("{error}");
        }
    }
}
