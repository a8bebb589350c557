//! Whether to try again and when: a pure decision from what has happened so far.
//!
//! A policy limits one piece of work; a [`RetryBudget`] limits all of them together. Without the
//! second, every client retries at its limit just when the other side is weakest. The budget is a
//! share of the first attempts, as in "Handling Overload" (Site Reliability Engineering, O'Reilly
//! 2016, chapter 21, per-client retry budget), kept as a bucket of tokens with a small allowance per
//! second for quiet times, as in Finagle's `RetryBudget`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::{HumanDuration, Timestamp};

use super::backoff::Backoff;
use super::classification::Class;

/// What is done about failures of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Try again after a wait with full jitter, whose ceiling starts at `base`, doubles with each
    /// attempt and ends at `cap`.
    Retry {
        /// Ceiling of the first wait.
        base: Duration,
        /// Ceiling of every wait.
        cap: Duration,
    },
    /// Do not try again.
    GiveUp,
}

/// How often, how long and how quickly one piece of work is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 0 is taken as 1.
    pub max_attempts: u32,
    /// No attempt begins later than this after the first began; `None` for no limit.
    pub max_elapsed: Option<Duration>,
    /// For [`Class::Retriable`].
    pub retriable: Treatment,
    /// For [`Class::Throttled`].
    pub throttled: Treatment,
    /// For [`Class::Permanent`].
    pub permanent: Treatment,
    /// For [`Class::Poison`].
    pub poison: Treatment,
    /// For [`Class::Cancelled`].
    pub cancelled: Treatment,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 5,
            max_elapsed: None,
            retriable: Treatment::Retry {
                base: Duration::from_millis(500),
                cap: Duration::from_secs(60),
            },
            throttled: Treatment::Retry {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(300),
            },
            permanent: Treatment::GiveUp,
            poison: Treatment::GiveUp,
            cancelled: Treatment::GiveUp,
        }
    }
}

/// An attempt that has just failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which one it was, from 1.
    pub number: u32,
    /// How it failed.
    pub class: Class,
    /// Time since the first attempt began.
    pub elapsed: Duration,
    /// How long the other side asks to be left alone, if it said (`Retry-After`).
    pub asked_to_wait: Option<Duration>,
    /// 64 random bits, equally likely each.
    pub dice: u64,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this wait.
    RetryAfter(Duration),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The policy does not retry this class.
    Class(Class),
    /// All attempts are made.
    Attempts {
        /// So many.
        made: u32,
    },
    /// The next attempt would begin too late.
    Elapsed {
        /// Time since the first attempt began.
        elapsed: Duration,
        /// The wait that would have come before the next one.
        wait: Duration,
        /// The limit.
        limit: Duration,
    },
    /// Too many retries for the number of first attempts, over all work that shares the budget.
    Budget,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GiveUp::Class(class) => write!(f, "a {class} failure is not tried again"),
            GiveUp::Attempts { made: 1 } => f.write_str("the only attempt has failed"),
            GiveUp::Attempts { made } => write!(f, "all {made} attempts have failed"),
            GiveUp::Elapsed { elapsed, wait, limit } => write!(
                f,
                "{} have passed and the next attempt would begin in {}, beyond the limit of {}",
                HumanDuration(*elapsed),
                HumanDuration(*wait),
                HumanDuration(*limit)
            ),
            GiveUp::Budget => {
                f.write_str("the retry budget is used up: too much of the recent work was retried")
            }
        }
    }
}

impl RetryPolicy {
    /// What is done about failures of `class`.
    pub const fn treatment(&self, class: Class) -> Treatment {
        match class {
            Class::Retriable => self.retriable,
            Class::Throttled => self.throttled,
            Class::Permanent => self.permanent,
            Class::Poison => self.poison,
            Class::Cancelled => self.cancelled,
        }
    }

    /// What to do after `attempt`. Takes a token from `budget` only if the answer is to try again.
    ///
    /// A wait that the other side asked for comes before our own jitter, never instead of it: all who
    /// were told "in 10 s" would come back in the same moment.
    pub fn decide(
        &self,
        attempt: &Attempt,
        now: Timestamp,
        budget: Option<&mut RetryBudget>,
    ) -> Decision {
        let Treatment::Retry { base, cap } = self.treatment(attempt.class) else {
            return Decision::GiveUp(GiveUp::Class(attempt.class));
        };
        if attempt.number >= self.max_attempts.max(1) {
            return Decision::GiveUp(GiveUp::Attempts { made: attempt.number });
        }
        let own = Backoff::new(base, cap)
            .starting_at(attempt.number.saturating_sub(1))
            .next_wait(attempt.dice);
        let wait = attempt.asked_to_wait.unwrap_or_default().saturating_add(own);
        if let Some(limit) = self.max_elapsed
            && attempt.elapsed.saturating_add(wait) > limit
        {
            return Decision::GiveUp(GiveUp::Elapsed { elapsed: attempt.elapsed, wait, limit });
        }
        if budget.is_none_or(|budget| budget.withdraw(now)) {
            Decision::RetryAfter(wait)
        } else {
            Decision::GiveUp(GiveUp::Budget)
        }
    }
}

