use std::time::Duration;

use bytesize::ByteSize;
use proptest::prelude::*;

use super::*;
use crate::config::{
    ListenerMode, LogFormat, Signing, Upstream, schema,
    schema::{SCHEMA, Shape},
};

fn read_with(text: &str, sources: &Sources) -> Result<(Config, Places), ConfigError> {
    parse(text, Path::new("gw.toml"), sources)
}

fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, &Sources::default()).map(|(config, _)| config)
}

fn variables(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Sources {
        environment,
        ..Sources::default()
    }
}

fn flags(set: &[&str]) -> Sources {
    Sources {
        set: set.iter().map(|&set| set.to_owned()).collect(),
        ..Sources::default()
    }
}

fn complaint(result: Result<(Config, Places), ConfigError>) -> String {
    result.expect_err("this configuration is wrong").to_string()
}

/// Text, and what the complaint must say: the place, the key and the remedy among it.
const WRONG: &[(&str, &[&str])] = &[
    // Unknown keys.
    (
        "stat_dir = \"/x\"",
        &[
            "gw.toml:1:",
            "stat_dir: unknown key",
            "did you mean state_dir?",
        ],
    ),
    (
        "[limits]\nconections = 5",
        &[
            "gw.toml:2:1:",
            "limits.conections: unknown key",
            "did you mean limits.connections?",
        ],
    ),
    (
        "\n\n[limit]\nconnections = 5",
        &["gw.toml:3:2", "limit: unknown key", "did you mean limits?"],
    ),
    (
        "freshness = \"5m\"",
        &["gw.toml:1:", "did you mean verification.freshness?"],
    ),
    (
        "[storage]\nfrobnicate = 1",
        &["storage.frobnicate", "the keys here are", "disk_budget"],
    ),
    (
        "[devices.sensor_001]\nsigning_mode = \"v2\"",
        &[
            "devices.sensor_001.signing_mode",
            "gw.toml:2",
            "the keys here are",
            "signing",
        ],
    ),
    (
        "[devices.a]\nsecretfile = \"/x\"",
        &[
            "devices.a.secretfile",
            "did you mean devices.a.secret_file?",
        ],
    ),
    (
        "[listeners.legacy]\naddress = \"0.0.0.0:1883\"\nmodes = \"plain\"",
        &[
            "gw.toml:3",
            "listeners.legacy.modes",
            "did you mean listeners.legacy.mode?",
        ],
    ),
    (
        "[upstreams.cloud]\ntype = \"http\"\nurll = \"https://x\"",
        &[
            "gw.toml:3",
            "upstreams.cloud.urll",
            "did you mean upstreams.cloud.url?",
        ],
    ),
    ("\"a.b\" = 1", &["gw.toml:1", "\"a.b\": unknown key"]),
    // Types.
    (
        "state_dir = 5",
        &[
            "gw.toml:1:13",
            "state_dir: 5 is not text",
            "write it in quotes",
        ],
    ),
    (
        "[limits]\nin_flight = \"many\"",
        &[
            "gw.toml:2:13",
            "limits.in_flight: \"many\" is not a whole number from 0 to 65535",
        ],
    ),
    (
        "[limits]\nin_flight = 70000",
        &["limits.in_flight: 70000", "0 to 65535"],
    ),
    (
        "[limits]\nin_flight = -1",
        &["limits.in_flight: -1", "0 to 65535"],
    ),
    (
        "[limits]\nconnections = 1.5",
        &["limits.connections: 1.5", "a whole number"],
    ),
    (
        "[limits]\nconnections = 99999999999999999999",
        &["gw.toml:2", "limits.connections"],
    ),
    (
        "[limits]\nconnections = true",
        &["limits.connections: true", "without quotes"],
    ),
    (
        "[verification]\nrequire_v2 = \"yes\"",
        &[
            "gw.toml:2",
            "verification.require_v2: \"yes\" is not true or false",
            "without quotes",
        ],
    ),
    (
        "[verification]\nrequire_v2 = 1",
        &["verification.require_v2: 1 is not true or false"],
    ),
    (
        "[pki]\nhosts = \"gw.local\"",
        &["pki.hosts: \"gw.local\" is not a list", "[\"a\", \"b\"]"],
    ),
    (
        "[pki]\nhosts = [\"a\", 7]",
        &["gw.toml:2:15", "pki.hosts.1: 7 is not text"],
    ),
    (
        "[devices.a]\npublish = \"x/y\"",
        &["devices.a.publish", "is not a list"],
    ),
    (
        "limits = 5",
        &[
            "gw.toml:1:10",
            "limits: is a section, not a number",
            "[limits]",
        ],
    ),
    (
        "devices = [\"a\", \"b\"]",
        &["devices: is a section, not a list"],
    ),
    (
        "[devices]\nsensor = \"on\"",
        &["devices.sensor: is a section, not text"],
    ),
    (
        "[state_dir]\nx = 1",
        &["state_dir: is a value, not a section"],
    ),
    // Durations.
    (
        "[verification]\nfreshness = \"5 minuts\"",
        &[
            "gw.toml:2:13",
            "verification.freshness: \"5 minuts\" is not a duration",
            "\"5m\"",
        ],
    ),
    (
        "[verification]\nfreshness = 300",
        &["verification.freshness: 300 is not", "with a unit"],
    ),
    (
        "[verification]\nfreshness = \"300\"",
        &["verification.freshness: \"300\"", "with a unit"],
    ),
    (
        "[verification]\nfreshness = \"-5s\"",
        &["verification.freshness", "a duration"],
    ),
    (
        "[limits]\nhandshake_timeout = \"\"",
        &["limits.handshake_timeout", "a duration"],
    ),
    (
        "[storage]\nmax_age = \"forever\"",
        &["storage.max_age", "a duration"],
    ),
    // Sizes.
    (
        "[storage]\ndisk_budget = \"1 Gigabyte\"",
        &[
            "gw.toml:2",
            "storage.disk_budget: \"1 Gigabyte\" is not a size",
            "\"1 GiB\"",
        ],
    ),
    (
        "[limits]\npacket_bytes = -1",
        &["limits.packet_bytes: -1 is not a size"],
    ),
    (
        "[limits]\nqueued_bytes = []",
        &["limits.queued_bytes: a list is not a size"],
    ),
    // Addresses.
    (
        "[listeners.devices]\naddress = \"0.0.0.0\"",
        &[
            "gw.toml:2:11",
            "listeners.devices.address: \"0.0.0.0\"",
            "\"0.0.0.0:8883\"",
        ],
    ),
    (
        "[listeners.x]\naddress = \"localhost:8883\"",
        &["listeners.x.address", "a host name is not"],
    ),
    (
        "[listeners.x]\naddress = \"0.0.0.0:99999\"",
        &["listeners.x.address", "with a port"],
    ),
    (
        "[listeners.x]\naddress = 8883",
        &["listeners.x.address: 8883", "with a port"],
    ),
    (
        "[listeners.x]\nmode = \"plain\"",
        &["gw.toml:1", "listeners.x: address is missing"],
    ),
    (
        "[api]\naddress = \"8443\"",
        &["gw.toml:2", "api.address: \"8443\"", "with a port"],
    ),
    // Choices.
    (
        "[listeners.x]\naddress = \"0.0.0.0:1\"\nmode = \"mtls\"",
        &[
            "gw.toml:3",
            "listeners.x.mode: \"mtls\"",
            "\"mutual_tls\" or \"server_tls\"",
        ],
    ),
    (
        "[log]\nformat = \"jsn\"",
        &["log.format: \"jsn\"", "did you mean \"json\"?"],
    ),
    (
        "[storage]\nwhen_full = \"drop\"",
        &["storage.when_full: \"drop\"", "\"discard_oldest\""],
    ),
    (
        "[devices.a]\nsigning = \"v3\"",
        &["devices.a.signing: \"v3\"", "\"v2\""],
    ),
    ("[devices.a]\nsigning = false", &["devices.a.signing"]),
    // Upstreams: the key inside is named even though the kind decides what is valid.
    (
        "[upstreams.c]\nurl = \"http://x\"",
        &["gw.toml:1", "upstreams.c: has no type", "\"http\""],
    ),
    (
        "[upstreams.c]\ntype = \"htp\"\nurl = \"http://x\"",
        &[
            "gw.toml:2:8",
            "upstreams.c.type: \"htp\" is no type of upstream",
            "\"http\"?",
        ],
    ),
    (
        "[upstreams.c]\ntype = 1",
        &["upstreams.c.type: 1 is no type", "\"http\""],
    ),
    (
        "[upstreams.c]\ntype = \"http\"",
        &["upstreams.c: url is missing", "add url = …"],
    ),
    (
        "[upstreams.c]\ntype = \"http\"\nurl = \"http://x\"\ntimeout = \"soon\"",
        &[
            "gw.toml:4:11",
            "upstreams.c.timeout: \"soon\" is not a duration",
        ],
    ),
    (
        "[upstreams.c]\ntype = \"http\"\nurl = \"http://x\"\nworkers = 70000",
        &["gw.toml:4", "upstreams.c.workers: 70000", "0 to 65535"],
    ),
    (
        "[upstreams.c]\ntype = \"http\"\nurl = 5",
        &["gw.toml:3", "upstreams.c.url: 5 is not text"],
    ),
    // TOML itself.
    (
        "state_dir = /var/lib",
        &["gw.toml:1", "TOML syntax", "in quotes"],
    ),
    (
        "state_dir: \"/x\"",
        &["gw.toml:1", "TOML syntax", "not key: value"],
    ),
    (
        "\n[limits\nx = 1",
        &["gw.toml:2", "TOML syntax", "close the section name"],
    ),
    ("state_dir = \"/x", &["gw.toml:1", "TOML syntax"]),
    (
        "state_dir = \"/x\"\nstate_dir = \"/y\"",
        &["gw.toml:2", "TOML syntax", "duplicate", "once"],
    ),
    ("[log]\n[log]\n", &["gw.toml:2", "TOML syntax", "duplicate"]),
    ("just words", &["gw.toml:1", "TOML syntax"]),
    ("x = [1, 2", &["gw.toml:1", "TOML syntax"]),
];

