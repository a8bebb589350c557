//! Which numbers of a workflow were processed and which are missing.
//!
//! Each workflow numbers its messages from a known start or from the first that is seen. The processed
//! numbers are kept as ranges: in good order that is one range however long the workflow runs. The
//! number of ranges is bounded; when a new gap would need one more, the lowest gap is written off and
//! counted, because it is the one that is least likely to close any more.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A set of numbers as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct RangeSet {
    // First number to last number of each range.
    ranges: BTreeMap<u64, u64>,
}

impl From<Vec<(u64, u64)>> for RangeSet {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut set = RangeSet::default();
        for (first, last) in pairs {
            set.insert_range(first..=last);
        }
        set
    }
}

impl From<RangeSet> for Vec<(u64, u64)> {
    fn from(set: RangeSet) -> Self {
        set.ranges.into_iter().collect()
    }
}

impl RangeSet {
    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    /// Adds `number`; `false` when it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        // The usual case is the number after the last one: no search then, and no new range.
        if let Some(mut entry) = self.ranges.last_entry()
            && entry.get().checked_add(1) == Some(number)
        {
            *entry.get_mut() = number;
            return true;
        }
        if self.contains(number) {
            return false;
        }
        self.insert_range(number..=number);
        true
    }

    /// Adds all of `numbers`.
    pub fn insert_range(&mut self, numbers: RangeInclusive<u64>) {
        let (mut first, mut last) = numbers.into_inner();
        if first > last {
            return;
        }
        // Swallow every range that overlaps or touches.
        let reach = last.saturating_add(1);
        while let Some((&start, &end)) = self.ranges.range(..=reach).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.ranges.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
    }

    /// Takes `number` out; `false` when it was not there.
    pub fn remove(&mut self, number: u64) -> bool {
        let Some((&first, &last)) = self.ranges.range(..=number).next_back() else { return false };
        if last < number {
            return false;
        }
        self.ranges.remove(&first);
        if first < number {
            self.ranges.insert(first, number - 1);
        }
        if number < last {
            self.ranges.insert(number + 1, last);
        }
        true
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    /// The number of ranges; what the set costs in memory.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no number is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The highest number in the set.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// Removes and returns the lowest range.
    pub fn pop_first(&mut self) -> Option<RangeInclusive<u64>> {
        self.ranges.pop_first().map(|(first, last)| first..=last)
    }
}

/// Which number a workflow begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With this one: everything from it to the first that is seen is missing.
    At(u64),
    /// With the first that is seen, for who comes in the middle.
    FirstSeen,
}

/// What a number is to its workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The one that was expected.
    Next,
    /// A later one: the range between was not seen yet.
    Ahead {
        /// What is missing between the highest number before and this one.
        missing: RangeInclusive<u64>,
    },
    /// One from a gap.
    Late,
    /// Processed before.
    Duplicate,
    /// From a gap that was written off, or from before the start: whether it was processed is not
    /// known any more.
    Unknown,
}

/// The numbers of one workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceTracker {
    start: Option<u64>,
    next_to_send: u64,
    processed: RangeSet,
    max_ranges: usize,
    // Numbers below are either processed or written off.
    floor: u64,
    written_off: u64,
}

impl SequenceTracker {
    /// A workflow of which nothing was seen. At most `max_ranges` ranges of processed numbers are
    /// remembered; 0 is taken as 1.
    pub fn new(start: Start, max_ranges: usize) -> Self {
        let start = match start {
            Start::At(number) => Some(number),
            Start::FirstSeen => None,
        };
        SequenceTracker {
            start,
            next_to_send: start.unwrap_or(0),
            processed: RangeSet::default(),
            max_ranges: max_ranges.max(1),
            floor: start.unwrap_or(0),
            written_off: 0,
        }
    }

    /// The number for the next message that is sent; `None` after the last there is.
    pub fn number_next(&mut self) -> Option<u64> {
        let number = self.next_to_send;
        self.next_to_send = number.checked_add(1)?;
        Some(number)
    }

