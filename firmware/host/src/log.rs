//! The device's log on the terminal.

use std::io::Write;
use std::time::Instant;

use log::{Level, Log, Metadata, Record};

/// Writes to standard error, with the time since start. Lines end as a raw terminal needs it.
#[derive(Debug)]
pub struct Terminal {
    start: Instant,
    level: Level,
}

impl Terminal {
    /// Makes it the program's logger.
    pub fn install(level: Level) {
        let terminal = Box::leak(Box::new(Self {
            start: Instant::now(),
            level,
        }));
        // Whoever installed one before keeps it.
        if log::set_logger(terminal).is_ok() {
            log::set_max_level(level.to_level_filter());
        }
    }
}

impl Log for Terminal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level && metadata.target().starts_with("tidegate")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let seconds = self.start.elapsed().as_secs_f32();
            // A closed terminal is no reason for a device to stop.
            let _ = write!(
                std::io::stderr().lock(),
                "[{seconds:9.3}] {:5} {}\r\n",
                record.level(),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}
