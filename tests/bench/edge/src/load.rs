//! The load generator, with the server's use of the machine while it measures.

use std::{
    fmt::Display,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Fallible,
    fleet::Fleet,
    place::{Place, run},
    process::{Sampler, Series},
};

/// What the devices do.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) devices: usize,
    pub(crate) seconds: u64,
    /// Seconds before that.
    pub(crate) warmup: u64,
    /// Everything else, as the generator's flags.
    pub(crate) flags: Vec<String>,
}

impl Load {
    pub(crate) fn new(devices: usize, seconds: u64) -> Self {
        Self {
            devices,
            seconds,
            warmup: 1,
            flags: Vec::new(),
        }
    }

    pub(crate) fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.flags.push(format!("--{name}"));
        self.flags.push(format!("{value}"));
        self
    }

    pub(crate) fn switch(mut self, name: &str) -> Self {
        self.flags.push(format!("--{name}"));
        self
    }

    pub(crate) fn without_warmup(mut self) -> Self {
        self.warmup = 0;
        self
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) report: Value,
    pub(crate) series: Series,
    ended: Instant,
    seconds: f64,
}

impl Outcome {
    /// A number of the generator's report, such as `rate` or `/latency_us/p99`.
    pub(crate) fn number(&self, pointer: &str) -> f64 {
        let pointer = if pointer.starts_with('/') {
            pointer.to_owned()
        } else {
            format!("/{pointer}")
        };
        self.report
            .pointer(&pointer)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    }

    /// Processors the server used while the generator measured.
    pub(crate) fn server_cpu(&self) -> Fallible<f64> {
        // It ends soon after it measured: what is under way is waited for.
        let margin = Duration::from_millis(300);
        let from = self.ended - Duration::from_secs_f64(self.seconds);
        self.series.cpu(from + margin, self.ended - margin)
    }

    /// Microseconds of the server's processor time for each operation.
    pub(crate) fn server_us(&self) -> Fallible<f64> {
        Ok(self.server_cpu()? / self.number("rate") * 1e6)
    }

    /// What was resident in the last seconds.
    pub(crate) fn server_rss(&self, seconds: f64) -> Fallible<f64> {
        self.series
            .rss(self.ended - Duration::from_secs_f64(seconds), self.ended)
    }
}

/// Runs the generator against the server `pid` at `target`. Errors and rejections are errors.
pub(crate) fn generate(
    place: &Place,
    fleet: &Fleet,
    load: &Load,
    target: SocketAddr,
    pid: u32,
) -> Fallible<Outcome> {
    let json = place.work.join("load.json");
    let sampler = Sampler::start(pid);
    let ran = run(Command::new(&place.generator)
        .arg("load")
        .arg("--bundles")
        .arg(&fleet.bundles)
        .arg("--json")
        .arg(&json)
        .args(["--target", &target.to_string()])
        .args(["--devices", &load.devices.to_string()])
        .args(["--duration", &load.seconds.to_string()])
        .args(["--warmup", &load.warmup.to_string()])
        .args(&load.flags)
        .stdin(Stdio::null()));
    let ended = Instant::now();
    let series = sampler.finish();
    ran?;
    let report: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let outcome = Outcome {
        seconds: report.get("seconds").and_then(Value::as_f64).unwrap_or(0.0),
        report,
        series,
        ended,
    };
    let errors = outcome.report.get("errors").and_then(Value::as_object);
    if let Some((error, count)) = errors.and_then(|errors| errors.iter().next()) {
        return Err(format!("the generator saw errors: {count} x {error}").into());
    }
    if outcome.number("rejected") > 0.0 {
        return Err(format!("{} messages were rejected", outcome.number("rejected")).into());
    }
    Ok(outcome)
}
