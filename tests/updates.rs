//! A release is signed, published and rolled out; devices are offered it, download it and say how it
//! went; and nobody gets what is not his. The same stories with the gateway's own server and with a
//! real nginx in front of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{fs, time::Duration};

use support::{
    SOON, Setup,
    clients::curl,
    eventually,
    updates::{Fleet, Server, Signed, image, keygen},
};

/// Each story as two tests.
macro_rules! with_both_servers {
    ($($story:ident)*) => {
        mod embedded {
            $(#[test] fn $story() { super::$story(super::Server::Embedded); })*
        }
        mod nginx {
            $(#[test] fn $story() { super::$story(super::Server::Nginx); })*
        }
    };
}

with_both_servers! {
    a_release_reaches_a_device_and_its_way_is_known
    a_download_that_was_cut_goes_on_where_it_was
    nobody_gets_what_is_not_his
    who_is_not_let_in_gets_nothing
    a_release_withdrawn_in_mid_download_is_not_finished
    a_rollout_that_fails_too_often_pauses_by_itself
    what_has_expired_is_offered_to_nobody
    what_happens_with_updates_is_counted
}

const UPDATE: &str = r#"{"event":"update","version":"1.1.0","state":"#;

fn event(state: &str, reason: Option<&str>) -> String {
    let reason = reason
        .map(|reason| format!(",\"reason\":\"{reason}\""))
        .unwrap_or_default();
    format!("{UPDATE}\"{state}\"{reason}}}")
}

fn a_release_reaches_a_device_and_its_way_is_known(server: Server) {
    let fleet = Fleet::start(server, &["sensor_001", "sensor_002"], "");
    let bytes = image(300_000, 1);
    assert_eq!(
        fleet.ask("sensor_001", "1.0.0").status,
        204,
        "there is nothing yet"
    );
    let release = fleet.publish(&bytes, &Signed::default());
    assert_eq!(release, "dashboard/esp32c3/1.1.0");
    assert_eq!(
        fleet.ask("sensor_001", "1.0.0").status,
        204,
        "it is rolled out to nobody"
    );

    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--device", "sensor_001"]);
    let offered = fleet.ask("sensor_001", "1.0.0");
    assert_eq!(offered.status, 200, "{offered:?}");
    assert_eq!(offered.header("content-type"), Some("application/json"));
    // The device gets the manifest byte by byte as it was signed.
    let signed = fs::read(fleet.path("esp32c3-1.1.0.bin.manifest")).unwrap();
    assert_eq!(offered.body, signed);
    let nothing = fleet.ask("sensor_002", "1.0.0");
    assert_eq!(
        (nothing.status, nothing.header("retry-after")),
        (204, Some("3600"))
    );

    let path = offered.image_path();
    let whole = fleet.get("sensor_001", &path, &[]);
    assert_eq!(whole.status, 200, "{}", whole.head);
    assert_eq!(whole.body, bytes);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));

    for (state, shown) in [
        ("offered", 1),
        ("downloading", 1),
        ("installed", 1),
        ("confirmed", 1),
    ] {
        fleet.report("sensor_001", &[&event(state, None)]);
        let list = fleet.gateway.json(&["firmware", "list"]);
        assert_eq!(list["releases"][0]["devices"][state], shown, "{list}");
    }
    assert_eq!(fleet.ask("sensor_001", "1.1.0").status, 204, "it runs it");
    let detail = fleet.gateway.json(&["firmware", "rollout", &release]);
    assert_eq!(detail["progress"][0]["device"], "sensor_001");
    assert_eq!(detail["progress"][0]["state"], "confirmed");
    let device = fleet.gateway.json(&["device", "show", "sensor_001"]);
    assert_eq!(device["firmware"]["version"], "1.1.0", "{device}");
    assert_eq!(device["firmware"]["updates"][0]["state"], "confirmed");
    let told = fleet.gateway.run(&["device", "show", "sensor_001"]);
    assert!(told.contains("dashboard 1.1.0 on esp32c3"), "{told}");
    assert_eq!(fleet.gateway.json(&["firmware", "verify"])["good"], 1);

    // Every step is on the record, and so is what came of it.
    let audit = fleet.audit();
    let actions: Vec<&str> = audit
        .iter()
        .map(|entry| entry[1].as_str())
        .filter(|action| action.starts_with("firmware."))
        .collect();
    assert_eq!(
        actions,
        ["firmware.publish", "firmware.rollout", "firmware.confirmed"]
    );
    let outcome = audit
        .iter()
        .find(|entry| entry[1] == "firmware.confirmed")
        .unwrap();
    assert_eq!(
        (&*outcome[0], &*outcome[2]),
        ("device:sensor_001", &*release)
    );

    // A share of all devices is at least those of every smaller share.
    let wider = fleet
        .gateway
        .json(&["firmware", "rollout", &release, "--percent", "100"]);
    assert_eq!((&wider["included"], &wider["step"]), (&2.into(), &2.into()));
    assert_eq!(fleet.ask("sensor_002", "1.0.0").status, 200);
}

