//! Sending an image, or the rest of one, without haste: a piece at a time, at the rate one download
//! gets, and only as long as the device may have it.

use std::{
    future::Future,
    io::SeekFrom,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::{
    fs::File,
    io::{AsyncRead as _, AsyncSeekExt as _, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{UpdateError, Why, http::Download};

/// What is read and sent at once; with what TLS keeps of it, it bounds the memory of a download.
const PIECE: usize = 16 * 1024;
/// How often it is looked again whether the device may still have the rest.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Says whether the device may have the rest.
pub(super) type Still = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Which part of an image is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    Whole,
    /// From the first to the last offset, both included.
    Range(u64, u64),
    PastTheEnd,
}

/// What the headers ask for (RFC 9110, section 14). Several ranges at once, other units and what
/// cannot be read are answered with the whole, as the RFC allows; so is a range of what the client
/// had, if that was another image (`If-Range`).
pub(super) fn part(headers: &HeaderMap, sha256: &str, size: u64) -> Part {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if let Some(had) = headers.get(header::IF_RANGE)
        && had.as_bytes() != format!("\"{sha256}\"").as_bytes()
    {
        return Part::Whole;
    }
    let range = text(header::RANGE)
        .and_then(|range| range.strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else {
        return Part::Whole;
    };
    let number = |digits: &str| -> Option<u64> {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let end = size.saturating_sub(1);
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.min(end)),
        (Some(first), None) if last.is_empty() => (first, end),
        // The last so many bytes.
        (None, Some(many)) if first.is_empty() => {
            let first = if many == 0 {
                size
            } else {
                size.saturating_sub(many)
            };
            (first, end)
        }
        _ => return Part::Whole,
    };
    if first >= size {
        Part::PastTheEnd
    } else {
        Part::Range(first, last)
    }
}

/// What is to be sent.
pub(super) struct Sending<'a> {
    pub(super) path: PathBuf,
    pub(super) sha256: &'a str,
    pub(super) size: u64,
    pub(super) part: Part,
    pub(super) bytes_per_second: u64,
    pub(super) still: Box<dyn Fn() -> Still + Send + Sync>,
    pub(super) turn: Download,
}

/// The answer with the image, or the part of it.
///
/// # Errors
/// The image cannot be read.
pub(super) async fn send(sending: Sending<'_>) -> Result<Response, UpdateError> {
    let Sending {
        path,
        sha256,
        size,
        part,
        bytes_per_second,
        still,
        turn,
    } = sending;
    let etag = HeaderValue::from_str(&format!("\"{sha256}\""));
    let (status, first, last) = match part {
        Part::Whole => (StatusCode::OK, 0, size.saturating_sub(1)),
        Part::Range(first, last) => (StatusCode::PARTIAL_CONTENT, first, last),
        Part::PastTheEnd => {
            let refused = &turn.metrics().downloads_refused;
            refused.of(Why::BadRange).increment();
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let mut file = File::open(&path).await.map_err(UpdateError::io(&path))?;
    file.seek(SeekFrom::Start(first))
        .await
        .map_err(UpdateError::io(&path))?;
    turn.metrics().downloads.increment();
    let now = Instant::now();
    let body = Image {
        file,
        left: (last + 1).saturating_sub(first),
        bytes_per_second: bytes_per_second.max(1),
        pause: Box::pin(sleep_until(now)),
        due: now,
        still,
        looked: now,
        looking: None,
        turn,
    };
    let mut response = (status, Body::new(body)).into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = etag {
        headers.insert(header::ETAG, etag);
    }
    if let (Part::Range(..), Ok(range)) = (
        part,
        HeaderValue::from_str(&format!("bytes {first}-{last}/{size}")),
    ) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// The body of an answer: what is left of a file.
struct Image {
    file: File,
    left: u64,
    bytes_per_second: u64,
    pause: Pin<Box<Sleep>>,
    /// When the next piece is due.
    due: Instant,
    still: Box<dyn Fn() -> Still + Send + Sync>,
    looked: Instant,
    looking: Option<Still>,
    turn: Download,
}

/// The answer ends before its announced length, which every client notices.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("the device may not have the rest any more")]
    NotEntitled,
    #[error("the image cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("the image is shorter than its manifest says")]
    Short,
}

impl Image {
    /// The next piece, when it is due.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CutOff>> {
        ready!(self.pause.as_mut().poll(cx));
        let now = Instant::now();
        if self.looking.is_none() && now.duration_since(self.looked) >= LOOK_AGAIN {
            self.looking = Some((self.still)());
        }
        if let Some(looking) = &mut self.looking {
            let still = ready!(looking.as_mut().poll(cx));
            self.looking = None;
            self.looked = Instant::now();
            if !still {
                self.turn.metrics().downloads_revoked.increment();
                return Poll::Ready(Err(CutOff::NotEntitled));
            }
        }
        let most = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = vec![0; most];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(CutOff::Short));
        }
        piece.truncate(read);
        self.left = self.left.saturating_sub(read as u64);
        let metrics = self.turn.metrics();
        metrics.bytes_sent.add(read as u64);
        if self.left == 0 {
            metrics.downloads_completed.increment();
        }
        let micros = (read as u64).saturating_mul(1_000_000) / self.bytes_per_second;
        // Somebody who was slow does not get to catch up in a burst.
        self.due = self.due.max(now) + Duration::from_micros(micros);
        self.pause.as_mut().reset(self.due);
        Poll::Ready(Ok(piece.into()))
    }
}

