//! Topic names and filters (4.7), and strings wherever they are (1.5.4).

use crate::{raw::publish, world::World};

/// Publishes to each topic and says which reached the filter.
fn reached(world: &World, filter: &str, topics: &[&str]) -> Vec<String> {
    let mut raw = world.v5("matcher");
    assert_eq!(raw.subscribe(&[(filter, 1), ("the end", 1)]), [1, 1]);
    let mut publisher = world.v5("pub");
    for topic in topics {
        publisher.publish(&publish(topic, "x").qos(1, 1));
    }
    publisher.publish(&publish("the end", "x").qos(1, 1));
    let mut found = Vec::new();
    loop {
        let topic = raw.take().topic;
        if topic == "the end" {
            return found;
        }
        found.push(topic);
    }
}

#[test]
fn wild_cards_match_what_they_say() {
    let world = World::new();
    let topics = [
        "sport",
        "sport/",
        "sport/tennis",
        "sport/tennis/player1",
        "sport/tennis/player1/ranking",
        "/finance",
        "finance",
        "sportive",
    ];
    for (filter, expected) in [
        (
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/ranking"][..],
        ),
        (
            "sport/#",
            &[
                "sport",
                "sport/",
                "sport/tennis",
                "sport/tennis/player1",
                "sport/tennis/player1/ranking",
            ],
        ),
        ("sport/+", &["sport/", "sport/tennis"]),
        ("+/+", &["sport/", "sport/tennis", "/finance"]),
        ("/+", &["/finance"]),
        ("+", &["sport", "finance", "sportive"]),
        ("sport/+/player1", &["sport/tennis/player1"]),
        (
            "+/tennis/#",
            &[
                "sport/tennis",
                "sport/tennis/player1",
                "sport/tennis/player1/ranking",
            ],
        ),
        ("#", &topics),
    ] {
        let mut found = reached(&world, filter, &topics);
        found.retain(|topic| topic != "the end");
        assert_eq!(found, expected, "{filter}");
    }
}

#[test]
fn names_are_compared_as_they_are() {
    let world = World::new();
    // A letter with an accent in one code point and in two; case; spaces; empty levels; a byte order
    // mark; per cent signs.
    let topics = [
        "caf\u{e9}",
        "cafe\u{301}",
        "Cafe",
        "cafe",
        " cafe",
        "cafe ",
        "cafe/",
        "/cafe",
        "//cafe",
        "\u{feff}cafe",
        "caf%C3%A9",
        "%",
        "%2F",
        "a%2Fb",
        "a%252Fb",
        "a/b",
    ];
    for topic in topics {
        assert_eq!(reached(&world, topic, &topics), [topic]);
    }
}

#[test]
fn unicode_everywhere() {
    let world = World::new();
    for mut raw in world.both("u") {
        let topics = [
            "über/straße",
            "温度/センサー",
            "🌊/gate",
            "\u{feff}x/y",
            "~\u{10FFFF}/z",
            "é",
        ];
        raw.subscribe(&[("#", 1)]);
        let mut publisher = world.v3("pub");
        for topic in topics {
            publisher.publish(&publish(topic, topic).qos(1, 1));
            let got = raw.take();
            assert_eq!((got.topic.as_str(), got.text().as_str()), (topic, topic));
        }
        raw.unsubscribe(&["#"]);
        for (filter, topic) in [
            ("温度/+", "温度/センサー"),
            ("🌊/#", "🌊"),
            ("+/straße", "über/straße"),
        ] {
            raw.subscribe(&[(filter, 1)]);
            publisher.publish(&publish(topic, "x").qos(1, 1));
            assert_eq!(raw.take().topic, topic);
        }
    }
    world.assert_unharmed();
}

#[test]
fn dollar_topics_are_not_for_wild_cards() {
    let world = World::new();
    let mut raw = world.v5("dollar");
    assert_eq!(
        raw.subscribe(&[("#", 1), ("+/x", 1), ("$SYS/#", 0)]),
        [1, 1, 0]
    );
    let mut publisher = world.v5("pub");
    for topic in ["$SYS/x", "$x", "$/x"] {
        // Nobody publishes there: what begins with `$` is the gateway's.
        assert_eq!(publisher.publish(&publish(topic, "x").qos(1, 1)), 0x87);
    }
    publisher.publish(&publish("a/$x", "x").qos(1, 1));
    assert_eq!(
        raw.take().topic,
        "a/$x",
        "further on it is a letter like any other"
    );
}

#[test]
fn a_topic_may_be_as_long_as_a_string() {
    let world = World::new();
    let long = "l".repeat(65_535);
    assert_eq!(reached(&world, "#", &[&long]), [long.clone(),].to_vec());
    assert_eq!(reached(&world, &long, &[&long]), [long]);
    // Many levels cost no more than few.
    let deep = "/".repeat(20_000);
    assert_eq!(reached(&world, "#", &[&deep]), [deep]);
    world.assert_unharmed();
}
