//! Values written as plain text, in a variable or a `--set` flag.

use std::path::Path;

use figment::value::{Empty, Num, Tag, Value};

use super::{document, place::Places, schema::Shape};

/// What `text` means for a key of `shape`.
///
/// Text is taken as it is; numbers, `true`/`false` (also `yes`, `no`, `on`, `off`) and lists
/// (`a, b` or `["a", "b"]`) where the key holds such; nothing means unset. A value that does not
/// fit stays text, to be refused where the type is known.
pub(super) fn value(text: &str, shape: &Shape) -> Value {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Value::Empty(Tag::Default, Empty::Unit);
    }
    let raw = || Value::String(Tag::Default, text.to_owned());
    match shape {
        Shape::Text => raw(),
        Shape::Number => match trimmed.replace('_', "").parse::<i64>() {
            Ok(number) => Value::Num(Tag::Default, Num::I64(number)),
            Err(_) => raw(),
        },
        Shape::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Value::Bool(Tag::Default, true),
            "false" | "no" | "off" | "0" => Value::Bool(Tag::Default, false),
            _ => raw(),
        },
        Shape::List if trimmed.starts_with('[') => toml(trimmed).unwrap_or_else(raw),
        Shape::List => {
            let items = trimmed
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            let items = items.map(|item| Value::String(Tag::Default, item.to_owned()));
            Value::Array(Tag::Default, items.collect())
        }
        Shape::Table(_) | Shape::Named(_) | Shape::Tagged(_) => {
            if trimmed.starts_with('{') {
                toml(trimmed).unwrap_or_else(raw)
            } else {
                raw()
            }
        }
    }
}

fn toml(text: &str) -> Option<Value> {
    let mut unused = Places::default();
    let mut dict = document::parse(&format!("x = {text}"), Path::new(""), &mut unused).ok()?;
    dict.remove("x")
}
