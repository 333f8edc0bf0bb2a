//! Where log lines go and how many a remote peer may cause.
//!
//! Under systemd they go to the journal with their fields (`DEVICE_ID=`, `REASON=` …), otherwise to
//! standard error as text or JSON. The filter comes from `TIDEGATE_LOG`, else from `log.level`, and
//! can be changed while running.

mod throttle;

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, log_filter};

pub use throttle::{Decision, Suppressed, Throttle};

/// Overrides `log.level`, for a look into one run.
const VARIABLE: &str = "TIDEGATE_LOG";

/// Why log lines cannot be written as configured.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(
        "{origin}: {filter:?} is no log filter ({source}); write a level such as info, or info,tidegate::front=debug"
    )]
    Filter {
        origin: &'static str,
        filter: String,
        source: ParseError,
    },
    #[error(
        "log.format = \"journald\", but the journal does not take messages ({0}); write \"auto\" or \"text\""
    )]
    Journal(io::Error),
    #[error("logging was set up twice")]
    Twice,
    #[error("the log filter could not be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Changes the filter of running logging. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Control {
    /// Takes over another `log.level`; `TIDEGATE_LOG` keeps its precedence.
    ///
    /// # Errors
    /// [`TraceError::Filter`]; the old filter stays.
    pub fn reload(&self, log: &Log) -> Result<(), TraceError> {
        self.filter
            .reload(filter(log, std::env::var(VARIABLE).ok())?)?;
        Ok(())
    }
}

/// Sets up logging for the whole process.
///
/// # Errors
/// [`TraceError`]; nothing is set up then.
pub fn init(log: &Log) -> Result<Control, TraceError> {
    let (filter, handle) = reload::Layer::new(filter(log, std::env::var(VARIABLE).ok())?);
    tracing_subscriber::registry()
        .with(filter)
        .with(output(log.format)?)
        .try_init()
        .map_err(|_| TraceError::Twice)?;
    Ok(Control { filter: handle })
}

fn filter(log: &Log, variable: Option<String>) -> Result<EnvFilter, TraceError> {
    let (origin, text) = match variable {
        Some(text) if !text.trim().is_empty() => (VARIABLE, text),
        _ => ("log.level", log.level.clone()),
    };
    // The router tells of every link; a filter that names it comes later and wins.
    log_filter(&format!("rumqttd=warn,{text}")).map_err(|source| TraceError::Filter {
        origin,
        filter: text,
        source,
    })
}

type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

fn output<S>(format: LogFormat) -> Result<Boxed<S>, TraceError>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let text = || -> Boxed<S> {
        let colours = colours(
            io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").as_deref(),
        );
        Box::new(
            fmt::layer()
                .compact()
                .with_ansi(colours)
                .with_writer(io::stderr),
        )
    };
    Ok(match format {
        LogFormat::Text => text(),
        LogFormat::Json => Box::new(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(io::stderr),
        ),
        LogFormat::Journald => journal().map_err(TraceError::Journal)?,
        // A journal that is announced but does not answer must not keep the gateway from starting.
        LogFormat::Auto if connected_to_journal() => journal().unwrap_or_else(|_| text()),
        LogFormat::Auto => text(),
    })
}

fn journal<S>() -> io::Result<Boxed<S>>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    // Without a prefix, so that `journalctl DEVICE_ID=sensor_001` finds what concerns a device.
    let layer = tracing_journald::layer()?
        .with_field_prefix(None)
        .with_syslog_identifier("tidegate".to_owned());
    Ok(Box::new(layer))
}

/// Whether standard error is the stream that systemd connected to the journal (systemd.exec(5),
/// `$JOURNAL_STREAM`).
fn connected_to_journal() -> bool {
    let Ok(metadata) = fs::metadata("/proc/self/fd/2") else {
        return false;
    };
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| is_stream(&stream, metadata.dev(), metadata.ino()))
}

fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    variable
        .split_once(':')
        .is_some_and(|(wanted_device, wanted_inode)| {
            wanted_device.parse() == Ok(device) && wanted_inode.parse() == Ok(inode)
        })
}

/// Colours are for people at terminals who did not ask for none (<https://no-color.org>).
pub(crate) fn colours(terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
    terminal && no_color.is_none_or(std::ffi::OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        sync::{Arc, Mutex},
    };

    use super::*;

    fn log(level: &str) -> Log {
        Log {
            level: level.to_owned(),
            format: LogFormat::Text,
        }
    }

    #[test]
    fn the_variable_goes_before_the_setting() {
        let shown = |variable: Option<&str>| {
            filter(&log("warn"), variable.map(str::to_owned))
                .expect("fine")
                .to_string()
        };
        assert_eq!(shown(None), "rumqttd=warn,warn");
        assert_eq!(shown(Some(" ")), "rumqttd=warn,warn");
        assert_eq!(shown(Some("debug")), "rumqttd=warn,debug");
        assert_eq!(shown(Some("info,rumqttd=debug")), "rumqttd=debug,info");
    }

    #[test]
    fn a_bad_filter_names_where_it_is() {
        let said = |setting: &str, variable: Option<&str>| {
            let refused = filter(&log(setting), variable.map(str::to_owned));
            refused.expect_err("no filter").to_string()
        };
        assert!(said("a=b=c", None).starts_with("log.level: \"a=b=c\" is no log filter"));
        assert!(said("info", Some("x=lots")).starts_with("TIDEGATE_LOG: \"x=lots\""));
    }

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        assert!(is_stream("9:31415", 9, 31415));
        for other in ["9:31416", "8:31415", "9", "", "9:", ":31415", "nine:31415"] {
            assert!(!is_stream(other, 9, 31415), "{other:?}");
        }
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        assert!(colours(true, None));
        assert!(colours(true, Some(OsStr::new(""))));
        assert!(!colours(true, Some(OsStr::new("1"))));
        assert!(!colours(false, None));
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("not poisoned")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_filter_can_be_changed_while_running() {
        let written = Written::default();
        let (layer, handle) = reload::Layer::new(filter(&log("warn"), None).expect("fine"));
        let control = Control { filter: handle };
        let target = written.clone();
        let subscriber = tracing_subscriber::registry().with(layer).with(
            fmt::layer()
                .with_ansi(false)
                .with_writer(move || target.clone()),
        );
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("quiet");
            control.reload(&log("info")).expect("a filter");
            tracing::info!("loud");
            control.reload(&log("a=b=c")).expect_err("no filter");
            tracing::info!("still loud");
        });
        let text =
            String::from_utf8(written.0.lock().expect("not poisoned").clone()).expect("text");
        assert!(!text.contains("quiet") && text.contains("loud") && text.contains("still loud"));
    }
}
