//! Against a backend on a real socket that does as it is told.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tidegate_wire::MessageId;

use super::*;
use crate::{
    clock::UnixMillis,
    forward::tests::backend::{Act, Backend, Post, answer},
    store::{DeviceKey, Seq},
};

fn config(url: &str) -> config::HttpUpstream {
    config::HttpUpstream {
        url: url.to_owned(),
        ca_file: None,
        client_certificate_file: None,
        client_key_file: None,
        bearer_token_file: None,
        timeout: Duration::from_secs(30),
        workers: 4,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(100),
        events: false,
    }
}

fn message(payload: &'static [u8]) -> Message {
    Message {
        seq: Seq(1),
        device: DeviceKey(1),
        kind: Kind::Data,
        message_id: MessageId::parse(b"550e8400-e29b-41d4-a716-446655440000").unwrap(),
        timestamp: 1_727_712_000,
        received_at: UnixMillis(1_727_712_001_042),
        payload: Bytes::from_static(payload),
    }
}

fn device() -> DeviceId {
    "sensor_001".parse().unwrap()
}

fn ask(script: impl Fn(&Post) -> Vec<Act> + Send + Sync + 'static) -> (Answer, Backend) {
    let backend = Backend::start(script);
    let upstream = HttpUpstream::new("b", &config(&backend.url())).unwrap();
    (upstream.deliver(&device(), &message(b"{}")), backend)
}

fn ask_raw(text: &'static str) -> Answer {
    ask(move |_| vec![Act::Write(text.as_bytes().to_vec()), Act::Close]).0
}

fn cause(answer: &Answer) -> Option<Cause> {
    match answer {
        Answer::Retry { cause, .. } => Some(*cause),
        _ => None,
    }
}

