//! `tidegate outbox`: what is not on its ordinary way to an upstream.

use super::{
    Context, Ended,
    output::{count as plural, moment, table},
    state::State,
};
use crate::control::{
    OutboxFilter, Request,
    answer::{Count, Outbox},
};

/// Subcommands of `tidegate outbox`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum OutboxCommand {
    /// List dead letters (refused for good) and devices whose messages wait on their own
    List {
        /// Only dead letters
        #[arg(long)]
        dead: bool,
        #[command(flatten)]
        filter: Filter,
        /// At most so many dead letters
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Send dead letters again
    Retry(Choice),
    /// Give dead letters up for good; they count as expired
    Drop(Choice),
}

#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only of this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only from this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

/// Which dead letters: something must be said, so that nothing is dropped by accident.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("choice").required(true).multiple(true)
    .args(["seq", "all", "upstream", "device"]))]
pub(super) struct Choice {
    /// The message with this number, as list shows it
    #[arg(conflicts_with = "all")]
    seq: Option<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

impl From<Choice> for OutboxFilter {
    fn from(
        Choice {
            seq,
            all: _,
            filter: Filter { upstream, device },
        }: Choice,
    ) -> Self {
        Self {
            upstream,
            device,
            seq,
            limit: 0,
        }
    }
}

pub(super) fn run(context: &Context, command: OutboxCommand) -> Ended {
    let loaded = context.load()?;
    let mut state = State::open(&loaded.config)?;
    let output = context.output;
    match command {
        OutboxCommand::List {
            dead,
            filter: Filter { upstream, device },
            limit,
        } => {
            let filter = OutboxFilter {
                upstream,
                device,
                seq: None,
                limit,
            };
            let mut outbox: Outbox = state.ask(Request::OutboxList { filter })?;
            if dead {
                outbox.parked.clear();
            }
            output.answer(&outbox, list)?;
        }
        OutboxCommand::Retry(choice) => {
            let count: Count = state.ask(Request::OutboxRetry {
                filter: choice.into(),
            })?;
            output.answer(&count, |count| {
                format!("Owed again: {}.", plural(count.messages, "message"))
            })?;
        }
        OutboxCommand::Drop(choice) => {
            let count: Count = state.ask(Request::OutboxDrop {
                filter: choice.into(),
            })?;
            output.answer(&count, |count| {
                format!("Given up: {}.", plural(count.messages, "message"))
            })?;
        }
    }
    Ok(())
}

fn list(outbox: &Outbox) -> String {
    let dead: Vec<[String; 6]> = outbox
        .dead
        .iter()
        .map(|letter| {
            [
                letter.upstream.clone(),
                letter.seq.to_string(),
                letter.device_id.clone(),
                letter
                    .status
                    .map(|status| status.to_string())
                    .unwrap_or_default(),
                moment(letter.died_at),
                letter.reason.clone(),
            ]
        })
        .collect();
    let parked: Vec<[String; 4]> = outbox
        .parked
        .iter()
        .map(|parked| {
            [
                parked.upstream.clone(),
                parked.device_id.clone(),
                parked.messages.to_string(),
                parked.oldest_seq.to_string(),
            ]
        })
        .collect();
    let mut text = String::new();
    if !dead.is_empty() {
        text.push_str("Dead letters (tidegate outbox retry or drop):\n");
        text.push_str(&table(
            ["UPSTREAM", "SEQ", "DEVICE", "STATUS", "DIED", "REASON"],
            &dead,
        ));
    }
    if !parked.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str("Waiting on their own (retried by themselves):\n");
        text.push_str(&table(
            ["UPSTREAM", "DEVICE", "MESSAGES", "FROM SEQ"],
            &parked,
        ));
    }
    if text.is_empty() {
        "Nothing is stuck.".to_owned()
    } else {
        text
    }
}
