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
    updates::{Fleet, Server, Signed, image, with_both_servers},
};

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