#[test]
fn the_request_is_as_the_contract_says() {
    let backend = Backend::start(|_| answer("200 OK", "", r#"{"ok":true}"#));
    let mut config = config(&format!("{}/ingest/v1/", backend.url()));
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    config.bearer_token_file = Some(token.clone());
    let upstream = HttpUpstream::new("b", &config).unwrap();
    let payload = br#"{ "temperature": 22.50, "note": "\u00e9" }"#;
    assert_eq!(
        upstream.deliver(&device(), &message(payload)),
        Answer::Settled {
            reply: Some(Bytes::from_static(br#"{"ok":true}"#))
        }
    );
    let post = &backend.posts()[0];
    assert_eq!(post.line, "POST /ingest/v1/device/sensor_001/data HTTP/1.1");
    assert_eq!(post.body, payload, "exactly as the device wrote it");
    let expected = [
        ("content-type", "application/json"),
        (
            "idempotency-key",
            "sensor_001:550e8400-e29b-41d4-a716-446655440000",
        ),
        ("tidegate-timestamp", "1727712000"),
        ("tidegate-received-at", "1727712001.042"),
        ("authorization", "Bearer s3cret"),
        ("user-agent", USER_AGENT),
        ("content-length", "42"),
    ];
    for (name, value) in expected {
        assert_eq!(post.header(name), Some(value), "{post:?}");
    }
    assert_eq!(
        post.header("accept-encoding"),
        None,
        "a reply is passed on as it is"
    );

    let mut event = message(b"{}");
    event.kind = Kind::Event;
    fs::write(&token, "other-token").unwrap();
    upstream.credentials.refresh_now();
    upstream.deliver(&device(), &event);
    let post = &backend.posts()[1];
    assert_eq!(
        post.line,
        "POST /ingest/v1/device/sensor_001/event HTTP/1.1"
    );
    assert_eq!(
        post.header("authorization"),
        Some("Bearer other-token"),
        "read again"
    );
    assert_eq!(post.connection, 1, "the connection is kept");
    fs::write(&token, "").unwrap();
    upstream.credentials.refresh_now();
    upstream.deliver(&device(), &event);
    assert_eq!(
        backend.posts()[2].header("authorization"),
        Some("Bearer other-token")
    );
}

#[test]
fn statuses_mean_what_the_contract_says() {
    for (status, expected) in [
        ("408 x", Cause::Failed),
        ("425 x", Cause::Failed),
        ("429 x", Cause::Overloaded),
        ("500 x", Cause::Failed),
        ("501 x", Cause::Failed),
        ("503 x", Cause::Overloaded),
        ("599 x", Cause::Failed),
    ] {
        let (got, _) = ask(move |_| answer(status, "Retry-After: 7\r\n", "sorry"));
        let Answer::Retry { after, cause, .. } = got else {
            panic!("{status}: {got:?}")
        };
        assert_eq!(
            (after, cause),
            (Some(Duration::from_secs(7)), expected),
            "{status}"
        );
    }
    for status in [
        "400 x", "401 x", "404 x", "409 x", "413 x", "422 x", "418 x",
    ] {
        let (got, _) = ask(move |_| answer(status, "", "no"));
        let code: u16 = status[..3].parse().unwrap();
        assert!(
            matches!(&got, Answer::Refused { status: Some(s), .. } if *s == code),
            "{status}: {got:?}"
        );
    }
    for status in ["200 x", "201 x", "202 x", "299 x"] {
        let (got, _) = ask(move |_| answer(status, "", "yes"));
        assert_eq!(
            got,
            Answer::Settled {
                reply: Some(Bytes::from_static(b"yes"))
            },
            "{status}"
        );
    }
    let (got, _) = ask(|_| vec![Act::Write(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]);
    assert_eq!(got, Answer::Settled { reply: None });
    let (got, _) = ask(|_| answer("200 OK", "", ""));
    assert_eq!(
        got,
        Answer::Settled { reply: None },
        "there is nothing to pass on"
    );
}

#[test]
fn redirects_are_not_followed() {
    for status in ["301 x", "302 x", "303 x", "307 x", "308 x"] {
        let other = Backend::start(|_| answer("200 OK", "", "caught"));
        let location = format!("Location: {}/elsewhere\r\n", other.url());
        let (got, backend) = ask(move |_| answer(status, &location, ""));
        let Answer::Refused { reason, .. } = got else {
            panic!("{status}: {got:?}")
        };
        assert!(
            reason.contains("not followed") && reason.contains("/elsewhere"),
            "{reason}"
        );
        assert_eq!(backend.posts().len(), 1);
        assert_eq!(other.posts().len(), 0, "{status} was followed");
    }
}

#[test]
fn broken_answers_are_tried_again() {
    for (text, expected) in [
        ("", Cause::NoAnswer),
        ("HTTP/1.1 20", Cause::NoAnswer),
        ("HTTP/1.1 200 OK\r\ncontent-le", Cause::NoAnswer),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", Cause::NoAnswer),
        ("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\n\r\n", Cause::NoAnswer),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
            Cause::TornReply,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            Cause::TornReply,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
            Cause::TornReply,
        ),
    ] {
        assert_eq!(cause(&ask_raw(text)), Some(expected), "{text:?}");
    }
    let huge = ask(|_| {
        let header = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        vec![Act::Write(header.into_bytes())]
    });
    assert_eq!(cause(&huge.0), Some(Cause::NoAnswer));
}

#[test]
fn chunked_and_close_delimited_replies_are_whole() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let whole = Answer::Settled {
        reply: Some(Bytes::from_static(b"hello world")),
    };
    assert_eq!(ask_raw(chunked), whole);
    assert_eq!(ask_raw("HTTP/1.0 200 OK\r\n\r\nhello world"), whole);
}

#[test]
fn what_follows_a_reply_is_not_taken_for_the_next_one() {
    let backend = Backend::start(|post| {
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{:02}HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n",
            post.number
        );
        vec![Act::Write(text.into_bytes())]
    });
    let upstream = HttpUpstream::new("b", &config(&backend.url())).unwrap();
    for reply in ["01", "02", "03"] {
        let expected = Answer::Settled {
            reply: Some(Bytes::from_static(reply.as_bytes())),
        };
        assert_eq!(upstream.deliver(&device(), &message(b"{}")), expected);
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
}

#[test]
fn a_reply_is_at_most_64_kib_and_no_more_is_read() {
    let (got, _) = ask(|_| answer("200 OK", "", &"x".repeat(64 * 1024)));
    assert!(matches!(got, Answer::Settled { reply: Some(reply) } if reply.len() == 65_536));
    let total = 200 * 1024 * 1024;
    for head in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n"),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nC800000\r\n".to_owned(),
    ] {
        let script = head.clone();
        let (got, backend) = ask(move |post| {
            if post.number > 1 {
                return answer("200 OK", "", "short");
            }
            vec![
                Act::Write(script.clone().into_bytes()),
                Act::Flood(total),
                Act::Close,
            ]
        });
        assert_eq!(got, Answer::Settled { reply: None }, "{head:?}");
        thread::sleep(Duration::from_millis(50));
        let sent = backend.flooded.load(Ordering::SeqCst);
        assert!(sent < total / 4, "{sent} bytes were taken: {head:?}");
        assert_eq!(
            backend.open.load(Ordering::SeqCst),
            0,
            "the connection is dropped: {head:?}"
        );
    }
    let (got, _) = ask(move |_| {
        let head = format!("HTTP/1.1 500 x\r\ncontent-length: {total}\r\n\r\n");
        vec![Act::Write(head.into_bytes()), Act::Flood(total)]
    });
    assert_eq!(cause(&got), Some(Cause::Failed));
}

#[test]
fn the_timeout_is_for_all_of_it() {
    let slow = |script: fn(&Post) -> Vec<Act>| {
        let backend = Backend::start(script);
        let mut config = config(&backend.url());
        config.timeout = Duration::from_millis(300);
        let upstream = HttpUpstream::new("b", &config).unwrap();
        let began = Instant::now();
        let answer = upstream.deliver(&device(), &message(b"{}"));
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        cause(&answer)
    };
    assert_eq!(
        slow(|_| vec![Act::Sleep(Duration::from_secs(20))]),
        Some(Cause::NoAnswer)
    );
    // A byte now and then does not keep it alive.
    let drip = |_: &Post| {
        let mut acts = vec![Act::Write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n".to_vec(),
        )];
        for _ in 0..200 {
            acts.extend([
                Act::Sleep(Duration::from_millis(100)),
                Act::Write(b"x".to_vec()),
            ]);
        }
        acts
    };
    assert_eq!(slow(drip), Some(Cause::TornReply));
}

#[test]
fn nobody_there_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let upstream = HttpUpstream::new("b", &config(&format!("http://{free}"))).unwrap();
    assert_eq!(
        cause(&upstream.deliver(&device(), &message(b"{}"))),
        Some(Cause::Unreachable)
    );
    let upstream = HttpUpstream::new("b", &config("http://no-such-host.invalid")).unwrap();
    assert_eq!(
        cause(&upstream.deliver(&device(), &message(b"{}"))),
        Some(Cause::Unreachable)
    );
}

