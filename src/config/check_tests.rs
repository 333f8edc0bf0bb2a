use std::path::Path;

use super::*;
use crate::config::{Severity, Sources, load};

/// Findings for a TOML text, without the two that every short text here would get.
fn findings(text: &str) -> Vec<Finding> {
    let (config, _) = load::parse(text, Path::new("gw.toml"), &Sources::default())
        .unwrap_or_else(|error| panic!("{error}\nin:\n{text}"));
    check(&config)
}

fn said(text: &str) -> String {
    findings(text)
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

const UPSTREAM: &str = "[upstreams.c]\ntype = \"http\"\n";

/// Text and what must be said: severity, key, message and remedy.
const WRONG: &[(&str, &[&str])] = &[
    (
        "state_dir = \"var/lib\"",
        &["error: state_dir: var/lib is not an absolute path; write the"],
    ),
    (
        "state_dir = \"/nix/store/x\"",
        &["error: state_dir: /nix/store/x lies in the Nix store"],
    ),
    (
        "master_key_file = \"/nix/store/k\"",
        &["error: master_key_file: ", "sops-nix"],
    ),
    ("pki.dir = \"/nix/store/k\"", &["error: pki.dir: "]),
    (
        "log.level = \"inof\"",
        &[
            "error: log.level: \"inof\" is no log level",
            "mean \"info\"?",
        ],
    ),
    (
        "log.level = \"loud\"",
        &["error: log.level: \"loud\"", "error, warn, info"],
    ),
    (
        "log.level = \"info,tidegate::front=lots\"",
        &["error: log.level: ", "is no filter"],
    ),
    (
        "pki.hosts = [\"https://gw\"]",
        &["error: pki.hosts: \"https://gw\"", "without scheme"],
    ),
    ("pki.hosts = [\"\"]", &["error: pki.hosts: \"\""]),
    (
        "[listeners.a]\naddress = \"0.0.0.0:1883\"\n[listeners.b]\naddress = \"0.0.0.0:1883\"",
        &["error: listeners.b.address: 0.0.0.0:1883 is already taken by listeners.a.address"],
    ),
    (
        "[listeners.a]\naddress = \"[::]:8443\"",
        &["error: api.address: 0.0.0.0:8443 is already taken by listeners.a.address = [::]:8443"],
    ),
    (
        "[listeners.a]\naddress = \"127.0.0.1:1883\"\n[listeners.b]\naddress = \"0.0.0.0:1883\"",
        &["error: listeners.b.address", "give each its own port"],
    ),
    (
        "[listeners.a]\naddress = \"0.0.0.0:883\"",
        &[
            "warning: listeners.a.address: port 883 needs a privilege",
            "CAP_NET_BIND_SERVICE",
        ],
    ),
    (
        "[listeners.a]\naddress = \"0.0.0.0:0\"",
        &["warning: listeners.a.address: port 0"],
    ),
    (
        "[listeners.a]\naddress = \"0.0.0.0:1883\"\nmode = \"plain\"",
        &["warning: listeners.a.mode: passwords and messages cross the network in the clear"],
    ),
    (
        "[listeners.devices]\nmax_fragment_bytes = 100",
        &[
            "error: listeners.devices.max_fragment_bytes: 100",
            "512 to 16384",
        ],
    ),
    (
        "[listeners.\"a b\"]\naddress = \"0.0.0.0:1\"",
        &["error: listeners.a b: \"a b\" is not a name"],
    ),
    (
        "api.requests_per_second = 0",
        &["error: api.requests_per_second: 0", "at least 1"],
    ),
    ("api.body_bytes = 0", &["error: api.body_bytes: 0"]),
    (
        "updates.release_keys = [\"abc\"]",
        &[
            "error: updates.release_keys: \"abc\" is no release key",
            "firmware keygen",
        ],
    ),
    (
        // A point of small order: everybody could sign with it.
        "updates.release_keys = [\"0100000000000000000000000000000000000000000000000000000000000000\"]",
        &["error: updates.release_keys:", "is no release key"],
    ),
    (
        "updates.release_keys = [\"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\", \"D75A980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"]",
        &["error: updates.release_keys: the same key is there twice"],
    ),
    (
        "updates.release_keys = [\"a\", \"b\", \"c\"]",
        &["error: updates.release_keys: 3 keys are more than devices hold"],
    ),
    (
        "updates.release_keys = [\"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"]\nupdates.address = \"0.0.0.0:8883\"",
        &["error: updates.address: 0.0.0.0:8883 is already taken by listeners"],
    ),
    (
        "updates.release_keys = [\"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"]\nupdates.address = \"off\"",
        &["warning: updates.address: updates are served to nobody"],
    ),
    (
        "updates.socket = \"run/x\"",
        &["error: updates.socket: run/x is not an absolute path"],
    ),
    (
        "updates.releases_dir = \"/nix/store/x\"",
        &["error: updates.releases_dir:", "Nix store"],
    ),
    ("updates.keep = 0", &["error: updates.keep: 0"]),
    (
        "updates.stall_timeout = \"0s\"",
        &["error: updates.stall_timeout"],
    ),
    (
        "api.body_bytes = \"1 MiB\"",
        &["error: api.body_bytes: a command of 1.0 MiB", "128.0 KiB"],
    ),
    (
        "limits.connections = 0",
        &["error: limits.connections: 0 would let nothing through"],
    ),
    (
        "limits.connections_per_address = 0",
        &["error: limits.connections_per_address: 0"],
    ),
    (
        "limits.connections = 10",
        &["warning: limits.connections_per_address: 4000 is more"],
    ),
    ("limits.handshakes = 0", &["error: limits.handshakes: 0"]),
    (
        "limits.messages_per_second = 0",
        &["error: limits.messages_per_second: 0"],
    ),
    (
        "limits.message_burst = 0",
        &["error: limits.message_burst: 0"],
    ),
    ("limits.in_flight = 0", &["error: limits.in_flight: 0"]),
    (
        "limits.subscriptions = 0",
        &["error: limits.subscriptions: 0"],
    ),
    (
        "limits.queued_messages = 0",
        &["error: limits.queued_messages: 0"],
    ),
    (
        "limits.sessions_per_identity = 0",
        &["error: limits.sessions_per_identity: 0"],
    ),
    (
        "limits.retained_messages = 0",
        &["error: limits.retained_messages: 0"],
    ),
    (
        "limits.topics_per_identity = 0",
        &["error: limits.topics_per_identity: 0"],
    ),
    (
        "limits.handshake_timeout = \"0s\"",
        &["error: limits.handshake_timeout: must be longer"],
    ),
    (
        "limits.connect_timeout = \"1h\"",
        &["error: limits.connect_timeout: 1h lets strangers"],
    ),
    (
        "limits.session_expiry = \"0s\"",
        &["error: limits.session_expiry: must be longer"],
    ),
    (
        "limits.session_expiry = \"200years\"",
        &["error: limits.session_expiry: is longer than"],
    ),
    (
        "limits.packet_bytes = \"1 GiB\"",
        &["error: limits.packet_bytes: 1.0 GiB", "16 MiB"],
    ),
    (
        "verification.message_bytes = \"1 MiB\"",
        &["error: verification.message_bytes: 1.0 MiB is more than limits.packet_bytes"],
    ),
    (
        "verification.message_bytes = 100",
        &["error: verification.message_bytes: 100 B holds no"],
    ),
    (
        "limits.queued_bytes = 10",
        &["error: limits.queued_bytes: 10 B cannot hold one packet"],
    ),
    (
        "verification.freshness = \"500ms\"",
        &["error: verification.freshness: 500ms", "1s to 1h"],
    ),
    (
        "verification.freshness = \"2h\"",
        &["error: verification.freshness: 2h", "\"5m\""],
    ),
    (
        "storage.disk_budget = \"1 MiB\"",
        &["error: storage.disk_budget: 1.0 MiB", "16 MiB"],
    ),
    (
        "storage.max_age = \"0s\"",
        &["error: storage.max_age: must be longer"],
    ),
    (
        "storage.commit_delay = \"5s\"",
        &["error: storage.commit_delay: every acknowledgement"],
    ),
    (
        "",
        &[
            "warning: upstreams: there are none",
            "add [upstreams.backend]",
        ],
    ),
    (
        "[devices.\"sensor 1\"]",
        &["error: devices.sensor 1: \"sensor 1\" is no device id"],
    ),
    (
        "[devices.a]\nmessages_per_second = 0",
        &["error: devices.a.messages_per_second: 0"],
    ),
    (
        "[devices.a]\nsecret_file = \"/nix/store/s\"",
        &["error: devices.a.secret_file: ", "Nix"],
    ),
    (
        "[devices.a]\npassword_file = \"/nix/store/s\"",
        &["error: devices.a.password_file: "],
    ),
    (
        "[devices.a]\nsecret_file = \"/s\"\n[devices.b]\nsecret_file = \"/s\"",
        &["warning: devices.b.secret_file: is the same as that of a"],
    ),
    (
        "[devices.a]\nsigning = \"none\"",
        &["error: devices.a.signing: ", "list them in publish"],
    ),
    (
        "[devices.a]\ntelemetry = [\"x\"]\npublish = [\"x\"]",
        &["error: devices.a.telemetry: is only"],
    ),
    (
        "[devices.a]\ncommand_topic = \"x\"",
        &["error: devices.a.command_topic: is only"],
    ),
    (
        "[devices.a]\npublish = [\"a/#/b\"]",
        &["error: devices.a.publish: \"a/#/b\" is no topic"],
    ),
    (
        "[devices.a]\nsubscribe = [\"\"]",
        &["error: devices.a.subscribe: \"\" is no topic filter"],
    ),
    (
        "[devices.a]\npublish = [\"device/b/data\"]",
        &["error: devices.a.publish: ", "contract's own"],
    ),
    (
        "[devices.a]\nsubscribe = [\"$SYS/#\"]",
        &["error: devices.a.subscribe: ", "begins with $"],
    ),
    (
        "[devices.a]\nsubscribe = [\"#\"]",
        &["warning: devices.a.subscribe: \"#\" covers"],
    ),
    (
        "[devices.a]\ngroups = [\"two words\"]",
        &["error: devices.a.groups: \"two words\""],
    ),
    (
        "[devices.a]\nsigning = \"none\"\npublish = [\"x/y\"]\ntelemetry = [\"x/#\"]",
        &["error: devices.a.telemetry: \"x/#\" is not among what the device may publish; add it"],
    ),
    (
        "[devices.a]\nsigning = \"none\"\ncommand_topic = \"gates/+/control\"",
        &["error: devices.a.command_topic: ", "without wildcards"],
    ),
    (
        "[devices.a]\nsigning = \"none\"\npublish = [\"x\"]\nsecret_file = \"/s\"",
        &["warning: devices.a.secret_file: is not used"],
    ),
];

