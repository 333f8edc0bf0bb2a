//! The Tidegate device on the ESP32 family.
//!
//! | module | what it holds |
//! |---|---|
//! | [`memory`] | the heap |
//! | [`flash`] | partitions, plain and encrypted |
//! | [`slots`] | the two images and which one starts |
//! | [`wifi`] | joining, and joining again |
//! | [`system`] | boot reason, watchdog, random numbers |
//! | [`wiring`] | pins of each profile on each chip |

#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "the heap and memory that outlasts a reset; each use says why it is sound"
)]

extern crate alloc;

mod flash;
mod memory;
mod slots;
mod system;
mod wifi;
mod wiring;

use embassy_executor::{SpawnError, SpawnToken, Spawner};
use embassy_net::StackResources;
use esp_backtrace as _;
use esp_hal::clock::CpuClock;
use esp_hal::timer::timg::TimerGroup;
use esp_radio::wifi::Interface;
use static_cell::{ConstStaticCell, StaticCell};
use tidegate_app::board::{Board, Parts, Random};
use tidegate_app::credentials::Store;
use tidegate_app::tls::Buffers;
use tidegate_app::update::Timing;
use tidegate_embassy::network::{SOCKETS, TcpBuffers};
use tidegate_embassy::{EmbassyClock, EmbassyNetwork, Partition};

use flash::Chip;
use system::{EspRandom, EspSystem};

esp_bootloader_esp_idf::esp_app_desc!(
    tidegate_embassy::VERSION,
    env!("CARGO_PKG_NAME"),
    esp_bootloader_esp_idf::BUILD_TIME,
    esp_bootloader_esp_idf::BUILD_DATE,
    esp_bootloader_esp_idf::ESP_IDF_COMPATIBLE_VERSION,
    esp_bootloader_esp_idf::MMU_PAGE_SIZE,
    0,
    u16::MAX,
    tidegate_embassy::SECURITY_VERSION
);

/// The board.
struct Esp;

impl Board for Esp {
    type Network = EmbassyNetwork;
    type Clock = EmbassyClock;
    type Random = EspRandom;
    type Flash = Partition<Chip>;
    type Buffer = Partition<Chip>;
    type Slots = slots::Slots;
    type System = EspSystem;
}

/// Why the board cannot start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Flash(#[from] flash::NoPartition),
    #[error(transparent)]
    Credentials(#[from] tidegate_app::credentials::StoreError),
    #[error(transparent)]
    Wifi(#[from] wifi::WifiSetupError),
    #[error(transparent)]
    Random(#[from] system::NoEntropy),
    #[error("LED controller: {0:?}")]
    #[cfg(feature = "dashboard")]
    Led(wiring::LedError),
    #[error("task started twice: {0:?}")]
    Spawn(SpawnError),
}

#[embassy_executor::task]
async fn network(mut runner: embassy_net::Runner<'static, Interface>) {
    runner.run().await;
}

#[embassy_executor::task]
async fn device(parts: Parts<Esp>, profile: wiring::Wired, buffers: &'static mut [Buffers; 2]) {
    let ended = tidegate_app::run(parts, profile, buffers).await;
    // The watchdog restarts the board if this is no restart.
    log::error!("{ended}");
}

#[esp_rtos::main]
async fn main(spawner: Spawner) {
    esp_println::logger::init_logger(log::LevelFilter::Info);
    memory::start();
    if let Err(error) = start(spawner).await {
        // It stays in the log, and the watchdog tries again: it may have been provisioned since.
        log::error!("{error}");
    }
}

async fn start(spawner: Spawner) -> Result<(), StartError> {
    let chip = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
    let system = EspSystem::new(chip.RTC_TIMER);
    let timers = TimerGroup::new(chip.TIMG0);
    // The radio needs the scheduler.
    esp_rtos::start(timers.timer0, chip.FROM_CPU_INTR0);

    let table = flash::open(chip.FLASH)?;
    let wifi = Store::open(table.credentials.clone())
        .await?
        .active()
        .wifi
        .clone();
    let controller = wifi::start(chip.WIFI, wifi)?;
    let random = EspRandom::new()?;

    let mut seed = [0; 8];
    random.fill(&mut seed);
    static RESOURCES: StaticCell<StackResources<SOCKETS>> = StaticCell::new();
    let (stack, runner) = embassy_net::new(
        Interface::station(),
        embassy_net::Config::dhcpv4(embassy_net::DhcpConfig::default()),
        RESOURCES.init(StackResources::new()),
        u64::from_le_bytes(seed),
    );

    static TCP: ConstStaticCell<[TcpBuffers; 2]> =
        ConstStaticCell::new([TcpBuffers::new(), TcpBuffers::new()]);
    static TLS: ConstStaticCell<[Buffers; 2]> =
        ConstStaticCell::new([Buffers::new(), Buffers::new()]);
    let slots = slots::open(&table)?;
    let parts = Parts {
        network: EmbassyNetwork::new(stack, TCP.take(), wifi::rssi),
        clock: EmbassyClock,
        random,
        credentials: table.credentials,
        state: table.state,
        buffer: table.buffer,
        slots,
        system,
        timing: Timing::USUAL,
    };
    let profile = wiring::profile!(chip);

    spawn(spawner, network(runner))?;
    spawn(spawner, wifi::stay(controller))?;
    spawn(spawner, device(parts, profile, TLS.take()))
}

fn spawn<S>(spawner: Spawner, task: Result<SpawnToken<S>, SpawnError>) -> Result<(), StartError> {
    spawner.spawn(task.map_err(StartError::Spawn)?);
    Ok(())
}
