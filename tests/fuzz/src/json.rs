//! An independent reading of JSON, by serde_json and a little of our own on top: what is written,
//! not what it amounts to.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A value, the way it is written.
#[derive(Debug, Clone)]
pub enum Node<'a> {
    /// A literal, number or string, as written.
    Scalar(&'a str),
    /// Its items.
    Array(Vec<Node<'a>>),
    /// Its members.
    Object(Vec<Member<'a>>),
}

/// A member of an object.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its name as written, in quotes.
    pub written: &'a str,
    /// What the name says.
    pub name: String,
    /// Its value as written.
    pub text: &'a str,
    /// Its value.
    pub value: Node<'a>,
}

/// Reads `text` as one JSON value by the contract's rules: names once in their object, no lone
/// surrogates, arrays and objects at most `depth` deep. `None` if it is not.
#[must_use]
pub fn read(text: &[u8], depth: usize) -> Option<(&str, Node<'_>)> {
    let raw: &RawValue = serde_json::from_slice(text).ok()?;
    Some((raw.get(), node(raw.get(), depth)?))
}

/// As [`read`], for an object whose members' values may be `depth` deep each.
#[must_use]
pub fn read_members(text: &[u8], depth: usize) -> Option<Vec<Member<'_>>> {
    match read(text, depth + 1)? {
        (_, Node::Object(members)) => Some(members),
        _ => None,
    }
}

fn node(text: &str, depth: usize) -> Option<Node<'_>> {
    Some(match text.as_bytes().first()? {
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            let inner = depth.checked_sub(1)?;
            Node::Array(
                items
                    .iter()
                    .map(|item| node(item.get(), inner))
                    .collect::<Option<_>>()?,
            )
        }
        b'{' => {
            let pairs: Pairs<'_> = serde_json::from_str(text).ok()?;
            let inner = depth.checked_sub(1)?;
            let mut names = BTreeSet::new();
            let mut members = Vec::new();
            for (written, value) in pairs.0 {
                let name: String = serde_json::from_str(written.get()).ok()?;
                if !names.insert(name.clone()) {
                    return None;
                }
                members.push(Member {
                    written: written.get(),
                    name,
                    text: value.get(),
                    value: node(value.get(), inner)?,
                });
            }
            Node::Object(members)
        }
        b'"' => {
            let _: String = serde_json::from_str(text).ok()?;
            Node::Scalar(text)
        }
        _ => Node::Scalar(text),
    })
}

impl Node<'_> {
    /// Without insignificant white space; members sorted by the code points of their names if
    /// `sort`.
    #[must_use]
    pub fn canonical(&self, sort: bool) -> String {
        let mut out = String::new();
        self.write(sort, &mut out);
        out
    }

    fn write(&self, sort: bool, out: &mut String) {
        match self {
            Self::Scalar(text) => out.push_str(text),
            Self::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(sort, out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if sort {
                    members.sort_by(|a, b| a.name.chars().cmp(b.name.chars()));
                }
                out.push('{');
                for (at, member) in members.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    out.push_str(member.written);
                    out.push(':');
                    member.value.write(sort, out);
                }
                out.push('}');
            }
        }
    }

    /// How many members there are in it, at any depth.
    #[must_use]
    pub fn members(&self) -> usize {
        match self {
            Self::Scalar(_) => 0,
            Self::Array(items) => items.iter().map(Self::members).sum(),
            Self::Object(members) => members
                .iter()
                .map(|member| 1 + member.value.members())
                .sum(),
        }
    }
}

/// An object's members in order, as written.
struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