#[test]
fn every_mistake_is_named_with_its_place_and_a_remedy() {
    for (text, wanted) in WRONG {
        let said = complaint(read_with(text, &Sources::default()));
        for part in *wanted {
            assert!(
                said.contains(part),
                "for:\n{text}\nexpected {part:?} in:\n{said}"
            );
        }
        assert!(said.contains("; "), "no remedy in:\n{said}");
        assert!(
            !said.is_empty() && said.lines().count() <= 5,
            "not one clear message:\n{said}"
        );
    }
}

const WRONG_VARIABLES: &[(&str, &str, &[&str])] = &[
    (
        "TIDEGATE_LIMTS__CONNECTIONS",
        "5",
        &[
            "environment variable TIDEGATE_LIMTS__CONNECTIONS",
            "no such setting",
            "did you mean TIDEGATE_LIMITS__CONNECTIONS?",
        ],
    ),
    (
        "TIDEGATE_LIMITS_CONNECTIONS",
        "5",
        &[
            "TIDEGATE_LIMITS_CONNECTIONS",
            "did you mean TIDEGATE_LIMITS__CONNECTIONS?",
        ],
    ),
    (
        "TIDEGATE_LIMITS__CONNECTIONS",
        "lots",
        &[
            "environment variable TIDEGATE_LIMITS__CONNECTIONS",
            "limits.connections: \"lots\"",
        ],
    ),
    (
        "TIDEGATE_LIMITS",
        "5",
        &["is a section", "TIDEGATE_LIMITS__KEY"],
    ),
    (
        "TIDEGATE_VERIFICATION__FRESHNESS",
        "300",
        &[
            "TIDEGATE_VERIFICATION__FRESHNESS",
            "verification.freshness: \"300\"",
            "unit",
        ],
    ),
    (
        "TIDEGATE_VERIFICATION__REQUIRE_V2",
        "maybe",
        &[
            "TIDEGATE_VERIFICATION__REQUIRE_V2",
            "\"maybe\" is not true or false",
        ],
    ),
    (
        "TIDEGATE_LISTENERS__DEVICES__ADDRESS",
        "nowhere",
        &[
            "TIDEGATE_LISTENERS__DEVICES__ADDRESS",
            "listeners.devices.address: \"nowhere\"",
        ],
    ),
    (
        "TIDEGATE_LISTENERS__DEVICES__ADRESS",
        "0.0.0.0:1",
        &["did you mean TIDEGATE_LISTENERS__DEVICES__ADDRESS?"],
    ),
    (
        "TIDEGATE_STATE_DIR",
        "",
        &[
            "TIDEGATE_STATE_DIR",
            "state_dir: an empty value is not text",
        ],
    ),
    ("TIDEGATE_", "x", &["no such setting"]),
];