fn a_download_that_was_cut_goes_on_where_it_was(server: Server) {
    let fleet = Fleet::start(server, &["sensor_001"], "bytes_per_second = \"100 MiB\"");
    let bytes = image(200_003, 2);
    let release = fleet.publish(&bytes, &Signed::default());
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    let etag = format!("\"{}\"", path.rsplit('/').next().unwrap());
    let size = bytes.len();

    for tenth in 0..=10 {
        let from = (size * tenth / 10).min(size - 1);
        let range = format!("Range: bytes={from}-");
        let condition = format!("If-Range: {etag}");
        for more in [vec!["-H", &range], vec!["-H", &range, "-H", &condition]] {
            let rest = fleet.get("sensor_001", &path, &more);
            assert_eq!(rest.status, 206, "{from}: {}", rest.head);
            let expected = format!("bytes {from}-{}/{size}", size - 1);
            assert_eq!(rest.header("content-range"), Some(&*expected));
            assert_eq!(rest.header("etag"), Some(&*etag));
            assert!(rest.body == bytes[from..], "the rest from {from}");
        }
    }
    let past = fleet.get(
        "sensor_001",
        &path,
        &["-H", &format!("Range: bytes={size}-")],
    );
    assert_eq!(past.status, 416);
    assert_eq!(
        past.header("content-range"),
        Some(&*format!("bytes */{size}"))
    );
    // What the device has is of another image: it gets the whole of this one.
    let other = format!("If-Range: \"{}\"", "0".repeat(64));
    let whole = fleet.get(
        "sensor_001",
        &path,
        &["-H", "Range: bytes=5-", "-H", &other],
    );
    assert_eq!((whole.status, whole.body.len()), (200, size));
    // Really cut: curl gives up in the middle and goes on later.
    let file = fleet.path("partial");
    fs::write(&file, &bytes[..77_777]).unwrap();
    let rest = fleet.get("sensor_001", &path, &["-H", "Range: bytes=77777-"]);
    let mut joined = fs::read(&file).unwrap();
    joined.extend(rest.body);
    assert!(joined == bytes);
}

fn nobody_gets_what_is_not_his(server: Server) {
    let devices = ["sensor_001", "sensor_002", "pump_001"];
    let fleet = Fleet::start(server, &devices, "");
    let (ours, theirs) = (image(5_000, 3), image(6_000, 4));
    let strict = Signed {
        more: &["--security-version", "2", "--min-version", "1.0.0"],
        ..Signed::default()
    };
    let release = fleet.publish(&ours, &strict);
    let pump = Signed {
        chip: "esp32c6",
        product: "pump",
        ..Signed::default()
    };
    let other = fleet.publish(&theirs, &pump);
    for (name, id) in [(&release, "sensor_001"), (&other, "pump_001")] {
        fleet
            .gateway
            .run(&["firmware", "rollout", name, "--device", id]);
    }
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    let pumps = fleet
        .ask_as("pump_001", "pump", "esp32c6", "1.0.0", 0)
        .image_path();
    assert_eq!(fleet.get("sensor_001", &path, &[]).body, ours);
    assert_eq!(fleet.get("pump_001", &pumps, &[]).body, theirs);

    // Each only his own, whatever he knows; one who is not part of the rollout nothing.
    assert_eq!(fleet.get("sensor_001", &pumps, &[]).status, 404);
    assert_eq!(fleet.get("pump_001", &path, &[]).status, 404);
    assert_eq!(fleet.ask("sensor_002", "1.0.0").status, 204);
    assert_eq!(fleet.get("sensor_002", &path, &[]).status, 404);

    // Other chip, other product, downgrades, too old, and what is no later version.
    for (product, chip, version, security) in [
        ("dashboard", "esp32c6", "1.0.0", 0),
        ("pump", "esp32c3", "1.0.0", 0),
        ("dashboard", "esp32c3", "1.0.0", 3),
        ("dashboard", "esp32c3", "1.1.0", 0),
        ("dashboard", "esp32c3", "1.10.0", 0),
        ("dashboard", "esp32c3", "0.9.9", 0),
    ] {
        let reply = fleet.ask_as("sensor_001", product, chip, version, security);
        assert_eq!(reply.status, 204, "{product} {chip} {version} {security}");
        assert_eq!(
            fleet.get("sensor_001", &path, &[]).status,
            404,
            "nor its image"
        );
    }
    assert_eq!(fleet.ask("sensor_001", "1.0.0").status, 200);

    // What makes no sense.
    for query in [
        "",
        "?product=dashboard&chip=esp32c3&version=1.0.0",
        "?product=dashboard&chip=esp32c3&version=1.0&security_version=0",
        "?product=dash%20board&chip=esp32c3&version=1.0.0&security_version=0",
        "?product=dashboard&chip=esp32c3&version=1.0.0&security_version=-1",
        "?product=a&product=b&chip=esp32c3&version=1.0.0&security_version=0",
    ] {
        let reply = fleet.get("sensor_001", &format!("/v1/update{query}"), &[]);
        assert_eq!(reply.status, 400, "{query}");
    }
    let name = path.rsplit('/').next().unwrap();
    for odd in [
        "/".to_owned(),
        format!("/_images/{name}"),
        format!("/v1/image/../../_images/{name}"),
        format!("/v1/image/{}", name.to_uppercase()),
        "/v1/image/..%2f..%2fetc%2fpasswd".to_owned(),
        format!("/v1/image/{}", "0".repeat(64)),
    ] {
        assert_eq!(fleet.get("sensor_001", &odd, &[]).status, 404, "{odd}");
    }
    let posted = fleet
        .get("sensor_001", &path, &["-X", "POST", "-d", "x"])
        .status;
    assert!(matches!(posted, 403 | 405), "{posted}");
}

