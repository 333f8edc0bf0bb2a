//! Runs every check of this repository, one step after the other, and says what became of each.
//!
//! A step that cannot run is a failed step: nothing is skipped silently. Tools that are missing are
//! installed first (Debian packages, cargo tools, one Python environment); what is there is used.

mod firmware;
mod fuzz;
mod install;
mod steps;

use std::{
    env,
    process::{Command, ExitCode},
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
    failed: Option<String>,
}

fn run(steps: &[&Step]) -> ExitCode {
    let mut done = Vec::new();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.what);
        let started = Instant::now();
        let failed = (step.run)().err();
        if let Some(why) = &failed {
            println!("--- {} failed: {why}", step.name);
        }
        done.push(Done {
            name: step.name,
            took: started.elapsed(),
            failed,
        });
    }
    println!();
    for step in &done {
        let outcome = step.failed.as_deref().unwrap_or("passed");
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

/// Runs a program with its output shown; an error names the command line.
///
/// # Errors
/// When it cannot be started or ends with anything but success.
fn sh(program: &str, arguments: &[&str]) -> Result<(), String> {
    sh_env(program, arguments, &[])
}

/// [`sh`] with additional environment variables.
///
/// # Errors
/// As [`sh`].
fn sh_env(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let line = format!("{program} {}", arguments.join(" "));
    println!("$ {line}");
    let status = Command::new(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .status()
        .map_err(|error| format!("{line}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{line}: {status}"))
    }
}
