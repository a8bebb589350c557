//! Who may run now, so that messages of one workflow run one after the other and those of different
//! workflows side by side.
//!
//! Pure: it knows numbers and keys, no messages. The first of a lane runs; it stays the first until it
//! leaves, however often it is tried again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Number of a delivery within a run, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What all messages of one lane have in common.
pub type LaneKey = Arc<str>;

/// The lanes that are not empty.
#[derive(Debug, Default)]
pub struct Lanes(HashMap<LaneKey, VecDeque<JobId>>);

impl Lanes {
    /// `job` joins the lane `key`; whether it is the first.
    pub fn join(&mut self, key: &LaneKey, job: JobId) -> bool {
        if let Some(lane) = self.0.get_mut(key) {
            lane.push_back(job);
            return false;
        }
        self.0.insert(Arc::clone(key), VecDeque::from([job]));
        true
    }

    /// `job` leaves the lane `key`; the one that is first now, if `job` was.
    pub fn leave(&mut self, key: &LaneKey, job: JobId) -> Option<JobId> {
        let lane = self.0.get_mut(key)?;
        let was_first = lane.front() == Some(&job);
        if was_first {
            lane.pop_front();
        } else {
            lane.retain(|other| *other != job);
        }
        let next = lane.front().copied();
        if next.is_none() {
            self.0.remove(key);
        }
        next.filter(|_| was_first)
    }

    /// How many lanes are not empty.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all are empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_of_a_lane_runs_when_the_first_has_left() {
        let (a, b): (LaneKey, LaneKey) = ("a".into(), "b".into());
        let mut lanes = Lanes::default();
        assert!(lanes.join(&a, JobId(0)));
        assert!(!lanes.join(&a, JobId(1)));
        assert!(lanes.join(&b, JobId(2)));
        assert!(!lanes.join(&a, JobId(3)));
        assert_eq!(lanes.leave(&a, JobId(1)), None, "it was not its turn");
        assert_eq!(lanes.leave(&a, JobId(0)), Some(JobId(3)));
        assert_eq!(lanes.leave(&b, JobId(2)), None);
        assert_eq!(lanes.leave(&a, JobId(3)), None);
        assert!(lanes.is_empty());
    }

    proptest! {
        /// Whatever comes and goes: of each lane exactly the oldest that is there has been let run.
        #[test]
        fn only_the_oldest_of_each_lane_runs(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200)) {
            let keys: Vec<LaneKey> = ["a", "b", "c"].map(LaneKey::from).to_vec();
            let mut lanes = Lanes::default();
            let mut there: BTreeMap<JobId, usize> = BTreeMap::new();
            let mut running = std::collections::BTreeSet::new();
            for (number, (what, which)) in steps.iter().enumerate() {
                if *what < 3 {
                    let job = JobId(number as u64);
                    there.insert(job, usize::from(*what));
                    if lanes.join(&keys[usize::from(*what)], job) {
                        running.insert(job);
                    }
                } else if !there.is_empty() {
                    let (job, key) = there.iter().nth(which.index(there.len())).map(|(j, k)| (*j, *k)).unwrap();
                    there.remove(&job);
                    running.remove(&job);
                    running.extend(lanes.leave(&keys[key], job));
                }
                let mut oldest = BTreeMap::new();
                for (job, key) in &there {
                    oldest.entry(*key).or_insert(*job);
                }
                prop_assert_eq!(&running, &oldest.into_values().collect());
            }
        }
    }
}