fn who_is_not_let_in_gets_nothing(server: Server) {
    let devices = ["sensor_001", "sensor_002", "sensor_003", "sensor_004"];
    let fleet = Fleet::start(server, &devices, "");
    let release = fleet.publish(&image(5_000, 5), &Signed::default());
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    let let_in = |id: &str| fleet.ask(id, "1.0.0").status;
    for id in devices {
        assert_eq!(let_in(id), 200, "{id}");
    }
    // TLS says no, or 403 does: there is no third way.
    let kept_out = |reply: &support::updates::Reply, who: &str| {
        assert!(
            reply.status == 403 || reply.status == 400 || (reply.status == 0 && reply.curl != 0),
            "{who}: {reply:?}"
        );
        assert!(!reply.text().contains("signatures"), "{who}");
    };

    // Nobody in particular, and somebody of another authority.
    let bare = fleet.path("bare");
    fs::create_dir(&bare).unwrap();
    let ours = fleet.gateway.bundle("sensor_001");
    fs::copy(ours.join("ca.crt"), bare.join("ca.crt")).unwrap();
    kept_out(&fleet.get_with(&bare, &path, &[]), "nobody");
    let elsewhere = Setup::new();
    for arguments in [
        vec!["pki", "init"],
        vec!["pki", "issue", "device", "sensor_001", "--out"],
    ] {
        let folder = elsewhere.path("foreign");
        let mut arguments = arguments;
        if arguments.last() == Some(&"--out") {
            arguments.push(folder.to_str().unwrap());
        }
        let done = elsewhere.tidegate(&arguments);
        assert!(done.status.success(), "{done:?}");
    }
    let foreign = elsewhere.path("foreign");
    // A device that trusts that other authority does not talk to this gateway at all,
    let theirs = fleet.get_with(&foreign, &path, &[]);
    assert_eq!(
        (theirs.status, theirs.curl),
        (0, 60),
        "curl: the certificate is not trusted"
    );
    // and if it did, the gateway would not talk to it.
    fs::copy(ours.join("ca.crt"), foreign.join("ca.crt")).unwrap();
    kept_out(&fleet.get_with(&foreign, &path, &[]), "foreign");

    // An operator has a certificate of ours, and no firmware.
    let operator = fleet.path("operator");
    let folder = operator.to_str().unwrap();
    fleet
        .gateway
        .run(&["pki", "issue", "operator", "alice", "--out", folder]);
    fs::rename(operator.join("alice.crt"), operator.join("device.crt")).unwrap();
    fs::rename(operator.join("alice.key"), operator.join("device.key")).unwrap();
    kept_out(&fleet.get_with(&operator, &path, &[]), "operator");

    // A header that says who one is says nothing to the gateway, nor gets through nginx.
    let victim = fs::read_to_string(ours.join("device.crt"))
        .unwrap()
        .replace('\n', "%0A");
    let claim = format!("X-Client-Cert: {}", victim.replace(' ', "%20"));
    kept_out(
        &fleet.get_with(&operator, &path, &["-H", &claim]),
        "operator with a claim",
    );

    // Revoked: at once, without nginx knowing of it yet, and after.
    fleet.gateway.run(&["pki", "revoke", "sensor_002"]);
    eventually("the revoked device to be refused", SOON, || {
        (fleet.ask("sensor_002", "1.0.0").status != 200).then_some(())
    });
    kept_out(&fleet.ask("sensor_002", "1.0.0"), "revoked");
    kept_out(&fleet.get("sensor_002", &path, &[]), "revoked");
    fleet.reload_nginx();
    eventually("the others to be served after the reload", SOON, || {
        (let_in("sensor_001") == 200).then_some(())
    });
    kept_out(
        &fleet.get("sensor_002", &path, &[]),
        "revoked, after the reload",
    );

    // Disabled, and removed.
    fleet
        .gateway
        .run(&["device", "disable", "sensor_003", "--reason", "stolen"]);
    let disabled = fleet.ask("sensor_003", "1.0.0");
    assert_eq!(disabled.status, 403, "{disabled:?}");
    assert_eq!(fleet.get("sensor_003", &path, &[]).status, 403);
    fleet.gateway.run(&["device", "enable", "sensor_003"]);
    assert_eq!(let_in("sensor_003"), 200);
    assert_eq!(let_in("sensor_004"), 200, "the others are served as before");
}