/// The same, below an upstream.
const WRONG_UPSTREAMS: &[(&str, &[&str])] = &[
    ("url = \"backend:8080\"", &["error: upstreams.c.url: "]),
    (
        "url = \"\"",
        &["error: upstreams.c.url: \"\" is not a URL", "https://host"],
    ),
    (
        "url = \"mqtt://x\"",
        &["error: upstreams.c.url: \"mqtt\" is no scheme"],
    ),
    (
        "url = \"/path\"",
        &["error: upstreams.c.url: \"/path\" does not say http"],
    ),
    ("url = \"http://\"", &["error: upstreams.c.url: "]),
    ("url = \"http://x y\"", &["error: upstreams.c.url: "]),
    (
        "url = \"http://localhost/?a=b\"",
        &["error: upstreams.c.url: has a query"],
    ),
    (
        "url = \"http://localhost/#x\"",
        &["error: upstreams.c.url: has a query or fragment"],
    ),
    (
        "url = \"http://backend/\"",
        &["warning: upstreams.c.url: messages cross the network"],
    ),
    (
        "url = \"http://backend/\"\nbearer_token_file = \"/t\"",
        &["warning: upstreams.c.url: messages and the token cross"],
    ),
    (
        "url = \"https://x\"\nclient_certificate_file = \"/c\"",
        &[
            "error: upstreams.c.client_certificate_file: ",
            "add client_key_file",
        ],
    ),
    (
        "url = \"https://x\"\nclient_key_file = \"/k\"",
        &[
            "error: upstreams.c.client_key_file: ",
            "add client_certificate_file",
        ],
    ),
    (
        "url = \"http://localhost\"\nca_file = \"/c\"",
        &["error: upstreams.c.ca_file: is for TLS"],
    ),
    (
        "url = \"https://x\"\nbearer_token_file = \"/nix/store/t\"",
        &["error: upstreams.c.bearer_token_file: ", "Nix store"],
    ),
    (
        "url = \"https://x\"\ntimeout = \"0s\"",
        &["error: upstreams.c.timeout: must be longer"],
    ),
    (
        "url = \"https://x\"\nretry_min = \"0s\"",
        &["error: upstreams.c.retry_min: must be longer"],
    ),
    (
        "url = \"https://x\"\nretry_min = \"5m\"",
        &["error: upstreams.c.retry_min: 5m is longer than retry_max = 1m"],
    ),
    (
        "url = \"https://x\"\nworkers = 0",
        &["error: upstreams.c.workers: 0 requests", "1 to 256"],
    ),
    (
        "url = \"https://x\"\nworkers = 257",
        &["error: upstreams.c.workers: 257"],
    ),
    (
        "url = \"https://x\"\n[upstreams.d]\ntype = \"http\"\nurl = \"https://x\"",
        &["warning: upstreams.d.url: is the same as that of upstreams.c"],
    ),
];

