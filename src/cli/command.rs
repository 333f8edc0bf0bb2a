//! `tidegate command`: commands for devices.

use std::{
    io::{self, Read as _},
    thread,
    time::{Duration, Instant},
};

use super::{
    Context, Ended, Failed,
    exit::Exit,
    output::{moment, table},
    state::State,
};
use crate::control::{
    Code, Problem, Request,
    answer::{Command, CommandQueued, Commands},
};

/// How often a waiting `send` asks.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Subcommands of `tidegate command`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum CommandCommand {
    /// Send a command; it is on disk when this returns
    Send {
        /// The device's id
        device: String,
        /// The command, JSON: '{"led":"on"}', 80, '"turn_on"'; - reads it from standard input
        body: String,
        /// How long it may wait for the device [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// Sending twice under one key sends once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Wait so long for the outcome; ends with 0 only if the device did it
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
    },
    /// Show what became of a command, or of the device's newest ones
    Status {
        /// The device's id
        device: String,
        /// As send printed it
        message_id: Option<String>,
    },
}

pub(super) fn run(context: &Context, command: CommandCommand) -> Ended {
    let loaded = context.load()?;
    let output = context.output;
    match command {
        CommandCommand::Send {
            device,
            body,
            ttl,
            idempotency_key,
            wait,
        } => {
            let body = body_text(body)?;
            let mut state = State::open(&loaded.config)?;
            let request = Request::CommandSend {
                device: device.clone(),
                body,
                ttl_seconds: ttl.map(|ttl| ttl.as_secs()),
                idempotency_key,
            };
            let queued: CommandQueued = state.ask(request)?;
            let Some(wait) = wait else {
                output.answer(&queued, |queued| {
                    format!("{} {}", queued.message_id, queued.status)
                })?;
                return Ok(());
            };
            let command = outcome(&mut state, &device, &queued.message_id, wait)?;
            output.answer(&command, line)?;
            if command.status == "done" {
                Ok(())
            } else {
                Err(Failed::Said(Exit::Failure))
            }
        }
        CommandCommand::Status { device, message_id } => {
            let mut state = State::open(&loaded.config)?;
            let commands: Commands = state.ask(Request::CommandStatus { device, message_id })?;
            output.answer(&commands, list)?;
            Ok(())
        }
    }
}

fn body_text(body: String) -> Result<String, Problem> {
    let body = if body == "-" {
        io::read_to_string(io::stdin().lock().take(1 << 20))
            .map_err(|error| Problem::new(Code::Io, format!("standard input: {error}"), ""))?
    } else {
        body
    };
    match serde_json::from_str::<&serde_json::value::RawValue>(&body) {
        Ok(_) => Ok(body),
        Err(error) => {
            let remedy = format!("put text in quotes: '\"{}\"'", body.escape_default());
            Err(Problem::new(
                Code::Invalid,
                format!("the command is not JSON: {error}"),
                remedy,
            ))
        }
    }
}

/// Asks until the command is settled or the time is up.
fn outcome(
    state: &mut State,
    device: &str,
    message_id: &str,
    wait: Duration,
) -> Result<Command, Problem> {
    let started = Instant::now();
    loop {
        let request = Request::CommandStatus {
            device: device.to_owned(),
            message_id: Some(message_id.to_owned()),
        };
        let commands: Commands = state.ask(request)?;
        let Some(command) = commands.commands.into_iter().next() else {
            return Err(Problem::new(
                Code::NotFound,
                format!("no command {message_id}"),
                "",
            ));
        };
        let settled = matches!(command.status.as_str(), "done" | "failed" | "expired");
        if settled || started.elapsed() >= wait {
            return Ok(command);
        }
        thread::sleep(ASK_EVERY);
    }
}

fn line(command: &Command) -> String {
    let detail = command
        .detail
        .as_ref()
        .map(|detail| format!(" {detail}"))
        .unwrap_or_default();
    super::output::harmless(&format!(
        "{} {}{detail}",
        command.message_id, command.status
    ))
}

fn list(commands: &Commands) -> String {
    let rows: Vec<[String; 6]> = commands
        .commands
        .iter()
        .map(|command| {
            [
                command.message_id.clone(),
                command.status.clone(),
                moment(command.queued_at),
                moment(command.expires_at),
                command.attempts.to_string(),
                command
                    .detail
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No commands.".to_owned();
    }
    table(
        [
            "MESSAGE ID",
            "STATUS",
            "QUEUED",
            "EXPIRES",
            "SENT",
            "DETAIL",
        ],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_as_it_is_written() {
        for body in ["80", "\"turn_on\"", "{\"b\": 1.50, \"a\":[ ]}"] {
            assert_eq!(body_text(body.to_owned()).expect("JSON"), body);
        }
        let problem = body_text("turn_on".to_owned()).expect_err("not JSON");
        assert_eq!(problem.remedy, "put text in quotes: '\"turn_on\"'");
    }
}
