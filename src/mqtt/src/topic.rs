//! Topic names and filters (3.1.1 and 5.0 §4.7), shared subscriptions (5.0 §4.8).

use crate::read::has_nul;

/// The longest topic name or filter, in bytes of UTF-8: what a two-byte length can say
/// (`[MQTT-4.7.3-3]`).
pub const MAX_TOPIC_LEN: usize = 65_535;

/// What the topic filter of a shared subscription starts with (5.0 §4.8.2).
pub const SHARE_PREFIX: &str = "$share/";

/// Whether `name` may be published to: 1 to 65,535 bytes, no wild card, no U+0000
/// (`[MQTT-3.3.2-2]`, `[MQTT-4.7.0-1]`, `[MQTT-4.7.3-1]`, `[MQTT-4.7.3-2]`).
#[inline]
#[must_use]
pub fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_TOPIC_LEN
        && !bytes
            .iter()
            .fold(false, |bad, &b| bad | (b == b'+') | (b == b'#') | (b == 0))
}

/// Whether `filter` may be subscribed to, shared subscriptions aside: 1 to 65,535 bytes, no
/// U+0000, `+` and `#` alone in their level, `#` only in the last (`[MQTT-4.7.1-1]`,
/// `[MQTT-4.7.1-2]` and its 3.1.1 twins).
#[must_use]
pub fn valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_TOPIC_LEN || has_nul(filter.as_bytes()) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "+" => {}
            "#" => return levels.peek().is_none(),
            _ if level.contains(['+', '#']) => return false,
            _ => {}
        }
    }
    true
}

/// A topic filter taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicFilter<'a> {
    /// The share name of `$share/{name}/{filter}`.
    pub share: Option<&'a str>,
    /// What topic names are matched against, without the `$share/{name}/`.
    pub filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Validates a filter and splits a shared one: `$share/`, then a share name of at least one
    /// character without `/`, `+` or `#`, then `/` and a valid filter (`[MQTT-4.8.2-1]`,
    /// `[MQTT-4.8.2-2]`). `None` if it is invalid.
    ///
    /// MQTT 3.1.1 knows no shared subscriptions; there `$share/…` is a filter like any other
    /// and [`valid_filter`] is what to ask.
    #[must_use]
    pub fn parse(filter: &'a str) -> Option<Self> {
        let Some(shared) = filter.strip_prefix(SHARE_PREFIX) else {
            return valid_filter(filter).then_some(Self {
                share: None,
                filter,
            });
        };
        let (name, inner) = shared.split_once('/')?;
        let valid = !name.is_empty()
            && !name.contains(['+', '#'])
            && filter.len() <= MAX_TOPIC_LEN
            && !has_nul(name.as_bytes())
            && valid_filter(inner);
        valid.then_some(Self {
            share: Some(name),
            filter: inner,
        })
    }
}

/// Whether a valid, unshared `filter` matches a valid topic `name` (§4.7.1), byte for byte
/// (`[MQTT-4.7.3-4]`). A filter starting with a wild card matches no name starting with `$`
/// (`[MQTT-4.7.2-1]`); `a/#` matches `a` as well.
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(part) if level == "+" || level == part => {}
            _ => return false,
        }
    }
    names.next().is_none()
}