#[test]
fn mistakes_in_variables_name_the_variable() {
    for (name, value, wanted) in WRONG_VARIABLES {
        let said = complaint(read_with("", &variables(&[(name, value)])));
        for part in *wanted {
            assert!(
                said.contains(part),
                "for {name}={value} expected {part:?} in:\n{said}"
            );
        }
    }
}

#[test]
fn mistakes_in_flags_name_the_flag() {
    for (set, wanted) in [
        (
            "limits.connections",
            "--set limits.connections: has no value",
        ),
        ("limits.conections=5", "did you mean limits.connections?"),
        (
            "limits.connections=x",
            "flag --set limits.connections: limits.connections: \"x\"",
        ),
        ("limits=5", "is a section"),
        ("=5", "unknown key"),
        (
            "devices.a.enabled=perhaps",
            "devices.a.enabled: \"perhaps\" is not true or false",
        ),
    ] {
        let said = complaint(read_with("", &flags(&[set])));
        assert!(
            said.contains(wanted),
            "for --set {set} expected {wanted:?} in:\n{said}"
        );
    }
}

#[test]
fn several_mistakes_are_reported_in_one_go() {
    let text = "stat_dir = \"/x\"\n\
        [limits]\nin_flight = \"x\"\nconections = 1\nhandshake_timeout = \"5 minuts\"\n\
        [upstreams.c]\ntype = \"http\"\nurl = 5\ntimeout = \"soon\"\n";
    let error = read_with(text, &variables(&[("TIDEGATE_API__BODY_BYTES", "huge")]))
        .expect_err("seven mistakes");
    let mut keys: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "api.body_bytes",
            "limits.conections",
            "limits.handshake_timeout",
            "limits.in_flight",
            "stat_dir",
            "upstreams.c.timeout",
            "upstreams.c.url",
        ]
    );
}