#[test]
fn a_connection_is_kept_while_it_is_good() {
    let backend = Backend::start(|post| match post.number {
        1..=9 => answer("503 x", "", "busy"),
        10..=19 => answer("200 OK", "", "ok"),
        20 => answer("200 OK", "connection: close\r\n", "bye")
            .into_iter()
            .chain([Act::Close])
            .collect(),
        _ => answer("200 OK", "", "again"),
    });
    let upstream = HttpUpstream::new("b", &config(&backend.url())).unwrap();
    for _ in 0..30 {
        upstream.deliver(&device(), &message(b"{}"));
    }
    assert_eq!(backend.posts().len(), 30);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 2);
}

#[test]
fn a_connection_the_backend_closed_meanwhile_is_not_used() {
    let backend = Backend::start(|_| {
        answer("200 OK", "", "ok")
            .into_iter()
            .chain([Act::Close])
            .collect()
    });
    let upstream = HttpUpstream::new("b", &config(&backend.url())).unwrap();
    for _ in 0..5 {
        let answer = upstream.deliver(&device(), &message(b"{}"));
        assert!(matches!(answer, Answer::Settled { .. }), "{answer:?}");
        while backend.open.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn stopping_ends_what_is_under_way() {
    let backend = Backend::start(|_| vec![Act::Sleep(Duration::from_secs(30))]);
    let mut config = config(&backend.url());
    config.timeout = Duration::from_secs(60);
    let upstream = Arc::new(HttpUpstream::new("b", &config).unwrap());
    let delivering = Arc::clone(&upstream);
    let began = Instant::now();
    let thread = thread::spawn(move || delivering.deliver(&device(), &message(b"{}")));
    while backend.posts().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    upstream.interrupt();
    assert_eq!(cause(&thread.join().unwrap()), Some(Cause::NoAnswer));
    assert!(began.elapsed() < Duration::from_secs(20));
}

struct Pki {
    folder: tempfile::TempDir,
    server: rustls::ServerConfig,
}

fn pki() -> Pki {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        (
            CertificateParams::new(names)
                .unwrap()
                .signed_by(&key, &ca)
                .unwrap(),
            key,
        )
    };
    let ((server, server_key), (client, client_key)) = (leaf("localhost"), leaf("gateway"));
    let write = |name, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", ca.pem());
    write("client.pem", client.pem());
    write("client.key", client_key.serialize_pem());
    write("other.key", KeyPair::generate().unwrap().serialize_pem());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![server.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).unwrap(),
        )
        .unwrap();
    Pki { folder, server }
}

