//! What is JSON, and what its canonical forms are: held against `serde_json` and a model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Node, node, scalar, string, unescape};
use proptest::prelude::*;
use serde_json::Value;
use tidegate_wire::Payload;
use tidegate_wire::json::{Fault, JsonError, measured_at};
use tidegate_wire::limits::slots_for;

fn check(text: &[u8]) -> Result<Payload<'_>, JsonError> {
    Payload::parse(text, &mut vec![0; slots_for(text.len())])
}

fn fault(text: &str) -> Option<Fault> {
    check(text.as_bytes()).err().map(|error| error.fault)
}

fn canonical(payload: &Payload<'_>) -> String {
    let mut out = Vec::new();
    payload.canonical(|piece| out.extend_from_slice(piece));
    String::from_utf8(out).unwrap()
}

fn sorted(payload: &Payload<'_>) -> String {
    let mut out = Vec::new();
    let mut slots = vec![0; slots_for(payload.as_str().len())];
    payload
        .sorted(&mut slots, |piece| out.extend_from_slice(piece))
        .unwrap();
    String::from_utf8(out).unwrap()
}

/// Whether `serde_json` takes the text, apart from what is decided differently on purpose: it
/// keeps the last of two members of one name, nests deeper, and refuses numbers that no float can
/// hold.
fn agrees(text: &[u8]) -> Result<(), TestCaseError> {
    let ours = check(text);
    match (serde_json::from_slice::<Value>(text), &ours) {
        (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => prop_assert!(
            matches!(error.fault, Fault::DuplicateMember | Fault::TooDeep),
            "{} refused: {error}",
            String::from_utf8_lossy(text)
        ),
        (Err(error), Ok(_)) => prop_assert!(
            error.to_string().starts_with("number out of range"),
            "{} accepted: {error}",
            String::from_utf8_lossy(text)
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn white_space_does_not_matter(value in node(6), seed in any::<u64>()) {
        let compact = value.compact();
        let spaced = value.spaced(seed);
        prop_assert_eq!(canonical(&check(spaced.as_bytes()).unwrap()), compact.clone());
        // And is nowhere kept: the canonical form is its own canonical form.
        let payload = check(compact.as_bytes()).unwrap();
        prop_assert_eq!(canonical(&payload), compact);
    }

    #[test]
    fn the_sorted_form_is_the_models(value in node(6), seed in any::<u64>()) {
        let spaced = value.spaced(seed);
        prop_assert_eq!(sorted(&check(spaced.as_bytes()).unwrap()), value.sorted());
    }

    #[test]
    fn sorting_agrees_with_a_sorting_map(value in node(6)) {
        // serde_json's map sorts by UTF-8 bytes, which is by code points. It rewrites numbers and
        // escapes, so what is compared is the order of the names alone.
        fn names(value: &Value, into: &mut Vec<String>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| names(item, into)),
                Value::Object(map) => {
                    let by_name: std::collections::BTreeMap<_, _> = map.iter().collect();
                    for (name, value) in by_name {
                        into.push(name.clone());
                        names(value, into);
                    }
                }
                _ => {}
            }
        }
        fn written(text: &str) -> Vec<String> {
            // A name is a string before a colon; the sorted form has no white space between.
            let mut found = Vec::new();
            let mut rest = text;
            while let Some(quote) = rest.find('"') {
                let mut end = quote + 1;
                while rest.as_bytes()[end] != b'"' {
                    end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
                }
                let string = &rest[quote..=end];
                rest = &rest[end + 1..];
                if rest.starts_with(':') {
                    found.push(unescape(string));
                }
            }
            found
        }
        let text = value.compact();
        let mut expected = Vec::new();
        names(&serde_json::from_str(&text).unwrap(), &mut expected);
        prop_assert_eq!(written(&sorted(&check(text.as_bytes()).unwrap())), expected);
    }

    #[test]
    fn lexemes_and_escapes_survive(text in scalar()) {
        let spaced = format!(" [ {text} ,\n{{ \"k\" : {text} }} ] ");
        let payload = check(spaced.as_bytes()).unwrap();
        prop_assert_eq!(canonical(&payload), format!("[{text},{{\"k\":{text}}}]"));
        prop_assert_eq!(sorted(&payload), format!("[{text},{{\"k\":{text}}}]"));
    }

    #[test]
    fn what_is_json_is_agreed_on(value in node(6), seed in any::<u64>()) {
        agrees(value.spaced(seed).as_bytes())?;
        prop_assert!(check(value.compact().as_bytes()).is_ok());
    }

    #[test]
    fn what_is_almost_json_is_agreed_on(
        value in node(4),
        seed in any::<u64>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 1..4),
    ) {
        let mut text = value.spaced(seed).into_bytes();
        for (place, kind, byte) in changes {
            // Mostly bytes that mean something.
            let telling = br#"{}[],:"\/ -+.0129eEutfnd"#;
            let byte = if byte < 230 { telling[usize::from(byte) % telling.len()] } else { byte };
            let at = place.index(text.len() + 1);
            match kind {
                0 => text.insert(at, byte),
                1 if at < text.len() => { text.remove(at); }
                _ if at < text.len() => text[at] = byte,
                _ => {}
            }
        }
        agrees(&text)?;
    }

    #[test]
    fn cut_short_it_is_not_json(value in node(4), place in any::<prop::sample::Index>()) {
        let text = format!("[{}]", value.compact());
        let cut = place.index(text.len());
        prop_assert!(check(&text.as_bytes()[..cut]).is_err());
    }

    #[test]
    fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..200), slots in 0..20usize) {
        let mut slots = vec![0; slots];
        if let Ok(payload) = Payload::parse(&text, &mut slots) {
            let _ = payload.sorted(&mut slots, |_| ());
            let _ = payload.measured_at();
        }
        agrees(&text)?;
    }

    #[test]
    fn looking_into_what_was_never_checked_does_not_panic(
        text in r#"[{}\[\],:"\\ue0-3.a ]{0,60}"#,
        unicode in ".{0,20}",
    ) {
        for text in [&text, &format!("{{{text}"), &format!("{{\"measured_at\":{text}"), &unicode] {
            let _ = measured_at(text);
        }
    }

    #[test]
    fn a_name_twice_is_found_however_it_is_written(
        names in prop::collection::hash_set("[a-z]{1,12}", 1..40),
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        depth in 0..5usize,
        plainly in any::<bool>(),
    ) {
        let mut members: Vec<String> = names.iter().map(|name| format!("\"{name}\":0")).collect();
        let object = |members: &[String]| {
            format!("{}{{{}}}{}", "[1,{\"a\":".repeat(depth), members.join(","), "}]".repeat(depth))
        };
        prop_assert_eq!(fault(&object(&members)), None);
        let name = names.iter().nth(which.index(names.len())).unwrap();
        let escaped: String = name.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let written = if plainly { name } else { &escaped };
        members.insert(place.index(members.len() + 1), format!("\"{written}\":0"));
        prop_assert_eq!(fault(&object(&members)), Some(Fault::DuplicateMember));
    }

    #[test]
    fn members_are_found(value in node(3), name in string(), seed in any::<u64>()) {
        let Node::Object(mut members) = value else { return Ok(()); };
        let said = unescape(&name);
        members.retain(|(other, _)| unescape(other) != said);
        let text = Node::Object(members.clone()).spaced(seed);
        prop_assert_eq!(check(text.as_bytes()).unwrap().member(&said), None);
        for (name, value) in &members {
            let payload = check(text.as_bytes()).unwrap();
            let found = payload.member(&unescape(name)).unwrap();
            prop_assert_eq!(canonical(&found), value.compact());
            prop_assert_eq!(sorted(&found), value.sorted());
        }
    }
}

