//! Joining, and joining again.

use core::sync::atomic::{AtomicI8, Ordering};

use embassy_futures::select::{Either, select};
use embassy_time::{Duration, Timer};
use esp_hal::peripherals::WIFI;
use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{
    AuthenticationMethodConfig, Config, ControllerConfig, Password, Ssid, WifiController, WifiError,
};
use tidegate_app::credentials::Wifi;

/// Time between two attempts to join: doubled from the first to the last.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// How often the signal's strength is asked for.
const MEASURE: Duration = Duration::from_secs(30);

/// No strength that a radio could measure.
const UNKNOWN: i8 = 0;

static RSSI: AtomicI8 = AtomicI8::new(UNKNOWN);

/// Why the radio cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WifiSetupError {
    #[error("credentials have no Wi-Fi network: provision the device with --ssid")]
    NoNetwork,
    #[error("radio refuses the network's name or passphrase ({0:?}): provision the device again")]
    Refused(WifiError),
}

/// Strength of the signal in dBm, as last measured.
pub(crate) fn rssi() -> Option<i8> {
    Some(RSSI.load(Ordering::Relaxed)).filter(|dbm| *dbm != UNKNOWN)
}

/// Turns the radio on.
pub(crate) fn start(
    radio: WIFI<'static>,
    network: Option<Wifi>,
) -> Result<WifiController<'static>, WifiSetupError> {
    use WifiSetupError::Refused;
    let network = network.ok_or(WifiSetupError::NoNetwork)?;
    let ssid = Ssid::try_from(network.ssid.as_str()).map_err(Refused)?;
    let authentication = if network.passphrase.is_empty() {
        AuthenticationMethodConfig::Open
    } else {
        let password = Password::try_from(network.passphrase.as_str()).map_err(Refused)?;
        AuthenticationMethodConfig::Wpa2Personal(password)
    };
    let station = StationConfig::default()
        .with_ssid(ssid)
        .with_authentication(authentication);
    let config = ControllerConfig::default().with_initial_config(Config::Station(station));
    WifiController::new(radio, config).map_err(Refused)
}

/// Joins and, whenever the network is lost, joins again.
#[embassy_executor::task]
pub(crate) async fn stay(mut controller: WifiController<'static>) {
    let mut wait = FIRST;
    loop {
        match controller.connect_async().await {
            Ok(_) => {
                log::info!("joined the Wi-Fi network");
                wait = FIRST;
                connected(&controller).await;
                RSSI.store(UNKNOWN, Ordering::Relaxed);
            }
            Err(error) => log::warn!("Wi-Fi: {error:?}; next attempt in {} s", wait.as_secs()),
        }
        Timer::after(wait).await;
        wait = (wait * 2).min(LAST);
    }
}

/// Until the network is lost.
async fn connected(controller: &WifiController<'static>) {
    loop {
        let dbm = controller
            .rssi()
            .ok()
            .and_then(|dbm| i8::try_from(dbm).ok());
        RSSI.store(dbm.unwrap_or(UNKNOWN), Ordering::Relaxed);
        let lost = controller.wait_for_disconnect_async();
        if let Either::First(why) = select(lost, Timer::after(MEASURE)).await {
            match why {
                Ok(info) => log::warn!("Wi-Fi is lost: {:?}", info.reason),
                Err(error) => log::warn!("Wi-Fi is lost: {error:?}"),
            }
            return;
        }
    }
}
