//! A backend that can misbehave, and that knows what it really took: a message counts as taken when
//! its request came in whole and was answered as the contract says.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How it answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// 200 with a short reply.
    Well,
    /// As [`Behaviour::Well`], this much later.
    Slow(Duration),
    /// This status.
    Status(u16),
    /// Something that is not HTTP.
    Garbage,
    /// 200 and a part of the body it announced; then it closes. The status says that it has taken
    /// the message; only its reply is torn.
    Half,
    /// 200 and a body of this many bytes.
    Huge(u64),
    /// 307 to another place.
    Redirect(String),
    /// Nothing: it reads and never answers.
    Mute,
    /// A head that never ends.
    EndlessHead,
}

#[derive(Default)]
struct Taken {
    /// Of each idempotency key: a hash of its body, and whether it was answered well.
    bodies: HashMap<String, (u64, bool)>,
    /// Of each device: the numbers in the order in which they first came.
    numbers: HashMap<String, Vec<u64>>,
    contradictions: Vec<String>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    taken: Mutex<Taken>,
    down: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    requests: AtomicU64,
}

pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Well),
            taken: Mutex::default(),
            down: AtomicBool::new(false),
            streams: Mutex::default(),
            requests: AtomicU64::new(0),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.down.load(Ordering::SeqCst) {
                    continue;
                }
                stream.set_nodelay(true).unwrap();
                {
                    let mut streams = lock(&server.streams);
                    streams.retain(|stream| stream.peer_addr().is_ok());
                    streams.push(stream.try_clone().unwrap());
                }
                let server = Arc::clone(&server);
                thread::spawn(move || {
                    // How a connection ends is the gateway's business.
                    let _ = serve(&stream, &server);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// Refuses connections and cuts those there are.
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn come_back(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    /// Requests that came, however they were answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// It knows nothing any more of what it took.
    pub fn forget(&self) {
        *lock(&self.shared.taken) = Taken::default();
    }

    /// Those of `keys` that were never taken.
    pub fn missing(&self, keys: &HashSet<String>) -> Vec<String> {
        let taken = lock(&self.shared.taken);
        keys.iter()
            .filter(|key| !taken.bodies.get(*key).is_some_and(|(_, well)| *well))
            .cloned()
            .collect()
    }

    /// Fails the test if one key ever came with two bodies, or a device's messages first came in
    /// another order than it sent them.
    pub fn assert_consistent(&self) {
        let taken = lock(&self.shared.taken);
        assert!(
            taken.contradictions.is_empty(),
            "{:?}",
            taken.contradictions
        );
        for (device, numbers) in &taken.numbers {
            let out = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
            assert!(
                out.is_none(),
                "{device}'s messages came out of order: {out:?}"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some((device, key, body)) = read_request(&mut reader)? {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let behaviour = lock(&shared.behaviour).clone();
        let well = matches!(
            behaviour,
            Behaviour::Well | Behaviour::Slow(_) | Behaviour::Huge(_) | Behaviour::Half
        );
        if let Behaviour::Slow(delay) = behaviour {
            thread::sleep(delay);
        }
        note(&mut lock(&shared.taken), device, key, &body, well);
        if shared.down.load(Ordering::SeqCst) {
            return Ok(());
        }
        match behaviour {
            Behaviour::Well | Behaviour::Slow(_) => stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"status\":\"received\"}",
            )?,
            Behaviour::Status(status) => stream.write_all(
                format!("HTTP/1.1 {status} Told\r\nContent-Length: 2\r\n\r\nno").as_bytes(),
            )?,
            Behaviour::Redirect(to) => stream.write_all(
                format!("HTTP/1.1 307 Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
                    .as_bytes(),
            )?,
            Behaviour::Garbage => {
                return stream.write_all(b"\x00\xff\x13\x37 SSH-2.0-not-http\r\n\r\n\r\n");
            }
            Behaviour::Half => {
                return stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"stat",
                );
            }
            Behaviour::Huge(length) => {
                stream.write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
                )?;
                let piece = [b'x'; 64 * 1024];
                let mut left = usize::try_from(length).unwrap();
                while left > 0 {
                    let now = left.min(piece.len());
                    stream.write_all(&piece[..now])?;
                    left -= now;
                }
            }
            Behaviour::Mute => {
                // Until the gateway gives up and closes.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            Behaviour::EndlessHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    stream.write_all(b"X-More: and more and more and more\r\n")?;
                }
            }
        }
    }
    Ok(())
}

fn note(taken: &mut Taken, device: String, key: String, body: &[u8], well: bool) {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let hash = hasher.finish();
    if let Some((first, was_well)) = taken.bodies.get_mut(&key) {
        *was_well |= well;
        if *first != hash {
            taken.contradictions.push(format!("{key} with two bodies"));
        }
        return;
    }
    taken.bodies.insert(key, (hash, well));
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let filler = body["filler"].as_str().unwrap_or("-");
    match body["n"]
        .as_u64()
        .filter(|_| filler.bytes().all(|byte| byte == b'x'))
    {
        Some(number) => taken.numbers.entry(device).or_default().push(number),
        None => taken
            .contradictions
            .push(format!("{device}: a body nobody sent: {body}")),
    }
}

/// The device, the idempotency key and the body of the next request.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<(String, String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let device = line.split('/').nth(2).unwrap_or_default().to_owned();
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((device, key, body)))
}