#[test]
fn tls_with_a_ca_and_a_client_certificate_of_our_own() {
    let Pki { folder, server } = pki();
    let path = |name: &str| Some(folder.path().join(name));
    let backend = Backend::start_tls(server, |_| answer("200 OK", "", "sealed"));
    let mut config = config(&format!("https://localhost:{}", backend.address.port()));
    config.ca_file = path("ca.pem");
    let upstream = HttpUpstream::new("b", &config).unwrap();
    let answer = upstream.deliver(&device(), &message(b"{}"));
    assert!(
        cause(&answer).is_some(),
        "without a client certificate: {answer:?}"
    );
    assert!(backend.posts().is_empty());

    config.client_certificate_file = path("client.pem");
    config.client_key_file = path("client.key");
    let upstream = HttpUpstream::new("b", &config).unwrap();
    for _ in 0..5 {
        let answer = upstream.deliver(&device(), &message(b"{}"));
        assert_eq!(
            answer,
            Answer::Settled {
                reply: Some(Bytes::from_static(b"sealed"))
            }
        );
    }
    let connections: Vec<usize> = backend.posts().iter().map(|post| post.connection).collect();
    assert!(
        connections.windows(2).all(|pair| pair[0] == pair[1]),
        "{connections:?}"
    );

    // The address is checked against the certificate.
    let wrong = config.url.replace("localhost", "127.0.0.2");
    let stranger = HttpUpstream::new(
        "b",
        &config::HttpUpstream {
            url: wrong,
            ..config.clone()
        },
    );
    let answer = stranger.unwrap().deliver(&device(), &message(b"{}"));
    assert_eq!(cause(&answer), Some(Cause::Unreachable), "{answer:?}");

    // Another CA's server is not believed, and a new CA file is noticed.
    let posts = backend.posts().len();
    fs::write(folder.path().join("ca.pem"), pki_ca()).unwrap();
    upstream.credentials.refresh_now();
    let answer = upstream.deliver(&device(), &message(b"{}"));
    assert_eq!(cause(&answer), Some(Cause::Unreachable), "{answer:?}");
    assert_eq!(backend.posts().len(), posts);
}

fn pki_ca() -> String {
    fs::read_to_string(pki().folder.path().join("ca.pem")).unwrap()
}

#[test]
fn what_is_configured_wrongly_is_refused_at_the_start() {
    let Pki { folder, .. } = pki();
    let path = |name: &str| Some(folder.path().join(name));
    let build = |change: &dyn Fn(&mut config::HttpUpstream)| {
        let mut config = config("https://localhost:1");
        config.ca_file = path("ca.pem");
        change(&mut config);
        HttpUpstream::new("b", &config).unwrap_err()
    };
    assert!(matches!(
        build(&|c| c.ca_file = path("none.pem")),
        HttpError::Read { .. }
    ));
    assert!(matches!(
        build(&|c| c.ca_file = path("client.key")),
        HttpError::Pem { .. }
    ));
    let half = build(&|c| c.client_key_file = path("client.key"));
    assert!(matches!(half, HttpError::HalfIdentity { .. }));
    let mismatch = build(&|c| {
        c.client_certificate_file = path("client.pem");
        c.client_key_file = path("other.key");
    });
    assert!(matches!(mismatch, HttpError::Identity { .. }), "{mismatch}");
    fs::write(folder.path().join("token"), "two\nlines").unwrap();
    let token = build(&|c| c.bearer_token_file = path("token"));
    assert!(matches!(token, HttpError::Token { .. }) && !token.to_string().contains("lines"));
}
