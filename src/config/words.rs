//! The words that complaints are made of.

use std::collections::BTreeMap;

use figment::value::Value;

use super::{
    nearest::nearest,
    problem::dotted,
    schema::{KEYS, Shape},
};

pub(super) fn unknown_key_remedy(path: &[String], siblings: &BTreeMap<String, Shape>) -> String {
    let Some((key, section)) = path.split_last() else {
        return String::new();
    };
    if let Some(near) = nearest(key, siblings.keys().map(String::as_str)) {
        let mut path = section.to_vec();
        path.push(near.to_owned());
        return format!("did you mean {}?", dotted(&path));
    }
    if let Some(elsewhere) = KEYS
        .iter()
        .find(|known| known.rsplit('.').next() == Some(key))
    {
        return format!("did you mean {elsewhere}?");
    }
    let known: Vec<&str> = siblings.keys().map(String::as_str).collect();
    format!("the keys here are {}", known.join(", "))
}

/// What the deserializer expected, in words of this program: what it is, what to write.
pub(super) fn wanted(expected: &str) -> (String, String) {
    let (what, remedy) = match expected {
        "a duration" => (
            "a duration",
            "write a number with a unit: \"500ms\", \"10s\", \"5m\", \"24h\", \"7d\"",
        ),
        "an integer or string" | "parsable string" | "integer overflow" => (
            "a size",
            "write bytes, or a number with a unit: 65536, \"64 KiB\", \"10 MiB\", \"1 GiB\"",
        ),
        "socket address" => (
            "an address with a port",
            "write \"0.0.0.0:8883\" or \"[::]:8883\"; a host name is not enough",
        ),
        "a boolean" => ("true or false", "write true or false, without quotes"),
        "a sequence" => ("a list", "write [\"a\", \"b\"]"),
        "a string" | "path string" | "string or map" => ("text", "write it in quotes"),
        "u8" => return whole(u8::MAX.into()),
        "u16" => return whole(u16::MAX.into()),
        "u32" => return whole(u32::MAX.into()),
        "u64" => return whole(u64::MAX),
        other => return (other.to_owned(), format!("write {other}")),
    };
    (what.to_owned(), remedy.to_owned())
}

fn whole(largest: u64) -> (String, String) {
    let range = format!("a whole number from 0 to {largest}");
    let remedy = "write the number without quotes, unit or decimals".to_owned();
    (range, remedy)
}

pub(super) fn one_of(choices: &[&str]) -> String {
    choices
        .iter()
        .map(|choice| format!("\"{choice}\""))
        .collect::<Vec<_>>()
        .join(" or ")
}

/// The name of what a section holds, for a sentence: `upstreams.x.type` is about an upstream.
pub(super) fn singular(path: &[String]) -> &str {
    path.first().map_or("entry", |section| {
        section.strip_suffix('s').unwrap_or(section)
    })
}

/// A value as it was written, short enough for a sentence.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{:?}", shortened(text)),
        Value::Char(_, char) => format!("{:?}", char.to_string()),
        Value::Bool(_, boolean) => boolean.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(number), ..) => number.to_string(),
            (_, Some(number), _) => number.to_string(),
            (.., Some(number)) => number.to_string(),
            _ => "a number".to_owned(),
        },
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => described(value).to_owned(),
    }
}

pub(super) fn described(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "an empty value",
        Value::Dict(..) => "a section",
        Value::Array(..) => "a list",
    }
}

pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// On one line, whatever the operator's text in it holds: a control character would move a terminal's
/// cursor or split a log line.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
