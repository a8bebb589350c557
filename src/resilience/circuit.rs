//! The circuit breaker: after too many failures nothing is let out for a while, then a few probes
//! decide whether the other side is back.
//!
//! ```text
//!        failures in a row, or too many             open time over
//!        failed or slow in the window
//! closed ------------------------------> open ---------------------------> half-open
//!    ^                                     ^                                |      |
//!    |                                     +--------- a probe fails --------+      |
//!    +----------------------------- all probes succeed ----------------------------+
//! ```
//!
//! Each time a probe fails, the open time doubles up to a cap; a closed circuit begins with the
//! first again. An operator can force a circuit open or disable it, with a reason and an end.
//!
//! Every request that is let out carries a [`Permit`] and gives it back with its result. A permit
//! from before the last change of state decides nothing any more: a request that was slow to fail
//! does not open a circuit that has recovered since. A permit that is never given back (its process
//! was killed) does not block the circuit either: the place of a probe lapses.
//!
//! "Too many" is not a ratio of a few calls but the lower end of a confidence interval of it: two
//! failures in three calls say little, two hundred in three hundred say much. See [`wilson_lower`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// When a circuit opens and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitSettings {
    /// Failures in a row that open the circuit; 0 is taken as 1.
    pub threshold: u32,
    /// How long nothing is let out once it is open for the first time.
    pub recovery: Duration,
    /// How long nothing is let out at most, however many probes have failed.
    pub longest_recovery: Duration,
    /// How many requests try the other side when it is half-open, and have to succeed; 0 is taken
    /// as 1.
    pub probes: u32,
    /// When the last probe was let out this long ago and results are still missing, they are taken as
    /// lost, and another probe is let out.
    pub probe_lapse: Duration,
    /// The share of failed or slow requests that opens the circuit; `None` to look only at the row.
    pub rate: Option<RateRule>,
}

/// Opens a circuit by the share of bad requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRule {
    /// Only requests that ended within this time count; moves on in tenths. Below 10 ms it is 10 ms.
    pub window: Duration,
    /// Opens when with 95 % confidence at least this many of 100 requests fail.
    pub failed_percent: u8,
    /// Opens when with 95 % confidence at least `percent` of 100 requests take longer than
    /// `longer_than`.
    pub slow: Option<SlowRule>,
}

/// Which requests are slow, and how many are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRule {
    /// A request that takes longer is slow, whether it succeeds or fails.
    pub longer_than: Duration,
    /// So many of 100.
    pub percent: u8,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        CircuitSettings {
            threshold: 5,
            recovery: Duration::from_secs(2),
            longest_recovery: Duration::from_secs(60),
            probes: 1,
            probe_lapse: Duration::from_secs(60),
            rate: None,
        }
    }
}

/// The state as it is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Circuit {
    /// Everything is let out.
    Closed,
    /// Nothing is let out.
    Open,
    /// Probes are let out.
    HalfOpen,
    /// An operator lets nothing out.
    ForcedOpen,
    /// An operator lets everything out; results are not looked at.
    Disabled,
}

impl Circuit {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Circuit::Closed => "closed",
            Circuit::Open => "open",
            Circuit::HalfOpen => "half-open",
            Circuit::ForcedOpen => "forced-open",
            Circuit::Disabled => "disabled",
        }
    }
}

/// Leave to send one request. Give it back to [`CircuitBreaker::succeeded`], `failed` or `abandoned`.
#[must_use = "the breaker waits for the result"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    epoch: u64,
    at: Timestamp,
}

/// As text, for a script that asks and tells in two runs.
impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.at.unix_ms())
    }
}

impl FromStr for Permit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('-');
        let numbers = numbers.and_then(|(epoch, at)| Some((epoch.parse().ok()?, at.parse().ok()?)));
        let (epoch, at) = numbers.ok_or_else(|| format!("`{text}` is no permit"))?;
        Ok(Permit { epoch, at: Timestamp::from_unix_ms(at) })
    }
}

/// A request is not let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When to ask again; `None` when there is no time to tell.
    pub wait: Option<Duration>,
    /// The state that refuses.
    pub state: Circuit,
}

