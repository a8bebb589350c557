//! From looks to verdicts: what is too much, since when, and who has to be told. Pure; the time is in
//! the looks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::id::QueueName;
use crate::base::time::Timestamp;

/// A rate is taken over so long where looks are close together.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Over more than this a rate is not taken: it would hide every burst.
pub const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Over less than this neither: one letter would be thousands a minute.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Looks that are kept of one queue.
pub const KEPT: usize = 512;
/// What was too much is quiet again at nine tenths of the limit, so that a value that trembles around
/// it is one alert.
const QUIET_AT: f64 = 0.9;

/// What may be too much.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Letters in the queue.
    Depth,
    /// Letters a minute.
    Rate,
    /// Seconds since the oldest known death.
    Age,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 3] = [Measure::Depth, Measure::Rate, Measure::Age];

    /// The measure as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Measure::Depth => "depth",
            Measure::Rate => "rate",
            Measure::Age => "age",
        }
    }
}

/// From where on it is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// More letters than this.
    pub depth: Option<u64>,
    /// More a minute than this.
    pub rate: Option<f64>,
    /// An older death than this.
    pub age: Option<Duration>,
}

impl Limits {
    /// The limit of a measure as a number: letters, letters a minute, seconds.
    pub fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Depth => self.depth.map(number),
            Measure::Rate => self.rate,
            Measure::Age => self.age.map(|age| age.as_secs_f64()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 letters")]
fn number(count: u64) -> f64 {
    count as f64
}

/// A queue as it was seen once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// Letters that waited.
    pub ready: u64,
    /// Letters in it, those that somebody held included; `None` when the broker did not tell.
    pub all: Option<u64>,
    /// The oldest death, as far as it is known.
    pub oldest: Option<Timestamp>,
}

impl Look {
    /// Letters in it, as far as is known.
    pub fn depth(&self) -> u64 {
        // Where both are told, the count of all may be some seconds old.
        self.ready.max(self.all.unwrap_or(0))
    }

    /// How old the oldest death is. Nothing is old in an empty queue.
    pub fn age(&self) -> Option<Duration> {
        match self.depth() {
            0 => Some(Duration::ZERO),
            _ => self.oldest.map(|oldest| self.at.since(oldest)),
        }
    }
}

/// How fast a queue grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Letters a minute; 0 when it did not grow.
    pub per_minute: f64,
    /// Since when.
    pub since: Timestamp,
}

/// How fast a queue grew up to `now`, compared with the best of the `earlier` looks, oldest first: the
/// last that is a minute old or older, else the oldest there is.
pub fn rate<'a>(
    earlier: impl DoubleEndedIterator<Item = &'a Look> + Clone,
    now: &Look,
) -> Option<Rate> {
    let fits = |look: &&Look| {
        let age = now.at.since(look.at);
        // What is counted has to be the same in both.
        age >= SHORTEST && age <= LONGEST && look.all.is_some() == now.all.is_some()
    };
    let fitting = earlier.filter(fits);
    let settled = fitting.clone().rev().find(|look| now.at.since(look.at) >= WINDOW);
    let from = settled.or_else(|| fitting.clone().next())?;
    let count = |look: &Look| look.all.unwrap_or(look.ready);
    let grown = number(count(now).saturating_sub(count(from)));
    let minutes = now.at.since(from.at).as_secs_f64() / 60.0;
    Some(Rate { per_minute: grown / minutes, since: from.at })
}

/// What became of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is too much.
    Exceeded,
    /// It is not any more.
    Quiet,
}

impl Change {
    /// The change as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Change::Exceeded => "exceeded",
            Change::Quiet => "quiet",
        }
    }
}

/// That a measure has become too much, or is not any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The queue.
    pub queue: QueueName,
    /// What.
    pub measure: Measure,
    /// Which way.
    pub change: Change,
    /// How much it is: letters, letters a minute, seconds.
    pub value: f64,
    /// The limit.
    pub limit: f64,
    /// When it was seen.
    pub at: Timestamp,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// How fast the queue grows; `None` when it cannot be said.
    pub rate: Option<Rate>,
    /// What is too much now.
    pub exceeded: Vec<Measure>,
    /// What has changed.
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    looks: VecDeque<Look>,
    exceeded: BTreeSet<Measure>,
}

