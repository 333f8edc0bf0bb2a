//! Topics and filters (MQTT 5.0, section 4.7), and how they are written for the router.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a filter is well-formed. Shared subscriptions are the front's own.
pub(super) fn is_valid(filter: &str) -> bool {
    if filter.is_empty() || filter.contains('\0') || filter.starts_with("$share/") {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let fits = match level {
            "+" => true,
            "#" => last,
            other => !other.contains(['+', '#']),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// Whether it is the name of one topic.
pub(super) fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
}

/// Whether a topic matches a filter; neither is checked here. A topic that starts with `$` is
/// matched by no filter that starts with a wildcard.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if hidden(filter, topic) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether the rule for `$` keeps a topic from a filter that matches otherwise.
pub(super) fn hidden(filter: &str, topic: &str) -> bool {
    topic.starts_with('$') && filter.starts_with(['+', '#'])
}

/// Whether a filter may match a topic under `device/`.
pub(super) fn may_match_contract(filter: &str) -> bool {
    let first = filter.split('/').next().unwrap_or(filter);
    matches!(first, "device" | "+" | "#")
}

/// A topic or filter as the router can take it: it panics at a first character that is not ASCII,
/// and refuses a `$` there. Both, and `%` itself, are written in percent-encoding, one to one, so what
/// matched before matches after; `/`, `+` and `#` keep their meaning.
pub(super) fn encode(text: &str) -> Cow<'_, str> {
    let plain = text.is_ascii() && !text.contains('%') && !text.starts_with('$');
    if plain {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() * 2);
    for (at, byte) in text.bytes().enumerate() {
        if !byte.is_ascii() || byte == b'%' || (at == 0 && byte == b'$') {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        } else {
            encoded.push(char::from(byte));
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rumqttd::protocol;

    use super::*;

    #[test]
    fn well_formed_filters() {
        for filter in [
            "#", "+", "a", "/", "a/", "/a", "+/+", "a/#", "a/+/#", "$SYS/#", "é/+", "$share",
        ] {
            assert!(is_valid(filter), "{filter}");
        }
        for filter in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "a+",
            "+a/b",
            "a/b+",
            "\0",
            "$share/g/a",
        ] {
            assert!(!is_valid(filter), "{filter:?}");
        }
    }

    #[test]
    fn matching_is_the_standards() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
            ),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/x"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/x"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a/b", "a/B"),
            ("a", "a/"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn encoding_is_ascii_and_one_to_one() {
        assert_eq!(encode("a/b c"), "a/b c");
        assert_eq!(encode("é/+/%"), "%C3%A9/+/%25");
        assert_eq!(encode("$SYS/$x"), "%24SYS/$x");
        assert_ne!(encode("%C3%A9"), encode("é"));
    }

    fn level() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "é", "", "%", "$", "%C3%A9", "日本", "a$"])
            .prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn what_the_router_matches_is_what_matches(
            topic in prop::collection::vec(level(), 1..4),
            filter in prop::collection::vec(prop_oneof![level(), Just("+".to_owned())], 1..4),
            hash: bool,
        ) {
            let (topic, mut filter) = (topic.join("/"), filter.join("/"));
            if hash {
                filter.push_str("/#");
            }
            let (routed_topic, routed_filter) = (encode(&topic), encode(&filter));
            prop_assert!(routed_topic.is_ascii() && !routed_topic.starts_with('$'));
            let routed = protocol::matches(&routed_topic, &routed_filter) && !hidden(&filter, &topic);
            prop_assert_eq!(routed, matches(&filter, &topic), "{} {}", filter, topic);
        }
    }
}