fn a_release_withdrawn_in_mid_download_is_not_finished(server: Server) {
    let fleet = Fleet::start(server, &["sensor_001"], "bytes_per_second = \"20 KiB\"");
    let bytes = image(400_000, 6);
    let release = fleet.publish(&bytes, &Signed::default());
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    let file = fleet.path("download");
    let mut download = fleet.begin_download("sensor_001", &path, &file);
    let there = || fs::metadata(&file).map_or(0, |file| file.len());
    eventually("the download to begin", SOON, || {
        (there() > 0).then_some(())
    });
    fleet
        .gateway
        .run(&["firmware", "withdraw", &release, "--reason", "it burns"]);
    match server {
        // Cut off: fewer bytes than announced, which curl notices.
        Server::Embedded => {
            assert!(!download.wait().unwrap().success());
            assert!(there() < bytes.len() as u64);
        }
        // nginx has the file open and would send it to its end; the device's link breaks.
        Server::Nginx => {
            download.kill().unwrap();
            download.wait().unwrap();
        }
    }
    assert!(bytes.starts_with(&fs::read(&file).unwrap()));
    let rest = fleet.get("sensor_001", &path, &["-H", "Range: bytes=100-"]);
    assert_eq!(rest.status, 404);
    assert_eq!(fleet.ask("sensor_001", "1.0.0").status, 204);
    let shown = fleet.gateway.json(&["firmware", "rollout", &release]);
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&"withdrawn".into(), &"it burns".into())
    );
    // Withdrawn is for good, its name included.
    let again = fleet
        .gateway
        .setup
        .tidegate(&["firmware", "rollout", &release, "--percent", "5"]);
    assert_eq!(again.status.code(), Some(1));
    let list = fleet.gateway.json(&["firmware", "list"]);
    assert_eq!(list["disk_bytes"], 0, "its image is gone");
    let (code, said) = fleet.refused(&fleet.path("esp32c3-1.1.0.bin"));
    assert_eq!(code, 1);
    assert!(said.contains("is there already"), "{said}");
}