#[test]
fn later_sources_go_first() {
    let text = "state_dir = \"/file\"\n[limits]\nconnections = 1\nin_flight = 1\nhandshakes = 1\n";
    let mut sources = variables(&[
        ("TIDEGATE_LIMITS__IN_FLIGHT", "2"),
        ("TIDEGATE_LIMITS__HANDSHAKES", "2"),
    ]);
    sources.set = vec![
        "limits.handshakes=3".to_owned(),
        "state_dir=/set".to_owned(),
    ];
    sources.state_dir = Some(PathBuf::from("/flag"));
    let (config, places) = read_with(text, &sources).expect("fine");
    assert_eq!(config.limits.subscriptions, 64, "default");
    assert_eq!(config.limits.connections, 1, "file");
    assert_eq!(config.limits.in_flight, 2, "environment over file");
    assert_eq!(config.limits.handshakes, 3, "flag over environment");
    assert_eq!(
        config.state_dir,
        PathBuf::from("/flag"),
        "its own flag over all"
    );
    assert_eq!(
        places.of_key("limits.connections").to_string(),
        "gw.toml:3:15"
    );
    assert_eq!(
        places.of_key("limits.in_flight").to_string(),
        "environment variable TIDEGATE_LIMITS__IN_FLIGHT"
    );
    assert_eq!(
        places.of_key("limits.subscriptions"),
        places.of_key("limits")
    );
    assert_eq!(places.of_key("api.address"), Place::Default);
}

