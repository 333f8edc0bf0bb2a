use std::{collections::BTreeMap, fs, path::Path};

use tidegate_wire::{Direction, Draft, MessageId, Payload, Version};

use super::{testing::*, *};
use crate::{
    config::{Device as Settings, Signing},
    seal::{self, SealError},
};

type Fleet = BTreeMap<String, Settings>;

const T1: UnixMillis = UnixMillis(1_000);
const T2: UnixMillis = UnixMillis(2_000);

fn id(text: &str) -> DeviceId {
    text.parse().unwrap()
}

fn fleet<const N: usize>(devices: [(&str, Settings); N]) -> Fleet {
    devices
        .map(|(id, settings)| (id.to_owned(), settings))
        .into()
}

/// The declarations change nothing.
async fn assert_same(registry: &Registry, declared: &Fleet, now: UnixMillis) {
    let difference = registry.reconcile(declared.clone(), now).await.unwrap();
    assert!(difference.is_empty(), "{difference:?}");
}

fn with_secret(path: &Path, secret: &str) -> Settings {
    fs::write(path, secret).unwrap();
    Settings {
        secret_file: Some(path.to_owned()),
        ..Settings::default()
    }
}

/// What the device would send; equal keys sign equally.
fn signature(device: &Device) -> Vec<u8> {
    let draft = Draft {
        version: Version::V2,
        device_id: &device.id,
        timestamp: 1,
        message_id: MessageId::from_bytes([1; 16]),
        payload: Payload::parse(b"1", &mut []).unwrap(),
    };
    let mut out = vec![0; 512];
    let len = draft
        .sign_into(device.secret.as_ref().unwrap(), Direction::Up, &mut out)
        .unwrap();
    out.truncate(len);
    out
}

#[tokio::test]
async fn reconciling_adds_changes_and_removes_and_then_does_nothing() {
    let store = store();
    let registry = registry(&store).await;
    let mut changes = registry.changes();
    let mut declared = fleet([("a", Settings::default()), ("b", Settings::default())]);
    let first = registry.reconcile(declared.clone(), T1).await.unwrap();
    assert_eq!((first.added, first.unchanged), (vec![id("a"), id("b")], 0));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();

    let again = registry.reconcile(declared.clone(), T2).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(again.unchanged, 2);
    assert!(
        !changes.has_changed().unwrap(),
        "nothing changed, so nobody is woken"
    );

    let key = registry.get(&id("a")).unwrap().key;
    declared.remove("a");
    let b = declared.get_mut("b").unwrap();
    b.messages_per_second = Some(5);
    b.publish = vec!["lights/+/set".to_owned()];
    b.groups = vec!["hall".to_owned()];
    b.signing = Signing::V2;
    b.enabled = false;
    let third = registry.reconcile(declared.clone(), T2).await.unwrap();
    assert_eq!(third.removed, [id("a")]);
    let [changed] = &third.changed[..] else {
        panic!("{third:?}")
    };
    assert_eq!(changed.id, id("b"));
    assert_eq!(
        changed.settings,
        [
            "enabled",
            "signing",
            "messages_per_second",
            "topics",
            "groups"
        ]
    );
    let b = registry.get(&id("b")).unwrap();
    assert_eq!(
        (b.enabled, b.signing, b.rate),
        (
            false,
            Signing::V2,
            Rate {
                per_second: 5,
                burst: 50
            }
        )
    );
    assert_eq!(
        (&b.publish[..], &b.groups[..]),
        (&["lights/+/set".to_owned()][..], &["hall".to_owned()][..])
    );

    assert!(registry.get(&id("a")).is_none());
    let gone = registry
        .by_key(key)
        .expect("what it is owed still names it");
    assert!(gone.removed && !gone.enabled && gone.secret.is_none());
    assert_eq!(registry.len(), 1);
}

#[tokio::test]
async fn a_number_is_never_given_to_another_device() {
    let store = store();
    let registry = registry(&store).await;
    registry
        .reconcile(fleet([("a", Settings::default())]), T1)
        .await
        .unwrap();
    let a = registry.get(&id("a")).unwrap().key;
    registry
        .reconcile(fleet([("b", Settings::default())]), T1)
        .await
        .unwrap();
    let b = registry.get(&id("b")).unwrap().key;
    assert_ne!(a, b);
    let back = registry
        .reconcile(
            fleet([("a", Settings::default()), ("b", Settings::default())]),
            T2,
        )
        .await
        .unwrap();
    assert_eq!(back.added, [id("a")]);
    assert_eq!(
        registry.get(&id("a")).unwrap().key,
        a,
        "declared again, it is the same device"
    );
}

