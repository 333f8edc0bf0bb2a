//! Printing: tables for people, JSON for programs. What comes from outside is made harmless for
//! terminals; a reader that went away ends the program quietly.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use time::{OffsetDateTime, macros::format_description};

use super::exit::Exit;
use crate::control::{Code, Problem};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints `answer` as JSON, or as the text that `human` makes of it.
    ///
    /// # Errors
    /// Standard output cannot be written; a reader that went away is none.
    pub fn answer<T: Serialize>(
        self,
        answer: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Problem> {
        if self.json {
            let mut text = serde_json::to_string_pretty(answer)
                .map_err(|error| Problem::new(Code::Internal, error.to_string(), ""))?;
            text.push('\n');
            return print(&text);
        }
        let mut text = human(answer);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        print(&text)
    }

    /// Says on standard error what went wrong, and how the program is to end.
    pub fn problem(self, problem: &Problem) -> Exit {
        let text = if self.json {
            let json = serde_json::json!({ "problem": problem });
            format!("{json}\n")
        } else {
            let colours = crate::trace::colours(
                io::stderr().is_terminal(),
                std::env::var_os("NO_COLOR").as_deref(),
            );
            let (red, off) = if colours {
                ("\x1b[1;31m", "\x1b[0m")
            } else {
                ("", "")
            };
            let mut text = format!("{red}error:{off} {}\n", harmless_lines(&problem.message));
            if !problem.remedy.is_empty() {
                text.push_str(&format!("       {}\n", harmless_lines(&problem.remedy)));
            }
            text
        };
        // There is nobody left to tell.
        let _ = io::stderr().lock().write_all(text.as_bytes());
        Exit::from(problem.code)
    }
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written. That nobody reads it any more (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let message = format!("standard output cannot be written: {error}");
            Err(Problem::new(Code::Io, message, ""))
        }
        Ok(()) => Ok(()),
    }
}

/// Text that may come from a device or backend, without control characters.
pub(super) fn harmless(text: &str) -> String {
    harmless_but(text, |_| false)
}

fn harmless_lines(text: &str) -> String {
    harmless_but(text, |char| char == '\n')
}

fn harmless_but(text: &str, allowed: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        // Bidirectional overrides reorder what people read.
        let reorders = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (char.is_control() && !allowed(char)) || reorders {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Rows in aligned columns below their headings; nothing when there are no rows.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| std::array::from_fn(|at| cell(&row[at])))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|at| {
        let widest = rows
            .iter()
            .map(|row| row[at].chars().count())
            .max()
            .unwrap_or(0);
        widest.max(headings[at].chars().count())
    });
    let headings: [String; N] = std::array::from_fn(|at| headings[at].to_owned());
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cell(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        harmless(text)
    }
}

/// "1 message", "2 messages".
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Milliseconds since 1970 as a UTC time.
pub(super) fn moment(millis: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    i64::try_from(millis / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| millis.to_string())
}

pub(super) fn moment_or_never(millis: Option<u64>) -> String {
    millis.map_or_else(|| "never".to_owned(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_say_what_is_missing() {
        let rows = [
            ["sensor_001".to_owned(), "yes".to_owned()],
            ["é".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["ID", "ENABLED"], &rows),
            "ID          ENABLED\nsensor_001  yes\né           -\n"
        );
        assert_eq!(table(["ID"], &[]), "");
    }

    #[test]
    fn what_devices_say_cannot_steer_the_terminal() {
        assert_eq!(
            harmless("\x1b[2Jok\r\n\u{202e}"),
            "\\u{1b}[2Jok\\r\\n\\u{202e}"
        );
        let rows = [["\x1b]0;title\x07".to_owned()]];
        assert!(!table(["X"], &rows).contains(['\x1b', '\x07']));
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(moment(1_727_712_000_123), "2024-09-30 16:00:00Z");
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
        assert_eq!(moment_or_never(None), "never");
    }
}
