//! What the gateway counts, and its Prometheus text form.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
    pub fn increment(&self) {
        self.add(1);
    }
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counter at the label's place in the list of all labels; `counters` is as long as that.
#[expect(
    clippy::indexing_slicing,
    reason = "the arrays are as long as the lists of all labels"
)]
pub(crate) fn labelled<'c, L: Copy + PartialEq>(
    labels: &[L],
    counters: &'c [Counter],
    label: L,
) -> &'c Counter {
    let at = labels
        .iter()
        .position(|other| *other == label)
        .unwrap_or_default();
    &counters[at]
}

/// A page in Prometheus' text format, grown number by number. Families appear in the order of their
/// names, each with its samples together, as the format demands.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Page {
    pub fn counter(&mut self, name: &'static str, help: &'static str, counter: &Counter) {
        self.labelled_counter(name, help, &[], counter);
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str, gauge: &Gauge) {
        self.number(name, "gauge", help, &[], gauge.get());
    }

    pub fn labelled_counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        counter: &Counter,
    ) {
        self.number(name, "counter", help, labels, counter.get());
    }

    /// Adds one sample. `kind` is `counter` or `gauge`.
    pub fn number(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: u64,
    ) {
        let family = self.families.entry(name).or_insert(Family {
            kind,
            help,
            samples: String::new(),
        });
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        // Writing to a String does not fail.
        let _ = writeln!(family.samples, "{name}{labels} {value}");
    }

    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (
            name,
            Family {
                kind,
                help,
                samples,
            },
        ) in &self.families
        {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
        text
    }
}

/// A label's value with what the format reserves escaped.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_family_stand_together_and_labels_are_escaped() {
        let mut page = Page::default();
        let counter = Counter::default();
        counter.add(3);
        page.labelled_counter("b_total", "Bs", &[("why", "a \"quote\"\n")], &counter);
        page.counter("a_total", "As", &counter);
        page.labelled_counter("b_total", "Bs", &[("why", "other")], &counter);
        assert_eq!(
            page.text(),
            "# HELP a_total As\n# TYPE a_total counter\na_total 3\n\
             # HELP b_total Bs\n# TYPE b_total counter\n\
             b_total{why=\"a \\\"quote\\\"\\n\"} 3\nb_total{why=\"other\"} 3\n"
        );
    }
}
