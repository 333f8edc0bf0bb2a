//! Connections that take a place and give nothing: silent ones, ones that never send CONNECT, and
//! ones that send a byte per second.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    support::{Setup, eventually, mqtt::tls_config},
    world::World,
};

/// Silent connections; and those with a whole TLS handshake each, in the short form and in the long.
const SILENT: usize = 5_000;
const GREETED_SHORT: usize = 1_000;
const GREETED_LONG: usize = 5_000;

/// Memory for a connection that has said nothing, KiB: a task and a socket.
const SILENT_KIB: u64 = 8;
/// Memory for one with TLS, KiB, in a build without optimisation.
const GREETED_KIB: u64 = 64;

/// Raises the limit of open files of this process, which the daemon inherits.
fn many_files() {
    let pid = std::process::id().to_string();
    let output = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=12000:12000"])
        .output()
        .expect("prlimit, of Debian's package util-linux");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "12,000 files may not be open: {why}"
    );
}

fn setup() -> Setup {
    // One address has them all here. They are let go late, so that they are there at the same time.
    Setup::new().toml(
        "[limits]\nconnections_per_address = 12000\nhandshake_timeout = \"20s\"\nconnect_timeout = \"20s\"\n",
    )
}

fn silent(address: SocketAddr) -> TcpStream {
    // The listen queue may be full for a moment.
    eventually("a connection", Duration::from_secs(30), || {
        TcpStream::connect(address).ok()
    })
}

/// Waits until the gateway has closed it.
fn closed(mut stream: &TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(90)))
        .unwrap();
    let mut some = [0; 512];
    loop {
        match stream.read(&mut some) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let late = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
                assert!(!late, "the gateway did not close it");
                return;
            }
        }
    }
}

fn greeted(address: SocketAddr, tls: &Arc<ClientConfig>) -> TcpStream {
    eventually("a TLS handshake", Duration::from_secs(30), || {
        let mut stream = TcpStream::connect(address).ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(tls), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).ok()?;
        }
        // Both sides' last words.
        while tls.wants_write() {
            tls.write_tls(&mut stream).ok()?;
        }
        Some(stream)
    })
}

#[test]
fn five_thousand_connections_that_never_send_a_byte() {
    many_files();
    let world = World::start("5,000 silent connections", setup(), 2);
    let before = world.rss_kib();
    world.fault();
    let address = world.gateway.mqtt();
    let held: Vec<TcpStream> = (0..SILENT).map(|_| silent(address)).collect();
    world.tally.flows(50);
    let memory = world.rss_kib().saturating_sub(before);
    println!(
        "5,000 silent connections: {} B each",
        memory * 1024 / SILENT as u64
    );
    assert!(memory < SILENT as u64 * SILENT_KIB, "{memory} KiB");
    for stream in &held {
        closed(stream);
    }
    world.recovers();
}

#[test]
fn connections_that_never_send_connect() {
    never_connect(GREETED_SHORT);
}

#[test]
#[ignore = "the long form: five thousand TLS handshakes"]
fn five_thousand_connections_that_never_send_connect() {
    never_connect(GREETED_LONG);
}

fn never_connect(count: usize) {
    many_files();
    let setup = setup().device("idle");
    let world = World::start("connections without CONNECT", setup, 2);
    let tls = tls_config(&world.gateway.bundle("idle"));
    let before = world.rss_kib();
    world.fault();
    let address = world.gateway.mqtt();
    let began = Instant::now();
    let held: Vec<TcpStream> = (0..count).map(|_| greeted(address, &tls)).collect();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    world.tally.flows(50);
    let memory = world.rss_kib().saturating_sub(before);
    println!("connections without CONNECT: {count}, {rate:.0} handshakes/s, {memory} KiB");
    assert!(memory < count as u64 * GREETED_KIB, "{memory} KiB");
    for stream in &held {
        closed(stream);
    }
    world.recovers();
}

#[test]
fn a_byte_per_second_of_tls_and_of_connect() {
    const EACH: usize = 60;
    let setup = Setup::new()
        .toml("[limits]\nhandshake_timeout = \"5s\"\nconnect_timeout = \"5s\"\n")
        .device("slow");
    let world = World::start("a byte per second", setup, 2);
    let tls = tls_config(&world.gateway.bundle("slow"));
    let address = world.gateway.mqtt();
    world.fault();
    let mut raw: Vec<TcpStream> = (0..EACH).map(|_| silent(address)).collect();
    let mut inside: Vec<StreamOwned<ClientConnection, TcpStream>> = (0..EACH)
        .map(|_| {
            let name = ServerName::try_from("localhost").unwrap();
            let tls = ClientConnection::new(Arc::clone(&tls), name).unwrap();
            let mut stream = StreamOwned::new(tls, silent(address));
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            stream
        })
        .collect();
    // The beginnings of a ClientHello, and of a CONNECT.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0];
    let connect = [
        0x10, 40, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 27,
    ];
    for (hello, connect) in hello.iter().zip(connect) {
        // Those that were closed already cannot be written to.
        for stream in &mut raw {
            let _ = stream.write_all(&[*hello]);
        }
        for stream in &mut inside {
            let _ = stream.write_all(&[connect]);
        }
        thread::sleep(Duration::from_secs(1));
    }
    for stream in raw.iter().chain(inside.iter().map(|stream| &stream.sock)) {
        closed(stream);
    }
    world.recovers();
}
