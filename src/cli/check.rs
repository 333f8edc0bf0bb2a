//! `tidegate check`: everything that is wrong with the configuration, in one go.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Context, Ended, Failed,
    exit::Exit,
    output::{count, harmless},
};
use crate::config::{Finding, Loaded, Place, Problem, Severity, check, check_files, load};

/// Arguments of `tidegate check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with status 78 if there is an error; warnings alone end with 0.")]
pub(super) struct CheckArgs {
    /// Do not look at the files the configuration names, for builds where they do not exist yet
    #[arg(long)]
    no_files: bool,
    /// Let warnings count as errors
    #[arg(long)]
    strict: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    findings: Vec<Located>,
}

#[derive(Debug, Serialize)]
struct Located {
    severity: Severity,
    key: String,
    message: String,
    remedy: String,
    place: Place,
}

pub(super) fn run(context: &Context, args: &CheckArgs) -> Ended {
    let report = match load(&context.sources) {
        Ok(loaded) => examine(&loaded, args),
        Err(error) => Report {
            ok: false,
            file: context.sources.config_file(),
            findings: error.problems.into_iter().map(Located::from).collect(),
        },
    };
    context.output.answer(&report, text)?;
    if report.ok {
        Ok(())
    } else {
        Err(Failed::Said(Exit::Config))
    }
}

fn examine(loaded: &Loaded, args: &CheckArgs) -> Report {
    let mut findings = check(&loaded.config);
    if !args.no_files {
        findings.extend(check_files(&loaded.config));
    }
    findings.sort_by_key(|finding| finding.severity);
    let worst = if args.strict {
        Severity::Warning
    } else {
        Severity::Error
    };
    Report {
        ok: !findings.iter().any(|finding| finding.severity <= worst),
        file: loaded.file.clone(),
        findings: findings
            .into_iter()
            .map(|finding| located(finding, loaded))
            .collect(),
    }
}

fn located(finding: Finding, loaded: &Loaded) -> Located {
    let Finding {
        severity,
        key,
        message,
        remedy,
    } = finding;
    let place = loaded.places.of_key(&key);
    Located {
        severity,
        key,
        message,
        remedy,
        place,
    }
}

impl From<Problem> for Located {
    fn from(problem: Problem) -> Self {
        let Problem {
            key,
            place,
            message,
            remedy,
        } = problem;
        Self {
            severity: Severity::Error,
            key,
            message,
            remedy,
            place,
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for Located {
        severity,
        key,
        message,
        remedy,
        place,
    } in &report.findings
    {
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let at = match place {
            Place::Default => String::new(),
            place => format!("{place}: "),
        };
        let key = if key.is_empty() {
            String::new()
        } else {
            format!("{key}: ")
        };
        let line = format!("{severity}: {at}{key}{message}; {remedy}");
        text.push_str(harmless(&line).trim_end_matches("; "));
        text.push('\n');
    }
    let of = |severity| {
        let all = report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity);
        u64::try_from(all.count()).unwrap_or(u64::MAX)
    };
    let file = match &report.file {
        Some(path) => path.display().to_string(),
        None => "no file, defaults and variables only".to_owned(),
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    if errors + warnings == 0 {
        text.push_str(&format!("{file}: fine\n"));
    } else {
        text.push_str(&format!(
            "{file}: {}, {}\n",
            count(errors, "error"),
            count(warnings, "warning")
        ));
    }
    text
}
