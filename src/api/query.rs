//! Query parameters.

use super::{Kind, Problem};

/// The value of a parameter, decoded; the first one if it is there more than once.
pub(super) fn value(query: Option<&str>, name: &str) -> Option<String> {
    query?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
}

/// The parameter `limit`.
pub(super) fn limit(query: Option<&str>, default: u32, most: u32) -> Result<u32, Problem> {
    let Some(text) = value(query, "limit") else {
        return Ok(default);
    };
    text.parse()
        .ok()
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| {
            Problem::new(
                Kind::BadRequest,
                format!("limit must be a number from 1 to {most}"),
            )
        })
}

/// Percent-decodes; what is not well encoded stays as it is, and is then no valid value of anything
/// there is here.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after
            .get(..2)
            .filter(|hex| byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let value = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                decoded.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            None => decoded.push(if byte == b'+' { b' ' } else { byte }),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_decoded() {
        let query = Some("a=1&ttl=1%68+%2&b&ttl=x&limit=7");
        assert_eq!(value(query, "ttl").as_deref(), Some("1h %2"));
        assert_eq!(value(query, "b"), None);
        assert_eq!(value(None, "a"), None);
        assert_eq!(limit(query, 1, 7).unwrap(), 7);
        assert_eq!(limit(None, 1, 7).unwrap(), 1);
        for wrong in ["limit=8", "limit=0", "limit=x", "limit=", "limit=-1"] {
            assert!(limit(Some(wrong), 1, 7).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_encoded_is_read(text in "\\PC{0,20}", before in "[!-~]{0,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = format!("{}&limit={encoded}&limit=no", before.replace("limit=", ""));
            proptest::prop_assert_eq!(value(Some(&query), "limit"), Some(text));
            let _ = (value(Some(&before), "limit"), limit(Some(&before), 1, 7).is_ok());
        }
    }
}
