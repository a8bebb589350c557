//! Machines that the tasks of one process share: a lock around each.
//!
//! `tests/loom` includes this file and tries every interleaving of its users.

use super::circuit::{Circuit, CircuitBreaker, CircuitSettings, Permit, Refused};
use super::limiter::{Limit, Limiter, Priority, Reserve, Shortage};
use super::sync::{Mutex, MutexGuard, PoisonError};
use crate::base::time::Timestamp;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A machine is whole between its steps, and no step of it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A [`CircuitBreaker`] that many tasks ask.
#[derive(Debug)]
pub struct SharedBreaker(Mutex<CircuitBreaker>);

impl SharedBreaker {
    /// A closed circuit.
    pub fn new(settings: CircuitSettings) -> Self {
        SharedBreaker(Mutex::new(CircuitBreaker::new(settings)))
    }

    /// See [`CircuitBreaker::permit`].
    ///
    /// # Errors
    /// When nothing is let out now.
    pub fn permit(&self, now: Timestamp) -> Result<Permit, Refused> {
        lock(&self.0).permit(now)
    }

    /// See [`CircuitBreaker::succeeded`].
    pub fn succeeded(&self, permit: Permit, now: Timestamp) {
        lock(&self.0).succeeded(permit, now);
    }

    /// See [`CircuitBreaker::failed`].
    pub fn failed(&self, permit: Permit, now: Timestamp) {
        lock(&self.0).failed(permit, now);
    }

    /// See [`CircuitBreaker::abandoned`].
    pub fn abandoned(&self, permit: Permit) {
        lock(&self.0).abandoned(permit);
    }

    /// Notes the failure of something that was sent without asking; where nothing is let out, it says
    /// nothing new.
    pub fn failed_unasked(&self, now: Timestamp) {
        let mut breaker = lock(&self.0);
        if let Ok(permit) = breaker.permit(now) {
            breaker.failed(permit, now);
        }
    }

    /// See [`CircuitBreaker::state`].
    pub fn state(&self, now: Timestamp) -> Circuit {
        lock(&self.0).state(now)
    }
}

/// A [`Limiter`] that many tasks take from.
#[derive(Debug)]
pub struct SharedLimiter(Mutex<Limiter>);

impl SharedLimiter {
    /// A full bucket.
    pub fn new(limit: Limit, reserve: Reserve, now: Timestamp) -> Self {
        SharedLimiter(Mutex::new(Limiter::new(limit, reserve, now)))
    }

    /// See [`Limiter::take`].
    ///
    /// # Errors
    /// When so many do not pass now.
    pub fn take(&self, count: u32, priority: Priority, now: Timestamp) -> Result<(), Shortage> {
        lock(&self.0).take(count, priority, now)
    }

    /// See [`Limiter::give_back`].
    pub fn give_back(&self, count: u32, now: Timestamp) {
        lock(&self.0).give_back(count, now);
    }

    /// See [`Limiter::set_limit`].
    pub fn set_limit(&self, limit: Limit, now: Timestamp) {
        lock(&self.0).set_limit(limit, now);
    }

    /// See [`Limiter::tokens`].
    pub fn tokens(&self, now: Timestamp) -> u64 {
        lock(&self.0).tokens(now)
    }
}
