//! Reads the configuration from all its places and says everything that is wrong with it at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::value::{Tag, Value};

use super::{
    Config, document,
    layers::Reading,
    place::{Place, Places},
    problem::{ConfigError, Problem},
};

/// Read when no other file is named and it exists.
pub const DEFAULT_FILE: &str = "/etc/tidegate/tidegate.toml";
/// What every variable that sets something begins with.
pub(super) const PREFIX: &str = "TIDEGATE_";
/// 10,000 devices need about 2 MiB; a file past this is not a configuration.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Where the configuration comes from, in rising order of precedence.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; otherwise `TIDEGATE_CONFIG`, otherwise [`DEFAULT_FILE`] if it exists.
    pub file: Option<PathBuf>,
    /// Variables; those that do not begin with [`PREFIX`] are none of ours.
    pub environment: Vec<(String, String)>,
    /// `--set key.path=value`.
    pub set: Vec<String>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
}

impl Sources {
    /// The process's own environment, nothing else.
    #[must_use]
    pub fn from_environment() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Self {
            environment,
            ..Self::default()
        }
    }

    /// The file to read, if any.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        let variable = || {
            let (_, value) = self
                .environment
                .iter()
                .find(|(name, _)| name == "TIDEGATE_CONFIG")?;
            (!value.is_empty()).then(|| PathBuf::from(value))
        };
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        self.file.clone().or_else(variable).or_else(default)
    }
}

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    pub places: Places,
}

/// Reads every source. What the values mean together is for [`super::check()`].
///
/// # Errors
/// Everything that is wrong, as far as it can be told in one go.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let file = sources.config_file();
    let bytes = match &file {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    let path = file.clone().unwrap_or_default();
    load_bytes(bytes, &path, sources).map(|(config, places)| Loaded {
        config,
        file,
        places,
    })
}

/// [`load`] with what is in the file at hand; `path` is only for places.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(
    bytes: Vec<u8>,
    path: &Path,
    sources: &Sources,
) -> Result<(Config, Places), ConfigError> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("is not UTF-8 text (byte {at})");
        about_file(path, message, "save it as UTF-8")
    })?;
    parse(&text, path, sources)
}

/// [`load_bytes`] of what is text.
pub(super) fn parse(
    text: &str,
    path: &Path,
    sources: &Sources,
) -> Result<(Config, Places), ConfigError> {
    let mut places = Places::default();
    let dict =
        document::parse(text, path, &mut places).map_err(|problems| ConfigError { problems })?;
    let mut reading = Reading::new(dict, places);
    for (name, value) in &sources.environment {
        reading.variable(name, value);
    }
    for assignment in &sources.set {
        reading.flag(assignment);
    }
    if let Some(dir) = &sources.state_dir {
        let path = ["state_dir".to_owned()];
        let value = Value::String(Tag::Default, dir.to_string_lossy().into_owned());
        reading.add(
            &path,
            value,
            Place::Flag {
                flag: "--state-dir".to_owned(),
            },
        );
    }
    reading.finish()
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error: io::Error| {
        about_file(
            path,
            format!("cannot be read: {error}"),
            "make it readable for this user",
        )
    };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => about_file(
            path,
            "there is no such file".to_owned(),
            "name an existing one with --config or TIDEGATE_CONFIG",
        ),
        _ => unreadable(error),
    })?;
    if metadata.is_dir() {
        return Err(about_file(
            path,
            "is a folder".to_owned(),
            "name the TOML file in it",
        ));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(about_file(
            path,
            format!("has {} bytes, more than any configuration", metadata.len()),
            "name a TOML file of at most 16 MiB",
        ));
    }
    fs::read(path).map_err(unreadable)
}

/// What is wrong with the file as a whole.
fn about_file(path: &Path, message: String, remedy: &str) -> ConfigError {
    ConfigError {
        problems: vec![Problem {
            key: String::new(),
            place: Place::WholeFile {
                path: path.to_owned(),
            },
            message,
            remedy: remedy.to_owned(),
        }],
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