#[test]
fn variables_mean_what_their_key_holds() {
    let (config, _) = read_with(
        "[devices.Sensor-1]\nenabled = true\n",
        &variables(&[
            ("TIDEGATE_LISTENERS__DEVICES__ADDRESS", "127.0.0.1:18883"),
            ("TIDEGATE_LISTENERS__LEGACY__ADDRESS", "[::1]:1883"),
            ("TIDEGATE_LISTENERS__LEGACY__MODE", "plain"),
            ("TIDEGATE_API__ADDRESS", "off"),
            ("TIDEGATE_PKI__HOSTS", "gw.local, 10.0.0.5,"),
            ("TIDEGATE_DEVICES__SENSOR-1__ENABLED", "no"),
            ("TIDEGATE_DEVICES__SENSOR-1__PUBLISH", "[\"a,b\", \"c/+\"]"),
            ("TIDEGATE_DEVICES__LED__GROUPS", "7"),
            ("TIDEGATE_UPSTREAMS__CLOUD__TYPE", "http"),
            ("TIDEGATE_UPSTREAMS__CLOUD__URL", "http://localhost:8080"),
            ("TIDEGATE_UPSTREAMS__CLOUD__WORKERS", "4"),
            ("TIDEGATE_STORAGE__DISK_BUDGET", "10 GiB"),
            ("TIDEGATE_LIMITS__PACKET_BYTES", "65536"),
            ("TIDEGATE_LIMITS__CONNECTIONS", "1_000"),
            ("TIDEGATE_VERIFICATION__REQUIRE_V2", "TRUE"),
            ("TIDEGATE_STORAGE__MAX_AGE", "7d"),
            ("TIDEGATE_CONFIG", "/nonexistent"),
            ("TIDEGATE_LOG", "debug"),
            ("OTHER", "x"),
        ]),
    )
    .expect("fine");
    assert_eq!(
        config.listeners["devices"].address.to_string(),
        "127.0.0.1:18883"
    );
    assert_eq!(config.listeners["legacy"].mode, ListenerMode::Plain);
    assert_eq!(config.api.address, None);
    assert_eq!(config.pki.hosts, ["gw.local", "10.0.0.5"]);
    assert!(!config.devices["Sensor-1"].enabled);
    assert_eq!(config.devices["Sensor-1"].publish, ["a,b", "c/+"]);
    assert_eq!(config.devices["led"].groups, ["7"]);
    let Upstream::Http(cloud) = &config.upstreams["cloud"];
    assert_eq!(
        (cloud.url.as_str(), cloud.workers),
        ("http://localhost:8080", 4)
    );
    assert_eq!(config.storage.disk_budget, ByteSize::gib(10));
    assert_eq!(config.limits.packet_bytes, ByteSize::b(65536));
    assert_eq!(config.limits.connections, 1000);
    assert!(config.verification.require_v2);
    assert_eq!(
        config.storage.max_age,
        Some(Duration::from_secs(7 * 24 * 3600))
    );
}

#[test]
fn an_empty_variable_unsets_what_can_be_unset() {
    let text = "master_key_file = \"/x\"\n[storage]\nmax_age = \"1d\"\n";
    let (config, _) = read_with(
        text,
        &variables(&[
            ("TIDEGATE_MASTER_KEY_FILE", ""),
            ("TIDEGATE_STORAGE__MAX_AGE", ""),
        ]),
    )
    .expect("fine");
    assert_eq!(
        (config.master_key_file, config.storage.max_age),
        (None, None)
    );
}