fn a_rollout_that_fails_too_often_pauses_by_itself(server: Server) {
    let devices = ["sensor_001", "sensor_002", "sensor_003", "sensor_004"];
    let fleet = Fleet::start(server, &devices, "");
    let release = fleet.publish(&image(5_000, 7), &Signed::default());
    let step = [
        "firmware",
        "rollout",
        &release,
        "--percent",
        "100",
        "--max-failure-percent",
        "50",
    ];
    fleet.gateway.run(&step);
    for id in devices {
        assert_eq!(fleet.ask(id, "1.0.0").status, 200, "{id}");
    }
    fleet.report("sensor_001", &[&event("confirmed", None)]);
    fleet.report("sensor_002", &[&event("failed", Some("digest"))]);
    // One of two, but one failure is not enough to judge by.
    assert_eq!(fleet.ask("sensor_003", "1.0.0").status, 200);
    // Saying it again does not make it more.
    fleet.report("sensor_002", &[&event("failed", Some("digest"))]);
    assert_eq!(fleet.ask("sensor_003", "1.0.0").status, 200);
    fleet.report("sensor_003", &[&event("rolled_back", Some("crashed"))]);
    assert_eq!(
        fleet.ask("sensor_004", "1.0.0").status,
        204,
        "2 of 3 failed"
    );
    let shown = fleet.gateway.json(&["firmware", "rollout", &release]);
    assert_eq!(shown["rollout"]["paused"], true, "{shown}");
    let audit = fleet.audit();
    let paused = audit
        .iter()
        .find(|entry| entry[1] == "firmware.pause")
        .unwrap();
    assert_eq!(paused[0], "gateway");
    assert!(paused[3].contains("2 of 3 devices failed"), "{paused:?}");

    // An operator lets it go on: the others are offered it, the one that rolled back is not.
    fleet.gateway.run(&["firmware", "resume", &release]);
    assert_eq!(fleet.ask("sensor_004", "1.0.0").status, 200);
    assert_eq!(fleet.ask("sensor_003", "1.0.0").status, 204);
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--again"]);
    assert_eq!(fleet.ask("sensor_003", "1.0.0").status, 200);
    fleet.gateway.run(&["firmware", "pause", &release]);
    assert_eq!(fleet.ask("sensor_004", "1.0.0").status, 204);
    let actions: Vec<String> = fleet
        .audit()
        .into_iter()
        .map(|entry| entry[1].clone())
        .collect();
    for action in ["firmware.failed", "firmware.rolled_back", "firmware.resume"] {
        assert!(
            actions.iter().any(|had| had == action),
            "{action}: {actions:?}"
        );
    }
}

/// The numbers on the gateway's metrics page.
struct Counted<'f> {
    fleet: &'f Fleet,
    token: String,
}

impl<'f> Counted<'f> {
    fn new(fleet: &'f Fleet) -> Self {
        let made = fleet
            .gateway
            .json(&["key", "create", "prometheus", "--scope", "metrics:read"]);
        let token = made["token"].as_str().unwrap().to_owned();
        Self { fleet, token }
    }

    /// The sample written exactly so; `None` if the page does not have it.
    fn find(&self, sample: &str) -> Option<u64> {
        let bearer = format!("Authorization: Bearer {}", self.token);
        let url = self.fleet.gateway.api_url("/metrics");
        let (status, page) = curl(&self.fleet.gateway, &["-H", &bearer, &url]);
        assert_eq!(status, 200, "{page}");
        page.lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
            .map(|value| value.parse().unwrap())
    }

    fn all(&self, expected: &[(&str, u64)]) {
        for (sample, value) in expected {
            assert_eq!(self.find(sample), Some(*value), "{sample}");
        }
    }
}

