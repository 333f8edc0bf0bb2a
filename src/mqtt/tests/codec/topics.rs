//! Names, filters and matching (§4.7, 5.0 §4.8).

use proptest::prelude::*;
use tidegate_mqtt::topic::{TopicFilter, matches, valid_filter, valid_name};

#[test]
fn names() {
    for name in [
        "a", "/", "//", "a/b", " ", "$SYS/x", "\u{FEFF}", "größe", "a\u{1}",
    ] {
        assert!(valid_name(name), "{name:?}");
    }
    for name in ["", "+", "#", "a/+", "a/#", "a#", "a+b", "\0", "a\0b"] {
        assert!(!valid_name(name), "{name:?}");
    }
    assert!(valid_name(&"x".repeat(65_535)));
    assert!(!valid_name(&"x".repeat(65_536)));
    assert!(!valid_filter(&"x".repeat(65_536)));
}

#[test]
fn shared_filters() {
    let parse = |filter| TopicFilter::parse(filter).map(|f| (f.share, f.filter));
    assert_eq!(parse("a/+"), Some((None, "a/+")));
    assert_eq!(parse("$share/g/a/+"), Some((Some("g"), "a/+")));
    assert_eq!(parse("$share/g//"), Some((Some("g"), "/")));
    assert_eq!(
        parse("$share/g/$share/h/a"),
        Some((Some("g"), "$share/h/a"))
    );
    assert_eq!(parse("$share"), Some((None, "$share")));
    assert_eq!(parse("$shared/x"), Some((None, "$shared/x")));
    for filter in [
        "",
        "$share/",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/g+/a",
        "$share/#/a",
        "$share/g\0/a",
        "$share/g/a#",
        "a\0",
    ] {
        assert_eq!(parse(filter), None, "{filter:?}");
    }
    let long = format!("$share/g/{}", "x".repeat(65_530));
    assert_eq!(parse(&long), None);
}

#[test]
fn matching() {
    // Mostly the specification's own examples (§4.7.1.2, §4.7.1.3, §4.7.2, §4.7.3).
    let yes = [
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        (
            "sport/tennis/player1/#",
            "sport/tennis/player1/score/wimbledon",
        ),
        ("sport/#", "sport"),
        ("#", "sport"),
        ("#", "/"),
        ("+", "sport"),
        ("sport/+", "sport/"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("+/tennis/#", "sport/tennis"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("+/#", "/finance"),
        ("$SYS/#", "$SYS/"),
        ("$SYS/#", "$SYS"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("a//b", "a//b"),
        ("a/+/b", "a//b"),
        ("device/+/data", "device/sensor_001/data"),
        ("ACCOUNTS", "ACCOUNTS"),
        ("a/$b/+", "a/$b/c"),
        ("a/+", "a/$b"),
    ];
    let no = [
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("+", "a/b"),
        ("#", "$SYS/a"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("+", "$SYS"),
        ("ACCOUNTS", "Accounts"),
        ("/a", "a"),
        ("a", "/a"),
        ("a/", "a"),
        ("a", "a/"),
        ("a/b/#", "a"),
        ("a/#", "ab"),
        ("a/b", "a"),
        ("device/a/data", "device/ab/data"),
        // Not normalised: two ways to write å are two topics ([MQTT-4.7.3-4]).
        ("\u{E5}", "a\u{30A}"),
    ];
    for (filter, name) in yes {
        assert!(valid_filter(filter) && valid_name(name));
        assert!(matches(filter, name), "{filter} should match {name}");
    }
    for (filter, name) in no {
        assert!(valid_filter(filter) && valid_name(name));
        assert!(!matches(filter, name), "{filter} should not match {name}");
    }
}

/// Matching as §4.7.1 words it, level by level from the left, by recursion.
fn by_definition(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, name @ ..]) => by_definition(filter, name),
        ([level, filter @ ..], [part, name @ ..]) => level == part && by_definition(filter, name),
        _ => false,
    }
}

fn levels(level: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec(level, 1..5).prop_map(|levels: Vec<String>| levels.join("/"))
}

proptest! {
    #[test]
    fn matching_is_as_defined(filter in levels("[ab$+#]?"), name in levels("[ab$]{0,2}")) {
        prop_assume!(valid_filter(&filter) && valid_name(&name));
        let (f, n): (Vec<_>, Vec<_>) = (filter.split('/').collect(), name.split('/').collect());
        let hidden = name.starts_with('$') && (f[0] == "+" || f[0] == "#");
        prop_assert_eq!(matches(&filter, &name), !hidden && by_definition(&f, &n));
    }

    #[test]
    fn a_name_is_a_filter_that_matches_itself_alone(a in levels("[ab]{0,2}"), b in levels("[ab]{0,2}")) {
        prop_assume!(valid_name(&a) && valid_name(&b));
        prop_assert!(valid_filter(&a));
        prop_assert_eq!(matches(&a, &b), a == b);
    }

    #[test]
    fn no_string_panics(a in any::<String>(), b in any::<String>()) {
        let _ = (valid_name(&a), valid_filter(&a), TopicFilter::parse(&a), matches(&a, &b));
    }
}
