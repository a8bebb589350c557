//! A rate limit with priorities: one bucket of tokens for a resource, of which the last are kept for
//! the more important.
//!
//! Every request takes its tokens from the same bucket, so the total never exceeds `capacity + rate ×
//! time` whatever the mix. A priority may take tokens only down to its floor: what lies below is kept
//! for those above it. Nobody owns a part of the rate: as soon as the more important ask for nothing,
//! the bucket fills beyond the floors and everything is lent to whoever asks. Since floors alone would
//! let a flood of high or normal requests starve those below, each priority but the first also has a
//! share of the rate that it may take below its floor. Critical is left at least the rest of the rate,
//! and may take all of it.
//!
//! In a small bucket a floor is less than one token and keeps nothing. So a critical request that is
//! refused is also remembered for about as long again as it has to wait: until then nobody else
//! takes the tokens it waits for.
//!
//! Counted in integers (a billionth of a token), so that no rounding adds up to a token too many.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// How important a request is; the most important first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Goes before everything else.
    Critical,
    /// Goes before the usual.
    High,
    /// The usual.
    #[default]
    Normal,
    /// Goes when there is room.
    Low,
}

impl Priority {
    /// All, the most important first.
    pub const ALL: [Priority; 4] =
        [Priority::Critical, Priority::High, Priority::Normal, Priority::Low];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Priority::ALL.into_iter().find(|priority| priority.as_str() == text).ok_or_else(|| {
            format!("`{text}` is no priority; there are critical, high, normal and low")
        })
    }
}

/// A billionth of a token: what a millisecond at a millionth of a token per second adds.
const TOKEN: u64 = 1_000_000_000;
const MICRO: f64 = 1_000_000.0;
/// Keeps all arithmetic below within 64 bits.
const LARGEST: u32 = 100_000_000;

/// How much is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlainLimit", into = "PlainLimit")]
pub struct Limit {
    capacity: u32,
    // In millionths of a token.
    per_second: u64,
}

/// A limit as it is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct PlainLimit {
    capacity: u32,
    per_second: f64,
}

/// Why numbers are no limit.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LimitError {
    /// Nothing could ever pass, or more than can be counted.
    #[error("the capacity is {0}; it has to be from 1 to 100000000")]
    Capacity(u32),
    /// Less than nothing, less than can be counted, or more.
    #[error("the rate is {0} per second; it has to be 0, or from 0.000001 to 100000000")]
    Rate(f64),
}

impl Limit {
    /// At most `capacity` at once and `per_second` in the long run; a rate of 0 lets nothing through
    /// once the bucket is empty.
    pub fn new(capacity: u32, per_second: f64) -> Result<Limit, LimitError> {
        if !(1..=LARGEST).contains(&capacity) {
            return Err(LimitError::Capacity(capacity));
        }
        let fits = (1.0 / MICRO..=f64::from(LARGEST)).contains(&per_second) || per_second == 0.0;
        if !fits {
            return Err(LimitError::Rate(per_second));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above: from 0 to 10^14"
        )]
        let per_second = (per_second * MICRO).round() as u64;
        Ok(Limit { capacity, per_second })
    }

    /// The most that passes at once.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What passes per second in the long run.
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "at most 10^14, below 2^53")]
        let micro = self.per_second as f64;
        micro / MICRO
    }

    fn full(&self) -> u64 {
        u64::from(self.capacity) * TOKEN
    }
}

impl TryFrom<PlainLimit> for Limit {
    type Error = LimitError;
    fn try_from(plain: PlainLimit) -> Result<Self, LimitError> {
        Limit::new(plain.capacity, plain.per_second)
    }
}

impl From<Limit> for PlainLimit {
    fn from(limit: Limit) -> Self {
        PlainLimit { capacity: limit.capacity, per_second: limit.per_second() }
    }
}

