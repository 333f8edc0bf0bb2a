//! A backend that does as it is told, on a real socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, 1 for the first.
    pub(crate) connection: usize,
    /// Its number among all, 1 for the first.
    pub(crate) number: usize,
}

impl Post {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice");
        value
    }
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Write(Vec<u8>),
    Sleep(Duration),
    /// Write this many bytes, or as many as are taken.
    Flood(usize),
    Close,
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<Act> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    vec![Act::Write(text.into_bytes())]
}

pub(crate) type Script = Arc<dyn Fn(&Post) -> Vec<Act> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) posts: Arc<Mutex<Vec<Post>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) most_open: Arc<AtomicUsize>,
    pub(crate) flooded: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn start(script: impl Fn(&Post) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::listen(
            TcpListener::bind("127.0.0.1:0").unwrap(),
            None,
            Arc::new(script),
        )
    }

    pub(crate) fn start_tls(
        config: rustls::ServerConfig,
        script: impl Fn(&Post) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::listen(listener, Some(Arc::new(config)), Arc::new(script))
    }

    pub(crate) fn listen(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: Script,
    ) -> Self {
        let backend = Self {
            address: listener.local_addr().unwrap(),
            posts: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
            flooded: Arc::default(),
        };
        let serving = backend.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let number = serving.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (serving, script, tls) = (serving.clone(), Arc::clone(&script), tls.clone());
                thread::spawn(move || {
                    let open = serving.open.fetch_add(1, Ordering::SeqCst) + 1;
                    serving.most_open.fetch_max(open, Ordering::SeqCst);
                    stream.set_nodelay(true).unwrap();
                    match tls {
                        None => {
                            let reader = stream.try_clone().unwrap();
                            serving.serve(reader, stream, number, &script);
                        }
                        Some(config) => serving.serve_tls(stream, config, number, &script),
                    }
                    serving.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        backend
    }

    fn serve_tls(
        &self,
        stream: TcpStream,
        config: Arc<rustls::ServerConfig>,
        number: usize,
        script: &Script,
    ) {
        let connection = rustls::ServerConnection::new(config).unwrap();
        let both = Arc::new(Mutex::new(rustls::StreamOwned::new(connection, stream)));
        struct Half(Arc<Mutex<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>>);
        impl Read for Half {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().read(buffer)
            }
        }
        impl Write for Half {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                self.0.lock().unwrap().flush()
            }
        }
        self.serve(Half(Arc::clone(&both)), Half(both), number, script);
    }

    fn serve(&self, reader: impl Read, mut writer: impl Write, connection: usize, script: &Script) {
        let mut reader = BufReader::new(reader);
        while let Some((line, headers, body)) = read_request(&mut reader) {
            let post = {
                let mut posts = self.posts.lock().unwrap();
                let number = posts.len() + 1;
                posts.push(Post {
                    line,
                    headers,
                    body,
                    connection,
                    number,
                });
                posts[number - 1].clone()
            };
            for act in script(&post) {
                match act {
                    Act::Write(bytes) => {
                        if writer.write_all(&bytes).is_err() {
                            return;
                        }
                    }
                    Act::Sleep(time) => thread::sleep(time),
                    Act::Flood(total) => {
                        let block = vec![b'x'; 16 * 1024];
                        let mut left = total;
                        while left > 0 {
                            let Ok(n) = writer.write(&block[..left.min(block.len())]) else {
                                return;
                            };
                            self.flooded.fetch_add(n, Ordering::SeqCst);
                            left -= n;
                        }
                    }
                    Act::Close => return,
                }
            }
            let _ = writer.flush();
        }
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

type Request = (String, Vec<(String, String)>, Vec<u8>);

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (key, value) = header.split_once(": ")?;
        headers.push((key.to_owned(), value.to_owned()));
    }
    let length = headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((line.trim_end().to_owned(), headers, body))
}
