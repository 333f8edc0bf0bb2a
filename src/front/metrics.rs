//! What the front counts.

use tidegate_wire::Reason;

use crate::metrics::{Counter, Gauge, labelled};

/// Why a TLS handshake did not end in a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeFailure {
    /// The client sent no certificate where one is required.
    NoCertificate,
    /// The certificate's validity is over, or has not begun.
    Expired,
    /// Issued by nobody we trust, or not for clients.
    UnknownAuthority,
    Revoked,
    /// Names nobody, or more than one.
    BadIdentity,
    /// A valid certificate for a device the registry does not know.
    UnknownDevice,
    DisabledDevice,
    /// Not finished in time.
    Timeout,
    /// The peer went away, or did not like our certificate.
    Aborted,
    /// Something else than TLS, such as plain HTTP or MQTT.
    NotTls,
    /// TLS, but of a version or with parameters we do not speak, or damaged.
    Protocol,
    /// Our own clock cannot be trusted.
    ClockUntrusted,
}

impl HandshakeFailure {
    pub const ALL: [Self; 12] = [
        Self::NoCertificate,
        Self::Expired,
        Self::UnknownAuthority,
        Self::Revoked,
        Self::BadIdentity,
        Self::UnknownDevice,
        Self::DisabledDevice,
        Self::Timeout,
        Self::Aborted,
        Self::NotTls,
        Self::Protocol,
        Self::ClockUntrusted,
    ];

    /// As a metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::UnknownAuthority => "unknown_authority",
            Self::Revoked => "revoked",
            Self::BadIdentity => "bad_identity",
            Self::UnknownDevice => "unknown_device",
            Self::DisabledDevice => "disabled_device",
            Self::Timeout => "timeout",
            Self::Aborted => "aborted",
            Self::NotTls => "not_tls",
            Self::Protocol => "protocol",
            Self::ClockUntrusted => "clock_untrusted",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The client said DISCONNECT.
    ByClient,
    /// The network connection broke or was closed without DISCONNECT.
    Lost,
    KeepAlive,
    TakenOver,
    /// The client broke the protocol.
    Protocol,
    /// Revoked, disabled, removed or kicked.
    Administrative,
    /// It does not read what is sent to it.
    Slow,
    /// The storage did not take its messages.
    Storage,
    /// The gateway stops.
    Stopping,
    /// CONNECT was refused or did not come.
    Refused,
}

impl Ended {
    pub const ALL: [Self; 10] = [
        Self::ByClient,
        Self::Lost,
        Self::KeepAlive,
        Self::TakenOver,
        Self::Protocol,
        Self::Administrative,
        Self::Slow,
        Self::Storage,
        Self::Stopping,
        Self::Refused,
    ];

    /// As a metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ByClient => "client",
            Self::Lost => "lost",
            Self::KeepAlive => "keep_alive",
            Self::TakenOver => "taken_over",
            Self::Protocol => "protocol",
            Self::Administrative => "administrative",
            Self::Slow => "slow",
            Self::Storage => "storage",
            Self::Stopping => "stopping",
            Self::Refused => "refused",
        }
    }
}

/// Why a message towards a peer was given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dropped {
    /// The peer's queue is full.
    QueueFull,
    /// Its message expiry interval passed.
    Expired,
    /// Larger than the peer takes.
    TooLarge,
    /// Nobody subscribes to it any more.
    NoSubscription,
}

impl Dropped {
    pub const ALL: [Self; 4] = [
        Self::QueueFull,
        Self::Expired,
        Self::TooLarge,
        Self::NoSubscription,
    ];

    /// As a metric's label.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::NoSubscription => "no_subscription",
        }
    }
}

/// Counters of the front; messages are counted per burst, not one by one.
#[derive(Debug, Default)]
pub struct FrontMetrics {
    pub connections: Gauge,
    pub connections_opened: Counter,
    /// Connections turned away because of a limit on their number.
    pub connections_refused: Counter,
    pub accept_errors: Counter,
    pub handshakes: Counter,
    pub handshakes_resumed: Counter,
    pub sessions_taken_over: Counter,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    /// Publishes on contract and telemetry topics.
    pub messages_received: Counter,
    /// Committed and acknowledged.
    pub messages_accepted: Counter,
    /// Delivered again with the DUP flag and acknowledged again.
    pub messages_duplicate: Counter,
    pub free_received: Counter,
    /// Publishes and subscriptions the peer has no right to.
    pub publish_denied: Counter,
    pub subscribe_denied: Counter,
    pub messages_sent: Counter,
    /// Batches that the storage did not take: nothing of them was acknowledged.
    pub storage_refusals: Counter,
    /// Times reading from a device was paused because it kept exceeding its rate.
    pub reading_paused: Counter,
    pub wills_published: Counter,
    pub retained_messages: Gauge,
    pub retained_refused: Counter,
    rejected: [Counter; Reason::ALL.len()],
    handshake_failures: [Counter; HandshakeFailure::ALL.len()],
    ended: [Counter; Ended::ALL.len()],
    dropped: [Counter; Dropped::ALL.len()],
}

impl FrontMetrics {
    /// The counter of messages rejected for `reason`.
    #[must_use]
    pub fn rejected(&self, reason: Reason) -> &Counter {
        labelled(&Reason::ALL, &self.rejected, reason)
    }

    #[must_use]
    pub fn handshake_failed(&self, cause: HandshakeFailure) -> &Counter {
        labelled(&HandshakeFailure::ALL, &self.handshake_failures, cause)
    }

    #[must_use]
    pub fn ended(&self, why: Ended) -> &Counter {
        labelled(&Ended::ALL, &self.ended, why)
    }

    #[must_use]
    pub fn dropped(&self, why: Dropped) -> &Counter {
        labelled(&Dropped::ALL, &self.dropped, why)
    }
}
