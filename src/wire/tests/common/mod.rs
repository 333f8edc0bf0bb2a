//! JSON values to test with, and an independent model of what is done to them.
//!
//! A [`Node`] is a value together with the way it is written: number lexemes and escapes are part
//! of it. The model writes it compactly, with random white space, or sorted; it shares no code
//! with the crate.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;

/// A JSON value as somebody may write it.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A literal, number or string, as written.
    Scalar(String),
    Array(Vec<Node>),
    /// Names as written (with quotes), distinct once unescaped.
    Object(Vec<(String, Node)>),
}

/// A string as written, in quotes: any mixture of plain characters and escapes.
pub(crate) fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-e]{1,3}",
        1 => "[ -!#-\\[\\]-~]{1,9}",
        1 => "[é☃😀\u{ffff}\u{e000}\u{7f}]",
        1 => prop::sample::select(vec![
            r#"\""#, r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t",
            r"\u0061", r"\u0000", r"\u00e9", r"\uFFFF", r"\ue000", r"\ud83d\ude00", r"\uDBFF\uDFFF",
        ]).prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

pub(crate) fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".into()),
        Just("true".into()),
        Just("false".into()),
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ]
}

/// A value nested up to `depth` deep.
pub(crate) fn node(depth: u32) -> impl Strategy<Value = Node> {
    scalar()
        .prop_map(Node::Scalar)
        .prop_recursive(depth, 64, 6, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..6).prop_map(Node::Array),
                2 => object(inner, 0..20),
            ]
        })
}

fn object(
    value: impl Strategy<Value = Node>,
    size: std::ops::Range<usize>,
) -> impl Strategy<Value = Node> {
    prop::collection::vec((string(), value), size).prop_map(|mut members| {
        let mut seen = std::collections::HashSet::new();
        members.retain(|(name, _)| seen.insert(unescape(name)));
        Node::Object(members)
    })
}

/// What a written string says.
pub(crate) fn unescape(written: &str) -> String {
    serde_json::from_str(written).unwrap()
}

impl Node {
    /// Written without white space, members as they are.
    pub(crate) fn compact(&self) -> String {
        self.write(&mut |_| String::new(), false)
    }

    /// Written without white space, members sorted.
    pub(crate) fn sorted(&self) -> String {
        self.write(&mut |_| String::new(), true)
    }

    /// Written with white space drawn from `seed` wherever it means nothing.
    pub(crate) fn spaced(&self, seed: u64) -> String {
        let mut state = seed;
        self.write(
            &mut |_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let count = (state >> 60) as usize % 4;
                (0..count)
                    .map(|n| char::from(b" \t\n\r"[(state >> (50 - 2 * n)) as usize % 4]))
                    .collect()
            },
            false,
        )
    }

    fn write(&self, space: &mut impl FnMut(()) -> String, sort: bool) -> String {
        let before = space(());
        let text = match self {
            Self::Scalar(text) => text.clone(),
            Self::Array(items) => {
                let items: Vec<String> = items.iter().map(|i| i.write(space, sort)).collect();
                format!("[{}{}]", items.join(","), space(()))
            }
            Self::Object(members) => {
                let mut members: Vec<&(String, Self)> = members.iter().collect();
                if sort {
                    // By code points, spelled out: not by bytes, not by UTF-16.
                    members.sort_by_key(|(name, _)| {
                        unescape(name).chars().map(u32::from).collect::<Vec<u32>>()
                    });
                }
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(name, value)| {
                        format!(
                            "{}{name}{}:{}",
                            space(()),
                            space(()),
                            value.write(space, sort)
                        )
                    })
                    .collect();
                format!("{{{}{}}}", members.join(","), space(()))
            }
        };
        format!("{before}{text}{}", space(()))
    }
}