    /// What `number` is, without noting it.
    pub fn look(&self, number: u64) -> Seen {
        if self.processed.contains(number) {
            return Seen::Duplicate;
        }
        if number < self.floor {
            return Seen::Unknown;
        }
        let expected = match (self.processed.last(), self.start) {
            (Some(last), _) => last.saturating_add(1),
            (None, Some(start)) => start,
            (None, None) => number,
        };
        match number {
            _ if number == expected => Seen::Next,
            _ if number > expected => Seen::Ahead { missing: expected..=number - 1 },
            _ => Seen::Late,
        }
    }

    /// Notes that `number` was processed.
    pub fn processed(&mut self, number: u64) -> Seen {
        let seen = self.look(number);
        if matches!(seen, Seen::Duplicate | Seen::Unknown) {
            return seen;
        }
        if self.start.is_none() {
            self.start = Some(number);
            self.floor = number;
        }
        self.processed.insert(number);
        while self.processed.len() > self.max_ranges {
            self.write_off_lowest_gap();
        }
        seen
    }

    fn write_off_lowest_gap(&mut self) {
        let Some(gap) = self.missing().next() else { return };
        self.written_off =
            self.written_off.saturating_add(gap.end() - gap.start()).saturating_add(1);
        // Below the gap everything was processed or written off, so one range can say it.
        let lowest = self.processed.ranges().next();
        if lowest.is_some_and(|lowest| lowest.end() < gap.start()) {
            self.processed.pop_first();
        }
        self.floor = gap.end().saturating_add(1);
    }

    /// The ranges that are missing below the highest processed number, in ascending order.
    pub fn missing(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        let mut from = self.floor;
        self.processed.ranges().filter_map(move |range| {
            let gap = (from < *range.start()).then(|| from..=*range.start() - 1);
            from = range.end().saturating_add(1).max(from);
            gap
        })
    }

    /// How many numbers were given up because too many gaps were open.
    pub const fn written_off(&self) -> u64 {
        self.written_off
    }

