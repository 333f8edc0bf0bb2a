//! What devices ask for over HTTP, and who is answered.
//!
//! ```text
//! GET /v1/update?product=…&chip=…&version=…&security_version=…   200 signed manifest, 204 nothing now
//! GET /v1/image/<sha256>                                          200, 206 the image; 404 not for you
//! ```
//!
//! The gateway's own server and nginx's questions over the unix socket come here alike. They differ in
//! where the client's certificate comes from and in who sends the file, and in nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde::Deserialize;
use tidegate_wire::{DeviceId, manifest::Version};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{
    Asking, Refusals, Shelf, Trust, UpdateError, UpdateMetrics, Why, image, offer, shelf::is_digest,
};
use crate::{
    clock::{Clock, UnixMillis},
    pki::{Credentials, Identity},
    registry::{Device, Registry},
    store::{
        DeviceKey, Store,
        updates::{self, FirmwareRow, ReleaseRow},
    },
};

/// The client's certificate as nginx hands it over: PEM, percent-encoded.
const CLIENT_CERTIFICATE: &str = "x-client-cert";
const ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");
const ACCEL_LIMIT_RATE: HeaderName = HeaderName::from_static("x-accel-limit-rate");
/// Where nginx finds images, for nobody but us to send clients to.
pub(super) const IMAGES: &str = "/_images/";
/// Downloads of one device at once: one, and one that has not noticed yet that it was cut.
const DOWNLOADS_PER_DEVICE: u32 = 2;
/// How soon to ask again when we cannot answer now.
const BUSY_SECONDS: u64 = 30;

/// How a question came.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Over TLS that ended here, with this certificate.
    Here(Option<CertificateDer<'static>>),
    /// From nginx, over the unix socket that only nginx may open.
    Nginx,
}

/// What answering takes.
#[expect(missing_debug_implementations, reason = "a bag of shared parts")]
pub struct Site {
    pub registry: Arc<Registry>,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub credentials: watch::Receiver<Arc<Credentials>>,
    pub shelf: Arc<Shelf>,
    pub trust: Trust,
    /// What one download gets.
    pub bytes_per_second: u64,
    /// When a device for which there is nothing should ask again.
    pub retry_after: Duration,
    pub downloads: Mutex<HashMap<DeviceKey, u32>>,
    pub metrics: Arc<UpdateMetrics>,
}

/// The paths that devices ask for.
pub fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/v1/update", get(update))
        .route("/v1/image/{sha256}", get(download))
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state(site)
}

#[derive(Debug, Deserialize)]
struct Question {
    product: String,
    chip: String,
    version: String,
    security_version: u32,
}

impl Question {
    /// What the device says it runs, if it makes sense.
    fn runs(self, now: UnixMillis) -> Option<FirmwareRow> {
        let name = |text: &str| DeviceId::check(text.as_bytes()).is_ok();
        let fits = name(&self.product) && name(&self.chip) && Version::parse(&self.version).is_ok();
        fits.then_some(FirmwareRow {
            product: self.product,
            chip: self.chip,
            version: self.version,
            security_version: self.security_version,
            at: now,
        })
    }
}

/// Why a question is not answered.
enum Refused {
    /// By whom and why is for the log; the client learns no more than that.
    Forbidden(String),
    BadQuery,
    NotFound,
    TooMany,
    Unavailable(String),
}

impl Refused {
    const fn why(&self) -> Why {
        match self {
            Self::Forbidden(_) => Why::Forbidden,
            Self::BadQuery => Why::BadQuery,
            Self::NotFound => Why::NotFound,
            Self::TooMany => Why::TooMany,
            Self::Unavailable(_) => Why::Unavailable,
        }
    }
}