fn what_happens_with_updates_is_counted(server: Server) {
    let devices = ["sensor_001", "sensor_002", "sensor_003"];
    let fleet = Fleet::start(server, &devices, "disk_budget = \"1 MB\"");
    let counted = Counted::new(&fleet);
    let (served_by, other) = match server {
        Server::Embedded => ("gateway", "nginx"),
        Server::Nginx => ("nginx", "gateway"),
    };
    let downloads = |by| format!("tidegate_update_downloads_total{{server=\"{by}\"}}");
    let (ours, theirs) = (downloads(served_by), downloads(other));
    // Everything that can be counted is there before there is anything to count.
    counted.all(&[
        ("tidegate_releases{state=\"published\"}", 0),
        ("tidegate_rollouts{state=\"running\"}", 0),
        ("tidegate_rollouts{state=\"paused\"}", 0),
        ("tidegate_update_questions_total{answer=\"offered\"}", 0),
        (&ours, 0),
        ("tidegate_update_sent_bytes_total", 0),
        ("tidegate_release_disk_bytes", 0),
        ("tidegate_release_disk_budget_bytes", 1_000_000),
    ]);
    for request in ["question", "download"] {
        for reason in [
            "forbidden",
            "bad_query",
            "not_found",
            "bad_range",
            "too_many",
            "unavailable",
        ] {
            let sample = format!(
                "tidegate_update_refused_total{{request=\"{request}\",reason=\"{reason}\"}}"
            );
            counted.all(&[(&sample, 0)]);
        }
    }

    let bytes = image(50_000, 11);
    let release = fleet.publish(&bytes, &Signed::default());
    let of = |family: &str| format!("{family}{{release=\"{release}\"}}");
    assert_eq!(counted.find(&of("tidegate_rollout_paused")), None);
    fleet.ask("sensor_001", "1.0.0");
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    assert_eq!(fleet.get("sensor_001", &path, &[]).body, bytes);
    let rest = fleet.get("sensor_001", &path, &["-H", "Range: bytes=40000-"]);
    assert_eq!(rest.body, bytes[40_000..]);
    fleet.get("sensor_001", &path, &["-H", "Range: bytes=50000-"]);
    fleet.get("sensor_001", "/v1/update?version=1", &[]);
    // It never asked, so it is offered nothing and may download nothing.
    assert_eq!(fleet.get("sensor_002", &path, &[]).status, 404);
    fleet
        .gateway
        .run(&["device", "disable", "sensor_003", "--reason", "lost"]);
    assert_eq!(fleet.ask("sensor_003", "1.0.0").status, 403);
    counted.all(&[
        ("tidegate_releases{state=\"published\"}", 1),
        ("tidegate_rollouts{state=\"running\"}", 1),
        (&of("tidegate_rollout_paused"), 0),
        (&of("tidegate_rollout_percent"), 100),
        (&of("tidegate_rollout_step"), 1),
        ("tidegate_release_disk_bytes", 50_000),
        ("tidegate_update_questions_total{answer=\"offered\"}", 1),
        ("tidegate_update_questions_total{answer=\"nothing\"}", 1),
        (
            "tidegate_update_refused_total{request=\"question\",reason=\"bad_query\"}",
            1,
        ),
        (
            "tidegate_update_refused_total{request=\"question\",reason=\"forbidden\"}",
            1,
        ),
        (
            "tidegate_update_refused_total{request=\"download\",reason=\"not_found\"}",
            1,
        ),
        (&theirs, 0),
    ]);
    match server {
        Server::Embedded => counted.all(&[
            (&ours, 2),
            ("tidegate_update_downloads_completed_total", 2),
            ("tidegate_update_sent_bytes_total", 60_000),
            (
                "tidegate_update_refused_total{request=\"download\",reason=\"bad_range\"}",
                1,
            ),
        ]),
        // The gateway lets each through; ranges and bytes are nginx's.
        Server::Nginx => counted.all(&[(&ours, 3), ("tidegate_update_sent_bytes_total", 0)]),
    }

    let at =
        |state: &str| format!("tidegate_update_devices{{release=\"{release}\",state=\"{state}\"}}");
    let states = [
        "offered",
        "downloading",
        "installed",
        "confirmed",
        "failed",
        "rolled_back",
    ];
    for state in states {
        fleet.report("sensor_001", &[&event(state, None)]);
        for other in states {
            let expected = u64::from(other == state);
            assert_eq!(counted.find(&at(other)), Some(expected), "{other}: {state}");
        }
    }
    // What a device says of an update counts once it has said what it runs.
    assert_eq!(fleet.ask("sensor_002", "1.0.0").status, 200);
    fleet.report("sensor_002", &[&event("failed", Some("digest"))]);
    counted.all(&[
        (&at("failed"), 1),
        (&at("rolled_back"), 1),
        // Two of two failed.
        ("tidegate_rollouts{state=\"paused\"}", 1),
        ("tidegate_rollouts{state=\"running\"}", 0),
        (&of("tidegate_rollout_paused"), 1),
    ]);
    fleet
        .gateway
        .run(&["firmware", "withdraw", &release, "--reason", "it burns"]);
    counted.all(&[
        ("tidegate_releases{state=\"published\"}", 0),
        ("tidegate_releases{state=\"withdrawn\"}", 1),
        ("tidegate_rollouts{state=\"paused\"}", 0),
        ("tidegate_release_disk_bytes", 0),
    ]);
    // What is over is not listed for ever.
    assert_eq!(counted.find(&at("failed")), None);
}

fn what_has_expired_is_offered_to_nobody(server: Server) {
    let fleet = Fleet::start(server, &["sensor_001"], "");
    let short = Signed {
        more: &["--valid", "20s"],
        ..Signed::default()
    };
    let release = fleet.publish(&image(5_000, 13), &short);
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let path = fleet.ask("sensor_001", "1.0.0").image_path();
    eventually("the release to expire", Duration::from_secs(60), || {
        (fleet.ask("sensor_001", "1.0.0").status == 204).then_some(())
    });
    assert_eq!(
        fleet.get("sensor_001", &path, &[]).status,
        404,
        "nor is its image"
    );
    let checked = fleet.gateway.setup.tidegate(&["firmware", "verify"]);
    assert_eq!(checked.status.code(), Some(65), "{checked:?}");
}

