use super::*;
use crate::{registry::testing::store, store::DeviceKey};

const NOW: UnixMillis = UnixMillis(1_000_000);

fn new(scopes: &[Scope]) -> NewKey {
    NewKey {
        name: "backend".to_owned(),
        scopes: scopes.to_vec(),
        devices: None,
        expires_at: None,
        by: "local:test".to_owned(),
    }
}

#[tokio::test]
async fn a_token_proves_its_key_and_no_other_does() {
    let store = store();
    let keys = Keys::open(store.clone()).await.unwrap();
    let (key, token) = keys.create(new(&[Scope::CommandSend]), NOW).await.unwrap();
    assert_eq!(keys.verify(&token, NOW).unwrap().id, key.id);
    let (_, other) = keys.create(new(&[Scope::CommandSend]), NOW).await.unwrap();
    let mixed = format!("{}{}", &token[..12], &other[12..]);
    let longer = format!("{}A", &*token);
    for (wrong, refusal) in [
        ("", Refusal::Malformed),
        ("tg_", Refusal::Malformed),
        (&token[3..], Refusal::Malformed),
        (&token[..token.len() - 1], Refusal::Malformed),
        (&longer, Refusal::Malformed),
        (&mixed, Refusal::Unknown),
    ] {
        assert_eq!(keys.verify(wrong, NOW).unwrap_err(), refusal, "{wrong}");
    }
    // Nothing that is stored is the token.
    let rows = store.read(rows::all).await.unwrap();
    assert!(
        rows.iter()
            .all(|row| !format!("{row:?}").contains(&token[12..]))
    );
}

#[tokio::test]
async fn a_key_ends_when_it_expires_or_is_revoked_over_restarts() {
    let store = store();
    let keys = Keys::open(store.clone()).await.unwrap();
    let expiring = NewKey {
        expires_at: Some(UnixMillis(NOW.0 + 10)),
        ..new(&[Scope::Admin])
    };
    let (_, token) = keys.create(expiring, NOW).await.unwrap();
    assert!(keys.verify(&token, UnixMillis(NOW.0 + 9)).is_ok());
    assert_eq!(
        keys.verify(&token, UnixMillis(NOW.0 + 10)).unwrap_err(),
        Refusal::Expired
    );

    let (key, token) = keys.create(new(&[Scope::Admin]), NOW).await.unwrap();
    keys.verify(&token, NOW).unwrap();
    keys.record_used().await.unwrap();
    keys.revoke(&key.id, NOW).await.unwrap();
    assert!(matches!(
        keys.revoke("00000000", NOW).await,
        Err(KeyError::Unknown(_))
    ));
    let reopened = Keys::open(store.clone()).await.unwrap();
    for keys in [&keys, &reopened] {
        assert_eq!(keys.verify(&token, NOW).unwrap_err(), Refusal::Revoked);
    }
    let found = reopened
        .list()
        .into_iter()
        .find(|k| k.id == key.id)
        .unwrap();
    assert_eq!(
        (found.last_used(), found.revoked_at()),
        (Some(NOW), Some(NOW))
    );
}

#[tokio::test]
async fn a_key_that_makes_no_sense_is_not_made() {
    let store = store();
    let keys = Keys::open(store.clone()).await.unwrap();
    let sensible = new(&[Scope::Admin]);
    for nonsense in [
        new(&[]),
        NewKey {
            name: String::new(),
            ..sensible.clone()
        },
        NewKey {
            name: "a\nb".to_owned(),
            ..sensible.clone()
        },
        NewKey {
            expires_at: Some(NOW),
            ..sensible.clone()
        },
        NewKey {
            devices: Some(Restriction::default()),
            ..sensible
        },
    ] {
        assert!(
            keys.create(nonsense.clone(), NOW).await.is_err(),
            "{nonsense:?}"
        );
    }
    assert!("command:write".parse::<Scope>().is_err());
    assert_eq!("metrics:read".parse::<Scope>().unwrap(), Scope::MetricsRead);
}

#[tokio::test]
async fn scopes_and_restrictions_are_what_they_say() {
    let store = store();
    let keys = Keys::open(store.clone()).await.unwrap();
    let (reader, _) = keys.create(new(&[Scope::DeviceRead]), NOW).await.unwrap();
    assert!(reader.allows(Scope::DeviceRead) && !reader.allows(Scope::CommandSend));
    let (admin, _) = keys.create(new(&[Scope::Admin]), NOW).await.unwrap();
    assert!(Scope::ALL.into_iter().all(|scope| admin.allows(scope)));

    let only = Restriction {
        ids: vec!["a".to_owned()],
        prefixes: vec!["hall_".to_owned()],
        groups: vec!["pumps".to_owned()],
    };
    let restricted = NewKey {
        devices: Some(only),
        ..new(&[Scope::Admin])
    };
    let (key, _) = keys.create(restricted, NOW).await.unwrap();
    let device = |id: &str, groups: &[&str]| Device {
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..Device::new(DeviceKey(1), id.parse().unwrap())
    };
    for (device, expected) in [
        (device("a", &[]), true),
        (device("ab", &[]), false),
        (device("hall_1", &[]), true),
        (device("b", &["pumps"]), true),
        (device("b", &["Pumps", "other"]), false),
    ] {
        assert_eq!(key.reaches(&device), expected, "{device:?}");
        assert!(reader.reaches(&device));
    }
}