/// What is kept for whom, in percent, in the order of [`Priority::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlainReserve", into = "PlainReserve")]
pub struct Reserve {
    floors: [u8; 4],
    shares: [u8; 4],
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct PlainReserve {
    floors: [u8; 4],
    shares: [u8; 4],
}

/// Why numbers are no reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The less important could take what is kept for the more important.
    #[error("floors have to rise from 0 (critical) to at most 99 (low)")]
    Floors,
    /// Nothing would be left for critical.
    #[error("the shares of high, normal and low add up to {0} percent; at most 90 leave something")]
    Shares(u32),
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve { floors: [0, 10, 20, 40], shares: [0, 10, 10, 5] }
    }
}

impl Reserve {
    /// Nothing is kept for anybody.
    pub const NONE: Reserve = Reserve { floors: [0; 4], shares: [0; 4] };

    /// `floors`: the percentage of the capacity that each priority leaves to those above it.
    /// `shares`: the percentage of the rate that each priority may take below its floor; that of
    /// critical is taken as 0, since it has no floor.
    pub fn new(floors: [u8; 4], shares: [u8; 4]) -> Result<Reserve, ReserveError> {
        if floors[0] != 0 || !floors.is_sorted() || floors[3] > 99 {
            return Err(ReserveError::Floors);
        }
        let sum = shares[1..].iter().map(|share| u32::from(*share)).sum();
        if sum > 90 {
            return Err(ReserveError::Shares(sum));
        }
        Ok(Reserve { floors, shares: [0, shares[1], shares[2], shares[3]] })
    }

    /// The percentage of the capacity that `priority` leaves to those above it.
    pub const fn floor(&self, priority: Priority) -> u8 {
        self.floors[priority.index()]
    }

    /// The percentage of the rate that `priority` may take below its floor.
    pub const fn share(&self, priority: Priority) -> u8 {
        self.shares[priority.index()]
    }
}

impl TryFrom<PlainReserve> for Reserve {
    type Error = ReserveError;
    fn try_from(plain: PlainReserve) -> Result<Self, ReserveError> {
        Reserve::new(plain.floors, plain.shares)
    }
}

impl From<Reserve> for PlainReserve {
    fn from(reserve: Reserve) -> Self {
        PlainReserve { floors: reserve.floors, shares: reserve.shares }
    }
}

/// A request does not pass now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// It passes after this time if nobody else takes anything until then.
    Wait(Duration),
    /// It asks for more than the bucket can ever hold.
    TooLarge {
        /// What the bucket holds.
        capacity: u32,
    },
    /// The bucket is empty and its rate is 0.
    Stopped,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortage::Wait(wait) => {
                write!(f, "the rate limit is reached for {} ms", wait.as_millis())
            }
            Shortage::TooLarge { capacity } => {
                write!(f, "more is asked for at once than the capacity of the limit, {capacity}")
            }
            Shortage::Stopped => f.write_str("the rate limit is 0 per second"),
        }
    }
}

/// The bucket of one resource. What is serialized is all of it: it goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limiter {
    limit: Limit,
    reserve: Reserve,
    at: Timestamp,
    // In billionths of a token.
    tokens: u64,
    // What each priority may still take below its floor, in hundredths of that.
    credit: [u64; 4],
    // What a critical request waits for, and until when it is believed to come back.
    awaited: Option<(u64, Timestamp)>,
}

/// How long at least a refused critical request may take to come back after its time.
const LATENESS: Duration = Duration::from_millis(100);

/// Processes that share a bucket read their clocks before they get at it, so times may run back a
/// little. Beyond this the clock was set.
const UNTIDY: Duration = Duration::from_secs(1);

impl Limiter {
    /// A full bucket.
    pub fn new(limit: Limit, reserve: Reserve, now: Timestamp) -> Limiter {
        Limiter { limit, reserve, at: now, tokens: limit.full(), credit: [0; 4], awaited: None }
    }

    /// The limit in force.
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// What is kept for whom.
    pub const fn reserve(&self) -> Reserve {
        self.reserve
    }

    /// Whether `count` pass at `now`; takes them if so.
    pub fn allow(&mut self, count: u32, priority: Priority, now: Timestamp) -> bool {
        self.take(count, priority, now).is_ok()
    }

