//! What of the log is settled: a position, and ranges beyond it.

use super::Seq;

/// A set of positions that mostly grows at its low end: everything at or below `position`, and a
/// sorted list of ranges beyond it. Bounded by how far deliveries overtake one another; a device that
/// is stuck for long is parked instead.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct SettledSet {
    position: u64,
    /// First and last, inclusive; sorted, disjoint, not touching each other or the position.
    ranges: Vec<(u64, u64)>,
}

/// The stored form of the ranges is not one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the settled ranges of an upstream are damaged")]
pub(super) struct DamagedRanges;

impl SettledSet {
    pub(super) fn at(position: Seq) -> Self {
        Self {
            position: position.0,
            ranges: Vec::new(),
        }
    }

    pub(super) fn position(&self) -> Seq {
        Seq(self.position)
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        if seq.0 <= self.position {
            return true;
        }
        let after = self.ranges.partition_point(|(first, _)| *first <= seq.0);
        after > 0
            && self
                .ranges
                .get(after - 1)
                .is_some_and(|(_, last)| seq.0 <= *last)
    }

    /// Adds one; false if it was there.
    pub(super) fn insert(&mut self, seq: Seq) -> bool {
        let seq = seq.0;
        if seq <= self.position {
            return false;
        }
        if seq == self.position + 1 {
            self.position = seq;
            self.absorb();
            return true;
        }
        let at = self.ranges.partition_point(|(first, _)| *first <= seq);
        let joins_left = match at.checked_sub(1).and_then(|left| self.ranges.get(left)) {
            Some((_, last)) if seq <= *last => return false,
            Some((_, last)) => *last + 1 == seq,
            None => false,
        };
        let joins_right = self
            .ranges
            .get(at)
            .is_some_and(|(first, _)| seq + 1 == *first);
        match (joins_left, joins_right) {
            (true, true) => {
                let (_, last) = self.ranges.remove(at);
                self.ranges[at - 1].1 = last;
            }
            (true, false) => self.ranges[at - 1].1 = seq,
            (false, true) => self.ranges[at].0 = seq,
            (false, false) => self.ranges.insert(at, (seq, seq)),
        }
        true
    }

    /// Everything at or below is settled.
    pub(super) fn advance(&mut self, position: Seq) {
        self.position = self.position.max(position.0);
        self.absorb();
    }

    fn absorb(&mut self) {
        let mut gone = 0;
        for (first, last) in &self.ranges {
            if *first > self.position + 1 {
                break;
            }
            self.position = self.position.max(*last);
            gone += 1;
        }
        self.ranges.drain(..gone);
    }

    /// The ranges as LEB128 numbers: distance from the end of the previous one, length − 1.
    pub(super) fn encode_ranges(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.ranges.len() * 3);
        let mut from = self.position;
        for (first, last) in &self.ranges {
            put(&mut bytes, first - from);
            put(&mut bytes, last - first);
            from = *last;
        }
        bytes
    }

    pub(super) fn decode(position: Seq, mut bytes: &[u8]) -> Result<Self, DamagedRanges> {
        let mut ranges = Vec::new();
        let mut from = position.0;
        while !bytes.is_empty() {
            let distance = take(&mut bytes).ok_or(DamagedRanges)?;
            let length = take(&mut bytes).ok_or(DamagedRanges)?;
            let first = from.checked_add(distance).ok_or(DamagedRanges)?;
            let last = first.checked_add(length).ok_or(DamagedRanges)?;
            if distance < 2 {
                return Err(DamagedRanges);
            }
            ranges.push((first, last));
            from = last;
        }
        Ok(Self {
            position: position.0,
            ranges,
        })
    }
}

pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set_and_survives_its_own_encoding(
            start in 0_u64..5,
            steps in prop::collection::vec((1_u64..60, prop::bool::weighted(0.03)), 0..120),
        ) {
            let mut set = SettledSet::at(Seq(start));
            let mut model: BTreeSet<u64> = (0..=start).collect();
            for (seq, jump) in steps {
                if jump {
                    set.advance(Seq(seq));
                    model.extend(0..=seq);
                } else {
                    prop_assert_eq!(set.insert(Seq(seq)), model.insert(seq));
                }
                for seq in 0..70 {
                    prop_assert_eq!(set.contains(Seq(seq)), model.contains(&seq));
                }
                let first_gap = (0..).find(|seq| !model.contains(seq)).unwrap();
                prop_assert_eq!(set.position().0 + 1, first_gap);
                let again = SettledSet::decode(set.position(), &set.encode_ranges()).unwrap();
                prop_assert_eq!(&again, &set);
            }
        }

        #[test]
        fn decoding_anything_is_safe(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = SettledSet::decode(Seq(7), &bytes);
        }
    }
}
