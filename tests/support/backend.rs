//! A backend for tests: a real HTTP/1.1 server on loopback that keeps every request and answers as
//! it is told.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn idempotency_key(&self) -> &str {
        self.header("idempotency-key")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub delay: Duration,
}

impl Answer {
    pub fn ok(body: &str) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            delay: Duration::ZERO,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Script = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    requests: Mutex<Vec<Request>>,
    script: Mutex<Arc<Script>>,
    down: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// The server. Requests are kept in the order in which their bodies were complete.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Backend {
    /// A backend that answers `{"status":"received"}` to everything.
    pub fn start() -> Self {
        Self::with(|_| Answer::ok(r#"{"status":"received"}"#))
    }

    pub fn with(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            script: Mutex::new(Arc::new(Box::new(script))),
            down: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.down.load(Ordering::SeqCst) {
                    continue; // dropped: the peer sees the connection closed at once
                }
                stream.set_nodelay(true).unwrap();
                lock(&server.streams).push(stream.try_clone().unwrap());
                let server = Arc::clone(&server);
                thread::spawn(move || serve(&stream, &server));
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the script.
    pub fn answer(&self, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(Box::new(script));
    }

    /// Refuses every connection and cuts those there are.
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn come_back(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Waits until `enough` of what came says so, or fails the test after `limit`.
    pub fn wait(&self, limit: Duration, enough: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let deadline = Instant::now() + limit;
        loop {
            let requests = self.requests();
            if enough(&requests) {
                return requests;
            }
            assert!(
                Instant::now() < deadline,
                "the backend did not get what it should within {limit:?}; it got {} requests, the last: {:?}",
                requests.len(),
                requests.last()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait(super::SOON, |requests| requests.len() >= count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let script = Arc::clone(&lock(&shared.script));
        let answer = script(&request);
        lock(&shared.requests).push(request);
        thread::sleep(answer.delay);
        if shared.down.load(Ordering::SeqCst) || write_answer(stream, &answer).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}

fn write_answer(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Told\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&answer.body);
    stream.write_all(&bytes)
}
