//! The life of a command.
//!
//! ```text
//!            Sent              Delivered            Outcome
//!  queued ─────────▶ sent ─────────────▶ delivered ─────────▶ done | failed
//!    ▲   ◀──────────  │                                          ▲
//!    │     Dropped    │ Expired                                  │ Outcome, however late
//!    └────────────────┴──────────▶ expired ──────────────────────┘
//! ```
//!
//! An outcome is the device's own signed word, so it may come at any point before another outcome:
//! before the PUBACK that would have made the command *delivered*, after the connection dropped, or
//! after the gateway gave up. *Expired* says that the gateway stopped trying; *delivered* that the
//! device took the message. Neither says what the device did.

use tidegate_wire::command::Status;

/// Where a command stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// To be sent on the device's next connection, or at once if it has one.
    Queued,
    /// Written to a connection that has not confirmed it yet.
    Sent,
    /// The device took it.
    Delivered,
    /// The device did it.
    Done,
    /// The device could not or would not do it.
    Failed,
    /// It was not delivered in time.
    Expired,
}

/// What can happen to a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It was written to the device's connection.
    Sent,
    /// The connection ended before the device confirmed.
    Dropped,
    /// The device confirmed (PUBACK, PUBREC), or there is no confirmation to wait for (QoS 0).
    Delivered,
    /// The device said how it ended.
    Outcome(Status),
    /// Its time is up.
    Expired,
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Sent,
        Self::Delivered,
        Self::Done,
        Self::Failed,
        Self::Expired,
    ];

    /// The state after `event`; `None` if the event changes nothing.
    #[must_use]
    pub const fn after(self, event: Event) -> Option<Self> {
        match (self, event) {
            // The first outcome stands.
            (Self::Done | Self::Failed, _) => None,
            (_, Event::Outcome(Status::Done)) => Some(Self::Done),
            (_, Event::Outcome(Status::Failed)) => Some(Self::Failed),
            (Self::Queued, Event::Sent) => Some(Self::Sent),
            (Self::Sent, Event::Dropped) => Some(Self::Queued),
            // Also from the queue, when the confirmation and the end of the connection cross; and
            // when it arrives just after the gateway gave up, because it is true.
            (Self::Queued | Self::Sent | Self::Expired, Event::Delivered) => Some(Self::Delivered),
            (Self::Queued | Self::Sent, Event::Expired) => Some(Self::Expired),
            _ => None,
        }
    }

    /// Whether it is still to be delivered.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Queued | Self::Sent)
    }

    /// As the API says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }

    /// The state that [`State::as_str`] says so.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [Event; 6] = [
        Event::Sent,
        Event::Dropped,
        Event::Delivered,
        Event::Outcome(Status::Done),
        Event::Outcome(Status::Failed),
        Event::Expired,
    ];

    #[test]
    fn every_transition_is_as_written_down() {
        use State::{Delivered, Done, Expired, Failed, Queued, Sent};
        // Columns as in EVENTS.
        let table = [
            (
                Queued,
                [
                    Some(Sent),
                    None,
                    Some(Delivered),
                    Some(Done),
                    Some(Failed),
                    Some(Expired),
                ],
            ),
            (
                Sent,
                [
                    None,
                    Some(Queued),
                    Some(Delivered),
                    Some(Done),
                    Some(Failed),
                    Some(Expired),
                ],
            ),
            (
                Delivered,
                [None, None, None, Some(Done), Some(Failed), None],
            ),
            (Done, [None; 6]),
            (Failed, [None; 6]),
            (
                Expired,
                [None, None, Some(Delivered), Some(Done), Some(Failed), None],
            ),
        ];
        for (state, expected) in table {
            for (event, expected) in EVENTS.into_iter().zip(expected) {
                assert_eq!(state.after(event), expected, "{state:?} after {event:?}");
            }
        }
    }

    #[test]
    fn names_read_back() {
        for state in State::ALL {
            assert_eq!(State::from_text(state.as_str()), Some(state));
        }
        assert_eq!(State::from_text("lost"), None);
    }

    proptest! {
        /// Whatever happens in whatever order: an outcome is final, and the first one; nothing that
        /// left the queue for good is sent again; without an outcome none is claimed.
        #[test]
        fn the_first_outcome_stands(events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40)) {
            let mut state = State::Queued;
            let mut outcome = None;
            let mut settled = false;
            for event in events {
                if let Event::Outcome(status) = event {
                    outcome.get_or_insert(status);
                }
                state = state.after(event).unwrap_or(state);
                prop_assert!(!(settled && state.is_pending()), "back in the queue after it left");
                settled |= !state.is_pending();
                let said = match state {
                    State::Done => Some(Status::Done),
                    State::Failed => Some(Status::Failed),
                    _ => None,
                };
                prop_assert_eq!(said, outcome);
            }
        }
    }
}
