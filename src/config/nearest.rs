//! What was probably meant by a word that nobody knows.

/// The candidate nearest to `word`, if one is near enough to have been meant.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    let word_letters = Letters::of(&word);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let lower = candidate.to_lowercase();
        let letters = Letters::of(&lower);
        // A third of the letters wrong is a slip; more is another word. Of two as near, the first.
        let slip = letters.number.max(3) / 3;
        let most = match best {
            Some((0, _)) => break,
            Some((nearest, _)) => slip.min(nearest - 1),
            None => slip,
        };
        // Comparing costs the product of the lengths, somebody may have written a novel, and nearly
        // every candidate is out of the question.
        if word_letters.at_least(&letters) > most {
            continue;
        }
        let distance = strsim::osa_distance(&word, &lower);
        if distance <= most {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// How often each letter occurs, in no order; letters that share a place count as the same.
struct Letters {
    number: usize,
    counts: [u16; PLACES],
}

/// Enough for `a` to `z`, the digits and `_` to have one each.
const PLACES: usize = 64;

impl Letters {
    fn of(word: &str) -> Self {
        let mut letters = Self {
            number: 0,
            counts: [0; PLACES],
        };
        for letter in word.chars() {
            letters.number += 1;
            if let Some(count) = letters.counts.get_mut(letter as usize % PLACES) {
                *count = count.saturating_add(1);
            }
        }
        letters
    }

    /// No distance between the two is smaller: inserting, deleting or replacing a letter mends one
    /// that is missing and one that is too many, and swapping two mends none.
    fn at_least(&self, other: &Self) -> usize {
        let (mut missing, mut extra) = (0, 0);
        for (one, other) in self.counts.iter().zip(&other.counts) {
            missing += usize::from(other.saturating_sub(*one));
            extra += usize::from(one.saturating_sub(*other));
        }
        missing.max(extra).max(self.number.abs_diff(other.number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every candidate compared.
    fn thorough<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
        let word = word.to_lowercase();
        let near = candidates.iter().filter_map(|candidate| {
            let distance = strsim::osa_distance(&word, &candidate.to_lowercase());
            let most = candidate.to_lowercase().chars().count().max(3) / 3;
            (distance <= most).then_some((distance, *candidate))
        });
        near.min_by_key(|(distance, _)| *distance)
            .map(|(_, candidate)| candidate)
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["messages_per_second", "message_burst", "in_flight", "log"];
        for (word, meant) in [
            ("mesages_per_second", Some("messages_per_second")),
            ("message_brust", Some("message_burst")),
            ("InFlight", Some("in_flight")),
            ("lgo", Some("log")),
            ("log", Some("log")),
            ("retained", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_out_would_not_have_been_nearest(
            word in "[a-dA-D_é\u{2c6}]{0,12}",
            candidates in prop::collection::vec("[a-dA-D_é]{0,12}", 0..12),
        ) {
            let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
            prop_assert_eq!(
                nearest(&word, candidates.iter().copied()),
                thorough(&word, &candidates)
            );
        }
    }
}
