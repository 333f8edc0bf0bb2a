//! What becomes a release: what does not verify is not published, and keys are replaced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::fs;

use support::{
    Setup,
    updates::{Fleet, Server, Signed, image, keygen},
};

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
