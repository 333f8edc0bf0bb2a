//! `tidegate device`: the registry.

use std::{ffi::OsString, path::PathBuf};

use clap::ValueEnum;

use super::{
    Context, Ended,
    output::{harmless, moment, moment_or_never, table, yes_no},
    pki_command, secret,
    state::State,
};
use crate::{
    config,
    control::{
        Code, Problem, Request,
        answer::{Device, DeviceDetail, Devices, Done},
    },
};

/// Subcommands of `tidegate device`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum DeviceCommand {
    /// Add a device at run time, beside those in the configuration
    Add(Box<AddArgs>),
    /// List all devices
    List,
    /// Show one device and what it may do
    Show {
        /// Its id
        id: String,
    },
    /// Let a blocked device in again
    Enable {
        /// Its id
        id: String,
    },
    /// Block a device and close its connections
    ///
    /// This outlives restarts and reloads, also for a device of the configuration.
    Disable {
        /// Its id
        id: String,
        /// Why, for those who will ask
        #[arg(long, default_value = "blocked by an operator")]
        reason: String,
    },
    /// Remove a device that was added at run time
    Remove {
        /// Its id
        id: String,
    },
    /// Give a device another shared secret
    SetSecret {
        /// Its id
        id: String,
        #[command(flatten)]
        source: SecretSource,
    },
    /// Give a device a password for listeners without client certificates, or take it away
    SetPassword {
        /// Its id
        id: String,
        /// File with the password; - reads standard input
        #[arg(long, value_name = "FILE", required_unless_present = "none")]
        password_file: Option<PathBuf>,
        /// Take the password away
        #[arg(long, conflicts_with = "password_file")]
        none: bool,
    },
    /// Issue what a device needs to connect: the same as `tidegate pki issue device`
    ///
    /// Everything after the id is as for that command; see `tidegate pki issue device --help`.
    Bundle {
        /// Its id
        id: String,
        /// As for pki issue device: --out, --file, --csr, --gateway, --secret-file, --force
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// 1 to 64 characters of A-Z a-z 0-9 _ -
    id: String,
    /// What its messages must carry
    #[arg(long, value_enum, default_value = "any")]
    signing: Signing,
    /// File with its shared secret; - reads standard input
    /// [default: none until its bundle is issued or set-secret]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with its password for listeners without client certificates
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Free topic filter it may publish to (repeatable)
    #[arg(long, value_name = "FILTER")]
    publish: Vec<String>,
    /// Free topic filter it may subscribe to (repeatable)
    #[arg(long, value_name = "FILTER")]
    subscribe: Vec<String>,
    /// For --signing none: free topic whose messages are telemetry (repeatable)
    #[arg(long, value_name = "FILTER")]
    telemetry: Vec<String>,
    /// For --signing none: topic that its commands are published on
    #[arg(long, value_name = "TOPIC")]
    command_topic: Option<String>,
    /// Group it belongs to (repeatable)
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Messages per second [default: limits.messages_per_second]
    #[arg(long, value_name = "N")]
    messages_per_second: Option<u32>,
    /// Do not let it in yet
    #[arg(long)]
    disabled: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Signing {
    /// A signature of version 1 or 2
    Any,
    /// A signature of version 2
    V2,
    /// None: raw bodies on its own topics
    None,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct SecretSource {
    /// File with the secret; - reads standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Make one and print it, this once
    #[arg(long)]
    generate: bool,
}

pub(super) fn run(context: &Context, command: DeviceCommand) -> Ended {
    if let DeviceCommand::Bundle { id, options } = command {
        return pki_command::issue_device(context, &id, options);
    }
    let loaded = context.load()?;
    let output = context.output;
    let open = || State::open(&loaded.config);
    match command {
        DeviceCommand::Add(args) => {
            let request = add(*args)?;
            let detail: DeviceDetail = open()?.ask(request)?;
            output.answer(&detail, |detail| {
                let id = &detail.device.id;
                format!("Device {id} added. Next: tidegate device bundle {id}")
            })?;
        }
        DeviceCommand::List => {
            let devices: Devices = open()?.ask(Request::DeviceList)?;
            output.answer(&devices, list)?;
        }
        DeviceCommand::Show { id } => {
            let detail: DeviceDetail = open()?.ask(Request::DeviceShow { id })?;
            output.answer(&detail, show)?;
        }
        DeviceCommand::Enable { id } => {
            let reason = String::new();
            let request = Request::DeviceSetEnabled {
                id: id.clone(),
                enabled: true,
                reason,
            };
            let detail: DeviceDetail = open()?.ask(request)?;
            output.answer(&detail, |_| format!("Device {id} is let in."))?;
        }
        DeviceCommand::Disable { id, reason } => {
            let request = Request::DeviceSetEnabled {
                id: id.clone(),
                enabled: false,
                reason,
            };
            let detail: DeviceDetail = open()?.ask(request)?;
            output.answer(&detail, |_| format!("Device {id} is blocked."))?;
        }
        DeviceCommand::Remove { id } => {
            let done: Done = open()?.ask(Request::DeviceRemove { id: id.clone() })?;
            output.answer(&done, |_| {
                format!("Device {id} is removed. Its certificate is not: tidegate pki revoke {id}")
            })?;
        }
        DeviceCommand::SetSecret { id, source } => {
            let (secret, shown) = match &source.secret_file {
                Some(path) => (secret::read(path)?, None),
                None => {
                    let secret = secret::generate()?;
                    (secret.clone(), Some(secret))
                }
            };
            let _: Done = open()?.ask(Request::DeviceSetSecret {
                id: id.clone(),
                secret,
            })?;
            let shown = shown.as_ref().map(crate::control::Secret::expose);
            let answer = serde_json::json!({ "id": id, "secret": shown });
            output.answer(&answer, |_| match shown {
                Some(secret) => format!("Device {id} has a new secret, not shown again:\n{secret}"),
                None => format!("Device {id} has a new secret."),
            })?;
        }
        DeviceCommand::SetPassword {
            id,
            password_file,
            none: _,
        } => {
            let password = password_file.as_deref().map(secret::read).transpose()?;
            let taken = password.is_none();
            let request = Request::DeviceSetPassword {
                id: id.clone(),
                password,
            };
            let done: Done = open()?.ask(request)?;
            output.answer(&done, |_| {
                if taken {
                    format!("Device {id} has no password any more.")
                } else {
                    format!("Device {id} has a new password.")
                }
            })?;
        }
        DeviceCommand::Bundle { .. } => {
            return Err(Problem::new(Code::Internal, "bundle is done elsewhere", "").into());
        }
    }
    Ok(())
}

fn add(args: AddArgs) -> Result<Request, Problem> {
    let secret = args.secret_file.as_deref().map(secret::read).transpose()?;
    let password = args
        .password_file
        .as_deref()
        .map(secret::read)
        .transpose()?;
    let settings = config::Device {
        enabled: !args.disabled,
        signing: match args.signing {
            Signing::Any => config::Signing::Any,
            Signing::V2 => config::Signing::V2,
            Signing::None => config::Signing::None,
        },
        // Their contents go with the request: the gateway may not read the operator's files.
        secret_file: None,
        password_file: None,
        messages_per_second: args.messages_per_second,
        publish: args.publish,
        subscribe: args.subscribe,
        telemetry: args.telemetry,
        command_topic: args.command_topic,
        groups: args.groups,
    };
    Ok(Request::DeviceAdd {
        id: args.id,
        settings: Box::new(settings),
        secret,
        password,
    })
}

fn state(device: &Device) -> &'static str {
    match (device.enabled, device.connected) {
        (false, _) => "blocked",
        (true, true) => "connected",
        (true, false) => "away",
    }
}

fn list(devices: &Devices) -> String {
    if devices.devices.is_empty() {
        return "No devices. Add one to the configuration ([devices.ID]) or with tidegate device add ID."
            .to_owned();
    }
    let rows: Vec<[String; 6]> = devices
        .devices
        .iter()
        .map(|device| {
            [
                device.id.clone(),
                state(device).to_owned(),
                device.signing.clone(),
                if device.declared {
                    "configuration"
                } else {
                    "run time"
                }
                .to_owned(),
                moment_or_never(device.last_seen_at),
                device.groups.join(" "),
            ]
        })
        .collect();
    table(
        ["ID", "STATE", "SIGNING", "FROM", "LAST SEEN", "GROUPS"],
        &rows,
    )
}

fn show(detail: &DeviceDetail) -> String {
    let device = &detail.device;
    let mut lines = vec![
        ("id", device.id.clone()),
        ("state", state(device).to_owned()),
        (
            "from",
            if device.declared {
                "configuration"
            } else {
                "run time"
            }
            .to_owned(),
        ),
        ("signing", device.signing.clone()),
        ("secret", yes_no(device.has_secret)),
        ("password", yes_no(device.has_password)),
        ("last seen", moment_or_never(device.last_seen_at)),
        (
            "rate",
            format!(
                "{}/s, burst {}",
                detail.messages_per_second, detail.message_burst
            ),
        ),
    ];
    if let Some(reason) = &device.blocked_reason {
        lines.push(("blocked", reason.clone()));
    }
    for (name, list) in [
        ("publish", &detail.publish),
        ("subscribe", &detail.subscribe),
        ("telemetry", &detail.telemetry),
        ("groups", &device.groups),
    ] {
        if !list.is_empty() {
            lines.push((name, list.join(" ")));
        }
    }
    if let Some(topic) = &detail.command_topic {
        lines.push(("commands on", topic.clone()));
    }
    if let Some(runs) = &detail.firmware {
        let (product, chip, version) = (&runs.product, &runs.chip, &runs.version);
        lines.push((
            "firmware",
            format!("{product} {version} on {chip}, since {}", moment(runs.at)),
        ));
        for update in &runs.updates {
            let reason = update.reason.as_deref().unwrap_or_default();
            let state = update.state.replace('_', " ");
            let line = format!("{} {state} {} {reason}", update.release, moment(update.at));
            lines.push(("update", line.trim_end().to_owned()));
        }
    }
    lines
        .iter()
        .map(|(name, value)| format!("{name:<12} {}\n", harmless(value)))
        .collect()
}
