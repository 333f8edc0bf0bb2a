//! As much of HTTP/1.1 (RFC 9110, 9112) as an update needs, and strictly: GET, a length that is
//! known beforehand, ranges. What a server may leave open is refused.

use alloc::boxed::Box;
use core::fmt::{self, Write as _};

use embedded_io_async::{Read, Write};
use httparse::{EMPTY_HEADER, Header, Response as Parser, Status};

/// Room for a response's head, and for what comes with it in one piece.
const HEAD: usize = 2048;

/// Most fields of a head: nginx with security headers sends fifteen.
const FIELDS: usize = 32;

/// Room for a request: path and query take up to 300 bytes.
const REQUEST: usize = 768;

/// What went wrong in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The connection failed or ended.
    #[error("connection to the update server was lost")]
    Lost,
    /// The request is too long.
    #[error("request to the update server is too long: shorten product and version")]
    Request,
    /// The response is not one.
    #[error("update server does not speak HTTP/1.1: {0}")]
    Protocol(&'static str),
}

/// The start of a response; its body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 200, say.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// Of a 206: the first byte and the size of the whole.
    pub range: Option<(u64, u64)>,
    /// Seconds after which to ask again, if the server says so.
    pub retry_after: Option<u32>,
    /// The strong entity tag, if it is 64 characters: an image's digest.
    pub tag: Option<[u8; 64]>,
}

/// A part of an image: from where on, and the tag it must still have.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// First byte.
    pub from: u32,
    /// Entity tag, without quotes.
    pub tag: &'a str,
}

/// One connection, on which requests follow each other.
#[derive(Debug)]
pub struct Client<'a, C> {
    connection: C,
    /// What `Host` says.
    authority: &'a str,
    buffer: Box<[u8; HEAD]>,
    /// What of the buffer was received and not used.
    start: usize,
    end: usize,
    /// Bytes of the body that are still to come.
    left: u64,
    /// The server will not take another request.
    closing: bool,
}

impl<'a, C: Read + Write> Client<'a, C> {
    /// Over an open connection; `authority` is host and port.
    pub fn new(connection: C, authority: &'a str) -> Self {
        Self {
            connection,
            authority,
            buffer: Box::new([0; HEAD]),
            start: 0,
            end: 0,
            left: 0,
            closing: false,
        }
    }

    /// Whether another request can be sent: the last body was read, and the server stays.
    pub const fn is_open(&self) -> bool {
        self.left == 0 && !self.closing
    }

    /// Asks for `target`, a path with its query, and reads the head of the answer.
    ///
    /// # Errors
    ///
    /// [`HttpError`]: then this connection is of no more use.
    pub async fn get(
        &mut self,
        target: fmt::Arguments<'_>,
        part: Option<Part<'_>>,
    ) -> Result<Head, HttpError> {
        if !self.is_open() {
            return Err(HttpError::Lost);
        }
        let mut request = Text([0; REQUEST], 0);
        write!(
            request,
            "GET {target} HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\n",
            self.authority
        )
        .and_then(|()| match part {
            Some(Part { from, tag }) => {
                write!(request, "Range: bytes={from}-\r\nIf-Range: \"{tag}\"\r\n")
            }
            None => Ok(()),
        })
        .and_then(|()| request.write_str("\r\n"))
        .map_err(|_| HttpError::Request)?;
        let bytes = request.0.get(..request.1).unwrap_or(&[]);
        self.connection
            .write_all(bytes)
            .await
            .map_err(|_| HttpError::Lost)?;
        self.connection.flush().await.map_err(|_| HttpError::Lost)?;
        self.closing = true;
        let (head, stays) = self.head().await?;
        self.left = head.length;
        self.closing = !stays;
        Ok(head)
    }

