//! Runs every check of this repository, one step after the other, and says what became of each.
//!
//! A step that cannot run is a failed step: nothing is skipped silently. Tools that are missing are
//! installed first (Debian packages, cargo tools, one Python environment); what is there is used.

mod firmware;
mod fuzz;
mod install;
mod nix;
mod steps;

use std::{
    collections::{BTreeSet, VecDeque},
    env,
    io::{self, BufRead as _, BufReader},
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use steps::{STEPS, Step};

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    match wanted.first().map(String::as_str) {
        Some("--help" | "-h") => {
            println!("usage: tests/run [--list | STEP…]\n\nWithout arguments runs every step.");
            return ExitCode::SUCCESS;
        }
        Some("--list") => {
            for step in STEPS {
                println!("{:<12} {}", step.name, step.what);
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        eprintln!("tests/run: there is no step {unknown:?}; tests/run --list names them");
        return ExitCode::from(2);
    }
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| wanted.is_empty() || wanted.iter().any(|w| w == step.name))
        .collect();
    run(&chosen)
}

/// One step's end.
struct Done {
    name: &'static str,
    took: Duration,
    failed: Option<Failure>,
}

fn run(steps: &[&Step]) -> ExitCode {
    let mut done = Vec::new();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.what);
        let started = Instant::now();
        let failed = (step.run)().err();
        if let Some(why) = &failed {
            println!("--- {} failed: {}", step.name, why.why);
        }
        done.push(Done {
            name: step.name,
            took: started.elapsed(),
            failed,
        });
    }
    for step in &done {
        if let Some(Failure { last, .. }) = &step.failed {
            println!("\n=== {}: how it ended\n{}", step.name, last.join("\n"));
        }
    }
    println!();
    for text in REMARKS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        println!("!!! {text}");
    }
    for step in &done {
        let outcome = step
            .failed
            .as_ref()
            .map_or("passed", |failure| &failure.why);
        println!(
            "{:<12} {:>7.1} s  {outcome}",
            step.name,
            step.took.as_secs_f64()
        );
    }
    let failed = done.iter().filter(|step| step.failed.is_some()).count();
    println!("steps: {} passed, {failed} failed", done.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How much of a failed program's output is shown again at the end.
const LAST_LINES: usize = 60;

/// Runs a program with its output shown; an error names the command line and ends with the last lines.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
fn sh(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    sh_env(program, arguments, &[])
}

/// [`sh`] with additional environment variables.
///
/// # Errors
/// As [`sh`].
fn sh_env(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), Failure> {
    let line = format!("{program} {}", arguments.join(" "));
    println!("$ {line}");
    let failed = |error: io::Error| Failure::from(format!("{line}: {error}"));
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut child = {
        // One pipe for both, so that they stay in order; this process's ends of it are closed with the command.
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        command.spawn().map_err(failed)?
    };
    let mut last = VecDeque::with_capacity(LAST_LINES);
    for text in BufReader::new(reader).split(b'\n') {
        let text = String::from_utf8_lossy(&text.map_err(failed)?).into_owned();
        println!("{text}");
        // What nextest saw fail before it passed.
        if text.trim_start().starts_with("FLAKY ") {
            remark(text.trim());
        }
        // What a program of ours did not run, and has said so already.
        if let Some(said) = text.strip_prefix("!!! ") {
            remember(said);
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text);
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure {
            why: format!("{line}: {status}"),
            last: last.into(),
        })
    }
}

/// What everybody should know who only reads the closing lines: what did not run, what passed at the second try.
static REMARKS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Shown now, and again before the closing lines.
fn remark(text: &str) {
    println!("!!! {text}");
    remember(text);
}

fn remember(text: &str) {
    REMARKS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(text.to_owned());
}

/// Why a step failed.
#[derive(Debug)]
struct Failure {
    /// One line.
    why: String,
    /// The end of what the program printed.
    last: Vec<String>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure {
            why,
            last: Vec::new(),
        }
    }
}
