//! An update server for tests: real TLS, and a release that is whatever the test says.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use tidegate_wire::Payload;
use tidegate_wire::manifest::{
    MAX_SIGNED, Manifest, PublicKey, Signature, Version, signing_input, write_signed,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The key that devices of these tests trust, and one that they no longer do.
pub(crate) fn release_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn retired_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(&key.verifying_key().to_bytes()).unwrap()
}

/// What a release says, before a test changes something about it.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    pub(crate) sequence: u64,
    pub(crate) product: &'static str,
    pub(crate) chip: &'static str,
    pub(crate) version: &'static str,
    pub(crate) security_version: u32,
    pub(crate) min_version: Option<&'static str>,
    pub(crate) expires: u64,
    pub(crate) image: Vec<u8>,
}

impl Release {
    pub(crate) fn new(version: &'static str, image: Vec<u8>) -> Self {
        Self {
            sequence: 7,
            product: "gates",
            chip: "host",
            version,
            security_version: 0,
            min_version: None,
            expires: 4_000_000_000,
            image,
        }
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.image).into()
    }

    pub(crate) fn name(&self) -> String {
        self.digest()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The signed manifest.
    pub(crate) fn signed(&self, key: &SigningKey) -> Vec<u8> {
        let manifest = Manifest {
            sequence: self.sequence,
            product: self.product,
            chip: self.chip,
            version: Version::parse(self.version).unwrap(),
            security_version: self.security_version,
            min_version: self.min_version.map(|text| Version::parse(text).unwrap()),
            size: self.image.len().try_into().unwrap(),
            sha256: self.digest(),
            expires: self.expires,
        };
        let mut text = [0; MAX_SIGNED];
        let len = manifest.write(&mut text).unwrap();
        let manifest = Payload::parse(&text[..len], &mut [0; 32]).unwrap();
        let mut input = [0; 2 * MAX_SIGNED];
        let len = signing_input(&manifest, &mut input).unwrap();
        let signature = Signature {
            key: public(key).id(),
            bytes: key.sign(&input[..len]).to_bytes(),
        };
        let mut out = vec![0; MAX_SIGNED];
        let len = write_signed(&manifest, &[signature], &mut out).unwrap();
        out.truncate(len);
        out
    }
}

/// The server. What it offers can be changed while it runs.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// What `GET /v1/update` answers; nothing is a 204.
    pub(crate) offer: RefCell<Option<Vec<u8>>>,
    /// Name and bytes of what `GET /v1/image/…` answers.
    pub(crate) image: RefCell<(String, Vec<u8>)>,
    /// Places in the image at which a connection is cut, each once, in order.
    pub(crate) cuts: RefCell<VecDeque<usize>>,
    /// Every query for an update.
    pub(crate) queries: RefCell<Vec<String>>,
    /// Parts of the image that were sent: from, to.
    pub(crate) sent: RefCell<Vec<(usize, usize)>>,
    /// Handshakes that failed.
    pub(crate) refused: Cell<usize>,
    /// Ranges are not honoured.
    pub(crate) whole_only: Cell<bool>,
}

impl Server {
    pub(crate) async fn start(acceptor: TlsAcceptor) -> Rc<Self> {
        Rc::new(Self {
            listener: TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
                .await
                .unwrap(),
            acceptor,
            offer: RefCell::default(),
            image: RefCell::default(),
            cuts: RefCell::default(),
            queries: RefCell::default(),
            sent: RefCell::default(),
            refused: Cell::new(0),
            whole_only: Cell::new(false),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Offers a release as it should be.
    pub(crate) fn publish(&self, release: &Release) {
        self.offer.replace(Some(release.signed(&release_key())));
        self.image.replace((release.name(), release.image.clone()));
    }

    /// Takes connections for ever, one after the other.
    pub(crate) async fn serve(&self) {
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            match self.acceptor.accept(tcp).await {
                // A device that goes away in between is no failure of the server.
                Ok(stream) => drop(self.talk(stream).await),
                Err(_) => self.refused.set(self.refused.get() + 1),
            }
        }
    }

    async fn talk(&self, mut stream: TlsStream<TcpStream>) -> std::io::Result<()> {
        let mut input = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = input.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            };
            let request = String::from_utf8(input.drain(..end).collect()).unwrap();
            if !self.answer(&mut stream, &request).await? {
                // What was written arrives; then there is nothing more.
                stream.flush().await?;
                stream.get_mut().0.shutdown().await?;
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    async fn answer(
        &self,
        stream: &mut TlsStream<TcpStream>,
        request: &str,
    ) -> std::io::Result<bool> {
        let target = request
            .strip_prefix("GET ")
            .and_then(|rest| rest.split_once(" HTTP/1.1\r\n"))
            .map(|(target, _)| target.to_owned())
            .unwrap_or_else(|| panic!("{request}"));
        assert!(request.contains("\r\nHost: localhost:"), "{request}");
        let field = |name: &str| {
            let line = request.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        if let Some(query) = target.strip_prefix("/v1/update?") {
            self.queries.borrow_mut().push(query.to_owned());
            let offer = self.offer.borrow().clone();
            let head = match &offer {
                None => "HTTP/1.1 204 No Content\r\nRetry-After: 3600\r\n\r\n".to_owned(),
                Some(offer) => format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    offer.len()
                ),
            };
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&offer.unwrap_or_default()).await?;
            stream.flush().await?;
            return Ok(true);
        }
        let (name, image) = self.image.borrow().clone();
        if target != format!("/v1/image/{name}") {
            let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(none).await?;
            return Ok(true);
        }
        let range = field("Range: bytes=").filter(|_| !self.whole_only.get());
        let from: usize = match range {
            Some(range) => {
                assert_eq!(field("If-Range:"), Some(format!("\"{name}\"")));
                range.strip_suffix('-').unwrap().parse().unwrap()
            }
            None => 0,
        };
        let (status, range) = if from > 0 {
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                image.len() - 1,
                image.len()
            );
            ("206 Partial Content", range)
        } else {
            ("200 OK", String::new())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"{name}\"\r\nContent-Length: {}\r\n{range}\r\n",
            image.len() - from
        );
        stream.write_all(head.as_bytes()).await?;
        let cut = self.cuts.borrow().front().copied();
        let cut = cut.filter(|cut| *cut >= from && *cut < image.len());
        if cut.is_some() {
            self.cuts.borrow_mut().pop_front();
        }
        let to = cut.unwrap_or(image.len());
        self.sent.borrow_mut().push((from, to));
        for piece in image[from..to].chunks(1500) {
            stream.write_all(piece).await?;
        }
        stream.flush().await?;
        Ok(cut.is_none())
    }
}
