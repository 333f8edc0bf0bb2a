//! TOML text into a value tree, with the line and column of every value.

use std::path::Path;

use figment::value::{Dict, Num, Tag, Value};
use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{
    place::{Place, Places},
    problem::Problem,
};

/// More than this many syntax errors are noise that follows from the first.
const MAX_SYNTAX_PROBLEMS: usize = 5;

/// Reads `text`; `path` is only for places.
///
/// # Errors
/// The syntax errors, in the order of the text.
pub(super) fn parse(text: &str, path: &Path, places: &mut Places) -> Result<Dict, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::of(text, path);
    if errors.is_empty() {
        let mut reader = Reader { lines, places };
        return Ok(reader.table(table.into_inner(), &mut Vec::new()));
    }
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors.iter().take(MAX_SYNTAX_PROBLEMS) {
        let offset = error.span().map_or(0, |span| span.start);
        let place = lines.place(offset);
        problems.push(Problem {
            key: String::new(),
            place,
            message: format!("TOML syntax: {}", one_line(error.message())),
            remedy: syntax_remedy(text, offset).to_owned(),
        });
    }
    Err(problems)
}

struct Reader<'a> {
    lines: Lines<'a>,
    places: &'a mut Places,
}

impl Reader<'_> {
    /// Takes what it reads apart: with many devices there would be two large trees otherwise.
    fn table(&mut self, table: DeTable<'_>, path: &mut Vec<String>) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            self.places
                .set_name(path, self.lines.place(key.span().start));
            // A table is placed by its name: its own span is its whole text or nothing.
            let start = match value.get_ref() {
                DeValue::Table(_) => key.span().start,
                _ => value.span().start,
            };
            self.places.set(path, self.lines.place(start));
            dict.insert(key.get_ref().to_string(), self.value(value, path));
            path.pop();
        }
        dict
    }

    fn value(&mut self, value: Spanned<DeValue<'_>>, path: &mut Vec<String>) -> Value {
        match value.into_inner() {
            DeValue::String(text) => Value::String(Tag::Default, text.to_string()),
            DeValue::Integer(integer) => number(&integer),
            DeValue::Float(float) => match float.as_str().parse() {
                Ok(float) => Value::Num(Tag::Default, Num::F64(float)),
                Err(_) => Value::String(Tag::Default, float.as_str().to_owned()),
            },
            DeValue::Boolean(boolean) => Value::Bool(Tag::Default, boolean),
            // No setting is a date; as text it is refused where it stands, with its own words.
            DeValue::Datetime(datetime) => Value::String(Tag::Default, datetime.to_string()),
            DeValue::Array(array) => Value::Array(Tag::Default, self.array(array, path)),
            DeValue::Table(table) => Value::Dict(Tag::Default, self.table(table, path)),
        }
    }

    fn array(&mut self, array: DeArray<'_>, path: &mut Vec<String>) -> Vec<Value> {
        let mut values = Vec::new();
        for (index, value) in array.into_iter().enumerate() {
            path.push(index.to_string());
            self.places.set(path, self.lines.place(value.span().start));
            values.push(self.value(value, path));
            path.pop();
        }
        values
    }
}

fn number(integer: &DeInteger<'_>) -> Value {
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
    match number.map(|number| (i64::try_from(number), number)) {
        Some((Ok(number), _)) => Value::Num(Tag::Default, Num::I64(number)),
        Some((Err(_), number)) => Value::Num(Tag::Default, Num::I128(number)),
        None => Value::String(Tag::Default, integer.as_str().to_owned()),
    }
}

/// A text and where its lines begin: a place is asked for with every value, and ten thousand devices
/// have tens of thousands of them.
struct Lines<'a> {
    text: &'a str,
    file: &'a Path,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str, file: &'a Path) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            text,
            file,
            starts: std::iter::once(0)
                .chain(newlines.map(|(at, _)| at + 1))
                .collect(),
        }
    }

    /// The place of a byte offset: line and column (in characters) counted from one.
    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = line
            .checked_sub(1)
            .and_then(|before| self.starts.get(before))
            .copied()
            .unwrap_or(0);
        let column = self
            .text
            .get(start..offset)
            .or_else(|| self.text.get(start..))
            .map_or(0, |before| before.chars().count())
            + 1;
        Place::File {
            path: self.file.to_owned(),
            line,
            column,
        }
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is usually meant, judged by the line the parser stumbled on.
fn syntax_remedy(text: &str, offset: usize) -> &'static str {
    let offset = (0..=offset.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    let (before, after) = text.split_at(offset.unwrap_or(0));
    let line_start = before.rsplit('\n').next().unwrap_or_default();
    let line_end = after.split('\n').next().unwrap_or_default();
    let line = format!("{line_start}{line_end}");
    let line = line.trim();
    if line.starts_with('[') && !line.contains(']') {
        "close the section name: [section]"
    } else if line.split_once('=').is_some_and(|(_, value)| {
        let value = value.trim();
        value.starts_with(|first: char| first.is_alphanumeric() || matches!(first, '/' | '.'))
    }) {
        "write text in quotes: key = \"text\"; one key per line, each once"
    } else if !line.starts_with('[') && line.contains(':') && !line.contains('=') {
        "write key = value (TOML), not key: value"
    } else {
        "write each line as key = value or [section]; text in quotes; each key once"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "a = 1\n\nü = \"é\" # x\nb = 2";
        let lines = Lines::of(text, Path::new("x"));
        for (part, line, column) in [("a =", 1, 1), ("ü", 3, 1), ("#", 3, 9), ("2", 4, 5)] {
            let expected = Place::File {
                path: "x".into(),
                line,
                column,
            };
            assert_eq!(lines.place(text.find(part).unwrap()), expected, "{part}");
        }
        let end = Place::File {
            path: "x".into(),
            line: 4,
            column: 6,
        };
        assert_eq!(lines.place(text.len()), end);
    }
}
