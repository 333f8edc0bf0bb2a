//! What makes a board *this* device: Wi-Fi, certificate and key, trust, secret, gateway.
//!
//! None of it is in the firmware image: it lives in its own flash partition, written at
//! provisioning ([`image`]) and changed over the air ([`Store`]).

mod store;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use tidegate_wire::manifest::PublicKey;
use tidegate_wire::{DeviceId, SigningKey};
use zeroize::Zeroizing;

pub use store::{Store, StoreError, image};

/// Bytes of a P-256 private key, and of everything else that is fixed.
const KEY: usize = 32;

/// The most roots a device trusts: the present one, the next, and room to change both.
const MAX_ROOTS: usize = 4;

/// The most release keys a device trusts: the present one and the next.
pub const MAX_RELEASE_KEYS: usize = 2;

/// The port of the update server, which is on the gateway's host.
const UPDATE_PORT: u16 = 8444;

/// The port of NTP (RFC 5905).
const NTP_PORT: u16 = 123;

/// One whole set.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Network name and passphrase; `None` on a board with a wire.
    pub wifi: Option<Wifi>,
    /// Who it is.
    pub device_id: DeviceId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The P-256 private key of that certificate, as a big-endian scalar.
    pub key: Zeroizing<[u8; KEY]>,
    /// The roots the gateway's chain must end in, DER; one to four.
    pub roots: Vec<Vec<u8>>,
    /// The shared secret that messages are signed with.
    pub secret: Zeroizing<Vec<u8>>,
    /// Who signs firmware releases; none: the device takes no updates. They are not changed over
    /// the air: whoever controls the gateway must not be able to choose the device's firmware.
    pub release_keys: Vec<PublicKey>,
    /// Where the gateway is.
    pub gateway: Gateway,
}

/// A Wi-Fi network.
#[derive(Clone, PartialEq, Eq)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// Its passphrase; empty for an open network.
    pub passphrase: Zeroizing<String>,
}

/// The address of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Host name or address; the gateway's certificate must carry it.
    pub host: String,
    /// MQTT over TLS.
    pub port: u16,
    /// NTP.
    pub ntp_port: u16,
    /// Updates.
    pub update_port: u16,
}

impl Gateway {
    /// A gateway with NTP and updates on their usual ports.
    #[must_use]
    pub const fn new(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            ntp_port: NTP_PORT,
            update_port: UPDATE_PORT,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("device_id", &self.device_id)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Wifi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wifi")
            .field("ssid", &self.ssid)
            .finish_non_exhaustive()
    }
}

