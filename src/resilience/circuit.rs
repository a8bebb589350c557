//! The circuit breaker: after a row of failures nothing is let out for a while, then a few probes
//! decide whether the other side is back.
//!
//! ```text
//!          threshold failures in a row              recovery time over
//! closed ------------------------------> open ---------------------------> half-open
//!    ^                                     ^                                |      |
//!    |                                     +--------- a probe fails --------+      |
//!    +----------------------------- all probes succeed ----------------------------+
//! ```
//!
//! Every request that is let out carries a [`Permit`] and gives it back with its result. A permit
//! from before the last change of state decides nothing any more: a request that was slow to fail
//! does not open a circuit that has recovered since.

use std::time::Duration;

use crate::base::time::Timestamp;

/// When a circuit opens and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSettings {
    /// Failures in a row that open the circuit; 0 is taken as 1.
    pub threshold: u32,
    /// How long nothing is let out once it is open.
    pub recovery: Duration,
    /// How many requests try the other side when it is half-open, and have to succeed; 0 is taken
    /// as 1.
    pub probes: u32,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        CircuitSettings { threshold: 5, recovery: Duration::from_secs(2), probes: 1 }
    }
}

/// The state as it is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Everything is let out.
    Closed,
    /// Nothing is let out.
    Open,
    /// Probes are let out.
    HalfOpen,
}

/// Leave to send one request. Give it back to [`CircuitBreaker::succeeded`], `failed` or `abandoned`.
#[must_use = "the breaker waits for the result"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Timestamp },
    HalfOpen { out: u32, succeeded: u32 },
}

/// A circuit breaker for one other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    settings: CircuitSettings,
    state: State,
    // Counts the changes of state, so that a permit tells which state it was given in.
    epoch: u64,
}

impl CircuitBreaker {
    /// A closed circuit.
    pub fn new(settings: CircuitSettings) -> Self {
        let settings = CircuitSettings {
            threshold: settings.threshold.max(1),
            probes: settings.probes.max(1),
            ..settings
        };
        CircuitBreaker { settings, state: State::Closed { failures: 0 }, epoch: 0 }
    }

    /// Leave to send a request at `now`, or how long to wait before asking again. While all probes
    /// of a half-open circuit are out there is no time to tell, and the wait is zero.
    pub fn permit(&mut self, now: Timestamp) -> Result<Permit, Duration> {
        if let State::Open { since } = &mut self.state {
            // A clock that was set back must not keep the circuit open for longer than `recovery`.
            *since = (*since).min(now);
            let waited = now.since(*since);
            if waited < self.settings.recovery {
                return Err(self.settings.recovery - waited);
            }
            self.enter(State::HalfOpen { out: 0, succeeded: 0 });
        }
        if let State::HalfOpen { out, succeeded } = &mut self.state {
            if *out + *succeeded >= self.settings.probes {
                return Err(Duration::ZERO);
            }
            *out += 1;
        }
        Ok(Permit { epoch: self.epoch })
    }

