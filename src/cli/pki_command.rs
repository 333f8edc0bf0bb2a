//! `tidegate pki`, and what follows from it: a freshly issued device is put into the registry.

use std::ffi::OsString;

use clap::{Args as _, FromArgMatches as _};
use time::OffsetDateTime;

use super::{
    Context, Ended, Failed,
    output::print,
    pki::{self, Outcome, PkiArgs},
    state::State,
};
use crate::{
    config::Config,
    control::{Code, Problem, Request, Secret, answer::DeviceDetail},
    pki::{IssuedDevice, PkiDir, PkiError},
};

pub(super) fn run(context: &Context, args: PkiArgs) -> Ended {
    let loaded = context.load()?;
    let mut text = Vec::new();
    let config = &loaded.config;
    let settings = pki::Settings {
        dir: PkiDir::of(config),
        profiles: config.pki.profiles_dir.as_deref(),
        release_keys: config.updates.keys(),
    };
    let outcome = pki::run(args, settings, OffsetDateTime::now_utc(), &mut text)
        .map_err(|error| problem(&error))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let Outcome::DeviceIssued(issued) = outcome else {
        // A list asked for as JSON is JSON already.
        if context.output.json && !text.starts_with(['[', '{']) {
            let answer = serde_json::json!({ "done": true, "text": text });
            context.output.answer(&answer, |_| text.clone())?;
        } else {
            print(&text)?;
        }
        return Ok(());
    };
    let answer = serde_json::json!({
        "device_id": issued.bundle.device_id,
        "serial": issued.serial.to_string(),
        "not_after": issued.not_after.unix_timestamp() * 1000,
    });
    context.output.answer(&answer, |_| text)?;
    // Said first: the bundle is there, whatever becomes of the registry.
    enrol(&loaded.config, &issued)
}

/// `tidegate pki issue device ID OPTIONS`
pub(super) fn issue_device(context: &Context, id: &str, options: Vec<OsString>) -> Ended {
    let arguments = ["tidegate pki", "issue", "device", id].map(OsString::from);
    let command = PkiArgs::augment_args(clap::Command::new("tidegate pki"));
    let matches = command.try_get_matches_from(arguments.into_iter().chain(options));
    match matches.and_then(|matches| PkiArgs::from_arg_matches(&matches)) {
        Ok(args) => run(context, args),
        Err(error) => {
            let _ = error.print();
            let usage = error.use_stderr();
            if usage {
                Err(Failed::Said(super::Exit::Usage))
            } else {
                Ok(())
            }
        }
    }
}

fn enrol(config: &Config, issued: &IssuedDevice) -> Ended {
    let bundle = &issued.bundle;
    let Some(secret) = &bundle.secret else {
        return Ok(());
    };
    let id = bundle.device_id.to_string();
    let secret = Secret::new(secret.to_string());
    let enrolled: Result<DeviceDetail, Problem> = State::open(config).and_then(|mut state| {
        state.ask(Request::DeviceEnrol {
            id: id.clone(),
            secret,
        })
    });
    match enrolled {
        Ok(_) => Ok(()),
        Err(problem) => {
            let message = format!(
                "the bundle is issued, but its secret did not reach the registry: {}",
                problem.message
            );
            let remedy = format!(
                "give it to the gateway with tidegate device set-secret {id} --secret-file FILE ({})",
                problem.remedy
            );
            Err(Problem::new(problem.code, message, remedy).into())
        }
    }
}

fn problem(error: &PkiError) -> Problem {
    Problem::new(Code::Invalid, error.to_string(), "")
}
