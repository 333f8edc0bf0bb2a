//! What a newcomer reads first: where everything is and how to join in.

use std::{
    env, fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use tidegate_host::Kind;

use super::{DemoArgs, DemoError, backend::Backend, devices, reachable};
use crate::{api::Scope, app::Handle};

/// The file in the state folder with the API key for commands.
const KEY: &str = "demo.key";

/// Devices that are listed one by one; the others are like them.
const LISTED: u16 = 6;

/// Makes what the introduction speaks of, and prints it.
///
/// # Errors
/// When a certificate or key cannot be made or written.
pub(super) async fn print(
    args: &DemoArgs,
    handle: &Handle,
    backend: &Backend,
    state_dir: &Path,
) -> Result<(), DemoError> {
    api_key(handle, state_dir).await?;
    handle.operator("operator", &state_dir.join("operator"))?;
    let text = text(args, &backend.url(), state_dir);
    let mut out = io::stdout().lock();
    // A closed standard output must not stop the demo.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
    Ok(())
}

fn text(args: &DemoArgs, backend: &str, state_dir: &Path) -> String {
    let (mqtt, api) = (reachable(args.mqtt), reachable(args.api));
    let state = state_dir.display();
    let updates = if args.update {
        let server = SocketAddr::new(mqtt.ip(), args.update_port);
        format!("https://{server}  (mutual TLS)")
    } else {
        "none; --update shows them".to_owned()
    };
    let and_releases = if args.update {
        ", see the releases"
    } else {
        ""
    };
    let devices = match args.devices {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    let mut lines = vec![
        format!(
            "Tidegate demo: {devices}, a reading every {}",
            humantime::format_duration(args.every)
        ),
        String::new(),
        format!("  devices   mqtts://{mqtt}  (mutual TLS)"),
        format!("  commands  https://{api}/command/{{device}}"),
        format!("  backend   {backend}"),
        format!("  updates   {updates}"),
        format!("  state     {state}"),
        String::new(),
    ];
    for number in 1..=args.devices.min(LISTED) {
        let kind = devices::kind(number);
        let has = match kind {
            Kind::Dashboard => "potentiometer, switch, LED",
            Kind::Climate => "temperature, humidity",
            Kind::Gates => "two relays",
        };
        let (name, product) = (devices::name(number), devices::product(kind));
        lines.push(format!("  {name}  {product:<9}  {has}"));
    }
    if args.devices > LISTED {
        let more = args.devices - LISTED;
        lines.push(format!("  and {more} more, the same in turn"));
    }
    lines.extend([
        String::new(),
        format!("Watch their messages from another terminal, set an LED, open a gate{and_releases}:"),
        String::new(),
        format!("  cd {}", quoted(&state.to_string())),
        format!(
            "  mosquitto_sub -h {} -p {} --cafile pki/root.crt --cert operator/operator.crt --key operator/operator.key -v -t 'device/#'",
            mqtt.ip(),
            mqtt.port()
        ),
    ]);
    let command = |device: u16, command: &str| {
        format!(
            "  curl --cacert pki/root.crt -H \"Authorization: Bearer $(cat {KEY})\" -d '{command}' https://{api}/command/{}",
            devices::name(device)
        )
    };
    for number in 1..=args.devices.min(LISTED / 2) {
        match devices::kind(number) {
            Kind::Dashboard => {
                lines.push(command(number, r#"{"action":"led","value":80}"#));
            }
            Kind::Gates => {
                let open = r#"{"action":"relay","name":"gate1","value":"turn_on"}"#;
                lines.push(command(number, open));
            }
            Kind::Climate => {}
        }
    }
    if args.update {
        let program = env::current_exe().unwrap_or_else(|_| "tidegate".into());
        let program = quoted(&program.display().to_string());
        lines.push(format!("  {program} --state-dir . firmware list"));
    }
    lines.extend([
        String::new(),
        "Ctrl-C ends it.".to_owned(),
        String::new(),
        String::new(),
    ]);
    lines.join("\n")
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Makes the demo's API key, unless an earlier start did.
async fn api_key(handle: &Handle, state_dir: &Path) -> Result<(), DemoError> {
    let path = state_dir.join(KEY);
    if path.exists() {
        return Ok(());
    }
    let key = handle
        .create_key("demo", &[Scope::CommandSend, Scope::CommandRead])
        .await?;
    // Whole or not at all: what is there is taken for good at the next start.
    let new = state_dir.join("demo.key.new");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(key.as_bytes()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| DemoError::State { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reaches_the_shell_as_it_is() {
        assert_eq!(quoted("/var/lib/tide-gate_1.x"), "/var/lib/tide-gate_1.x");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/it's $HOME"), r"'/it'\''s $HOME'");
    }
}