    /// The highest number that was processed.
    pub fn highest(&self) -> Option<u64> {
        self.processed.last()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn gaps(tracker: &SequenceTracker) -> Vec<(u64, u64)> {
        tracker.missing().map(RangeInclusive::into_inner).collect()
    }

    #[test]
    fn gaps_open_and_close() {
        let mut tracker = SequenceTracker::new(Start::At(0), 10);
        assert_eq!(tracker.processed(0), Seen::Next);
        assert_eq!(tracker.processed(3), Seen::Ahead { missing: 1..=2 });
        assert_eq!(tracker.processed(7), Seen::Ahead { missing: 4..=6 });
        assert_eq!(gaps(&tracker), [(1, 2), (4, 6)]);
        assert_eq!(tracker.processed(1), Seen::Late);
        assert_eq!(tracker.processed(1), Seen::Duplicate);
        assert_eq!(tracker.processed(5), Seen::Late);
        assert_eq!(gaps(&tracker), [(2, 2), (4, 4), (6, 6)]);
        for number in [2, 4, 6] {
            tracker.processed(number);
        }
        assert_eq!(gaps(&tracker), []);
        assert_eq!(tracker.highest(), Some(7));
    }

    #[test]
    fn who_comes_in_the_middle_misses_nothing_from_before() {
        let mut tracker = SequenceTracker::new(Start::FirstSeen, 10);
        assert_eq!(tracker.processed(40), Seen::Next);
        assert_eq!(tracker.processed(39), Seen::Unknown);
        assert_eq!(gaps(&tracker), []);
        let mut tracker = SequenceTracker::new(Start::At(1), 10);
        assert_eq!(tracker.processed(3), Seen::Ahead { missing: 1..=2 });
        assert_eq!(gaps(&tracker), [(1, 2)]);
    }

    #[test]
    fn the_lowest_gap_is_written_off_when_there_are_too_many() {
        let mut tracker = SequenceTracker::new(Start::At(0), 3);
        for number in [0, 2, 5, 9] {
            tracker.processed(number);
        }
        assert_eq!(gaps(&tracker), [(3, 4), (6, 8)]);
        assert_eq!(tracker.written_off(), 1);
        assert_eq!(tracker.processed(1), Seen::Unknown);
        assert_eq!(tracker.processed(3), Seen::Late);
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers_too() {
        let mut tracker = SequenceTracker::new(Start::At(0), 4);
        assert_eq!(tracker.processed(u64::MAX), Seen::Ahead { missing: 0..=u64::MAX - 1 });
        assert_eq!(tracker.processed(u64::MAX), Seen::Duplicate);
        assert_eq!(tracker.processed(0), Seen::Late);
        assert_eq!(gaps(&tracker), [(1, u64::MAX - 1)]);
        let mut sender = SequenceTracker::new(Start::At(u64::MAX - 1), 4);
        assert_eq!(sender.number_next(), Some(u64::MAX - 1));
        assert_eq!(sender.number_next(), None);
    }

    #[test]
    fn a_tracker_written_and_read_again_goes_on() {
        let mut tracker = SequenceTracker::new(Start::At(0), 10);
        for number in [0, 1, 5] {
            tracker.processed(number);
        }
        tracker.number_next();
        let text = serde_json::to_string(&tracker).expect("written");
        assert!(text.contains("[[0,1],[5,5]]"), "{text}");
        assert_eq!(serde_json::from_str::<SequenceTracker>(&text).expect("read"), tracker);
    }

    proptest! {
        #[test]
        fn a_range_set_is_a_set(steps in proptest::collection::vec(
            (any::<bool>(), 0u64..40, 0u64..4), 1..200,
        )) {
            let mut real = RangeSet::default();
            let mut model = BTreeSet::new();
            for (add, number, length) in steps {
                if !add {
                    prop_assert_eq!(real.remove(number), model.remove(&number));
                } else if length == 0 {
                    prop_assert_eq!(real.insert(number), model.insert(number));
                } else {
                    real.insert_range(number..=number + length);
                    model.extend(number..=number + length);
                }
                let numbers: Vec<u64> = real.ranges().flatten().collect();
                prop_assert_eq!(&numbers, &model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = real.ranges().collect();
                prop_assert!(ranges.windows(2).all(|two| two[0].end() + 1 < *two[1].start()));
            }
        }

        /// Without a bound nothing is forgotten: the tracker is a set of numbers.
        #[test]
        fn it_agrees_with_a_set(
            start in 0u64..5,
            numbers in proptest::collection::vec(0u64..60, 1..120),
        ) {
            let mut tracker = SequenceTracker::new(Start::At(start), usize::MAX);
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for number in numbers {
                let expected = model.last().map_or(start, |last| last + 1);
                let seen = match number {
                    _ if number < start => Seen::Unknown,
                    _ if model.contains(&number) => Seen::Duplicate,
                    _ if number == expected => Seen::Next,
                    _ if number > expected => Seen::Ahead { missing: expected..=number - 1 },
                    _ => Seen::Late,
                };
                prop_assert_eq!(tracker.processed(number), seen);
                if number >= start {
                    model.insert(number);
                }
                let missing: Vec<u64> = tracker.missing().flatten().collect();
                let top = model.last().copied().unwrap_or(start);
                let expected: Vec<u64> = (start..top).filter(|n| !model.contains(n)).collect();
                prop_assert_eq!(missing, expected);
            }
        }

        /// With a bound it may not know any more, but what it says is true and memory stays bounded.
        #[test]
        fn a_bounded_tracker_never_takes_a_new_number_for_a_duplicate(
            max_ranges in 1usize..5,
            numbers in proptest::collection::vec(0u64..60, 1..120),
        ) {
            let mut tracker = SequenceTracker::new(Start::At(0), max_ranges);
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for number in numbers {
                match tracker.processed(number) {
                    Seen::Duplicate => prop_assert!(model.contains(&number)),
                    Seen::Unknown => {}
                    Seen::Next | Seen::Ahead { .. } | Seen::Late => {
                        prop_assert!(model.insert(number));
                    }
                }
                prop_assert!(tracker.processed.len() <= max_ranges);
                prop_assert!(tracker.missing().flatten().all(|number| !model.contains(&number)));
                let top = model.last().copied().unwrap_or(0);
                let unseen = (0..=top).filter(|number| !model.contains(number)).count() as u64;
                let open = tracker.missing().flatten().count() as u64;
                prop_assert_eq!(open + tracker.written_off(), unseen);
            }
        }
    }
}