    /// Takes `count` at `now`, or says how long until that many pass.
    pub fn take(&mut self, count: u32, priority: Priority, now: Timestamp) -> Result<(), Shortage> {
        self.refill(now);
        let wanted = u64::from(count) * TOKEN;
        if wanted > self.limit.full() {
            return Err(Shortage::TooLarge { capacity: self.limit.capacity });
        }
        let awaited = self.awaited.filter(|_| priority != Priority::Critical);
        let kept = awaited.map_or(0, |(tokens, _)| tokens);
        if self.missing_ms(wanted, kept, priority) == Some(0) {
            self.tokens -= wanted;
            // What was had by the floor is part of the share too: it is a least, not an extra.
            let credit = &mut self.credit[priority.index()];
            *credit = credit.saturating_sub(wanted * 100);
            if priority == Priority::Critical {
                self.awaited = None;
            }
            return Ok(());
        }
        if self.limit.per_second == 0 {
            return Err(Shortage::Stopped);
        }
        let at_once = self.missing_ms(wanted, kept, priority);
        let afterwards = awaited.and_then(|(_, until)| {
            let over = u64::try_from(until.since(self.at).as_millis()).unwrap_or(u64::MAX);
            Some(self.missing_ms(wanted, 0, priority)?.max(over))
        });
        let ms = at_once.into_iter().chain(afterwards).min().unwrap_or(u64::MAX);
        let wait = Duration::from_millis(ms);
        if priority == Priority::Critical {
            let until = self.at.after(wait).after(wait.max(LATENESS));
            let (tokens, before) = self.awaited.unwrap_or((0, until));
            self.awaited = Some((tokens.max(wanted), before.max(until)));
        }
        // Time that ran back a little has to pass once more.
        Err(Shortage::Wait(wait.saturating_add(self.at.since(now))))
    }

    /// How long until `wanted` pass while `kept` are left to who waits for them, if nobody takes
    /// anything; `None` when the bucket cannot hold so much or fill.
    fn missing_ms(&self, wanted: u64, kept: u64, priority: Priority) -> Option<u64> {
        let full = self.limit.full();
        let rate = self.limit.per_second;
        let ms = |missing: u64, rate: u64| match missing {
            0 => Some(0),
            missing if rate > 0 => Some(missing.div_ceil(rate)),
            _ => None,
        };
        let fill = |level: u64| {
            (level <= full).then(|| ms(level.saturating_sub(self.tokens), rate)).flatten()
        };
        let by_floor = fill(wanted + self.floor(priority, wanted).max(kept));
        let share = u64::from(self.reserve.shares[priority.index()]);
        let by_share = if share > 0 && wanted * 100 <= self.most_credit(priority) {
            let credit = self.credit[priority.index()];
            let saved = ms((wanted * 100).saturating_sub(credit), rate * share);
            fill(wanted + kept).zip(saved).map(|(filled, saved)| filled.max(saved))
        } else {
            None
        };
        by_floor.into_iter().chain(by_share).min()
    }

    /// Gives back `count` that were taken and not used, such as for a request that was never sent.
    pub fn give_back(&mut self, count: u32, now: Timestamp) {
        self.refill(now);
        let tokens = self.tokens.saturating_add(u64::from(count) * TOKEN);
        self.tokens = tokens.min(self.limit.full());
    }

    /// Goes on with another limit from `now` on. What is in the bucket stays, up to the new capacity;
    /// what has trickled in until now did so at the old rate.
    pub fn set_limit(&mut self, limit: Limit, now: Timestamp) {
        self.refill(now);
        self.limit = limit;
        self.tokens = self.tokens.min(limit.full());
        for priority in Priority::ALL {
            let most = self.most_credit(priority);
            let credit = &mut self.credit[priority.index()];
            *credit = (*credit).min(most);
        }
    }

    /// Goes on with another rate from `now` on: the place where an adaptive controller takes hold.
    pub fn set_rate(&mut self, per_second: f64, now: Timestamp) -> Result<(), LimitError> {
        self.set_limit(Limit::new(self.limit.capacity, per_second)?, now);
        Ok(())
    }

    /// Goes on with other reserves.
    pub fn set_reserve(&mut self, reserve: Reserve, now: Timestamp) {
        self.refill(now);
        self.reserve = reserve;
        self.set_limit(self.limit, now);
    }

