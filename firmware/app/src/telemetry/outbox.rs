//! What waits in RAM: acknowledgements, events, readings, each bounded.

use alloc::collections::VecDeque;

use tidegate_wire::Channel;

use super::Item;

/// Readings in RAM before the oldest go to flash: short interruptions cost no flash wear.
pub(super) const READINGS: usize = 32;

/// Events and acknowledgements in RAM. An event more is not noted; an acknowledgement more cannot
/// come, because commands are only read while there is room.
pub(super) const NOTICES: usize = 16;

/// Messages that wait, most urgent first: acknowledgements, events, then readings, oldest first.
#[derive(Debug, Default)]
pub struct Outbox {
    acks: VecDeque<Item>,
    events: VecDeque<Item>,
    readings: VecDeque<Item>,
    dropped_events: u32,
}

impl Outbox {
    /// Adds a message. If there is no room for a reading, the oldest comes back, to be put
    /// elsewhere; what comes back of anything else was not taken.
    #[must_use]
    pub fn push(&mut self, item: Item) -> Option<Item> {
        let (queue, bound) = match item.channel {
            Channel::Ack => (&mut self.acks, NOTICES),
            Channel::Event => (&mut self.events, NOTICES),
            _ => (&mut self.readings, READINGS),
        };
        let full = queue.len() >= bound;
        if full && item.channel == Channel::Event {
            self.dropped_events += 1;
        }
        if full && item.channel != Channel::Data {
            return Some(item);
        }
        let oldest = if full { queue.pop_front() } else { None };
        queue.push_back(item);
        oldest
    }

    /// The most urgent notice.
    pub fn pop_notice(&mut self) -> Option<Item> {
        self.acks.pop_front().or_else(|| self.events.pop_front())
    }

    /// The oldest reading.
    pub fn pop_reading(&mut self) -> Option<Item> {
        self.readings.pop_front()
    }

    /// Whether an acknowledgement more can be taken.
    pub fn has_room_for_ack(&self) -> bool {
        self.acks.len() < NOTICES
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.events.is_empty() && self.readings.is_empty()
    }

    /// How many readings wait.
    pub fn readings(&self) -> usize {
        self.readings.len()
    }

    /// Events there was no room for, and from now on none.
    pub fn take_dropped_events(&mut self) -> u32 {
        core::mem::take(&mut self.dropped_events)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reading;
    use super::*;
    use proptest::prelude::*;

    fn of(channel: Channel, number: u32) -> Item {
        Item {
            channel,
            ..reading(number)
        }
    }

    #[test]
    fn acks_before_events_before_readings() {
        let mut outbox = Outbox::default();
        for channel in [Channel::Data, Channel::Event, Channel::Ack] {
            for number in 0..2 {
                assert_eq!(outbox.push(of(channel, number)), None);
            }
        }
        for (channel, number) in [(Channel::Ack, 0), (Channel::Ack, 1), (Channel::Event, 0)] {
            assert_eq!(outbox.pop_notice(), Some(of(channel, number)));
        }
        assert_eq!(outbox.pop_reading(), Some(of(Channel::Data, 0)));
    }

    proptest! {
        #[test]
        fn readings_stay_in_order_and_none_vanishes(count in 0u32..100) {
            let mut outbox = Outbox::default();
            let mut out = alloc::vec::Vec::new();
            for number in 0..count {
                out.extend(outbox.push(reading(number)));
                prop_assert!(outbox.readings() <= READINGS);
            }
            out.extend(core::iter::from_fn(|| outbox.pop_reading()));
            prop_assert_eq!(out, (0..count).map(reading).collect::<alloc::vec::Vec<_>>());
        }

        #[test]
        fn notices_are_bounded(count in 0u32..40) {
            let mut outbox = Outbox::default();
            let refused = (0..count).filter(|n| outbox.push(of(Channel::Event, *n)).is_some()).count();
            prop_assert_eq!(refused, (count as usize).saturating_sub(NOTICES));
            prop_assert_eq!(outbox.take_dropped_events() as usize, refused);
            prop_assert_eq!(outbox.take_dropped_events(), 0);
        }
    }
}
