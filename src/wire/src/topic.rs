//! The topics of the contract, built and read in this one place.

use core::fmt;
use core::ops::Deref;
use core::str;

use crate::device_id::DeviceId;
use crate::limits::MAX_TOPIC;
use crate::signing::Direction;

/// The last level of a contract topic: what travels on `device/{id}/…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Telemetry, a signed envelope.
    Data,
    /// Boot, update progress, health: a signed envelope.
    Event,
    /// The outcome of a command, a signed envelope.
    Ack,
    /// The backend's reply, or a rejection notice.
    Response,
    /// A command, a signed envelope.
    Command,
}

impl Channel {
    /// All of them, in the order of the contract's table.
    pub const ALL: [Self; 5] = [
        Self::Data,
        Self::Event,
        Self::Ack,
        Self::Response,
        Self::Command,
    ];

    /// The topic level, such as `data`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Event => "event",
            Self::Ack => "ack",
            Self::Response => "response",
            Self::Command => "command",
        }
    }

    /// Who publishes on it.
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            Self::Data | Self::Event | Self::Ack => Direction::Up,
            Self::Response | Self::Command => Direction::Down,
        }
    }

    /// The topic of this channel for one device, such as `device/sensor_001/data`.
    #[must_use]
    pub fn topic(self, device: &DeviceId) -> TopicBuf {
        let parts = ["device/", device.as_str(), "/", self.as_str()];
        let mut bytes = [0; MAX_TOPIC];
        let mut len = 0;
        // `MAX_TOPIC` is made for the longest of these, so nothing is ever cut off.
        for (to, from) in bytes
            .iter_mut()
            .zip(parts.iter().flat_map(|part| part.bytes()))
        {
            *to = from;
            len += 1;
        }
        TopicBuf { bytes, len }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The device id and channel of a contract topic; `None` for any other topic.
///
/// The id is one that [`DeviceId::check`] accepts, so wildcards and further levels are none.
#[must_use]
pub fn parse(topic: &str) -> Option<(&str, Channel)> {
    let (id, level) = topic.strip_prefix("device/")?.split_once('/')?;
    let channel = match level {
        "data" => Channel::Data,
        "event" => Channel::Event,
        "ack" => Channel::Ack,
        "response" => Channel::Response,
        "command" => Channel::Command,
        _ => return None,
    };
    Some((DeviceId::check(id.as_bytes()).ok()?, channel))
}

/// A contract topic, held inline; it is a `str` wherever one is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicBuf {
    bytes: [u8; MAX_TOPIC],
    len: usize,
}

impl TopicBuf {
    /// The topic.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Assembled from `str`s only.
        str::from_utf8(self.bytes.get(..self.len).unwrap_or(&[])).unwrap_or("")
    }
}

impl Deref for TopicBuf {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for TopicBuf {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for TopicBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for TopicBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicBuf({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn topics_round_trip() {
        let longest = "x".repeat(64);
        for name in ["sensor_001", longest.as_str()] {
            let device: DeviceId = name.parse().unwrap();
            for channel in Channel::ALL {
                let topic = channel.topic(&device);
                assert_eq!(&*topic, std::format!("device/{name}/{channel}"));
                assert_eq!(parse(&topic), Some((name, channel)));
            }
        }
    }

    #[test]
    fn other_topics_are_none_of_ours() {
        for topic in [
            "",
            "device",
            "device/",
            "device//data",
            "device/a",
            "device/a/",
            "device/a/Data",
            "device/a/data/",
            "device/a/data/x",
            "/device/a/data",
            "device/+/data",
            "device/#",
            "device/a b/data",
            "devices/a/data",
            "device/a/b/data",
            "device/é/data",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
        let too_long = std::format!("device/{}/data", "x".repeat(65));
        assert_eq!(parse(&too_long), None);
    }
}
