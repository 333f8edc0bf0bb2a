//! `tidegate run` and `tidegate demo`: a gateway in this process.

use super::{
    Context, Ended, Failed,
    demo::{self, DemoArgs},
    exit::Exit,
};
use crate::{
    app,
    config::{Config, ConfigError, Loaded, Problem as Setting, Severity, check, check_files},
    control::{Code, Problem},
};

pub(super) fn run(context: &Context) -> Ended {
    match app::run(checked(context)?, context.sources.clone()) {
        Exit::Ok => Ok(()),
        exit => Err(Failed::Said(exit)),
    }
}

/// The configuration, if it is one to run with. Where each value was written is only for complaints,
/// and with a thousand devices larger than what the gateway keeps of them: it is not kept.
fn checked(context: &Context) -> Result<Config, Failed> {
    let loaded = context.load()?;
    refuse_errors(&loaded)?;
    Ok(loaded.config)
}

/// What `check` calls an error keeps the gateway from starting; warnings are logged by it.
fn refuse_errors(loaded: &Loaded) -> Ended {
    let findings = check(&loaded.config)
        .into_iter()
        .chain(check_files(&loaded.config));
    let problems: Vec<Setting> = findings
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| Setting {
            place: loaded.places.of_key(&finding.key),
            key: finding.key,
            message: finding.message,
            remedy: finding.remedy,
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failed::Configuration(ConfigError { problems }))
    }
}

pub(super) fn demo(context: &Context, args: &DemoArgs) -> Ended {
    let state_dir = context
        .sources
        .state_dir
        .clone()
        .unwrap_or_else(demo::default_state_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        Problem::new(
            Code::Io,
            format!("no threads to run on: {error}"),
            "raise the limit on tasks",
        )
    })?;
    runtime
        .block_on(demo::run(args, state_dir))
        .map_err(|error| error.problem().into())
}
