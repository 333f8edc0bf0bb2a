//! Topics and filters (MQTT 5.0, section 4.7), and how they are written for the router.

use std::{borrow::Cow, fmt::Write};

use tidegate_mqtt::topic;

/// What topics of the contract start with.
pub(super) const CONTRACT: &str = "device/";

/// Whether a filter is one for this broker. Shared subscriptions are the front's own.
pub(super) fn is_valid(filter: &str) -> bool {
    topic::valid_filter(filter) && !filter.starts_with(topic::SHARE_PREFIX)
}

/// Whether the rule for `$` keeps a topic from a filter that matches otherwise.
pub(super) fn hidden(filter: &str, name: &str) -> bool {
    name.starts_with('$') && filter.starts_with(['+', '#'])
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
    fn shared_subscriptions_are_not_for_the_router() {
        for filter in ["$share/g/a", "$share/g/#", "a#", ""] {
            assert!(!is_valid(filter), "{filter}");
        }
        for filter in ["$share", "$SYS/#", "#"] {
            assert!(is_valid(filter), "{filter}");
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
            let (name, mut filter) = (topic.join("/"), filter.join("/"));
            if hash {
                filter.push_str("/#");
            }
            let (routed_topic, routed_filter) = (encode(&name), encode(&filter));
            prop_assert!(routed_topic.is_ascii() && !routed_topic.starts_with('$'));
            let routed = protocol::matches(&routed_topic, &routed_filter) && !hidden(&filter, &name);
            prop_assert_eq!(routed, topic::matches(&filter, &name), "{} {}", filter, name);
        }
    }
}
