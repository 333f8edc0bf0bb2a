//! The files: permissions, no overwriting, interrupted writes, renewal, lists, bundles.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tidegate::pki::{
    self, Bundle, Endpoint, Host, OperatorRequest, PkiError, Reason, RenewOptions, Renewed,
    RevokeTarget, SecretSource, State, credentials, watch,
};
use time::Duration;

use crate::support::{
    Client, Gateway, VERSIONS, client_config, connect, hosts, now, openssl, request,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn gets_in(gateway: &Gateway, bundle: &Bundle) -> bool {
    let client = client_config(&bundle.ca, Some(&Client::of(bundle)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "localhost").is_ok()
}

fn renew(gateway: &Gateway, target: &str) -> Result<Renewed, PkiError> {
    pki::renew(
        &gateway.dir,
        &gateway.profiles,
        target,
        RenewOptions::default(),
        now(),
    )
}

fn renewed_device(gateway: &Gateway, target: &str, options: RenewOptions) -> pki::IssuedDevice {
    match pki::renew(&gateway.dir, &gateway.profiles, target, options, now()).unwrap() {
        Renewed::Device(device) => *device,
        other => panic!("{other:?}"),
    }
}

fn every_file(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(every_file(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn keys_and_secrets_are_for_the_owner_alone() {
    let gateway = Gateway::new();
    let out = tempfile::tempdir().unwrap();
    let bundle = gateway.device("a");
    bundle.write_folder(&out.path().join("a"), false).unwrap();
    bundle
        .write_file(&out.path().join("a.tidegate.json"), false)
        .unwrap();
    let options = RenewOptions {
        new_key: true,
        ..RenewOptions::default()
    };
    pki::renew(&gateway.dir, &gateway.profiles, "device-ca", options, now()).unwrap();
    for path in every_file(gateway.state.path())
        .iter()
        .chain(&every_file(out.path()))
    {
        let text = fs::read_to_string(path).unwrap();
        let secret = text.contains("PRIVATE KEY") || path.ends_with("secret");
        if secret || path.starts_with(out.path()) {
            assert_eq!(mode(path), 0o600, "{}", path.display());
        }
        assert_eq!(mode(path) & 0o022, 0, "{}", path.display());
    }
    for folder in [
        gateway.dir.path(),
        &gateway.file("issued"),
        &gateway.file("retired"),
        &out.path().join("a"),
    ] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    // Someone opened a key to others: said, not ignored.
    fs::set_permissions(
        gateway.file("server.key"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let warnings = gateway.credentials().warnings().join("\n");
    assert!(
        warnings.contains("server.key") && warnings.contains("chmod 600"),
        "{warnings}"
    );
}

#[test]
fn nothing_is_overwritten_without_force() {
    let gateway = Gateway::new();
    let again = |force| {
        pki::init(
            &gateway.dir,
            &gateway.profiles,
            "Test",
            &hosts(),
            force,
            now(),
        )
    };
    let before = fs::read(gateway.file("root.key")).unwrap();
    assert!(matches!(again(false), Err(PkiError::AlreadyInitialised(_))));
    assert_eq!(fs::read(gateway.file("root.key")).unwrap(), before);
    let former = again(true).unwrap().former.unwrap();
    assert_eq!(
        fs::read(former.join("root.key")).unwrap(),
        before,
        "moved aside, not deleted"
    );
    assert_ne!(fs::read(gateway.file("root.key")).unwrap(), before);
    assert_ne!(again(true).unwrap().former.unwrap(), former);

    let bundle = gateway.device("a");
    let out = tempfile::tempdir().unwrap();
    for name in [
        "device.key",
        "device.crt",
        "ca.crt",
        "secret",
        "device.json",
    ] {
        let folder = out.path().join(format!("in-the-way-{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), "mine").unwrap();
        assert!(matches!(
            bundle.write_folder(&folder, false),
            Err(PkiError::Exists(_))
        ));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), "mine");
        bundle.write_folder(&folder, true).unwrap();
        assert_eq!(Bundle::read(&folder).unwrap(), bundle);
    }
    let file = out.path().join("a.json");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(
        bundle.write_file(&file, false),
        Err(PkiError::Exists(_))
    ));
    bundle.write_file(&file, true).unwrap();

    // A second certificate for a device that has one.
    let second = |force| {
        let mut order = request("a");
        order.force = force;
        pki::issue_device(&gateway.dir, &gateway.profiles, &order, now())
    };
    assert!(matches!(second(false), Err(PkiError::AlreadyIssued { .. })));
    second(true).unwrap();
}

#[test]
fn without_an_authority_everything_says_how_to_get_one() {
    let gateway = Gateway::empty();
    let texts = [
        pki::issue_device(&gateway.dir, &gateway.profiles, &request("a"), now())
            .unwrap_err()
            .to_string(),
        renew(&gateway, "server").unwrap_err().to_string(),
        pki::list(&gateway.dir, now()).unwrap_err().to_string(),
        pki::sign_crl(&gateway.dir, now()).unwrap_err().to_string(),
        credentials::load(&gateway.dir, now())
            .unwrap_err()
            .to_string(),
    ];
    for text in texts {
        assert!(text.contains("tidegate pki init"), "{text}");
    }
}

#[test]
fn only_one_command_at_a_time() {
    let gateway = Gateway::new();
    let lock = fs::File::options()
        .write(true)
        .open(gateway.state.path().join("pki.lock"))
        .unwrap();
    lock.try_lock().unwrap();
    assert!(matches!(
        renew(&gateway, "server"),
        Err(PkiError::Locked(_))
    ));
    drop(lock);
    renew(&gateway, "server").unwrap();
}

#[test]
fn a_clock_that_cannot_be_right_issues_nothing() {
    let gateway = Gateway::new();
    let then = time::OffsetDateTime::UNIX_EPOCH + Duration::days(1);
    let error = pki::issue_device(&gateway.dir, &gateway.profiles, &request("a"), then);
    assert!(matches!(error, Err(PkiError::ClockNotSet(_))));
}

#[test]
fn bad_names_are_refused() {
    let gateway = Gateway::new();
    for id in ["", "a b", "../a", "a/b", "é", &"x".repeat(65), "a.b", "a\n"] {
        let error = pki::issue_device(&gateway.dir, &gateway.profiles, &request(id), now());
        assert!(matches!(error, Err(PkiError::BadId { .. })), "{id:?}");
        let order = OperatorRequest {
            name: id.into(),
            csr: None,
            force: false,
        };
        let error = pki::issue_operator(&gateway.dir, &gateway.profiles, &order, now());
        assert!(matches!(error, Err(PkiError::BadId { .. })), "{id:?}");
    }
    for host in [
        "",
        "a b",
        "-a",
        "a-",
        "1.2.3",
        "300.1.1.1",
        "a..b",
        "*.*.x",
        "a:1",
        "http://a",
    ] {
        assert!(Host::parse(host).is_err(), "{host:?}");
    }
    for (text, expected) in [
        ("gateway.local", "gateway.local:8883"),
        ("Gateway.Local.:1883", "gateway.local:1883"),
        ("192.0.2.7", "192.0.2.7:8883"),
        ("192.0.2.7:1", "192.0.2.7:1"),
        ("[fd00::1]:8884", "[fd00::1]:8884"),
        ("fd00::1", "[fd00::1]:8883"),
    ] {
        assert_eq!(Endpoint::parse(text).unwrap().to_string(), expected);
    }
    for text in ["", ":1", "a:0", "a:65536", "a:b", "a:1:2", "[a]:1"] {
        assert!(Endpoint::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn the_default_names_cover_the_host_and_the_machine_itself() {
    let names = |hostname| -> Vec<String> {
        Host::defaults(hostname)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        names(Some("tide")),
        ["tide.local", "tide", "localhost", "127.0.0.1", "::1"]
    );
    assert_eq!(names(Some("tide.example.org"))[0], "tide.example.org");
    assert_eq!(names(Some("not a name")), ["localhost", "127.0.0.1", "::1"]);
    assert_eq!(names(None), names(Some("localhost")));
}

#[test]
fn serial_numbers_are_unique_and_everything_issued_is_on_record() {
    let gateway = Gateway::new();
    let serials: HashSet<_> = (0..40)
        .map(|n| {
            let order = request(&format!("d{n}"));
            pki::issue_device(&gateway.dir, &gateway.profiles, &order, now())
                .unwrap()
                .serial
        })
        .collect();
    assert_eq!(serials.len(), 40);
    for serial in &serials {
        assert!(
            gateway
                .file("issued")
                .join(format!("{serial}.pem"))
                .exists()
        );
    }
}

#[test]
fn renewing_the_server_keeps_key_and_names() {
    let gateway = Gateway::new();
    let before = gateway.credentials();
    let key = fs::read(gateway.file("server.key")).unwrap();
    let Renewed::Server(renewed) = renew(&gateway, "server").unwrap() else {
        panic!()
    };
    assert_eq!(renewed.hosts, hosts());
    assert_eq!(fs::read(gateway.file("server.key")).unwrap(), key);
    let after = gateway.credentials();
    assert_ne!(before.server().cert, after.server().cert);
    let options = RenewOptions {
        new_key: true,
        hosts: vec![Host::parse("new.example.org").unwrap()],
        ..RenewOptions::default()
    };
    pki::renew(&gateway.dir, &gateway.profiles, "server", options, now()).unwrap();
    assert_ne!(fs::read(gateway.file("server.key")).unwrap(), key);
    let bundle = gateway.device("a");
    assert_eq!(bundle.gateway.to_string(), "new.example.org:8883");
    let client = client_config(&bundle.ca, Some(&Client::of(&bundle)), VERSIONS[0]);
    connect(&gateway.server_config(), &client, "new.example.org").unwrap();
    assert!(connect(&gateway.server_config(), &client, "localhost").is_err());
}

#[test]
fn the_server_renews_itself_in_the_last_third_of_its_life() {
    let gateway = Gateway::new();
    let due = |at| pki::renew_server_if_due(&gateway.dir, &gateway.profiles, at).unwrap();
    assert_eq!(due(now()), None);
    assert_eq!(due(now() + Duration::days(260)), None);
    let renewed = due(now() + Duration::days(300)).unwrap();
    assert_eq!((renewed.not_after - now()).whole_days() / 10, 69);
    assert_eq!(due(now() + Duration::days(300)), None);
    // The gateway CA ends after ten years and has no more time to give.
    due(now() + Duration::days(3500)).unwrap();
    assert_eq!(due(now() + Duration::days(3640)), None);
}

#[test]
fn renewing_a_device_keeps_its_identity_and_secret() {
    let gateway = Gateway::new();
    let first = gateway.device("a");
    let second = renewed_device(&gateway, "a", RenewOptions::default()).bundle;
    assert_eq!(second.device_id, "a");
    assert_eq!(second.secret, None, "the device keeps its own");
    assert_ne!(first.key, second.key);
    assert!(gets_in(&gateway, &first) && gets_in(&gateway, &second));
    // By serial number, and putting the former out of use.
    let list = pki::list(&gateway.dir, now()).unwrap();
    let serial = &list
        .iter()
        .find(|entry| entry.kind == "device")
        .unwrap()
        .serial;
    let options = RenewOptions {
        revoke_former: true,
        ..RenewOptions::default()
    };
    let third = renewed_device(&gateway, serial, options).bundle;
    assert!(!gets_in(&gateway, &first) && !gets_in(&gateway, &second));
    assert!(gets_in(&gateway, &third));
    assert!(matches!(
        renew(&gateway, "b"),
        Err(PkiError::UnknownTarget(_))
    ));
    assert!(matches!(
        renew(&gateway, "operator:a"),
        Err(PkiError::UnknownTarget(_))
    ));
}

#[test]
fn a_device_may_be_called_server() {
    let gateway = Gateway::new();
    gateway.device("server");
    assert!(matches!(renew(&gateway, "server"), Ok(Renewed::Server(_))));
    let device = renewed_device(&gateway, "device:server", RenewOptions::default());
    assert_eq!(device.bundle.device_id, "server");
}

#[test]
fn renewing_an_intermediate_disturbs_nobody() {
    for new_key in [false, true] {
        let gateway = Gateway::new();
        let before = gateway.device("before");
        for kind in ["device-ca", "gateway-ca"] {
            let options = RenewOptions {
                new_key,
                ..RenewOptions::default()
            };
            pki::renew(&gateway.dir, &gateway.profiles, kind, options, now()).unwrap();
        }
        let after = gateway.device("after");
        assert!(gets_in(&gateway, &before), "new key: {new_key}");
        assert!(gets_in(&gateway, &after), "new key: {new_key}");
        // A former authority's devices can still be revoked.
        let target = RevokeTarget::Name("before".into());
        let revoked = pki::revoke(&gateway.dir, &target, Reason::Unspecified, now()).unwrap();
        assert!(revoked.crl.skipped.is_empty(), "{:?}", revoked.crl);
        assert!(!gets_in(&gateway, &before));
        let out = tempfile::tempdir().unwrap();
        after.write_folder(out.path(), false).unwrap();
        openssl(
            out.path(),
            "verify -CAfile ca.crt -untrusted device.crt -purpose sslclient device.crt",
        );
    }
}

#[test]
fn the_root_key_can_go_offline() {
    let gateway = Gateway::new();
    let key = gateway.file("root.key");
    let away = gateway.state.path().join("away");
    fs::rename(&key, &away).unwrap();
    let bundle = gateway.device("a");
    renew(&gateway, "server").unwrap();
    renewed_device(&gateway, "a", RenewOptions::default());
    let update = pki::sign_crl(&gateway.dir, now()).unwrap();
    assert_eq!((update.signed.len(), update.skipped.len()), (2, 1));
    assert!(gets_in(&gateway, &bundle));
    for kind in ["device-ca", "gateway-ca"] {
        let error = renew(&gateway, kind).unwrap_err();
        assert!(matches!(error, PkiError::KeyOffline { .. }));
        assert!(
            error.to_string().contains("renew an intermediate"),
            "{error}"
        );
    }
    // The root's own list is kept, not dropped, meanwhile.
    let lists = fs::read_to_string(gateway.file("crl.pem")).unwrap();
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 3);
    fs::rename(&away, &key).unwrap();
    renew(&gateway, "device-ca").unwrap();
}

#[test]
fn an_interrupted_exchange_of_the_server_pair_is_never_half_done() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let (crt, key) = (gateway.file("server.crt"), gateway.file("server.key"));
    let pending = gateway.file("server.key.pending");
    let old = (fs::read(&crt).unwrap(), fs::read(&key).unwrap());
    let options = RenewOptions {
        new_key: true,
        ..RenewOptions::default()
    };
    pki::renew(&gateway.dir, &gateway.profiles, "server", options, now()).unwrap();
    let new = (fs::read(&crt).unwrap(), fs::read(&key).unwrap());

    // After the new key was written, before the certificate was.
    fs::write(&crt, &old.0).unwrap();
    fs::write(&key, &old.1).unwrap();
    fs::write(&pending, &new.1).unwrap();
    assert!(gets_in(&gateway, &bundle));
    // After the certificate, before the key got its name.
    fs::write(&crt, &new.0).unwrap();
    assert!(gets_in(&gateway, &bundle));
    // The next command tidies up.
    renew(&gateway, "server").unwrap();
    assert!(!pending.exists());
    assert_eq!(fs::read(&key).unwrap(), new.1);
    assert!(gets_in(&gateway, &bundle));
    // A pending key that never came into force is dropped, the one in force kept.
    fs::write(&pending, &old.1).unwrap();
    renew(&gateway, "server").unwrap();
    assert!(!pending.exists());
    assert!(gets_in(&gateway, &bundle));
    // A pair that really does not fit is an error, and says which.
    fs::write(&key, &old.1).unwrap();
    let error = credentials::load(&gateway.dir, now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("server.key") && error.contains("does not belong"),
        "{error}"
    );
}

#[test]
fn leftovers_of_interrupted_commands_do_no_harm() {
    let gateway = Gateway::empty();
    // `init` was cut off while it built.
    let half = gateway.state.path().join("pki.new-4711");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("root.key"), "half a ke").unwrap();
    assert!(!gateway.dir.is_initialised());
    pki::init(
        &gateway.dir,
        &gateway.profiles,
        "Test",
        &hosts(),
        false,
        now(),
    )
    .unwrap();
    assert!(!half.exists());
    // Files were cut off while they were written: they are still temporary.
    fs::write(gateway.file(".server.crt.new-4711"), "-----BEGIN CERTIFI").unwrap();
    fs::write(
        gateway.file("issued").join(".00ff.pem.new-4711"),
        "-----BEGIN",
    )
    .unwrap();
    fs::write(
        gateway.file(&format!(".revoked.json.new-{}", std::process::id())),
        "{",
    )
    .unwrap();
    let bundle = gateway.device("a");
    let target = RevokeTarget::Name("a".into());
    pki::revoke(&gateway.dir, &target, Reason::Unspecified, now()).unwrap();
    assert!(!gets_in(&gateway, &bundle));
    pki::list(&gateway.dir, now()).unwrap();
    // Recorded but not yet signed into a list: in force already, and signed on the next start.
    let lists = {
        let other = gateway.device("b");
        let before = fs::read(gateway.file("crl.pem")).unwrap();
        pki::revoke(
            &gateway.dir,
            &RevokeTarget::Name("b".into()),
            Reason::Unspecified,
            now(),
        )
        .unwrap();
        fs::write(gateway.file("crl.pem"), before).unwrap();
        assert!(!gets_in(&gateway, &other));
        pki::refresh_crl(&gateway.dir, now()).unwrap();
        fs::read_to_string(gateway.file("crl.pem")).unwrap()
    };
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("crl.pem"), lists).unwrap();
    let text = openssl(out.path(), "crl -in crl.pem -noout -text");
    assert_eq!(text.matches("Serial Number").count(), 2, "{text}");
}

#[test]
fn a_running_gateway_notices_every_change_and_survives_bad_ones() {
    let gateway = Gateway::new();
    let bundle = gateway.device("a");
    let mut last = gateway.credentials().fingerprint().clone();
    let mut changed = || match watch::reload(&gateway.dir, &last, now()) {
        watch::Reload::Unchanged => false,
        watch::Reload::Changed(credentials) => {
            last = credentials.fingerprint().clone();
            true
        }
        watch::Reload::Failed { error, .. } => panic!("{error}"),
    };
    assert!(!changed());
    gateway.device("b");
    assert!(
        !changed(),
        "issuing to a device changes nothing for the gateway"
    );
    renew(&gateway, "server").unwrap();
    assert!(changed() && !changed());
    let target = RevokeTarget::Name("a".into());
    pki::revoke(&gateway.dir, &target, Reason::Unspecified, now()).unwrap();
    assert!(changed() && !changed());
    let folder = tempfile::tempdir().unwrap();
    openssl(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -days 9 -keyout k -out ca.crt -subj /CN=x",
    );
    pki::trust(&gateway.dir, &folder.path().join("ca.crt"), now()).unwrap();
    assert!(changed() && !changed());

    let good = fs::read(gateway.file("server.crt")).unwrap();
    fs::write(gateway.file("server.crt"), "nonsense").unwrap();
    let watch::Reload::Failed { error, seen } = watch::reload(&gateway.dir, &last, now()) else {
        panic!("nonsense must not load");
    };
    assert!(error.to_string().contains("server.crt"), "{error}");
    assert!(matches!(
        watch::reload(&gateway.dir, &seen, now()),
        watch::Reload::Unchanged
    ));
    fs::write(gateway.file("server.crt"), good).unwrap();
    assert!(matches!(
        watch::reload(&gateway.dir, &seen, now()),
        watch::Reload::Changed(_)
    ));
    drop(bundle);
}

#[test]
fn the_list_shows_everything_with_its_days() {
    let gateway = Gateway::new();
    gateway.device("valid");
    gateway.device("lost");
    let target = RevokeTarget::Name("lost".into());
    pki::revoke(&gateway.dir, &target, Reason::KeyCompromise, now()).unwrap();
    let at = |days: i64| {
        pki::list(
            &gateway.dir,
            now() + Duration::hours(24 * days + 12 * days.signum()),
        )
        .unwrap()
    };
    let find = |days, name: &str| {
        at(days)
            .into_iter()
            .find(|entry| entry.name == name)
            .unwrap()
    };

    let kinds: Vec<_> = at(0).iter().map(|entry| entry.kind).take(4).collect();
    assert_eq!(kinds, ["root", "gateway-ca", "device-ca", "server"]);
    assert_eq!(at(0)[0].key_here, Some(true));
    let valid = find(0, "valid");
    assert_eq!(
        (valid.state, valid.days_left, valid.kind),
        (State::Valid, 1094, "device")
    );
    assert_eq!(find(1066, "valid").state, State::ExpiresSoon);
    let expired = find(1096, "valid");
    assert_eq!((expired.state, expired.days_left), (State::Expired, -2));
    assert_eq!(find(-2, "valid").state, State::NotYetValid);
    let lost = find(0, "lost");
    assert_eq!(
        (lost.state, lost.reason),
        (State::Revoked, Some(Reason::KeyCompromise))
    );
    assert!(lost.revoked_at.is_some());
    let json = serde_json::to_value(&lost).unwrap();
    assert_eq!(json["state"], "revoked");
    assert_eq!(json["reason"], "key-compromise");
    assert_eq!(json["serial"], lost.serial);
}

#[test]
fn what_expires_is_reported_once_with_the_way_out() {
    let gateway = Gateway::new();
    gateway.device("a");
    gateway.device("gone");
    let target = RevokeTarget::Name("gone".into());
    pki::revoke(&gateway.dir, &target, Reason::Unspecified, now()).unwrap();
    let within = |at, days| pki::expiring(&gateway.dir, at, Duration::days(days)).unwrap();
    assert_eq!(within(now(), 20), vec![]);
    let kinds = |list: &[pki::Expiry]| list.iter().map(|e| e.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&within(now() + Duration::days(24), 20)), ["crl"]);
    let later = now() + Duration::days(1090);
    assert_eq!(kinds(&within(later, 20)), ["crl", "server", "device"]);
    let device = within(later, 20).pop().unwrap();
    assert_eq!((device.days_left, device.name.as_str()), (4, "a"));
    assert_eq!(device.advice, "run `tidegate pki renew device:a`");
    // Renewed: the former certificate's end is nobody's concern.
    pki::renew(
        &gateway.dir,
        &gateway.profiles,
        "a",
        RenewOptions::default(),
        later,
    )
    .unwrap();
    assert_eq!(kinds(&within(later, 20)), ["crl", "server"]);
    // No certificate outlives its authority, so that is when things end at the latest.
    let last = now() + Duration::days(3649);
    let late = pki::issue_device(&gateway.dir, &gateway.profiles, &request("late"), last).unwrap();
    assert!((late.not_after - now()).whole_days() <= 3650);
}

#[test]
fn a_bundle_survives_both_forms() {
    let gateway = Gateway::new();
    let out = tempfile::tempdir().unwrap();
    let mut order = request("sensor_001");
    order.gateway = Some(Endpoint::parse("[fd00::1]:8884").unwrap());
    let bundle = pki::issue_device(&gateway.dir, &gateway.profiles, &order, now())
        .unwrap()
        .bundle;
    let secret = bundle.secret.clone().unwrap();
    assert_eq!(secret.len(), 64);
    assert!(
        secret
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    );
    assert_ne!(gateway.device("b").secret.unwrap(), secret);
    let (folder, file) = (
        out.path().join("d"),
        out.path().join("sensor_001.tidegate.json"),
    );
    bundle.write_folder(&folder, false).unwrap();
    bundle.write_file(&file, false).unwrap();
    assert_eq!(Bundle::read(&folder).unwrap(), bundle);
    assert_eq!(Bundle::read(&file).unwrap(), bundle);
    assert!(
        !format!("{bundle:?}").contains(secret.as_str()),
        "secrets stay out of logs"
    );
    assert!(!format!("{bundle:?}").contains("PRIVATE"));

    // Reading notices what does not belong together.
    let other = gateway.device("c");
    fs::write(
        folder.join("device.key"),
        other.key.as_ref().unwrap().as_bytes(),
    )
    .unwrap();
    assert!(
        Bundle::read(&folder)
            .unwrap_err()
            .to_string()
            .contains("key does not belong")
    );
    fs::write(folder.join("device.crt"), &other.certificate).unwrap();
    assert!(
        Bundle::read(&folder)
            .unwrap_err()
            .to_string()
            .contains("not that of sensor_001")
    );
    fs::remove_file(folder.join("ca.crt")).unwrap();
    assert!(
        Bundle::read(&folder)
            .unwrap_err()
            .to_string()
            .contains("ca.crt is missing")
    );
    let text = fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("tidegate-bundle-1", "tidegate-bundle-2"),
        ("\"port\"", "\"prot\""),
        ("8884", "0"),
    ] {
        fs::write(&file, text.replace(from, to)).unwrap();
        assert!(
            matches!(Bundle::read(&file), Err(PkiError::BadBundle { .. })),
            "{to}"
        );
    }
}

#[test]
fn a_given_secret_is_taken_as_it_is() {
    let gateway = Gateway::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "correct horse battery\r\n").unwrap();
    let mut order = request("a");
    order.secret = SecretSource::read(&path).unwrap();
    assert!(!format!("{order:?}").contains("horse"));
    let bundle = pki::issue_device(&gateway.dir, &gateway.profiles, &order, now())
        .unwrap()
        .bundle;
    assert_eq!(
        bundle.secret.as_ref().unwrap().as_str(),
        "correct horse battery"
    );
    for bad in [&b""[..], b"\n", b"two\nlines", b"\xff\xfe", &[b'x'; 257]] {
        fs::write(&path, bad).unwrap();
        assert!(
            matches!(SecretSource::read(&path), Err(PkiError::BadSecret { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn revoking_says_when_there_is_nothing_to_revoke() {
    let gateway = Gateway::new();
    gateway.device("a");
    let revoke = |name: &str| {
        let target = RevokeTarget::Name(name.into());
        pki::revoke(&gateway.dir, &target, Reason::Superseded, now())
    };
    assert!(matches!(revoke("b"), Err(PkiError::UnknownTarget(_))));
    let revoked = revoke("a").unwrap();
    assert_eq!(revoked.serials.len(), 1);
    assert!(matches!(revoke("a"), Err(PkiError::NothingToRevoke(_))));
    // By the serial number, in openssl's spelling.
    let device = gateway.device("a");
    let peer = gateway
        .credentials()
        .peer(Some(&Client::of(&device).chain), now())
        .unwrap();
    let spelled: Vec<String> = peer
        .serial
        .to_string()
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8(pair.to_vec()).unwrap())
        .collect();
    assert_eq!(revoke(&spelled.join(":")).unwrap().serials, [peer.serial]);
    assert!(!gets_in(&gateway, &device));
}