#[test]
fn what_does_not_verify_is_not_published() {
    let setup = Setup::new().device("sensor_001");
    let (stranger, _) = keygen(&setup, "stranger.key");
    let fleet = Fleet::with(
        setup,
        Server::Embedded,
        "disk_budget = \"100 kB\"\nkeep = 2",
    );
    let bytes = image(40_000, 8);
    let nothing_there = || {
        let list = fleet.gateway.json(&["firmware", "list"]);
        assert_eq!(list["releases"].as_array().unwrap().len(), 0, "{list}");
        let folder = fleet.gateway.setup.state_dir().join("releases");
        let left = fs::read_dir(folder).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing is left of it");
    };
    let path = fleet.sign(&bytes, &Signed::default());
    let manifest = path.with_extension("bin.manifest");
    let good = fs::read_to_string(&manifest).unwrap();

    // A manifest that was changed, cut, or signed by somebody else.
    for (text, word) in [
        (
            good.replace("\"security_version\":0", "\"security_version\":9"),
            "bad_signature",
        ),
        (good.replace("1.1.0", "1.1.1"), "bad_signature"),
        (good[..good.len() / 2].to_owned(), "malformed"),
        (format!("{good}{good}"), "malformed"),
        (String::new(), "malformed"),
    ] {
        fs::write(&manifest, text).unwrap();
        let (code, said) = fleet.refused(&path);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(word), "{said}");
        nothing_there();
    }
    fs::remove_file(&manifest).unwrap();
    let key = stranger.to_str().unwrap();
    let sign = [
        "firmware",
        "sign",
        path.to_str().unwrap(),
        "--product",
        "dashboard",
    ];
    let sign = [
        &sign[..],
        &["--chip", "esp32c3", "--release", "1.1.0", "--key", key],
    ]
    .concat();
    fleet.gateway.run(&sign);
    let (code, said) = fleet.refused(&path);
    assert!(
        code == 1 && said.contains("unknown_key"),
        "a retired or foreign key: {said}"
    );
    nothing_there();

    // An image that is not what was signed.
    fs::write(&manifest, &good).unwrap();
    let mut flipped = bytes.clone();
    flipped[20_000] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    for (image, word) in [
        (&flipped[..], "SHA-256"),
        (&bytes[..39_999], "bytes and the manifest says"),
        (&longer[..], "bytes and the manifest says"),
        (b"", "bytes and the manifest says"),
    ] {
        fs::write(&path, image).unwrap();
        let (code, said) = fleet.refused(&path);
        assert!(code == 1 && said.contains(word), "{said}");
        nothing_there();
    }

    // Expired before it is published.
    let late = Signed {
        more: &["--valid", "0s"],
        ..Signed::default()
    };
    let path = fleet.sign(&bytes, &late);
    let (code, said) = fleet.refused(&path);
    assert!(code == 1 && said.contains("expired"), "{said}");
    nothing_there();

    // As it should be: then not twice, and nothing with an older number.
    let release = fleet.publish(&bytes, &Signed::default());
    let (_, said) = fleet.refused(&fleet.path("esp32c3-1.1.0.bin"));
    assert!(said.contains("is there already"), "{said}");
    let older = Signed {
        version: "1.2.0",
        more: &["--sequence", "5"],
        ..Signed::default()
    };
    let (_, said) = fleet.refused(&fleet.sign(&bytes, &older));
    assert!(said.contains("sequence 5 is not above"), "{said}");

    // The disk budget: what nobody is to have makes room, what is rolled out does not.
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "1"]);
    let sequence = |version, number| Signed {
        version,
        more: number,
        ..Signed::default()
    };
    fleet.publish(
        &image(40_000, 9),
        &sequence("1.3.0", &["--sequence", "4000000000"]),
    );
    let last = sequence("1.4.0", &["--sequence", "4000000001"]);
    let (code, said) = fleet.refused(&fleet.sign(&image(70_000, 10), &last));
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("updates.disk_budget"), "{said}");
    let list = fleet.gateway.json(&["firmware", "list"]);
    assert!(list["disk_bytes"].as_u64() <= list["disk_budget"].as_u64());

    // Names that make no sense, and what is not there.
    for (arguments, status) in [
        (["firmware", "rollout", "nonsense", "--percent=5"], 1),
        (["firmware", "rollout", "a/b/1.0.0", "--percent=5"], 66),
        (["firmware", "rollout", &release, "--device=nobody"], 66),
        (["firmware", "rollout", &release, "--percent=101"], 1),
    ] {
        let output = fleet.gateway.setup.tidegate(&arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {output:?}"
        );
    }
}