#[test]
fn the_default_listener_stays_unless_others_are_named() {
    let names = |text: &str| -> Vec<String> {
        read(text)
            .expect("fine")
            .listeners
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(names(""), ["devices"]);
    assert_eq!(names("[listeners.x]\naddress = \"0.0.0.0:1\""), ["x"]);
    let config = read("[listeners.devices]\nmode = \"server_tls\"").expect("fine");
    assert_eq!(
        config.listeners["devices"].address.to_string(),
        "0.0.0.0:8883"
    );
    assert_eq!(config.listeners["devices"].mode, ListenerMode::ServerTls);
}

#[test]
fn a_whole_configuration_is_read() {
    let config = read(
        r#"
        state_dir = "/srv/tidegate"
        [log]
        level = "info,tidegate::front=debug"
        format = "json"
        [api]
        address = "off"
        [verification]
        freshness = "2m 30s"
        [upstreams.backend]
        type = "http"
        url = "https://backend.example/ingest"
        retry_max = "5m"
        [devices.sensor_001]
        [devices.led]
        signing = "none"
        publish = ["sensors/led/state"]
        telemetry = ["sensors/led/state"]
        command_topic = "sensors/led/set"
        "#,
    )
    .expect("fine");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.verification.freshness, Duration::from_secs(150));
    assert_eq!(config.devices["led"].signing, Signing::None);
    assert!(config.devices["sensor_001"].enabled);
    let Upstream::Http(backend) = &config.upstreams["backend"];
    assert_eq!(backend.retry_max, Duration::from_secs(300));
    assert_eq!(backend.timeout, Duration::from_secs(30), "default");
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = "[api]\naddress = \"off\"\n[storage]\nmax_age = \"90s\"\ndisk_budget = \"20 GiB\"\n\
        [limits]\nqueued_bytes = 1048577\n[upstreams.b]\ntype = \"http\"\nurl = \"http://localhost\"\n[devices.a]\n";
    let first = read(text).expect("fine");
    let shown = toml::to_string(&first).expect("serializes");
    let again = read(&shown).unwrap_or_else(|error| panic!("{error}\nin:\n{shown}"));
    assert_eq!(toml::to_string(&again).expect("serializes"), shown);
    assert_eq!(
        format!("{again:?}"),
        format!("{first:?}"),
        "shown as\n{shown}"
    );
    assert_eq!(again.limits.queued_bytes, ByteSize::b(1_048_577));
    assert_eq!(again.api.address, None);
}

/// Every key refuses a value of a wrong type under its own name. Fails when a new kind of upstream
/// is not looked into.
#[test]
fn every_key_is_named_when_its_type_is_wrong() {
    for key in SCHEMA.keys() {
        let key = key.replace('*', "n");
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        let wrong = match SCHEMA.at(&path) {
            Some(Shape::List) => "5",
            _ => "[[], []]",
        };
        let mut text = format!("{key} = {wrong}\n");
        if key.starts_with("upstreams") && !key.ends_with(".type") {
            text.push_str("upstreams.n.type = \"http\"\n");
        }
        let error = read(&text).expect_err("a wrong type");
        assert!(
            error
                .problems
                .iter()
                .any(|problem| problem.key == key && !problem.remedy.is_empty()),
            "{key} is not named with a remedy:\n{error}\nin:\n{text}"
        );
    }
}