#[test]
fn every_contradiction_is_found() {
    let below = WRONG_UPSTREAMS
        .iter()
        .map(|(text, parts)| (format!("{UPSTREAM}{text}"), parts));
    let all = WRONG
        .iter()
        .map(|(text, parts)| ((*text).to_owned(), parts))
        .chain(below);
    for (text, wanted) in all {
        let said = said(&text);
        for part in *wanted {
            assert!(
                said.contains(part),
                "for:\n{text}\nexpected {part:?} in:\n{said}"
            );
        }
    }
}

#[test]
fn what_the_user_name_in_a_url_holds_is_never_shown() {
    for url in [
        "https://u:hunter2@host/",
        "http://u:hunter2@",
        "u:hunter2@host",
        "x://u:hunter2@h y",
    ] {
        let said = said(&format!("{UPSTREAM}url = \"{url}\""));
        assert!(
            said.contains("error: upstreams.c.url: holds a user name or password"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_defaults_are_fine() {
    let findings = check(&Config::default());
    let errors: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_sound_configuration_is_not_nagged_about() {
    let text = "pki.hosts = [\"gw.local\", \"10.0.0.5\", \"::1\", \"*.gw.local\"]\n\
        log.level = \"warn, tidegate::front=debug\"\n\
        [listeners.devices]\naddress = \"0.0.0.0:8883\"\n\
        [listeners.passwords]\naddress = \"0.0.0.0:8884\"\nmode = \"server_tls\"\n\
        [upstreams.backend]\ntype = \"http\"\nurl = \"https://backend.example:8443/in\"\n\
        [upstreams.local]\ntype = \"http\"\nurl = \"http://[::1]:8080\"\n\
        [devices.sensor_001]\npublish = [\"hall/+/state\"]\n\
        [devices.led]\nsigning = \"none\"\npublish = [\"led/#\"]\ntelemetry = [\"led/state\"]\n\
        command_topic = \"led/set\"\n";
    assert_eq!(said(text), "");
}

#[test]
fn errors_come_first() {
    let findings = findings("[devices.a]\nsubscribe = [\"#\"]\nmessages_per_second = 0\n");
    let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
    assert!(
        severities.is_sorted() && severities.len() >= 3,
        "{findings:?}"
    );
}
