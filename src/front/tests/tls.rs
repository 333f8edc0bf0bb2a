//! Listeners: real sockets, real handshakes, and why some fail.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tidegate_mqtt::ReasonCode;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, server::TlsStream};

use super::{
    super::{
        bind,
        connect::{self, Arrival},
        connection::Connection,
        metrics::HandshakeFailure,
        run,
    },
    client::{Client, Got, Hello},
    world::World,
};
use crate::{
    clock::system_now,
    config::{Limits, Listener, ListenerMode},
    pki::{self, Bundle, PkiDir, Profiles},
};

fn issue(world: &World, id: &str) -> Bundle {
    let request = pki::DeviceRequest {
        id: id.to_owned(),
        csr: None,
        gateway: None,
        secret: pki::SecretSource::Generate,
        release_keys: Vec::new(),
        force: true,
    };
    let (dir, profiles) = (
        PkiDir::new(world.folder.path()),
        Profiles::embedded().unwrap(),
    );
    pki::issue_device(&dir, &profiles, &request, OffsetDateTime::now_utc())
        .unwrap()
        .bundle
}

fn client_config(bundle: &Bundle, with_certificate: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.ca.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(pki::credentials::provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(if with_certificate {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(bundle.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(bundle.key.as_ref().unwrap().as_bytes()).unwrap();
        builder.with_client_auth_cert(chain.unwrap(), key).unwrap()
    } else {
        builder.with_no_client_auth()
    })
}

async fn dial(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Client> {
    let tcp = TcpStream::connect(address).await?;
    let name = "localhost".try_into().unwrap();
    Ok(Client::new(
        TlsConnector::from(config.clone())
            .connect(name, tcp)
            .await?,
    ))
}

fn listen(world: &World, mode: ListenerMode) -> SocketAddr {
    let listener = Listener {
        address: "127.0.0.1:0".parse().unwrap(),
        mode,
        max_fragment_bytes: None,
    };
    let bound = bind(&BTreeMap::from([("test".to_owned(), listener)])).unwrap();
    let address = bound[0].address().unwrap();
    run(bound, &world.shared, &world.tasks).unwrap();
    address
}

async fn counted(world: &World, cause: HandshakeFailure, expected: u64) {
    for _ in 0..300 {
        if world.shared.metrics.handshake_failed(cause).get() == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{}: {}",
        cause.code(),
        world.shared.metrics.handshake_failed(cause).get()
    );
}

#[tokio::test]
async fn mutual_tls_and_every_cause_of_failure() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let address = listen(&world, ListenerMode::MutualTls);
    let bundle = issue(&world, "a");
    let config = client_config(&bundle, true);
    let mut client = dial(address, &config).await.unwrap();
    client.connected(Hello::v5("x")).await;
    client.ping().await;
    // Resumed: judged all the same.
    let mut again = dial(address, &config).await.unwrap();
    again.connected(Hello::v5("x")).await;
    assert_eq!(world.shared.metrics.handshakes_resumed.get(), 1);

    let stranger = issue(&world, "stranger");
    // In TLS 1.3 the client learns of its refusal only after the handshake.
    let _ = dial(address, &client_config(&stranger, true)).await;
    counted(&world, HandshakeFailure::UnknownDevice, 1).await;
    let _ = dial(address, &client_config(&bundle, false)).await;
    counted(&world, HandshakeFailure::NoCertificate, 1).await;
    let other = World::new().await;
    let foreign = Bundle {
        ca: bundle.ca.clone(),
        ..issue(&other, "a")
    };
    let _ = dial(address, &client_config(&foreign, true)).await;
    counted(&world, HandshakeFailure::UnknownAuthority, 1).await;
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    counted(&world, HandshakeFailure::NotTls, 1).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    counted(&world, HandshakeFailure::Timeout, 1).await;
    world
        .registry
        .set_enabled(&"b".parse().unwrap(), false, "test", system_now())
        .await
        .unwrap();
    let _ = dial(address, &client_config(&issue(&world, "b"), true)).await;
    counted(&world, HandshakeFailure::DisabledDevice, 1).await;

    // Revoked while connected: closed within a second, and not let in again by resuming.
    let dir = PkiDir::new(world.folder.path());
    let target = pki::RevokeTarget::Name("a".to_owned());
    pki::revoke(
        &dir,
        &target,
        pki::Reason::Unspecified,
        OffsetDateTime::now_utc(),
    )
    .unwrap();
    let fresh = pki::credentials::load(&dir, OffsetDateTime::now_utc()).unwrap();
    world.credentials.send_replace(Arc::new(fresh));
    let since = std::time::Instant::now();
    assert_eq!(
        again.next().await,
        Got::Disconnect(ReasonCode::NotAuthorized)
    );
    assert!(since.elapsed() < Duration::from_secs(1));
    let _ = dial(address, &config).await;
    counted(&world, HandshakeFailure::Revoked, 1).await;
}

#[tokio::test]
async fn idle_strangers_do_not_keep_devices_out() {
    let limits = Limits {
        handshakes: 2,
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let address = listen(&world, ListenerMode::MutualTls);
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut client = dial(address, &client_config(&issue(&world, "a"), true))
        .await
        .unwrap();
    client.connected(Hello::v3("x")).await;
}

#[tokio::test]
async fn passwords_where_they_are_allowed() {
    let world = World::new().await;
    let id = "a".parse().unwrap();
    world
        .registry
        .set_password(&id, Some(b"open sesame"), system_now())
        .await
        .unwrap();
    let plain = listen(&world, ListenerMode::Plain);
    let tls = listen(&world, ListenerMode::ServerTls);
    let config = client_config(&issue(&world, "a"), false);
    for login in [
        None,
        Some(("a", "wrong")),
        Some(("b", "open sesame")),
        Some(("no one", "x")),
    ] {
        let mut client = Client::new(TcpStream::connect(plain).await.unwrap());
        let refused = client
            .hello(Hello {
                login,
                ..Hello::v5("x")
            })
            .await;
        let reason = ReasonCode::BadUserNameOrPassword;
        assert_eq!(
            refused,
            Got::ConnAck {
                present: false,
                reason,
                assigned: None
            },
            "{login:?}"
        );
    }
    let login = Some(("a", "open sesame"));
    let mut client = Client::new(TcpStream::connect(plain).await.unwrap());
    client
        .connected(Hello {
            login,
            ..Hello::v3("x")
        })
        .await;
    let mut client = dial(tls, &config).await.unwrap();
    client
        .connected(Hello {
            login,
            ..Hello::v3("x")
        })
        .await;
    client.ping().await;
}

#[tokio::test]
async fn connections_are_limited_per_address() {
    let limits = Limits {
        connections_per_address: 2,
        ..super::world::limits()
    };
    let world = World::with(limits).await;
    let address = listen(&world, ListenerMode::Plain);
    let _kept = [
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    ];
    let mut third = TcpStream::connect(address).await.unwrap();
    let mut nothing = Vec::new();
    // Closed or reset: nothing is ever said.
    let _ = third.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    assert_eq!(world.shared.metrics.connections_refused.get(), 1);
}

/// A thousand idle devices cost what one costs, a thousand times: the goal is 40 KiB each, of which
/// TLS takes the most.
#[tokio::test]
async fn what_a_connection_holds_while_idle_stays_small() {
    let world = World::new().await;
    let (io, _other) = tokio::io::duplex(1);
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    let arrival = Arrival {
        io,
        address,
        certificate: None,
        principal: None,
    };
    let task = connect::serve(world.shared.clone(), arrival);
    assert!(size_of_val(&task) <= 512, "{}", size_of_val(&task));
    let state = size_of::<Connection<TlsStream<TcpStream>>>();
    assert!(state <= 2_560, "{state}");
}
