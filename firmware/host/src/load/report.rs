//! What a load found, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Mode, Options, Outcome};

/// What a load found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `max`, `rate`, `idle`, `handshakes` or `handshakes-resumed`.
    pub mode: &'static str,
    /// Devices that were to connect.
    pub devices: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Connections made; for handshakes, within the time measured.
    pub connected: u64,
    /// Of these, with a resumed TLS session.
    pub resumed: u64,
    /// Seconds until all were connected.
    pub connect_seconds: f64,
    /// Messages a second that were asked for.
    pub target_rate: Option<f64>,
    /// Messages sent while measuring.
    pub sent: u64,
    /// Messages accepted while measuring.
    pub acknowledged: u64,
    /// Accepted messages, or handshakes, a second.
    pub rate: f64,
    /// Messages the gateway refused.
    pub rejected: u64,
    /// Messages that were never answered.
    pub unanswered: u64,
    /// Connections lost.
    pub lost: u64,
    /// From due to acknowledged, or of a handshake with MQTT's.
    pub latency_us: Latency,
    /// Of this process, in processors.
    pub cpu: f64,
    /// Processor time of this process for each message or handshake, in microseconds.
    pub cpu_us_per_operation: f64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    #[serde(skip)]
    histogram: Option<Histogram<u64>>,
}

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: u64,
    /// 99 of 100 were.
    pub p99: u64,
    /// 999 of 1000 were.
    pub p999: u64,
    /// None was slower.
    pub max: u64,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            mode: match options.mode {
                Mode::Max => "max",
                Mode::Rate(_) => "rate",
                Mode::Idle => "idle",
                Mode::Handshakes { resume: false } => "handshakes",
                Mode::Handshakes { resume: true } => "handshakes-resumed",
            },
            devices: options.devices,
            seconds: options.duration.as_secs_f64(),
            connected: 0,
            resumed: 0,
            connect_seconds: 0.0,
            target_rate: match options.mode {
                Mode::Rate(rate) => Some(rate),
                _ => None,
            },
            sent: 0,
            acknowledged: 0,
            rate: 0.0,
            rejected: 0,
            unanswered: 0,
            lost: 0,
            latency_us: Latency::default(),
            cpu: 0.0,
            cpu_us_per_operation: 0.0,
            errors: BTreeMap::new(),
            histogram: None,
        }
    }

    pub(super) fn add(&mut self, outcome: &Outcome, start: Instant) {
        let counters = &outcome.counters;
        self.connected += counters.connected.get();
        self.resumed += counters.resumed.get();
        self.sent += counters.sent.get();
        self.acknowledged += counters.acknowledged.get();
        self.rejected += counters.rejected.get();
        self.unanswered += counters.unanswered.get();
        self.lost += counters.lost.get();
        for (error, count) in counters.errors.borrow().iter() {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        let ready = outcome.ready.saturating_duration_since(start);
        self.connect_seconds = self.connect_seconds.max(ready.as_secs_f64());
        // Threads measure at the same time.
        self.seconds = outcome.measured.as_secs_f64().max(1e-6);
        // Each thread measures the whole process.
        self.cpu = self.cpu.max(outcome.cpu.as_secs_f64() / self.seconds);

        let latency = counters.latency.borrow();
        let histogram = match self.histogram.take() {
            None => latency.clone(),
            Some(mut histogram) => {
                // Same bounds: it cannot fail.
                let _ = histogram.add(&*latency);
                histogram
            }
        };
        self.latency_us = Latency {
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        };
        self.histogram = Some(histogram);
        let operations = if self.mode.starts_with("handshakes") {
            self.connected
        } else {
            self.acknowledged
                .max(self.sent.saturating_sub(self.unanswered))
        };
        let counted = if self.mode.starts_with("handshakes") || self.acknowledged == 0 {
            operations
        } else {
            self.acknowledged
        };
        self.rate = counted as f64 / self.seconds;
        self.cpu_us_per_operation = if counted == 0 {
            0.0
        } else {
            self.cpu * self.seconds * 1e6 / counted as f64
        };
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |micros: u64| micros as f64 / 1000.0;
        writeln!(f, "mode          {}", self.mode)?;
        if self.mode.starts_with("handshakes") {
            writeln!(
                f,
                "handshakes    {} by {} devices at a time ({} resumed)",
                self.connected, self.devices, self.resumed
            )?;
        } else {
            writeln!(
                f,
                "connections   {} of {} in {:.2} s ({} lost)",
                self.connected, self.devices, self.connect_seconds, self.lost
            )?;
        }
        writeln!(f, "measured      {:.1} s", self.seconds)?;
        if let Some(target) = self.target_rate {
            writeln!(f, "asked for     {target:.0} /s")?;
        }
        writeln!(f, "rate          {:.0} /s", self.rate)?;
        writeln!(
            f,
            "messages      {} sent, {} accepted, {} rejected, {} unanswered",
            self.sent, self.acknowledged, self.rejected, self.unanswered
        )?;
        let l = self.latency_us;
        writeln!(
            f,
            "latency       p50 {:.2} ms, p99 {:.2} ms, p999 {:.2} ms, max {:.2} ms",
            ms(l.p50),
            ms(l.p99),
            ms(l.p999),
            ms(l.max)
        )?;
        writeln!(
            f,
            "this process  {:.2} processors, {:.2} us each",
            self.cpu, self.cpu_us_per_operation
        )?;
        for (error, count) in &self.errors {
            writeln!(f, "error         {count} x {error}")?;
        }
        Ok(())
    }
}