    async fn head(&mut self) -> Result<(Head, bool), HttpError> {
        loop {
            let received = self.buffer.get(self.start..self.end).unwrap_or(&[]);
            let mut fields = [EMPTY_HEADER; FIELDS];
            let mut parser = Parser::new(&mut fields);
            let parsed = parser
                .parse(received)
                .map_err(|_| HttpError::Protocol("head is malformed"))?;
            if let Status::Complete(len) = parsed {
                if parser.version != Some(1) {
                    return Err(HttpError::Protocol("version is not 1.1"));
                }
                let read = read_head(parser.code.unwrap_or(0), parser.headers)?;
                self.start += len;
                return Ok(read);
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let room = self.buffer.get_mut(self.end..).unwrap_or(&mut []);
            if room.is_empty() {
                return Err(HttpError::Protocol("head is too long"));
            }
            self.end += receive(&mut self.connection, room).await?;
        }
    }

    /// Reads some of the body; 0 once it is over.
    ///
    /// # Errors
    ///
    /// [`HttpError::Lost`]: what was read before counts.
    pub async fn body(&mut self, out: &mut [u8]) -> Result<usize, HttpError> {
        let most = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        let out = out.get_mut(..most).unwrap_or(&mut []);
        if out.is_empty() {
            return Ok(0);
        }
        let waiting = self.buffer.get(self.start..self.end).unwrap_or(&[]);
        let len = if waiting.is_empty() {
            receive(&mut self.connection, out).await?
        } else {
            let len = waiting.len().min(out.len());
            for (to, from) in out.iter_mut().zip(waiting) {
                *to = *from;
            }
            self.start += len;
            len
        };
        self.left -= len as u64;
        Ok(len)
    }
}

async fn receive<C: Read>(connection: &mut C, room: &mut [u8]) -> Result<usize, HttpError> {
    match connection.read(room).await {
        Ok(0) | Err(_) => Err(HttpError::Lost),
        Ok(len) => Ok(len),
    }
}

/// What the head says, and whether the connection stays.
fn read_head(status: u16, fields: &[Header<'_>]) -> Result<(Head, bool), HttpError> {
    let mut head = Head {
        status,
        length: 0,
        range: None,
        retry_after: None,
        tag: None,
    };
    let mut length = None;
    let mut stays = true;
    for field in fields {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let value = field.value.trim_ascii();
        if is("content-length") {
            let value = decimal(value).ok_or(HttpError::Protocol("Content-Length is no number"))?;
            // Two different ones are how requests are smuggled (RFC 9112, section 6.3).
            if length.replace(value).is_some_and(|other| other != value) {
                return Err(HttpError::Protocol("two lengths"));
            }
        } else if is("transfer-encoding") || is("content-encoding") {
            return Err(HttpError::Protocol("an encoding was not asked for"));
        } else if is("content-range") {
            head.range = Some(range(value).ok_or(HttpError::Protocol("Content-Range is bad"))?);
        } else if is("retry-after") {
            // A date is not an error: it is not used.
            head.retry_after = decimal(value).and_then(|value| u32::try_from(value).ok());
        } else if is("connection") {
            stays = !value.eq_ignore_ascii_case(b"close");
        } else if is("etag") {
            head.tag = match value {
                [b'"', tag @ .., b'"'] => tag.try_into().ok(),
                _ => None,
            };
        }
    }
    head.length = match (status, length) {
        // RFC 9112, section 6.3: these have no body, whatever they say.
        (204 | 304, _) => 0,
        (100..=199, _) => return Err(HttpError::Protocol("an interim response")),
        (_, Some(length)) => length,
        (_, None) => return Err(HttpError::Protocol("Content-Length is missing")),
    };
    if status == 206 && head.range.is_none() {
        return Err(HttpError::Protocol("Content-Range is missing"));
    }
    Ok((head, stays))
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = core::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

/// `bytes 100-999/1000`, to the end: first byte, size.
fn range(text: &[u8]) -> Option<(u64, u64)> {
    let text = core::str::from_utf8(text).ok()?.strip_prefix("bytes ")?;
    let (part, size) = text.split_once('/')?;
    let size = decimal(size.as_bytes())?;
    // A 416 says only how large it is (RFC 9110, section 14.4).
    if part == "*" {
        return Some((size, size));
    }
    let (first, last) = part.split_once('-')?;
    let (first, last) = (decimal(first.as_bytes())?, decimal(last.as_bytes())?);
    (first <= last && last.checked_add(1) == Some(size)).then_some((first, size))
}

/// Text in a fixed buffer; what does not fit is an error.
struct Text<const N: usize>([u8; N], usize);

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let place = self.0.get_mut(self.1..self.1 + text.len());
        place.ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.1 += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::memory_flash::wait;
    use embedded_io_async::ErrorType;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// A server that answers with these pieces.
    struct Canned {
        pieces: Vec<Vec<u8>>,
        sent: Vec<u8>,
    }

    impl ErrorType for Canned {
        type Error = core::convert::Infallible;
    }

    impl Read for Canned {
        async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
            let Some(piece) = self.pieces.first_mut() else {
                return Ok(0);
            };
            let len = piece.len().min(out.len());
            out[..len].copy_from_slice(&piece[..len]);
            piece.drain(..len);
            if piece.is_empty() {
                self.pieces.remove(0);
            }
            Ok(len)
        }
    }

    impl Write for Canned {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        async fn flush(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    fn client(text: &str, piece: usize) -> Client<'static, Canned> {
        let pieces = text.as_bytes().chunks(piece).map(<[u8]>::to_vec).collect();
        let sent = Vec::new();
        Client::new(Canned { pieces, sent }, "gateway.lan:8444")
    }

    fn head(text: &str) -> Result<Head, HttpError> {
        wait(client(text, 7).get(format_args!("/"), None))
    }

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let answers = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello\
            HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\
            Content-Range: bytes 7-9/10\r\n\r\nabc";
        for piece in 1..answers.len() {
            let mut client = client(answers, piece);
            wait(async {
                let head = client.get(format_args!("/a?b={}", 1), None).await.unwrap();
                assert_eq!((head.status, head.length), (200, 5));
                assert!(!client.is_open(), "its body comes first");
                let mut body = Vec::new();
                let mut some = [0; 4];
                loop {
                    let len = client.body(&mut some).await.unwrap();
                    if len == 0 {
                        break;
                    }
                    body.extend_from_slice(&some[..len]);
                }
                assert_eq!(body, b"hello");
                let part = Part { from: 7, tag: "t" };
                let head = client.get(format_args!("/c"), Some(part)).await.unwrap();
                assert_eq!((head.status, head.range), (206, Some((7, 10))));
            });
            let sent = String::from_utf8(client.connection.sent).unwrap();
            assert_eq!(
                sent,
                "GET /a?b=1 HTTP/1.1\r\nHost: gateway.lan:8444\r\nAccept-Encoding: identity\r\n\r\n\
                 GET /c HTTP/1.1\r\nHost: gateway.lan:8444\r\nAccept-Encoding: identity\r\n\
                 Range: bytes=7-\r\nIf-Range: \"t\"\r\n\r\n"
            );
        }
    }

    #[test]
    fn what_is_left_open_is_refused() {
        for bad in [
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Length: 1\r\nContent-Range: bytes 5-4/5\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Length: 1\r\nContent-Range: bytes 1-3/5\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(matches!(head(bad), Err(HttpError::Protocol(_))), "{bad}");
        }
        let long = "x".repeat(HEAD).to_string();
        let long = std::format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n");
        assert_eq!(head(&long), Err(HttpError::Protocol("head is too long")));
        assert_eq!(head("HTTP/1.1 200 OK\r\n"), Err(HttpError::Lost));
    }

    #[test]
    fn what_the_head_says() {
        let none = head("HTTP/1.1 204 No Content\r\nRetry-After: 600\r\n\r\n").unwrap();
        assert_eq!((none.length, none.retry_after), (0, Some(600)));
        let tag = "ab".repeat(32);
        let tagged =
            std::format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: \"{tag}\"\r\n\r\n");
        assert_eq!(head(&tagged).unwrap().tag.unwrap(), tag.as_bytes());
        let mut closing = client(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            99,
        );
        assert_eq!(
            wait(closing.get(format_args!("/"), None)).unwrap().status,
            404
        );
        assert!(!closing.is_open());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "HTTP/1.1 [0-9]{3} [ -~\r\n]{0,200}", piece in 1usize..50) {
            let mut client = client(&text, piece);
            if wait(client.get(format_args!("/"), None)).is_ok() {
                while let Ok(1..) = wait(client.body(&mut [0; 16])) {}
            }
        }
    }
}
