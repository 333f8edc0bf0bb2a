//! What a check has to say about a configuration that could be read.

use std::fmt;

use serde::Serialize;

use super::words::one_line;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The gateway would not start, or would not do what the configuration says.
    Error,
    /// It works, but is probably not what was meant, or weaker than it could be.
    Warning,
}

/// One thing to mend or to know.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The full dotted key.
    pub key: String,
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let line = format!(
            "{severity}: {}: {}; {}",
            self.key, self.message, self.remedy
        );
        f.write_str(&one_line(&line))
    }
}

/// Findings as they are gathered.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn error(
        &mut self,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Severity::Error, key.into(), message.into(), remedy.into());
    }

    pub(super) fn warning(
        &mut self,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Severity::Warning, key.into(), message.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, key: String, message: String, remedy: String) {
        self.0.push(Finding {
            severity,
            key,
            message,
            remedy,
        });
    }

    /// Errors first.
    pub(super) fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.severity);
        self.0
    }
}
