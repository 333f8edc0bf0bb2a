//! Running other programs.

use std::{
    io,
    process::{Command, ExitStatus},
};

/// Why another program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error(
        "{line} could not be started: {source}; is it installed, and on the path of this service?"
    )]
    Start { line: String, source: io::Error },
    #[error("{line} ended with {status}{said}")]
    Failed {
        line: String,
        status: ExitStatus,
        said: String,
    },
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(std::ffi::OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs it with its output where ours goes.
///
/// # Errors
/// If it cannot be started, or ends with anything but success.
pub(crate) fn run(command: &mut Command) -> Result<(), ProgramError> {
    let line = line(command);
    match command.status() {
        Err(source) => Err(ProgramError::Start { line, source }),
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ProgramError::Failed {
            line,
            status,
            said: String::new(),
        }),
    }
}

/// Runs it quietly; what it printed.
///
/// # Errors
/// As [`run`]; with what it wrote to standard error.
pub(crate) fn read(command: &mut Command) -> Result<String, ProgramError> {
    let line = line(command);
    let output = command.output().map_err(|source| ProgramError::Start {
        line: line.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!(": {}", String::from_utf8_lossy(&output.stderr).trim());
    Err(ProgramError::Failed {
        line,
        status: output.status,
        said,
    })
}
