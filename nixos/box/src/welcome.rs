//! What whoever stands before the box reads on its screen and serial line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::program::{ProgramError, read};

/// Arguments of `welcome`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that agetty shows
    #[arg(long)]
    issue: PathBuf,
    /// The box's name on the network
    #[arg(long)]
    host: String,
    /// Where secrets of this box are kept
    #[arg(long)]
    dir: PathBuf,
    /// The port of the API and console, if there is one
    #[arg(long)]
    api_port: Option<u16>,
    /// The device network's name, if this box made its passphrase
    #[arg(long)]
    ssid: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum WelcomeError {
    #[error("the setup code could not be made: {0}")]
    Gateway(#[from] ProgramError),
    #[error(
        "the gateway answered {0:?}, which is not what `tidegate --json key` answers in this version"
    )]
    Answer(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The name of the key that is the setup code.
const CODE: &str = "setup";
/// Long enough to find the phone, too short to find the code on a photograph later.
const VALID: &str = "1h";

pub(crate) fn run(args: &Args) -> Result<(), WelcomeError> {
    let code = if args.api_port.is_some() && is_new(&tidegate(&["key", "list"])?)? {
        let created = tidegate(&["key", "create", CODE, "--scope", "admin", "--valid", VALID])?;
        let token = created["token"]
            .as_str()
            .ok_or_else(|| WelcomeError::Answer(created.to_string()))?;
        Some(token.to_owned())
    } else {
        None
    };
    let passphrase = match &args.ssid {
        None => None,
        Some(ssid) => {
            let path = args.dir.join("wifi");
            let secret = fs::read_to_string(&path).map_err(at(&path))?;
            Some((ssid.as_str(), secret))
        }
    };
    let text = text(
        &args.host,
        args.api_port,
        code.as_deref(),
        passphrase
            .as_ref()
            .map(|(ssid, secret)| (*ssid, secret.as_str())),
    );
    write(&args.issue, &text).map_err(at(&args.issue))
}

fn tidegate(arguments: &[&str]) -> Result<Value, WelcomeError> {
    let text = read(Command::new("tidegate").arg("--json").args(arguments))?;
    serde_json::from_str(&text).map_err(|_| WelcomeError::Answer(text))
}

/// Whether nobody has got a key to this gateway yet. (Setup codes that ran out are nobody's.)
fn is_new(list: &Value) -> Result<bool, WelcomeError> {
    let keys = list["keys"]
        .as_array()
        .ok_or_else(|| WelcomeError::Answer(list.to_string()))?;
    Ok(keys
        .iter()
        .all(|key| key["name"] == CODE && key["last_used_at"].is_null()))
}

fn text(
    host: &str,
    api_port: Option<u16>,
    code: Option<&str>,
    wifi: Option<(&str, &str)>,
) -> String {
    let mut text = "\nTidegate \\4\n".to_owned();
    if let Some(port) = api_port {
        text += &format!("  Gateway:    https://{}:{port}/\n", escaped(host));
    }
    if let Some((ssid, secret)) = wifi {
        text += &format!(
            "  Device Wi-Fi: {}   passphrase: {}\n",
            escaped(ssid),
            escaped(secret.trim())
        );
    }
    if let Some(code) = code {
        text += &format!("  Setup code, good for {VALID}: {}\n", escaped(code));
    }
    text + "\n"
}

/// agetty takes a backslash for the beginning of something.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&beside, path)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WelcomeError + use<> {
    let path = path.to_owned();
    move |source| WelcomeError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gateway_is_new_until_a_key_was_made_or_the_code_used() {
        assert!(is_new(&json!({ "keys": [] })).unwrap());
        assert!(is_new(&json!({ "keys": [{ "name": "setup", "last_used_at": null }] })).unwrap());
        assert!(!is_new(&json!({ "keys": [{ "name": "setup", "last_used_at": 1 }] })).unwrap());
        assert!(
            !is_new(&json!({ "keys": [{ "name": "backend", "last_used_at": null }] })).unwrap()
        );
        assert!(is_new(&json!({})).is_err());
    }

    #[test]
    fn the_screen_says_what_there_is_and_nothing_else() {
        let all = text(
            "gateway.local",
            Some(8443),
            Some("tgk_x"),
            Some(("tide\\gate", "secret\n")),
        );
        assert!(
            all.contains("https://gateway.local:8443/")
                && all.contains("tgk_x")
                && all.contains("tide\\\\gate")
        );
        let least = text("gateway.local", None, None, None);
        assert!(!least.contains("https") && !least.contains("code") && !least.contains("Wi-Fi"));
    }
}