#[tokio::test]
async fn secrets_come_from_files_and_lie_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (store(), dir.path().join("a"));
    let registry = registry(&store).await;
    let mut declared = fleet([("a", with_secret(&file, "supersecretkey123\n"))]);
    registry.reconcile(declared.clone(), T1).await.unwrap();
    let signed = signature(&registry.get(&id("a")).unwrap());
    let row = store
        .read(|conn| rows::by_id(conn, "a"))
        .await
        .unwrap()
        .unwrap();
    assert!(!row.secret.unwrap().windows(6).any(|w| w == b"secret"));

    // Without the line break it is the same secret; `\r\n` is one line break too.
    for same in ["supersecretkey123", "supersecretkey123\r\n"] {
        fs::write(&file, same).unwrap();
        assert_same(&registry, &declared, T1).await;
    }
    fs::write(&file, "supersecretkey124").unwrap();
    let difference = registry.reconcile(declared.clone(), T2).await.unwrap();
    assert_eq!(difference.changed[0].settings, ["secret"]);
    let rotated = signature(&registry.get(&id("a")).unwrap());
    assert_ne!(rotated, signed);

    // No file: the secret it has stays, over a restart too.
    declared.get_mut("a").unwrap().secret_file = None;
    assert_same(&registry, &declared, T2).await;
    let reopened = testing::registry(&store).await;
    assert_eq!(signature(&reopened.get(&id("a")).unwrap()), rotated);
}

#[tokio::test]
async fn wrong_declarations_are_all_named_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store();
    let registry = registry(&store).await;
    let absent = dir.path().join("absent");
    let declared = fleet([
        ("fine", Settings::default()),
        ("no/id", Settings::default()),
        (
            "short",
            with_secret(&dir.path().join("short"), "fifteen_bytes_x"),
        ),
        ("empty", with_secret(&dir.path().join("empty"), "\n")),
        (
            "absent",
            Settings {
                secret_file: Some(absent.clone()),
                ..Settings::default()
            },
        ),
        (
            "greedy",
            Settings {
                subscribe: vec!["device/fine/command".into()],
                ..Settings::default()
            },
        ),
        (
            "raw",
            Settings {
                command_topic: Some("lights/set".into()),
                ..Settings::default()
            },
        ),
    ]);
    let error = registry.reconcile(declared.clone(), T1).await.unwrap_err();
    let RegistryError::Declarations(errors) = &error else {
        panic!("{error}")
    };
    assert_eq!(errors.len(), 6, "{error}");
    let text = error.to_string();
    for part in [
        "`no/id` is no device id",
        "device short: secret_file",
        "has 15 bytes, at least 16 are needed; make one with `openssl rand -hex 32`",
        "device empty: secret_file",
        &format!("device absent: secret_file {}", absent.display()),
        "`device/fine/command` in subscribe",
        "device raw: command_topic is for devices with signing = \"none\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(registry.is_empty());
}

#[tokio::test]
async fn passwords_come_from_files_and_are_hashed_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (store(), dir.path().join("password"));
    fs::write(&file, "correct horse\n").unwrap();
    let registry = registry(&store).await;
    let mut declared = fleet([(
        "a",
        Settings {
            password_file: Some(file.clone()),
            ..Settings::default()
        },
    )]);
    registry.reconcile(declared.clone(), T1).await.unwrap();
    assert!(registry.get(&id("a")).unwrap().has_password);
    assert!(registry.check_password(&id("a"), b"correct horse"));
    assert!(!registry.check_password(&id("a"), b"correct horse\n"));
    assert!(!registry.check_password(&id("nobody"), b"correct horse"));
    let hash = |store: Store| async move {
        store
            .read(|conn| rows::by_id(conn, "a"))
            .await
            .unwrap()
            .unwrap()
            .password
    };
    let before = hash(store.clone()).await;
    assert_same(&registry, &declared, T1).await;
    assert_eq!(hash(store.clone()).await, before, "not hashed again");

    fs::write(&file, "battery staple").unwrap();
    assert_eq!(
        registry
            .reconcile(declared.clone(), T2)
            .await
            .unwrap()
            .changed[0]
            .settings,
        ["password"]
    );
    assert!(!registry.check_password(&id("a"), b"correct horse"));
    assert!(registry.check_password(&id("a"), b"battery staple"));

    declared.get_mut("a").unwrap().password_file = None;
    assert_eq!(
        registry
            .reconcile(declared.clone(), T2)
            .await
            .unwrap()
            .changed[0]
            .settings,
        ["password"]
    );
    assert!(!registry.check_password(&id("a"), b"battery staple"));
    assert!(!registry.get(&id("a")).unwrap().has_password);

    registry
        .set_password(&id("a"), Some(b"set at run time"), T2)
        .await
        .unwrap();
    assert_same(&registry, &declared, T2).await;
    assert!(registry.check_password(&id("a"), b"set at run time"));
}

