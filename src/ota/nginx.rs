//! The configuration of nginx in front of the gateway's update socket.
//!
//! nginx terminates mutual TLS, asks the gateway about every request and sends images itself. What is
//! printed belongs into its `http` block, as a file of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What is rendered, with a name between two `@` where a value goes. NixOS fills in the same text.
const TEMPLATE: &str = include_str!("nginx.conf");

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
    let values = [
        ("@listen@", settings.listen.to_string()),
        ("@socket@", quotable(&settings.socket)?.to_owned()),
        ("@releases@", quotable(&settings.releases)?.to_owned()),
        ("@pki@", quotable(&settings.pki)?.to_owned()),
        (
            "@connections_per_address@",
            settings.connections_per_address.to_string(),
        ),
        ("@stall_seconds@", settings.stall_seconds.to_string()),
    ];
    Ok(values
        .iter()
        .fold(TEMPLATE.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        }))
}

/// A path for between double quotes.
fn quotable(path: &Path) -> Result<&str, BadPath> {
    let text = path.to_str().filter(|text| {
        let odd = |char: char| {
            char.is_control() || matches!(char, '"' | '\\' | '$' | ';' | '{' | '}' | '@')
        };
        text.starts_with('/') && !text.contains(odd)
    });
    text.ok_or_else(|| BadPath(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{super::http::IMAGES, *};

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
            &format!("location ~ \"^{IMAGES}(?<tidegate_image>"),
            "limit_conn tidegate_address 16;",
            "send_timeout 30s;",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        // What is left of names are nginx's own: a location's.
        let left: Vec<_> = text.match_indices('@').map(|(at, _)| &text[at..]).collect();
        assert!(
            left.iter().all(|name| name.starts_with("@refused")),
            "{text}"
        );
    }

    #[test]
    fn a_path_cannot_add_directives() {
        for path in [
            "/a\";b", "/a\nb", "/a$b", "relative", "/a\\", "/a{b}", "/@pki@",
        ] {
            assert!(render(&settings(path)).is_err(), "{path}");
        }
    }
}
