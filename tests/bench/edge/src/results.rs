//! What was measured, held against the goals.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) row: &'static str,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// Whom we are beside, and its figures; none where nobody does the same.
    pub(crate) peer: Option<(&'static str, Vec<f64>)>,
    pub(crate) ours: Vec<f64>,
    pub(crate) goal: Option<Goal>,
    /// What else was seen: medians by name.
    pub(crate) notes: Vec<(String, f64)>,
}

/// What the medians are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// Ours is at least so many times the peer's.
    Times(f64),
    /// Ours is at most so many times the peer's, and at most so much.
    AtMostPeerAnd(f64, f64),
    /// Ours is at most so much.
    AtMost(f64),
    /// Ours is at least so many times what is beside it, which is no peer but a limit.
    OfLimit(f64),
}

#[derive(Debug, Default)]
pub(crate) struct Results {
    lines: Vec<Line>,
    failed: Vec<(&'static str, String)>,
}

/// The median; of an even number of values the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

impl Line {
    fn ours(&self) -> f64 {
        median(&self.ours).unwrap_or(f64::NAN)
    }

    fn peer(&self) -> Option<f64> {
        median(&self.peer.as_ref()?.1)
    }

    /// Of what was measured in the same round, so that a busy moment meets both.
    fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(peer)
            .map(|(ours, peer)| ours / peer)
            .collect();
        median(&ratios)
    }

    fn goal(&self) -> String {
        match self.goal {
            None => String::new(),
            Some(Goal::Times(times)) => format!(">= {times} x"),
            Some(Goal::OfLimit(times)) => format!(">= {times} of it"),
            Some(Goal::AtMost(most)) => format!("<= {}", figure(most)),
            Some(Goal::AtMostPeerAnd(times, most)) => {
                format!("<= {times} x, <= {}", figure(most))
            }
        }
    }

    fn met(&self) -> Option<bool> {
        let (ours, ratio) = (self.ours(), self.ratio());
        Some(match self.goal? {
            Goal::Times(times) | Goal::OfLimit(times) => ratio? >= times,
            Goal::AtMost(most) => ours <= most,
            Goal::AtMostPeerAnd(times, most) => ratio? <= times && ours <= most,
        })
    }

    fn json(&self) -> Value {
        let notes: serde_json::Map<String, Value> = self
            .notes
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({
            "row": self.row,
            "what": self.what,
            "unit": self.unit,
            "peer": self.peer.as_ref().map(|(name, values)| json!({
                "name": name, "median": median(values), "rounds": values,
            })),
            "tidegate": { "median": self.ours(), "rounds": self.ours },
            "ratio": self.ratio(),
            "goal": self.goal.map(|_| self.goal()),
            "met": self.met(),
            "notes": notes,
        })
    }
}

impl Results {
    pub(crate) fn add(&mut self, line: Line) {
        let peer = line.peer.as_ref().map(|(name, values)| {
            let value = median(values).map(figure).unwrap_or_default();
            format!(", {name} {value}")
        });
        eprintln!(
            "    {}: {} {}{}",
            line.what,
            figure(line.ours()),
            line.unit,
            peer.unwrap_or_default()
        );
        self.lines.push(line);
    }

    pub(crate) fn failed(&mut self, row: &'static str, why: &str) {
        self.failed.push((row, why.to_owned()));
    }

    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Medians of the first line of a row: the peer's and ours.
    pub(crate) fn medians(&self, row: &str) -> Option<(f64, f64)> {
        let line = self.lines.iter().find(|line| line.row == row)?;
        Some((line.peer()?, line.ours()))
    }

    pub(crate) fn json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        let failed: Vec<Value> = self
            .failed
            .iter()
            .map(|(row, why)| json!({ "row": row, "why": why }))
            .collect();
        json!({ "lines": lines, "failed": failed })
    }

    pub(crate) fn table(&self) -> String {
        let mut cells =
            vec![["", "unit", "beside", "its", "tidegate", "ratio", "goal", ""].map(str::to_owned)];
        for line in &self.lines {
            let (name, peer) = match &line.peer {
                None => ("", String::new()),
                Some((name, _)) => (*name, line.peer().map(figure).unwrap_or_default()),
            };
            cells.push([
                line.what.clone(),
                line.unit.to_owned(),
                name.to_owned(),
                peer,
                figure(line.ours()),
                line.ratio()
                    .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                line.goal(),
                match line.met() {
                    None => String::new(),
                    Some(true) => "met".to_owned(),
                    Some(false) => "MISSED".to_owned(),
                },
            ]);
        }
        let mut widths = [0; 8];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::from("\n");
        for row in &cells {
            for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Writing to a string cannot fail.
                let _ = match index {
                    3..=5 => write!(text, "{cell:>width$}  "),
                    _ => write!(text, "{cell:<width$}  "),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push_str("\nBeside that:\n");
        for line in self.lines.iter().filter(|line| !line.notes.is_empty()) {
            let notes: Vec<String> = line
                .notes
                .iter()
                .map(|(name, value)| format!("{name} {}", figure(*value)))
                .collect();
            let _ = writeln!(text, "  {}: {}", line.what, notes.join(", "));
        }
        for (row, why) in &self.failed {
            let _ = writeln!(text, "  NOT MEASURED: {row}: {why}");
        }
        text
    }
}

/// Three figures that count, without exponents.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_figures() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(figure(1_234_567.4), "1,234,567");
        assert_eq!(figure(123.4), "123");
        assert_eq!(figure(0.5), "0.50");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let line = Line {
            row: "throughput",
            what: String::new(),
            unit: "",
            peer: Some(("peer", vec![100.0, 10.0, 50.0])),
            ours: vec![150.0, 20.0, 75.0],
            goal: Some(Goal::Times(1.5)),
            notes: Vec::new(),
        };
        assert_eq!(line.ratio(), Some(1.5));
        assert_eq!(line.met(), Some(true));
    }
}
