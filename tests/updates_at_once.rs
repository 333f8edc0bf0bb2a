//! A thousand devices update at once: each gets its image whole, the gateway's memory stays bounded, and
//! telemetry flows on meanwhile. With the gateway's own server, and with nginx in front of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails says where"
)]

mod support;

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use support::{
    Gateway, Setup, envelope,
    mqtt::{Client, Hello},
    updates::{Fleet, Server, Signed, image},
};

const DEVICES: usize = 1_000;
const IMAGE: usize = 64 * 1024;
/// What the gateway's memory may grow by: 256 connections, each with the buffers of TLS, HTTP and one
/// piece of the image, are 40 MB; a copy of the image for each of the thousand would be 64 MB, and an
/// unbounded number of connections far more.
const GROWTH_KIB: u64 = 64 * 1024;
/// For a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn embedded() {
    everybody_at_once(Server::Embedded);
}

#[test]
fn nginx() {
    everybody_at_once(Server::Nginx);
}

fn id(number: usize) -> String {
    format!("sim_{number:04}")
}

fn everybody_at_once(server: Server) {
    let mut devices = String::new();
    for number in 0..DEVICES {
        writeln!(devices, "[devices.{}]", id(number)).unwrap();
    }
    let setup = Setup::new().device("sensor_001").toml(&devices);
    let fleet = Fleet::with(setup, server, "bytes_per_second = \"4 MiB\"");
    let bytes = Arc::new(image(IMAGE, 1));
    let release = fleet.publish(&bytes, &Signed::default());
    fleet
        .gateway
        .run(&["firmware", "rollout", &release, "--percent", "100"]);
    let configs = configurations(&fleet.gateway);

    let bundle = fleet.gateway.bundle("sensor_001");
    let before = peak_kib(fleet.gateway.pid());
    let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Barrier::new(DEVICES + 1);
    let (took, slowest, again) = thread::scope(|scope| {
        let telemetry = scope.spawn(|| {
            let mut client = Client::connect(&fleet.gateway, &bundle, &Hello::default());
            client.set_read_timeout(PATIENCE);
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let message = envelope("sensor_001", "{\"t\":1}");
                let began = Instant::now();
                let (code, why) = client.publish("device/sensor_001/data", message.as_bytes());
                assert_eq!(code, 0, "{why}");
                slowest = slowest.max(began.elapsed());
                acknowledged.fetch_add(1, Ordering::Relaxed);
                // Well below what a device may send.
                thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let updating: Vec<_> = configs
            .into_iter()
            .map(|config| {
                let (bytes, start, address) = (&bytes, &start, fleet.address);
                thread::Builder::new()
                    .stack_size(512 * 1024)
                    .spawn_scoped(scope, move || {
                        start.wait();
                        patiently(address, &Arc::new(config), bytes)
                    })
                    .unwrap()
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let tries: Vec<_> = updating
            .into_iter()
            .map(|device| device.join().unwrap())
            .collect();
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let slowest = telemetry.join().unwrap();
        let failed: Vec<_> = tries
            .iter()
            .filter_map(|tries| tries.as_ref().err())
            .collect();
        let first = failed.first();
        assert!(
            failed.is_empty(),
            "{} did not get their image: {first:?}",
            failed.len()
        );
        let again = tries.iter().flatten().filter(|tries| **tries > 1).count();
        (took, slowest, again)
    });
    let after = peak_kib(fleet.gateway.pid());
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    println!(
        "{server:?}: {DEVICES} devices took {IMAGE} bytes each in {took:.1?}, {again} of them at \
         the second try or later; the gateway's memory peaked at \
         {} MiB ({} MiB before); meanwhile {acknowledged} messages were acknowledged, the slowest after {slowest:.1?}",
        after / 1024,
        before / 1024
    );
    assert!(acknowledged > 0, "telemetry stood still");
    assert!(
        after - before < GROWTH_KIB,
        "{before} KiB, then {after} KiB"
    );
}

/// A device tries again when it was put off, as devices do; how often it tried.
fn patiently(address: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> io::Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    let mut tries = 1;
    while let Err(error) = update(address, config, bytes) {
        if error.kind() == io::ErrorKind::InvalidData || Instant::now() > deadline {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(500));
        tries += 1;
    }
    Ok(tries)
}

/// A device: asks, downloads, compares.
fn update(address: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> io::Result<()> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, socket));
    let query = "product=dashboard&chip=esp32c3&version=1.0.0&security_version=0";
    let manifest = get(&mut stream, &format!("/v1/update?{query}"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let sha256 = manifest["manifest"]["sha256"].as_str().unwrap();
    if get(&mut stream, &format!("/v1/image/{sha256}"))? == bytes {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "another image"))
}

fn get(stream: &mut (impl BufRead + Inner), path: &str) -> io::Result<Vec<u8>> {
    write!(
        stream.inner(),
        "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.split(' ').nth(1) {
        Some("200") => {}
        // Busy: later.
        Some("429" | "503" | "504") | None => return Err(io::Error::other(line)),
        Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, line)),
    }
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// What is below a buffered reader.
trait Inner {
    fn inner(&mut self) -> &mut dyn Write;
}

impl<S: Read + Write> Inner for BufReader<S> {
    fn inner(&mut self) -> &mut dyn Write {
        self.get_mut()
    }
}

/// A certificate for every simulated device, signed with the gateway's own authority: what `pki issue`
/// does, without writing a thousand bundles.
fn configurations(gateway: &Gateway) -> Vec<ClientConfig> {
    let pki = gateway.setup.state_dir().join("pki");
    let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
    let authority = read("device-ca.crt");
    let key = KeyPair::from_pem(&read("device-ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&authority, key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&pki.join("root.crt"))).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    (0..DEVICES)
        .map(|number| {
            let mut params = CertificateParams::default();
            let urn = format!("urn:tidegate:device:{}", id(number));
            params.subject_alt_names = vec![SanType::URI(urn.as_str().try_into().unwrap())];
            params
                .distinguished_name
                .push(DnType::CommonName, id(number));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &issuer).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(Arc::clone(&roots))
                .with_client_auth_cert(vec![leaf.der().clone()], key)
                .unwrap()
        })
        .collect()
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// The most memory a process ever had, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
