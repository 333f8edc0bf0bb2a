//! `tidegate key`: API keys.

use std::time::Duration;

use super::{
    Context, Ended,
    output::{moment, moment_or_never, table},
    state::State,
};
use crate::{
    api::Restriction,
    control::{
        Request,
        answer::{Done, Key, KeyCreated, Keys},
    },
};

/// Subcommands of `tidegate key`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print its token, this once
    Create {
        /// What or whom it is for
        name: String,
        /// What it may do: command:send, command:read, device:read, status:read, metrics:read or
        /// admin (repeatable)
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// Only for this device (repeatable) [default: all devices]
        #[arg(long = "device", value_name = "ID")]
        devices: Vec<String>,
        /// Only for devices whose id begins so (repeatable)
        #[arg(long = "prefix", value_name = "TEXT")]
        prefixes: Vec<String>,
        /// Only for devices in this group (repeatable)
        #[arg(long = "group", value_name = "NAME")]
        groups: Vec<String>,
        /// How long it is good for [default: until revoked]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        valid: Option<Duration>,
    },
    /// List all keys, without their tokens
    List,
    /// Refuse a key from now on
    Revoke {
        /// As key list shows it
        id: String,
    },
}

pub(super) fn run(context: &Context, command: KeyCommand) -> Ended {
    let loaded = context.load()?;
    let mut state = State::open(&loaded.config)?;
    let output = context.output;
    match command {
        KeyCommand::Create {
            name,
            scopes,
            devices: ids,
            prefixes,
            groups,
            valid,
        } => {
            let only = Restriction {
                ids,
                prefixes,
                groups,
            };
            let request = Request::KeyCreate {
                name,
                scopes,
                devices: (only != Restriction::default()).then_some(only),
                valid_seconds: valid.map(|valid| valid.as_secs()),
            };
            let created: KeyCreated = state.ask(request)?;
            output.answer(&created, |created| {
                format!(
                    "Key {}. Its token, which is not shown again:\n{}\n",
                    created.id, created.token
                )
            })?;
        }
        KeyCommand::List => {
            let keys: Keys = state.ask(Request::KeyList)?;
            output.answer(&keys, list)?;
        }
        KeyCommand::Revoke { id } => {
            let done: Done = state.ask(Request::KeyRevoke { id: id.clone() })?;
            output.answer(&done, |_| format!("Key {id} is refused from now on."))?;
        }
    }
    Ok(())
}

fn list(keys: &Keys) -> String {
    if keys.keys.is_empty() {
        return "No keys. Make one: tidegate key create NAME --scope command:send".to_owned();
    }
    let rows: Vec<[String; 7]> = keys
        .keys
        .iter()
        .map(|key| {
            [
                key.id.clone(),
                key.name.clone(),
                key.scopes.join(" "),
                key.devices
                    .as_ref()
                    .map_or_else(|| "all".to_owned(), devices),
                moment(key.created_at),
                moment_or_never(key.last_used_at),
                state(key),
            ]
        })
        .collect();
    table(
        [
            "ID",
            "NAME",
            "SCOPES",
            "DEVICES",
            "CREATED",
            "LAST USED",
            "ENDS",
        ],
        &rows,
    )
}

fn devices(only: &Restriction) -> String {
    let ids = only.ids.iter().cloned();
    let prefixes = only.prefixes.iter().map(|prefix| format!("{prefix}*"));
    let groups = only.groups.iter().map(|group| format!("group:{group}"));
    ids.chain(prefixes)
        .chain(groups)
        .collect::<Vec<_>>()
        .join(" ")
}

fn state(key: &Key) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at)),
        (None, Some(at)) => moment(at),
        (None, None) => String::new(),
    }
}