    /// Whole tokens in the bucket at `now`.
    pub fn tokens(&self, now: Timestamp) -> u64 {
        let mut then = self.clone();
        then.refill(now);
        then.tokens / TOKEN
    }

    /// The most that `priority` could take at once at `now`.
    pub fn available(&self, priority: Priority, now: Timestamp) -> u32 {
        let passes = |count: u32| self.clone().allow(count, priority, now);
        // What passes, passes in part as well.
        let (mut passed, mut refused) = (0, self.limit.capacity + 1);
        while refused - passed > 1 {
            let middle = passed + (refused - passed) / 2;
            if passes(middle) {
                passed = middle;
            } else {
                refused = middle;
            }
        }
        passed
    }

    /// What `priority` leaves in the bucket when it takes `wanted`. Never so much that a full bucket
    /// would not do: with a small capacity nobody would ever pass otherwise.
    fn floor(&self, priority: Priority, wanted: u64) -> u64 {
        let full = self.limit.full();
        let floor = full / 100 * u64::from(self.reserve.floors[priority.index()]);
        floor.min(full - wanted)
    }

    /// The most that can be saved up below the floor: its share of the capacity, but two tokens at
    /// least: with one, what comes in the millisecond before it is taken would be lost.
    fn most_credit(&self, priority: Priority) -> u64 {
        match u64::from(self.reserve.shares[priority.index()]) {
            0 => 0,
            share => (self.limit.full() * share).max(2 * TOKEN * 100),
        }
    }