    /// The request of `permit` did what it should.
    pub fn succeeded(&mut self, permit: Permit) {
        if permit.epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Closed { failures } => *failures = 0,
            State::Open { .. } => {}
            State::HalfOpen { out, succeeded } => {
                *out = out.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= self.settings.probes {
                    self.enter(State::Closed { failures: 0 });
                }
            }
        }
    }

    /// The request of `permit` failed at `now` in a way that speaks against the other side.
    pub fn failed(&mut self, permit: Permit, now: Timestamp) {
        if permit.epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= self.settings.threshold {
                    self.enter(State::Open { since: now });
                }
            }
            State::Open { .. } => {}
            State::HalfOpen { .. } => self.enter(State::Open { since: now }),
        }
    }

    /// The request of `permit` ended without telling anything: it was cancelled, or it failed for a
    /// reason of its own.
    pub fn abandoned(&mut self, permit: Permit) {
        if permit.epoch == self.epoch
            && let State::HalfOpen { out, .. } = &mut self.state
        {
            *out = out.saturating_sub(1);
        }
    }

    /// The state at `now`.
    pub fn state(&self, now: Timestamp) -> Circuit {
        match self.state {
            State::Closed { .. } => Circuit::Closed,
            State::Open { since } if now.since(since) < self.settings.recovery => Circuit::Open,
            State::Open { .. } | State::HalfOpen { .. } => Circuit::HalfOpen,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
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
        CircuitBreaker::new(CircuitSettings { threshold, recovery, probes })
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
        breaker.succeeded(permit);
        for now in 1..=3 {
            fail(&mut breaker, now);
        }
        assert_eq!(breaker.permit(at(3)), Err(Duration::from_millis(1000)));
        assert_eq!(breaker.permit(at(1002)), Err(Duration::from_millis(1)));
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
        assert_eq!(breaker.permit(at(1000)), Err(Duration::ZERO));
        breaker.abandoned(second);
        let second = breaker.permit(at(1000)).expect("the place of the abandoned one");
        breaker.succeeded(first);
        assert_eq!(breaker.state(at(1000)), Circuit::HalfOpen);
        breaker.succeeded(second);
        assert_eq!(breaker.state(at(1000)), Circuit::Closed);
    }

    #[test]
    fn a_failed_probe_opens_it_again_for_the_whole_time() {
        let mut breaker = breaker(1, 1000, 2);
        fail(&mut breaker, 0);
        fail(&mut breaker, 1500);
        assert_eq!(breaker.permit(at(2499)), Err(Duration::from_millis(1)));
        assert!(breaker.permit(at(2500)).is_ok());
    }

    #[test]
    fn a_result_from_before_the_last_change_decides_nothing() {
        let mut breaker = breaker(1, 1000, 1);
        let slow = breaker.permit(at(0)).expect("closed");
        fail(&mut breaker, 0);
        let probe = breaker.permit(at(1000)).expect("probe");
        breaker.failed(slow, at(1000));
        breaker.succeeded(probe);
        breaker.failed(slow, at(1000));
        assert_eq!(breaker.state(at(1000)), Circuit::Closed);
    }

    #[test]
    fn a_clock_set_back_does_not_keep_it_open() {
        let mut breaker = breaker(1, 1000, 1);
        fail(&mut breaker, 1_000_000);
        assert_eq!(breaker.permit(at(0)), Err(Duration::from_millis(1000)));
        assert!(breaker.permit(at(1000)).is_ok());
    }

    /// The same rules written from the history of everything that happened, without any state.
    #[derive(Default)]
    struct Model {
        closed_failures: u32,
        opened_at: Option<i64>,
        probes_out: u32,
        probes_ok: u32,
        probing: bool,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Succeed,
        Fail,
        Abandon,
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Ask),
            2 => Just(Step::Succeed),
            3 => Just(Step::Fail),
            1 => Just(Step::Abandon),
            2 => (0i64..1500).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_model(
            threshold in 1u32..4,
            probes in 1u32..4,
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            const RECOVERY: i64 = 1000;
            let mut real = breaker(threshold, 1000, probes);
            let mut model = Model::default();
            let mut now = 0;
            // What is out: the permit, and which period of the model it was given in.
            let mut out: VecDeque<(Permit, u64)> = VecDeque::new();
            let mut period = 0u64;
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Ask => {
                        if model.opened_at.is_some_and(|opened| now - opened >= RECOVERY) {
                            model = Model { probing: true, ..Model::default() };
                            period += 1;
                        }
                        let allowed = if model.opened_at.is_some() {
                            false
                        } else {
                            !model.probing || model.probes_out + model.probes_ok < probes
                        };
                        let permit = real.permit(at(now));
                        prop_assert_eq!(permit.is_ok(), allowed);
                        if let Ok(permit) = permit {
                            model.probes_out += u32::from(model.probing);
                            out.push_back((permit, period));
                        }
                    }
                    Step::Succeed => {
                        let Some((permit, given)) = out.pop_front() else { continue };
                        real.succeeded(permit);
                        if given != period || model.opened_at.is_some() {
                            continue;
                        }
                        model.closed_failures = 0;
                        if model.probing {
                            model.probes_out -= 1;
                            model.probes_ok += 1;
                            if model.probes_ok == probes {
                                model = Model::default();
                                period += 1;
                            }
                        }
                    }
                    Step::Fail => {
                        let Some((permit, given)) = out.pop_front() else { continue };
                        real.failed(permit, at(now));
                        if given != period || model.opened_at.is_some() {
                            continue;
                        }
                        model.closed_failures += 1;
                        if model.probing || model.closed_failures == threshold {
                            model = Model { opened_at: Some(now), ..Model::default() };
                            period += 1;
                        }
                    }
                    Step::Abandon => {
                        let Some((permit, given)) = out.pop_front() else { continue };
                        real.abandoned(permit);
                        if given == period && model.probing {
                            model.probes_out -= 1;
                        }
                    }
                }
                let shown = match (model.opened_at, model.probing) {
                    (Some(opened), _) if now - opened < RECOVERY => Circuit::Open,
                    (Some(_), _) | (None, true) => Circuit::HalfOpen,
                    (None, false) => Circuit::Closed,
                };
                prop_assert_eq!(real.state(at(now)), shown);
            }
        }
    }
}