/// Why bytes are not a set of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentials {
    /// The fields do not add up to the length.
    #[error("credentials are cut short: provision the device again")]
    Truncated,
    /// A field is missing.
    #[error("credentials lack their {0}: provision the device again")]
    Missing(&'static str),
    /// A field has not the form it must have.
    #[error("credentials have a bad {0}: provision the device again")]
    Wrong(&'static str),
}

/// The fields, as they are tagged in flash. Numbers are never reused.
mod tag {
    pub(super) const SSID: u8 = 1;
    pub(super) const PASSPHRASE: u8 = 2;
    pub(super) const DEVICE_ID: u8 = 3;
    pub(super) const CERTIFICATE: u8 = 4;
    pub(super) const KEY: u8 = 5;
    pub(super) const ROOT: u8 = 6;
    pub(super) const SECRET: u8 = 7;
    pub(super) const HOST: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const NTP_PORT: u8 = 10;
    pub(super) const RELEASE_KEY: u8 = 11;
    pub(super) const UPDATE_PORT: u8 = 12;
    /// One more than the last.
    pub(super) const END: usize = 13;
}

impl Credentials {
    /// As it is stored: for each field its tag, its length in two bytes (little endian), its bytes.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Reserved at once: growing would leave copies of the key behind in the heap.
        let mut out = Zeroizing::new(Vec::with_capacity(self.encoded_len()));
        let mut put = |tag: u8, value: &[u8]| {
            out.push(tag);
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(value);
        };
        if let Some(wifi) = &self.wifi {
            put(tag::SSID, wifi.ssid.as_bytes());
            put(tag::PASSPHRASE, wifi.passphrase.as_bytes());
        }
        put(tag::DEVICE_ID, self.device_id.as_str().as_bytes());
        put(tag::CERTIFICATE, &self.certificate);
        put(tag::KEY, self.key.as_slice());
        for root in &self.roots {
            put(tag::ROOT, root);
        }
        for key in &self.release_keys {
            put(tag::RELEASE_KEY, key.as_bytes());
        }
        put(tag::SECRET, &self.secret);
        put(tag::HOST, self.gateway.host.as_bytes());
        put(tag::PORT, &self.gateway.port.to_le_bytes());
        put(tag::NTP_PORT, &self.gateway.ntp_port.to_le_bytes());
        put(tag::UPDATE_PORT, &self.gateway.update_port.to_le_bytes());
        out
    }

    fn encoded_len(&self) -> usize {
        let wifi = self
            .wifi
            .as_ref()
            .map_or(0, |wifi| 6 + wifi.ssid.len() + wifi.passphrase.len());
        let roots: usize = self.roots.iter().map(|root| 3 + root.len()).sum();
        wifi + roots
            + self.release_keys.len() * (3 + PublicKey::LEN)
            + 8 * 3
            + self.device_id.as_str().len()
            + self.certificate.len()
            + KEY
            + self.secret.len()
            + self.gateway.host.len()
            + 6
    }

    /// Reads what [`encode`](Self::encode) wrote. Fields of a later firmware are passed over.
    ///
    /// # Errors
    ///
    /// [`InvalidCredentials`] says which field is missing or wrong.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, InvalidCredentials> {
        use InvalidCredentials::{Missing, Truncated, Wrong};
        let mut fields: [Option<&[u8]>; tag::END] = [None; tag::END];
        let mut roots = Vec::new();
        let mut release_keys = Vec::new();
        while let Some((&tag, rest)) = bytes.split_first() {
            let (len, rest) = rest.split_first_chunk::<2>().ok_or(Truncated)?;
            let (value, rest) = rest
                .split_at_checked(u16::from_le_bytes(*len).into())
                .ok_or(Truncated)?;
            bytes = rest;
            if tag == tag::ROOT {
                if roots.len() == MAX_ROOTS {
                    return Err(Wrong("list of roots"));
                }
                roots.push(value.to_vec());
            } else if tag == tag::RELEASE_KEY {
                let key = value.try_into().ok();
                let key = key.and_then(|key| PublicKey::from_bytes(key).ok());
                release_keys.push(key.ok_or(Wrong("release key"))?);
                if release_keys.len() > MAX_RELEASE_KEYS {
                    return Err(Wrong("list of release keys"));
                }
            } else if let Some(field) = fields.get_mut(usize::from(tag)) {
                *field = Some(value);
            }
        }
        let field = |tag: u8| fields.get(usize::from(tag)).copied().flatten();
        let text = |tag: u8, name| {
            field(tag)
                .ok_or(Missing(name))
                .and_then(|value| core::str::from_utf8(value).map_err(|_| Wrong(name)))
        };
        let number = |tag: u8, name| {
            field(tag)
                .map(|value| {
                    value
                        .try_into()
                        .map(u16::from_le_bytes)
                        .map_err(|_| Wrong(name))
                })
                .transpose()
        };
        if roots.is_empty() {
            return Err(Missing("roots"));
        }
        let secret = field(tag::SECRET).ok_or(Missing("secret"))?;
        SigningKey::new(secret).map_err(|_| Wrong("secret"))?;
        let key: [u8; KEY] = field(tag::KEY)
            .ok_or(Missing("key"))?
            .try_into()
            .map_err(|_| Wrong("key"))?;
        let key = Zeroizing::new(key);
        p256::SecretKey::from_slice(key.as_slice()).map_err(|_| Wrong("key"))?;
        let wifi = match field(tag::SSID) {
            None => None,
            Some(_) => Some(Wifi {
                ssid: text(tag::SSID, "Wi-Fi name")?.into(),
                passphrase: Zeroizing::new(text(tag::PASSPHRASE, "Wi-Fi passphrase")?.into()),
            }),
        };
        let host = text(tag::HOST, "gateway host")?;
        if host.is_empty() {
            return Err(Wrong("gateway host"));
        }
        Ok(Self {
            wifi,
            device_id: text(tag::DEVICE_ID, "device id")?
                .try_into()
                .map_err(|_| Wrong("device id"))?,
            certificate: field(tag::CERTIFICATE)
                .ok_or(Missing("certificate"))?
                .to_vec(),
            key,
            roots,
            secret: Zeroizing::new(secret.to_vec()),
            release_keys,
            gateway: Gateway {
                host: host.into(),
                port: number(tag::PORT, "gateway port")?.ok_or(Missing("gateway port"))?,
                ntp_port: number(tag::NTP_PORT, "NTP port")?.unwrap_or(NTP_PORT),
                update_port: number(tag::UPDATE_PORT, "update port")?.unwrap_or(UPDATE_PORT),
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    /// A set that differs from another in every field that may be rotated.
    pub(crate) fn sample(mark: u8) -> Credentials {
        Credentials {
            wifi: Some(Wifi {
                ssid: "shed".into(),
                passphrase: Zeroizing::new("correct horse".into()),
            }),
            device_id: "sensor_001".try_into().unwrap(),
            certificate: std::vec![mark; 700],
            key: Zeroizing::new([mark; KEY]),
            roots: std::vec![std::vec![mark; 500]],
            secret: Zeroizing::new(std::vec![mark; 43]),
            release_keys: Vec::new(),
            gateway: Gateway::new("gateway.lan".into(), 8883),
        }
    }

    /// The public key of RFC 8032, section 7.1, test 1.
    fn release_key() -> PublicKey {
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
            .parse()
            .unwrap()
    }

    #[test]
    fn a_bad_release_key_is_refused() {
        let good = sample(7).encode();
        for key in [&[1; 31][..], &[0; 32]] {
            let mut bytes = good.to_vec();
            bytes.push(tag::RELEASE_KEY);
            bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
            bytes.extend_from_slice(key);
            let wrong = InvalidCredentials::Wrong("release key");
            assert_eq!(Credentials::decode(&bytes), Err(wrong));
        }
        let mut set = sample(7);
        set.release_keys = std::vec![release_key(); 3];
        assert!(Credentials::decode(&set.encode()).is_err());
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut set = sample(7);
        let bytes = set.encode();
        assert_eq!(
            bytes.len(),
            set.encoded_len(),
            "the key was not copied about"
        );
        assert_eq!(Credentials::decode(&bytes).unwrap(), set);
        set.wifi = None;
        set.gateway.ntp_port = 1123;
        set.gateway.update_port = 9444;
        set.release_keys = std::vec![release_key(), release_key()];
        assert_eq!(Credentials::decode(&set.encode()).unwrap(), set);
    }

    #[test]
    fn a_later_firmwares_fields_are_passed_over() {
        let mut bytes = sample(7).encode().to_vec();
        bytes.extend_from_slice(&[200, 2, 0, 1, 2]);
        assert_eq!(Credentials::decode(&bytes).unwrap(), sample(7));
    }

    #[test]
    fn nothing_cut_short_is_taken() {
        let bytes = sample(7).encode();
        for len in 0..bytes.len() {
            // Only the ports of NTP and updates may be left out whole.
            let whole = len == bytes.len() - 5 || len == bytes.len() - 10;
            assert_eq!(Credentials::decode(&bytes[..len]).is_ok(), whole, "{len}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = std::format!("{:?} {:?}", sample(b'x'), sample(b'x').wifi);
        assert!(!text.contains("horse") && !text.contains("xx") && !text.contains("120, 120"));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Credentials::decode(&bytes);
        }
    }
}
