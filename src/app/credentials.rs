//! Certificates of the running gateway: made at the first start, renewed in time, taken up anew when
//! they change on disk.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    pki::{
        self, ClientAuth, Credentials, CredentialsError, Host, PkiDir, PkiError, Profiles,
        TlsOptions, watch::Reload,
    },
};

/// A revoked device is out within a second of its revocation: half of that for noticing.
const POLL: Duration = Duration::from_millis(300);
/// How often to look whether the server certificate or a revocation list is due.
const UPKEEP: Duration = Duration::from_secs(6 * 3600);
/// What the authorities are called that a gateway makes for itself.
const AUTHORITY: &str = "Tidegate";

/// Why there are no certificates to work with.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsFailed {
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error("certificates: {0}")]
    Unusable(#[from] CredentialsError),
}

/// Opens the certificate authority, making one where there is none. Blocks.
pub(super) fn open(
    dir: &PkiDir,
    settings: &config::Pki,
    now: OffsetDateTime,
) -> Result<Credentials, CredentialsFailed> {
    let profiles = profiles(settings)?;
    let hosts = settings
        .hosts
        .iter()
        .map(|name| Host::parse(name))
        .collect::<Result<Vec<_>, _>>()?;
    if !dir.is_initialised() {
        let mut all = Host::defaults(Some(&hostname()));
        all.extend(hosts);
        let made = pki::init(dir, &profiles, AUTHORITY, &all, false, now)?;
        tracing::info!(root = %made.root, path = %dir.path().display(), "made a certificate authority: there was none");
    }
    due(dir, &profiles, now);
    let credentials = pki::credentials::load(dir, now)?;
    for warning in credentials.warnings() {
        tracing::warn!("certificates: {warning}");
    }
    Ok(credentials)
}

pub(super) fn profiles(settings: &config::Pki) -> Result<Profiles, PkiError> {
    settings
        .profiles_dir
        .as_deref()
        .map_or_else(Profiles::embedded, Profiles::load)
}

/// The host's name as the kernel has it.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Renews what is due. A failure is no reason to stop: what is there still works, and expiry is warned
/// about.
fn due(dir: &PkiDir, profiles: &Profiles, now: OffsetDateTime) {
    if let Err(error) = pki::renew_server_if_due(dir, profiles, now) {
        tracing::warn!(%error, "the server certificate could not be renewed");
    }
    if let Err(error) = pki::refresh_crl(dir, now) {
        tracing::warn!(%error, "the revocation list could not be signed anew");
    }
}

/// The API's TLS settings.
pub(super) fn api_tls(
    credentials: &Credentials,
) -> Result<Arc<rustls::ServerConfig>, CredentialsError> {
    let options = TlsOptions {
        alpn: vec![b"http/1.1".to_vec()],
        ..TlsOptions::default()
    };
    pki::credentials::server_config(credentials, ClientAuth::None, &options).map(Arc::new)
}

/// Takes up certificates and revocations as they change on disk, and renews what is due, until the
/// gateway stops.
pub(super) async fn watch(
    dir: PkiDir,
    profiles: Arc<Profiles>,
    front: watch::Sender<Arc<Credentials>>,
    api: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    stopping: CancellationToken,
) {
    let mut polls = interval(POLL);
    let mut upkeep = interval(UPKEEP);
    let mut seen = front.borrow().fingerprint().clone();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = upkeep.tick() => {
                let (dir, profiles) = (dir.clone(), Arc::clone(&profiles));
                let work = move || due(&dir, &profiles, OffsetDateTime::now_utc());
                // A panic in it has ended the process already.
                let _ = tokio::task::spawn_blocking(work).await;
                continue;
            }
            _ = polls.tick() => {}
        }
        let (of, last) = (dir.clone(), seen.clone());
        let work = move || pki::watch::reload(&of, &last, OffsetDateTime::now_utc());
        match tokio::task::spawn_blocking(work).await {
            Ok(Reload::Changed(credentials)) => {
                seen = credentials.fingerprint().clone();
                let credentials = Arc::new(*credentials);
                if let Some(api) = &api {
                    match api_tls(&credentials) {
                        Ok(tls) => {
                            api.send_replace(tls);
                        }
                        Err(error) => {
                            tracing::error!(%error, "the API keeps its former certificate");
                        }
                    }
                }
                front.send_replace(credentials);
                tracing::info!("certificates or revocations changed and are in force");
            }
            Ok(Reload::Failed {
                error,
                seen: failed,
            }) => {
                seen = failed;
                tracing::error!(%error, "changed certificates cannot be used; the former ones stay in force");
            }
            Ok(Reload::Unchanged) | Err(_) => {}
        }
    }
}