#[tokio::test]
async fn devices_added_at_run_time_live_beside_declared_ones() {
    let store = store();
    let registry = registry(&store).await;
    let declared = fleet([("a", Settings::default())]);
    registry.reconcile(declared.clone(), T1).await.unwrap();
    let added = registry
        .add(id("b"), &Settings::default(), Some(b"0123456789abcdef"), T1)
        .await
        .unwrap();
    assert!(!added.declared && added.secret.is_some());
    assert!(matches!(
        registry.add(id("a"), &Settings::default(), None, T1).await,
        Err(RegistryError::Exists(_))
    ));
    let difference = registry.reconcile(declared.clone(), T2).await.unwrap();
    assert!(difference.is_empty(), "it stays: {difference:?}");
    assert_eq!(difference.run_time, 1);

    let both = fleet([("a", Settings::default()), ("b", Settings::default())]);
    let difference = registry.reconcile(both.clone(), T2).await.unwrap();
    assert_eq!(difference.changed[0].settings, ["declared"]);
    let b = registry.get(&id("b")).unwrap();
    assert!(b.declared && b.key == added.key && b.secret.is_some());
    assert!(matches!(
        registry.remove(&id("b"), T2).await,
        Err(RegistryError::Declared(_))
    ));

    let c = registry
        .add(id("c"), &Settings::default(), Some(b"0123456789abcdef"), T1)
        .await
        .unwrap();
    registry.remove(&id("c"), T2).await.unwrap();
    assert!(registry.get(&id("c")).is_none());
    assert!(matches!(
        registry.remove(&id("c"), T2).await,
        Err(RegistryError::Unknown(_))
    ));
    let again = registry
        .add(id("c"), &Settings::default(), None, T2)
        .await
        .unwrap();
    assert_eq!(again.key, c.key);
    assert!(again.secret.is_none(), "its old secret went with it");
}

#[tokio::test]
async fn a_block_outlives_reloads_and_restarts() {
    let store = store();
    let registry = registry(&store).await;
    let mut declared = fleet([("a", Settings::default())]);
    registry.reconcile(declared.clone(), T1).await.unwrap();
    registry
        .set_enabled(&id("a"), false, "stolen", T1)
        .await
        .unwrap();
    registry.reconcile(declared.clone(), T2).await.unwrap();
    let reopened = testing::registry(&store).await;
    for registry in [&registry, &reopened] {
        let a = registry.get(&id("a")).unwrap();
        assert_eq!(
            (a.enabled, a.blocked_reason.as_deref()),
            (false, Some("stolen"))
        );
    }
    reopened.set_enabled(&id("a"), true, "", T2).await.unwrap();
    assert!(reopened.get(&id("a")).unwrap().enabled);

    declared.get_mut("a").unwrap().enabled = false;
    reopened.reconcile(declared.clone(), T2).await.unwrap();
    assert!(matches!(
        reopened.set_enabled(&id("a"), true, "", T2).await,
        Err(RegistryError::DisabledByDeclaration(_))
    ));
}

#[tokio::test]
async fn what_was_seen_survives_changes_and_restarts() {
    let store = store();
    let registry = registry(&store).await;
    registry
        .reconcile(fleet([("a", Settings::default())]), T1)
        .await
        .unwrap();
    let a = registry.get(&id("a")).unwrap();
    a.note_accepted(Some(Version::V2), UnixMillis(9_000));
    registry
        .set_enabled(&id("a"), false, "x", T2)
        .await
        .unwrap();
    assert_eq!(
        registry.get(&id("a")).unwrap().seen.version(),
        Some(Version::V2)
    );
    assert_eq!(registry.record_seen().await.unwrap(), 1);
    assert_eq!(registry.record_seen().await.unwrap(), 0);
    let reopened = testing::registry(&store).await;
    let seen = &reopened.get(&id("a")).unwrap().seen;
    assert_eq!(
        (seen.version(), seen.at()),
        (Some(Version::V2), Some(UnixMillis(9_000)))
    );
}

