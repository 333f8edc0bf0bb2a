use super::*;

fn database() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(include_str!("../migrations/0003_sessions.sql"))
        .unwrap();
    conn
}

fn wanted(client_id: &str) -> Open {
    Open {
        identity: "device:a".to_owned(),
        client_id: client_id.to_owned(),
        clean_start: false,
        expiry: 10,
        will: None,
        now_ms: 1_000,
        max_queued: 3,
        max_bytes: 1_000,
        max_sessions: 2,
    }
}

fn will(delay: u32) -> StoredWill {
    StoredWill {
        delay,
        qos: 1,
        retain: false,
        topic: "w".to_owned(),
        payload: vec![1],
        properties: Vec::new(),
    }
}

fn seqs(conn: &Connection, session: SessionKey) -> Vec<i64> {
    page(conn, session, 0, 100, usize::MAX)
        .unwrap()
        .iter()
        .map(|waiting| waiting.seq)
        .collect()
}

#[test]
fn packet_ids_stay_in_their_range_and_repeat_late() {
    assert_eq!(packet_id(1), 1);
    assert_eq!(packet_id(32_767), 32_767);
    assert_eq!(packet_id(32_768), 1);
    assert!((1..70_000).all(|seq| (1..=QUEUED_PACKET_IDS).contains(&packet_id(seq))));
}

#[test]
fn a_session_goes_on_unless_it_is_to_start_clean_or_has_expired() {
    let conn = database();
    let first = open(&conn, &wanted("x")).unwrap();
    let key = first.key.unwrap();
    assert!(!first.present);
    let stored = StoredSubscription {
        filter: "t".to_owned(),
        options: 1,
        identifier: Some(3),
    };
    subscribe(&conn, key, std::slice::from_ref(&stored)).unwrap();
    take_inbound(&conn, key, 7).unwrap();
    let again = open(&conn, &wanted("x")).unwrap();
    assert_eq!((again.key, again.present), (Some(key), true));
    assert_eq!(
        (again.subscriptions, again.inbound),
        (vec![stored], vec![7])
    );
    close(&conn, key, 10, false, 1_000).unwrap();
    let late = open(
        &conn,
        &Open {
            now_ms: 11_000,
            ..wanted("x")
        },
    )
    .unwrap();
    assert_eq!((late.present, late.ended), (false, vec![key]));
    let clean = open(
        &conn,
        &Open {
            clean_start: true,
            expiry: 0,
            ..wanted("x")
        },
    )
    .unwrap();
    assert_eq!((clean.key, clean.ended), (None, vec![late.key.unwrap()]));
    assert!(recover(&conn, 0).unwrap().is_empty());
}

#[test]
fn a_full_queue_gives_up_what_is_oldest_and_was_not_sent() {
    let conn = database();
    let key = open(&conn, &wanted("x")).unwrap().key.unwrap();
    for _ in 0..3 {
        enqueue(&conn, key, 1, "t", b"x").unwrap();
    }
    let sent = Progress {
        sent_through: Some(2),
        ..Progress::default()
    };
    progress(&conn, key, &sent).unwrap();
    assert_eq!(enqueue(&conn, key, 1, "t", b"x").unwrap(), 4);
    assert_eq!(seqs(&conn, key), [1, 2, 4], "1 and 2 are on their way");
    assert_eq!(
        enqueue(&conn, key, 1, "t", &[0; 2_000]).unwrap(),
        0,
        "larger than the queue"
    );
    assert_eq!(
        enqueue(&conn, SessionKey(99), 1, "t", b"x").unwrap(),
        0,
        "no such session"
    );
    let done = Progress {
        done: vec![1, 2, 3],
        ..Progress::default()
    };
    progress(&conn, key, &done).unwrap();
    assert_eq!(
        enqueue(&conn, key, 1, "t", &[0; 998]).unwrap(),
        5,
        "room for its bytes is made"
    );
    assert_eq!(seqs(&conn, key), [5]);
    assert_eq!(expire(&conn, 0).unwrap().dropped, 3);
    assert_eq!(expire(&conn, 0).unwrap().dropped, 0, "counted once");
}

#[test]
fn an_identity_keeps_the_sessions_used_last() {
    let conn = database();
    let keys: Vec<_> = (0..3)
        .map(|number| {
            let wanted = Open {
                now_ms: number,
                ..wanted(&number.to_string())
            };
            let key = open(&conn, &wanted).unwrap().key.unwrap();
            close(&conn, key, 10, false, number).unwrap();
            key
        })
        .collect();
    let left: Vec<_> = recover(&conn, 5)
        .unwrap()
        .iter()
        .map(|session| session.key)
        .collect();
    assert_eq!(left, keys[1..]);
}

#[test]
fn wills_come_due() {
    let conn = database();
    let open_with = |delay| {
        let wanted = Open {
            will: Some(will(delay)),
            ..wanted("x")
        };
        open(&conn, &wanted).unwrap().key.unwrap()
    };
    let key = open_with(0);
    assert_eq!(
        close(&conn, key, 10, true, 1_000).unwrap().unwrap().will,
        will(0),
        "at once"
    );
    let key = open_with(0);
    assert_eq!(
        close(&conn, key, 10, false, 1_000).unwrap(),
        None,
        "said goodbye"
    );
    let key = open_with(5);
    assert_eq!(close(&conn, key, 10, true, 1_000).unwrap(), None);
    assert!(!is_due(&conn, 5_999).unwrap() && is_due(&conn, 6_000).unwrap());
    let key = open_with(5);
    assert!(!is_due(&conn, 10_000_000).unwrap(), "back in time");
    // The gateway dies with the connection open.
    recover(&conn, 20_000).unwrap();
    assert_eq!(expire(&conn, 25_000).unwrap().wills.len(), 1);
    let key_again = open_with(60);
    assert_eq!(key, key_again);
    close(&conn, key, 10, true, 25_000).unwrap();
    let ended = expire(&conn, 35_000).unwrap();
    assert_eq!(
        (ended.sessions, ended.wills.len()),
        (vec![key], 1),
        "no later than the session"
    );
}

#[test]
fn retained_messages_are_kept_and_cleared() {
    let conn = database();
    let message = |payload: &'static [u8], expires_at| Queued {
        qos: 1,
        retain: true,
        topic: "t",
        payload,
        properties: &[],
        expires_at,
    };
    retain(&conn, &message(b"1", None)).unwrap();
    retain(&conn, &message(b"2", Some(50))).unwrap();
    let kept = retained(&conn).unwrap();
    assert_eq!(
        (kept.len(), kept[0].payload.as_slice()),
        (1, b"2".as_slice())
    );
    expire_retained(&conn, 50).unwrap();
    assert!(retained(&conn).unwrap().is_empty());
    retain(&conn, &message(b"3", None)).unwrap();
    clear_retained(&conn, "t").unwrap();
    assert!(retained(&conn).unwrap().is_empty());
}
