//! The device: sensing, connecting and telling run side by side in one task.

mod link;
mod orders;
mod talk;
mod update;

use core::cell::{Cell, RefCell};
use core::time::Duration;

use embassy_futures::select::{Either, Either3, Either4, select, select3, select4};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::mutex::Mutex;
use embassy_sync::signal::Signal;
use tidegate_wire::output::TooSmall;
use tidegate_wire::{Channel, MessageId};

use crate::board::{Board, Clock, Network, Parts, Random, System};
use crate::credentials::{Store, StoreError};
use crate::executed::Executed;
use crate::json::Members;
use crate::profile::{Actuators, Profile, SensorFault, Sensors};
use crate::state::{State, StateError, key};
use crate::telemetry::{Backlog, BacklogError, Item, Moment, Outbox, Readings};
use crate::time::{WallClock, millis};
use crate::tls::Buffers;
use crate::update::trial;
use update::Updates;

/// Health is reported this often besides at boot: seldom enough to cost nothing, often enough to
/// see a heap leak within a day.
const HEALTH: Duration = Duration::from_secs(15 * 60);

/// The watchdog is fed this often.
const ALIVE: Duration = Duration::from_secs(5);

/// Why the device ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It was told to restart, or to stop; [`System::restart`] was called.
    #[error("device restarts")]
    Restart,
    /// There are no credentials, or bad ones.
    #[error(transparent)]
    Credentials(#[from] StoreError),
    /// The state partition failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The buffer partition failed.
    #[error(transparent)]
    Backlog(#[from] BacklogError),
}

/// Runs the device for good.
///
/// It waits for the network, gets the time, connects, and from then on tells what it senses and
/// does what it is told; when the gateway is away it keeps readings and comes back. The first of
/// the buffers is for the gateway, the second for the update server, which may be spoken to at the
/// same time.
pub async fn run<B: Board, S: Sensors, A: Actuators>(
    parts: Parts<B>,
    profile: Profile<S, A>,
    buffers: &mut [Buffers; 2],
) -> Ended {
    match start(parts, profile, buffers).await {
        Ok(ended) | Err(ended) => ended,
    }
}

async fn start<B: Board, S: Sensors, A: Actuators>(
    parts: Parts<B>,
    profile: Profile<S, A>,
    [buffers, update_buffers]: &mut [Buffers; 2],
) -> Result<Ended, Ended> {
    let mut state = State::open(parts.state).await?;
    let mut slots = parts.slots;
    // First of all: what follows may be what a new image cannot do.
    let begun = trial::begin(&mut slots, &mut state, parts.system.boot_reason()).await?;
    if begun.leave {
        parts.system.restart();
        return Ok(Ended::Restart);
    }
    let store = Store::open(parts.credentials).await?;
    let mut start = [0; 4];
    parts.random.fill(&mut start);
    let backlog = Backlog::open(parts.buffer, u32::from_le_bytes(start)).await?;

    let boots = state.number(key::BOOTS).await.unwrap_or(0) + 1;
    state.set_number(key::BOOTS, boots).await?;
    let mut executed = Executed::load(&mut state).await;
    let wall = WallClock::new(parts.system.built_at(), state.number(key::TIME).await);
    if state.lost() {
        executed.lost();
    }
    let lost = state.number(key::LOST).await.unwrap_or(0);

    let device: Device<B, A> = Device {
        network: parts.network,
        clock: parts.clock,
        random: parts.random,
        system: parts.system,
        wall: Cell::new(wall),
        outbox: RefCell::new(Outbox::default()),
        actuators: RefCell::new(profile.actuators),
        readings: Mutex::new(Readings::new(backlog)),
        state: Mutex::new(state),
        executed: RefCell::new(executed),
        store: Mutex::new(store),
        lost: Cell::new(lost),
        lost_report: Cell::new(None),
        update: begun.state.as_str(),
        updates: Updates::default(),
        told: Signal::new(),
        sample: Signal::new(),
        renewed: Signal::new(),
        restart: Cell::new(false),
        connected: Cell::new(false),
        refusals: Cell::new(0),
        refused: Cell::new(None),
    };
    log::info!(
        "{} on {}: firmware {}, profile {}, boot {boots} ({})",
        device.store.lock().await.active().device_id,
        device.system.board(),
        device.system.version(),
        profile.name,
        device.system.boot_reason().as_str(),
    );
    device.event("boot", |m| {
        m.string("reason", device.system.boot_reason().as_str())?;
        m.integer("boots", i64::try_from(boots).unwrap_or(i64::MAX))?;
        m.string("board", device.system.board())?;
        m.string("firmware", device.system.version())?;
        m.string("profile", profile.name)?;
        m.string("version", device.system.version())?;
        m.string("product", profile.name)?;
        m.string("chip", device.system.chip())?;
        m.integer("security_version", device.system.security_version().into())?;
        device.health(m)
    });
    if device.state.lock().await.lost() {
        device.event("state_lost", |_| Ok(()));
    }

    let running = select4(
        device.sense(profile.sensors, profile.interval),
        device.link(buffers),
        device.report_health(),
        device.keep_alive(),
    );
    let updating = device.keep_up_to_date(update_buffers, slots, profile.name, parts.timing);
    match select3(running, device.stop(), updating).await {
        Either3::First(Either4::Second(())) | Either3::Second(()) | Either3::Third(()) => {
            device.save().await;
            device.system.restart();
            Ok(Ended::Restart)
        }
        Either3::First(Either4::First(never) | Either4::Third(never) | Either4::Fourth(never)) => {
            match never {}
        }
    }
}

/// What the concurrent parts of a device share. They run in one task: nothing is borrowed across
/// a wait but what is in a [`Mutex`].
struct Device<B: Board, A> {
    network: B::Network,
    clock: B::Clock,
    random: B::Random,
    system: B::System,
    wall: Cell<WallClock>,
    outbox: RefCell<Outbox>,
    actuators: RefCell<A>,
    readings: Mutex<NoopRawMutex, Readings<B::Buffer>>,
    state: Mutex<NoopRawMutex, State<B::Flash>>,
    executed: RefCell<Executed>,
    store: Mutex<NoopRawMutex, Store<B::Flash>>,
    /// Readings lost and not yet reported.
    lost: Cell<u64>,
    /// The report of them that is on its way, and how many it tells of.
    lost_report: Cell<Option<(MessageId, u64)>>,
    /// What the boot loader said at start.
    update: &'static str,
    updates: Updates,
    /// There is something new to send.
    told: Signal<NoopRawMutex, ()>,
    /// A reading is wanted now.
    sample: Signal<NoopRawMutex, ()>,
    /// New credentials wait to be tried.
    renewed: Signal<NoopRawMutex, ()>,
    restart: Cell<bool>,
    connected: Cell<bool>,
    /// How often the gateway refused the credentials on trial.
    refusals: Cell<u64>,
    /// The message whose signature was refused last, and with how many connections.
    refused: Cell<Option<(MessageId, u8)>>,
}

impl<B: Board, A: Actuators> Device<B, A> {
    fn now(&self) -> Duration {
        self.clock.uptime()
    }

    fn moment(&self) -> Moment {
        Moment::Uptime(self.now())
    }

    fn message_id(&self) -> MessageId {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        MessageId::from_random(bytes)
    }

    async fn sleep(&self, duration: Duration) {
        self.clock
            .sleep_until(self.now().saturating_add(duration))
            .await;
    }

    /// Waits for `future`, but no longer than this.
    async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        match select(future, self.sleep(limit)).await {
            Either::First(value) => Some(value),
            Either::Second(()) => None,
        }
    }

    /// Takes readings for ever.
    async fn sense(
        &self,
        mut sensors: impl Sensors,
        interval: Duration,
    ) -> core::convert::Infallible {
        let mut next = self.now();
        let mut fault = None;
        loop {
            let item = self.reading(&mut sensors).await;
            match item {
                Ok(item) => {
                    fault = None;
                    self.keep(item).await;
                }
                Err(error) => {
                    // Once for each kind in a row: a broken sensor must not drown the readings.
                    if fault.replace(error) != Some(error) {
                        log::warn!("no reading: {error}");
                        self.event("sensor_fault", |m| {
                            m.string("detail", crate::text(&mut [0; 96], format_args!("{error}")))
                        });
                    }
                }
            }
            let now = self.now();
            if next <= now {
                next = now.saturating_add(interval);
            }
            select(
                self.clock.sleep_until(next),
                select(sensors.changed(), self.sample.wait()),
            )
            .await;
        }
    }

    async fn reading(&self, sensors: &mut impl Sensors) -> Result<Item, SensorFault> {
        let moment = self.moment();
        let mut buffer = [0; crate::telemetry::MAX_PAYLOAD];
        let mut out = tidegate_wire::output::Output::new(&mut buffer);
        let mut members = Members::begin(&mut out)?;
        sensors.sample(&mut members).await?;
        self.actuators.borrow().report(&mut members)?;
        members.end()?;
        let len = out.len();
        Ok(Item {
            channel: Channel::Data,
            id: self.message_id(),
            moment,
            payload: buffer.get(..len).unwrap_or(&[]).into(),
        })
    }

    /// Puts a reading where there is room; the oldest give way.
    async fn keep(&self, item: Item) {
        let mut readings = self.readings.lock().await;
        if let Err(error) = readings.keep(item, &self.wall.get()).await {
            log::error!("{error}");
        }
        self.told.signal(());
        self.count_lost(readings.take_lost()).await;
    }

    /// Readings were lost: it will be told, also after a restart.
    async fn count_lost(&self, lost: u32) {
        if lost == 0 {
            return;
        }
        let total = self.lost.get() + u64::from(lost);
        self.lost.set(total);
        let stored = self.state.lock().await.set_number(key::LOST, total).await;
        if let Err(error) = stored {
            log::error!("{error}");
        }
        log::warn!("buffers are full: {total} readings lost since the last report");
    }

    /// Before a restart: what is in RAM goes to flash.
    async fn save(&self) {
        let mut readings = self.readings.lock().await;
        if let Err(error) = readings.flush(&self.wall.get()).await {
            log::error!("{error}");
        }
        self.count_lost(readings.take_lost()).await;
    }

    /// Notes an event, to be sent as soon as possible.
    fn event(
        &self,
        name: &str,
        members: impl FnOnce(&mut Members<'_, '_>) -> Result<(), TooSmall>,
    ) {
        let item = Item::new(Channel::Event, self.message_id(), self.moment(), |m| {
            m.string("event", name)?;
            members(m)
        });
        match item {
            Ok(item) => {
                // One that finds no room is counted by the outbox.
                let _ = self.outbox.borrow_mut().push(item);
                self.told.signal(());
            }
            Err(TooSmall { .. }) => log::error!("event {name} is too large to be reported"),
        }
    }

    fn health(&self, m: &mut Members<'_, '_>) -> Result<(), TooSmall> {
        m.string("update", self.update)?;
        m.integer("uptime", (millis(self.now()) / 1000) as i64)?;
        if let Some(bytes) = self.system.free_heap() {
            m.integer("free_heap", bytes.into())?;
        }
        if let Some(dbm) = self.network.rssi() {
            m.integer("rssi", dbm.into())?;
        }
        let dropped = self.outbox.borrow().dropped_events();
        if dropped > 0 {
            m.integer("dropped_events", dropped.into())?;
        }
        Ok(())
    }

    async fn report_health(&self) -> core::convert::Infallible {
        loop {
            self.sleep(HEALTH).await;
            self.event("health", |m| self.health(m));
        }
    }

    /// Returns when the device is to end and cannot say goodbye; the link does where it can.
    async fn stop(&self) {
        self.system.stop_requested().await;
        self.restart.set(true);
        self.told.signal(());
        if self.connected.get() {
            self.sleep(2 * link::FAREWELL).await;
        }
    }

    async fn keep_alive(&self) -> core::convert::Infallible {
        loop {
            self.system.alive();
            self.sleep(ALIVE).await;
        }
    }
}