    fn refill(&mut self, now: Timestamp) {
        if now < self.at {
            if self.at.since(now) > UNTIDY {
                self.at = now;
                self.awaited = None;
            }
            return;
        }
        self.awaited = self.awaited.filter(|(_, until)| now < *until);
        let ms = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.at = now;
        let gained = ms.saturating_mul(self.limit.per_second);
        self.tokens = self.tokens.saturating_add(gained).min(self.limit.full());
        for priority in Priority::ALL {
            let share = u64::from(self.reserve.shares[priority.index()]);
            let most = self.most_credit(priority);
            let credit = &mut self.credit[priority.index()];
            *credit = credit.saturating_add(gained.saturating_mul(share)).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use Priority::{Critical, High, Low, Normal};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn limit(capacity: u32, per_second: f64) -> Limit {
        Limit::new(capacity, per_second).expect("a limit")
    }

    fn limiter(capacity: u32, per_second: f64) -> Limiter {
        Limiter::new(limit(capacity, per_second), Reserve::default(), at(0))
    }

    fn wait(ms: u64) -> Result<(), Shortage> {
        Err(Shortage::Wait(Duration::from_millis(ms)))
    }

    #[test]
    fn each_priority_stops_at_its_floor() {
        let mut limiter = limiter(100, 10.0);
        for (priority, passes) in [(Low, 60), (Normal, 20), (High, 10), (Critical, 10)] {
            let mut passed = 0;
            while limiter.allow(1, priority, at(0)) {
                passed += 1;
            }
            assert_eq!(passed, passes, "{priority:?}");
        }
        assert_eq!(limiter.take(1, Critical, at(0)), wait(100));
        // One token to take, of which a tenth of the rate is for high below its floor.
        assert_eq!(limiter.take(1, High, at(0)), wait(1000));
        assert_eq!(limiter.take(1, Low, at(0)), wait(2000));
        assert_eq!(limiter.take(1, Low, at(1999)), wait(1));
        assert_eq!(limiter.take(1, Low, at(2000)), Ok(()));
    }

    #[test]
    fn a_small_bucket_lets_everybody_pass() {
        for priority in Priority::ALL {
            let mut limiter = limiter(1, 1.0);
            assert_eq!(limiter.take(1, priority, at(0)), Ok(()));
            assert_eq!(limiter.take(1, priority, at(0)), wait(1000));
            assert_eq!(limiter.take(1, priority, at(1000)), Ok(()));
        }
    }

    #[test]
    fn what_can_never_pass_is_said_at_once() {
        let mut small = limiter(5, 1.0);
        assert_eq!(small.take(6, Normal, at(0)), Err(Shortage::TooLarge { capacity: 5 }));
        assert_eq!(small.take(5, Low, at(0)), Ok(()));
        let mut stopped = limiter(1, 0.0);
        assert_eq!(stopped.take(1, Normal, at(0)), Ok(()));
        assert_eq!(stopped.take(1, Normal, at(1_000_000)), Err(Shortage::Stopped));
    }

    #[test]
    fn a_limit_changed_while_running_keeps_its_tokens() {
        let mut limiter = limiter(100, 10.0);
        assert!(limiter.allow(90, Critical, at(0)));
        limiter.set_limit(limit(1000, 100.0), at(1000));
        assert_eq!(limiter.tokens(at(1000)), 20, "10 were left and 10 came at the old rate");
        limiter.set_rate(1000.0, at(1100)).expect("a rate");
        assert_eq!(limiter.tokens(at(1200)), 130);
        limiter.set_limit(limit(50, 1.0), at(1200));
        assert_eq!(limiter.tokens(at(1200)), 50);
        assert!(limiter.set_rate(f64::NAN, at(1200)).is_err());
        assert_eq!(limiter.limit(), limit(50, 1.0));
    }

    #[test]
    fn what_was_not_used_can_be_given_back() {
        let mut limiter = limiter(10, 1.0);
        assert!(limiter.allow(10, Critical, at(0)));
        limiter.give_back(4, at(0));
        assert_eq!(limiter.tokens(at(0)), 4);
        limiter.give_back(400, at(0));
        assert_eq!(limiter.tokens(at(0)), 10);
    }

    #[test]
    fn a_clock_that_runs_back_a_little_gives_nothing_twice_and_one_set_back_does_not_stop_it() {
        let mut limiter = limiter(100, 1000.0);
        assert!(limiter.allow(100, Critical, at(10_000)));
        for _ in 0..10 {
            assert_eq!(limiter.tokens(at(10_000)), 0);
            assert_eq!(limiter.take(1, Critical, at(9_990)), wait(11));
        }
        assert!(!limiter.allow(1, Critical, at(0)));
        assert_eq!(limiter.tokens(at(50)), 50);
    }

    #[test]
    fn numbers_that_are_no_limit_or_reserve_are_refused() {
        for (capacity, rate) in [
            (0, 1.0),
            (100_000_001, 1.0),
            (1, -1.0),
            (1, 1e-7),
            (1, 1.1e8),
            (1, f64::NAN),
            (1, f64::INFINITY),
        ] {
            assert!(Limit::new(capacity, rate).is_err(), "{capacity} {rate}");
        }
        assert_eq!(Reserve::new([1, 1, 1, 1], [0; 4]), Err(ReserveError::Floors));
        assert_eq!(Reserve::new([0, 20, 10, 30], [0; 4]), Err(ReserveError::Floors));
        assert_eq!(Reserve::new([0, 0, 0, 100], [0; 4]), Err(ReserveError::Floors));
        assert_eq!(Reserve::new([0; 4], [0, 50, 50, 50]), Err(ReserveError::Shares(150)));
        let bad = r#"{"capacity":0,"per_second":1.0}"#;
        assert!(serde_json::from_str::<Limit>(bad).is_err());
    }

    #[test]
    fn the_largest_limit_does_not_overflow() {
        let reserve = Reserve::new([0, 99, 99, 99], [255, 30, 30, 30]).expect("a reserve");
        let mut limiter = Limiter::new(limit(100_000_000, 1e8), reserve, at(i64::MIN / 2));
        for priority in Priority::ALL {
            let _ = limiter.take(100_000_000, priority, at(i64::MAX / 2));
            let _ = limiter.take(u32::MAX, priority, at(i64::MAX / 2));
        }
        limiter.give_back(u32::MAX, at(i64::MAX / 2));
        assert_eq!(limiter.tokens(at(i64::MAX / 2)), 100_000_000);
    }

    /// The same rules, ticking through every millisecond in fractions of a token that cannot overflow.
    struct Model {
        capacity: u128,
        rate: u128,
        reserve: Reserve,
        tokens: u128,
        credit: [u128; 4],
        // What critical waits for, and until when.
        awaited: Option<(u128, i64)>,
    }

    const UNIT: u128 = TOKEN as u128 * 100;

    impl Model {
        fn tick(&mut self) {
            self.tokens = (self.tokens + self.rate * 100).min(self.capacity * UNIT);
            for (credit, share) in self.credit.iter_mut().zip(self.reserve.shares) {
                let share = u128::from(share);
                let most = if share == 0 { 0 } else { (self.capacity * share).max(200) };
                *credit = (*credit + self.rate * share).min(most * UNIT / 100);
            }
        }

        fn take(&mut self, count: u128, priority: Priority, now: i64) -> bool {
            let floor = u128::from(self.reserve.floors[priority as usize]) * self.capacity;
            let wanted = count * UNIT;
            if count > self.capacity || self.tokens < wanted {
                return false;
            }
            let kept = match self.awaited {
                Some((tokens, until)) if now < until && priority != Critical => tokens * UNIT,
                _ => 0,
            };
            let full = self.tokens == self.capacity * UNIT;
            let above = full || self.tokens - wanted >= floor * UNIT / 100;
            let credit = &mut self.credit[priority as usize];
            let passes = (above || *credit >= wanted) && self.tokens - wanted >= kept;
            if passes {
                self.tokens -= wanted;
                *credit = credit.saturating_sub(wanted);
                if priority == Critical {
                    self.awaited = None;
                }
            }
            passes
        }

        /// Critical was told to wait for `ms`.
        fn refused(&mut self, count: u128, now: i64, ms: i64) {
            let until = now + ms + ms.max(100);
            let (tokens, before) = self.awaited.filter(|(_, t)| now < *t).unwrap_or((0, until));
            self.awaited = Some((tokens.max(count), before.max(until)));
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u32, Priority),
        Wait(u64),
        Set(u32, u64),
        Restart,
    }

    fn priority() -> impl Strategy<Value = Priority> {
        proptest::sample::select(&Priority::ALL[..])
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (1u32..8, priority()).prop_map(|(count, priority)| Step::Take(count, priority)),
            4 => (0u64..300).prop_map(Step::Wait),
            1 => (1u32..60, 0u64..200_000_000).prop_map(|(c, r)| Step::Set(c, r)),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_model_and_keeps_its_promises(
            capacity in 1u32..60,
            micro_rate in 1u64..200_000_000,
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let reserve = Reserve::default();
            let mut now = 0i64;
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let of = |capacity, micro: u64| limit(capacity, micro as f64 / MICRO);
            let mut real = Limiter::new(of(capacity, micro_rate), reserve, at(0));
            let mut model = Model {
                capacity: capacity.into(),
                rate: micro_rate.into(),
                reserve,
                tokens: u128::from(capacity) * UNIT,
                credit: [0; 4],
                awaited: None,
            };
            // All that ever was in the bucket; nothing else can pass.
            let mut paid_in = model.tokens;
            let mut passed = 0u128;
            for step in steps {
                match step {
                    Step::Wait(ms) => {
                        for _ in 0..ms {
                            model.tick();
                        }
                        paid_in += u128::from(ms) * model.rate * 100;
                        now += i64::try_from(ms).expect("small");
                    }
                    Step::Set(capacity, micro) => {
                        real.set_limit(of(capacity, micro), at(now));
                        model.capacity = capacity.into();
                        model.rate = micro.into();
                        model.tokens = model.tokens.min(model.capacity * UNIT);
                        for (credit, share) in model.credit.iter_mut().zip(reserve.shares) {
                            let most = (model.capacity * u128::from(share)).max(200);
                            *credit = (*credit).min(most * UNIT / 100);
                        }
                    }
                    Step::Restart => {
                        let text = serde_json::to_string(&real).expect("written");
                        prop_assert_eq!(&serde_json::from_str::<Limiter>(&text).expect("read"), &real);
                    }
                    Step::Take(count, priority) => {
                        let expected = model.take(count.into(), priority, now);
                        let taken = real.take(count, priority, at(now));
                        prop_assert_eq!(taken.is_ok(), expected, "{:?}", taken);
                        match taken {
                            Ok(()) => passed += u128::from(count) * UNIT,
                            Err(Shortage::Wait(wait)) => {
                                let then = at(now).after(wait);
                                prop_assert!(real.clone().allow(count, priority, then));
                                let before = at(then.unix_ms() - 1);
                                prop_assert!(!real.clone().allow(count, priority, before));
                                if priority == Critical {
                                    let ms = i64::try_from(wait.as_millis()).expect("small");
                                    model.refused(count.into(), now, ms);
                                }
                            }
                            Err(Shortage::TooLarge { .. }) => {
                                prop_assert!(u128::from(count) > model.capacity);
                            }
                            Err(Shortage::Stopped) => prop_assert_eq!(model.rate, 0),
                        }
                    }
                }
                prop_assert!(passed <= paid_in);
            }
        }

        #[test]
        fn no_span_of_time_sees_more_than_the_capacity_and_the_rate(
            capacity in 1u32..30,
            rate in 1u32..500,
            asks in proptest::collection::vec((0i64..40, 1u32..5, priority()), 1..150),
        ) {
            let mut limiter = limiter(capacity, rate.into());
            let mut now = 0;
            let mut passed: Vec<(i64, u32)> = Vec::new();
            for (pause, count, priority) in asks {
                now += pause;
                if !limiter.allow(count, priority, at(now)) {
                    continue;
                }
                passed.push((now, count));
                let mut sum = 0;
                for (then, count) in passed.iter().rev() {
                    sum += i64::from(*count) * 1000;
                    let most = i64::from(capacity) * 1000 + i64::from(rate) * (now - then);
                    prop_assert!(sum <= most, "{sum} > {most} since {then}");
                }
            }
        }

        #[test]
        fn whoever_asks_alone_gets_the_whole_rate(
            // Room for what a millisecond brings above every floor.
            capacity in 5u32..100,
            rate in 1u32..1000,
            priority in priority(),
        ) {
            let mut limiter = limiter(capacity, rate.into());
            let passed = (0..=3000).filter(|now| limiter.allow(1, priority, at(*now))).count();
            prop_assert!(passed >= (3 * rate) as usize, "{passed} of {}", 3 * rate);
        }

        #[test]
        fn critical_waits_only_for_its_tokens_however_much_the_others_ask(
            capacity in 1u32..100,
            rate in 1u32..1000,
            percent in 1u32..70,
            count in 1u32..4,
        ) {
            let mut limiter = limiter(capacity, rate.into());
            // Critical asks for `percent` of the rate; the others ask first in every millisecond.
            let every = i64::from(100_000 / (rate * percent)) + 1;
            let longest = i64::from(2 * 1000 / rate) + 4;
            let mut waiting: std::collections::VecDeque<i64> = Default::default();
            let mut others = 0;
            for now in 0..4000 {
                for priority in [High, Normal, Low] {
                    while limiter.allow(1, priority, at(now)) {
                        others += 1;
                    }
                    let _ = limiter.allow(count, priority, at(now));
                }
                if now % every == 0 {
                    waiting.push_back(now);
                }
                while !waiting.is_empty() && limiter.allow(1, Critical, at(now)) {
                    waiting.pop_front();
                }
                let waited = waiting.front().map_or(0, |since| now - since);
                prop_assert!(waited <= longest, "{waited} ms, at most {longest} expected");
            }
            prop_assert!(others > 0);
        }

        #[test]
        fn nobody_starves_under_a_flood_of_high_requests(
            capacity in 20u32..100,
            rate in 20u32..1000,
        ) {
            let mut limiter = limiter(capacity, rate.into());
            let mut low = 0;
            for now in 0..4000 {
                while limiter.allow(1, High, at(now)) {}
                low += u32::from(limiter.allow(1, Low, at(now)));
            }
            // Five percent of the rate for four seconds.
            prop_assert!(low >= rate * 4 / 20 - 1, "{low} of {}", rate / 5);
            prop_assert!(low <= rate * 4 / 20 + 2 + capacity / 20, "{low} of {}", rate / 5);
        }
    }
}
