//! What serving updates counts. Where releases, rollouts and devices stand is in the database and read
//! from there.

use crate::metrics::{Counter, labelled};

/// Why a device was not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Its certificate is not good for updates, or the device is disabled or unknown.
    Forbidden,
    /// The question makes no sense.
    BadQuery,
    /// There is no such image, or it is not for this device.
    NotFound,
    /// It asks for bytes past the end of the image.
    BadRange,
    /// It has as many downloads as one device may have.
    TooMany,
    /// The gateway cannot answer now.
    Unavailable,
}

impl Why {
    pub const ALL: [Self; 6] = [
        Self::Forbidden,
        Self::BadQuery,
        Self::NotFound,
        Self::BadRange,
        Self::TooMany,
        Self::Unavailable,
    ];

    /// As a metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::BadQuery => "bad_query",
            Self::NotFound => "not_found",
            Self::BadRange => "bad_range",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One kind of request, by why it was refused.
#[derive(Debug, Default)]
pub struct Refusals([Counter; Why::ALL.len()]);

impl Refusals {
    #[must_use]
    pub fn of(&self, why: Why) -> &Counter {
        labelled(&Why::ALL, &self.0, why)
    }
}

/// Counters of the update server.
#[derive(Debug, Default)]
pub struct UpdateMetrics {
    /// Questions answered with a release.
    pub offered: Counter,
    /// Questions answered with nothing.
    pub nothing: Counter,
    pub questions_refused: Refusals,
    /// Downloads that the gateway began to send itself. One that is resumed counts again.
    pub downloads: Counter,
    /// Downloads handed over to nginx, which sends the bytes and counts them in its own log.
    pub downloads_by_nginx: Counter,
    pub downloads_refused: Refusals,
    /// Of [`UpdateMetrics::downloads`], those that were sent to the end of what was asked for.
    pub downloads_completed: Counter,
    /// Of [`UpdateMetrics::downloads`], those ended because the device lost its right to the rest.
    pub downloads_revoked: Counter,
    /// Bytes of images that the gateway sent itself.
    pub bytes_sent: Counter,
}