fn sources(dir: &Path, key: &str) -> seal::Sources {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join("configured.key");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    seal::Sources {
        file: Some(file),
        credentials: None,
        state_dir: dir.to_owned(),
    }
}

#[tokio::test]
async fn another_master_key_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = store();
    let (ours, theirs) = ("ab".repeat(32), "cd".repeat(32));
    unlock(&store, sources(dir.path(), &ours)).await.unwrap();
    unlock(&store, sources(dir.path(), &ours)).await.unwrap();
    let error = unlock(&store, sources(dir.path(), &theirs))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::Seal(SealError::WrongKey)),
        "{error}"
    );

    // Lost altogether: no new one is made.
    let lost = seal::Sources {
        file: None,
        credentials: None,
        state_dir: dir.path().to_owned(),
    };
    let error = unlock(&store, lost).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Seal(SealError::Missing { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_rotated_master_key_seals_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store();
    let (old, new) = ("ab".repeat(32), "cd".repeat(32));
    let (master, _) = unlock(&store, sources(dir.path(), &old)).await.unwrap();
    let registry = Registry::open(store.clone(), Arc::new(master), RATE)
        .await
        .unwrap();
    let a = registry
        .add(id("a"), &Settings::default(), Some(b"0123456789abcdef"), T1)
        .await
        .unwrap();

    let (master, _) = unlock(&store, sources(dir.path(), &format!("{new}\n{old}\n")))
        .await
        .unwrap();
    Registry::open(store.clone(), Arc::new(master), RATE)
        .await
        .unwrap();
    // The old one is not needed any more.
    let (master, _) = unlock(&store, sources(dir.path(), &new)).await.unwrap();
    let registry = Registry::open(store.clone(), Arc::new(master), RATE)
        .await
        .unwrap();
    assert_eq!(signature(&registry.get(&id("a")).unwrap()), signature(&a));
}

#[tokio::test]
async fn a_tampered_secret_locks_out_one_device_only() {
    let store = store();
    let registry = registry(&store).await;
    for name in ["a", "b", "c"] {
        registry
            .add(
                id(name),
                &Settings::default(),
                Some(b"0123456789abcdef"),
                T1,
            )
            .await
            .unwrap();
    }
    // Someone with the database but not the key gives device a the secret of device b.
    store
        .write(|conn| {
            let b = rows::by_id(conn, "b")?.and_then(|row| row.secret);
            let mut a = rows::by_id(conn, "a")?.unwrap();
            a.secret = b;
            rows::update(conn, &a)
        })
        .await
        .unwrap();
    let reopened = testing::registry(&store).await;
    assert!(reopened.get(&id("a")).unwrap().secret.is_none());
    assert!(reopened.get(&id("c")).unwrap().secret.is_some());
}

#[tokio::test]
async fn ten_thousand_devices_are_there_at_once() {
    let store = store();
    let registry = registry(&store).await;
    let declared: Fleet = (0..10_000)
        .map(|n| (format!("sensor_{n:05}"), Settings::default()))
        .collect();
    registry.reconcile(declared.clone(), T1).await.unwrap();
    let sealed = master();
    store
        .write(move |conn| {
            let mut all = Vec::new();
            rows::each(conn, |row| {
                all.push(row);
                Ok::<_, ()>(())
            })?
            .unwrap();
            for mut row in all {
                let secret = sealed
                    .seal(credentials::place(&row.id), b"supersecretkey123")
                    .unwrap();
                row.secret = Some(secret);
                rows::update(conn, &row)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let start = std::time::Instant::now();
    let reopened = testing::registry(&store).await;
    let took = start.elapsed();
    assert_eq!(reopened.len(), 10_000);
    assert!(reopened.get(&id("sensor_09999")).unwrap().secret.is_some());
    eprintln!("10,000 devices loaded in {took:?}");
    // Optimised it takes a twentieth of this; see the bound in the module's name.
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_device_is_small() {
    // One allocation for the device and one for its key, each with 16 bytes of counters, and a
    // pointer in each of the two indexes.
    let bytes = size_of::<Device>() + size_of::<tidegate_wire::SigningKey>() + 2 * 16 + 2 * 2 * 9;
    eprintln!(
        "Device {} + SigningKey {} = {bytes} bytes",
        size_of::<Device>(),
        size_of::<tidegate_wire::SigningKey>()
    );
    assert!(bytes <= 560, "{bytes} bytes");
}