#[test]
fn keys_are_replaced_and_what_is_on_disk_is_checked_again() {
    let setup = Setup::new().device("sensor_001");
    let (new, new_public) = keygen(&setup, "new.key");
    // A key made with another tool is as good.
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(setup.path("openssl.key"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut fleet = Fleet::with(setup, Server::Embedded, "");
    let old_public = fs::read_to_string(fleet.path("release.key.pub")).unwrap();
    let (old, both) = (image(30_000, 11), image(31_000, 12));
    let first = fleet.publish(&old, &Signed::default());
    // During the change a release is signed with both; the second signature comes later here.
    let second = Signed {
        version: "1.2.0",
        more: &["--sequence", "4000000000"],
        ..Signed::default()
    };
    let path = fleet.sign(&both, &second);
    let file = path.to_str().unwrap().to_owned();
    fleet.gateway.run(&[
        "firmware",
        "sign",
        &file,
        "--add",
        "--key",
        new.to_str().unwrap(),
    ]);
    let other = fleet.path("openssl.key");
    let third = [
        "firmware",
        "sign",
        &file,
        "--add",
        "--key",
        other.to_str().unwrap(),
    ];
    let third = fleet.gateway.setup.tidegate(&third);
    assert_eq!(third.status.code(), Some(1), "three signatures: {third:?}");
    fleet.gateway.run(&["firmware", "publish", &file]);
    for release in [&*first, "dashboard/esp32c3/1.2.0"] {
        fleet
            .gateway
            .run(&["firmware", "rollout", release, "--percent", "100"]);
    }
    assert!(
        fleet.ask("sensor_001", "1.0.0").text().contains("1.2.0"),
        "the newest is offered"
    );

    // A device learns the keys with its bundle.
    let bundle = fleet.gateway.bundle("sensor_001");
    assert_eq!(
        fs::read_to_string(bundle.join("release-keys")).unwrap(),
        old_public
    );
    let public = new.with_extension("key.pub");
    let one = fleet.path("one.json");
    let issue = [
        "pki",
        "issue",
        "device",
        "sensor_001",
        "--force",
        "--release-key",
    ];
    let issue = [&issue[..], &[public.to_str().unwrap(), "--bundle-file"]].concat();
    fleet
        .gateway
        .run(&[&issue[..], &[one.to_str().unwrap()]].concat());
    let issued: serde_json::Value = serde_json::from_slice(&fs::read(&one).unwrap()).unwrap();
    assert_eq!(issued["release_keys"][0], new_public.as_str());

    // The old key is retired: what it alone has signed is offered to nobody any more.
    assert!(fleet.gateway.stop().success());
    let config = fs::read_to_string(fleet.path("tidegate.toml")).unwrap();
    let setting = format!("updates.release_keys=[\"{new_public}\"]");
    let retired = |arguments: &[&str]| {
        let all = [&["--set", &setting][..], arguments].concat();
        fleet.gateway.setup.tidegate(&all)
    };
    assert!(config.contains(old_public.trim()));
    let checked = retired(&["--json", "firmware", "verify"]);
    assert_eq!(checked.status.code(), Some(65), "{checked:?}");
    let answer: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(
        (&answer["good"], &answer["bad"][0]["release"]),
        (&1.into(), &first.as_str().into())
    );
    assert!(
        answer["bad"][0]["problem"]
            .as_str()
            .unwrap()
            .starts_with("unknown_key")
    );

    // On disk: changed, cut short, gone, and a stranger.
    let folder = fleet.gateway.setup.state_dir().join("releases");
    let verify = || -> serde_json::Value {
        let output = fleet
            .gateway
            .setup
            .tidegate(&["--json", "firmware", "verify"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let bad = !answer["bad"].as_array().unwrap().is_empty();
        assert_eq!(output.status.code(), Some(if bad { 65 } else { 0 }));
        answer
    };
    assert_eq!(verify()["good"], 2);
    let image = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::metadata(path).unwrap().len() == 30_000)
        .unwrap();
    for (content, problem) in [
        (
            Some([&old[..29_999], b"x"].concat()),
            "the image was changed",
        ),
        (Some(old[..100].to_vec()), "the image has another length"),
        (None, "the image is missing"),
        (Some(old), ""),
    ] {
        match content {
            Some(content) => fs::write(&image, content).unwrap(),
            None => fs::remove_file(&image).unwrap(),
        }
        let bad = verify()["bad"].clone();
        assert_eq!(bad[0]["problem"].as_str().unwrap_or(""), problem, "{bad}");
    }
    fs::write(folder.join("notes.txt"), "x").unwrap();
    assert_eq!(verify()["strangers"][0], "notes.txt");
}
