//! The configuration of nginx in front of the gateway's update socket.
//!
//! nginx terminates mutual TLS, asks the gateway about every request and sends images itself. What is
//! printed belongs into its `http` block, as a file of its own.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::http::IMAGES;

/// What nginx has to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// The gateway's update socket.
    pub socket: PathBuf,
    /// The release folder.
    pub releases: PathBuf,
    /// The folder with `server.crt`, `server.key`, `clients.pem` and `crl.pem`.
    pub pki: PathBuf,
    /// Connections from one address.
    pub connections_per_address: u32,
    /// Without progress for so long, a client is left.
    pub stall_seconds: u64,
}

/// A path that cannot be written into nginx's configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0} has a character that nginx's configuration cannot hold; choose another path")]
pub struct BadPath(PathBuf);

/// The configuration, complete.
///
/// # Errors
/// [`BadPath`].
pub fn render(settings: &Settings) -> Result<String, BadPath> {
    let Settings {
        listen,
        connections_per_address,
        stall_seconds,
        ..
    } = settings;
    let (socket, releases) = (quotable(&settings.socket)?, quotable(&settings.releases)?);
    let pki = quotable(&settings.pki)?;
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        r#"# Firmware updates for devices: made by `tidegate firmware nginx`, for the http block.
# Reload nginx when server.crt, clients.pem or crl.pem in {pki} change; the gateway itself
# refuses a revoked device at once.
limit_conn_zone $binary_remote_addr zone=tidegate_address:1m;
limit_conn_zone $ssl_client_fingerprint zone=tidegate_device:4m;

upstream tidegate_updates {{
    server "unix:{socket}";
    keepalive 16;
}}

server {{
    listen {listen} ssl;
    server_name _;
    server_tokens off;

    ssl_certificate "{pki}/server.crt";
    ssl_certificate_key "{pki}/server.key";
    ssl_client_certificate "{pki}/clients.pem";
    ssl_crl "{pki}/crl.pem";
    ssl_verify_client on;
    ssl_verify_depth 3;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers off;
    # A resumed session would pass by the revocation list.
    ssl_session_cache off;
    ssl_session_tickets off;
    # A certificate that is refused: 403, as from the gateway.
    error_page 495 496 =403 @refused;

    limit_conn tidegate_address {connections_per_address};
    limit_conn tidegate_device 2;
    limit_conn_status 429;
    client_max_body_size 1k;
    client_header_timeout 10s;
    client_body_timeout 10s;
    keepalive_timeout 30s;
    send_timeout {stall_seconds}s;
    reset_timedout_connection on;

    location / {{
        return 404;
    }}

    location @refused {{
        return 403;
    }}

    location /v1/ {{
        limit_except GET {{
            deny all;
        }}
        proxy_pass http://tidegate_updates;
        proxy_http_version 1.1;
        proxy_pass_request_body off;
        proxy_set_header Connection "";
        proxy_set_header Content-Length "";
        proxy_set_header Host tidegate;
        proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
        proxy_buffers 4 8k;
        proxy_buffer_size 8k;
        proxy_max_temp_file_size 0;
        proxy_connect_timeout 5s;
        proxy_read_timeout 30s;
        proxy_send_timeout 10s;
        proxy_next_upstream off;
    }}

    # Only the gateway sends anybody here.
    location ~ "^{IMAGES}(?<tidegate_image>[0-9a-f]{{64}})$" {{
        internal;
        alias "{releases}/$tidegate_image";
        default_type application/octet-stream;
        etag off;
        if_modified_since off;
        add_header ETag '"$tidegate_image"';
        max_ranges 1;
        sendfile on;
        tcp_nopush on;
    }}
}}
"#
    );
    Ok(text)
}

/// A path for between double quotes.
fn quotable(path: &Path) -> Result<&str, BadPath> {
    let text = path.to_str().filter(|text| {
        let odd =
            |char: char| char.is_control() || matches!(char, '"' | '\\' | '$' | ';' | '{' | '}');
        text.starts_with('/') && !text.contains(odd)
    });
    text.ok_or_else(|| BadPath(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(socket: &str) -> Settings {
        Settings {
            listen: SocketAddr::from(([0, 0, 0, 0], 8444)),
            socket: socket.into(),
            releases: "/var/lib/releases".into(),
            pki: "/run/tls".into(),
            connections_per_address: 16,
            stall_seconds: 30,
        }
    }

    #[test]
    fn braces_are_balanced_and_paths_are_where_they_belong() {
        let text = render(&settings("/run/tidegate/updates.sock")).unwrap();
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        for part in [
            "listen 0.0.0.0:8444 ssl;",
            "server \"unix:/run/tidegate/updates.sock\";",
            "alias \"/var/lib/releases/$tidegate_image\";",
            "ssl_crl \"/run/tls/crl.pem\";",
            "[0-9a-f]{64}",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_path_cannot_add_directives() {
        for path in ["/a\";b", "/a\nb", "/a$b", "relative", "/a\\", "/a{b}"] {
            assert!(render(&settings(path)).is_err(), "{path}");
        }
    }
}
