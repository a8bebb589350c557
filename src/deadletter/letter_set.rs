//! Letters of one scan, by their places in the queue: one bit for each, so that a million of them take
//! 125 kB however they were chosen. Pure.

/// A set of places; the first is 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterSet {
    words: Vec<u64>,
    len: u64,
}

/// The word and the bit in it that stand for a place; `None` for place 0, which there is not.
fn bit(position: u64) -> Option<(usize, u64)> {
    let at = position.checked_sub(1)?;
    Some((usize::try_from(at / 64).ok()?, 1 << (at % 64)))
}

impl LetterSet {
    /// Nothing.
    pub fn new() -> LetterSet {
        LetterSet::default()
    }

    /// The places from 1 to `last`.
    pub fn up_to(last: u64) -> LetterSet {
        let whole = usize::try_from(last / 64).unwrap_or(usize::MAX);
        let mut words = vec![u64::MAX; whole];
        if !last.is_multiple_of(64) {
            words.push((1 << (last % 64)) - 1);
        }
        LetterSet { words, len: last }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a place is among them.
    pub fn contains(&self, position: u64) -> bool {
        bit(position).is_some_and(|(word, bit)| self.words.get(word).is_some_and(|w| w & bit != 0))
    }

    /// Adds a place; whether it was not there.
    pub fn insert(&mut self, position: u64) -> bool {
        let Some((word, bit)) = bit(position) else { return false };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(is_new);
        is_new
    }

    /// Takes a place out; whether it was there.
    pub fn remove(&mut self, position: u64) -> bool {
        let was_there = self.contains(position);
        if let Some((word, bit)) = bit(position).filter(|_| was_there) {
            self.words[word] &= !bit;
            self.len -= 1;
        }
        was_there
    }

    fn combine(&self, other: &LetterSet, with: impl Fn(u64, u64) -> u64) -> LetterSet {
        let most = self.words.len().max(other.words.len());
        let at = |words: &[u64], index: usize| words.get(index).copied().unwrap_or(0);
        let words: Vec<u64> =
            (0..most).map(|index| with(at(&self.words, index), at(&other.words, index))).collect();
        let len = words.iter().map(|word| u64::from(word.count_ones())).sum();
        LetterSet { words, len }
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &LetterSet) -> LetterSet {
        self.combine(other, |a, b| a & b)
    }

    /// What is in either.
    #[must_use]
    pub fn or(&self, other: &LetterSet) -> LetterSet {
        self.combine(other, |a, b| a | b)
    }

    /// What is in this one alone.
    #[must_use]
    pub fn minus(&self, other: &LetterSet) -> LetterSet {
        self.combine(other, |a, b| a & !b)
    }

    /// What is in one of them and not in both.
    #[must_use]
    pub fn xor(&self, other: &LetterSet) -> LetterSet {
        self.combine(other, |a, b| a ^ b)
    }

    /// How many are in both.
    pub fn common(&self, other: &LetterSet) -> u64 {
        let both = self.words.iter().zip(&other.words);
        both.map(|(a, b)| u64::from((a & b).count_ones())).sum()
    }

    /// Places in order, without the first `skip`.
    pub fn from(&self, skip: u64) -> impl Iterator<Item = u64> + '_ {
        let mut left = skip;
        // Whole words that are skipped are only counted.
        let mut first = 0;
        while let Some(word) = self.words.get(first) {
            let here = u64::from(word.count_ones());
            if here > left {
                break;
            }
            left -= here;
            first += 1;
        }
        let rest = self.words[first.min(self.words.len())..].iter().zip(first as u64..);
        rest.flat_map(|(word, index)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let zeros = (word != 0).then(|| u64::from(word.trailing_zeros()))?;
                word &= word - 1;
                Some(index * 64 + zeros + 1)
            })
        })
        .skip(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// All places, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.from(0)
    }
}

impl FromIterator<u64> for LetterSet {
    fn from_iter<T: IntoIterator<Item = u64>>(places: T) -> LetterSet {
        let mut set = LetterSet::new();
        for place in places {
            set.insert(place);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn plain(set: &LetterSet) -> BTreeSet<u64> {
        set.iter().collect()
    }

    proptest! {
        /// It is a set of numbers, whatever is done to it.
        #[test]
        fn it_behaves_as_a_set(
            a in proptest::collection::btree_set(1u64..300, 0..80),
            b in proptest::collection::btree_set(1u64..300, 0..80),
            skip in 0u64..100,
        ) {
            let (one, other): (LetterSet, LetterSet) =
                (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(plain(&one), a.clone());
            prop_assert_eq!(plain(&one.and(&other)), &a & &b);
            prop_assert_eq!(plain(&one.or(&other)), &a | &b);
            prop_assert_eq!(plain(&one.minus(&other)), &a - &b);
            prop_assert_eq!(plain(&one.xor(&other)), &a ^ &b);
            prop_assert_eq!(one.common(&other), (&a & &b).len() as u64);
            prop_assert_eq!(one.xor(&other).len(), (&a ^ &b).len() as u64);
            let rest: Vec<u64> = one.from(skip).collect();
            let expected: Vec<u64> = a.iter().copied().skip(usize::try_from(skip).unwrap()).collect();
            prop_assert_eq!(rest, expected);
            let mut less = one.clone();
            for place in &b {
                prop_assert_eq!(less.remove(*place), a.contains(place));
            }
            prop_assert_eq!(less.len(), (&a - &b).len() as u64);
        }
    }

    #[test]
    fn whole_scans_are_counted_to_the_letter() {
        for last in [0, 1, 63, 64, 65, 128, 1000] {
            let set = LetterSet::up_to(last);
            assert_eq!((set.len(), set.iter().count() as u64), (last, last));
            assert!(!set.contains(0) && !set.contains(last + 1));
        }
        assert!(!LetterSet::new().insert(0));
    }
}
