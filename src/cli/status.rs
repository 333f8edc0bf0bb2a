//! `tidegate status`: how the gateway is.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::Duration,
};

use super::{
    Context, Ended, Failed,
    exit::Exit,
    output::{moment, print, table},
    state::State,
};
use crate::control::{Request, answer::Status};

/// Arguments of `tidegate status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with status 69 if the gateway does not run.")]
pub(super) struct StatusArgs {
    /// Show it again every two seconds
    #[arg(long)]
    watch: bool,
    /// Count what the tables hold and compare it with the ledgers
    #[arg(long)]
    verify: bool,
}

const EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(context: &Context, args: &StatusArgs) -> Ended {
    let loaded = context.load()?;
    let clear = args.watch && !context.output.json && io::stdout().is_terminal();
    loop {
        // Opened anew each time: a gateway that starts or stops meanwhile is noticed.
        let request = Request::Status {
            verify: args.verify,
        };
        let status: Status = State::open(&loaded.config)?.ask(request)?;
        if clear {
            print("\x1b[2J\x1b[H")?;
        }
        context.output.answer(&status, text)?;
        if !args.watch {
            let sound = status
                .upstreams
                .values()
                .all(|upstream| upstream.verified != Some(false));
            return match (status.running, sound) {
                (_, false) => Err(Failed::Said(Exit::Damaged)),
                (false, _) => Err(Failed::Said(Exit::NotRunning)),
                (true, true) => Ok(()),
            };
        }
        thread::sleep(EVERY);
    }
}

fn text(status: &Status) -> String {
    let mut text = if status.running {
        let since = status.started_at.map(|at| format!(" since {}", moment(at)));
        let pid = status.pid.map(|pid| format!(" (pid {pid})"));
        format!(
            "Tidegate {} runs{}{}.\n",
            status.version,
            since.unwrap_or_default(),
            pid.unwrap_or_default()
        )
    } else {
        format!(
            "The gateway with state {} does not run.\n",
            status.state_dir.display()
        )
    };
    if status.running && !status.clock_trusted {
        text.push_str("The clock is not trusted: nothing is accepted until it is set.\n");
    }
    let devices = status.devices;
    text.push_str(&format!(
        "Devices: {} ({} enabled, {} connected).\n",
        devices.total, devices.enabled, devices.connected
    ));
    let listeners: Vec<[String; 3]> = status
        .listeners
        .iter()
        .map(|listener| {
            [
                listener.name.clone(),
                listener.address.clone(),
                listener.mode.clone(),
            ]
        })
        .collect();
    if !listeners.is_empty() {
        text.push('\n');
        text.push_str(&table(["LISTENER", "ADDRESS", "MODE"], &listeners));
    }
    let upstreams: Vec<[String; 8]> = status
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let note = match (upstream.configured, upstream.verified, &upstream.state) {
                (_, Some(false), _) => "the ledger is wrong".to_owned(),
                (false, ..) => "no longer configured".to_owned(),
                (true, _, state) => state.clone().unwrap_or_default(),
            };
            [
                name.clone(),
                upstream.accepted.to_string(),
                upstream.delivered.to_string(),
                upstream.owed.to_string(),
                upstream.parked.to_string(),
                upstream.dead.to_string(),
                upstream.expired.to_string(),
                note,
            ]
        })
        .collect();
    if !upstreams.is_empty() {
        text.push('\n');
        let headings = [
            "UPSTREAM",
            "ACCEPTED",
            "DELIVERED",
            "OWED",
            "PARKED",
            "DEAD",
            "EXPIRED",
            "STATE",
        ];
        text.push_str(&table(headings, &upstreams));
    }
    text
}
