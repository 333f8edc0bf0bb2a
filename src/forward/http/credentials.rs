//! Who we are to the backend and whom we believe: files, read again when they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use ureq::{
    http::HeaderValue,
    tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider},
};
use zeroize::Zeroizing;

use super::HttpError;
use crate::config;

/// How often to look whether a file has changed.
const LOOK: Duration = Duration::from_secs(5);

pub(super) struct Credentials {
    name: String,
    config: config::HttpUpstream,
    https: bool,
    loaded: RwLock<Loaded>,
    /// Rises when what TLS connections are made with changes.
    generation: AtomicU64,
    watch: Mutex<Watch>,
}

#[derive(Clone)]
struct Loaded {
    bearer: Option<HeaderValue>,
    tls: Option<TlsConfig>,
}

struct Watch {
    looked: Instant,
    token: Vec<Stamp>,
    tls: Vec<Stamp>,
}

/// What tells one version of a file from the next.
type Stamp = Option<(SystemTime, u64)>;

impl Credentials {
    pub(super) fn load(
        name: &str,
        config: &config::HttpUpstream,
        https: bool,
    ) -> Result<Self, HttpError> {
        let watch = Watch {
            looked: Instant::now(),
            token: stamps(token_files(config)),
            tls: stamps(tls_files(config)),
        };
        let bearer = bearer(name, config)?;
        let tls = if https {
            Some(tls(name, config)?)
        } else {
            None
        };
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            https,
            loaded: RwLock::new(Loaded { bearer, tls }),
            generation: AtomicU64::new(0),
            watch: Mutex::new(watch),
        })
    }

    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        self.loaded
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .bearer
            .clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn tls(&self) -> (Option<TlsConfig>, u64) {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        (loaded.tls.clone(), self.generation())
    }

    /// Reads what has changed, now and then. A file that cannot be used leaves what was in use.
    pub(super) fn refresh(&self) {
        // Somebody else is looking.
        let Ok(mut watch) = self.watch.try_lock() else {
            return;
        };
        if watch.looked.elapsed() < LOOK {
            return;
        }
        watch.looked = Instant::now();
        let token = stamps(token_files(&self.config));
        if token != watch.token {
            watch.token = token;
            match bearer(&self.name, &self.config) {
                Ok(bearer) => {
                    self.loaded
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .bearer = bearer;
                    tracing::info!(upstream = %self.name, "bearer token read again");
                }
                Err(error) => tracing::warn!(%error, "the previous bearer token stays in use"),
            }
        }
        let files = stamps(tls_files(&self.config));
        if self.https && files != watch.tls {
            watch.tls = files;
            match tls(&self.name, &self.config) {
                Ok(tls) => {
                    let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
                    loaded.tls = Some(tls);
                    self.generation.fetch_add(1, Ordering::AcqRel);
                    drop(loaded);
                    tracing::info!(upstream = %self.name, "certificates read again");
                }
                Err(error) => tracing::warn!(%error, "the previous certificates stay in use"),
            }
        }
    }

    /// As if [`LOOK`] had passed.
    #[cfg(test)]
    pub(super) fn refresh_now(&self) {
        self.watch.lock().unwrap().looked -= LOOK;
        self.refresh();
    }
}

fn token_files(config: &config::HttpUpstream) -> [Option<&PathBuf>; 1] {
    [config.bearer_token_file.as_ref()]
}

fn tls_files(config: &config::HttpUpstream) -> [Option<&PathBuf>; 3] {
    [
        config.ca_file.as_ref(),
        config.client_certificate_file.as_ref(),
        config.client_key_file.as_ref(),
    ]
}

fn stamps<const N: usize>(files: [Option<&PathBuf>; N]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.into_iter().map(|path| path.and_then(stamp)).collect()
}

fn bearer(name: &str, config: &config::HttpUpstream) -> Result<Option<HeaderValue>, HttpError> {
    let Some(path) = &config.bearer_token_file else {
        return Ok(None);
    };
    let text = read(name, path)?;
    let wrong = || HttpError::Token {
        name: name.to_owned(),
        path: path.clone(),
    };
    let token = std::str::from_utf8(&text).map_err(|_| wrong())?.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn tls(name: &str, config: &config::HttpUpstream) -> Result<TlsConfig, HttpError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match &config.ca_file {
        Some(path) => certificates(name, path)?,
        None => system_roots(name)?,
    };
    let identity = match (&config.client_certificate_file, &config.client_key_file) {
        (Some(certificate), Some(key)) => Some(identity(name, certificate, key)?),
        (None, None) => None,
        _ => {
            return Err(HttpError::HalfIdentity {
                name: name.to_owned(),
            });
        }
    };
    check(name, config, &provider, &roots, identity.as_ref())?;
    let owned = |der: &CertificateDer<'_>| Certificate::from_der(der).to_owned();
    let identity = identity.map(|identity| {
        let chain: Vec<_> = identity.chain.iter().map(owned).collect();
        ClientCert::new_with_certs(&chain, identity.same_key)
    });
    let roots: Vec<_> = roots.iter().map(owned).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(identity)
        .build())
}

/// Builds what ureq will build, because it panics where this fails.
fn check(
    name: &str,
    config: &config::HttpUpstream,
    provider: &Arc<CryptoProvider>,
    roots: &[CertificateDer<'static>],
    identity: Option<&Identity>,
) -> Result<(), HttpError> {
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(roots.iter().cloned());
    if usable == 0 {
        return Err(match &config.ca_file {
            Some(path) => HttpError::Pem {
                name: name.to_owned(),
                path: path.clone(),
                detail: "it holds no usable certificate".to_owned(),
            },
            None => HttpError::NoRoots {
                name: name.to_owned(),
                detail: "none could be used".to_owned(),
            },
        });
    }
    let failed = |error: rustls::Error| HttpError::Identity {
        name: name.to_owned(),
        detail: error.to_string(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(failed)?
        .with_root_certificates(store);
    if let Some(Identity { chain, key, .. }) = identity {
        builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(failed)?;
    }
    Ok(())
}

fn system_roots(name: &str) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let detail = found
            .errors
            .first()
            .map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(HttpError::NoRoots {
            name: name.to_owned(),
            detail,
        });
    }
    Ok(found.certs)
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let pem = read(name, path)?;
    let wrong = |detail: String| HttpError::Pem {
        name: name.to_owned(),
        path: path.to_owned(),
        detail,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// A client certificate with its key, once as rustls and once as ureq wants it.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    same_key: PrivateKey<'static>,
}

fn identity(name: &str, certificate: &Path, key: &Path) -> Result<Identity, HttpError> {
    // Read once: two readings may differ.
    let pem = Zeroizing::new(read(name, key)?);
    let wrong = |detail: String| HttpError::Pem {
        name: name.to_owned(),
        path: key.to_owned(),
        detail,
    };
    Ok(Identity {
        chain: certificates(name, certificate)?,
        key: PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong(error.to_string()))?,
        same_key: PrivateKey::from_pem(&pem).map_err(|error| wrong(error.to_string()))?,
    })
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, HttpError> {
    fs::read(path).map_err(|source| HttpError::Read {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    })
}
