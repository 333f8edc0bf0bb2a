//! The configuration: a file, variables and flags, in whatever shape an operator leaves them.
//!
//! Input: the file's text; after the first NUL, one `TIDEGATE_…=value` variable or `key=value` flag
//! per line. The file system is left alone: no path somebody made up is opened. Allocation: at most 1 MiB and 2 KiB for every byte; a configuration
//! comes from the operator, not from a peer.

use std::path::Path;

use crate::allocation;
use crate::gateway::config::{Config, Sources, check, load_bytes};

/// # Panics
///
/// If something does not hold.
pub fn run(data: &[u8]) {
    let (text, rest) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let mut sources = Sources::default();
    for line in String::from_utf8_lossy(rest).lines() {
        match line.split_once('=') {
            Some((name, value)) if name.starts_with("TIDEGATE_") => {
                sources
                    .environment
                    .push((name.to_owned(), value.to_owned()));
            }
            _ => sources.set.push(line.to_owned()),
        }
    }
    let Some(config) = read(text, &sources, data.len()) else {
        return;
    };
    for finding in check(&config) {
        one_line(&finding.to_string());
        assert!(
            !finding.key.is_empty() && !finding.message.is_empty(),
            "{finding}"
        );
        assert!(!finding.remedy.is_empty(), "{finding}");
    }
    // What `tidegate config show` prints is a configuration, and the same one.
    let shown = match toml::to_string(&config) {
        Ok(shown) => shown,
        Err(error) => panic!("cannot be shown: {error}"),
    };
    let Some(again) = read(shown.as_bytes(), &Sources::default(), shown.len()) else {
        panic!("what is shown cannot be read:\n{shown}");
    };
    assert_eq!(config, again, "shown as\n{shown}");
}

fn read(text: &[u8], sources: &Sources, len: usize) -> Option<Config> {
    let file = Path::new("tidegate.toml");
    let text = text.to_vec();
    match allocation::at_most((1 << 20) + 2048 * len, || load_bytes(text, file, sources)) {
        Ok((config, _)) => Some(config),
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                one_line(&problem.to_string());
                assert!(!problem.message.is_empty(), "{problem}");
            }
            None
        }
    }
}

/// Whatever was written, what is said about it does not disturb a terminal or a log.
fn one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
