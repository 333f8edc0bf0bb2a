use std::io;

use axum::routing::get;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

/// A certificate and the key to it.
struct Server {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

fn server() -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    Server {
        config: Arc::new(config),
        certificate,
    }
}

struct Running {
    address: SocketAddr,
    tls: watch::Sender<Arc<ServerConfig>>,
    tasks: Tasks,
}

const BOUNDS: Bounds = Bounds {
    connections: 8,
    connections_per_address: 4,
    handshake_timeout: Duration::from_millis(300),
    header_timeout: Duration::from_millis(300),
    stall_timeout: Duration::from_millis(500),
    drain_timeout: Duration::from_secs(5),
};

/// More than the system keeps of what a peer does not read.
const LARGE: usize = 64 << 20;

async fn start(server: &Server) -> Running {
    let large = bytes::Bytes::from(vec![0; LARGE]);
    let router = Router::new()
        .route(
            "/peer",
            get(|Extension(Peer(peer)): Extension<Peer>| async move { peer.to_string() }),
        )
        .route("/large", get(async move || large.clone()))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(400)).await;
                "done"
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, receiver) = watch::channel(Arc::clone(&server.config));
    let (tasks, _ended) = Tasks::new();
    tasks.spawn(
        "api",
        serve(listener, receiver, router, BOUNDS, tasks.clone()),
    );
    Running {
        address,
        tls,
        tasks,
    }
}

async fn connect(address: SocketAddr, trusted: &Server) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn get_path(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !complete(&answer) {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "closed too early"
        );
    }
    String::from_utf8(answer).unwrap()
}

fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.unwrap().parse::<usize>().unwrap()
}

/// Everything the server says until it closes.
async fn rest(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes))
        .await
        .expect("the server closes the connection")
        .unwrap_or(0)
}

#[tokio::test]
async fn requests_are_answered_over_one_connection_and_know_their_peer() {
    let server = server();
    let running = start(&server).await;
    let mut stream = connect(running.address, &server).await.unwrap();
    let own = stream.get_ref().0.local_addr().unwrap();
    for _ in 0..2 {
        let answer = get_path(&mut stream, "/peer").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with(&own.to_string()),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_connection() {
    let (first, second) = (server(), server());
    let running = start(&first).await;
    let mut open = connect(running.address, &first).await.unwrap();
    running.tls.send_replace(Arc::clone(&second.config));
    connect(running.address, &second).await.unwrap();
    assert!(connect(running.address, &first).await.is_err());
    assert!(
        get_path(&mut open, "/peer")
            .await
            .starts_with("HTTP/1.1 200"),
        "open ones go on"
    );
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let server = server();
    let running = start(&server).await;
    // Not even a handshake.
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    assert_eq!(rest(&mut silent).await, 0);
    // Half a header.
    let mut slow = connect(running.address, &server).await.unwrap();
    slow.write_all(b"GET /peer HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(5), slow.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the server closes the connection");
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    // Plain HTTP is no handshake.
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain
        .write_all(b"GET /peer HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    rest(&mut plain).await;
}

#[tokio::test]
async fn one_address_cannot_take_every_place() {
    let server = server();
    let running = start(&server).await;
    let mut open = Vec::new();
    for _ in 0..BOUNDS.connections_per_address {
        open.push(connect(running.address, &server).await.unwrap());
    }
    assert!(connect(running.address, &server).await.is_err());
    drop(open);
    // The places come back when the server has noticed.
    for attempt in 0.. {
        match connect(running.address, &server).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 100, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_does_not_read_is_left() {
    let server = server();
    let running = start(&server).await;
    let mut deaf = Vec::new();
    for _ in 0..BOUNDS.connections_per_address {
        let mut stream = connect(running.address, &server).await.unwrap();
        let request = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        deaf.push(stream);
    }
    // Their places are free again although none of them let go.
    for attempt in 0.. {
        match connect(running.address, &server).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 1500, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(deaf);
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_gateway_stops() {
    let server = server();
    let running = start(&server).await;
    let mut stream = connect(running.address, &server).await.unwrap();
    let mut idle = connect(running.address, &server).await.unwrap();
    get_path(&mut idle, "/peer").await;
    let tasks = running.tasks.clone();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tasks.stop();
    };
    let (answer, ()) = tokio::join!(get_path(&mut stream, "/slow"), stop);
    assert!(answer.ends_with("done"), "{answer}");
    timeout(Duration::from_secs(2), running.tasks.drained())
        .await
        .expect("nothing is left running");
    assert!(TcpStream::connect(running.address).await.is_err());
}