impl From<UpdateError> for Refused {
    fn from(error: UpdateError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<crate::store::StoreError> for Refused {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Site {
    /// The device that asks: its certificate is one of ours, valid now and not revoked, and the device
    /// may take part.
    fn who(&self, asked: &Asked, headers: &HeaderMap) -> Result<Arc<Device>, Refused> {
        let refused = |why: &dyn ToString| Refused::Forbidden(why.to_string());
        let now = self
            .clock
            .now()
            .map_err(|error| Refused::Unavailable(error.to_string()))?;
        let handed;
        let certificate = match asked {
            Asked::Here(certificate) => certificate.as_ref(),
            Asked::Nginx => {
                handed = headers.get(CLIENT_CERTIFICATE).and_then(handed_over);
                handed.as_ref()
            }
        };
        let certificate = certificate.ok_or_else(|| refused(&"no client certificate"))?;
        let credentials = self.credentials.borrow().clone();
        if matches!(asked, Asked::Nginx) {
            // nginx has verified it. That is looked at again here: a mistake in its configuration
            // must not be all there is between a stranger and an image.
            let time = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
            credentials
                .client_verifier()
                .verify_client_cert(certificate, &[], time)
                .map_err(|error| refused(&error))?;
        }
        let seconds = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| refused(&error))?;
        let peer = credentials
            .peer(Some(std::slice::from_ref(certificate)), time)
            .map_err(|error| refused(&error))?;
        let Identity::Device(name) = &peer.identity else {
            return Err(refused(&"an operator has no firmware"));
        };
        let id = DeviceId::try_from(name.as_str()).map_err(|error| refused(&error))?;
        match self.registry.get(&id) {
            Some(device) if device.enabled => Ok(device),
            Some(_) => Err(refused(&format!("device {id} is disabled"))),
            None => Err(refused(&format!("no device {id} is known"))),
        }
    }

    /// What the device is to have, by what it says it runs.
    async fn offer(
        self: &Arc<Self>,
        device: &Arc<Device>,
        runs: FirmwareRow,
    ) -> Result<Option<ReleaseRow>, Refused> {
        let (device, site) = (Arc::clone(device), Arc::clone(self));
        let now = self.clock.unchecked_now();
        let read = self.store.read(move |conn| {
            let asking = Asking {
                device: &device,
                runs: &runs,
                trust: &site.trust,
                now,
            };
            offer(conn, &asking)
        });
        Ok(read.await?)
    }

    /// Whether the device may have this image now: it is what it was offered when it last asked, or
    /// would be.
    async fn entitled(
        self: &Arc<Self>,
        device: &Arc<Device>,
        sha256: &str,
    ) -> Result<Option<ReleaseRow>, Refused> {
        let key = device.key;
        let known = self.store.read(move |conn| updates::firmware(conn, key));
        let Some(runs) = known.await? else {
            return Ok(None);
        };
        let offered = self.offer(device, runs).await?;
        Ok(offered.filter(|release| release.sha256 == sha256))
    }

    /// Notes what the device runs, if that is news.
    async fn note(&self, device: DeviceKey, runs: &FirmwareRow) -> Result<(), Refused> {
        let known = self.store.read(move |conn| updates::firmware(conn, device));
        let same = known.await?.is_some_and(|known| {
            let FirmwareRow { at, .. } = runs;
            FirmwareRow { at: *at, ..known } == *runs
        });
        if !same {
            let runs = runs.clone();
            self.store
                .write(move |conn| updates::set_firmware(conn, device, &runs))
                .await?;
        }
        Ok(())
    }

    fn answer(result: Result<Response, Refused>, refusals: &Refusals) -> Response {
        let refused = match result {
            Ok(response) => return response,
            Err(refused) => refused,
        };
        refusals.of(refused.why()).increment();
        let retry = [(header::RETRY_AFTER, HeaderValue::from(BUSY_SECONDS))];
        match refused {
            Refused::Forbidden(why) => {
                tracing::debug!(why, "an update was refused");
                StatusCode::FORBIDDEN.into_response()
            }
            Refused::BadQuery => StatusCode::BAD_REQUEST.into_response(),
            Refused::NotFound => StatusCode::NOT_FOUND.into_response(),
            Refused::TooMany => (StatusCode::TOO_MANY_REQUESTS, retry).into_response(),
            Refused::Unavailable(why) => {
                tracing::debug!(why, "an update was put off");
                (StatusCode::SERVICE_UNAVAILABLE, retry).into_response()
            }
        }
    }

    fn begin_download(self: &Arc<Self>, device: DeviceKey) -> Option<Download> {
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = downloads.entry(device).or_insert(0);
        if *count >= DOWNLOADS_PER_DEVICE {
            return None;
        }
        *count += 1;
        Some(Download {
            site: Arc::clone(self),
            device,
        })
    }
}

/// A download under way, counted until it is dropped.
pub(super) struct Download {
    site: Arc<Site>,
    device: DeviceKey,
}

impl Download {
    pub(super) fn metrics(&self) -> &UpdateMetrics {
        &self.site.metrics
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut downloads = self
            .site
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = downloads.get_mut(&self.device) {
            *count -= 1;
            if *count == 0 {
                downloads.remove(&self.device);
            }
        }
    }
}

async fn update(
    State(site): State<Arc<Site>>,
    Extension(asked): Extension<Asked>,
    headers: HeaderMap,
    question: Result<Query<Question>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let answered = async {
        let device = site.who(&asked, &headers)?;
        let Query(question) = question.map_err(|_| Refused::BadQuery)?;
        let runs = question
            .runs(site.clock.unchecked_now())
            .ok_or(Refused::BadQuery)?;
        site.note(device.key, &runs).await?;
        Ok(match site.offer(&device, runs).await? {
            Some(release) => {
                site.metrics.offered.increment();
                let kind = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, kind)], release.manifest).into_response()
            }
            None => {
                site.metrics.nothing.increment();
                let seconds = HeaderValue::from(site.retry_after.as_secs());
                (StatusCode::NO_CONTENT, [(header::RETRY_AFTER, seconds)]).into_response()
            }
        })
    };
    let answered = answered.await;
    Site::answer(answered, &site.metrics.questions_refused)
}

