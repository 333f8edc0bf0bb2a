//! Where a value was written, so that a complaint can point at it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub enum Place {
    File {
        path: PathBuf,
        /// Counted from one.
        line: usize,
        column: usize,
    },
    /// A file as a whole.
    WholeFile {
        path: PathBuf,
    },
    Variable {
        name: String,
    },
    Flag {
        flag: String,
    },
    /// Nobody wrote it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::WholeFile { path } => write!(f, "{}", path.display()),
            Self::Variable { name } => write!(f, "environment variable {name}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The place of every value that somebody wrote, by its path.
#[derive(Clone, Debug, Default)]
pub struct Places {
    values: BTreeMap<Vec<String>, Place>,
    /// Where keys themselves stand, as far as it is another place.
    names: BTreeMap<Vec<String>, Place>,
}

impl Places {
    pub(super) fn set(&mut self, path: &[String], place: Place) {
        self.values.insert(path.to_vec(), place);
    }

    /// Says where the key of the value at `path` stands.
    pub(super) fn set_name(&mut self, path: &[String], place: Place) {
        self.names.insert(path.to_vec(), place);
    }

    /// The place of the key at `path` rather than of its value.
    pub(super) fn of_name(&self, path: &[String]) -> Place {
        let value = self.of(path);
        match (self.names.get(path), &value) {
            // Somebody else wrote it again since.
            (Some(name), Place::File { .. }) => name.clone(),
            _ => value,
        }
    }

    /// The place of the value at `path`, or of what it lies in, or of the first thing in it.
    #[must_use]
    pub fn of(&self, path: &[String]) -> Place {
        (0..=path.len())
            .rev()
            .filter_map(|length| path.get(..length))
            .filter(|prefix| !prefix.is_empty())
            .find_map(|prefix| self.values.get(prefix))
            .or_else(|| {
                let (inner, place) = self.values.range(path.to_vec()..).next()?;
                (!path.is_empty() && inner.starts_with(path)).then_some(place)
            })
            .cloned()
            .unwrap_or(Place::Default)
    }

    /// [`Places::of`] for a key written with dots, as findings name it.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Place {
        self.of(&key.split('.').map(str::to_owned).collect::<Vec<_>>())
    }
}
