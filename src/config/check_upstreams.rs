//! Checks of the upstreams.

use std::collections::BTreeMap;

use ureq::http::Uri;

use super::{
    Config, HttpUpstream, Upstream,
    check::{name, no_store, positive_duration},
    finding::Findings,
};

/// Each is a thread with a connection.
const MOST_WORKERS: u16 = 256;

pub(super) fn upstreams(config: &Config, findings: &mut Findings) {
    if config.upstreams.is_empty() {
        findings.warning(
            "upstreams",
            "there are none: messages are accepted, stored and owed to nobody",
            "add [upstreams.backend] with type = \"http\" and url = \"https://…\"",
        );
    }
    let mut urls = BTreeMap::new();
    for (upstream_name, upstream) in &config.upstreams {
        let key = format!("upstreams.{upstream_name}");
        name(&key, upstream_name, findings);
        let Upstream::Http(http) = upstream;
        http_upstream(&key, http, findings);
        if let Some(other) = urls.insert(http.url.as_str(), key.clone()) {
            findings.warning(
                format!("{key}.url"),
                format!("is the same as that of {other}: every message goes there twice"),
                "remove one of the two",
            );
        }
    }
}

fn http_upstream(key: &str, http: &HttpUpstream, findings: &mut Findings) {
    let scheme = url(&format!("{key}.url"), http, findings);
    for (field, path) in [
        ("client_key_file", &http.client_key_file),
        ("bearer_token_file", &http.bearer_token_file),
    ] {
        no_store(&format!("{key}.{field}"), path.as_deref(), findings);
    }
    let without = |field: &str| format!("{key}.{field}");
    match (&http.client_certificate_file, &http.client_key_file) {
        (Some(_), None) => findings.error(
            without("client_certificate_file"),
            "a certificate is no use without its key",
            "add client_key_file",
        ),
        (None, Some(_)) => findings.error(
            without("client_key_file"),
            "a key is no use without its certificate",
            "add client_certificate_file",
        ),
        _ => {}
    }
    if scheme == Some(Scheme::Http) {
        for (field, set) in [
            ("ca_file", http.ca_file.is_some()),
            (
                "client_certificate_file",
                http.client_certificate_file.is_some(),
            ),
        ] {
            if set {
                findings.error(
                    without(field),
                    "is for TLS, which an http:// URL does not use",
                    "write https:// in url, or take this out",
                );
            }
        }
    }
    positive_duration(&without("timeout"), http.timeout, findings);
    positive_duration(&without("retry_min"), http.retry_min, findings);
    if http.retry_min > http.retry_max {
        findings.error(
            without("retry_min"),
            format!(
                "{} is longer than retry_max = {}",
                humantime::format_duration(http.retry_min),
                humantime::format_duration(http.retry_max)
            ),
            "make retry_min the shorter one",
        );
    }
    if !(1..=MOST_WORKERS).contains(&http.workers) {
        findings.error(
            without("workers"),
            format!("{} requests at once", http.workers),
            format!("write 1 to {MOST_WORKERS}"),
        );
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Scheme {
    Http,
    Https,
}

fn url(key: &str, http: &HttpUpstream, findings: &mut Findings) -> Option<Scheme> {
    const REMEDY: &str = "write http://host:port or https://host:port/path";
    // Before anything else, so that no message repeats a password.
    if authority(&http.url).contains('@') {
        findings.error(
            key,
            "holds a user name or password, which would be shown and logged",
            "take it out and use bearer_token_file or a client certificate",
        );
        return None;
    }
    let shown = &http.url;
    let Ok(uri) = http.url.parse::<Uri>() else {
        findings.error(key, format!("{shown:?} is not a URL"), REMEDY);
        return None;
    };
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(other) => {
            findings.error(
                key,
                format!("{other:?} is no scheme an http upstream speaks"),
                REMEDY,
            );
            return None;
        }
        None => {
            findings.error(
                key,
                format!("{shown:?} does not say http:// or https://"),
                REMEDY,
            );
            return None;
        }
    };
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        findings.error(key, format!("{shown:?} names no host"), REMEDY);
    }
    if uri.port_u16() == Some(0) {
        findings.error(key, "nobody listens on port 0", REMEDY);
    }
    if http.url.contains(['?', '#']) {
        findings.error(
            key,
            "has a query or fragment, but /device/{id}/data is appended to it",
            "write only scheme, host, port and path",
        );
    }
    let bare = host.trim_matches(['[', ']']);
    let local = bare == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if scheme == Scheme::Http && !local {
        let what = if http.bearer_token_file.is_some() {
            "messages and the token"
        } else {
            "messages"
        };
        findings.warning(
            key,
            format!("{what} cross the network in the clear"),
            "use https:// unless the way there is protected otherwise",
        );
    }
    Some(scheme)
}

/// What lies between `scheme://` and the path; also of what is no valid URL.
fn authority(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}