/// How many retries all work together may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSettings {
    /// Retries allowed for 100 first attempts.
    pub percent: u32,
    /// Retries allowed per second besides, so that little traffic can retry at all.
    pub per_second: u32,
    /// The most retries that can be saved up; also what is there at the start.
    pub capacity: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        BudgetSettings { percent: 20, per_second: 1, capacity: 100 }
    }
}

/// Saved-up retries, shared by all work against one other side.
///
/// Over any span of time the retries are at most `capacity + percent/100 × first attempts +
/// per_second × seconds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    settings: BudgetSettings,
    // In thousandths of a retry: what a millisecond at one retry per second adds.
    saved: u64,
    at: Timestamp,
}

/// One retry.
const RETRY: u64 = 1000;

impl RetryBudget {
    /// A full budget at `now`.
    pub fn new(settings: BudgetSettings, now: Timestamp) -> Self {
        RetryBudget { settings, saved: u64::from(settings.capacity) * RETRY, at: now }
    }

    /// The budget goes on under other settings; what is saved stays, up to the new capacity.
    pub fn set(&mut self, settings: BudgetSettings, now: Timestamp) {
        self.refill(now);
        self.settings = settings;
        self.save(0);
    }

    /// A first attempt is made.
    pub fn first_attempt(&mut self) {
        self.save(u64::from(self.settings.percent) * (RETRY / 100));
    }