impl hyper::body::Body for Image {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = ready!(self.poll_piece(cx));
        Poll::Ready(Some(piece.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: &str, if_range: Option<&str>) -> Part {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(range).unwrap());
        if let Some(value) = if_range {
            headers.insert(header::IF_RANGE, HeaderValue::from_str(value).unwrap());
        }
        part(&headers, "abc", 100)
    }

    #[test]
    fn ranges() {
        assert_eq!(part(&HeaderMap::new(), "abc", 100), Part::Whole);
        for (range, expected) in [
            ("bytes=0-", Part::Range(0, 99)),
            ("bytes=99-", Part::Range(99, 99)),
            ("bytes=100-", Part::PastTheEnd),
            ("bytes=99999999999999999999999-", Part::PastTheEnd),
            ("bytes=10-19", Part::Range(10, 19)),
            ("bytes=10-1000", Part::Range(10, 99)),
            ("bytes=-10", Part::Range(90, 99)),
            ("bytes=-1000", Part::Range(0, 99)),
            ("bytes=-0", Part::PastTheEnd),
            ("bytes=19-10", Part::Whole),
            ("bytes=1-2,5-6", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("items=1-2", Part::Whole),
            ("bytes", Part::Whole),
        ] {
            assert_eq!(asked(range, None), expected, "{range}");
        }
    }

    #[test]
    fn a_range_of_another_image_is_none() {
        assert_eq!(asked("bytes=10-", Some("\"abc\"")), Part::Range(10, 99));
        for other in [
            "\"abd\"",
            "abc",
            "W/\"abc\"",
            "Sat, 21 Nov 2026 06:00:00 GMT",
        ] {
            assert_eq!(asked("bytes=10-", Some(other)), Part::Whole, "{other}");
        }
    }

    proptest::proptest! {
        /// Whatever is asked for, what is answered lies within the image and is what was asked for.
        #[test]
        fn no_range_leaves_the_image(
            range in "(bytes=)?[0-9+, -]{0,22}|[ -~]{0,24}",
            size in 0_u64..=200,
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_str(&range).unwrap());
            match part(&headers, "abc", size) {
                Part::Whole => {}
                Part::Range(first, last) => {
                    proptest::prop_assert!(first <= last && last < size);
                    let (from, to) = range["bytes=".len()..].split_once('-').unwrap();
                    let number = |digits: &str| digits.parse::<u128>().ok();
                    let (first, last, end) = (first.into(), last.into(), u128::from(size) - 1);
                    let meant = match (number(from), number(to)) {
                        (Some(from), Some(to)) => (from, to.min(end)),
                        (Some(from), None) => (from, end),
                        (None, many) => (u128::from(size).saturating_sub(many.unwrap()), end),
                    };
                    proptest::prop_assert_eq!((first, last), meant);
                }
                Part::PastTheEnd => proptest::prop_assert!(range.starts_with("bytes=")),
            }
        }
    }
}
