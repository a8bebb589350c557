//! What has to hold in every interleaving.

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use nexusctl_loom::base::time::Timestamp;
use nexusctl_loom::resilience::circuit::{Circuit, CircuitSettings};
use nexusctl_loom::resilience::limiter::{Limit, Priority, Reserve};
use nexusctl_loom::resilience::shared::{SharedBreaker, SharedLimiter};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn settings(threshold: u32, probes: u32) -> CircuitSettings {
    let recovery = Duration::from_secs(1);
    CircuitSettings {
        threshold,
        recovery,
        longest_recovery: recovery,
        probes,
        ..CircuitSettings::default()
    }
}

/// A circuit that a failure has opened at 0, so that it is half-open at 1000.
fn opened(probes: u32) -> Arc<SharedBreaker> {
    let breaker = SharedBreaker::new(settings(1, probes));
    breaker.failed_unasked(at(0));
    assert_eq!(breaker.state(at(0)), Circuit::Open);
    Arc::new(breaker)
}

/// Runs `work` in `count` threads and adds up what they yield.
fn race(count: u32, work: impl Fn(u32) -> u32 + Send + Sync + 'static) -> u32 {
    let work = Arc::new(work);
    let others: Vec<_> = (1..count)
        .map(|number| {
            let work = Arc::clone(&work);
            thread::spawn(move || work(number))
        })
        .collect();
    let mine = work(0);
    mine + others.into_iter().map(|other| other.join().unwrap()).sum::<u32>()
}

#[test]
fn no_more_probes_are_out_than_the_settings_allow() {
    for probes in [1, 2] {
        loom::model(move || {
            let breaker = opened(probes);
            let out = AtomicU32::new(0);
            let let_out = race(3, move |_| match breaker.permit(at(1000)) {
                Ok(permit) => {
                    assert!(out.fetch_add(1, Ordering::SeqCst) < probes);
                    // Another may be let out only after the place was given back.
                    out.fetch_sub(1, Ordering::SeqCst);
                    breaker.abandoned(permit);
                    1
                }
                Err(refused) => {
                    assert_eq!(refused.state, Circuit::HalfOpen);
                    0
                }
            });
            assert!(let_out >= probes);
        });
    }
}

#[test]
fn whatever_the_order_one_failure_among_the_probes_opens_it_again() {
    loom::model(|| {
        let breaker = opened(2);
        let shared = Arc::clone(&breaker);
        // One counts for the first, ten for each of the others.
        let let_out = race(3, move |number| match shared.permit(at(1000)) {
            Ok(permit) if number == 0 => {
                shared.failed(permit, at(1000));
                1
            }
            Ok(permit) => {
                shared.succeeded(permit, at(1000));
                10
            }
            Err(_) => 0,
        });
        match breaker.state(at(1000)) {
            Circuit::Open => assert!(let_out % 10 == 1),
            Circuit::Closed => assert_eq!(let_out, 20, "the two that succeed took both places"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn failures_of_all_count_and_what_comes_late_does_not() {
    loom::model(|| {
        let breaker = Arc::new(SharedBreaker::new(settings(3, 1)));
        let shared = Arc::clone(&breaker);
        race(3, move |_| {
            let permit = shared.permit(at(0)).expect("two failures are not three");
            shared.failed(permit, at(0));
            1
        });
        assert_eq!(breaker.state(at(0)), Circuit::Open);
    });
}

#[test]
fn no_more_tokens_are_taken_than_there_are() {
    loom::model(|| {
        let limit = Limit::new(3, 1.0).unwrap();
        let bucket = Arc::new(SharedLimiter::new(limit, Reserve::NONE, at(0)));
        let shared = Arc::clone(&bucket);
        // One token comes back between the first and the last of these times.
        let taken = race(3, move |number| {
            let now = at(i64::from(number) * 500);
            let two = shared.take(2, Priority::Normal, now).map_or(0, |()| 2);
            two + shared.take(1, Priority::Critical, now).map_or(0, |()| 1)
        });
        assert!((3..=4).contains(&taken), "{taken}");
        assert!(u64::from(taken) + bucket.tokens(at(1000)) <= 4);
    });
}

#[test]
fn a_changed_limit_and_tokens_given_back_add_nothing() {
    loom::model(|| {
        let limit = |capacity| Limit::new(capacity, 0.0).unwrap();
        let bucket = Arc::new(SharedLimiter::new(limit(4), Reserve::NONE, at(0)));
        let shared = Arc::clone(&bucket);
        let taken = race(3, move |number| match number {
            0 => {
                shared.set_limit(limit(2), at(0));
                0
            }
            1 => {
                let first = shared.take(1, Priority::Normal, at(0)).is_ok();
                shared.give_back(u32::from(first), at(0));
                0
            }
            _ => (0..3).map(|_| u32::from(shared.take(1, Priority::Normal, at(0)).is_ok())).sum(),
        });
        assert!(u64::from(taken) + bucket.tokens(at(0)) <= 4);
        assert!(bucket.tokens(at(0)) <= 2);
    });
}