/// What opened a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// So many failures in a row.
    Row {
        /// Failures.
        failures: u32,
    },
    /// Too many failures in the window.
    Failed {
        /// Requests that failed.
        bad: u32,
        /// Requests that ended.
        of: u32,
    },
    /// Too many slow requests in the window.
    Slow {
        /// Requests that were slow.
        bad: u32,
        /// Requests that ended.
        of: u32,
    },
    /// A probe failed or was slow.
    Probe,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Row { failures: 1 } => f.write_str("a request failed"),
            Cause::Row { failures } => write!(f, "{failures} requests failed in a row"),
            Cause::Failed { bad, of } => write!(f, "{bad} of {of} requests failed"),
            Cause::Slow { bad, of } => write!(f, "{bad} of {of} requests were slow"),
            Cause::Probe => f.write_str("a probe failed"),
        }
    }
}

/// What an operator has ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Let nothing out.
    Open,
    /// Let everything out and judge nothing.
    Disable,
}

/// An order in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// What was ordered.
    pub order: Order,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None` until it is lifted.
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Closed { failures: u32 },
    Open { since: Timestamp, cause: Cause },
    HalfOpen { out: u32, succeeded: u32, last_out: Timestamp },
}

const CLOSED: State = State::Closed { failures: 0 };

/// What a breaker remembers, apart from its settings: to be kept in a file and shared by processes
/// that each resume it, take one step and write it back, under a lock of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitMemory {
    state: State,
    // Counts the changes of state, so that a permit tells which state it was given in.
    epoch: u64,
    // How many times in a row it opened without having closed; decides the open time.
    openings: u32,
    window: Window,
    forced: Option<Forced>,
}

impl Default for CircuitMemory {
    fn default() -> Self {
        CircuitMemory {
            state: CLOSED,
            epoch: 0,
            openings: 0,
            window: Window::default(),
            forced: None,
        }
    }
}

/// A circuit breaker for one other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    settings: CircuitSettings,
    memory: CircuitMemory,
}

impl CircuitBreaker {
    /// A closed circuit.
    pub fn new(settings: CircuitSettings) -> Self {
        CircuitBreaker::resume(settings, CircuitMemory::default())
    }

    /// A circuit that goes on where `memory` was left, perhaps by another process and under other
    /// settings.
    pub fn resume(settings: CircuitSettings, memory: CircuitMemory) -> Self {
        let settings = CircuitSettings {
            threshold: settings.threshold.max(1),
            probes: settings.probes.max(1),
            longest_recovery: settings.longest_recovery.max(settings.recovery),
            ..settings
        };
        CircuitBreaker { settings, memory }
    }

    /// Its settings, as they are in force.
    pub const fn settings(&self) -> &CircuitSettings {
        &self.settings
    }

    /// What it remembers.
    pub const fn memory(&self) -> &CircuitMemory {
        &self.memory
    }

    /// What it remembers, to be kept.
    pub fn into_memory(self) -> CircuitMemory {
        self.memory
    }

    /// Leave to send a request at `now`, or how long to wait before asking again.
    pub fn permit(&mut self, now: Timestamp) -> Result<Permit, Refused> {
        self.end_order(now);
        let permit = Permit { epoch: self.memory.epoch, at: now };
        match &self.memory.forced {
            Some(Forced { order: Order::Disable, .. }) => return Ok(permit),
            Some(Forced { order: Order::Open, until, .. }) => {
                let wait = until.map(|until| until.since(now));
                return Err(Refused { wait, state: Circuit::ForcedOpen });
            }
            None => {}
        }
        let recovery = self.recovery();
        if let State::Open { since, .. } = &mut self.memory.state {
            // A clock that was set back must not keep the circuit open for longer than `recovery`.
            *since = (*since).min(now);
            let waited = now.since(*since);
            if waited < recovery {
                return Err(Refused { wait: Some(recovery - waited), state: Circuit::Open });
            }
            self.enter(State::HalfOpen { out: 0, succeeded: 0, last_out: now });
        }
        if let State::HalfOpen { out, succeeded, last_out } = &mut self.memory.state {
            *last_out = (*last_out).min(now);
            if *out + *succeeded >= self.settings.probes {
                let waited = now.since(*last_out);
                if waited < self.settings.probe_lapse {
                    let wait = Some(self.settings.probe_lapse - waited);
                    return Err(Refused { wait, state: Circuit::HalfOpen });
                }
                // A new epoch: a lost probe that comes back after all has no place to give back.
                let succeeded = *succeeded;
                self.enter(State::HalfOpen { out: 0, succeeded, last_out: now });
            }
        }
        if let State::HalfOpen { out, last_out, .. } = &mut self.memory.state {
            *out += 1;
            *last_out = now;
        }
        Ok(Permit { epoch: self.memory.epoch, at: now })
    }

    /// The request of `permit` did what it should.
    pub fn succeeded(&mut self, permit: Permit, now: Timestamp) {
        if !self.counts(permit, now) {
            return;
        }
        let slow = self.is_slow(permit, now);
        match &mut self.memory.state {
            State::Closed { failures } => {
                *failures = 0;
                self.weigh(false, slow, now);
            }
            State::Open { .. } => {}
            State::HalfOpen { .. } if slow => self.open(Cause::Probe, now),
            State::HalfOpen { out, succeeded, .. } => {
                *out = out.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= self.settings.probes {
                    self.close();
                }
            }
        }
    }

    /// The request of `permit` failed at `now` in a way that speaks against the other side.
    pub fn failed(&mut self, permit: Permit, now: Timestamp) {
        if !self.counts(permit, now) {
            return;
        }
        let slow = self.is_slow(permit, now);
        match &mut self.memory.state {
            State::Closed { failures } => {
                *failures += 1;
                let failures = *failures;
                if failures >= self.settings.threshold {
                    self.open(Cause::Row { failures }, now);
                } else {
                    self.weigh(true, slow, now);
                }
            }
            State::Open { .. } => {}
            State::HalfOpen { .. } => self.open(Cause::Probe, now),
        }
    }

    /// The request of `permit` ended without telling anything: it was cancelled, or it failed for a
    /// reason of its own.
    pub fn abandoned(&mut self, permit: Permit) {
        if permit.epoch == self.memory.epoch
            && let State::HalfOpen { out, .. } = &mut self.memory.state
        {
            *out = out.saturating_sub(1);
        }
    }

    /// An operator forces the circuit open or disables it, until `until` or until [`Self::lift`].
    pub fn force(
        &mut self,
        order: Order,
        reason: impl Into<String>,
        now: Timestamp,
        until: Option<Timestamp>,
    ) {
        self.close();
        self.memory.forced = Some(Forced { order, reason: reason.into(), since: now, until });
    }

    /// Ends an order. After [`Order::Open`] probes decide first; after [`Order::Disable`] the circuit
    /// is closed.
    pub fn lift(&mut self, now: Timestamp) {
        match self.memory.forced.take() {
            Some(Forced { order: Order::Open, .. }) => {
                self.enter(State::HalfOpen { out: 0, succeeded: 0, last_out: now });
            }
            Some(Forced { order: Order::Disable, .. }) => self.close(),
            None => {}
        }
    }

    /// Forgets everything: orders, failures, the window. The circuit is closed, and what is out now
    /// decides nothing.
    pub fn reset(&mut self) {
        self.memory.forced = None;
        self.close();
    }

    /// The state at `now`.
    pub fn state(&self, now: Timestamp) -> Circuit {
        match (self.order(now), self.memory.state) {
            (Some(Forced { order: Order::Open, .. }), _) => Circuit::ForcedOpen,
            (Some(Forced { order: Order::Disable, .. }), _) => Circuit::Disabled,
            // The order is over, and nobody asked since.
            (None, _) if self.memory.forced.as_ref().is_some_and(|f| f.order == Order::Open) => {
                Circuit::HalfOpen
            }
            (None, State::Closed { .. }) => Circuit::Closed,
            (None, State::Open { since, .. }) if now.since(since) < self.recovery() => {
                Circuit::Open
            }
            (None, State::Open { .. } | State::HalfOpen { .. }) => Circuit::HalfOpen,
        }
    }

    /// The order in force at `now`.
    pub fn order(&self, now: Timestamp) -> Option<&Forced> {
        self.memory.forced.as_ref().filter(|forced| forced.until.is_none_or(|until| now < until))
    }

    /// What opened it and when, and when the first probe is let out; `None` when it is not open.
    pub fn opened(&self) -> Option<(Cause, Timestamp, Timestamp)> {
        match self.memory.state {
            State::Open { since, cause } => Some((cause, since, since.after(self.recovery()))),
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Requests that ended within the window before `now`: all, failed, slow.
    pub fn counts_in_window(&self, now: Timestamp) -> (u32, u32, u32) {
        let Some(rule) = self.settings.rate else { return (0, 0, 0) };
        let mut window = self.memory.window.clone();
        window.advance(rule.window, now);
        let sum = window.sum();
        (sum.all, sum.failed, sum.slow)
    }

    /// How long it stays open this time.
    fn recovery(&self) -> Duration {
        let doublings = self.memory.openings.saturating_sub(1);
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let longest = self.settings.longest_recovery;
        self.settings.recovery.checked_mul(factor).unwrap_or(longest).min(longest)
    }

    fn counts(&mut self, permit: Permit, now: Timestamp) -> bool {
        self.end_order(now);
        permit.epoch == self.memory.epoch && self.memory.forced.is_none()
    }

    fn is_slow(&self, permit: Permit, now: Timestamp) -> bool {
        let rule = self.settings.rate.and_then(|rate| rate.slow);
        rule.is_some_and(|slow| now.since(permit.at) > slow.longer_than)
    }

    /// Adds a result to the window and opens the circuit when it is one too many.
    fn weigh(&mut self, failed: bool, slow: bool, now: Timestamp) {
        let Some(rule) = self.settings.rate else { return };
        self.memory.window.advance(rule.window, now);
        self.memory.window.add(failed, slow);
        let sum = self.memory.window.sum();
        if failed && wilson_lower(sum.failed, sum.all) * 100.0 >= f64::from(rule.failed_percent) {
            self.open(Cause::Failed { bad: sum.failed, of: sum.all }, now);
        } else if let Some(limit) = rule.slow
            && slow
            && wilson_lower(sum.slow, sum.all) * 100.0 >= f64::from(limit.percent)
        {
            self.open(Cause::Slow { bad: sum.slow, of: sum.all }, now);
        }
    }

    fn end_order(&mut self, now: Timestamp) {
        if self.memory.forced.is_some() && self.order(now).is_none() {
            self.lift(now);
        }
    }

    fn open(&mut self, cause: Cause, now: Timestamp) {
        self.memory.openings = self.memory.openings.saturating_add(1);
        self.enter(State::Open { since: now, cause });
    }

    fn close(&mut self) {
        self.memory.openings = 0;
        self.memory.window = Window::default();
        self.enter(CLOSED);
    }

    fn enter(&mut self, state: State) {
        self.memory.state = state;
        self.memory.epoch += 1;
    }
}

/// How many pieces the window has. It moves on by whole pieces, so that memory does not grow with
/// traffic.
const SLOTS: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    all: u32,
    failed: u32,
    slow: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    // Milliseconds of one slot; another length than now is asked for makes the content worthless.
    slot_ms: i64,
    // The number, since 1970, of the newest slot. The slot number n is kept at n modulo `SLOTS`.
    newest: i64,
    slots: [Tally; SLOTS],
}

impl Window {
    /// Moves on to `now`, dropping what is too old.
    fn advance(&mut self, length: Duration, now: Timestamp) {
        const COUNT: i64 = SLOTS as i64;
        let slot_ms = (i64::try_from(length.as_millis()).unwrap_or(i64::MAX) / COUNT).max(1);
        let current = now.unix_ms().div_euclid(slot_ms);
        // A clock that was set back by a whole window or more starts it again; by less, results
        // count in the newest slot until the clock has caught up.
        if slot_ms != self.slot_ms || current <= self.newest.saturating_sub(COUNT) {
            *self = Window { slot_ms, newest: current, slots: Default::default() };
        }
        let steps = current.saturating_sub(self.newest).clamp(0, COUNT);
        self.newest = self.newest.max(current);
        for back in 0..steps {
            *self.slot(self.newest - back) = Tally::default();
        }
    }

    fn slot(&mut self, number: i64) -> &mut Tally {
        let index = usize::try_from(number.rem_euclid(SLOTS as i64)).unwrap_or(0);
        &mut self.slots[index]
    }

    fn add(&mut self, failed: bool, slow: bool) {
        let tally = self.slot(self.newest);
        tally.all = tally.all.saturating_add(1);
        tally.failed = tally.failed.saturating_add(u32::from(failed));
        tally.slow = tally.slow.saturating_add(u32::from(slow));
    }

    fn sum(&self) -> Tally {
        self.slots.iter().fold(Tally::default(), |sum, slot| Tally {
            all: sum.all.saturating_add(slot.all),
            failed: sum.failed.saturating_add(slot.failed),
            slow: sum.slow.saturating_add(slot.slow),
        })
    }
}

/// The share of bad requests that is exceeded with 95 % confidence when `bad` of `all` were seen: the
/// lower end of the score interval of E. B. Wilson, "Probable inference, the law of succession, and
/// statistical inference", Journal of the American Statistical Association 22 (1927), 209-212,
///
/// ```text
/// (p + z²/2n − z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n),   p = bad / all, n = all
/// ```
///
/// one-sided, so z = 1.645. 5 of 5 give 0.65, 2 of 3 give 0.25, 60 of 100 give 0.52.
pub fn wilson_lower(bad: u32, all: u32) -> f64 {
    const Z: f64 = 1.645;
    if all == 0 {
        return 0.0;
    }
    let n = f64::from(all);
    let p = f64::from(bad.min(all)) / n;
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((p + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)).max(0.0)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn breaker(threshold: u32, recovery_ms: u64, probes: u32) -> CircuitBreaker {
        let recovery = Duration::from_millis(recovery_ms);
        CircuitBreaker::new(CircuitSettings {
            threshold,
            recovery,
            longest_recovery: recovery,
            probes,
            ..CircuitSettings::default()
        })
    }

    fn open_for(ms: u64) -> Result<Permit, Refused> {
        Err(Refused { wait: Some(Duration::from_millis(ms)), state: Circuit::Open })
    }

    fn fail(breaker: &mut CircuitBreaker, now: i64) {
        let permit = breaker.permit(at(now)).expect("let out");
        breaker.failed(permit, at(now));
    }

    #[test]
    fn it_opens_at_the_threshold_and_not_before() {
        let mut breaker = breaker(3, 1000, 1);
        fail(&mut breaker, 0);
        fail(&mut breaker, 0);
        let permit = breaker.permit(at(0)).expect("two failures are not three");
        breaker.succeeded(permit, at(0));
        for now in 1..=3 {
            fail(&mut breaker, now);
        }
        assert_eq!(breaker.permit(at(3)), open_for(1000));
        assert_eq!(breaker.permit(at(1002)), open_for(1));
        assert_eq!(breaker.state(at(1002)), Circuit::Open);
        assert!(breaker.permit(at(1003)).is_ok());
        assert_eq!(breaker.state(at(1003)), Circuit::HalfOpen);
    }

    #[test]
    fn a_half_open_circuit_lets_out_no_more_than_its_probes() {
        let mut breaker = breaker(1, 1000, 2);
        fail(&mut breaker, 0);
        let first = breaker.permit(at(1000)).expect("first probe");
        let second = breaker.permit(at(1000)).expect("second probe");
        let full = breaker.permit(at(1000)).expect_err("two are out");
        assert_eq!(full.state, Circuit::HalfOpen);
        breaker.abandoned(second);
        let second = breaker.permit(at(1000)).expect("the place of the abandoned one");
        breaker.succeeded(first, at(1000));
        assert_eq!(breaker.state(at(1000)), Circuit::HalfOpen);
        breaker.succeeded(second, at(1000));
        assert_eq!(breaker.state(at(1000)), Circuit::Closed);
    }

    #[test]
    fn a_permit_written_and_read_again_is_the_same() {
        for now in [at(0), at(1_700_000_000_123), at(-1)] {
            let permit = breaker(1, 1000, 1).permit(now).expect("closed");
            assert_eq!(permit.to_string().parse(), Ok(permit));
        }
        for wrong in ["", "1", "-1", "a-1", "1-", "1-2-3"] {
            assert!(wrong.parse::<Permit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_the_whole_time() {
        let mut breaker = breaker(1, 1000, 2);
        fail(&mut breaker, 0);
        fail(&mut breaker, 1500);
        assert_eq!(breaker.permit(at(2499)), open_for(1));
        assert!(breaker.permit(at(2500)).is_ok());
    }

    #[test]
    fn a_result_from_before_the_last_change_decides_nothing() {
        let mut breaker = breaker(1, 1000, 1);
        let slow = breaker.permit(at(0)).expect("closed");
        fail(&mut breaker, 0);
        let probe = breaker.permit(at(1000)).expect("probe");
        breaker.failed(slow, at(1000));
        breaker.succeeded(probe, at(1000));
        breaker.failed(slow, at(1000));
        assert_eq!(breaker.state(at(1000)), Circuit::Closed);
    }

    #[test]
    fn a_clock_set_back_does_not_keep_it_open() {
        let mut breaker = breaker(1, 1000, 1);
        fail(&mut breaker, 1_000_000);
        assert_eq!(breaker.permit(at(0)), open_for(1000));
        assert!(breaker.permit(at(1000)).is_ok());
    }

    #[test]
    fn the_open_time_doubles_up_to_its_cap_and_starts_again_after_a_recovery() {
        let mut breaker = CircuitBreaker::new(CircuitSettings {
            threshold: 1,
            recovery: Duration::from_secs(1),
            longest_recovery: Duration::from_secs(5),
            ..CircuitSettings::default()
        });
        let mut now = 0;
        for open_ms in [1000, 2000, 4000, 5000, 5000] {
            fail(&mut breaker, now);
            assert_eq!(breaker.permit(at(now)), open_for(open_ms));
            now += i64::try_from(open_ms).expect("small");
        }
        let probe = breaker.permit(at(now)).expect("a probe");
        breaker.succeeded(probe, at(now));
        fail(&mut breaker, now);
        assert_eq!(breaker.permit(at(now)), open_for(1000));
    }

    #[test]
    fn a_probe_that_is_never_given_back_does_not_block_the_circuit() {
        let mut breaker = breaker(1, 1000, 1);
        fail(&mut breaker, 0);
        let lost = breaker.permit(at(1000)).expect("a probe");
        let wait = Some(Duration::from_secs(60));
        let refused = Refused { wait, state: Circuit::HalfOpen };
        assert_eq!(breaker.permit(at(1000)), Err(refused));
        let second = breaker.permit(at(61_000)).expect("in place of the lost one");
        breaker.failed(lost, at(61_000));
        breaker.abandoned(lost);
        assert!(breaker.permit(at(61_000)).is_err(), "the lost one has no place to give back");
        breaker.succeeded(second, at(61_000));
        assert_eq!(breaker.state(at(61_000)), Circuit::Closed);
    }

    fn by_rate(window_ms: u64) -> CircuitBreaker {
        CircuitBreaker::new(CircuitSettings {
            threshold: 1000,
            rate: Some(RateRule {
                window: Duration::from_millis(window_ms),
                failed_percent: 50,
                slow: Some(SlowRule { longer_than: Duration::from_millis(100), percent: 50 }),
            }),
            ..CircuitSettings::default()
        })
    }

    #[test]
    fn few_failures_of_few_requests_are_no_rate_and_many_are() {
        // In turn failed and succeeded is a rate of one half, of which nothing is ever certain.
        let mut half = by_rate(1_000_000);
        for now in 0..500 {
            fail(&mut half, now);
            let permit = half.permit(at(now)).expect("half is not more than half");
            half.succeeded(permit, at(now));
        }
        let mut most = by_rate(1_000_000);
        let mut calls = 0;
        while let Ok(permit) = most.permit(at(0)) {
            calls += 1;
            if calls % 3 == 0 {
                most.succeeded(permit, at(0));
            } else {
                most.failed(permit, at(0));
            }
        }
        assert!((10..40).contains(&calls), "{calls}");
        let (cause, ..) = most.opened().expect("open");
        assert!(matches!(cause, Cause::Failed { of, .. } if of == calls), "{cause}");
    }

    #[test]
    fn failures_count_for_as_long_as_the_window_is() {
        let mut breaker = by_rate(1000);
        for now in [0, 1, 2] {
            fail(&mut breaker, now * 400);
        }
        assert_eq!(breaker.counts_in_window(at(800)), (3, 3, 0));
        assert_eq!(breaker.counts_in_window(at(999)), (3, 3, 0));
        assert_eq!(breaker.counts_in_window(at(1000)), (2, 2, 0));
        assert_eq!(breaker.counts_in_window(at(1_000_000)), (0, 0, 0));
        assert_eq!(breaker.counts_in_window(at(-1_000_000)), (0, 0, 0));
    }

    #[test]
    fn slow_requests_open_it_although_they_succeed() {
        let mut breaker = by_rate(60_000);
        let mut now = 0;
        while let Ok(permit) = breaker.permit(at(now)) {
            now += 101;
            breaker.succeeded(permit, at(now));
            assert!(now < 10_000);
        }
        let (cause, since, until) = breaker.opened().expect("open");
        assert_eq!(cause.to_string(), "3 of 3 requests were slow");
        assert_eq!((since, until), (at(now), at(now + 2000)));
    }

    #[test]
    fn an_order_of_an_operator_holds_until_it_ends() {
        let mut breaker = breaker(1, 1000, 1);
        let before = breaker.permit(at(0)).expect("closed");
        breaker.force(Order::Open, "the bank asked for it", at(0), Some(at(500)));
        assert_eq!(breaker.state(at(499)), Circuit::ForcedOpen);
        let wait = Some(Duration::from_millis(400));
        let refused = Refused { wait, state: Circuit::ForcedOpen };
        assert_eq!(breaker.permit(at(100)), Err(refused));
        breaker.failed(before, at(100));
        assert_eq!(breaker.state(at(500)), Circuit::HalfOpen);
        let probe = breaker.permit(at(500)).expect("a probe after the order");
        assert!(breaker.permit(at(500)).is_err());
        breaker.succeeded(probe, at(500));
        assert_eq!(breaker.state(at(500)), Circuit::Closed);

        breaker.force(Order::Disable, "drill", at(600), None);
        for now in 600..700 {
            fail(&mut breaker, now);
        }
        assert_eq!(breaker.state(at(1_000_000)), Circuit::Disabled);
        assert_eq!(breaker.order(at(700)).map(|o| o.reason.as_str()), Some("drill"));
        breaker.lift(at(700));
        assert_eq!(breaker.state(at(700)), Circuit::Closed);
        fail(&mut breaker, 700);
        assert_eq!(breaker.state(at(700)), Circuit::Open);
        breaker.reset();
        assert_eq!(breaker.state(at(700)), Circuit::Closed);
    }

    #[test]
    fn the_lower_end_of_the_interval_is_wilsons() {
        for (bad, all, expected) in
            [(0, 0, 0.0), (0, 9, 0.0), (2, 3, 0.2535), (5, 5, 0.6489), (60, 100, 0.5178)]
        {
            let lower = wilson_lower(bad, all);
            assert!((lower - expected).abs() < 0.0001, "{bad} of {all}: {lower}");
        }
    }

    /// The same rules, written with the whole history of results and none of the machine's shortcuts.
    struct Model {
        settings: CircuitSettings,
        phase: Phase,
        // Counts the phases: a result from another phase says nothing.
        period: u64,
        openings: u32,
    }

    #[derive(Clone, Debug)]
    enum Phase {
        // Every result: slot of the window, failed, slow.
        Closed(Vec<(i64, bool, bool)>),
        Open(i64),
        // Probes out since, probes that succeeded, when the last one was let out.
        Probing(Vec<i64>, u32, i64),
        Forced(Order, Option<i64>),
    }

    impl Model {
        fn go(&mut self, phase: Phase) {
            if matches!(phase, Phase::Open(_)) {
                self.openings += 1;
            } else if matches!(phase, Phase::Closed(_) | Phase::Forced(..)) {
                self.openings = 0;
            }
            self.phase = phase;
            self.period += 1;
        }

        fn open_ms(&self) -> i64 {
            (1000 * 2i64.pow(self.openings.saturating_sub(1).min(10))).min(4000)
        }

        fn end_order(&mut self, now: i64) {
            if let Phase::Forced(order, Some(until)) = self.phase
                && now >= until
            {
                self.lift(order, now);
            }
        }

        fn lift(&mut self, order: Order, now: i64) {
            self.go(match order {
                Order::Open => Phase::Probing(Vec::new(), 0, now),
                Order::Disable => Phase::Closed(Vec::new()),
            });
        }

        fn ask(&mut self, now: i64) -> bool {
            self.end_order(now);
            if let Phase::Open(since) = self.phase
                && now - since >= self.open_ms()
            {
                self.go(Phase::Probing(Vec::new(), 0, now));
            }
            let probes = self.settings.probes as usize;
            if let Phase::Probing(out, ok, last) = &self.phase
                && out.len() + *ok as usize >= probes
                && now - last >= 5000
            {
                self.go(Phase::Probing(Vec::new(), *ok, now));
            }
            match &mut self.phase {
                Phase::Closed(_) | Phase::Forced(Order::Disable, _) => true,
                Phase::Open(_) | Phase::Forced(Order::Open, _) => false,
                Phase::Probing(out, ok, last) => {
                    let free = out.len() + (*ok as usize) < probes;
                    if free {
                        out.push(now);
                        *last = now;
                    }
                    free
                }
            }
        }

        fn result(&mut self, given: i64, period: u64, failed: Option<bool>, now: i64) {
            // The machine notices the end of an order when a result comes, not when work is dropped.
            if failed.is_some() {
                self.end_order(now);
            }
            if period != self.period {
                return;
            }
            let slow = now - given > 300;
            match (&mut self.phase, failed) {
                (Phase::Probing(out, ..), None) => {
                    let place = out.iter().position(|since| *since == given);
                    out.remove(place.expect("it is out"));
                }
                (Phase::Probing(out, ok, _), Some(false)) if !slow => {
                    let place = out.iter().position(|since| *since == given);
                    out.remove(place.expect("it is out"));
                    *ok += 1;
                    if *ok == self.settings.probes {
                        self.go(Phase::Closed(Vec::new()));
                    }
                }
                (Phase::Probing(..), Some(_)) => self.go(Phase::Open(now)),
                (Phase::Closed(results), Some(failed)) => {
                    let slot = now.div_euclid(200);
                    results.push((slot, failed, slow));
                    let row = results.iter().rev().take_while(|(_, failed, _)| *failed).count();
                    let recent = || results.iter().filter(|(at, ..)| *at > slot - 10);
                    let all = recent().count() as u32;
                    let bad = recent().filter(|(_, failed, _)| *failed).count() as u32;
                    let slack = recent().filter(|(_, _, slow)| *slow).count() as u32;
                    if row >= self.settings.threshold as usize
                        || (failed && wilson_lower(bad, all) >= 0.4)
                        || (slow && wilson_lower(slack, all) >= 0.6)
                    {
                        self.go(Phase::Open(now));
                    }
                }
                (Phase::Closed(_), None) | (Phase::Open(_) | Phase::Forced(..), _) => {}
            }
        }

        fn shown(&self, now: i64) -> Circuit {
            match self.phase {
                Phase::Forced(order, until) if until.is_none_or(|until| now < until) => match order
                {
                    Order::Open => Circuit::ForcedOpen,
                    Order::Disable => Circuit::Disabled,
                },
                Phase::Forced(Order::Disable, _) | Phase::Closed(_) => Circuit::Closed,
                Phase::Open(since) if now - since < self.open_ms() => Circuit::Open,
                Phase::Forced(Order::Open, _) | Phase::Open(_) | Phase::Probing(..) => {
                    Circuit::HalfOpen
                }
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Result(Option<bool>),
        Wait(i64),
        Force(bool, Option<i64>),
        Lift,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => Just(Step::Ask),
            5 => Just(Step::Result(Some(false))),
            8 => Just(Step::Result(Some(true))),
            2 => Just(Step::Result(None)),
            5 => (0i64..1500).prop_map(Step::Wait),
            1 => (4000i64..6000).prop_map(Step::Wait),
            1 => (any::<bool>(), proptest::option::of(0i64..2000))
                .prop_map(|(open, after)| Step::Force(open, after)),
            1 => Just(Step::Lift),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_model(
            threshold in 1u32..8,
            probes in 1u32..4,
            steps in proptest::collection::vec(step(), 1..300),
        ) {
            let settings = CircuitSettings {
                threshold,
                recovery: Duration::from_millis(1000),
                longest_recovery: Duration::from_millis(4000),
                probes,
                probe_lapse: Duration::from_millis(5000),
                rate: Some(RateRule {
                    window: Duration::from_millis(2000),
                    failed_percent: 40,
                    slow: Some(SlowRule { longer_than: Duration::from_millis(300), percent: 60 }),
                }),
            };
            let mut real = CircuitBreaker::new(settings);
            let phase = Phase::Closed(Vec::new());
            let mut model = Model { settings, phase, period: 0, openings: 0 };
            let mut now = 0;
            let mut out: VecDeque<(Permit, i64, u64)> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Ask => {
                        let permit = real.permit(at(now));
                        prop_assert_eq!(permit.is_ok(), model.ask(now));
                        match permit {
                            Ok(permit) => out.push_back((permit, now, model.period)),
                            // Who waits as long as is said does not wait in vain, if nobody is
                            // quicker and no operator forbids it.
                            Err(Refused { wait: Some(wait), .. }) => {
                                let then = at(now).after(wait);
                                prop_assert!(real.clone().permit(then).is_ok());
                                let before = Timestamp::from_unix_ms(then.unix_ms() - 1);
                                prop_assert!(real.clone().permit(before).is_err());
                            }
                            Err(Refused { wait: None, state }) => {
                                prop_assert_eq!(state, Circuit::ForcedOpen);
                            }
                        }
                    }
                    Step::Result(failed) => {
                        let Some((permit, given, period)) = out.pop_front() else { continue };
                        match failed {
                            Some(true) => real.failed(permit, at(now)),
                            Some(false) => real.succeeded(permit, at(now)),
                            None => real.abandoned(permit),
                        }
                        model.result(given, period, failed, now);
                    }
                    Step::Force(open, after) => {
                        let order = if open { Order::Open } else { Order::Disable };
                        let until = after.map(|ms| now + ms);
                        real.force(order, "", at(now), until.map(at));
                        model.go(Phase::Forced(order, until));
                    }
                    Step::Lift => {
                        real.lift(at(now));
                        if let Phase::Forced(order, _) = model.phase {
                            model.lift(order, now);
                        }
                    }
                    Step::Restart => {
                        let text = serde_json::to_string(real.memory()).expect("written");
                        let memory = serde_json::from_str(&text).expect("read");
                        let resumed = CircuitBreaker::resume(settings, memory);
                        prop_assert_eq!(&resumed, &real);
                        real = resumed;
                    }
                }
                prop_assert_eq!(real.state(at(now)), model.shown(now));
            }
        }
    }
}