    /// Takes one retry at `now`; `false` when none is left.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.refill(now);
        match self.saved.checked_sub(RETRY) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }

    /// Whole retries left at `now`.
    pub fn left(&self, now: Timestamp) -> u64 {
        let mut then = self.clone();
        then.refill(now);
        then.saved / RETRY
    }

    fn refill(&mut self, now: Timestamp) {
        let ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        // A clock that was set back gives nothing and is followed, so that saving goes on.
        self.at = now;
        self.save(ms.saturating_mul(u64::from(self.settings.per_second)));
    }

    fn save(&mut self, thousandths: u64) {
        let capacity = u64::from(self.settings.capacity) * RETRY;
        self.saved = self.saved.saturating_add(thousandths).min(capacity);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn failed(number: u32, class: Class) -> Attempt {
        Attempt { number, class, elapsed: S(0), asked_to_wait: None, dice: u64::MAX }
    }

    fn decide(policy: &RetryPolicy, attempt: &Attempt) -> Decision {
        policy.decide(attempt, at(0), None)
    }

    #[test]
    fn waits_double_until_the_attempts_are_used_up() {
        let policy = RetryPolicy { max_attempts: 4, ..RetryPolicy::default() };
        let ms = |ms| Decision::RetryAfter(Duration::from_millis(ms));
        let decisions: Vec<_> =
            (1..=4).map(|number| decide(&policy, &failed(number, Class::Retriable))).collect();
        let end = Decision::GiveUp(GiveUp::Attempts { made: 4 });
        assert_eq!(decisions, [ms(500), ms(1000), ms(2000), end]);
    }

    #[test]
    fn classes_are_treated_each_in_its_way() {
        let policy = RetryPolicy::default();
        assert_eq!(
            decide(&policy, &failed(1, Class::Throttled)),
            Decision::RetryAfter(S(2)),
            "throttled waits longer"
        );
        for class in [Class::Permanent, Class::Poison, Class::Cancelled] {
            let decision = decide(&policy, &failed(1, class));
            assert_eq!(decision, Decision::GiveUp(GiveUp::Class(class)));
        }
        let stubborn = RetryPolicy { poison: policy.retriable, ..policy };
        assert!(matches!(decide(&stubborn, &failed(1, Class::Poison)), Decision::RetryAfter(_)));
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_and_jittered() {
        let policy = RetryPolicy::default();
        let asked = Attempt { asked_to_wait: Some(S(10)), ..failed(1, Class::Throttled) };
        assert_eq!(decide(&policy, &asked), Decision::RetryAfter(S(12)));
        assert_eq!(decide(&policy, &Attempt { dice: 0, ..asked }), Decision::RetryAfter(S(10)));
    }

    #[test]
    fn an_attempt_that_would_begin_too_late_is_not_made() {
        let policy = RetryPolicy { max_elapsed: Some(S(20)), ..RetryPolicy::default() };
        let asked = |wait| Attempt {
            asked_to_wait: Some(S(wait)),
            elapsed: S(10),
            dice: 0,
            ..failed(1, Class::Throttled)
        };
        assert_eq!(decide(&policy, &asked(10)), Decision::RetryAfter(S(10)));
        let Decision::GiveUp(why) = decide(&policy, &asked(11)) else { panic!("too late") };
        assert_eq!(
            why.to_string(),
            "10s have passed and the next attempt would begin in 11s, beyond the limit of 20s"
        );
    }

    #[test]
    fn the_budget_is_used_only_by_retries_and_refilled_by_first_attempts_and_time() {
        let settings = BudgetSettings { percent: 20, per_second: 1, capacity: 2 };
        let mut budget = RetryBudget::new(settings, at(0));
        let policy = RetryPolicy::default();
        let ask = |class, now, budget: &mut RetryBudget| {
            policy.decide(&failed(1, class), at(now), Some(budget))
        };
        ask(Class::Poison, 0, &mut budget);
        assert_eq!(budget.left(at(0)), 2);
        ask(Class::Retriable, 0, &mut budget);
        ask(Class::Retriable, 0, &mut budget);
        let empty = Decision::GiveUp(GiveUp::Budget);
        assert_eq!(ask(Class::Retriable, 0, &mut budget), empty);
        for _ in 0..4 {
            budget.first_attempt();
        }
        assert_eq!(ask(Class::Retriable, 199, &mut budget), empty);
        assert_ne!(ask(Class::Retriable, 200, &mut budget), empty);
    }

    #[test]
    fn a_budget_changed_while_running_keeps_what_it_saved() {
        let small = BudgetSettings { percent: 0, per_second: 1, capacity: 10 };
        let mut budget = RetryBudget::new(small, at(0));
        budget.set(BudgetSettings { capacity: 50, ..small }, at(0));
        assert_eq!(budget.left(at(0)), 10);
        budget.set(BudgetSettings { capacity: 3, ..small }, at(0));
        assert_eq!(budget.left(at(0)), 3);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        First,
        Retry,
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::First),
            4 => Just(Step::Retry),
            1 => (0i64..3000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn every_decision_keeps_the_limits(
            max_attempts in 0u32..8,
            limit in proptest::option::of(0u64..100),
            number in 1u32..12,
            elapsed in 0u64..100,
            asked in proptest::option::of(0u64..100),
            class in proptest::sample::select(&Class::ALL[..]),
            dice in any::<u64>(),
        ) {
            let policy = RetryPolicy {
                max_attempts, max_elapsed: limit.map(S), ..RetryPolicy::default()
            };
            let asked_to_wait = asked.map(S);
            let attempt = Attempt { number, class, elapsed: S(elapsed), asked_to_wait, dice };
            match decide(&policy, &attempt) {
                Decision::RetryAfter(wait) => {
                    prop_assert!(number < max_attempts);
                    prop_assert!(matches!(class, Class::Retriable | Class::Throttled));
                    prop_assert!(wait >= asked_to_wait.unwrap_or_default());
                    let ceiling = S(if class == Class::Retriable { 60 } else { 300 });
                    prop_assert!(wait <= asked_to_wait.unwrap_or_default() + ceiling);
                    prop_assert!(limit.is_none_or(|limit| S(elapsed) + wait <= S(limit)));
                }
                Decision::GiveUp(GiveUp::Attempts { .. }) => {
                    prop_assert!(number >= max_attempts);
                }
                Decision::GiveUp(GiveUp::Elapsed { wait, .. }) => {
                    prop_assert!(S(elapsed) + wait > S(limit.expect("a limit")));
                }
                Decision::GiveUp(GiveUp::Class(_)) => {
                    prop_assert!(!matches!(class, Class::Retriable | Class::Throttled));
                }
                Decision::GiveUp(GiveUp::Budget) => prop_assert!(false, "there is no budget"),
            }
        }

        /// A bucket that starts full holds the least of `full + everything since then`, over all
        /// moments since the start: a formula that knows no steps.
        #[test]
        fn the_budget_agrees_with_the_sum_of_all_that_was_paid_in(
            percent in 0u32..200,
            per_second in 0u32..5,
            capacity in 0u32..20,
            steps in proptest::collection::vec(step(), 1..300),
        ) {
            let settings = BudgetSettings { percent, per_second, capacity };
            let mut budget = RetryBudget::new(settings, at(0));
            let mut now = 0i64;
            let full = i64::from(capacity) * 1000;
            // Every payment (+) and withdrawal (-) since the start, in thousandths.
            let mut moves: Vec<i64> = Vec::new();
            for step in steps {
                match step {
                    Step::First => {
                        budget.first_attempt();
                        moves.push(i64::from(percent) * 10);
                    }
                    Step::Wait(ms) => {
                        now += ms;
                        prop_assert!(budget.left(at(now)) <= u64::from(capacity));
                        // Paid in now, so that the order is the same on both sides.
                        budget.set(settings, at(now));
                        moves.push(ms * i64::from(per_second));
                    }
                    Step::Retry => {
                        let mut sum = 0;
                        let mut least = full;
                        for paid in moves.iter().rev() {
                            sum += paid;
                            least = least.min(full + sum);
                        }
                        let expected = least >= 1000;
                        prop_assert_eq!(budget.withdraw(at(now)), expected);
                        if expected {
                            moves.push(-1000);
                        }
                    }
                }
            }
        }
    }
}
