//! Acknowledgements and events that wait in RAM, each bounded.

use alloc::collections::VecDeque;

use tidegate_wire::Channel;

use super::Item;

/// Events and acknowledgements in RAM. An event more is not noted; an acknowledgement more cannot
/// come, because commands are only read while there is room.
pub(super) const NOTICES: usize = 16;

/// Notices that wait, most urgent first: acknowledgements, then events, oldest first.
#[derive(Debug, Default)]
pub struct Outbox {
    acks: VecDeque<Item>,
    events: VecDeque<Item>,
    dropped_events: u32,
}

impl Outbox {
    /// Adds a notice. If there is no room, it comes back.
    #[must_use]
    pub fn push(&mut self, item: Item) -> Option<Item> {
        let queue = match item.channel {
            Channel::Ack => &mut self.acks,
            _ => &mut self.events,
        };
        if queue.len() < NOTICES {
            queue.push_back(item);
            return None;
        }
        if item.channel == Channel::Event {
            self.dropped_events += 1;
        }
        Some(item)
    }

    /// The most urgent notice.
    pub fn pop_notice(&mut self) -> Option<Item> {
        self.acks.pop_front().or_else(|| self.events.pop_front())
    }

    /// Whether an acknowledgement more can be taken.
    pub fn has_room_for_ack(&self) -> bool {
        self.acks.len() < NOTICES
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.events.is_empty()
    }

    /// Events there was no room for since start.
    pub const fn dropped_events(&self) -> u32 {
        self.dropped_events
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
    fn acks_before_events() {
        let mut outbox = Outbox::default();
        for channel in [Channel::Event, Channel::Ack] {
            for number in 0..2 {
                assert_eq!(outbox.push(of(channel, number)), None);
            }
        }
        for (channel, number) in [
            (Channel::Ack, 0),
            (Channel::Ack, 1),
            (Channel::Event, 0),
            (Channel::Event, 1),
        ] {
            assert_eq!(outbox.pop_notice(), Some(of(channel, number)));
        }
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn notices_are_bounded(count in 0u32..40) {
            let mut outbox = Outbox::default();
            let refused = (0..count).filter(|n| outbox.push(of(Channel::Event, *n)).is_some()).count();
            prop_assert_eq!(refused, (count as usize).saturating_sub(NOTICES));
            prop_assert_eq!(outbox.dropped_events() as usize, refused);
        }
    }
}