/// Judges look after look.
#[derive(Clone, Debug)]
pub struct Watcher {
    limits: Limits,
    queues: BTreeMap<QueueName, Queue>,
}

impl Watcher {
    /// Nothing was seen yet.
    pub fn new(limits: Limits) -> Watcher {
        Watcher { limits, queues: BTreeMap::new() }
    }

    /// Whether this queue was seen, or remembered, before.
    pub fn knows(&self, queue: &QueueName) -> bool {
        self.queues.contains_key(queue)
    }

    /// Takes up what an earlier watch saw, oldest first, and of what it has told already.
    pub fn remember(
        &mut self,
        queue: &QueueName,
        looks: impl IntoIterator<Item = Look>,
        exceeded: impl IntoIterator<Item = Measure>,
    ) {
        let known = self.queues.entry(queue.clone()).or_default();
        known.looks.extend(looks);
        known.exceeded.extend(exceeded.into_iter().filter(|m| self.limits.of(*m).is_some()));
    }

    /// How fast a queue would have grown up to `look`, without taking it.
    pub fn rate(&self, queue: &QueueName, look: &Look) -> Option<Rate> {
        rate(self.queues.get(queue)?.looks.iter(), look)
    }

    /// Takes a look. What cannot be said keeps the verdict that it had.
    pub fn see(&mut self, queue: &QueueName, look: Look) -> Seen {
        let known = self.queues.entry(queue.clone()).or_default();
        let rate = rate(known.looks.iter(), &look);
        let mut alerts = Vec::new();
        for measure in Measure::ALL {
            let value = match measure {
                Measure::Depth => Some(number(look.depth())),
                Measure::Rate => rate.map(|rate| rate.per_minute),
                Measure::Age => look.age().map(|age| age.as_secs_f64()),
            };
            let (Some(value), Some(limit)) = (value, self.limits.of(measure)) else { continue };
            let change = match known.exceeded.contains(&measure) {
                false if value > limit => Change::Exceeded,
                true if value <= limit * QUIET_AT => Change::Quiet,
                _ => continue,
            };
            match change {
                Change::Exceeded => known.exceeded.insert(measure),
                Change::Quiet => known.exceeded.remove(&measure),
            };
            let queue = queue.clone();
            alerts.push(Alert { queue, measure, change, value, limit, at: look.at });
        }
        known.looks.push_back(look);
        if known.looks.len() > KEPT {
            known.looks.pop_front();
        }
        Seen { rate, exceeded: known.exceeded.iter().copied().collect(), alerts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue() -> QueueName {
        QueueName::new("dead").unwrap()
    }

    fn look(second: i64, depth: u64) -> Look {
        Look {
            at: Timestamp::from_unix_ms(1_700_000_000_000 + second * 1000),
            ready: depth,
            all: None,
            oldest: None,
        }
    }

    fn per_minute(earlier: &[Look], now: Look) -> Option<f64> {
        rate(earlier.iter(), &now).map(|rate| rate.per_minute)
    }

    #[test]
    fn a_rate_is_growth_over_the_last_minute_or_what_is_nearest_to_it() {
        for (case, earlier, now, expected) in [
            ("nothing to compare with", vec![], look(0, 9), None),
            ("ten seconds", vec![look(0, 0)], look(10, 5), Some(30.0)),
            (
                "the oldest within the minute",
                vec![look(0, 0), look(10, 5)],
                look(20, 6),
                Some(18.0),
            ),
            (
                "the newest beyond it",
                vec![look(0, 0), look(30, 10), look(70, 70), look(100, 99)],
                look(130, 100),
                Some(30.0),
            ),
            ("it became less", vec![look(0, 50)], look(10, 5), Some(0.0)),
            ("cron", vec![look(0, 10)], look(300, 60), Some(10.0)),
            ("too long ago", vec![look(0, 10)], look(3601, 60), None),
            ("too short", vec![look(0, 10)], look(0, 60), None),
            ("the clock went back", vec![look(100, 10)], look(50, 60), None),
        ] {
            assert_eq!(per_minute(&earlier, now), expected, "{case}");
        }
        let all = |second, ready, all| Look { all: Some(all), ..look(second, ready) };
        // Somebody holds all of them: nothing has died when they are back.
        assert_eq!(per_minute(&[all(0, 0, 50)], all(10, 50, 50)), Some(0.0));
        assert_eq!(per_minute(&[look(0, 0)], all(10, 50, 50)), None, "not the same count");
    }

    #[test]
    fn one_alert_a_crossing_and_one_when_it_is_quiet() {
        let limits = Limits { depth: Some(10), ..Limits::default() };
        let mut watcher = Watcher::new(limits);
        let mut told = Vec::new();
        for (second, depth) in [10, 11, 15, 10, 11, 9, 10, 11, 0].into_iter().enumerate() {
            let seen = watcher.see(&queue(), look(i64::try_from(second).unwrap(), depth));
            told.push(seen.alerts.iter().map(|a| (a.change, a.value)).collect::<Vec<_>>());
        }
        let (exceeded, quiet) = (Change::Exceeded, Change::Quiet);
        let expected: [&[(Change, f64)]; 9] = [
            &[],
            &[(exceeded, 11.0)],
            &[],
            &[],
            &[],
            &[(quiet, 9.0)],
            &[],
            &[(exceeded, 11.0)],
            &[(quiet, 0.0)],
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_limit_of_nothing_is_exceeded_by_one_letter_and_quiet_without() {
        let mut watcher = Watcher::new(Limits { depth: Some(0), ..Limits::default() });
        assert_eq!(watcher.see(&queue(), look(0, 1)).exceeded, [Measure::Depth]);
        assert_eq!(watcher.see(&queue(), look(1, 0)).exceeded, []);
    }

    #[test]
    fn what_is_not_known_changes_nothing_and_an_empty_queue_has_no_age() {
        let hour = Duration::from_secs(3600);
        let mut watcher = Watcher::new(Limits { age: Some(hour), ..Limits::default() });
        let old = Some(Timestamp::from_unix_ms(1_700_000_000_000 - 7_200_000));
        let seen = watcher.see(&queue(), Look { oldest: old, ..look(0, 5) });
        assert_eq!((seen.exceeded, seen.alerts[0].value), (vec![Measure::Age], 7200.0));
        let seen = watcher.see(&queue(), look(1, 5));
        assert_eq!((seen.exceeded, seen.alerts), (vec![Measure::Age], vec![]));
        let seen = watcher.see(&queue(), look(2, 0));
        assert_eq!((seen.exceeded, seen.alerts.len()), (vec![], 1));
    }

    #[test]
    fn what_another_watch_told_is_not_told_again() {
        let mut watcher = Watcher::new(Limits { depth: Some(1), ..Limits::default() });
        watcher.remember(&queue(), [look(0, 9)], [Measure::Depth, Measure::Age]);
        let seen = watcher.see(&queue(), look(60, 9));
        assert_eq!((seen.exceeded, seen.alerts), (vec![Measure::Depth], vec![]));
        assert_eq!(seen.rate.map(|rate| rate.per_minute), Some(0.0));
        assert_eq!(watcher.see(&queue(), look(61, 0)).alerts[0].change, Change::Quiet);
    }

    proptest! {
        /// Alerts of one measure alternate, begin with too much, and each is on its side of the limit;
        /// the verdict is what the last alert said.
        #[test]
        fn alerts_alternate(depths in prop::collection::vec(0u64..30, 1..60), limit in 0u64..25) {
            let mut watcher = Watcher::new(Limits { depth: Some(limit), ..Limits::default() });
            let mut before = Change::Quiet;
            for (second, depth) in depths.into_iter().enumerate() {
                let seen = watcher.see(&queue(), look(i64::try_from(second).unwrap(), depth));
                for alert in &seen.alerts {
                    prop_assert_ne!(alert.change, before);
                    before = alert.change;
                    match alert.change {
                        Change::Exceeded => prop_assert!(depth > limit),
                        Change::Quiet => prop_assert!(depth <= limit),
                    }
                }
                prop_assert_eq!(!seen.exceeded.is_empty(), before == Change::Exceeded);
                prop_assert!(depth <= limit || before == Change::Exceeded);
            }
        }
    }
}
