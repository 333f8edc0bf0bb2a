//! Firmware of the host: an image that is described rather than executed, and what starts it.
//!
//! A simulated device is updated like a chip: the image is written to one of two slots, a boot stage
//! with the rules of ESP-IDF's boot loader decides which one starts, and an image that fails does so
//! as real ones do. Its text says how:
//!
//! ```text
//! tidegate host firmware
//! version 1.1.0
//! security_version 0
//! behaviour healthy
//! size 65536
//! ```
//!
//! and the rest, up to its size, is filled with bytes that follow from the text. With a line
//! `only_on sensor_005` after its behaviour, it behaves so on this device and is healthy on others, as
//! with a fault that only some hardware meets.

use std::fmt::Write as _;
use std::str::FromStr;

use tidegate_app::update::otadata::Otadata;

use crate::flash::Flash;

const FIRST_LINE: &str = "tidegate host firmware";

/// Longest text of an image.
const TEXT: usize = 256;

/// What an image does once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "live", derive(clap::ValueEnum))]
pub enum Behaviour {
    /// What it should.
    Healthy,
    /// Panics before the device's own code has its turn.
    CrashesAtStart,
    /// Panics when it connects.
    Crashes,
    /// Stops for good when it connects, until the watchdog bites.
    Hangs,
    /// Never reaches the gateway.
    Unreachable,
}

impl Behaviour {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Healthy, "healthy"),
        (Self::CrashesAtStart, "crashes-at-start"),
        (Self::Crashes, "crashes"),
        (Self::Hangs, "hangs"),
        (Self::Unreachable, "unreachable"),
    ];

    const fn as_str(self) -> &'static str {
        let [
            (_, healthy),
            (_, at_start),
            (_, crashes),
            (_, hangs),
            (_, unreachable),
        ] = Self::ALL;
        match self {
            Self::Healthy => healthy,
            Self::CrashesAtStart => at_start,
            Self::Crashes => crashes,
            Self::Hangs => hangs,
            Self::Unreachable => unreachable,
        }
    }
}

/// A firmware image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Semantic, without a build part.
    pub version: String,
    /// See [`System::security_version`](tidegate_app::board::System::security_version).
    pub security_version: u32,
    /// What it does.
    pub behaviour: Behaviour,
    /// The device on which it does so, healthy on all others; none: on each.
    pub only_on: Option<String>,
}

impl Firmware {
    /// What the program itself is: what runs before there ever was an update.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            security_version: 0,
            behaviour: Behaviour::Healthy,
            only_on: None,
        }
    }

    /// What it does on this device.
    #[must_use]
    pub fn behaviour_on(&self, device: &str) -> Behaviour {
        match &self.only_on {
            Some(only) if only != device => Behaviour::Healthy,
            _ => self.behaviour,
        }
    }

    /// The image, `size` bytes of it, or as many as its text takes.
    #[must_use]
    pub fn image(&self, size: usize) -> Vec<u8> {
        let mut text = format!("{FIRST_LINE}\nversion {}\n", self.version);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "security_version {}\nbehaviour {}\n",
            self.security_version,
            self.behaviour.as_str()
        );
        if let Some(device) = &self.only_on {
            let _ = writeln!(text, "only_on {device}");
        }
        let _ = write!(text, "size {size}\n\n");
        let mut image = text.into_bytes();
        // xorshift, seeded by the text: no two images are alike, and none has long runs.
        let mut word = image.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |word, byte| {
            (word ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3) | 1
        });
        while image.len() < size {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            image.push(word.to_le_bytes()[3]);
        }
        image
    }

    /// Reads the start of an image.
    #[must_use]
    pub fn read(image: &[u8]) -> Option<Self> {
        let image = image.get(..TEXT.min(image.len()))?;
        let end = image.windows(2).position(|pair| pair == b"\n\n")?;
        let text = std::str::from_utf8(image.get(..end)?).ok()?;
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let version = field("version")?.to_owned();
        let security_version = u32::from_str(field("security_version")?).ok()?;
        let behaviour = field("behaviour")?;
        let (behaviour, _) = Behaviour::ALL
            .into_iter()
            .find(|(_, name)| *name == behaviour)?;
        let only_on = lines.next().and_then(|line| line.strip_prefix("only_on "));
        Some(Self {
            version,
            security_version,
            behaviour,
            only_on: only_on.map(str::to_owned),
        })
    }
}

/// What a boot loader does: the slot that starts, and what is in it. One that cannot be started is
/// passed over; the first slot holds the program itself until something was written there.
pub(crate) async fn boot(otadata: Flash, slots: [&Flash; 2], rolls_back: bool) -> (u8, Firmware) {
    // A record that cannot be read is as good as none.
    let chosen = Otadata::new(otadata).boot(rolls_back).await.unwrap_or(0);
    let firmware = |slot: u8| {
        let flash = slots.get(usize::from(slot))?;
        if slot == 0 && flash.is_blank() {
            return Some(Firmware::built_in());
        }
        Firmware::read(flash.bytes())
    };
    for slot in [chosen, 1 - chosen] {
        if let Some(firmware) = firmware(slot) {
            return (slot, firmware);
        }
    }
    (0, Firmware::built_in())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_it_says() {
        for (behaviour, _) in Behaviour::ALL {
            for only_on in [None, Some("sensor_005".to_owned())] {
                let firmware = Firmware {
                    version: "1.2.0-rc.1".into(),
                    security_version: 3,
                    behaviour,
                    only_on,
                };
                let image = firmware.image(5000);
                assert_eq!(image.len(), 5000);
                assert_eq!(firmware.behaviour_on("sensor_005"), behaviour);
                let elsewhere = match firmware.only_on {
                    Some(_) => Behaviour::Healthy,
                    None => behaviour,
                };
                assert_eq!(firmware.behaviour_on("sensor_004"), elsewhere);
                assert_eq!(Firmware::read(&image), Some(firmware));
            }
        }
        assert_eq!(Firmware::read(&[0xff; 400]), None);
        assert_eq!(Firmware::read(b""), None);
    }
}