async fn download(
    State(site): State<Arc<Site>>,
    Extension(asked): Extension<Asked>,
    headers: HeaderMap,
    Path(sha256): Path<String>,
) -> Response {
    let answered = async {
        let device = site.who(&asked, &headers)?;
        if !is_digest(&sha256) {
            return Err(Refused::NotFound);
        }
        let release = site.entitled(&device, &sha256).await?;
        let release = release.ok_or(Refused::NotFound)?;
        if matches!(asked, Asked::Nginx) {
            let redirect = HeaderValue::from_str(&format!("{IMAGES}{sha256}"));
            let redirect = redirect.map_err(|_| Refused::NotFound)?;
            let rate = HeaderValue::from(site.bytes_per_second);
            let kind = HeaderValue::from_static("application/octet-stream");
            let headers = [
                (ACCEL_REDIRECT, redirect),
                (ACCEL_LIMIT_RATE, rate),
                (header::CONTENT_TYPE, kind),
            ];
            site.metrics.downloads_by_nginx.increment();
            return Ok((headers, Body::empty()).into_response());
        }
        let turn = site.begin_download(device.key).ok_or(Refused::TooMany)?;
        let part = image::part(&headers, &sha256, release.size.into());
        // Long after the answer began, the device may have lost its right to the rest of it.
        let (of, asked, wanted) = (Arc::clone(&site), asked.clone(), sha256.clone());
        let still = move || {
            let (site, asked, sha256) = (Arc::clone(&of), asked.clone(), wanted.clone());
            Box::pin(async move {
                let Ok(device) = site.who(&asked, &HeaderMap::new()) else {
                    return false;
                };
                matches!(site.entitled(&device, &sha256).await, Ok(Some(_)))
            }) as image::Still
        };
        let sending = image::Sending {
            path: site.shelf.image(&sha256),
            sha256: &sha256,
            size: release.size.into(),
            part,
            bytes_per_second: site.bytes_per_second,
            still: Box::new(still),
            turn,
        };
        Ok(image::send(sending).await?)
    };
    let answered = answered.await;
    Site::answer(answered, &site.metrics.downloads_refused)
}

/// The certificate in nginx's header: percent-encoded PEM.
fn handed_over(value: &HeaderValue) -> Option<CertificateDer<'static>> {
    let mut pem = Vec::with_capacity(value.len());
    let mut bytes = value.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        pem.push(match byte {
            b'%' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => *byte,
        });
    }
    CertificateDer::from_pem_slice(&pem).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_as_nginx_writes_it() {
        let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let encoded: String = key
            .cert
            .pem()
            .bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        let value = HeaderValue::from_str(&encoded).unwrap();
        assert_eq!(handed_over(&value).as_ref(), Some(key.cert.der()));
        for bad in ["", "%", "%4", "%zz", "abc", &encoded[..200]] {
            let value = HeaderValue::from_str(bad).unwrap();
            assert_eq!(handed_over(&value), None, "{bad}");
        }
    }
}