#[test]
fn every_kind_of_upstream_is_in_the_schema() {
    for upstream in schema::upstream_samples() {
        let json = serde_json::to_value(&upstream).expect("serializes");
        for key in json.as_object().expect("a table").keys() {
            let key = format!("upstreams.*.{key}");
            assert!(SCHEMA.keys().contains(&key), "{key}");
        }
    }
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let with = |path: PathBuf| {
        load(&Sources {
            file: Some(path),
            ..Sources::default()
        })
        .expect_err("unreadable")
        .to_string()
    };
    let missing = with(dir.path().join("no.toml"));
    assert!(
        missing.contains("no.toml: there is no such file; name an existing one"),
        "{missing}"
    );
    assert!(with(dir.path().to_owned()).contains("is a folder"));
    let latin = dir.path().join("latin.toml");
    fs::write(&latin, b"# caf\xe9\n").expect("written");
    assert!(with(latin).contains("is not UTF-8 text (byte 5)"));
}

#[test]
fn the_file_is_found_by_flag_then_variable() {
    let both = Sources {
        file: Some("/a".into()),
        ..variables(&[("TIDEGATE_CONFIG", "/b")])
    };
    assert_eq!(both.config_file(), Some("/a".into()));
    assert_eq!(
        variables(&[("TIDEGATE_CONFIG", "/b")]).config_file(),
        Some("/b".into())
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,400}") {
        let _ = read(&text);
    }

    #[test]
    fn no_tokens_panic(tokens in prop::collection::vec(prop::sample::select(vec![
        "[", "]", "[[", "{", "}", "=", "\n", ".", ",", "\"", "'", "\"\"\"", "#", "limits", "devices",
        "upstreams", "type", "http", "listeners", "log", "level", "5", "-1", "1e400", "0x", "true",
        "2024-01-01", "\u{0}", "é", " ", "in_flight", "\\", "nan", "inf", "99999999999999999999999999",
    ]), 0..40)) {
        let _ = read(&tokens.concat());
    }

    #[test]
    fn no_value_anywhere_panics(
        at in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            "1", "-1", "1.5", "true", "\"x\"", "\"\"", "[]", "{}", "{ type = \"http\" }", "[[1]]",
            "9223372036854775807", "2020-01-01", "\"99999999999999999999s\"", "\"99999 EiB\"", "nan",
        ]),
    ) {
        let keys = SCHEMA.keys();
        let key = at.get(&keys).replace('*', "n");
        if let Err(error) = read(&format!("{key} = {value}")) {
            for problem in &error.problems {
                prop_assert!(!problem.remedy.is_empty(), "{problem}");
            }
        }
    }

    #[test]
    fn no_variable_panics(name in "TIDEGATE_[A-Z_]{0,30}", value in ".{0,40}") {
        let _ = read_with("", &variables(&[(&name, &value)]));
    }

    #[test]
    fn no_flag_panics(set in ".{0,60}") {
        let _ = read_with("", &flags(&[&set]));
    }
}

#[test]
fn a_problem_is_one_line_whatever_was_written() {
    let sources = Sources {
        environment: vec![("TIDEGATE_\u{1b}[2J".to_owned(), "1".to_owned())],
        set: vec![
            "a\nb=1".to_owned(),
            "log.level=\u{8}\nx".to_owned(),
            "\r".to_owned(),
        ],
        ..Sources::default()
    };
    let error = parse("\"a\\nb\" = 1", Path::new("gw\n.toml"), &sources).expect_err("wrong");
    assert!(error.problems.len() >= 3, "{error}");
    for problem in &error.problems {
        let line = problem.to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn a_key_of_very_many_parts_is_refused_like_any_other() {
    let sources = Sources {
        set: vec![format!("{}=1", ["a"; 100_000].join("."))],
        ..Sources::default()
    };
    let error = parse("", Path::new("gw.toml"), &sources).expect_err("wrong");
    assert!(error.to_string().contains("there is no such setting"));
}

#[test]
fn a_very_long_unknown_key_is_compared_with_nothing() {
    let text = format!("{} = 1", "a".repeat(1 << 20));
    let error = parse(&text, Path::new("gw.toml"), &Sources::default()).expect_err("wrong");
    assert!(error.to_string().contains("unknown key"));
}