#[test]
fn faults_are_named() {
    for (text, expected) in [
        ("", Fault::Truncated),
        (" ", Fault::Truncated),
        ("{", Fault::Truncated),
        ("[1", Fault::Truncated),
        ("\"a", Fault::Truncated),
        ("{\"a\"}", Fault::Unexpected),
        ("{\"a\":1,}", Fault::Unexpected),
        ("[1,]", Fault::Unexpected),
        ("[1}", Fault::Unexpected),
        ("{]", Fault::Unexpected),
        ("\u{feff}1", Fault::Unexpected),
        ("nul", Fault::Unexpected),
        ("'a'", Fault::Unexpected),
        ("1 2", Fault::TrailingBytes),
        ("{} x", Fault::TrailingBytes),
        ("1\u{a0}", Fault::TrailingBytes),
        ("01", Fault::BadNumber),
        ("-", Fault::BadNumber),
        ("1.", Fault::BadNumber),
        ("1e", Fault::BadNumber),
        ("-a", Fault::BadNumber),
        ("\"\n\"", Fault::ControlCharacter),
        ("\"\\x\"", Fault::BadEscape),
        ("\"\\u12g4\"", Fault::BadEscape),
        ("\"\\ud83d\"", Fault::LoneSurrogate),
        ("\"\\ude00\"", Fault::LoneSurrogate),
        ("\"\\ud83d\\ud83d\"", Fault::LoneSurrogate),
        ("\"\\ud83dxxde00\"", Fault::LoneSurrogate),
        ("{\"a\":1,\"\\u0061\":2}", Fault::DuplicateMember),
        ("[{\"b\":{\"a\":1,\"a\":1}}]", Fault::DuplicateMember),
    ] {
        assert_eq!(fault(text), Some(expected), "{text:?}");
    }
    assert_eq!(
        check(b"\"\xff\"").err(),
        Some(JsonError {
            fault: Fault::NotUtf8,
            at: 1
        })
    );
}

#[test]
fn nesting_ends_at_32() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let per = close.len();
        let nested = |levels: usize| {
            let times = levels / per;
            format!("{}0{}", open.repeat(times), close.repeat(times))
        };
        assert_eq!(fault(&nested(32)), None);
        assert_eq!(sorted(&check(nested(32).as_bytes()).unwrap()), nested(32));
        assert_eq!(fault(&nested(32 + per)), Some(Fault::TooDeep));
        assert_eq!(fault(&nested(20_000)), Some(Fault::TooDeep));
    }
    let empty = format!("{}{}", "[".repeat(33), "]".repeat(33));
    assert_eq!(fault(&empty), Some(Fault::TooDeep));
}

#[test]
fn slots_for_a_message_serve_any_message() {
    // The densest members there can be: one character in most names, so that none repeats.
    let alphabet: Vec<char> = (' '..='~').filter(|c| !matches!(c, '"' | '\\')).collect();
    let mut names: Vec<String> = vec![String::new()];
    names.extend(alphabet.iter().map(char::to_string));
    let flat: Vec<String> = names.iter().map(|name| format!("\"{name}\":0")).collect();
    let flat = format!("{{{}}}", flat.join(","));
    // Objects beside each other, each with the empty name.
    let beside = format!("[{}]", vec!["{\"\":0}"; 5000].join(","));
    for text in [flat, beside] {
        let mut slots = vec![0; slots_for(text.len())];
        let payload = Payload::parse(text.as_bytes(), &mut slots).unwrap();
        payload.sorted(&mut slots, |_| ()).unwrap();
    }
    assert_eq!(
        Payload::parse(b"{\"a\":{\"b\":0},\"c\":0}", &mut [0; 1]).map_err(|error| error.fault),
        Err(Fault::TooManyMembers)
    );
}
