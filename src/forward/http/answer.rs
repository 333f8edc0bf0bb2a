//! What an answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | settled; a body of 1 byte to 64 KiB is the reply, a longer one is given up with its connection |
//! | 2xx whose body is cut short | asked for again a few times, then settled without a reply |
//! | 408, 425, 429, 5xx | tried again, not before `Retry-After` |
//! | no connection, no answer in time, closed or not HTTP | tried again |
//! | 3xx | refused: where messages go is for the configuration to say |
//! | anything else | refused |

use std::{
    io::{self, Read},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};
use ureq::{
    Body, Error, Timeout,
    http::{HeaderMap, Response, StatusCode, header},
};

use crate::{forward::Answer, outbox::Cause};

/// Longest reply that is passed on to a device.
pub(super) const MAX_REPLY: usize = 64 * 1024;

/// How much of any other body is read so that the connection can be used again.
const MAX_ERROR_BODY: u64 = 4 * 1024;

pub(super) fn of_response(mut response: Response<Body>) -> Answer {
    let status = response.status();
    if status.is_success() {
        return match read_reply(response.body_mut()) {
            Ok(reply) => Answer::Settled {
                reply: reply.filter(|reply| !reply.is_empty()),
            },
            Err(error) => Answer::Retry {
                after: None,
                cause: Cause::TornReply,
                detail: format!("answered {status}, but its reply was cut short: {error}"),
            },
        };
    }
    let answer = match status.as_u16() {
        code @ (408 | 425 | 429 | 500..=599) => Answer::Retry {
            after: retry_after(response.headers(), SystemTime::now()),
            cause: match code {
                429 | 502 | 503 | 504 => Cause::Overloaded,
                _ => Cause::Failed,
            },
            detail: format!("answered {status}"),
        },
        300..=399 => Answer::Refused {
            status: Some(status.as_u16()),
            reason: redirect_reason(status, response.headers()),
        },
        _ => Answer::Refused {
            status: Some(status.as_u16()),
            reason: format!("the backend answered {status}"),
        },
    };
    // A short body is read so that the connection can be kept; the answer is known already.
    if response
        .body()
        .content_length()
        .is_some_and(|length| length <= MAX_ERROR_BODY)
    {
        let mut body = response.body_mut().as_reader().take(MAX_ERROR_BODY);
        let _ = io::copy(&mut body, &mut io::sink());
    }
    answer
}

pub(super) fn of_error(error: &Error) -> Answer {
    let cause = match error {
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::Tls(_)
        | Error::Rustls(_)
        | Error::Pem(_)
        | Error::TlsRequired
        | Error::Timeout(Timeout::Resolve | Timeout::Connect) => Cause::Unreachable,
        Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            // How a failed TLS handshake comes back.
            | io::ErrorKind::InvalidData => Cause::Unreachable,
            _ => Cause::NoAnswer,
        },
        _ => Cause::NoAnswer,
    };
    Answer::Retry {
        after: None,
        cause,
        detail: error.to_string(),
    }
}

/// The whole body; `None` if it is too long to be a reply. Reads no further than that, and a body
/// that is not read to its end takes its connection with it.
fn read_reply(body: &mut Body) -> io::Result<Option<Bytes>> {
    let limit = u64::try_from(MAX_REPLY).unwrap_or(u64::MAX);
    let length = body.content_length();
    if length.is_some_and(|length| length > limit) {
        return Ok(None);
    }
    let expected = length
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(0);
    let mut reply = Vec::with_capacity(expected);
    // One byte more tells a long body from one that just fits; it also lets the end be seen, without
    // which the connection is not kept.
    body.as_reader().take(limit + 1).read_to_end(&mut reply)?;
    Ok((reply.len() <= MAX_REPLY).then(|| Bytes::from(reply)))
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. What is neither is ignored.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a long time.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = http_date(value)?;
    Some(
        SystemTime::from(date)
            .duration_since(now)
            .unwrap_or_default(),
    )
}

/// A date of RFC 9110, section 5.6.7, in any of its three forms.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    const IMF: &[BorrowedFormatItem<'_>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    if let Ok(date) = PrimitiveDateTime::parse(text, IMF) {
        return Some(date.assume_utc());
    }
    if let Ok(date) = PrimitiveDateTime::parse(text, ASCTIME) {
        return Some(date.assume_utc());
    }
    // RFC 850's form has a long weekday and a two-digit year, which is of this century.
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.splitn(2, ' ');
    let (date, time) = (parts.next()?, parts.next()?);
    let (day_month, year) = date.rsplit_once('-')?;
    if year.len() != 2 {
        return None;
    }
    const DAY: &[BorrowedFormatItem<'_>] =
        format_description!("[day]-[month repr:short]-[year] [hour]:[minute]:[second] GMT");
    let date = PrimitiveDateTime::parse(&format!("{day_month}-20{year} {time}"), DAY);
    date.ok().map(PrimitiveDateTime::assume_utc)
}

/// Says where it pointed, without what may be secret: the query and a user name.
fn redirect_reason(status: StatusCode, headers: &HeaderMap) -> String {
    const SHOWN: usize = 200;
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let location = location
        .filter(|location| !location.contains('@'))
        .map(|location| {
            let end = location.find(['?', '#']).unwrap_or(location.len());
            location.chars().take(end.min(SHOWN)).collect::<String>()
        });
    match location {
        Some(location) => format!(
            "the backend answered {status} to {location}; redirects are not followed: set the upstream's url to where it is to go"
        ),
        None => format!(
            "the backend answered {status}; redirects are not followed: set the upstream's url to where it is to go"
        ),
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    fn after(value: &'static str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&headers, now).map(|after| after.as_secs())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after("120"), Some(120));
        assert_eq!(after(" 0 "), Some(0));
        assert_eq!(after("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(after("Sun Nov  6 08:50:37 1994"), Some(60));
        assert_eq!(
            after("Sun, 06 Nov 1994 08:00:00 GMT"),
            Some(0),
            "it has passed"
        );
        // 784,111,777 was 1994; a two-digit year is of this century.
        let y2k26 = after("Sunday, 06-Nov-26 08:49:37 GMT").unwrap();
        assert_eq!(y2k26 / (365 * 24 * 3600), 32);
        for nonsense in [
            "",
            "-1",
            "1.5",
            "soon",
            "Sun, 99 Nov 1994 08:50:37 GMT",
            ",",
            ", -",
            "x, a-b c",
        ] {
            assert_eq!(after(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_redirect_does_not_give_secrets_away() {
        let reason = |location: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static(location));
            redirect_reason(StatusCode::FOUND, &headers)
        };
        assert!(reason("https://new.example/x?token=hunter2").contains("https://new.example/x;"));
        assert!(!reason("https://new.example/x?token=hunter2").contains("hunter2"));
        assert!(!reason("https://a:hunter2@new.example/").contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_backend_writes_into_its_headers(
            value in "[ -~\\x80-\\xff]{0,300}|[A-Za-z]{3,6}, [0-9A-Za-z -]{0,12} [0-9:]{0,9} GMT",
        ) {
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else {
                return Ok(());
            };
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.clone());
            headers.insert(header::LOCATION, value.clone());
            let _ = retry_after(&headers, SystemTime::now());
            let reason = redirect_reason(StatusCode::FOUND, &headers);
            proptest::prop_assert!(!reason.contains(char::is_control) && reason.len() < 400);
            proptest::prop_assert!(!reason.contains(['?', '#', '@']));
        }
    }
}
